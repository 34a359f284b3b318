//! What two GGUF models differ in: metadata by value, tensors by type, dimensions and the SHA-256 of their bytes. How a model is split over
//! files, and the order of keys and tensors, is no difference.

use crate::error::Result;
use crate::gguf::keys::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
use crate::gguf::{Gguf, TensorInfo};
use crate::io::file::Mapped;
use crate::io::hash::{Digest, Hasher};
use crate::progress::Progress;

/// The differences of two models, `a` and `b`.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// Keys of `a` alone.
    pub keys_of_a: Vec<String>,
    /// Keys of `b` alone.
    pub keys_of_b: Vec<String>,
    /// Keys of both with values that differ.
    pub keys: Vec<String>,
    /// Names of tensors of `a` alone.
    pub tensors_of_a: Vec<String>,
    /// Names of tensors of `b` alone.
    pub tensors_of_b: Vec<String>,
    /// Tensors of both that differ.
    pub tensors: Vec<TensorDifference>,
    /// The number of tensors that are the same in both.
    pub same_tensors: usize,
}

/// A tensor that differs.
#[derive(Clone, Debug)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// The SHA-256 in either model, where types and dimensions agree and bytes were read.
    pub digests: Option<[Digest; 2]>,
}

impl Difference {
    /// True if there is none.
    pub fn is_none(&self) -> bool {
        let Difference { keys_of_a, keys_of_b, keys, tensors_of_a, tensors_of_b, tensors, .. } = self;
        [keys_of_a, keys_of_b, keys, tensors_of_a, tensors_of_b].iter().all(|names| names.is_empty())
            && tensors.is_empty()
    }
}

/// Compares two models; without `data` only what their headers say. `progress` counts bytes of both.
///
/// # Errors
/// If a file cannot be read or has changed meanwhile, or the user stopped.
pub fn diff(a: &Gguf, b: &Gguf, data: bool, progress: &dyn Progress) -> Result<Difference> {
    let mut found = Difference::default();
    for (key, value) in a.metadata().iter().filter(|(key, _)| !of_the_split(key)) {
        match b.metadata().get(key) {
            None => found.keys_of_a.push(key.to_owned()),
            Some(other) if other != value && other.to_owned().bytes() != value.to_owned().bytes() => {
                found.keys.push(key.to_owned());
            }
            Some(_) => {}
        }
    }
    let new = b.metadata().iter().filter(|(key, _)| !of_the_split(key) && a.metadata().get(key).is_none());
    found.keys_of_b = new.map(|(key, _)| key.to_owned()).collect();
    let new = b.tensors().iter().filter(|tensor| a.tensor(&tensor.name).is_none());
    found.tensors_of_b = new.map(|tensor| tensor.name.clone()).collect();

    let both: Vec<_> = a.tensors().iter().map(|tensor| (tensor, b.tensor(&tensor.name))).collect();
    let alike = |(x, y): (&TensorInfo, &TensorInfo)| x.ty == y.ty && x.dims == y.dims;
    let bytes = both.iter().filter_map(|&(x, y)| Some((x, y?))).filter(|&pair| data && alike(pair));
    progress.begin("comparing", bytes.map(|(x, y)| x.bytes + y.bytes).sum());
    for (x, y) in both {
        let name = x.name.clone();
        let Some(y) = y else {
            found.tensors_of_a.push(name);
            continue;
        };
        progress.step(&name);
        let digests = match alike((x, y)) {
            false => None,
            true if !data => {
                found.same_tensors += 1;
                continue;
            }
            true => {
                let (x, y) = rayon::join(|| digest(a, x, progress), || digest(b, y, progress));
                Some([a.unless_changed(x)?, b.unless_changed(y)?])
            }
        };
        match digests {
            Some([x, y]) if x == y => found.same_tensors += 1,
            digests => found.tensors.push(TensorDifference { name, digests }),
        }
    }
    progress.end();
    a.check()?;
    b.check()?;
    Ok(found)
}

/// True for the keys that say how a model is split.
fn of_the_split(key: &str) -> bool {
    [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key)
}

/// The SHA-256 of the bytes of a tensor.
fn digest(gguf: &Gguf, tensor: &TensorInfo, progress: &dyn Progress) -> Result<Digest> {
    let files: Vec<&Mapped> = gguf.files().collect();
    let Some(file) = files.get(tensor.part) else { return Ok(Digest::of(gguf.data(tensor))) };
    let mut hasher = Hasher::default();
    file.hash(tensor.offset..tensor.offset + tensor.bytes, &mut hasher, progress)?;
    Ok(hasher.digest())
}
