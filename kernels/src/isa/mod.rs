//! The instruction sets: which the processor has, and the table of each.

pub mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_vnni;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod walk;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::table::Table;
use strata_quant::GgmlType;

/// An instruction set that this processor has: there is no other way to get one than detection.
#[derive(Clone, Copy)]
pub struct Isa(&'static Row);

/// A row of the table of instruction sets.
struct Row {
    name: &'static str,
    detected: fn() -> bool,
    table: &'static Table,
}

/// The instruction sets of this architecture, the best last.
static ROWS: &[Row] = &[
    Row { name: "scalar", detected: || true, table: &scalar::TABLE },
    #[cfg(target_arch = "x86_64")]
    Row { name: "avx2", detected: avx2::detected, table: &avx2::TABLE },
    #[cfg(target_arch = "x86_64")]
    Row { name: "avx2_vnni", detected: avx2_vnni::detected, table: &avx2_vnni::TABLE },
    #[cfg(target_arch = "x86_64")]
    Row { name: "avx512_vnni", detected: avx512_vnni::detected, table: &avx512_vnni::TABLE },
    #[cfg(target_arch = "aarch64")]
    Row { name: "neon", detected: neon::base::detected, table: &neon::base::TABLE },
    #[cfg(target_arch = "aarch64")]
    Row { name: "neon_dotprod", detected: neon::dotprod::detected, table: &neon::dotprod::TABLE },
    #[cfg(target_arch = "aarch64")]
    Row { name: "neon_i8mm", detected: neon::i8mm::detected, table: &neon::i8mm::TABLE },
];

impl Isa {
    /// All that this processor has, the best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        ROWS.iter().filter(|row| (row.detected)()).map(Isa)
    }

    /// The best that this processor has.
    pub fn best() -> Isa {
        Isa::available().next_back().unwrap_or(Isa(&ROWS[0]))
    }

    /// The one named by the environment variable `STRATA_ISA`, else the best.
    ///
    /// # Errors
    /// If the name is unknown or this processor lacks the instructions.
    pub fn from_environment() -> Result<Isa, IsaUnavailable> {
        match std::env::var("STRATA_ISA") {
            Ok(name) => Isa::named(&name),
            Err(_) => Ok(Isa::best()),
        }
    }

    /// The one with this name.
    ///
    /// # Errors
    /// If the name is unknown or this processor lacks the instructions.
    pub fn named(name: &str) -> Result<Isa, IsaUnavailable> {
        match ROWS.iter().find(|row| row.name == name) {
            Some(row) if (row.detected)() => Ok(Isa(row)),
            row => Err(IsaUnavailable { name: name.to_owned(), exists: row.is_some() }),
        }
    }

    /// The name, as `STRATA_ISA` takes it.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// [`strata_quant::encode`] with these instructions: the same bits, sooner.
    ///
    /// # Panics
    /// As there.
    pub fn encode(self, ty: GgmlType, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        // SAFETY: `Isa` proves the instruction set of its table.
        unsafe { (self.table().encode)(ty, values, importance, blocks) }
    }

    pub(crate) fn table(self) -> &'static Table {
        self.0.table
    }
}

/// The error of an instruction set that this processor does not have, or that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaUnavailable {
    name: String,
    exists: bool,
}

impl std::fmt::Display for IsaUnavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let problem = if self.exists { "this processor does not have the" } else { "there is no" };
        let here: Vec<_> = Isa::available().map(Isa::name).collect();
        write!(f, "{problem} instruction set {:?}; choose one of {}", self.name, here.join(", "))
    }
}

impl std::error::Error for IsaUnavailable {}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
