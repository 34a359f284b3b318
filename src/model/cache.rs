//! What a sequence leaves behind in every layer: the keys and values of its tokens.
//!
//! The memory is asked for whole and used as tokens come: an untouched page of it costs nothing.

use crate::error::{Error, Result};
use crate::model::Shape;
use crate::random;
use memmap2::MmapMut;
use std::ops::Range;
use strata_kernels::{Cpu, KvEntries, KvLayout};
use strata_quant::GgmlType;

/// The numbers that keys and values are kept as: F32, F16 or Q8_0 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTypes {
    /// Of keys.
    pub k: GgmlType,
    /// Of values.
    pub v: GgmlType,
}

impl CacheTypes {
    /// The types to choose from.
    pub const ALL: [GgmlType; 3] = KvLayout::TYPES;

    /// Keys and values as the same.
    pub fn both(ty: GgmlType) -> CacheTypes {
        CacheTypes { k: ty, v: ty }
    }
}

impl Default for CacheTypes {
    /// Half precision.
    fn default() -> CacheTypes {
        CacheTypes::both(GgmlType::F16)
    }
}

/// The keys and values of one sequence.
pub struct KvCache {
    layers: Vec<MmapMut>, // of all layers, or one that serves each in turn; see `KvLayout`
    layout: KvLayout,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// Room for `capacity` tokens, in half precision.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub fn new(shape: &Shape, capacity: usize) -> Result<KvCache> {
        KvCache::with_types(shape, capacity, CacheTypes::default())
    }

    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// If the memory for it cannot be had, or a type is none of the three.
    pub fn with_types(shape: &Shape, capacity: usize, types: CacheTypes) -> Result<KvCache> {
        KvCache::with_layers(shape, shape.layers, capacity, types)
    }

    /// Room for `capacity` tokens in one layer, in half precision: every layer overwrites what the one before has left.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub(crate) fn one_layer(shape: &Shape, capacity: usize) -> Result<KvCache> {
        KvCache::with_layers(shape, 1, capacity, CacheTypes::default())
    }

    fn with_layers(shape: &Shape, layers: usize, capacity: usize, types: CacheTypes) -> Result<KvCache> {
        let layout = layout(shape, types)?;
        let bytes = layout.bytes(capacity.max(1));
        let room = || {
            let room = MmapMut::map_anon(bytes?).ok()?;
            // Fewer page faults while it fills, fewer misses when it is read. Without them it works as well.
            #[cfg(target_os = "linux")]
            let _ = room.advise(memmap2::Advice::HugePage);
            Some(room)
        };
        let rooms: Option<Vec<_>> = (0..layers).map(|_| room()).collect();
        let layers = rooms.ok_or_else(|| {
            let bytes = bytes.unwrap_or(usize::MAX).saturating_mul(layers);
            Error::Request(format!("no memory for a context of {capacity} tokens ({bytes} bytes); choose a smaller -c"))
        })?;
        Ok(KvCache { layers, layout, capacity, len: 0 })
    }

    /// Bytes of memory that [`KvCache::with_types`] takes for `capacity` tokens.
    ///
    /// # Errors
    /// If a type is none of the three.
    pub fn bytes(shape: &Shape, capacity: usize, types: CacheTypes) -> Result<u64> {
        let bytes = layout(shape, types)?.bytes(capacity.max(1)).map_or(u64::MAX, |bytes| bytes as u64);
        Ok(bytes.saturating_mul(shape.layers as u64))
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no token in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes that a token takes in all layers, and that a later token reads of it.
    pub fn token_bytes(&self) -> usize {
        self.layers.len() * self.layout.token_bytes()
    }

    /// Makes up tokens until there are `len`: random keys and values, as a pass would have left them. To measure speed at a depth this is
    /// as good as a prefill, which takes minutes where it takes moments: attention does the same operations whatever the numbers are,
    /// as long as they are ordinary ones.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn make_up(&mut self, cpu: &Cpu, len: usize) {
        const ROWS: usize = 7;
        const PIECE: usize = 256; // tokens
        assert!(len <= self.capacity);
        let width = self.layout.width();
        let mut state = 1;
        let random: Vec<f32> = (0..ROWS * width).map(|_| random::normal(&mut state)).collect();
        let rows = |tokens: Range<usize>| -> Vec<f32> {
            tokens.flat_map(|i| &random[i % ROWS * width..][..width]).copied().collect()
        };
        for layer in 0..self.layers.len() {
            for start in (self.len..len).step_by(PIECE) {
                let end = (start + PIECE).min(len);
                let (k, v) = (rows(start..end), rows(start + 1 + layer..end + 1 + layer));
                let (layout, cells) = self.cells_mut(layer);
                cpu.append_kv(layout, start, &k, &v, cells);
            }
        }
        self.len = self.len.max(len);
    }

    /// After a pass stored `tokens` more in every layer.
    pub(crate) fn grow(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.capacity);
    }

    /// The KV cache entries of a layer.
    pub(crate) fn cells(&self, layer: usize) -> KvEntries<'_> {
        KvEntries { layout: self.layout, bytes: &self.layers[layer % self.layers.len()] }
    }

    /// The same, to be written.
    pub(crate) fn cells_mut(&mut self, layer: usize) -> (KvLayout, &mut [u8]) {
        let layers = self.layers.len();
        (self.layout, &mut self.layers[layer % layers])
    }
}

fn layout(shape: &Shape, types: CacheTypes) -> Result<KvLayout> {
    let CacheTypes { k, v } = types;
    KvLayout::new(k, v, shape.kv_heads, shape.head_dim).ok_or_else(|| {
        Error::Request(format!("a cache of types {k} and {v} is not supported; choose F32, F16 or Q8_0"))
    })
}
