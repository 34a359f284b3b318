//! The KV cache of a layer: how its entries lie in memory, so that attention reads them once, from front to back, in whole vectors.
//!
//! Positions come in spans of 256. For each span, for each head, there are the keys and then the values of its positions:
//! ```text
//! | span 0: keys, values of head 0 | keys, values of head 1 | ... | span 1: keys, values of head 0 | ...
//! ```
//! The values of a position are a row of ggml blocks, padded with zeros to a multiple of the block size and of 16. Keys are transposed, so
//! that a vector holds the same value of 16 positions, and 16 scores come from multiply-adds alone:
//! ```text
//! tile of 16 positions:  | value 0 of positions 0 .. 15 | value 1 of positions 0 .. 15 | ...          F32, F16
//!                        | 16 scales | 32 x 16 codes | 16 scales | 32 x 16 codes | ...                Q8_0
//! ```
//! Either way an entry takes the bytes of its ggml type, and has the bits that its encoder gives a row of its own.

use crate::jobs::SPAN;
use crate::table::Isa;
use std::ops::Range;
use strata_quant::GgmlType;
use strata_quant::simd::Simd;

/// Positions in a tile of keys.
pub const TILE: usize = 16;

/// The shape and the types of the KV cache of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    k: GgmlType,
    v: GgmlType,
    heads: usize,
    head_dim: usize,
}

impl KvLayout {
    /// Positions in a span.
    pub const SPAN: usize = SPAN;

    /// The types that keys and values may have.
    pub const TYPES: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0];

    /// `heads` heads of `head_dim` values, keys of type `k` and values of type `v`; `None` if one is not of [`KvLayout::TYPES`].
    pub fn new(k: GgmlType, v: GgmlType, heads: usize, head_dim: usize) -> Option<KvLayout> {
        let known = KvLayout::TYPES.contains(&k) && KvLayout::TYPES.contains(&v);
        known.then_some(KvLayout { k, v, heads, head_dim })
    }

    /// Bytes for a number of positions, which are rounded up to whole spans; `None` on overflow.
    pub fn bytes(&self, positions: usize) -> Option<usize> {
        positions.div_ceil(SPAN).checked_mul(self.heads)?.checked_mul(self.block_bytes())
    }

    /// Where the entries of the first `positions` of a span lie, in their order: its bytes, or of each head the tiles of keys that have
    /// one of these positions and the values.
    ///
    /// # Panics
    /// If a span has fewer positions.
    pub fn beginning(&self, span: usize, positions: usize) -> Vec<Range<usize>> {
        assert!(positions <= SPAN);
        if positions == SPAN {
            return vec![self.block(span, 0)..self.block(span + 1, 0)];
        }
        let (keys, values) =
            (positions.div_ceil(TILE) * tile_bytes(self.k, self.head_dim), positions * self.row_bytes());
        let of_head = |head| {
            let start = self.block(span, head);
            let rows = start + self.key_bytes();
            [start..start + keys, rows..rows + values]
        };
        (0..self.heads).flat_map(of_head).collect()
    }

    /// Bytes of a position, all heads together.
    pub fn token_bytes(&self) -> usize {
        self.heads * self.block_bytes() / SPAN
    }

    /// Values that a position has of keys, and of values: all heads together.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The types of keys and of values.
    pub fn types(&self) -> (GgmlType, GgmlType) {
        (self.k, self.v)
    }

    /// The byte at which the entries of a span of a head start.
    pub(crate) fn block(&self, span: usize, head: usize) -> usize {
        (span * self.heads + head) * self.block_bytes()
    }

    /// Bytes of a span of a head, keys and values.
    pub(crate) fn block_bytes(&self) -> usize {
        self.key_bytes() + SPAN * self.row_bytes()
    }

    /// Bytes of the keys of a span of a head.
    pub(crate) fn key_bytes(&self) -> usize {
        SPAN / TILE * tile_bytes(self.k, self.head_dim)
    }

    /// Bytes of the values of a position of a head.
    pub(crate) fn row_bytes(&self) -> usize {
        row_bytes(self.v, self.head_dim)
    }

    /// Writes the keys and values `(head_dim)` of place `at` of a span of a head.
    pub(crate) fn store(&self, isa: Isa, at: usize, k: &[f32], v: &[f32], block: &mut [u8]) {
        assert!(at < SPAN && k.len() == self.head_dim && v.len() == self.head_dim);
        let (keys, values) = block.split_at_mut(self.key_bytes());
        let tile = tile_bytes(self.k, self.head_dim);
        let (tile, lane) = (&mut keys[at / TILE * tile..(at / TILE + 1) * tile], at % TILE);
        let row = &mut values[at * self.row_bytes()..(at + 1) * self.row_bytes()];
        // Thirty-two values at a time, a block of Q8_0; the last padded with zeros.
        for (i, k) in k.chunks(32).enumerate() {
            let (k, mut encoded) = (padded(k), [0; 128]);
            let encoded = &mut encoded[..self.k.row_bytes(32).expect("whole blocks")];
            isa.encode(self.k, &k, None, encoded);
            match self.k {
                GgmlType::Q8_0 => {
                    let block = &mut tile[i * TILE * 34..(i + 1) * TILE * 34];
                    block[2 * lane..2 * lane + 2].copy_from_slice(&encoded[..2]);
                    let codes = block[2 * TILE..].chunks_exact_mut(TILE);
                    codes.zip(&encoded[2..]).for_each(|(codes, code)| codes[lane] = *code);
                }
                GgmlType::F16 => scatter::<2>(encoded, lane, &mut tile[i * 32 * TILE * 2..]),
                _ => scatter::<4>(encoded, lane, &mut tile[i * 32 * TILE * 4..]),
            }
        }
        let whole = self.head_dim / 32 * 32;
        let (front, back) = row.split_at_mut(self.v.row_bytes(whole).expect("whole blocks"));
        isa.encode(self.v, &v[..whole], None, front);
        if !back.is_empty() {
            let mut encoded = [0; 128];
            let encoded = &mut encoded[..self.v.row_bytes(32).expect("whole blocks")];
            isa.encode(self.v, &padded(&v[whole..]), None, encoded);
            back.copy_from_slice(&encoded[..back.len()]);
        }
    }
}

/// Puts each of the numbers, of `N` bytes, into place `lane` of the next `TILE` places.
fn scatter<const N: usize>(numbers: &[u8], lane: usize, places: &mut [u8]) {
    let places = places.as_chunks_mut::<N>().0.as_chunks_mut::<TILE>().0;
    places.iter_mut().zip(numbers.as_chunks::<N>().0).for_each(|(places, number)| places[lane] = *number);
}

/// 32 values, the last of them zero.
fn padded(x: &[f32]) -> [f32; 32] {
    let mut padded = [0.0; 32];
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// Bytes of the values of a position.
fn row_bytes(ty: GgmlType, d: usize) -> usize {
    ty.row_bytes(d.next_multiple_of(ty.block_len().max(16))).expect("whole blocks")
}

/// Bytes of 16 keys.
fn tile_bytes(ty: GgmlType, d: usize) -> usize {
    TILE * ty.row_bytes(d.next_multiple_of(ty.block_len())).expect("whole blocks")
}

/// The KV cache entries of one layer of a sequence.
#[derive(Clone, Copy)]
pub struct KvEntries<'a> {
    /// Their shape and types.
    pub layout: KvLayout,
    /// [`KvLayout::bytes`] of at least the positions that are read.
    pub bytes: &'a [u8],
}

/// Reads KV cache entries of one type, exactly: a scale of 11 bits times a code of 8 is a float.
pub trait Entries {
    /// The type.
    const TYPE: GgmlType;

    /// What [`Entries::keys`] needs to know of values `32 i..` of a tile: their scales, if they have any.
    #[inline(always)]
    fn scales<S: Simd>(s: S, _tile: &[u8], _i: usize) -> S::F {
        s.splat(0.0)
    }
    /// Value `i` of the 16 positions of a tile.
    #[inline(always)]
    fn keys<S: Simd>(s: S, tile: &[u8], i: usize, _scales: S::F) -> S::F {
        Self::values(s, tile, i)
    }
    /// Values `16 i..16 (i + 1)` of a row.
    fn values<S: Simd>(s: S, row: &[u8], i: usize) -> S::F;

    /// Bytes of 16 keys of `d` values.
    #[inline(always)]
    fn tile_bytes(d: usize) -> usize {
        tile_bytes(Self::TYPE, d)
    }
    /// Bytes of `d` values of a position.
    #[inline(always)]
    fn row_bytes(d: usize) -> usize {
        row_bytes(Self::TYPE, d)
    }
}

/// F32
pub struct F32;
/// F16
pub struct F16;
/// Q8_0
pub struct Q8_0;

impl Entries for F32 {
    const TYPE: GgmlType = GgmlType::F32;

    #[inline(always)]
    fn values<S: Simd>(s: S, row: &[u8], i: usize) -> S::F {
        let mut v = [0.0; 16];
        for (v, bytes) in v.iter_mut().zip(row.as_chunks::<64>().0[i].as_chunks().0) {
            *v = f32::from_le_bytes(*bytes);
        }
        s.load(&v)
    }
}

impl Entries for F16 {
    const TYPE: GgmlType = GgmlType::F16;

    #[inline(always)]
    fn values<S: Simd>(s: S, row: &[u8], i: usize) -> S::F {
        s.load_f16(row.as_chunks::<32>().0[i].as_chunks().0.as_array().expect("16 halves"))
    }
}

impl Entries for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;

    #[inline(always)]
    fn scales<S: Simd>(s: S, tile: &[u8], i: usize) -> S::F {
        let block = &tile.as_chunks::<{ 34 * TILE }>().0[i];
        s.load_f16(block[..2 * TILE].as_chunks().0.as_array().expect("16 halves"))
    }
    #[inline(always)]
    fn keys<S: Simd>(s: S, tile: &[u8], i: usize, scales: S::F) -> S::F {
        let block = &tile.as_chunks::<{ 34 * TILE }>().0[i / 32];
        let codes = &block[2 * TILE..].as_chunks::<TILE>().0[i % 32];
        s.mul(s.load_i8(codes), scales)
    }
    #[inline(always)]
    fn values<S: Simd>(s: S, row: &[u8], i: usize) -> S::F {
        let block = &row.as_chunks::<34>().0[i / 2];
        let scale = s.load_f16(&[[block[0], block[1]]; 16]);
        s.mul(s.load_i8(&block[2..].as_chunks::<16>().0[i % 2]), scale)
    }
}
