//! What a sequence leaves behind in every layer: the keys and values of its tokens, in half or single precision.

use crate::error::{Error, Result};
use crate::model::Shape;
use crate::random;
use strata_kernels::KvHead;
use strata_quant::{Format, GgmlType};

/// The keys and values of one sequence.
pub struct KvCache {
    layers: Vec<LayerCache>, // of all layers, or one that serves each in turn
    format: &'static Format,
    capacity: usize,
    len: usize,
    kv_heads: usize,
    head_dim: usize,
    padded_dim: usize,
}

struct LayerCache {
    k: Vec<u8>, // (kv_heads, capacity, padded_dim)
    v: Vec<u8>, // (kv_heads, capacity, padded_dim)
}

impl KvCache {
    /// Room for `capacity` tokens, in half precision.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub fn new(shape: &Shape, capacity: usize) -> Result<KvCache> {
        KvCache::with_type(shape, capacity, GgmlType::F16)
    }

    /// Room for `capacity` tokens as numbers of type F16 or F32.
    ///
    /// # Errors
    /// If the memory for it cannot be had, or the type is another.
    pub fn with_type(shape: &Shape, capacity: usize, ty: GgmlType) -> Result<KvCache> {
        KvCache::with_layers(shape, shape.layers, capacity, ty)
    }

    /// Room for `capacity` tokens in one layer, in half precision: every layer overwrites what the one before has left.
    ///
    /// # Errors
    /// If the memory for it cannot be had.
    pub(crate) fn one_layer(shape: &Shape, capacity: usize) -> Result<KvCache> {
        KvCache::with_layers(shape, 1, capacity, GgmlType::F16)
    }

    fn with_layers(shape: &Shape, layers: usize, capacity: usize, ty: GgmlType) -> Result<KvCache> {
        let Some(format) = ty.format().filter(|_| matches!(ty, GgmlType::F16 | GgmlType::F32)) else {
            return Err(Error::Request(format!("a cache of type {ty} is not supported; choose F16 or F32")));
        };
        let padded_dim = shape.attention().padded_dim();
        let cells = shape.kv_heads.checked_mul(capacity).and_then(|n| n.checked_mul(padded_dim * ty.block_bytes()));
        let room = || -> Option<Vec<u8>> {
            let (cells, mut room) = (cells?, Vec::new());
            room.try_reserve_exact(cells).ok()?;
            room.resize(cells, 0);
            Some(room)
        };
        let caches: Option<Vec<_>> = (0..layers).map(|_| Some(LayerCache { k: room()?, v: room()? })).collect();
        let layers = caches.ok_or_else(|| {
            let bytes = cells.unwrap_or(usize::MAX).saturating_mul(2).saturating_mul(layers);
            Error::Request(format!("no memory for a context of {capacity} tokens ({bytes} bytes); choose a smaller -c"))
        })?;
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        Ok(KvCache { layers, format, capacity, len: 0, kv_heads, head_dim, padded_dim })
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
        2 * self.layers.len() * self.kv_heads * self.padded_dim * self.format.ty.block_bytes()
            / self.format.ty.block_len()
    }

    /// Makes up tokens until there are `len`: random keys and values, as a pass would have left them. To measure speed at a depth this is
    /// as good as a prefill, which takes minutes where it takes moments: attention does the same operations whatever the numbers are,
    /// as long as they are ordinary ones.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn make_up(&mut self, len: usize) {
        const ROWS: usize = 7;
        let width = self.kv_heads * self.head_dim;
        let mut state = 1;
        let random: Vec<f32> = (0..ROWS * width).map(|_| random::normal(&mut state)).collect();
        let row = |i: usize| &random[i % ROWS * width..][..width];
        for layer in 0..self.layers.len() {
            for position in self.len..len {
                self.store(layer, position, row(position), row(position + 1 + layer));
            }
        }
        self.len = self.len.max(len);
    }

    /// After a pass stored `tokens` more in every layer.
    pub(crate) fn grow(&mut self, tokens: usize) {
        self.len += tokens;
        assert!(self.len <= self.capacity);
    }

    /// Writes the keys and values `(kv_heads, head_dim)` of the token at `position` in `layer`.
    pub(crate) fn store(&mut self, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        let (d, dp, capacity) = (self.head_dim, self.padded_dim, self.capacity);
        assert!(position < capacity && k.len() == self.kv_heads * d && v.len() == k.len());
        let layer = layer % self.layers.len();
        let LayerCache { k: k_cells, v: v_cells } = &mut self.layers[layer];
        let bytes = self.format.ty.block_bytes();
        for (cells, values) in [(k_cells, k), (v_cells, v)] {
            for (head, values) in values.chunks_exact(d).enumerate() {
                let at = (head * capacity + position) * dp * bytes;
                (self.format.encode)(values, None, &mut cells[at..at + d * bytes]);
            }
        }
    }

    /// What the token at `position` sees of a head: itself and all before it.
    pub(crate) fn head(&self, layer: usize, head: usize, position: usize) -> KvHead<'_> {
        let row = self.padded_dim * self.format.ty.block_bytes();
        let start = head * self.capacity * row;
        let range = start..start + (position + 1) * row;
        let cells = &self.layers[layer % self.layers.len()];
        KvHead { ty: self.format.ty, k: &cells.k[range.clone()], v: &cells.v[range] }
    }
}
