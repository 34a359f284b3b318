//! What tells models apart: keys and values of one are wrong for another.

use crate::gguf::{Gguf, TensorInfo};
use crate::io::hash::{Digest, Hasher};
use crate::model::{CacheTypes, Model};
use strata_quant::ActivationBits;

/// Changes with the form of the files, and with every change of a kernel that changes bits.
const FORM: &str = "prefix cache 1";

/// Bytes at the beginning, in the middle and at the end of a tensor that are hashed.
const SAMPLE: usize = 4096;

/// The hash of a model, of the `types` of its keys and values, and of the precision of the activations that they are computed with. It covers the header of the file; its weights too, if the header has
/// their hashes, as Strata writes them. Else parts of each tensor are hashed, and with them the lengths and times of the files.
pub(super) fn of(model: &Model, types: CacheTypes) -> Digest {
    let (gguf, mut hasher) = (model.gguf(), Hasher::default());
    hasher.update(format!("{FORM} {} {}\n", types.k.name(), types.v.name()).as_bytes());
    // What 8 bits have computed has always been without a line of its own.
    match model.cpu().activations() {
        ActivationBits::Eight => (),
        bits => hasher.update(format!("activations of {} bits\n", bits.bits()).as_bytes()),
    }
    for adapter in model.adapters() {
        hasher.update(format!("adapter {}\n", adapter.identity()).as_bytes());
    }
    hasher.update(gguf.digest().to_string().as_bytes());
    if !gguf.records_tensor_hashes() {
        gguf.tensors().iter().for_each(|tensor| sample(gguf, tensor, &mut hasher));
        for file in gguf.files() {
            hasher.update(format!("{} {}\n", file.stamp().bytes, file.stamp().modified).as_bytes());
        }
    }
    hasher.digest()
}

fn sample(gguf: &Gguf, tensor: &TensorInfo, hasher: &mut Hasher) {
    let data = gguf.data(tensor);
    let last = data.len().saturating_sub(SAMPLE);
    for start in [0, last / 2, last] {
        hasher.update(&data[start..(start + SAMPLE).min(data.len())]);
    }
}
