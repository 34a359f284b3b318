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
    /// Type or mix of the weights; strata info lists them. Left out where --size, --bpw or --recipe gives the types
    #[arg(value_name = "TYPE", value_parser = Mix::from_name)]
    mix: Option<Mix>,
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Writes the quantized file.
    pub fn run(self) -> Result<()> {
        let input = Input::Gguf(Box::new(Gguf::open(&self.input)?));
        let mixes: Vec<Mix> = self.mix.into_iter().collect();
        let wanted = self.recipe.recipes(&mixes, None)?;
        let outputs: Vec<_> = [self.output].into_iter().zip(wanted).collect();
        self.recipe.make(&input, &outputs, None)
    }
}
