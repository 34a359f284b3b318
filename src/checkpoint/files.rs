//! Which files of a folder have the weights: those that an index lists, or those whose names say so.

use super::foreign;
use super::json::{Object, read_json};
use crate::error::{Error, Result, quoted};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The files of weights in a folder.
pub(super) struct Files {
    /// Their names.
    pub names: Vec<String>,
    /// The name of the index, which may not be there.
    pub index: &'static str,
    /// For every tensor of the index its file.
    pub tensors: BTreeMap<String, String>,
}

/// How a kind of files is called.
struct Kind {
    single: &'static str,
    index: &'static str,
    stem: &'static str,
    ending: &'static str,
}

/// The kinds, in the order in which they are looked for: a folder often has the same weights in both.
const KINDS: [Kind; 2] = [
    Kind { single: "model.safetensors", index: "model.safetensors.index.json", stem: "model-", ending: ".safetensors" },
    Kind { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json", stem: "pytorch_model-", ending: ".bin" },
];

impl Files {
    /// Finds them.
    ///
    /// # Errors
    /// If there are none, a numbered one is missing, or an index is broken.
    pub fn find(dir: &Path) -> Result<Files> {
        for kind in &KINDS {
            if let Some(files) = kind.find(dir)? {
                return Ok(files);
            }
        }
        if let Some(error) = foreign::folder(dir)? {
            return Err(error);
        }
        let path = dir.join(KINDS[0].single);
        Err(Error::invalid(&path, "file", "is missing", "download the checkpoint's safetensors files"))
    }
}

impl Kind {
    fn find(&self, dir: &Path) -> Result<Option<Files>> {
        let path = dir.join(self.index);
        if let Some(json) = read_json(&path)? {
            let tensors = weight_map(&Object::of_file(&path, &json, &[])?)?;
            let names: BTreeSet<String> = tensors.values().cloned().collect();
            return Ok(Some(Files { names: names.into_iter().collect(), index: self.index, tensors }));
        }
        let names = self.names(dir)?;
        let files = |names| Files { names, index: self.index, tensors: BTreeMap::new() };
        Ok(Some(names).filter(|names| !names.is_empty()).map(files))
    }

    /// The files of a folder without an index: the single one, or all numbered ones.
    fn names(&self, dir: &Path) -> Result<Vec<String>> {
        if dir.join(self.single).exists() {
            return Ok(vec![self.single.to_owned()]);
        }
        let names = numbered(dir, self.stem, self.ending)?;
        // A gap between the numbers is a file that was not downloaded.
        let total = names.first().and_then(|name| name.strip_suffix(self.ending)?.rsplit("-of-").next()?.parse().ok());
        for i in 1..=total.unwrap_or(0usize).min(99_999) {
            let name = format!("{}{i:05}-of-{:05}{}", self.stem, total.unwrap_or(0), self.ending);
            if !names.contains(&name) {
                let remedy = "download it into the checkpoint's folder";
                return Err(Error::invalid(&dir.join(name), "file", "the shard is missing", remedy));
            }
        }
        Ok(names.into_iter().collect())
    }
}

/// The files of a folder whose names start and end so.
pub(super) fn numbered(dir: &Path, stem: &str, ending: &str) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(stem) && name.ends_with(ending)).collect())
}

/// For every tensor of an index its file.
fn weight_map(file: &Object<'_>) -> Result<BTreeMap<String, String>> {
    let Some(map) = file.opt_object("weight_map")? else {
        return Err(file.wrong("weight_map", "the map from tensors to shards is missing"));
    };
    let mut tensors = BTreeMap::new();
    for tensor in map.keys() {
        let shard = map.opt_text(tensor)?.unwrap_or_default();
        if shard.is_empty() || shard.contains(['/', '\\']) || shard == ".." {
            return Err(map.wrong(tensor, format!("shard {} is no plain file name", quoted(shard))));
        }
        tensors.insert(tensor.to_owned(), shard.to_owned());
    }
    match tensors.is_empty() {
        true => Err(file.wrong("weight_map", "has no tensors")),
        false => Ok(tensors),
    }
}
