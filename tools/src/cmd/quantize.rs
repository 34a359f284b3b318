//! `strata quantize`: a GGUF model to one of another type.

use super::recipe::RecipeArgs;
use anyhow::Result;
use std::path::PathBuf;
use strata::convert::Input;
use strata::gguf::Gguf;
use strata::recipe::Mix;

/// Write a GGUF model with the weights of another in another type
#[derive(clap::Args)]
pub struct Args {
    /// The model, a GGUF file; of a split one, any part
    input: PathBuf,
    /// The file to write
    output: PathBuf,
    /// Type or mix of the weights; strata info lists them
    #[arg(value_name = "TYPE", value_parser = Mix::from_name)]
    mix: Mix,
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Writes the quantized file.
    pub fn run(self) -> Result<()> {
        let input = Input::Gguf(Box::new(Gguf::open(&self.input)?));
        self.recipe.make(&input, &[(self.output, self.mix)], None)
    }
}
