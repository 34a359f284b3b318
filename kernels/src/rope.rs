//! Rotary position embedding (Su et al., 2021): two values of a head are a point in the plane, rotated by `position * frequency_i`.

/// Which values of a head are rotated together, as GGUF files order them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rope {
    /// Neighbours, `(2i, 2i + 1)`. Hugging Face checkpoints have them half a head apart: rows of query and key matrices are permuted.
    #[default]
    Interleaved,
    /// Those half of the rotated values apart, `(i, i + pairs)` (GPT-NeoX).
    Neox,
}

/// The sines and cosines for the positions of a batch: `(positions, pairs)` each.
#[derive(Default)]
pub struct Rotation {
    rope: Rope,
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    /// Takes the sines and cosines that `angle(position, pair)` gives for every pair of all `positions`. They are the caller's, so that they
    /// are the same on every platform.
    pub fn set(
        &mut self,
        rope: Rope,
        positions: impl Iterator<Item = usize>,
        pairs: usize,
        angle: impl Fn(usize, usize) -> (f32, f32),
    ) {
        (self.rope, self.pairs) = (rope, pairs);
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for pair in 0..pairs {
                let (sin, cos) = angle(position, pair);
                self.sin.push(sin);
                self.cos.push(cos);
            }
        }
    }

    /// Which values are rotated together.
    pub(crate) fn rope(&self) -> Rope {
        self.rope
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

/// The same for [`Rope::Neox`].
#[inline(always)]
pub fn rope_neox(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
        }
    }
}
