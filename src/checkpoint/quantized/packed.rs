//! A matrix that a checkpoint stores as several tensors: codes, and what turns them into values.
//!
//! Every method that Strata reads is of one form: the value at row r and column c is `(level(code) - zero) * scale`, where the level is a
//! whole number or an entry of a table, and zero and scale belong to a group of values. The methods differ in where the codes lie
//! ([`Layout`]) and which values are a group ([`Grid`]).

use super::unpack::Unpacked;
use crate::checkpoint::weights::{Dtype, Part};
use crate::error::{Error, Result, quoted};
use std::sync::Arc;

/// A matrix and its tensors.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What it is called in messages and tables, as "FP8 E4M3".
    pub kind: String,
    /// True if few bits are left of each value, so that to quantize again is a loss to be accepted.
    pub lossy: bool,
    /// Rows and columns of the values.
    pub shape: (usize, usize),
    /// The codes.
    pub codes: Part,
    /// How they lie.
    pub layout: Layout,
    /// The scale of each group; 1 for all without.
    pub scales: Option<Scales>,
    /// The zero point of each group; 0 for all without.
    pub zeros: Option<Zeros>,
    /// Which values are a group.
    pub grid: Grid,
    /// The group of each column, `(columns)`, where columns are not grouped in their order.
    pub column_groups: Option<Part>,
    /// What the product is multiplied by at last.
    pub factor: Option<f32>,
    /// Tensors that were read when the checkpoint was opened: tables, shapes.
    pub read: Vec<Part>,
}

/// How codes lie in their tensor. "Along rows" means that neighbours in a row are neighbours in memory.
#[derive(Clone, Debug)]
pub enum Layout {
    /// A byte each, along rows, with the level of each byte.
    Bytes(Box<[f32; 256]>),
    /// Half a byte each, along rows, the upper half first, with the level of each half.
    Halves([f32; 16]),
    /// So many bits each, along rows, of which each starts with a new word; the level is the code less an offset. In a stream of bits the
    /// lowest bit of the first word of 32 bits comes first.
    RowStream {
        /// Bits of a code.
        bits: u32,
        /// The code of the level 0.
        offset: f32,
    },
    /// A stream of so many bits for each row, `(words, rows)`.
    ColumnStream {
        /// Bits of a code.
        bits: u32,
    },
    /// Four bits each, `(columns, words)`: a word has a column of eight rows, in the order of [`AWQ_ORDER`].
    Awq,
}

/// The row, of eight, that each four bits of a word of AWQ belong to, from the lowest on.
pub const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Which values share a scale and a zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grid {
    /// Blocks of so many rows and columns; those at the lower and right edges may be partial.
    Blocks {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        cols: usize,
    },
    /// So many values one after the other, rows joined.
    Flat(usize),
}

/// The scales of groups.
#[derive(Clone, Debug)]
pub struct Scales {
    /// Their tensor.
    pub part: Part,
    /// What it has.
    pub form: ScaleForm,
}

/// What the tensor of scales has.
#[derive(Clone, Debug)]
pub enum ScaleForm {
    /// Floats, `(groups down, groups across)`.
    Plain,
    /// Floats, `(groups across, groups down)`.
    Transposed,
    /// Bytes, quantized themselves: a scale is `levels[byte] * absmax + offset`, with one absmax for so many.
    Nested {
        /// The level of each byte.
        levels: Box<[f32; 256]>,
        /// The largest magnitudes.
        absmax: Part,
        /// Bytes that share one.
        block: usize,
        /// What is added.
        offset: f32,
    },
}

/// The zero points of groups.
#[derive(Clone, Debug)]
pub struct Zeros {
    /// Their tensor.
    pub part: Part,
    /// What it has.
    pub form: ZeroForm,
}

/// What the tensor of zero points has.
#[derive(Clone, Copy, Debug)]
pub enum ZeroForm {
    /// Bytes with a sign, `(groups down, groups across)`.
    Bytes,
    /// A stream of bits for each group across, `(words, groups across)`; the zero point is the code less an offset.
    ColumnStream {
        /// Bits of a code.
        bits: u32,
        /// The code of the zero point 0.
        offset: f32,
    },
    /// A stream of bits for each group across, `(groups across, words)`; the zero point is the sum of the code and this, in so many bits.
    RowStream {
        /// Bits of a code.
        bits: u32,
        /// What the writer has taken off: 1 in the first version of GPTQ's files.
        plus: u32,
    },
    /// Four bits each, `(groups across, words)`, as [`Layout::Awq`].
    Awq,
}

impl Packed {
    /// The tensors beside the codes, which must be read before the first row can be.
    pub fn sides(&self) -> impl Iterator<Item = &Part> {
        let scales = self.scales.iter().flat_map(|scales| {
            let nested = match &scales.form {
                ScaleForm::Nested { absmax, .. } => Some(absmax),
                _ => None,
            };
            std::iter::once(&scales.part).chain(nested)
        });
        scales.chain(self.zeros.iter().map(|zeros| &zeros.part)).chain(&self.column_groups).chain(&self.read)
    }

    /// All its tensors.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.codes).chain(self.sides())
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.parts().map(|part| part.bytes).sum()
    }

    /// True if the codes of a row lie all over their tensor, which must be in memory as a whole then.
    pub fn is_transposed(&self) -> bool {
        matches!(self.layout, Layout::ColumnStream { .. } | Layout::Awq)
    }

    /// Bytes that [`Unpacked`] takes, what it is made of included.
    pub fn side_memory(&self) -> u64 {
        let (down, across) = self.grid.groups(self.shape);
        let numbers = down as u64 * across as u64 * (1 + u64::from(self.zeros.is_some()));
        let columns = self.column_groups.as_ref().map_or(0, |_| self.shape.1 as u64);
        self.sides().map(|part| part.bytes).sum::<u64>() + 4 * (numbers + columns)
    }

    /// What turns codes into values, of the bytes of [`Packed::sides`] in their order.
    ///
    /// # Errors
    /// If a scale is no finite number, a column belongs to a group that is not there, or there is no memory.
    pub fn unpacked(self: &Arc<Packed>, sides: &[Vec<u8>]) -> Result<Unpacked> {
        Unpacked::new(self.clone(), sides)
    }
}

impl Grid {
    /// One group for the whole matrix.
    pub fn whole((rows, cols): (usize, usize)) -> Grid {
        Grid::Blocks { rows, cols }
    }

    /// A group for each row.
    pub fn rows(cols: usize) -> Grid {
        Grid::Blocks { rows: 1, cols }
    }

    /// The groups of a matrix, as many down and across.
    pub fn groups(self, shape: (usize, usize)) -> (usize, usize) {
        match self {
            Grid::Blocks { rows, cols } => (shape.0.div_ceil(rows), shape.1.div_ceil(cols)),
            Grid::Flat(values) => (1, (shape.0 * shape.1).div_ceil(values)),
        }
    }
}

/// A tensor that must be there because another is.
///
/// # Errors
/// If it is not.
pub fn required(part: Option<Part>, codes: &Part, name: &str) -> Result<Part> {
    part.ok_or_else(|| {
        let problem = format!("is missing, which tensor {} needs", quoted(&codes.name));
        let remedy = "the checkpoint is incomplete; download all its safetensors files";
        Error::invalid(&codes.path, format!("tensor {}", quoted(name)), problem, remedy)
    })
}

/// An error about a tensor that contradicts the configuration.
pub fn contradicts(part: &Part, problem: impl Into<String>) -> Error {
    let remedy = "config.json and the weights belong to different models; get them again";
    Error::invalid(&part.path, format!("tensor {}", quoted(&part.name)), problem, remedy)
}

/// An error unless the tensor has one of these shapes.
pub fn expect_shape(part: &Part, shapes: &[&[usize]]) -> Result<()> {
    if shapes.contains(&part.shape.as_slice()) {
        return Ok(());
    }
    let wanted: Vec<_> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
    let problem = format!("shape {:?} where quantization_config calls for {}", part.shape, wanted.join(" or "));
    Err(contradicts(part, problem))
}

/// An error unless the tensor has numbers of one of these types.
pub fn expect_dtype(part: &Part, dtypes: &[Dtype]) -> Result<()> {
    if dtypes.contains(&part.dtype) {
        return Ok(());
    }
    let wanted: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
    let problem =
        format!("numbers of type {} where quantization_config calls for {}", part.dtype.name(), wanted.join(" or "));
    Err(contradicts(part, problem))
}
