//! The weights of one tensor: read, put in order, encoded and written, a slab of rows at a time.

use super::plan::{From, Tensor, source_row};
use crate::checkpoint::Source;
use crate::error::{Error, Result};
use crate::gguf::Writer;
use crate::progress::Progress;
use rayon::prelude::*;
use strata_quant::{Format, GgmlType};

/// Values in a slab: 32 MiB as `f32`, encoded by all threads together before it is written.
const SLAB: usize = 8 << 20;

/// The largest half; from 65520 on, rounding gives infinity.
const F16_MAX: f32 = 65504.0;

/// Writes the data of a tensor that the writer has begun.
pub fn write(tensor: &Tensor<'_>, writer: &mut Writer, progress: &dyn Progress) -> Result<()> {
    match &tensor.from {
        From::Computed(values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.write(&bytes)
        }
        From::Source { source, name, heads } => {
            let (rows, cols) = match *source.shape {
                [rows, cols] => (rows, cols),
                // A vector is a column where its rows are put in order, so that a bias goes with its matrix.
                [n] if heads.is_some() => (n, 1),
                _ => (1, source.data.len() / source.dtype.ggml().block_bytes()),
            };
            let job = Rows { source: *source, name, heads: *heads, rows, cols, ty: tensor.ty };
            job.write(writer, progress)
        }
    }
}

struct Rows<'a> {
    source: Source<'a>,
    name: &'a str,
    heads: Option<usize>,
    rows: usize,
    cols: usize,
    ty: GgmlType,
}

impl Rows<'_> {
    fn write(&self, writer: &mut Writer, progress: &dyn Progress) -> Result<()> {
        let row_bytes =
            self.ty.row_bytes(self.cols).ok_or_else(|| self.bad("rows are no whole blocks".into(), "report this"))?;
        let (from, to) = (self.format(self.source.dtype.ggml())?, self.format(self.ty)?);
        let slab = (SLAB / self.cols).clamp(1, self.rows);
        let mut out = vec![0; slab * row_bytes]; // (rows of the slab, row_bytes)
        for first in (0..self.rows).step_by(slab) {
            progress.check()?;
            let rows = slab.min(self.rows - first);
            let out = &mut out[..rows * row_bytes];
            out.par_chunks_exact_mut(row_bytes).enumerate().try_for_each_init(
                || vec![0.0; self.cols],
                |values, (i, out)| self.encode_row(first + i, from, to, values, out),
            )?;
            writer.write(out)?;
            progress.advance((rows * self.cols * from.ty.block_bytes()) as u64);
        }
        Ok(())
    }

    /// Row `r` of the file, from its row of the checkpoint.
    fn encode_row(&self, r: usize, from: &Format, to: &Format, values: &mut [f32], out: &mut [u8]) -> Result<()> {
        let at = self.heads.map_or(r, |heads| source_row(r, self.rows, heads));
        let row = self.cols * from.ty.block_bytes();
        let source = &self.source.data[at * row..(at + 1) * row];
        (from.decode)(source, values);
        if let Some(c) = values.iter().position(|v| !v.is_finite()) {
            return Err(self.bad_value(at, c, values[c], "the checkpoint is damaged; download it again"));
        }
        if from.ty == to.ty {
            out.copy_from_slice(source)
        } else {
            (to.encode)(values, None, out);
            // Up to here every type can hold every value, as itself or by a scale in half precision.
            if values.iter().any(|v| v.abs() > F16_MAX) {
                self.check_overflow(at, to, values, out)?;
            }
        }
        Ok(())
    }

    /// An error if values became infinite: the largest of the first block where that happened.
    fn check_overflow(&self, at: usize, to: &Format, values: &[f32], out: &[u8]) -> Result<()> {
        let mut back = vec![0.0; values.len()];
        (to.decode)(out, &mut back);
        let len = to.ty.block_len();
        let Some(bad) = back.iter().position(|v| !v.is_finite()) else { return Ok(()) };
        let block = bad / len * len..bad / len * len + len;
        let c = block.max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap_or(bad);
        let remedy = if to.ty == GgmlType::BF16 { "choose --type f32" } else { "choose --type bf16" };
        Err(self.bad_value(at, c, values[c], remedy))
    }

    fn bad_value(&self, row: usize, column: usize, value: f32, remedy: &str) -> Error {
        self.bad(format!("value {value} at row {row}, column {column} cannot be stored as {}", self.ty), remedy)
    }

    fn format(&self, ty: GgmlType) -> Result<&'static Format> {
        ty.format().ok_or_else(|| self.bad(format!("type {ty} cannot be written"), "choose another type"))
    }

    fn bad(&self, problem: String, remedy: &str) -> Error {
        Error::invalid(self.source.path, format!("tensor {:?}", self.name), problem, remedy)
    }
}
