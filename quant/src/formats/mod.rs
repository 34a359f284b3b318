//! One file for each block format. To add one: see the crate's documentation.

pub mod bf16;
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

/// The canonical dot product of plain numbers: 16 lanes, value `i` in lane `i % 16`, k increasing; the last, partial step is filled up
/// with zeros; [`sum16`] at the end.
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

/// Splits blocks and values into pairs, one a block.
fn pairs<const BYTES: usize, const LEN: usize>(blocks: usize, values: usize) {
    assert!(blocks.is_multiple_of(BYTES) && values.is_multiple_of(LEN) && blocks / BYTES == values / LEN);
}
