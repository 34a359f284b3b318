//! Encoding: a chunk of source rows is checked, permuted and encoded for every output that needs it.

use super::plan::{Stored, Tensor};
use super::target::Importance;
use crate::adapter::Changed;
use crate::arch::tensors::permuted_row;
use crate::checkpoint::quantized::Unpacked;
use crate::error::{Error, Result, quoted};
use rayon::prelude::*;
use std::path::Path;
use strata_kernels::Isa;
use strata_quant::{Format, GgmlType};

/// Values in a task of a thread.
const TASK: usize = 1 << 16;

/// Rows of a task where the codes of rows must be gathered, if there are as many.
pub const GATHERED: usize = 64;

/// The largest finite F16; values from 65520 on round to infinity.
const F16_MAX: f32 = 65504.0;

/// The bits of a float without its sign, and those of infinity; larger ones are NaN.
const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// Consecutive rows of a tensor in the order of the source: whole heads where the rows of a head are permuted.
pub struct RowChunk<'a> {
    /// The tensor.
    pub tensor: &'a Tensor,
    /// Where it is stored.
    pub stored: &'a Stored,
    /// The file it is in.
    pub path: &'a Path,
    /// The first row.
    pub first: usize,
    /// The number of rows.
    pub rows: usize,
    /// The bytes of the rows; of all rows of the tensor where it is transposed.
    pub bytes: &'a [u8],
    /// What makes values of them, where they are codes.
    pub unpacked: Option<&'a Unpacked>,
    /// What adapters make of the rows.
    pub changed: Option<&'a Changed<'a>>,
    /// The instructions to encode with.
    pub isa: Isa,
}

/// The encoding of a chunk for one output.
pub struct Encoding<'a> {
    /// The type.
    pub ty: GgmlType,
    /// What each column's errors weigh; see [`strata_quant::encode`].
    pub importance: Option<Importance<'a>>,
    /// `(rows, bytes of a row)`: where the blocks go.
    pub out: &'a mut [u8],
}

/// True if the rows of an output with that type are the bytes of the source.
pub fn is_copy(stored: &Stored, ty: GgmlType) -> bool {
    stored.is_as_written(ty) && stored.head_dim.is_none()
}

impl RowChunk<'_> {
    /// Checks that every value is finite, and encodes: `encodings` may be empty.
    ///
    /// # Errors
    /// Names the first row and column whose value cannot be stored, or the row and block whose importance is too large.
    pub fn encode(&self, encodings: &mut [Encoding<'_>]) -> Result<()> {
        let cols = self.tensor.cols;
        let rows = self.rows;
        let gather = self.unpacked.filter(|unpacked| unpacked.is_transposed());
        let task = (TASK / cols).max(gather.map_or(1, |_| GATHERED)).min(rows.max(1));
        let mut forms = Vec::with_capacity(encodings.len());
        let mut parts = Vec::with_capacity(encodings.len());
        for Encoding { ty, importance, out } in encodings {
            let row_bytes = self.row_bytes(*ty)?;
            forms.push(Form { format: self.format(*ty)?, importance: *importance, row_bytes });
            parts.push(out.chunks_mut(task * row_bytes));
        }
        let tasks: Vec<(usize, Vec<&mut [u8]>)> =
            (0..rows).step_by(task).map(|r| (r, parts.iter_mut().filter_map(Iterator::next).collect())).collect();
        let failed = tasks.into_par_iter().map_init(Default::default, |(values, gathered), (first, mut outs)| {
            let end = (first + task).min(rows);
            if let Some(unpacked) = gather {
                unpacked.gather((first..end).map(|r| self.first + self.source_row(r)), self.bytes, gathered);
            }
            for r in first..end {
                let source = match gather {
                    Some(_) => &gathered[(r - first) * cols..][..cols],
                    None => self.source(r),
                };
                self.encode_row(r, source, &forms, r - first, &mut outs, values)?;
            }
            Ok(())
        });
        // The first by row, whatever thread meets its own first.
        failed.find_map_first(Result::err).map_or(Ok(()), Err)
    }

    /// The row of the source chunk that becomes row `r` of the output chunk.
    fn source_row(&self, r: usize) -> usize {
        self.stored.head_dim.map_or(r, |head_dim| permuted_row(r, head_dim))
    }

    /// The bytes that row `r` of the output chunk is made of.
    fn source(&self, r: usize) -> &[u8] {
        let row_bytes = self.bytes.len() / self.rows;
        &self.bytes[self.source_row(r) * row_bytes..][..row_bytes]
    }

    /// Row `r` of the chunk, the `i`-th of its task, for each output.
    fn encode_row(
        &self,
        r: usize,
        source: &[u8],
        forms: &[Form<'_>],
        i: usize,
        outs: &mut [&mut [u8]],
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let from = self.stored.ty;
        let largest = match from {
            _ if forms.iter().any(|form| !self.stored.is_as_written(form.format.ty)) => {
                self.decode(r, source, values)?
            }
            GgmlType::F32 => largest32(source),
            GgmlType::BF16 => u32::from(largest16(source)) << 16,
            // What is infinity in half precision is infinity here.
            GgmlType::F16 if largest16(source) >= 0x7c00 => INFINITY,
            GgmlType::F16 => 0,
            other if other.format().is_none() => 0,
            _ => self.decode(r, source, values)?,
        };
        if largest >= INFINITY {
            self.decode(r, source, values)?;
            let c = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
            return Err(self.bad_value(r, c, values[c], from, self.damaged()));
        }
        for (form, out) in forms.iter().zip(outs) {
            let out = &mut out[i * form.row_bytes..][..form.row_bytes];
            if self.stored.is_as_written(form.format.ty) {
                out.copy_from_slice(source);
                continue;
            }
            let importance = form.importance_of(self.first + r, self.tensor);
            self.isa.encode(form.format.ty, values, importance.map(|importance| importance.weights), out);
            self.check(r, form.format, largest, importance, values, out)?;
        }
        Ok(())
    }

    /// Values of row `r` of the chunk, and the largest magnitude among them, as bits: not less than [`INFINITY`] if one is not finite.
    fn decode(&self, r: usize, source: &[u8], values: &mut Vec<f32>) -> Result<u32> {
        values.resize(self.tensor.cols, 0.0);
        match self.unpacked {
            Some(unpacked) => unpacked.row(self.first + self.source_row(r), source, values),
            None => (self.format(self.stored.ty)?.decode)(source, values),
        }
        if let Some(changed) = self.changed {
            changed.apply(self.first + self.source_row(r), values);
        }
        Ok(values.iter().fold(0, |largest, v| largest.max((v.to_bits() & MAGNITUDE) as i32)) as u32)
    }

    /// An error if what was encoded is not finite, as llama-quantize checks it: a value too large for the type, or importance too large for
    /// the search for scales. `largest` is the largest magnitude of `values`, as bits.
    fn check(
        &self,
        r: usize,
        to: &Format,
        largest: u32,
        importance: Option<Importance<'_>>,
        values: &[f32],
        out: &[u8],
    ) -> Result<()> {
        let len = to.ty.block_len();
        let block = match to.bad_block(out) {
            Some(block) => block,
            // Plain numbers hold every value up to here as it is.
            None if len > 1 || largest <= F16_MAX.to_bits() => return Ok(()),
            None => {
                let mut back = vec![0.0; values.len()];
                (to.decode)(out, &mut back);
                let Some(bad) = back.iter().position(|v| !v.is_finite()) else { return Ok(()) };
                bad
            }
        };
        if let Some(importance) = importance {
            let mut plain = vec![0; out.len()];
            self.isa.encode(to.ty, values, None, &mut plain);
            if to.bad_block(&plain).is_none() {
                return Err(self.bad_importance(r, block, to.ty, importance));
            }
        }
        let columns = block * len..(block + 1) * len;
        let c = columns.max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap_or(block * len);
        let remedy = if to.ty == GgmlType::BF16 { "choose the type f32" } else { "choose the type bf16" };
        Err(self.bad_value(r, c, values[c], to.ty, remedy))
    }

    /// The error of a block whose scale is finite without this importance.
    fn bad_importance(&self, r: usize, block: usize, ty: GgmlType, importance: Importance<'_>) -> Error {
        let row = self.first + self.source_row(r);
        let largest = importance.weights.iter().copied().fold(0.0, f32::max);
        let problem = format!(
            "row {row}, block {block}: the importance matrix is too large to find a finite scale of {ty} with: its largest mean square in \
             the row is {largest:e}"
        );
        let place = format!("tensor {}", quoted(&self.tensor.name));
        Error::invalid(importance.file, place, problem, "make the matrix again with strata calibrate or llama-imatrix")
    }

    fn damaged(&self) -> &'static str {
        match self.changed {
            None => "the source is damaged; get it again",
            Some(_) => "the source or an adapter is damaged, or an adapter is added too many times",
        }
    }

    fn bad_value(&self, r: usize, column: usize, value: f32, ty: GgmlType, remedy: &str) -> Error {
        let row = self.first + self.source_row(r);
        self.bad(format!("value {value} at row {row}, column {column} cannot be stored as {ty}"), remedy)
    }

    fn row_bytes(&self, ty: GgmlType) -> Result<usize> {
        ty.row_bytes(self.tensor.cols).ok_or_else(|| {
            self.bad(
                format!("the row length {} is not a multiple of the block size of {ty}", self.tensor.cols),
                "choose another type",
            )
        })
    }

    fn format(&self, ty: GgmlType) -> Result<&'static Format> {
        ty.format().ok_or_else(|| self.bad(format!("type {ty} is not supported"), "choose another type"))
    }

    fn bad(&self, problem: String, remedy: &str) -> Error {
        Error::invalid(self.path, format!("tensor {}", quoted(&self.stored.name)), problem, remedy)
    }
}

/// The format and importance of one output.
struct Form<'a> {
    format: &'static Format,
    importance: Option<Importance<'a>>,
    row_bytes: usize,
}

impl<'a> Form<'a> {
    /// The importance of the columns in row `r` of the tensor, whose rows are those of one matrix after the other.
    fn importance_of(&self, r: usize, tensor: &Tensor) -> Option<Importance<'a>> {
        let Importance { weights, file } = self.importance?;
        let matrix = r / (tensor.rows / (weights.len() / tensor.cols));
        Some(Importance { weights: &weights[matrix * tensor.cols..][..tensor.cols], file })
    }
}

/// The largest magnitude of numbers of 16 bits, as bits.
fn largest16(bytes: &[u8]) -> u16 {
    let numbers = bytes.as_chunks().0.iter().map(|&bytes| i16::from_le_bytes(bytes));
    numbers.fold(0, |largest, v| largest.max(v & 0x7fff)) as u16
}

/// The largest magnitude of numbers of 32 bits, as bits.
fn largest32(bytes: &[u8]) -> u32 {
    let numbers = bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
    numbers.fold(0, |largest, v| largest.max(v & MAGNITUDE as i32)) as u32
}
