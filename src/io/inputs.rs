//! The files that a command reads, so that it overwrites none of them.

use super::stamp::Identity;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use std::fs;
use std::path::Path;

/// Every file that a command reads: models and their parts, checkpoints, importance matrices, texts, files of types.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    files: Vec<(Identity, &'static str)>, // with a description for messages
}

impl Inputs {
    /// Adds a file; `what` describes it in messages, as "the text". A missing file is ignored.
    pub fn add(&mut self, path: &Path, what: &'static str) {
        self.files.extend(Identity::of(path).ok().map(|identity| (identity, what)));
    }

    /// Adds the files of a folder to a depth of two, except GGUF files: an earlier conversion may lie in the folder of its checkpoint, and
    /// may be replaced.
    pub fn add_folder(&mut self, folder: &Path, what: &'static str) {
        self.add_below(folder, what, 2);
    }

    fn add_below(&mut self, folder: &Path, what: &'static str, depth: u32) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() && depth > 1 {
                self.add_below(&path, what, depth - 1);
            } else if path.extension().is_none_or(|extension| extension != "gguf") {
                self.add(&path, what);
            }
        }
    }

    /// Adds all files of a model.
    pub fn add_model(&mut self, gguf: &Gguf) {
        gguf.files().for_each(|part| self.add(part.path(), "the model"));
    }

    /// Adds all files of another list.
    pub fn extend(&mut self, other: &Inputs) {
        self.files.extend(other.files.iter().cloned());
    }

    /// Refuses an `output` that is one of the inputs under any name, since the finished output would replace it.
    pub fn refuse(&self, output: &Path) -> Result<()> {
        // What does not exist yet replaces nothing.
        let Ok(target) = Identity::of(output) else { return Ok(()) };
        match self.files.iter().find(|(identity, _)| *identity == target) {
            Some((_, what)) => Err(Error::invalid(
                output,
                "output",
                format!("is {what} itself, and is the file that is read"),
                "name another file",
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_known_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["text", "other", "checkpoint.json", "earlier.gguf"] {
            fs::write(at(name), name).unwrap();
        }
        fs::create_dir(at("inner")).unwrap();
        fs::write(at("inner/template"), "").unwrap();
        fs::hard_link(at("text"), at("hard")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("text", at("soft")).unwrap();
        let mut inputs = Inputs::default();
        inputs.add(&at("text"), "the text");
        inputs.add(&at("missing"), "nothing");
        let said = |name: &str| inputs.refuse(&at(name)).unwrap_err().to_string();
        assert!(said("text").contains("is the text itself") && said("hard").contains("name another file"));
        #[cfg(unix)]
        assert!(said("soft").contains("is the text itself"));
        assert!(said("inner/../text").contains("is the text itself"));
        inputs.refuse(&at("other")).unwrap();
        inputs.refuse(&at("missing")).unwrap();

        let mut inputs = Inputs::default();
        inputs.add_folder(folder.path(), "a file of the checkpoint");
        for name in ["other", "checkpoint.json", "inner/template"] {
            assert!(inputs.refuse(&at(name)).is_err(), "{name}");
        }
        inputs.refuse(&at("earlier.gguf")).unwrap();
    }
}
