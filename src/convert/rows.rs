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
        // The largest half is 65504; from 65520 on, rounding gives infinity.
        let limit = if to.ty == GgmlType::F16 { 65_520.0 } else { f32::INFINITY };
        if let Some(c) = values.iter().position(|v| !(v.abs() < limit)) {
            let problem = format!("value {} at row {at}, column {c} cannot be stored as {}", values[c], to.ty);
            let remedy = if values[c].is_finite() {
                "choose --type bf16"
            } else {
                "the checkpoint is damaged; download it again"
            };
            return Err(self.bad(problem, remedy));
        }
        if from.ty == to.ty {
            out.copy_from_slice(source)
        } else {
            (to.encode)(values, out)
        }
        Ok(())
    }

    fn format(&self, ty: GgmlType) -> Result<&'static Format> {
        ty.format().ok_or_else(|| self.bad(format!("type {ty} cannot be written"), "choose another type"))
    }

    fn bad(&self, problem: String, remedy: &str) -> Error {
        Error::invalid(self.source.path, format!("tensor {:?}", self.name), problem, remedy)
    }
}
