//! What the kernels of attention are given, and the table of those for one type of KV cache entries; see `attention/mod.rs`.

/// Positions in a span, the unit in which attention walks a sequence.
pub const SPAN: usize = 256;

/// The query rows of a tile, in the order of tokens, then heads, and the span of positions that they attend to.
#[derive(Clone, Copy)]
pub struct QueryRows {
    /// `tokens * group`
    pub rows: usize,
    /// Rows of a token.
    pub group: usize,
    /// The position of the first token in its sequence.
    pub position: usize,
    /// The first position of the span.
    pub start: usize,
    /// Positions that a token attends to at most, itself the last of them.
    pub window: usize,
}

impl QueryRows {
    /// Positions of the span that the causal mask leaves row `r`.
    #[inline(always)]
    pub fn visible(&self, r: usize) -> usize {
        (self.position + r / self.group + 1).saturating_sub(self.start).min(SPAN)
    }

    /// The first of these that lie before the window of row `r`.
    #[inline(always)]
    pub fn before_window(&self, r: usize) -> usize {
        (self.position + r / self.group + 1).saturating_sub(self.window).saturating_sub(self.start).min(SPAN)
    }

    /// True if row `r` attends to no position of the span.
    #[inline(always)]
    pub fn sees_nothing(&self, r: usize) -> bool {
        self.before_window(r) >= self.visible(r)
    }

    /// The visible ones of the last row, which has most.
    #[inline(always)]
    pub fn most(&self) -> usize {
        self.visible(self.rows - 1)
    }
}

/// The job of `span::scores`.
pub struct Scores<'a> {
    /// The rows and their span.
    pub rows: QueryRows,
    /// Values of a head.
    pub d: usize,
    /// The factor of scores.
    pub scale: f32,
    /// `(rows, d)`
    pub q: &'a [f32],
    /// Keys of the span, in tiles.
    pub keys: &'a [u8],
    /// True if the keys are a widened copy, which needs no prefetching.
    pub copy: bool,
    /// `(rows, SPAN)`
    pub out: &'a mut [f32],
}

/// The job of `span::weighted_sum`.
pub struct WeightedSum<'a> {
    /// The rows and their span.
    pub rows: QueryRows,
    /// `(rows, SPAN)`
    pub p: &'a [f32],
    /// Values of the span, in rows.
    pub values: &'a [u8],
    /// Values of a head, padded to whole vectors.
    pub width: usize,
    /// True if the values are a widened copy, which needs no prefetching.
    pub copy: bool,
    /// `(rows, width)`
    pub out: &'a mut [f32],
}

/// The softmax and weighted sum of one span, or of all spans merged so far, before the division.
pub struct PartialSoftmax<'a> {
    /// `m (rows)`; minus infinity where no position was visible yet.
    pub peaks: &'a mut [f32],
    /// `l (rows)`
    pub sums: &'a mut [f32],
    /// `a (rows, width)`
    pub a: &'a mut [f32],
}

impl<'a> PartialSoftmax<'a> {
    /// Floats that a row takes.
    pub fn stride(width: usize) -> usize {
        width + 16
    }

    /// In `floats (rows, stride)`.
    pub fn new(floats: &'a mut [f32], rows: usize) -> PartialSoftmax<'a> {
        let (front, a) = floats.split_at_mut(16 * rows);
        let (peaks, sums) = front.split_at_mut(8 * rows);
        PartialSoftmax { peaks: &mut peaks[..rows], sums: &mut sums[..rows], a }
    }
}

/// Attention over KV cache entries of one type. Unsafe to call without the instruction set, and only for that reason.
pub struct KvKernels {
    /// See `span::scores`.
    pub scores: unsafe fn(Scores<'_>),
    /// See `span::weighted_sum`.
    pub weighted_sum: unsafe fn(WeightedSum<'_>),
    /// See `span::widen_keys`.
    pub widen_keys: unsafe fn(&[u8], usize, &mut [u8]),
    /// See `span::widen_values`.
    pub widen_values: unsafe fn(&[u8], usize, &mut [u8]),
}
