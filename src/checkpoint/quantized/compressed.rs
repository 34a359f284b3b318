//! Checkpoints of the library compressed-tensors (llm-compressor, formerly sparseml).
//!
//! `config_groups` describe how the weights of groups of modules are quantized; a matrix belongs to the first group that its tensors fit.
//! The scales `weight_scale` are one for the matrix, for each row, each group of columns in a row, or each block.
//!
//! * Floats of 8 bits: `weight`;
//! * whole numbers a byte each: `weight`, and `weight_zero_point` where they are not symmetric;
//! * whole numbers of a few bits in words: `weight_packed`, `weight_shape`, `weight_zero_point`, and `weight_g_idx` with the group of each
//!   column. Codes and zero points have `2^(bits - 1)` added, so that none is below 0.
//!
//! Source: compressed-tensors, `quantization/quant_args.py`, `quantization/lifecycle/forward.py` (`dequantize`) and `compressors/`.

use super::gptq::{group_index, group_size};
use super::numbers::SCALES;
use super::packed::{
    Grid, Layout, Packed, ScaleForm, Scales, ZeroForm, Zeros, contradicts, expect_dtype, expect_shape, required,
};
use super::{ORIGINAL, bitsandbytes, fp8};
use crate::checkpoint::json::{Object, shown};
use crate::checkpoint::weights::{Dtype, Part, Weights};
use crate::error::{Result, quoted};
use safetensors::Dtype as Stored;

const BYTES: Dtype = Dtype::Other(Stored::I8);
const WORDS: Dtype = Dtype::Other(Stored::I32);

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Compressed {
    groups: Vec<WeightArgs>,
}

/// How the weights of a group of modules are quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
struct WeightArgs {
    float: bool,
    bits: u32,
    symmetric: bool,
    strategy: Strategy,
}

/// Which values share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Strategy {
    Tensor,
    Channel,
    Group(usize),
    Block(usize, usize),
}

/// The formats whose tensors Strata knows.
const FORMATS: &[&str] =
    &["dense", "float-quantized", "int-quantized", "mixed-precision", "naive-quantized", "pack-quantized"];

impl Compressed {
    /// Of `quantization_config`.
    pub fn read(config: &Object<'_>) -> Result<Compressed> {
        format(config)?;
        if let Some(sparsity) = config.opt_object("sparsity_config")?
            && let Some(format) = sparsity.opt_text("format")?.filter(|format| *format != "dense")
        {
            return Err(sparsity.refused("format", format!("{} is not supported", quoted(format)), ORIGINAL));
        }
        if config.opt_object("transform_config")?.is_some_and(|transforms| transforms.keys().next().is_some()) {
            return Err(config.refused("transform_config", "rotated weights are not supported", ORIGINAL));
        }
        let Some(all) = config.opt_object("config_groups")? else {
            return Err(config.wrong("config_groups", "is missing"));
        };
        let mut groups = Vec::new();
        for name in all.keys() {
            let Some(group) = all.opt_object(name)? else { continue };
            format(&group)?;
            if let Some(weights) = group.opt_object("weights")? {
                groups.push(WeightArgs::read(&weights)?);
            }
        }
        groups.dedup();
        if groups.is_empty() {
            return Err(config.wrong("config_groups", "has no group with weights"));
        }
        Ok(Compressed { groups })
    }

    /// See [`super::Scheme::find`].
    pub fn find(&self, weights: &Weights, name: &str, shape: (usize, usize)) -> Result<Option<Packed>> {
        let part = |end: &str| weights.part(&format!("{name}_{end}"));
        if let Some(codes) = part("packed") {
            return self.packed(weights, name, codes, shape).map(Some);
        }
        if let Some((codes, float)) = fp8::codes(weights, name, shape)? {
            let scales = required(part("scale"), &codes, &format!("{name}_scale"))?;
            let args = self.group(&codes, |args| args.float, |args| args.strategy.fits(shape, &scales.shape))?;
            args.strategy.expect(shape, &scales)?;
            if let Some(zeros) = part("zero_point") {
                return Err(contradicts(&zeros, "a zero point of floats is not supported"));
            }
            return fp8::packed(codes, float, shape, Some(scales), args.strategy.grid(shape)).map(Some);
        }
        let Some(codes) = weights.part(name).filter(|codes| codes.dtype == BYTES) else { return Ok(None) };
        expect_shape(&codes, &[&[shape.0, shape.1]])?;
        let scales = required(part("scale"), &codes, &format!("{name}_scale"))?;
        let args = self.group(&codes, |args| !args.float, |args| args.strategy.fits(shape, &scales.shape))?;
        args.whole_numbers(weights, (name, shape), codes, bitsandbytes::signed_bytes(), scales).map(Some)
    }

    /// A matrix of whole numbers in words.
    fn packed(&self, weights: &Weights, name: &str, codes: Part, shape: (usize, usize)) -> Result<Packed> {
        let (rows, cols) = shape;
        let stated = format!("{name}_shape");
        let stated = required(weights.part(&stated), &codes, &stated)?;
        let sizes = match stated.bytes {
            8 | 16 => weights.read(&stated)?,
            _ => Vec::new(),
        };
        let is = match stated.dtype {
            Dtype::Other(Stored::I64) => sizes.as_chunks().0.iter().map(|&size| i64::from_le_bytes(size)).collect(),
            Dtype::Other(Stored::I32) => {
                sizes.as_chunks().0.iter().map(|&size| i32::from_le_bytes(size).into()).collect()
            }
            _ => Vec::new(),
        };
        if is != [rows as i64, cols as i64] {
            return Err(contradicts(&stated, format!("is {is:?} where config.json calls for [{rows}, {cols}]")));
        }
        let scales = format!("{name}_scale");
        let scales = required(weights.part(&scales), &codes, &scales)?;
        let of = |args: &WeightArgs| [rows, (cols * args.bits as usize).div_ceil(32)];
        let fits = |args: &WeightArgs| codes.shape == of(args) && args.strategy.fits(shape, &scales.shape);
        let args = self.group(&codes, |args| !args.float, fits)?;
        expect_dtype(&codes, &[WORDS])?;
        expect_shape(&codes, &[&of(&args)])?;
        let layout = Layout::RowStream { bits: args.bits, offset: args.offset() };
        let mut packed = args.whole_numbers(weights, (name, shape), codes, layout, scales)?;
        let column_groups = weights.part(&format!("{name}_g_idx"));
        column_groups.iter().try_for_each(|part| group_index(part, cols))?;
        (packed.column_groups, packed.read) = (column_groups, vec![stated]);
        Ok(packed)
    }

    /// The first group with `test` that `fits`, or else the first: what does not fit is then refused by its shape.
    fn group(
        &self,
        codes: &Part,
        test: impl Fn(&WeightArgs) -> bool,
        fits: impl Fn(&WeightArgs) -> bool,
    ) -> Result<WeightArgs> {
        let groups = || self.groups.iter().filter(|args| test(args));
        groups().find(|args| fits(args)).or(groups().next()).copied().ok_or_else(|| {
            let problem = format!("numbers of type {}, which no group of quantization_config has", codes.dtype.name());
            contradicts(codes, problem)
        })
    }
}

/// Refuses formats whose tensors Strata does not know.
fn format(object: &Object<'_>) -> Result<()> {
    match object.opt_text("format")?.filter(|format| !FORMATS.contains(format)) {
        Some(other) => Err(object.refused("format", format!("{} is not supported", quoted(other)), ORIGINAL)),
        None => Ok(()),
    }
}

impl WeightArgs {
    fn read(weights: &Object<'_>) -> Result<WeightArgs> {
        let bits = weights.opt_count("num_bits")?.unwrap_or(8);
        let float = match weights.opt_text("type")?.unwrap_or("int") {
            "float" if bits == 8 => true,
            "int" if (2..=8).contains(&bits) => false,
            kind => {
                let problem = format!("weights of {bits} bits of the type {} are not supported", quoted(kind));
                return Err(weights.refused("num_bits", problem, ORIGINAL));
            }
        };
        if let Some(dynamic) = weights.get("dynamic").filter(|dynamic| dynamic.as_bool() != Some(false)) {
            let problem = format!("weights whose scales are not stored are not supported: {}", shown(dynamic));
            return Err(weights.refused("dynamic", problem, ORIGINAL));
        }
        let symmetric = weights.opt_flag("symmetric")?.unwrap_or(true);
        Ok(WeightArgs { float, bits: bits as u32, symmetric, strategy: Strategy::read(weights)? }) // at most 8 bits
    }

    /// A matrix of whole numbers.
    fn whole_numbers(
        &self,
        weights: &Weights,
        (name, shape): (&str, (usize, usize)),
        codes: Part,
        layout: Layout,
        scales: Part,
    ) -> Result<Packed> {
        expect_dtype(&scales, SCALES)?;
        self.strategy.expect(shape, &scales)?;
        let zeros = format!("{name}_zero_point");
        let zeros = match weights.part(&zeros) {
            None if self.symmetric => None,
            part => Some(self.zeros(required(part, &codes, &zeros)?, shape)?),
        };
        Ok(Packed {
            kind: format!("compressed-tensors INT{}", self.bits),
            lossy: true,
            shape,
            codes,
            layout,
            scales: Some(Scales { part: scales, form: ScaleForm::Plain }),
            zeros,
            grid: self.strategy.grid(shape),
            column_groups: None,
            factor: None,
            read: Vec::new(),
        })
    }

    /// What is added to codes.
    fn offset(&self) -> f32 {
        (1 << (self.bits - 1)) as f32
    }

    /// The zero points of a matrix: bytes, or words along the rows.
    fn zeros(&self, part: Part, shape: (usize, usize)) -> Result<Zeros> {
        let (down, across) = self.strategy.grid(shape).groups(shape);
        if part.dtype == BYTES {
            self.strategy.expect(shape, &part)?;
            return Ok(Zeros { part, form: ZeroForm::Bytes });
        }
        expect_dtype(&part, &[WORDS, BYTES])?;
        expect_shape(&part, &[&[(down * self.bits as usize).div_ceil(32), across]])?;
        Ok(Zeros { part, form: ZeroForm::ColumnStream { bits: self.bits, offset: self.offset() } })
    }
}

impl Strategy {
    fn read(weights: &Object<'_>) -> Result<Strategy> {
        let group_size = group_size(weights)?;
        match (weights.opt_text("strategy")?, group_size) {
            (Some("tensor"), _) => Ok(Strategy::Tensor),
            (None, None) if weights.get("group_size").is_none() => Ok(Strategy::Tensor),
            (Some("channel"), _) | (None, None) => Ok(Strategy::Channel),
            (Some("group") | None, Some(n)) => Ok(Strategy::Group(n)),
            (Some("group"), None) => Err(weights.wrong("group_size", "is missing, which the strategy \"group\" needs")),
            (Some("block"), _) => {
                let sizes = weights.opt_list("block_structure")?.and_then(fp8::block_size);
                let Some((rows, cols)) = sizes else {
                    return Err(weights.wrong("block_structure", "must be two counts from 1 on"));
                };
                Ok(Strategy::Block(rows, cols))
            }
            (Some(other), _) => {
                let problem = format!("{} is not supported", quoted(other));
                Err(weights.refused("strategy", problem, ORIGINAL))
            }
        }
    }

    fn grid(self, shape: (usize, usize)) -> Grid {
        match self {
            Strategy::Tensor => Grid::whole(shape),
            Strategy::Channel => Grid::rows(shape.1),
            Strategy::Group(cols) => Grid::Blocks { rows: 1, cols },
            Strategy::Block(rows, cols) => Grid::Blocks { rows, cols },
        }
    }

    /// The shapes that scales of such a matrix may have.
    fn scale_shapes(self, shape: (usize, usize)) -> Vec<Vec<usize>> {
        let (down, across) = self.grid(shape).groups(shape);
        match self {
            Strategy::Tensor => vec![vec![1], vec![], vec![1, 1]],
            Strategy::Channel => vec![vec![down, 1], vec![down]],
            Strategy::Group(_) | Strategy::Block(..) => vec![vec![down, across]],
        }
    }

    /// An error unless the tensor has one of them.
    fn expect(self, shape: (usize, usize), part: &Part) -> Result<()> {
        let shapes = self.scale_shapes(shape);
        expect_shape(part, &shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn fits(self, shape: (usize, usize), scales: &[usize]) -> bool {
        self.scale_shapes(shape).iter().any(|known| known == scales)
    }
}
