//! `strata quantize`: a GGUF model to one of another type.

use super::recipe::{RecipeArgs, make, parse_type};
use anyhow::Result;
use std::path::PathBuf;
use strata::GgmlType;
use strata::convert::{Input, Options, Target};
use strata::gguf::Gguf;

/// Write a GGUF file with the weights of another in another type
#[derive(clap::Args)]
pub struct Args {
    /// The model, a GGUF file; of a split one, any part
    input: PathBuf,
    /// The file to write
    output: PathBuf,
    /// Type of the weights; strata info lists them
    #[arg(value_name = "TYPE", value_parser = parse_type)]
    ty: GgmlType,
    /// Quantize weights that are quantized already, though that costs more quality than starting from the original
    #[arg(long)]
    allow_requantize: bool,
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Quantizes it.
    pub fn run(self) -> Result<()> {
        let input = Input::Gguf(Box::new(Gguf::open(&self.input)?));
        let options = Options { requantize: self.allow_requantize, ..self.recipe.options()? };
        make(&input, &[Target::new(self.output, self.ty)], &options)
    }
}
