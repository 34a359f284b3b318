//! 8-bit activations in the order in which a register tile eats them: four values of k of each of a few columns, then the next four.
//!
//! A product over many columns (tokens) walks *slabs* of 256 values of k, and within a slab *tiles* of a few columns:
//! ```text
//! slab 0                                             | slab 1
//!  tile of columns 0..C          | tile C..2C | ...  |  tile of columns 0..C ...
//!   k 0..4 | k 4..8 | ... 252..256                      one k step: | c0 k0 k1 k2 k3 | c1 k0 k1 k2 k3 | ... C columns
//! ```
//! so that both tile and slab are one run of memory. The last tile of a slab has the columns that are left, the last slab is filled up with
//! zeros. A bias of 128 makes the codes unsigned, for instructions that multiply unsigned with signed bytes.

use super::{ActivationKind, Activations};

/// Values of k in a slab.
pub const SLAB: usize = 256;

/// Sums of a column of a slab: of 32 codes each, eight of them; where blocks have 256, of two times 16 codes, 16 bits each, the lower half
/// first, eight of them, and of two times 32 codes, four of them.
pub const SUMS: usize = 12;

/// The forms of one matrix of activations as tiles; the buffers are kept and reused.
#[derive(Default)]
pub struct Tiled {
    made: Option<Tiling>,
    codes: Vec<[u8; SLAB]>, // (slabs, columns): the columns of a tile lie woven together
    scales: Vec<f32>,       // (slabs, tiles, blocks of a slab, C)
    sums: Vec<i32>,         // (slabs, tiles, SUMS, C)
}

/// How a [`Tiled`] was cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// [`ActivationKind::Q8x32`] or [`ActivationKind::Q8x256`].
    pub kind: ActivationKind,
    /// C: columns in a tile.
    pub columns: usize,
    /// What was added to every code.
    pub bias: u8,
}

impl Tiling {
    /// Blocks in a slab: scales of a column.
    pub const fn blocks(&self) -> usize {
        match self.kind {
            ActivationKind::Q8x256 => 1,
            _ => 8,
        }
    }
}

/// One tile of a slab: `c` columns.
#[derive(Clone, Copy)]
pub struct XTile<'a> {
    /// `(64, c)`: four codes each.
    pub codes: &'a [[u8; 4]],
    /// `(blocks of the slab, c)`
    pub scales: &'a [f32],
    /// `(SUMS, c)`
    pub sums: &'a [i32],
}

impl Tiled {
    /// True if it holds the current activations, cut so.
    pub fn is(&self, tiling: Tiling) -> bool {
        self.made == Some(tiling)
    }

    /// Forgets the activations; the buffers stay.
    pub fn forget(&mut self) {
        self.made = None;
    }

    /// The tile of slab `slab` that begins at column `first` and has `c` columns, of `m` in all.
    #[inline(always)]
    pub fn tile(&self, m: usize, slab: usize, first: usize, c: usize) -> XTile<'_> {
        let blocks = self.made.as_ref().map_or(0, Tiling::blocks);
        let at = slab * m + first;
        XTile {
            codes: self.codes[at..at + c].as_flattened().as_chunks().0,
            scales: &self.scales[at * blocks..(at + c) * blocks],
            sums: &self.sums[at * SUMS..(at + c) * SUMS],
        }
    }
}

/// Slabs to be filled, and the 8-bit form they are made of.
pub struct TiledPart<'a> {
    x: &'a Source<'a>,
    tiling: Tiling,
    first_slab: usize,
    codes: &'a mut [[u8; SLAB]],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

/// The 8-bit form without the tiles.
pub struct Source<'a> {
    m: usize,
    cols: usize,
    form: Rows<'a>,
}

enum Rows<'a> {
    Q8x32(&'a super::Form<super::Q8x32>),
    Q8x256(&'a super::Form<super::Q8x256>),
}

/// Where in `Activations` a tiling is kept.
fn place(kind: ActivationKind, bias: u8) -> (usize, usize) {
    ((kind == ActivationKind::Q8x256) as usize, (bias > 0) as usize)
}

impl Activations {
    /// Slabs of a row.
    pub fn slabs(&self) -> usize {
        self.cols.div_ceil(SLAB)
    }

    /// The tiles, which must have been made.
    pub fn tiled(&self, kind: ActivationKind, bias: u8) -> &Tiled {
        let (kind, bias) = place(kind, bias);
        &self.tiled[kind][bias]
    }

    /// Hands out the buffers of a tiling, to be filled with [`TiledPart::fill`]; it counts as made. The 8-bit form it is made of must be
    /// there.
    ///
    /// # Panics
    /// If it is not.
    pub fn tiled_mut<R>(&mut self, tiling: Tiling, fill: impl FnOnce(TiledPart<'_>) -> R) -> R {
        assert!(self.has(tiling.kind) && tiling.kind != ActivationKind::F32);
        let (m, cols, slabs) = (self.rows, self.cols, self.slabs());
        let (kind, bias) = place(tiling.kind, tiling.bias);
        let form =
            if tiling.kind == ActivationKind::Q8x256 { Rows::Q8x256(&self.q8x256) } else { Rows::Q8x32(&self.q8x32) };
        let Tiled { made, codes, scales, sums } = &mut self.tiled[kind][bias];
        *made = Some(tiling);
        let n = slabs * m;
        if codes.len() < n {
            codes.resize(n, [0; SLAB]);
            sums.resize(n * SUMS, 0);
            scales.resize(n * tiling.blocks(), 0.0);
        }
        let (scales, sums) = (&mut scales[..n * tiling.blocks()], &mut sums[..n * SUMS]);
        fill(TiledPart { x: &Source { m, cols, form }, tiling, first_slab: 0, codes: &mut codes[..n], scales, sums })
    }
}

impl<'a> TiledPart<'a> {
    /// Cuts off the first `slabs` slabs: `(those, the rest)`, so that threads can share the work.
    pub fn split_at(self, slabs: usize) -> (TiledPart<'a>, TiledPart<'a>) {
        let n = slabs * self.x.m;
        let (codes, scales) = (self.codes.split_at_mut(n), self.scales.split_at_mut(n * self.tiling.blocks()));
        let sums = self.sums.split_at_mut(n * SUMS);
        let (x, tiling, first_slab) = (self.x, self.tiling, self.first_slab);
        (
            TiledPart { x, tiling, first_slab, codes: codes.0, scales: scales.0, sums: sums.0 },
            TiledPart { x, tiling, first_slab: first_slab + slabs, codes: codes.1, scales: scales.1, sums: sums.1 },
        )
    }

    /// Fills the slabs.
    pub fn fill(self) {
        let (m, blocks, width) = (self.x.m, self.tiling.blocks(), self.tiling.columns);
        let slabs = self.codes.chunks_exact_mut(m).zip(self.scales.chunks_exact_mut(m * blocks));
        for (i, ((codes, scales), sums)) in slabs.zip(self.sums.chunks_exact_mut(m * SUMS)).enumerate() {
            let tiles = codes.chunks_mut(width).zip(scales.chunks_mut(width * blocks));
            for (t, ((codes, scales), sums)) in tiles.zip(sums.chunks_mut(width * SUMS)).enumerate() {
                let codes = codes.as_flattened_mut().as_chunks_mut::<4>().0; // (64, c)
                self.x.tile(self.first_slab + i, t * width, self.tiling.bias, codes, scales, sums);
            }
        }
    }
}

impl Source<'_> {
    fn tile(&self, slab: usize, first: usize, bias: u8, codes: &mut [[u8; 4]], scales: &mut [f32], sums: &mut [i32]) {
        let c = sums.len() / SUMS;
        for column in 0..c {
            // What a last, partial slab lacks stays zero.
            let (mut room, mut d, mut s) = ([0; SLAB], [0.0; 8], [0; SUMS]);
            let row = match self.form {
                Rows::Q8x32(form) => {
                    let (quads, all_scales, all_sums) = form.row(first + column, self.cols);
                    for (i, quad) in quads[slab * 2..].iter().take(2).enumerate() {
                        for (j, part) in quad.as_chunks::<16>().0.iter().enumerate() {
                            // Lane j of a quad is a half of block j % 4; see `q8x32.rs`.
                            let at = i * 128 + j % 4 * 32 + j / 4 * 16;
                            room[at..at + 16].copy_from_slice(part);
                        }
                        d[i * 4..][..4].copy_from_slice(&all_scales[slab * 8 + i * 4..][..4]);
                        s[i * 4..][..4].copy_from_slice(&all_sums[slab * 8 + i * 4..][..4]);
                    }
                    &room
                }
                Rows::Q8x256(form) => {
                    let (all_codes, all_scales, all_sums) = form.row(first + column, self.cols);
                    d[0] = all_scales[slab];
                    let both = |low: i16, high: i16| i32::from(low as u16) | i32::from(high) << 16;
                    for (s, pair) in s.iter_mut().zip(all_sums[slab].as_chunks::<2>().0) {
                        *s = both(pair[0], pair[1]);
                    }
                    for (s, four) in s[8..].iter_mut().zip(all_sums[slab].as_chunks::<4>().0) {
                        *s = both(four[0] + four[1], four[2] + four[3]);
                    }
                    &all_codes[slab]
                }
            };
            // A bias is 0 or 128, and adding 128 is flipping the top bit: four codes at once.
            let bias = u32::from_ne_bytes([bias; 4]);
            for (four, codes) in row.as_chunks::<4>().0.iter().zip(codes[column..].iter_mut().step_by(c)) {
                *codes = (u32::from_ne_bytes(four.map(|q| q as u8)) ^ bias).to_ne_bytes();
            }
            for (block, d) in d.iter().take(scales.len() / c).enumerate() {
                scales[block * c + column] = *d;
            }
            for (i, s) in s.iter().enumerate() {
                sums[i * c + column] = *s;
            }
        }
    }
}
