//! Checkpoints of bitsandbytes.
//!
//! * NF4 and FP4: `weight` has two codes a byte, rows joined; a value is `quant_map[code] * absmax` with one absmax for each block of
//!   codes. With double quantization an absmax is `nested_quant_map[byte] * nested_absmax + nested_offset`. What the blocks are is told by
//!   JSON in the tensor `quant_state.bitsandbytes__nf4`.
//! * INT8: a value is `byte * SCB / 127` with one SCB for each row.
//!
//! Source: bitsandbytes, `functional.py` (`QuantState`, `dequantize_4bit`, `int8_vectorwise_dequant`) and `backends/default/ops.py`.

use super::packed::{Grid, Layout, Packed, ScaleForm, Scales, contradicts, expect_dtype, expect_shape, required};
use crate::checkpoint::json::{self, Object};
use crate::checkpoint::weights::{Dtype, Part, Weights};
use crate::error::Result;
use safetensors::Dtype as Stored;

/// 1 / 127, as bitsandbytes multiplies by it.
const BY_127: f32 = 1.0 / 127.0;

/// The most bytes of the JSON of a quant state; it has 170.
const STATE: u64 = 1 << 16;

/// See [`super::Scheme::find`].
pub fn find(weights: &Weights, name: &str, shape: (usize, usize)) -> Result<Option<Packed>> {
    let Some(codes) = weights.part(name) else { return Ok(None) };
    for kind in ["nf4", "fp4"] {
        if let Some(state) = weights.part(&format!("{name}.quant_state.bitsandbytes__{kind}")) {
            return four_bits(weights, codes, state, kind, shape).map(Some);
        }
    }
    if codes.dtype == Dtype::Other(Stored::I8) { eight_bits(weights, codes, shape).map(Some) } else { Ok(None) }
}

fn eight_bits(weights: &Weights, codes: Part, shape: (usize, usize)) -> Result<Packed> {
    let (rows, cols) = shape;
    let module = codes.name.strip_suffix(".weight").unwrap_or(&codes.name);
    let scb = required(weights.part(&format!("{module}.SCB")), &codes, &format!("{module}.SCB"))?;
    expect_shape(&codes, &[&[rows, cols]])?;
    expect_dtype(&scb, &[Dtype::F32])?;
    expect_shape(&scb, &[&[rows], &[rows, 1]])?;
    let mut read = Vec::new();
    if let Some(format) = weights.part(&format!("{module}.weight_format")) {
        // The other formats are those of GPUs that few have left.
        if format.bytes != 1 || weights.read(&format)? != [0] {
            return Err(contradicts(&format, "only rows one after the other (0) are supported"));
        }
        read.push(format);
    }
    Ok(Packed {
        kind: "bitsandbytes INT8".to_owned(),
        lossy: true,
        shape,
        codes,
        layout: signed_bytes(),
        scales: Some(Scales { part: scb, form: ScaleForm::Plain }),
        zeros: None,
        grid: Grid::rows(cols),
        column_groups: None,
        factor: Some(BY_127),
        read,
    })
}

/// A byte for each value, with a sign.
pub fn signed_bytes() -> Layout {
    Layout::Bytes(Box::new(std::array::from_fn(|code| f32::from(code as u8 as i8))))
}

fn four_bits(weights: &Weights, codes: Part, state: Part, kind: &str, shape: (usize, usize)) -> Result<Packed> {
    let (rows, cols) = shape;
    let of = |end: &str| {
        let name = format!("{}.{end}", codes.name);
        required(weights.part(&name), &codes, &name)
    };
    let (map, absmax) = (of("quant_map")?, of("absmax")?);
    let state_of = State::read(weights, &state, kind, shape)?;
    if !cols.is_multiple_of(2) || codes.bytes != (rows * cols / 2) as u64 {
        return Err(contradicts(&codes, format!("has {} bytes for {rows} x {cols} values of 4 bits", codes.bytes)));
    }
    let grid = Grid::Flat(state_of.block);
    let (_, blocks) = grid.groups(shape);
    expect_shape(&absmax, &[&[blocks], &[blocks, 1]])?;
    let mut read = vec![state, map.clone()];
    let form = match state_of.nested {
        None => {
            expect_dtype(&absmax, &[Dtype::F32])?;
            ScaleForm::Plain
        }
        Some((block, offset)) => {
            expect_dtype(&absmax, &[Dtype::Other(Stored::U8)])?;
            let (map, largest) = (of("nested_quant_map")?, of("nested_absmax")?);
            expect_dtype(&largest, &[Dtype::F32])?;
            expect_shape(&largest, &[&[blocks.div_ceil(block)], &[blocks.div_ceil(block), 1]])?;
            let levels = Box::new(table(weights, &map)?);
            read.push(map);
            ScaleForm::Nested { levels, absmax: largest, block, offset }
        }
    };
    Ok(Packed {
        kind: format!("bitsandbytes {}", kind.to_uppercase()),
        lossy: true,
        shape,
        layout: Layout::Halves(table(weights, &map)?),
        codes,
        scales: Some(Scales { part: absmax, form }),
        zeros: None,
        grid,
        column_groups: None,
        factor: None,
        read,
    })
}

/// A table of so many finite floats.
fn table<const N: usize>(weights: &Weights, part: &Part) -> Result<[f32; N]> {
    expect_dtype(part, &[Dtype::F32])?;
    expect_shape(part, &[&[N]])?;
    let bytes = weights.read(part)?;
    let (values, _) = bytes.as_chunks();
    let values: [f32; N] = std::array::from_fn(|i| f32::from_le_bytes(values[i]));
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(contradicts(part, format!("has the level {value}, no finite number"))),
        None => Ok(values),
    }
}

/// What the JSON of a matrix says.
struct State {
    block: usize,
    nested: Option<(usize, f32)>, // values of a block of absmax, and what is added
}

impl State {
    fn read(weights: &Weights, part: &Part, kind: &str, shape: (usize, usize)) -> Result<State> {
        if part.bytes > STATE {
            return Err(contradicts(part, format!("has {} bytes; at most {STATE} are possible", part.bytes)));
        }
        let text = weights.read(part)?;
        let parsed = json::parse(&text).map_err(|error| contradicts(part, format!("is not valid JSON ({error})")))?;
        let object = Object::of_file(&part.path, &parsed, &[])?.inside(&part.name);
        if object.opt_text("quant_type")? != Some(kind) {
            return Err(object.wrong("quant_type", format!("must be {kind}")));
        }
        let sizes: Option<Vec<_>> =
            object.opt_list("shape")?.map(|list| list.iter().map(|size| size.as_u64()).collect()).unwrap_or(None);
        if sizes != Some(vec![shape.0 as u64, shape.1 as u64]) {
            return Err(object.wrong("shape", format!("must be [{}, {}], as config.json calls for", shape.0, shape.1)));
        }
        let nested = match object.opt_count("nested_blocksize")? {
            None => None,
            Some(block) => {
                let Some(offset) = object.opt_f32("nested_offset")? else {
                    return Err(object.wrong("nested_offset", "is missing"));
                };
                Some((block, offset))
            }
        };
        Ok(State { block: object.count("blocksize")?, nested })
    }
}
