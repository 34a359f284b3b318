//! `strata completions` and `strata man`: what a shell and `man` know of the command, made of its own description.

use crate::output;
use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use std::fs;
use std::path::PathBuf;

/// Print completions for a shell
#[derive(clap::Args)]
pub struct Completions {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

impl Completions {
    /// Prints them; `command` is the whole one.
    pub fn run(self, mut command: Command) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "strata", &mut script);
        output::print(&String::from_utf8(script).context("completions are not UTF-8")?)
    }
}

/// Write man pages, one for each command, or print that of strata itself
#[derive(clap::Args)]
pub struct Man {
    /// Folder to write strata.1, strata-run.1, ... into
    folder: Option<PathBuf>,
}

impl Man {
    /// Writes them; `command` is the whole one.
    pub fn run(self, mut command: Command) -> Result<()> {
        command.build();
        let page = |command: &Command| -> Result<Vec<u8>> {
            let mut page = Vec::new();
            clap_mangen::Man::new(command.clone()).render(&mut page)?;
            Ok(page)
        };
        let Some(folder) = self.folder else {
            return output::print(&String::from_utf8(page(&command)?).context("a page is not UTF-8")?);
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", output::path(&folder)))?;
        let subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help");
        for of in [&command].into_iter().chain(subcommands) {
            let name = of.get_display_name().unwrap_or(of.get_name()).replace(' ', "-");
            let (path, of) = (folder.join(format!("{name}.1")), of.clone().name(name));
            fs::write(&path, page(&of)?).with_context(|| format!("cannot write {}", output::path(&path)))?;
        }
        Ok(())
    }
}
