//! `strata convert`: a checkpoint to GGUF.

use super::lora::lora;
use super::recipe::{RecipeArgs, output_paths};
use crate::progress::{Shown, Unit};
use anyhow::Result;
use std::path::PathBuf;
use strata::adapter::Adapter;
use strata::convert::Input;
use strata::recipe::Mix;

/// Convert a checkpoint to GGUF, to one type or several in one read
///
/// The checkpoint is a folder of Hugging Face with config.json, tokenizer.json or tokenizer.model, and safetensors or PyTorch files; or of Meta
/// with params.json, tokenizer.model and consolidated.00.pth.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the checkpoint
    dir: PathBuf,
    /// The file to write; with several types a folder, or a name with {type} in it [default: NAME-TYPE.gguf in this folder]
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Type or mix of the weights; strata info lists them; may be given several times [default: bf16, unless --size, --bpw or --recipe gives
    /// the types]
    #[arg(short = 't', long = "type", value_name = "T", value_parser = Mix::from_name)]
    mixes: Vec<Mix>,
    /// The model's name in the file [default: from the model card or the folder]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Merge a LoRA adapter, a folder that PEFT has saved, SCALE times [default: once]; may be given several times
    #[arg(long, value_name = "ADAPTER[=SCALE]", value_parser = lora)]
    lora: Vec<(PathBuf, f64)>,
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Converts the checkpoint to every type.
    pub fn run(self) -> Result<()> {
        let mut input = Input::open(&self.dir)?;
        if !self.lora.is_empty() {
            let open = |(dir, scale): &(PathBuf, f64)| Adapter::open(dir, *scale, &Shown::new(Unit::Bytes));
            input.merge(self.lora.iter().map(open).collect::<strata::Result<_>>()?)?;
        }
        let wanted = self.recipe.recipes(&self.mixes, Some(Mix::from_name("bf16")?))?;
        let paths = output_paths(self.output, &input, &wanted)?;
        let outputs: Vec<_> = paths.into_iter().zip(wanted).collect();
        self.recipe.make(&input, &outputs, self.name)
    }
}
