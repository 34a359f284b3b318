//! Every block format against an independent decoder: the Python package gguf (`tests/data/make_decode.py` makes the vectors), by equality of
//! bits, on random blocks and on every code.

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use strata::GgmlType;

#[test]
fn formats_decode_like_the_python_package() {
    let file = SafeTensors::deserialize(include_bytes!("data/decode.safetensors")).unwrap();
    let mut formats = 0;
    for format in GgmlType::with_format().filter(|format| format.ty.block_len() > 1) {
        let name = format.ty.name();
        let bytes =
            |part: &str| file.tensor(&format!("{name}.{part}")).unwrap_or_else(|e| panic!("{name}: {e}")).data();
        let decode = |blocks: &[u8]| -> Vec<u8> {
            let mut values = vec![0.0; blocks.len() / format.ty.block_bytes() * format.ty.block_len()];
            (format.decode)(blocks, &mut values);
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        };
        assert!(decode(bytes("blocks")) == bytes("values"), "{name}: random blocks");
        assert!(Sha256::digest(decode(bytes("codes")))[..] == *bytes("codes.sha256"), "{name}: every code");
        formats += 1;
    }
    assert_eq!(formats, 12);
}
