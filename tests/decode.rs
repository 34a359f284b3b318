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
    assert_eq!(formats, file.names().iter().filter(|name| name.ends_with(".blocks")).count());
}

/// Infinity in place of any two bytes of a block makes values that are not finite where the format says that its scales are, and only there.
#[test]
fn scales_are_where_the_formats_say() {
    for format in GgmlType::with_format().filter(|format| format.ty.block_len() > 1) {
        let (len, bytes) = (format.ty.block_len(), format.ty.block_bytes());
        let values: Vec<f32> = (0..3 * len).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03).collect();
        let mut blocks = vec![0; 3 * bytes];
        (format.encode)(&values, None, &mut blocks);
        assert_eq!(format.bad_block(&blocks), None, "{}", format.ty);
        for at in (0..bytes - 1).filter(|at| format.scales.iter().all(|scale| at.abs_diff(*scale) != 1)) {
            for half in [0x7c00u16, 0xfc00, 0x7e00, 0xffff] {
                let (mut damaged, mut back) = (blocks.clone(), values.clone());
                damaged[bytes + at..bytes + at + 2].copy_from_slice(&half.to_le_bytes());
                (format.decode)(&damaged, &mut back);
                let (bad, is_scale) = (back.iter().position(|v| !v.is_finite()), format.scales.contains(&at));
                assert_eq!(bad.map(|i| i / len), is_scale.then_some(1), "{}: {half:x} at byte {at}", format.ty);
                assert_eq!(format.bad_block(&damaged), is_scale.then_some(1), "{}: {half:x} at byte {at}", format.ty);
            }
        }
    }
}

/// Whatever the values and the importance, a block has a bad scale or only finite values: what no encoder can do is noticed.
#[test]
fn no_encoder_writes_what_is_not_finite_unnoticed() {
    let numbers = [0.0f32, 1e-45, 1e-38, 1e-20, 1.0, 1e10, 1e20, 1e30, 1e38, 3e38];
    let mut noticed = 0;
    for format in GgmlType::with_format().filter(|format| format.ty.block_len() > 1) {
        let (len, bytes) = (format.ty.block_len(), format.ty.block_bytes());
        for large in numbers {
            for weight in numbers {
                for mixed in [false, true] {
                    // Every third value, and every second column, is another than the others.
                    let value = |i: usize| {
                        ((i * 37 % 101) as f32 - 50.0) / 50.0 * if mixed && !i.is_multiple_of(3) { 1.0 } else { large }
                    };
                    let importance = |i: usize| if mixed && !i.is_multiple_of(2) { 1.0 } else { weight };
                    let (values, weights): (Vec<f32>, Vec<f32>) =
                        (0..3 * len).map(|i| (value(i), importance(i))).unzip();
                    for weights in [None, Some(&weights[..])] {
                        let (mut blocks, mut back) = (vec![0; 3 * bytes], values.clone());
                        (format.encode)(&values, weights, &mut blocks);
                        (format.decode)(&blocks, &mut back);
                        let bad = back.iter().position(|v| !v.is_finite()).map(|i| i / len);
                        let what =
                            format!("{}: values of {large:e}, importance {:?}", format.ty, weights.map(|w| w[0]));
                        assert_eq!(format.bad_block(&blocks), bad, "{what}");
                        assert!(bad.is_none() || large > 1e3 || weights.is_some_and(|w| w[0] > 1e3), "{what}");
                        noticed += usize::from(bad.is_some());
                    }
                }
            }
        }
    }
    assert!(noticed > 1000, "only {noticed} rows of these could not be encoded");
}
