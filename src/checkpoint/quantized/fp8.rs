//! Weights in floats of 8 bits, times a scale: the value is `float8 * scale`.
//!
//! * `fbgemm_fp8`, Meta's Llama 3.1 405B: `weight_scale`, one for each row;
//! * `fp8`: `weight_scale_inv` (in spite of its name multiplied) for blocks of `weight_block_size`, as DeepSeek's, or one for the matrix;
//!   `weight_scale` in the files of AutoFP8;
//! * `modelopt` of NVIDIA: `weight_scale`, one for the matrix or for each row.
//!
//! Sources: transformers, `integrations/fbgemm_fp8.py` and `finegrained_fp8.py`; vLLM, `quantization/fp8.py` and `modelopt.py`.

use super::ORIGINAL;
use super::numbers::{Float8, SCALES};
use super::packed::{Grid, Layout, Packed, ScaleForm, Scales, contradicts, expect_dtype, expect_shape, required};
use crate::checkpoint::json::Object;
use crate::checkpoint::weights::{Part, Weights};
use crate::error::{Result, quoted};
use serde_json::Value;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Fp8 {
    format: Option<Float8>,
    block: Option<(usize, usize)>,
    default_block: Option<(usize, usize)>, // where the configuration does not say whether there are blocks
    scales: &'static [&'static str],       // the ends of names that the scales may have
    per_matrix: bool,
    per_row: bool,
}

impl Fp8 {
    /// Of the method with this name.
    pub fn read(config: &Object<'_>, method: &str) -> Result<Fp8> {
        let format = match config.opt_text("fmt")? {
            None => None,
            Some("e4m3" | "float8_e4m3fn") => Some(Float8::E4M3),
            Some("e5m2" | "float8_e5m2") => Some(Float8::E5M2),
            Some(other) => return Err(config.refused("fmt", format!("{} is not supported", quoted(other)), ORIGINAL)),
        };
        let any =
            Fp8 { format, block: None, default_block: None, scales: &["_scale"], per_matrix: true, per_row: true };
        match method {
            "fbgemm_fp8" => Ok(Fp8 { per_matrix: false, ..any }),
            "fp8" => {
                let default_block = (!config.keys().any(|key| key == "weight_block_size")).then_some((128, 128));
                Ok(Fp8 { block: block(config)?, default_block, scales: &["_scale_inv", "_scale"], ..any })
            }
            _ => match config.opt_text("quant_algo")? {
                Some("FP8") => Ok(Fp8 { per_row: false, ..any }),
                Some("FP8_PER_CHANNEL_PER_TOKEN") => Ok(Fp8 { per_matrix: false, ..any }),
                other => {
                    let problem =
                        format!("{} is not supported", other.map_or("a missing algorithm".to_owned(), quoted));
                    Err(config.refused("quant_algo", problem, ORIGINAL))
                }
            },
        }
    }

    /// See [`super::Scheme::find`].
    pub fn find(&self, weights: &Weights, name: &str, shape: (usize, usize)) -> Result<Option<Packed>> {
        let Some((codes, float)) = codes(weights, name, shape)? else { return Ok(None) };
        if let Some(format) = self.format.filter(|format| *format != float) {
            return Err(contradicts(
                &codes,
                format!("is {} where quantization_config says {}", float.name(), format.name()),
            ));
        }
        let mut found = self.scales.iter().filter_map(|end| weights.part(&format!("{name}{end}")));
        let scales = required(found.next(), &codes, &format!("{name}{}", self.scales[0]))?;
        if let Some(second) = found.next() {
            return Err(contradicts(&second, format!("is a second scale beside {}", quoted(&scales.name))));
        }
        let (rows, cols) = shape;
        let block = self.block.or_else(|| {
            self.default_block.filter(|block| {
                let (down, across) = Grid::Blocks { rows: block.0, cols: block.1 }.groups(shape);
                scales.name.ends_with("_scale_inv") && scales.shape == [down, across]
            })
        });
        let grid = match block {
            Some((height, width)) => {
                let grid = Grid::Blocks { rows: height, cols: width };
                let (down, across) = grid.groups(shape);
                expect_shape(&scales, &[&[down, across]])?;
                grid
            }
            None => {
                let (matrix, row): (&[&[usize]], &[&[usize]]) = (&[&[], &[1], &[1, 1]], &[&[rows, 1], &[rows]]);
                let matrix = if self.per_matrix { matrix } else { &[] };
                let row = if self.per_row { row } else { &[] };
                expect_shape(&scales, &[row, matrix].concat())?;
                if matrix.contains(&scales.shape.as_slice()) { Grid::whole(shape) } else { Grid::rows(cols) }
            }
        };
        Ok(Some(packed(codes, float, shape, Some(scales), grid)?))
    }
}

/// The codes of a matrix of floats of 8 bits, if it is one.
///
/// # Errors
/// If it has another shape.
pub fn codes(weights: &Weights, name: &str, (rows, cols): (usize, usize)) -> Result<Option<(Part, Float8)>> {
    let Some(codes) = weights.part(name) else { return Ok(None) };
    let Some(float) = Float8::of(codes.dtype) else { return Ok(None) };
    if codes.shape != [rows, cols] {
        return Err(contradicts(
            &codes,
            format!("shape {:?} where config.json calls for {:?}", codes.shape, [rows, cols]),
        ));
    }
    Ok(Some((codes, float)))
}

/// A matrix of floats of 8 bits.
///
/// # Errors
/// If the scales are no floats.
pub fn packed(codes: Part, float: Float8, shape: (usize, usize), scales: Option<Part>, grid: Grid) -> Result<Packed> {
    if let Some(scales) = &scales {
        expect_dtype(scales, SCALES)?;
    }
    let (kind, layout) = (float.name().to_owned(), Layout::Bytes(float.values()));
    let scales = scales.map(|part| Scales { part, form: ScaleForm::Plain });
    Ok(Packed {
        kind,
        lossy: false,
        shape,
        codes,
        layout,
        scales,
        zeros: None,
        grid,
        column_groups: None,
        factor: None,
        read: Vec::new(),
    })
}

/// The rows and columns of a block, if the configuration has blocks.
fn block(config: &Object<'_>) -> Result<Option<(usize, usize)>> {
    let Some(sizes) = config.opt_list("weight_block_size")? else { return Ok(None) };
    match block_size(sizes) {
        Some(block) => Ok(Some(block)),
        None => Err(config.wrong("weight_block_size", "must be two counts from 1 on")),
    }
}

/// Two counts from 1 to 2^31.
pub fn block_size(sizes: &[Value]) -> Option<(usize, usize)> {
    let size = |value: &Value| value.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize); // at most 2^31
    match sizes {
        [rows, cols] => Some((size(rows)?, size(cols)?)),
        _ => None,
    }
}
