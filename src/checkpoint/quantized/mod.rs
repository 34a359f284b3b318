//! Checkpoints whose matrices are quantized already: what `quantization_config` says, and which tensors a matrix is made of.
//!
//! * `fp8.rs`, `compressed.rs`, `gptq.rs` (GPTQ and AWQ), `bitsandbytes.rs`: methods, from their configuration to a [`Packed`] matrix;
//! * `packed.rs`: a matrix as several tensors; `unpack.rs`: its values; `numbers.rs`: small number types.
//!
//! What a tensor is made of is decided by what the checkpoint has, and checked against what the configuration says: a module that the
//! configuration leaves out ("modules_to_not_convert", "ignore") has a plain weight.

mod bitsandbytes;
mod compressed;
mod fp8;
mod gptq;
mod numbers;
mod packed;
mod unpack;

pub use packed::Packed;
pub use unpack::Unpacked;

use super::json::Object;
use super::weights::Weights;
use crate::error::{Result, quoted};
use compressed::Compressed;
use fp8::Fp8;
use gptq::Gptq;
use packed::Grid;

/// The method of a checkpoint.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// Floats of 8 bits.
    Fp8(Fp8),
    /// The library compressed-tensors.
    Compressed(Compressed),
    /// GPTQ or AWQ.
    Gptq(Gptq),
    /// The library bitsandbytes, whose tensors say themselves what they are.
    BitsAndBytes,
}

/// Keys of `quantization_config` under which `null` means "absent".
const NULLABLE: &[&str] = &[
    "activation_scale_ub",
    "activation_scheme",
    "backend",
    "actorder",
    "block_structure",
    "checkpoint_format",
    "desc_act",
    "dynamic",
    "fmt",
    "format",
    "group_size",
    "ignore",
    "ignored_layers",
    "input_activations",
    "kv_cache_scheme",
    "modules_to_not_convert",
    "output_activations",
    "pack_dtype",
    "quant_algo",
    "scale_fmt",
    "sparsity_config",
    "strategy",
    "transform_config",
    "version",
    "weight_block_size",
    "weights",
    "zp_dtype",
    "scale_dtype",
];

const ORIGINAL: &str = "convert the original checkpoint (BF16, F16 or F32)";

/// Ends of names of tensors that only concern how activations and the KV cache are rounded at run time.
const OF_ACTIVATIONS: &[&str] = &[
    ".activation_scale",
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".k_scale",
    ".k_zero_point",
    ".kv_scale",
    ".output_scale",
    ".output_zero_point",
    ".q_scale",
    ".v_scale",
    ".v_zero_point",
];

impl Scheme {
    /// The method that a `quantization_config` describes.
    ///
    /// # Errors
    /// Names a method that Strata does not know, or a setting that it does not know or that cannot be.
    pub fn read(config: &Object<'_>) -> Result<Scheme> {
        let config = config.with_nullable(NULLABLE);
        let method = match config.opt_text("quant_method")? {
            Some(method) => method,
            // Older files of TensorRT Model Optimizer name the algorithm alone.
            None if config.get("quant_algo").is_some() => "modelopt",
            // As did those of bitsandbytes.
            None if ["load_in_8bit", "load_in_4bit"].iter().any(|key| config.get(key).is_some()) => "bitsandbytes",
            None => {
                return Err(config.refused(
                    "quant_method",
                    "is missing: the checkpoint is quantized, but not said how",
                    ORIGINAL,
                ));
            }
        };
        match method {
            "fbgemm_fp8" | "fp8" | "modelopt" => Ok(Scheme::Fp8(Fp8::read(&config, method)?)),
            "compressed-tensors" => Ok(Scheme::Compressed(Compressed::read(&config)?)),
            "gptq" => Ok(Scheme::Gptq(Gptq::read(&config)?)),
            "awq" => Ok(Scheme::Gptq(Gptq::read_awq(&config)?)),
            "bitsandbytes" | "bitsandbytes_4bit" | "bitsandbytes_8bit" => Ok(Scheme::BitsAndBytes),
            other => Err(config.refused("quant_method", format!("{} is not supported", quoted(other)), ORIGINAL)),
        }
    }

    /// The tensors of the matrix `name` with so many rows and columns; `None` if it is not quantized.
    ///
    /// # Errors
    /// If one is missing, or contradicts the configuration.
    pub fn find(&self, weights: &Weights, name: &str, shape: (usize, usize)) -> Result<Option<Packed>> {
        match self {
            Scheme::Fp8(fp8) => fp8.find(weights, name, shape),
            Scheme::Compressed(compressed) => compressed.find(weights, name, shape),
            Scheme::Gptq(gptq) => gptq.find(weights, name, shape),
            Scheme::BitsAndBytes => bitsandbytes::find(weights, name, shape),
        }
    }
}

/// A matrix of floats of 8 bits in a checkpoint that is not said to be quantized: its values are the floats, as where a checkpoint was
/// cast to them. Scales beside it are refused with all other tensors that do not belong to the model.
///
/// # Errors
/// If it has another shape.
pub fn plain_float8(weights: &Weights, name: &str, shape: (usize, usize)) -> Result<Option<Packed>> {
    let Some((codes, float)) = fp8::codes(weights, name, shape)? else { return Ok(None) };
    fp8::packed(codes, float, shape, None, Grid::whole(shape)).map(Some)
}

/// True if a tensor of this name changes no weight.
pub fn is_of_activations(name: &str) -> bool {
    OF_ACTIVATIONS.iter().any(|end| name.ends_with(end))
}
