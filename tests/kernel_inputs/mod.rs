//! What the tests of kernels multiply.

use strata_quant::{Activations, Format};

/// Reproducible numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Roughly normal.
    pub fn value(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            sum += (self.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum
    }

    /// As many of them.
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Weights as bytes: encoded random values, or raw bytes with extreme codes.
pub fn weights(format: &Format, rows: usize, cols: usize, kind: usize, random: &mut Random) -> Vec<u8> {
    let ty = format.ty;
    let mut bytes = vec![0; rows * ty.row_bytes(cols).unwrap()];
    let scale = [1.0, 1e-3, 40.0][kind % 3];
    let values: Vec<f32> = random.values(rows * cols).iter().map(|v| v * scale).collect();
    (format.encode)(&values, None, &mut bytes);
    if kind >= 3 && ty.block_len() > 1 {
        // Saturated codes: all ones, all zeros, or the sign bit alone, under the encoded scales.
        let fill = [0xff, 0x00, 0x80][kind - 3];
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            let scales: Vec<_> = format.scales.iter().map(|&at| [block[at], block[at + 1]]).collect();
            block.fill(fill);
            for (&at, scale) in format.scales.iter().zip(scales) {
                block[at..at + 2].copy_from_slice(&scale);
            }
        }
    }
    bytes
}

/// Activations `(rows, cols)`: random, or all at the ends of the range.
pub fn activations(rows: usize, cols: usize, saturated: bool, random: &mut Random) -> Activations {
    let mut x = Activations::default();
    for v in x.reset(rows, cols) {
        *v = if saturated { if random.bits() & 1 == 0 { 3.0 } else { -3.0 } } else { random.value() };
    }
    x
}
