//! The models that can be asked for, by name.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use strata::error::quoted;

/// A model that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its file, or its folder.
    pub path: PathBuf,
}

/// All of them. The first is the one that requests without a name mean.
#[derive(Clone, Debug, Default)]
pub struct Catalog(Vec<Entry>);

/// The most models of a folder.
const MOST: usize = 1000;

impl Catalog {
    /// The models of `-m [NAME=]FILE` and those in a folder.
    pub fn new(files: &[String], folder: Option<&Path>) -> Result<Catalog> {
        let mut catalog = Catalog::default();
        for file in files {
            // A file whose name has an equals sign is that file.
            let entry = match file.split_once('=') {
                Some((name, path)) if !Path::new(file).exists() => Entry { name: name.to_owned(), path: path.into() },
                _ => Entry { name: stem(Path::new(file))?, path: file.into() },
            };
            if !entry.path.exists() {
                bail!("there is no {}; check the path", entry.path.display());
            }
            catalog.add(entry)?;
        }
        if let Some(folder) = folder {
            let found = scan(folder)?;
            if found.is_empty() && files.is_empty() {
                bail!(
                    "{}: no GGUF file and no checkpoint folder in it; give another folder, or -m FILE",
                    folder.display()
                );
            }
            for entry in found {
                // One that was named with -m as well is there already.
                if !catalog.0.iter().any(|known| known.path == entry.path) {
                    catalog.add(entry)?;
                }
            }
        }
        Ok(catalog)
    }

    /// One model, whose name nobody has to know.
    pub fn one(path: &Path) -> Catalog {
        Catalog(vec![Entry { name: stem(path).unwrap_or_else(|_| "model".to_owned()), path: path.to_owned() }])
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        if entry.name.is_empty() || entry.name.len() > 200 || entry.name.contains(char::is_control) {
            bail!("{} is no name of a model; give one to it: -m NAME=FILE", quoted(&entry.name));
        }
        if self.find(&entry.name).is_some() {
            bail!("two models are named {}; give one of them another name: -m NAME=FILE", quoted(&entry.name));
        }
        self.0.push(entry);
        Ok(())
    }

    /// The model of this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    /// All models.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

/// The name of a file without its ending, and of a split one without its number.
fn stem(path: &Path) -> Result<String> {
    let path = if path.is_dir() { fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() };
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .context("the name of a model is not UTF-8; give one to it: -m NAME=FILE")?;
    Ok(without_number(name.strip_suffix(".gguf").unwrap_or(name)).0.to_owned())
}

/// `model-00002-of-00003` is part 2 of `model`.
fn without_number(stem: &str) -> (&str, Option<usize>) {
    let parse = || {
        let (rest, parts) = stem.rsplit_once("-of-")?;
        let (name, part) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(parts) && is_number(part)).then(|| (name, part.parse().ok()))
    };
    parse().unwrap_or((stem, None))
}

/// The GGUF files in a folder, of split ones the first part, and its checkpoint folders, by name.
fn scan(folder: &Path) -> Result<Vec<Entry>> {
    let mut found = BTreeMap::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for entry in entries.take(100 * MOST) {
        let path = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_model = match name.strip_suffix(".gguf") {
            Some(stem) => path.is_file() && without_number(stem).1.is_none_or(|part| part == 1),
            None => ["config.json", "params.json"].iter().any(|name| path.join(name).is_file()),
        };
        if is_model {
            found.insert(stem(&path)?, path);
        }
    }
    if found.len() > MOST {
        bail!("{}: more than {MOST} models; give another folder", folder.display());
    }
    Ok(found.into_iter().map(|(name, path)| Entry { name, path }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.gguf", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "note.txt", "x=y.gguf"] {
            fs::write(at(name), "").unwrap();
        }
        fs::create_dir_all(at("checkpoint")).unwrap();
        fs::write(at("checkpoint/config.json"), "{}").unwrap();
        fs::create_dir_all(at("empty")).unwrap();
        let names = |catalog: &Catalog| catalog.entries().iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        let file = |name: &str| at(name).to_str().unwrap().to_owned();
        let all = Catalog::new(&[], Some(folder.path())).unwrap();
        assert_eq!(names(&all), ["a", "b", "checkpoint", "x=y"]);
        assert!(all.find("a").unwrap().path.ends_with("a-00001-of-00002.gguf"));
        let some =
            Catalog::new(&[format!("big={}", file("b.gguf")), file("x=y.gguf"), file("checkpoint")], None).unwrap();
        assert_eq!(names(&some), ["big", "x=y", "checkpoint"]);
        let both = Catalog::new(&[file("b.gguf")], Some(folder.path())).unwrap();
        assert_eq!(names(&both), ["b", "a", "checkpoint", "x=y"]);
        for (files, words) in [
            (vec![file("b.gguf"), format!("b={}", file("x=y.gguf"))], "two models are named \"b\""),
            (vec![file("none.gguf")], "there is no"),
            (vec![format!("={}", file("b.gguf"))], "is no name"),
        ] {
            let error = Catalog::new(&files, None).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(Catalog::new(&[], Some(&at("empty"))).unwrap_err().to_string().contains("no GGUF file"));
    }
}
