//! The KV cache: the keys and values of the tokens of a sequence, in every layer.
//!
//! The memory is asked for whole and used as tokens come: an untouched page of it costs nothing.

use crate::arch::Hyperparameters;
use crate::error::{Allocation, Error, Result};
use crate::random;
use memmap2::MmapMut;
use std::ops::Range;
use strata_kernels::{Cpu, KvEntries, KvLayout};
use strata_quant::GgmlType;

/// The types of the keys and values in a KV cache: F32, F16 or Q8_0 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTypes {
    /// The type of keys.
    pub k: GgmlType,
    /// The type of values.
    pub v: GgmlType,
}

impl CacheTypes {
    /// The supported types.
    pub const ALL: [GgmlType; 3] = KvLayout::TYPES;

    /// One type for both.
    pub fn both(ty: GgmlType) -> CacheTypes {
        CacheTypes { k: ty, v: ty }
    }
}

impl Default for CacheTypes {
    /// F16.
    fn default() -> CacheTypes {
        CacheTypes::both(GgmlType::F16)
    }
}

/// The KV cache of one sequence.
pub struct KvCache {
    layers: Vec<MmapMut>, // of all layers, or one that serves each in turn; see `KvLayout`
    layout: KvLayout,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// Tokens of a span: those that lie together in a layer.
    pub const SPAN: usize = KvLayout::SPAN;

    /// Allocates a cache for `capacity` tokens in F16.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub fn new(of: &Hyperparameters, capacity: usize) -> Result<KvCache> {
        KvCache::with_types(of, capacity, CacheTypes::default())
    }

    /// Allocates a cache for `capacity` tokens.
    ///
    /// # Errors
    /// If the memory for it cannot be had, or a type is none of the three.
    pub fn with_types(of: &Hyperparameters, capacity: usize, types: CacheTypes) -> Result<KvCache> {
        KvCache::with_layers(of, of.layers, capacity, types)
    }

    /// Allocates a cache for `capacity` tokens of one layer: every layer overwrites the entries of the previous one.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub(crate) fn one_layer(of: &Hyperparameters, capacity: usize, types: CacheTypes) -> Result<KvCache> {
        KvCache::with_layers(of, 1, capacity, types)
    }

    fn with_layers(of: &Hyperparameters, layers: usize, capacity: usize, types: CacheTypes) -> Result<KvCache> {
        let layout = layout(of, types)?;
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
            let bytes = bytes.unwrap_or(usize::MAX).saturating_mul(layers) as u64;
            Error::OutOfMemory { what: Allocation::KvCache { tokens: capacity }, bytes }
        })?;
        Ok(KvCache { layers, layout, capacity, len: 0 })
    }

    /// Bytes of memory that [`KvCache::with_types`] takes for `capacity` tokens.
    ///
    /// # Errors
    /// If a type is none of the three.
    pub fn bytes(of: &Hyperparameters, capacity: usize, types: CacheTypes) -> Result<u64> {
        let bytes = layout(of, types)?.bytes(capacity.max(1)).map_or(u64::MAX, |bytes| bytes as u64);
        Ok(bytes.saturating_mul(of.layers as u64))
    }

    /// The number of tokens in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no token in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of tokens that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Removes all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of a token in all layers, which every later token reads.
    pub fn token_bytes(&self) -> usize {
        self.layers.len() * self.layout.token_bytes()
    }

    /// Appends random keys and values until there are `len` tokens, as a pass would have left them. To measure speed at a depth this is
    /// as good as a prefill, which takes minutes where it takes moments: attention does the same operations whatever the numbers are,
    /// as long as they are ordinary ones.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn fill_random(&mut self, cpu: &Cpu, len: usize) {
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
                let (layout, entries) = self.entries_mut(layer);
                cpu.append_kv(layout, start, &k, &v, entries);
            }
        }
        self.len = self.len.max(len);
    }

    /// Counts `tokens` more, which a pass has appended in every layer.
    pub(crate) fn grow(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.capacity);
    }

    /// Copies the entries of the first `tokens` in a layer from a cache of the same types.
    pub(crate) fn copy_beginning(&mut self, from: &KvCache, layer: usize, tokens: usize) {
        assert_eq!(self.layout.types(), from.layout.types());
        let bytes = self.layout.bytes(tokens).expect("both caches have room for them");
        self.entries_mut(layer).1[..bytes].copy_from_slice(&from.entries(layer).bytes[..bytes]);
    }

    /// Makes its tokens the first `tokens` of another cache of the same types.
    ///
    /// # Panics
    /// If the other has fewer, or there is no room for them.
    pub(crate) fn become_beginning(&mut self, from: &KvCache, tokens: usize) {
        assert!(tokens <= from.len && tokens <= self.capacity);
        for layer in 0..self.layers.len() {
            self.copy_beginning(from, layer, tokens);
        }
        self.len = tokens;
    }

    /// The types of its keys and values.
    pub fn types(&self) -> CacheTypes {
        let (k, v) = self.layout.types();
        CacheTypes { k, v }
    }

    /// Calls `f` with the bytes of the first `tokens` of a span, in a fixed order: all that another cache of the same types needs to have
    /// them too. They may be written; the number of tokens in the cache stays.
    pub(crate) fn each_of_span(
        &mut self,
        span: usize,
        tokens: usize,
        mut f: impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let ranges = self.layout.beginning(span, tokens);
        for layer in &mut self.layers {
            ranges.iter().try_for_each(|range| f(&mut layer[range.clone()]))?;
        }
        Ok(())
    }

    /// Bytes of the first `tokens` of a span, in all layers.
    pub(crate) fn span_bytes(&self, tokens: usize) -> u64 {
        let of_layer: usize = self.layout.beginning(0, tokens).iter().map(Range::len).sum();
        (of_layer * self.layers.len()) as u64
    }

    /// The KV cache entries of a layer.
    pub(crate) fn entries(&self, layer: usize) -> KvEntries<'_> {
        KvEntries { layout: self.layout, bytes: &self.layers[layer % self.layers.len()] }
    }

    /// The entries of a layer, to be written.
    pub(crate) fn entries_mut(&mut self, layer: usize) -> (KvLayout, &mut [u8]) {
        let layers = self.layers.len();
        (self.layout, &mut self.layers[layer % layers])
    }
}

fn layout(of: &Hyperparameters, types: CacheTypes) -> Result<KvLayout> {
    let CacheTypes { k, v } = types;
    KvLayout::new(k, v, of.kv_heads, of.head_dim).ok_or_else(|| {
        Error::argument(format!("a KV cache of types {k} and {v}"), "is not supported; choose F32, F16 or Q8_0")
    })
}
