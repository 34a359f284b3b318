//! Rotary position embedding (Su et al., 2021), in the interleaved form of Llama's GGUF files: values `2i` and `2i + 1` of a head are a
//! point in the plane, rotated by `position * frequency_i`.

/// The sines and cosines for the positions of a batch: `(positions, pairs)` each.
#[derive(Default)]
pub struct Rotation {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    /// Computes the angles of `positions` for the given frequencies (radians a position). In `f64`, so that position 131071 is as
    /// exact as position 1; by the caller's sine and cosine, so that they are the same on every platform.
    pub fn set(&mut self, positions: impl Iterator<Item = usize>, frequencies: &[f64], sincos: fn(f64) -> (f64, f64)) {
        self.pairs = frequencies.len();
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for f in frequencies {
                let (sin, cos) = sincos(position as f64 * f);
                self.sin.push(sin as f32);
                self.cos.push(cos as f32);
            }
        }
    }

    /// `(cos, sin)` of the position at `place`, `(pairs)` each.
    pub(crate) fn angles(&self, place: usize) -> (&[f32], &[f32]) {
        let range = place * self.pairs..(place + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates the heads of one token in place: `x` is `(heads, head_dim)`; values beyond the rotated pairs stay.
#[inline(always)]
pub fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(head_dim) {
        for ((pair, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            let [a, b] = *pair;
            *pair = [a * c - b * s, a * s + b * c];
        }
    }
}
