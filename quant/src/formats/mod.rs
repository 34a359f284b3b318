//! The table of ggml types, and one file for each block format that Strata has code for.
//!
//! Source of numbers and shapes: ggml.h and ggml-common.h of llama.cpp at 0c1e57098 (facts only).

pub mod bf16;
mod blocks;
mod blocks256;
mod blocks32;
pub mod f16;
pub mod f32;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

use crate::activations::ActivationRow;
use crate::float::{fma, sum16};
use crate::types::types;

types! {
    F32 = 0, 1 values in 4 bytes, f32;
    F16 = 1, 1 values in 2 bytes, f16;
    Q4_0 = 2, 32 values in 18 bytes, q4_0;
    Q4_1 = 3, 32 values in 20 bytes, q4_1;
    Q5_0 = 6, 32 values in 22 bytes, q5_0;
    Q5_1 = 7, 32 values in 24 bytes, q5_1;
    Q8_0 = 8, 32 values in 34 bytes, q8_0;
    Q8_1 = 9, 32 values in 36 bytes;
    Q2_K = 10, 256 values in 84 bytes, q2_k;
    Q3_K = 11, 256 values in 110 bytes, q3_k;
    Q4_K = 12, 256 values in 144 bytes, q4_k;
    Q5_K = 13, 256 values in 176 bytes, q5_k;
    Q6_K = 14, 256 values in 210 bytes, q6_k;
    Q8_K = 15, 256 values in 292 bytes;
    IQ2_XXS = 16, 256 values in 66 bytes;
    IQ2_XS = 17, 256 values in 74 bytes;
    IQ3_XXS = 18, 256 values in 98 bytes;
    IQ1_S = 19, 256 values in 50 bytes;
    IQ4_NL = 20, 32 values in 18 bytes, iq4_nl;
    IQ3_S = 21, 256 values in 110 bytes;
    IQ2_S = 22, 256 values in 82 bytes;
    IQ4_XS = 23, 256 values in 136 bytes, iq4_xs;
    I8 = 24, 1 values in 1 bytes;
    I16 = 25, 1 values in 2 bytes;
    I32 = 26, 1 values in 4 bytes;
    I64 = 27, 1 values in 8 bytes;
    F64 = 28, 1 values in 8 bytes;
    IQ1_M = 29, 256 values in 56 bytes;
    BF16 = 30, 1 values in 2 bytes, bf16;
    TQ1_0 = 34, 256 values in 54 bytes;
    TQ2_0 = 35, 256 values in 66 bytes;
    MXFP4 = 39, 32 values in 17 bytes;
    NVFP4 = 40, 64 values in 36 bytes;
    Q1_0 = 41, 128 values in 18 bytes;
    Q2_0 = 42, 64 values in 18 bytes;
}

/// The canonical dot product of plain numbers: 16 lanes, value `i` in lane `i % 16`, k increasing; the last, partial step is padded with
/// zeros; [`sum16`] at the end.
fn dot_floats<const BYTES: usize>(row: &[u8], x: ActivationRow<'_>, widen: impl Fn([u8; BYTES]) -> f32) -> f32 {
    let ActivationRow::F32(x) = x else { panic!("plain weights take plain activations") };
    let (weights, rest) = row.as_chunks::<BYTES>();
    assert!(rest.is_empty() && weights.len() == x.len());
    let mut acc = [0.0; 16];
    for (w, x) in weights.chunks(16).zip(x.chunks(16)) {
        let (mut ws, mut xs) = ([0.0; 16], [0.0; 16]);
        for i in 0..w.len() {
            (ws[i], xs[i]) = (widen(w[i]), x[i]);
        }
        for i in 0..16 {
            acc[i] = fma(ws[i], xs[i], acc[i]);
        }
    }
    sum16(acc)
}

/// Panics unless there are as many whole blocks of `bytes` bytes as of `len` values.
#[inline(always)]
fn pairs(blocks: usize, bytes: usize, values: usize, len: usize) {
    assert!(blocks.is_multiple_of(bytes) && values.is_multiple_of(len) && blocks / bytes == values / len);
}
