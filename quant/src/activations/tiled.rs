//! 8-bit activations in the order in which a register tile of GEMM takes them: four values of k of each of a few columns, then the next four.
//!
//! GEMM walks blocks of KC = 256 values of k, and within one *tiles* of a few columns (tokens):
//! ```text
//! KC block 0                                         | KC block 1
//!  tile of columns 0..C          | tile C..2C | ...  |  tile of columns 0..C ...
//!   k 0..4 | k 4..8 | ... 252..256                      one k step: | c0 k0 k1 k2 k3 | c1 k0 k1 k2 k3 | ... C columns
//! ```
//! so that both tile and KC block are one run of memory. The last tile of a KC block has the columns that are left, the last KC block is
//! padded with zeros. A bias of 128 makes the codes unsigned, for instructions that multiply unsigned with signed bytes.
//!
//! A column is a plane of a token: activations of 16 bits have two columns for each token, side by side in one tile.

use super::{ActivationKind, Activations};

/// Values of k in a block.
pub const KC: usize = 256;

/// Sums of a column of a KC block: of 32 codes each, eight of them; where blocks have 256, of two times 16 codes, 16 bits each, the lower half
/// first, eight of them, and of two times 32 codes, four of them.
pub const SUMS: usize = 12;

/// The forms of one matrix of activations as tiles; the buffers are kept and reused.
#[derive(Default)]
pub struct Tiled {
    made: Option<Tiling>,
    codes: Vec<[u8; KC]>, // (KC blocks, columns): the columns of a tile lie woven together
    scales: Vec<f32>,     // (KC blocks, tiles, blocks of 32 or 256, C)
    sums: Vec<i32>,       // (KC blocks, tiles, SUMS, C)
}

/// How a [`Tiled`] was cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// [`ActivationKind::Q8x32`] or [`ActivationKind::Q8x256`].
    pub kind: ActivationKind,
    /// C: columns in a tile, all planes of every token in it.
    pub columns: usize,
    /// The bias (zero point) that was added to every code.
    pub bias: u8,
}

impl Tiling {
    /// Scales of a column of a KC block.
    pub const fn blocks(&self) -> usize {
        match self.kind {
            ActivationKind::Q8x256 => 1,
            _ => 8,
        }
    }
}

/// One tile of a KC block: `c` columns.
#[derive(Clone, Copy)]
pub struct XTile<'a> {
    /// `(64, c)`: four codes each.
    pub codes: &'a [[u8; 4]],
    /// `(blocks of 32 or 256, c)`
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

    /// The tile of KC block `block` that begins at column `first` and has `c` columns, of `m` in all.
    #[inline(always)]
    pub fn tile(&self, m: usize, block: usize, first: usize, c: usize) -> XTile<'_> {
        let blocks = self.made.as_ref().map_or(0, Tiling::blocks);
        let at = block * m + first;
        XTile {
            codes: self.codes[at..at + c].as_flattened().as_chunks().0,
            scales: &self.scales[at * blocks..(at + c) * blocks],
            sums: &self.sums[at * SUMS..(at + c) * SUMS],
        }
    }
}

/// KC blocks to be filled, and the 8-bit form they are made of.
pub struct TiledPart<'a> {
    x: &'a Untiled<'a>,
    tiling: Tiling,
    first_block: usize,
    codes: &'a mut [[u8; KC]],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

/// The 8-bit form without the tiles.
pub struct Untiled<'a> {
    m: usize,
    cols: usize,
    form: EightBitForm<'a>,
}

enum EightBitForm<'a> {
    Q8x32(&'a super::Form<super::Q8x32>),
    Q8x256(&'a super::Form<super::Q8x256>),
}

/// Where in `Activations` a tiling is kept.
fn place(kind: ActivationKind, bias: u8) -> (usize, usize) {
    ((kind == ActivationKind::Q8x256) as usize, (bias > 0) as usize)
}

impl Activations {
    /// KC blocks of a row.
    pub fn kc_blocks(&self) -> usize {
        self.cols.div_ceil(KC)
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
        let (m, cols, blocks) = (self.rows * self.bits.planes(), self.cols, self.kc_blocks());
        let (kind, bias) = place(tiling.kind, tiling.bias);
        let form = if tiling.kind == ActivationKind::Q8x256 {
            EightBitForm::Q8x256(&self.q8x256)
        } else {
            EightBitForm::Q8x32(&self.q8x32)
        };
        let Tiled { made, codes, scales, sums } = &mut self.tiled[kind][bias];
        *made = Some(tiling);
        let n = blocks * m;
        if codes.len() < n {
            codes.resize(n, [0; KC]);
            sums.resize(n * SUMS, 0);
            scales.resize(n * tiling.blocks(), 0.0);
        }
        let (scales, sums) = (&mut scales[..n * tiling.blocks()], &mut sums[..n * SUMS]);
        fill(TiledPart { x: &Untiled { m, cols, form }, tiling, first_block: 0, codes: &mut codes[..n], scales, sums })
    }
}

impl<'a> TiledPart<'a> {
    /// Cuts off the first `blocks` KC blocks: `(those, the rest)`, so that threads can share the work.
    pub fn split_at(self, blocks: usize) -> (TiledPart<'a>, TiledPart<'a>) {
        let n = blocks * self.x.m;
        let (codes, scales) = (self.codes.split_at_mut(n), self.scales.split_at_mut(n * self.tiling.blocks()));
        let sums = self.sums.split_at_mut(n * SUMS);
        let (x, tiling, first_block) = (self.x, self.tiling, self.first_block);
        (
            TiledPart { x, tiling, first_block, codes: codes.0, scales: scales.0, sums: sums.0 },
            TiledPart { x, tiling, first_block: first_block + blocks, codes: codes.1, scales: scales.1, sums: sums.1 },
        )
    }

    /// Fills the KC blocks.
    pub fn fill(self) {
        let (m, blocks, width) = (self.x.m, self.tiling.blocks(), self.tiling.columns);
        let kc_blocks = self.codes.chunks_exact_mut(m).zip(self.scales.chunks_exact_mut(m * blocks));
        for (i, ((codes, scales), sums)) in kc_blocks.zip(self.sums.chunks_exact_mut(m * SUMS)).enumerate() {
            let tiles = codes.chunks_mut(width).zip(scales.chunks_mut(width * blocks));
            for (t, ((codes, scales), sums)) in tiles.zip(sums.chunks_mut(width * SUMS)).enumerate() {
                let codes = codes.as_flattened_mut().as_chunks_mut::<4>().0; // (64, c)
                self.x.tile(self.first_block + i, t * width, self.tiling.bias, codes, scales, sums);
            }
        }
    }
}

impl Untiled<'_> {
    fn tile(&self, block: usize, first: usize, bias: u8, codes: &mut [[u8; 4]], scales: &mut [f32], sums: &mut [i32]) {
        let c = sums.len() / SUMS;
        for column in 0..c {
            // What a last, partial KC block lacks stays zero.
            let (mut codes_32, mut d, mut s) = ([0; KC], [0.0; 8], [0; SUMS]);
            let row = match self.form {
                EightBitForm::Q8x32(form) => {
                    let (quads, all_scales, all_sums) = form.row(first + column, self.cols);
                    for (i, quad) in quads[block * 2..].iter().take(2).enumerate() {
                        for (j, part) in quad.as_chunks::<16>().0.iter().enumerate() {
                            // Lane j of a quad is a half of block j % 4; see `q8x32.rs`.
                            let at = i * 128 + j % 4 * 32 + j / 4 * 16;
                            codes_32[at..at + 16].copy_from_slice(part);
                        }
                        d[i * 4..][..4].copy_from_slice(&all_scales[block * 8 + i * 4..][..4]);
                        s[i * 4..][..4].copy_from_slice(&all_sums[block * 8 + i * 4..][..4]);
                    }
                    &codes_32
                }
                EightBitForm::Q8x256(form) => {
                    let (all_codes, all_scales, all_sums) = form.row(first + column, self.cols);
                    d[0] = all_scales[block];
                    let both = |low: i16, high: i16| i32::from(low as u16) | i32::from(high) << 16;
                    for (s, pair) in s.iter_mut().zip(all_sums[block].as_chunks::<2>().0) {
                        *s = both(pair[0], pair[1]);
                    }
                    for (s, four) in s[8..].iter_mut().zip(all_sums[block].as_chunks::<4>().0) {
                        *s = both(four[0] + four[1], four[2] + four[3]);
                    }
                    &all_codes[block]
                }
            };
            // A bias is 0 or 128, and adding 128 is flipping the top bit: four codes at once.
            let bias = u32::from_ne_bytes([bias; 4]);
            for (four, codes) in row.as_chunks::<4>().0.iter().zip(codes[column..].iter_mut().step_by(c)) {
                *codes = (u32::from_ne_bytes(four.map(|q| q as u8)) ^ bias).to_ne_bytes();
            }
            for (b, d) in d.iter().take(scales.len() / c).enumerate() {
                scales[b * c + column] = *d;
            }
            for (i, s) in s.iter().enumerate() {
                sums[i * c + column] = *s;
            }
        }
    }
}
