//! What must hold of a GGUF file that was accepted.

use strata::gguf::Gguf;

/// Reads all metadata, in every type that a caller may ask for, and all tensors.
pub fn walk(gguf: &Gguf) {
    for (key, value) in gguf.metadata().iter() {
        assert!(gguf.metadata().get(key).is_some());
        let _ = value.to_owned();
        let _ = (gguf.u32(key), gguf.f32(key), gguf.bool(key), gguf.str(key));
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len());
            let _ = (array.to_f32s(), array.to_i32s(), array.strings().map(Iterator::count));
        }
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        assert_eq!(gguf.data(tensor).len() as u64, tensor.bytes);
        assert_eq!(tensor.bytes, tensor.rows() * tensor.ty.row_bytes(tensor.cols() as usize).unwrap() as u64);
    }
}
