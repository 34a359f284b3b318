//! The instruction sets: which the processor has, and the table of each.

pub mod scalar;

mod instantiate;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_vnni;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod format;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod gemm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod gemv;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::table::{Isa, Level};

/// The instruction sets of this architecture, the best last.
static LEVELS: &[Level] = &[
    Level { name: "scalar", detected: || true, table: &scalar::TABLE },
    #[cfg(target_arch = "x86_64")]
    Level { name: "avx2", detected: avx2::detected, table: &avx2::TABLE },
    #[cfg(target_arch = "x86_64")]
    Level { name: "avx2_vnni", detected: avx2_vnni::detected, table: &avx2_vnni::TABLE },
    #[cfg(target_arch = "x86_64")]
    Level { name: "avx512_vnni", detected: avx512_vnni::detected, table: &avx512_vnni::TABLE },
    #[cfg(target_arch = "aarch64")]
    Level { name: "neon", detected: neon::base::detected, table: &neon::base::TABLE },
    #[cfg(target_arch = "aarch64")]
    Level { name: "neon_dotprod", detected: neon::dotprod::detected, table: &neon::dotprod::TABLE },
    #[cfg(target_arch = "aarch64")]
    Level { name: "neon_i8mm", detected: neon::i8mm::detected, table: &neon::i8mm::TABLE },
];

impl Isa {
    /// All that this processor has, the best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        LEVELS.iter().filter_map(Isa::detect)
    }

    /// The best that this processor has.
    pub fn best() -> Isa {
        Isa::available().next_back().expect("the scalar set, which every processor has")
    }

    /// The one named by the environment variable `STRATA_ISA`, else the best.
    ///
    /// # Errors
    /// If the name is unknown or this processor lacks the instructions.
    pub fn from_environment() -> Result<Isa, IsaError> {
        match std::env::var("STRATA_ISA") {
            Ok(name) => Isa::named(&name),
            Err(_) => Ok(Isa::best()),
        }
    }

    /// The one with this name.
    ///
    /// # Errors
    /// If the name is unknown or this processor lacks the instructions.
    pub fn named(name: &str) -> Result<Isa, IsaError> {
        match LEVELS.iter().find(|level| level.name == name) {
            Some(level) => Isa::detect(level).ok_or(IsaError::Missing(level.name)),
            None => Err(IsaError::Unknown(name.to_owned())),
        }
    }
}

/// Why [`Isa::named`] has none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown(String),
    /// The processor lacks the instruction set of this name.
    Missing(&'static str),
}

impl std::error::Error for IsaError {}

impl std::fmt::Display for IsaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IsaError::Unknown(name) => write!(f, "there is no instruction set {name:?}")?,
            IsaError::Missing(name) => write!(f, "this processor does not have the instruction set {name}")?,
        }
        let available: Vec<_> = Isa::available().map(Isa::name).collect();
        write!(f, "; choose one of {}", available.join(", "))
    }
}
