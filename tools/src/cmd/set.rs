//! `strata set`: metadata of a GGUF file.

use super::metadata_value::assignment;
use crate::output;
use crate::progress::{Shown, Unit};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use strata::edit::{Assignment, Changes, Edit, plan};
use strata::io::text;

/// Set and delete metadata keys of a GGUF file
///
/// A value of the same length is changed in place. Otherwise a new file is written beside the old one and takes its name, so that whatever
/// happens the file is the old or the new one. Of a split model the first file is changed.
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split one, any part
    file: PathBuf,
    /// Keys to set. TYPE is int, float, bool, str, one of GGUF's (u8 to f64), or one of these with [] for a list in JSON
    #[arg(value_name = "KEY=TYPE:VALUE", value_parser = assignment)]
    set: Vec<Assignment>,
    /// Set a key to the text of a file, as a chat template; may be given several times
    #[arg(long, value_name = "KEY=FILE", value_parser = from_file)]
    from_file: Vec<(String, PathBuf)>,
    /// Delete a key; may be given several times
    #[arg(long, value_name = "KEY")]
    delete: Vec<String>,
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Changes the file.
    pub fn run(self) -> Result<()> {
        let mut changes = Changes { set: self.set, delete: self.delete };
        for (key, file) in self.from_file {
            let value = text::read(&file, text::LIST, &Shown::new(Unit::Bytes))?.into();
            changes.set.push(Assignment { key, value, any_length: false });
        }
        if changes.set.is_empty() && changes.delete.is_empty() {
            bail!("nothing is to be changed; give KEY=TYPE:VALUE, --from-file or --delete KEY");
        }
        let plan = plan(&self.file, &changes)?;
        let path = plan.path().to_owned();
        let edit = if self.dry_run { plan.edit().clone() } else { plan.run(&Shown::new(Unit::Bytes))? };
        output::print_lines(&said(&path, &edit, self.dry_run))
    }
}

fn from_file(text: &str) -> Result<(String, PathBuf)> {
    let (key, file) = text.split_once('=').filter(|(key, _)| !key.is_empty()).context("must be KEY=FILE")?;
    Ok((key.to_owned(), file.into()))
}

fn said(path: &Path, edit: &Edit, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let how = match edit {
        Edit::Nothing => "has these values already".to_owned(),
        Edit::InPlace(bytes) => format!("{would}changed in place ({bytes} bytes)"),
        Edit::Rewritten(bytes) => format!("{would}written anew ({})", output::bytes(*bytes)),
    };
    format!("{}: {how}\n", output::path(path))
}
