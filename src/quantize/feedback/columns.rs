//! A block of columns on its way through a sweep: its groups one after the other, 16 rows at a time.
//!
//! What the errors of the columns outside the block add to its targets has been summed by matrix products before (`round.rs`); what those inside
//! add to each other is added here, group by group.

use super::factor::Factor;
use std::array::from_fn as array;
use std::ops::Range;
use strata_kernels::Isa;
use strata_quant::{BlockScales, Codec, GgmlType, Grid, GroupMetric, GroupRows, LANES};

/// What a sweep over all columns is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// To round each group with regard to the errors of those before it.
    Feedback,
    /// To round each group again with regard to the errors of all others, where that is better.
    Descent,
}

impl Sweep {
    /// What an error in column `j` adds to the target of column `c`, `(c, j)`.
    pub fn adds(self, factor: &Factor) -> &[f32] {
        match self {
            Sweep::Feedback => &factor.carry,
            Sweep::Descent => &factor.moment,
        }
    }
}

/// A block of columns, and what its groups have to do with each other.
pub struct Columns<'a> {
    factor: &'a Factor,
    /// The type.
    pub ty: GgmlType,
    /// Its codec.
    pub codec: &'a Codec,
    /// What the block is rounded for.
    pub sweep: Sweep,
    /// The columns, of which the block is a part, that have heard of the errors of all outside: their places in the factor's order.
    pub span: Range<usize>,
    /// The place of the block's first column.
    first: usize,
    /// The number of its columns.
    width: usize,
    /// What an error in column `r` adds to the target of column `c`, `(columns, columns)`.
    adds: Vec<f32>,
    /// What errors in each group cost; `None` if nothing.
    metrics: Vec<Option<GroupMetric>>,
}

/// Some rows, at most [`LANES`]: all of their columns, but for `heard`.
pub struct SomeRows<'a> {
    /// The weights, in the factor's order.
    pub weights: &'a [f32],
    /// What the codes lack to the weights, in the factor's order.
    pub errors: &'a mut [f32],
    /// The codes, as in the file.
    pub codes: &'a mut [u8],
    /// The grids of all groups, as in the file.
    pub grids: &'a mut [Grid],
    /// The scales of all blocks, as in the file.
    pub scales: &'a mut [BlockScales],
    /// What errors add to the targets of the span, `(rows, columns of the span)`.
    pub heard: &'a mut [f32],
}

impl<'a> Columns<'a> {
    /// The columns at `places` in the order of the factor, which are whole groups and a part of `span`.
    pub fn new(
        factor: &'a Factor,
        (ty, codec): (GgmlType, &'a Codec),
        sweep: Sweep,
        span: &Range<usize>,
        places: Range<usize>,
    ) -> Columns<'a> {
        let (first, width, cols) = (places.start, places.len(), factor.cols());
        let all = sweep.adds(factor);
        let adds = (0..width * width).map(|i| all[(first + i % width) * cols + first + i / width]).collect();
        let metric = |place: usize| match sweep {
            Sweep::Feedback => Some(factor.metric(place..place + codec.group)),
            Sweep::Descent => factor.metric_alone(place..place + codec.group),
        };
        let metrics = places.step_by(codec.group).map(metric).collect();
        Columns { factor, ty, codec, sweep, span: span.clone(), first, width, adds, metrics }
    }

    /// The places of the block's columns.
    pub fn places(&self) -> Range<usize> {
        self.first..self.first + self.width
    }

    /// The places of the columns in the span that are rounded after the block.
    pub fn after(&self) -> Range<usize> {
        self.span.start..self.first
    }

    /// Rounds the groups of the block in some rows.
    pub fn round(&self, isa: Isa, mut rows: SomeRows<'_>) {
        for (g, metric) in self.metrics.iter().enumerate().rev() {
            if let Some(metric) = metric {
                self.round_group(isa, g * self.codec.group, metric, &mut rows);
            }
        }
    }

    /// Rounds the group that starts at column `start` of the block.
    fn round_group(&self, isa: Isa, start: usize, metric: &GroupMetric, rows: &mut SomeRows<'_>) {
        let Columns { factor, codec, first, width, .. } = *self;
        let (heard_cols, heard_first) = (self.span.len(), first - self.span.start);
        let (cols, of_block) = (factor.cols(), self.ty.block_len() / codec.group);
        let (groups, blocks) = (cols / codec.group, cols / self.ty.block_len());
        let group = factor.order[first + start] / codec.group;
        let (block, in_block) = (group / of_block, group % of_block);
        let n = rows.weights.len() / cols;
        let row = |lane: usize| lane.min(n - 1); // lanes without a row repeat the last one
        // The columns as they are rounded: from the last to the first.
        let columns = || (start..start + codec.group).rev();
        let tiles = |of: &[f32], stride: usize, before: usize| -> Vec<[f32; LANES]> {
            columns().map(|c| array(|lane| of[row(lane) * stride + before + c])).collect()
        };
        let (weights, errors) = (tiles(rows.weights, cols, first), tiles(rows.errors, cols, first));
        let mut carried = tiles(rows.heard, heard_cols, heard_first);
        let keep = self.sweep == Sweep::Descent;
        if keep {
            self.without_own(metric, start, &errors, &mut carried);
        }
        let mut scales = array(|lane| rows.scales[row(lane) * blocks + block]);
        let code = |c: usize| array(|lane| rows.codes[row(lane) * cols + factor.order[first + c]]);
        let mut codes: Vec<[u8; LANES]> = columns().map(code).collect();
        let given = GroupRows { weights: &weights, carried: &carried, scales: &mut scales, codes: &mut codes, keep };
        isa.round_given(codec, in_block, metric, given);
        for (r, scales) in scales.into_iter().enumerate().take(n) {
            let grid = (codec.grid)(&scales, in_block);
            (rows.scales[r * blocks + block], rows.grids[r * groups + group]) = (scales, grid);
            let heard = &mut rows.heard[r * heard_cols + heard_first..][..start];
            for ((c, codes), before) in columns().zip(&codes).zip(&errors) {
                let place = r * cols + first + c;
                let error = rows.weights[place] - grid.value(codes[r]);
                let new = if keep { error - before[r] } else { error };
                rows.errors[place] = error;
                rows.codes[r * cols + factor.order[first + c]] = codes[r];
                if new != 0.0 {
                    let adds = &self.adds[c * width..c * width + start];
                    heard.iter_mut().zip(adds).for_each(|(heard, adds)| *heard += new * adds);
                }
            }
        }
    }

    /// Makes of the gradients `e A` of a group, as its columns are rounded, what the errors of all others carry to it. With `h` the gradients
    /// less the group's own part and `U D U^T` its part of the moment, the loss is `sum D (e U + h U^-T D^-1)^2` and what does not depend on `e`.
    fn without_own(&self, metric: &GroupMetric, start: usize, errors: &[[f32; LANES]], carried: &mut [[f32; LANES]]) {
        let n = errors.len();
        let column = |c: usize| start + n - 1 - c; // which the `c`th is that is rounded
        for c in (0..n).rev() {
            let mut h = carried[c];
            for (j, error) in errors.iter().enumerate() {
                let of = self.adds[column(c) * self.width + column(j)];
                h.iter_mut().zip(error).for_each(|(h, error)| *h -= of * error);
            }
            for k in c + 1..n {
                let of = metric.carry[k * n + c];
                h.iter_mut().zip(&carried[k]).for_each(|(h, z)| *h -= of * z);
            }
            carried[c] = h;
        }
        carried.iter_mut().zip(&metric.pivots).for_each(|(z, d)| z.iter_mut().for_each(|z| *z /= d));
    }
}
