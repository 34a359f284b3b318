//! From codes to values, a row at a time.

use super::numbers::Floats;
use super::packed::{AWQ_ORDER, Grid, Layout, Packed, ScaleForm, Scales, ZeroForm, Zeros, contradicts};
use crate::checkpoint::weights::Part;
use crate::error::{Allocation, Error, Result};
use std::sync::Arc;

/// Columns that are gathered at once.
const TILE: usize = 8;

/// What turns the codes of a matrix into values.
pub struct Unpacked {
    packed: Arc<Packed>,
    across: usize,     // groups of a row
    scales: Vec<f32>,  // (groups down, groups across)
    zeros: Vec<f32>,   // the same, or none
    columns: Vec<u32>, // the group of each column, or none
}

impl Unpacked {
    /// Of the bytes of [`Packed::sides`].
    pub(super) fn new(packed: Arc<Packed>, sides: &[Vec<u8>]) -> Result<Unpacked> {
        let (down, across) = packed.grid.groups(packed.shape);
        let mut sides = sides.iter();
        let scales = match &packed.scales {
            Some(of) => scales(of, &mut sides, (down, across))?,
            None => filled(down * across, 1.0)?,
        };
        let zeros = match (&packed.zeros, &packed.zeros.as_ref().and_then(|_| sides.next())) {
            (Some(of), Some(bytes)) => zeros(of, bytes, (down, across))?,
            _ => Vec::new(),
        };
        let columns = match (&packed.column_groups, &packed.column_groups.as_ref().and_then(|_| sides.next())) {
            (Some(of), Some(bytes)) => {
                let of_compressed_tensors = matches!(packed.layout, Layout::RowStream { .. });
                columns(of, bytes, across, of_compressed_tensors)?
            }
            _ => Vec::new(),
        };
        Ok(Unpacked { packed, across, scales, zeros, columns })
    }

    /// True if the codes of a row lie all over their tensor: then they must be gathered.
    pub fn is_transposed(&self) -> bool {
        self.packed.is_transposed()
    }

    /// Gathers the codes of some rows, a byte each, one row after the other, from those of a whole transposed tensor.
    pub fn gather(&self, rows: impl Iterator<Item = usize> + Clone, codes: &[u8], gathered: &mut Vec<u8>) {
        let (height, cols) = self.packed.shape;
        let words = codes.as_chunks().0;
        let word = |i: usize| words.get(i).map_or(0, |&word| u32::from_le_bytes(word));
        gathered.clear();
        gathered.resize(rows.clone().count() * cols, 0);
        let across = height.div_ceil(8);
        // A line of the cache has words of several rows, and comes from far: all that is wanted of it is taken at once.
        for first in (0..cols).step_by(TILE) {
            let tile = first..(first + TILE).min(cols);
            for (r, row) in rows.clone().zip(gathered.chunks_exact_mut(cols)) {
                let to = row[tile.clone()].iter_mut().zip(tile.clone());
                match self.packed.layout {
                    Layout::ColumnStream { bits } => to.for_each(|(to, c)| {
                        let (at, shift) = (c * bits as usize / 32, c as u32 * bits % 32);
                        let next = if shift + bits > 32 { word((at + 1) * height + r) } else { 0 };
                        let pair = u64::from(next) << 32 | u64::from(word(at * height + r));
                        *to = (pair >> shift) as u8 & (0xff >> (8 - bits));
                    }),
                    _ => {
                        let shift = awq_shift(r);
                        to.for_each(|(to, c)| *to = (word(c * across + r / 8) >> shift) as u8 & 15);
                    }
                }
            }
        }
    }

    /// The values of row `r`; `codes` are those of the row, gathered where [`Unpacked::is_transposed`].
    ///
    /// # Panics
    /// If `codes` or `values` have other lengths.
    pub fn row(&self, r: usize, codes: &[u8], values: &mut [f32]) {
        assert_eq!(values.len(), self.packed.shape.1);
        self.levels(codes, values);
        match self.packed.grid {
            Grid::Blocks { rows, .. } if !self.columns.is_empty() => {
                let first = r / rows * self.across;
                values
                    .iter_mut()
                    .zip(&self.columns)
                    .for_each(|(v, &group)| self.group(first + group as usize, std::slice::from_mut(v)));
            }
            Grid::Blocks { rows, cols } => {
                let first = r / rows * self.across;
                values.chunks_mut(cols).enumerate().for_each(|(i, values)| self.group(first + i, values));
            }
            Grid::Flat(size) => {
                let (mut at, mut rest) = (r * values.len(), &mut *values);
                while !rest.is_empty() {
                    let (now, later) = rest.split_at_mut((size - at % size).min(rest.len()));
                    self.group(at / size, now);
                    (at, rest) = (at + now.len(), later);
                }
            }
        }
        if let Some(factor) = self.packed.factor {
            values.iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// From levels to values of a group, or of a part of one.
    fn group(&self, group: usize, values: &mut [f32]) {
        let scale = self.scales[group];
        match self.zeros.get(group) {
            Some(zero) => values.iter_mut().for_each(|value| *value = (*value - zero) * scale),
            None => values.iter_mut().for_each(|value| *value *= scale),
        }
    }

    /// The levels of a row.
    fn levels(&self, codes: &[u8], levels: &mut [f32]) {
        let cols = self.packed.shape.1;
        let words = codes.as_chunks().0;
        let word = |i: usize| words.get(i).map_or(0, |&word| u32::from_le_bytes(word));
        match &self.packed.layout {
            Layout::Bytes(table) => {
                assert_eq!(codes.len(), cols);
                levels.iter_mut().zip(codes).for_each(|(level, &code)| *level = table[usize::from(code)]);
            }
            Layout::Halves(table) => {
                assert_eq!(codes.len() * 2, cols);
                for (levels, &code) in levels.chunks_exact_mut(2).zip(codes) {
                    levels[0] = table[usize::from(code >> 4)];
                    levels[1] = table[usize::from(code & 15)];
                }
            }
            Layout::RowStream { bits, offset } => stream(*bits, word, levels, |code| code as f32 - offset),
            Layout::ColumnStream { .. } | Layout::Awq => {
                assert_eq!(codes.len(), cols);
                levels.iter_mut().zip(codes).for_each(|(level, &code)| *level = f32::from(code));
            }
        }
    }
}

/// Where the four bits of row `r` lie in a word of AWQ.
fn awq_shift(r: usize) -> usize {
    4 * AWQ_ORDER.iter().position(|&row| row == r % 8).unwrap_or(0)
}

/// Fills `values` with what `value` makes of the codes of a stream of bits, up to 8 each.
fn stream(bits: u32, word: impl Fn(usize) -> u32, values: &mut [f32], value: impl Fn(u32) -> f32) {
    let (mut have, mut waiting, mut next) = (0, 0u64, 0);
    for to in values {
        if have < bits {
            waiting |= u64::from(word(next)) << have;
            (have, next) = (have + 32, next + 1);
        }
        *to = value(waiting as u32 & ((1 << bits) - 1));
        (waiting, have) = (waiting >> bits, have - bits);
    }
}

/// The scales `(down, across)` of their tensors, of which `sides` are the bytes.
fn scales<'a>(
    of: &Scales,
    sides: &mut impl Iterator<Item = &'a Vec<u8>>,
    (down, across): (usize, usize),
) -> Result<Vec<f32>> {
    let mut next = || sides.next().ok_or(Error::Internal("a tensor of scales was not read"));
    let scales = match &of.form {
        ScaleForm::Plain => floats(&of.part, next()?)?,
        ScaleForm::Transposed => {
            let (stored, mut scales) = (floats(&of.part, next()?)?, filled(down * across, 0.0)?);
            for (i, scale) in stored.into_iter().enumerate() {
                scales[i % down * across + i / down] = scale;
            }
            scales
        }
        ScaleForm::Nested { levels, absmax, block, offset } => {
            let (bytes, absmax) = (next()?, floats(absmax, next()?)?);
            let mut scales = filled(down * across, 0.0)?;
            for ((scales, bytes), absmax) in scales.chunks_mut(*block).zip(bytes.chunks(*block)).zip(absmax) {
                let scale = |&byte: &u8| levels[usize::from(byte)] * absmax + offset;
                scales.iter_mut().zip(bytes).for_each(|(to, byte)| *to = scale(byte));
            }
            scales
        }
    };
    match scales.iter().position(|scale| !scale.is_finite()) {
        Some(at) => Err(contradicts(&of.part, format!("scale {at} is {}, no finite number", scales[at]))),
        None => Ok(scales),
    }
}

/// The zero points `(down, across)` of the bytes of their tensor.
fn zeros(of: &Zeros, bytes: &[u8], (down, across): (usize, usize)) -> Result<Vec<f32>> {
    let mut zeros = filled(down * across, 0.0)?;
    let words = bytes.as_chunks().0;
    let word = |i: usize| words.get(i).map_or(0, |&word| u32::from_le_bytes(word));
    // One group across after the other, from which they come in the order of rows.
    let mut column = filled(down, 0.0)?;
    for i in 0..across {
        match of.form {
            ZeroForm::Bytes => {
                column.iter_mut().enumerate().for_each(|(r, zero)| *zero = f32::from(bytes[r * across + i] as i8));
            }
            ZeroForm::ColumnStream { bits, offset } => {
                stream(bits, |w| word(w * across + i), &mut column, |code| code as f32 - offset);
            }
            ZeroForm::RowStream { bits, plus } => {
                let width = (down * bits as usize).div_ceil(32);
                let mask = (1 << bits) - 1;
                stream(bits, |w| word(i * width + w), &mut column, |code| ((code + plus) & mask) as f32);
            }
            ZeroForm::Awq => {
                let width = down.div_ceil(8);
                let zero = |r: usize| word(i * width + r / 8) >> awq_shift(r) & 15;
                column.iter_mut().enumerate().for_each(|(r, to)| *to = zero(r) as f32);
            }
        }
        column.iter().enumerate().for_each(|(r, &zero)| zeros[r * across + i] = zero);
    }
    Ok(zeros)
}

/// The group of each column; none if a column has -1 where that says, as in compressed-tensors, that they are in order.
fn columns(of: &Part, bytes: &[u8], across: usize, minus_one_is_order: bool) -> Result<Vec<u32>> {
    let stored = bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
    if minus_one_is_order && stored.clone().any(|group| group == -1) {
        return Ok(Vec::new());
    }
    let group = |(column, group): (usize, i32)| match u32::try_from(group) {
        Ok(group) if (group as usize) < across => Ok(group),
        _ => Err(contradicts(of, format!("column {column} belongs to group {group}, of {across}"))),
    };
    stored.enumerate().map(group).collect()
}

fn floats(part: &Part, bytes: &[u8]) -> Result<Vec<f32>> {
    let reader = Floats::of(part.dtype).ok_or(Error::Internal("scales are of a type that is no float"))?;
    Ok(reader.values(bytes))
}

/// Memory for so many floats.
fn filled(n: usize, value: f32) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    let no_memory = |_| Error::OutOfMemory { what: Allocation::Conversion, bytes: 4 * n as u64 };
    values.try_reserve_exact(n).map_err(no_memory)?;
    values.resize(n, value);
    Ok(values)
}
