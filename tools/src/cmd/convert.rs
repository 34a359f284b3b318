//! `strata convert`: a Hugging Face checkpoint to GGUF.

use super::recipe::{RecipeArgs, make, output_paths, parse_type};
use anyhow::Result;
use std::path::PathBuf;
use strata::GgmlType;
use strata::convert::{Input, Options, Target};

/// Convert a Hugging Face checkpoint (a folder of config.json, tokenizer.json, safetensors) to GGUF files, of one type or several in one
/// read
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the checkpoint
    dir: PathBuf,
    /// The file to write; with several types a folder, or a name with {type} in it [default: NAME-TYPE.gguf in this folder]
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Type of the weights; strata info lists them; may be given several times
    #[arg(short = 't', long = "type", value_name = "T", default_value = "bf16", value_parser = parse_type)]
    types: Vec<GgmlType>,
    /// The model's name in the file [default: from the model card or the folder]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Converts it.
    pub fn run(self) -> Result<()> {
        let input = Input::open(&self.dir)?;
        let paths = output_paths(self.output, &input, &self.types)?;
        let targets: Vec<_> = paths.into_iter().zip(&self.types).map(|(path, &ty)| Target::new(path, ty)).collect();
        make(&input, &targets, &Options { name: self.name, ..self.recipe.options()? })
    }
}
