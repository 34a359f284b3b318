//! What adapters make of the rows of one tensor of the base model.
//!
//! `W'[r][c] = W[r][c] + s * p`, `p = sum over k of B[r][k] * A[k][c]`: all of it in F32, each product rounded, k increasing from a zero, so
//! that the bits are those of every machine. Several adapters are added one after the other, in the order in which they are given.

use super::peft::Adapter;
use crate::checkpoint::Source;
use std::sync::Arc;

/// What becomes of a tensor, step by step.
#[derive(Default)]
pub(crate) struct Change {
    pub(super) steps: Vec<Step>,
}

/// A step.
pub(super) enum Step {
    /// Another tensor takes its place.
    Replace {
        /// The adapter that has it.
        adapter: Arc<Adapter>,
        /// Its name there.
        tensor: String,
    },
    /// `scale * B A` is added.
    Add {
        /// The adapter that has both.
        adapter: Arc<Adapter>,
        /// The name of `A`.
        a: String,
        /// The name of `B`.
        b: String,
        /// The length of a row of `B`.
        rank: usize,
        /// What the product is multiplied with.
        scale: f32,
        /// True if the product is the transposed matrix.
        embedding: bool,
    },
}

/// Columns that are summed together: they stay in the nearest cache.
const COLUMNS: usize = 1024;

impl Change {
    /// Bytes of memory that [`Change::of_rows`] takes for rows of `cols` values.
    pub fn memory(&self, cols: usize) -> u64 {
        let bytes = |step: &Step| match step {
            Step::Replace { .. } => 0,
            Step::Add { rank, .. } => 4 * (*rank as u64).saturating_mul(cols as u64 + 1),
        };
        self.steps.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The change of some rows, of `cols` values each.
    pub fn of_rows(&self, cols: usize) -> Changed<'_> {
        Changed { steps: self.steps.iter().map(|step| step.of_rows(cols)).collect() }
    }
}

impl Step {
    fn of_rows(&self, cols: usize) -> ChangedStep<'_> {
        match self {
            Step::Replace { adapter, tensor } => ChangedStep::Replace(adapter.tensor(tensor)),
            Step::Add { adapter, a, b, rank, scale, embedding } => {
                let (&rank, &scale, &embedding) = (rank, scale, embedding);
                let (a, b) = (adapter.tensor(a), adapter.tensor(b));
                let factor = match embedding {
                    false => decoded(&a, 0, rank * cols),
                    true => transposed(&decoded(&b, 0, cols * rank), rank),
                };
                let coefficients = if embedding { a } else { b };
                ChangedStep::Add { factor, coefficients, rank, scale, embedding }
            }
        }
    }
}

/// The change of some rows of a tensor.
pub(crate) struct Changed<'a> {
    steps: Vec<ChangedStep<'a>>,
}

enum ChangedStep<'a> {
    Replace(Source<'a>),
    Add {
        factor: Vec<f32>, // (rank, cols)
        coefficients: Source<'a>,
        rank: usize,
        scale: f32,
        embedding: bool,
    },
}

impl Changed<'_> {
    /// Changes the values of row `r`.
    pub fn apply(&self, r: usize, values: &mut [f32]) {
        let cols = values.len();
        for step in &self.steps {
            match step {
                ChangedStep::Replace(source) => decode(source, r * cols, values),
                ChangedStep::Add { factor, coefficients, rank, scale, embedding } => {
                    let of_row = match embedding {
                        false => decoded(coefficients, r * rank, *rank),
                        true => column(coefficients, r, *rank),
                    };
                    add(values, factor, &of_row, *scale);
                }
            }
        }
    }
}

/// `values += scale * (coefficients (rank) x factor (rank, cols))`.
fn add(values: &mut [f32], factor: &[f32], coefficients: &[f32], scale: f32) {
    let cols = values.len();
    for (block, values) in values.chunks_mut(COLUMNS).enumerate() {
        let mut product = [0.0f32; COLUMNS];
        let product = &mut product[..values.len()];
        for (&coefficient, row) in coefficients.iter().zip(factor.chunks_exact(cols)) {
            for (p, &x) in product.iter_mut().zip(&row[block * COLUMNS..]) {
                *p += coefficient * x;
            }
        }
        for (value, p) in values.iter_mut().zip(&*product) {
            *value += scale * p;
        }
    }
}

/// `len` values of a tensor from the one at `start` on.
fn decoded(source: &Source<'_>, start: usize, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    decode(source, start, &mut values);
    values
}

/// Fills `values` with those of a tensor from the one at `start` on.
fn decode(source: &Source<'_>, start: usize, values: &mut [f32]) {
    // An adapter with other numbers was refused.
    if let Some(format) = source.dtype.ggml().and_then(|ty| ty.format()) {
        let bytes = format.ty.block_bytes();
        (format.decode)(&source.data[start * bytes..(start + values.len()) * bytes], values);
    }
}

/// Column `c` of a tensor of `rows` rows.
fn column(source: &Source<'_>, c: usize, rows: usize) -> Vec<f32> {
    let cols = source.shape.last().copied().unwrap_or(1);
    (0..rows).map(|r| decoded(source, r * cols + c, 1)[0]).collect()
}

/// `(n, rank)` as `(rank, n)`.
fn transposed(values: &[f32], rank: usize) -> Vec<f32> {
    let n = values.len() / rank;
    (0..rank).flat_map(|k| (0..n).map(move |i| values[i * rank + k])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_summed_in_order_and_then_scaled() {
        let (cols, rank) = (2 * COLUMNS + 3, 5);
        let number = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
        let factor: Vec<f32> = (0..rank * cols).map(number).collect();
        let coefficients: Vec<f32> = (0..rank).map(|k| number(k + 7)).collect();
        let base: Vec<f32> = (0..cols).map(|c| number(c + 99)).collect();
        let mut values = base.clone();
        add(&mut values, &factor, &coefficients, 0.3);
        for c in 0..cols {
            let p = (0..rank).fold(0.0f32, |p, k| p + coefficients[k] * factor[k * cols + c]);
            assert_eq!(values[c].to_bits(), (base[c] + 0.3 * p).to_bits());
        }
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }
}
