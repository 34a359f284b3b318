//! The shapes of a matrix product `y = x w^T`: weights `(n, k)` as they lie in the file, activations `(m, k)`, results `(m, n)`.

use std::marker::PhantomData;
use std::ops::Range;
use strata_quant::{Activations, Format, GgmlType};

/// A weight matrix: `rows` rows of `cols` values in blocks, as they lie in the file.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) format: &'static Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    row_bytes: usize,
    head: &'a [u8], // the first rows
    tail: &'a [u8], // those after them, which may lie elsewhere
}

impl<'a> Matrix<'a> {
    /// `None` if Strata has no code for the type, the block length does not divide the columns, or `data` is not exactly the rows.
    pub fn new(ty: GgmlType, rows: usize, cols: usize, data: &'a [u8]) -> Option<Matrix<'a>> {
        Matrix::in_parts(ty, rows, cols, data, &[])
    }

    /// A matrix whose first rows lie in one place, `head`, and the others in another, `tail`; either may be empty. `None` as in
    /// [`Matrix::new`], or if `head` ends inside a row.
    pub fn in_parts(ty: GgmlType, rows: usize, cols: usize, head: &'a [u8], tail: &'a [u8]) -> Option<Matrix<'a>> {
        let (format, row_bytes) = (ty.format()?, ty.row_bytes(cols)?);
        let whole = row_bytes.checked_mul(rows)? == head.len().checked_add(tail.len())?;
        let cut = head.len().is_multiple_of(row_bytes);
        (whole && cut).then_some(Matrix { format, rows, cols, row_bytes, head, tail })
    }

    /// n, the rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// k, the values of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type of the blocks.
    pub fn ty(&self) -> GgmlType {
        self.format.ty
    }

    /// The blocks of row `r`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, r: usize) -> &'a [u8] {
        let head = self.head.len() / self.row_bytes.max(1);
        let (part, r) = if r < head { (self.head, r) } else { (self.tail, r - head) };
        &part[r * self.row_bytes..][..self.row_bytes]
    }

    /// The rows `range` as a matrix of their own.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn rows_in(&self, range: Range<usize>) -> Matrix<'a> {
        let cut = self.head.len() / self.row_bytes.max(1);
        let part = |bytes: &'a [u8], first: usize, end: usize| &bytes[first * self.row_bytes..end * self.row_bytes];
        let head = part(self.head, range.start.min(cut), range.end.min(cut));
        let tail = part(self.tail, range.start.max(cut) - cut, range.end.max(cut) - cut);
        Matrix { head, tail, rows: range.len(), ..*self }
    }

    /// Decodes row `r` to `(cols)` values.
    pub fn decode_row(&self, r: usize, values: &mut [f32]) {
        for (_, job) in self.jobs(r..r + 1) {
            (self.format.decode)(job.row(0), values);
        }
    }

    /// The rows `range` as jobs, one for each place that they lie in, with the rows that each is.
    pub(crate) fn jobs(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Job<'a>)> + use<'a> {
        let Matrix { format, row_bytes, head, tail, .. } = *self;
        let cut = head.len().checked_div(row_bytes).unwrap_or(0);
        let parts = [
            (0, head, range.start.min(cut)..range.end.min(cut)),
            (cut, tail, range.start.max(cut)..range.end.max(cut)),
        ];
        parts.into_iter().filter(|(_, _, rows)| !rows.is_empty()).map(move |(first, data, rows)| {
            let data = &data[(rows.start - first) * row_bytes..(rows.end - first) * row_bytes];
            (rows.clone(), Job { data, row_bytes, rows: rows.len(), format })
        })
    }
}

/// A thread's share of the weights: whole rows, one after the other.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    data: &'a [u8],
    row_bytes: usize,
    rows: usize,
    pub(crate) format: &'static Format,
}

impl<'a> Job<'a> {
    /// Rows of the job.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The blocks of row `r`.
    #[inline(always)]
    pub fn row(&self, r: usize) -> &'a [u8] {
        &self.data[r * self.row_bytes..(r + 1) * self.row_bytes]
    }
}

/// Where a job's results go: its rows of the result, which other threads write beside it.
#[derive(Clone, Copy)]
pub struct Out<'a> {
    base: *mut f32,
    columns: usize,
    stride: usize,
    rows: usize,
    shared: PhantomData<&'a [f32]>,
}

// SAFETY: an `Out` writes only its own rows, which no other `Out` of the same result has (`SharedOutput::rows`).
unsafe impl Send for Out<'_> {}

impl Out<'_> {
    /// Rows of the job.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Result of job row `row` for activation row `column`.
    #[inline(always)]
    pub fn set(&self, column: usize, row: usize, value: f32) {
        assert!(column < self.columns && row < self.rows);
        // SAFETY: no CPU feature; `base + column * stride + row` is inside the result by the assertion and `SharedOutput::rows`, and no
        // other thread has this row.
        unsafe { *self.base.add(column * self.stride + row) = value }
    }

    /// Where the result of job row `row` for activation row `column` is; it need not be there.
    #[inline(always)]
    pub fn place(&self, column: usize, row: usize) -> *const f32 {
        self.base.wrapping_add(column * self.stride + row)
    }

    /// Results of job rows `row..row + values.len()` for activation row `column`.
    #[inline(always)]
    pub fn set_run(&self, column: usize, row: usize, values: &[f32]) {
        assert!(column < self.columns && values.len() <= self.rows && row <= self.rows - values.len());
        // SAFETY: as in `set`, for each of the rows, which are neighbours; `values` is no part of the result, which is only written.
        unsafe {
            let at = self.base.add(column * self.stride + row);
            std::ptr::copy_nonoverlapping(values.as_ptr(), at, values.len());
        }
    }
}

/// A result `(m, n)` that several threads write, each its own range of n.
pub struct SharedOutput<'a> {
    base: *mut f32,
    m: usize,
    n: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: `SharedOutput` gives access only through `rows`, whose caller promises that ranges do not overlap.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// The whole of `y`, which is `(m, n)`.
    pub fn new(y: &'a mut [f32], m: usize, n: usize) -> SharedOutput<'a> {
        assert!(y.len() == m * n, "a result of {m} x {n} in {} values", y.len());
        SharedOutput { base: y.as_mut_ptr(), m, n, life: PhantomData }
    }

    /// One thread's rows.
    ///
    /// # Safety
    /// Ranges handed out at the same time must not overlap.
    pub unsafe fn rows(&self, range: Range<usize>) -> Out<'_> {
        assert!(range.start <= range.end && range.end <= self.n);
        // SAFETY: no CPU feature; the range is inside a row of the result by the assertion.
        let base = unsafe { self.base.add(range.start) };
        Out { base, columns: self.m, stride: self.n, rows: range.len(), shared: PhantomData }
    }
}

/// Every format on every instruction set: the format's own `dot`, a row and a column at a time.
pub fn by_dot(job: Job<'_>, x: &Activations, out: Out<'_>) {
    for r in 0..job.rows() {
        for c in 0..x.rows() {
            out.set(c, r, (job.format.dot)(job.row(r), x.row(job.format.activation, c)));
        }
    }
}
