//! GPTQ and AWQ: codes in words of 32 bits, `(inputs, outputs)` where the matrix is `(outputs, inputs)`, with a scale and a zero point for
//! each group of inputs of an output: the value is `(code - zero) * scale`.
//!
//! * GPTQ: `qweight` has a stream of bits along the inputs, `qzeros` one along the outputs, `g_idx` the group of each input. The first
//!   version of its files stores zero points less 1, in as many bits; `gptq_v2` as they are. Sources: AutoGPTQ, `nn_modules/qlinear`;
//!   GPTQModel, `utils/model.py` (`convert_gptq_v1_to_v2_format`).
//! * AWQ in the order of its GEMM: eight outputs a word, in both. Source: AutoAWQ, `modules/linear/gemm.py` and `utils/packing_utils.py`.

use super::ORIGINAL;
use super::numbers::SCALES;
use super::packed::{Grid, Layout, Packed, ScaleForm, Scales, ZeroForm, Zeros, expect_dtype, expect_shape, required};
use crate::checkpoint::json::{Object, shown};
use crate::checkpoint::weights::{Dtype, Part, Weights};
use crate::error::{Result, quoted};
use safetensors::Dtype as Stored;

const WORDS: &[Dtype] = &[Dtype::Other(Stored::I32), Dtype::Other(Stored::U32)];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Gptq {
    bits: u32,
    group_size: Option<usize>, // columns; all without
    order: Order,
}

#[derive(Clone, Debug)]
enum Order {
    Gptq { plus: u32, act_order: bool },
    Awq,
}

impl Gptq {
    /// Of a `quantization_config` of GPTQ.
    pub fn read(config: &Object<'_>) -> Result<Gptq> {
        let plus = match config.opt_text("checkpoint_format")? {
            None | Some("gptq") => 1,
            Some("gptq_v2") => 0,
            Some(other) => {
                let problem = format!("{} is not supported", quoted(other));
                return Err(config.refused("checkpoint_format", problem, ORIGINAL));
            }
        };
        if config.opt_flag("is_marlin_format")? == Some(true) {
            return Err(config.refused("is_marlin_format", "the order of Marlin is not supported", ORIGINAL));
        }
        if let Some(other) = config.opt_text("pack_dtype")?.filter(|dtype| *dtype != "int32") {
            return Err(config.refused("pack_dtype", format!("{} is not supported", quoted(other)), ORIGINAL));
        }
        if config.opt_object("dynamic")?.is_some_and(|modules| modules.keys().next().is_some()) {
            return Err(config.refused("dynamic", "settings of single modules are not supported", ORIGINAL));
        }
        let order = Order::Gptq { plus, act_order: config.opt_flag("desc_act")?.unwrap_or(false) };
        Ok(Gptq { bits: bits(config, &[2, 3, 4, 8])?, group_size: group_size(config)?, order })
    }

    /// Of a `quantization_config` of AWQ.
    pub fn read_awq(config: &Object<'_>) -> Result<Gptq> {
        for (key, known) in [("version", "gemm"), ("backend", "autoawq")] {
            if let Some(other) = config.opt_text(key)?.filter(|version| !version.eq_ignore_ascii_case(known)) {
                return Err(config.refused(key, format!("{} is not supported, only {known}", quoted(other)), ORIGINAL));
            }
        }
        Ok(Gptq { bits: bits(config, &[4])?, group_size: group_size(config)?, order: Order::Awq })
    }

    /// See [`super::Scheme::find`].
    pub fn find(&self, weights: &Weights, name: &str, shape: (usize, usize)) -> Result<Option<Packed>> {
        let Some(module) = name.strip_suffix(".weight") else { return Ok(None) };
        let Some(codes) = weights.part(&format!("{module}.qweight")) else { return Ok(None) };
        let part = |end: &str| weights.part(&format!("{module}.{end}"));
        let must = |end: &str| required(part(end), &codes, &format!("{module}.{end}"));
        let (scales, zeros) = (must("scales")?, must("qzeros")?);
        let (rows, cols) = shape;
        let grid = Grid::Blocks { rows: 1, cols: self.group_size.unwrap_or(cols) };
        let (_, groups) = grid.groups(shape);
        let words = |n: usize| (n * self.bits as usize).div_ceil(32);
        let (layout, form) = match self.order {
            Order::Gptq { plus, .. } => {
                expect_shape(&codes, &[&[words(cols), rows]])?;
                (Layout::ColumnStream { bits: self.bits }, ZeroForm::RowStream { bits: self.bits, plus })
            }
            Order::Awq => {
                expect_shape(&codes, &[&[cols, words(rows)]])?;
                (Layout::Awq, ZeroForm::Awq)
            }
        };
        [&codes, &zeros].into_iter().try_for_each(|part| expect_dtype(part, WORDS))?;
        expect_shape(&zeros, &[&[groups, words(rows)]])?;
        expect_dtype(&scales, SCALES)?;
        expect_shape(&scales, &[&[groups, rows]])?;
        let column_groups = match self.order {
            Order::Gptq { act_order: true, .. } => Some(must("g_idx")?),
            Order::Gptq { .. } => part("g_idx"),
            Order::Awq => None,
        };
        column_groups.iter().try_for_each(|part| group_index(part, cols))?;
        // Older writers gave every module a bias, of zeros where the model has none.
        let bias = part("bias").filter(|bias| bias.shape == [rows]);
        let mut read = Vec::new();
        if let Some(bias) = bias
            && weights.read(&bias)?.iter().all(|&byte| byte == 0)
        {
            read.push(bias);
        }
        let method = if matches!(self.order, Order::Awq) { "AWQ" } else { "GPTQ" };
        Ok(Some(Packed {
            kind: format!("{method} {} bits", self.bits),
            lossy: true,
            shape,
            codes,
            layout,
            scales: Some(Scales { part: scales, form: ScaleForm::Transposed }),
            zeros: Some(Zeros { part: zeros, form }),
            grid,
            column_groups,
            factor: None,
            read,
        }))
    }
}

/// An error unless the tensor can be the group of each column.
pub fn group_index(part: &Part, cols: usize) -> Result<()> {
    expect_dtype(part, &WORDS[..1])?;
    expect_shape(part, &[&[cols]])
}

fn bits(config: &Object<'_>, known: &[usize]) -> Result<u32> {
    match config.count("bits")? {
        bits if known.contains(&bits) => Ok(bits as u32), // at most 8
        bits => Err(config.refused("bits", format!("{bits} bits are not supported, only {known:?}"), ORIGINAL)),
    }
}

/// The columns of a group; `None` if a row is one group.
pub fn group_size(config: &Object<'_>) -> Result<Option<usize>> {
    match config.opt_i32("group_size")? {
        None | Some(-1) => Ok(None),
        Some(n) if n > 0 => Ok(Some(n as usize)), // above 0
        Some(n) => {
            Err(config.wrong("group_size", format!("must be a count from 1 on, or -1, is {}", shown(&n.into()))))
        }
    }
}
