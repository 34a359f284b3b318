//! The weights that torch.save writes: a dictionary of tensors, whose numbers lie in the file as they are. Only where they lie is read here.
//!
//! * `zip.rs`: the archive that they are in since PyTorch 1.6; `pickle.rs`: the format of the dictionary; `objects.rs`: what is in it.
//!
//! ```text
//! NAME/data.pkl       {"lm_head.weight": tensor over storage "0", ...}    before 1.6 the same, one after the other:
//! NAME/byteorder      "little"                                            magic, version, system, {...}, ["0", ...] as pickles,
//! NAME/data/0         the numbers of storage "0"                          then of each storage its length in 8 bytes and its numbers
//! ```

mod objects;
mod pickle;
mod zip;

use super::Dtype;
use crate::error::{Error, Result, quoted};
use crate::io::content::{Content, content};
use crate::io::file::Mapped;
use objects::{Object, Storage, View};
use pickle::Pickle;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// The remedy for a damaged file.
const GET_AGAIN: &str = "download the file again";

/// A tensor of the file.
pub(super) struct TorchTensor {
    /// Its key in the dictionary.
    pub name: String,
    /// The type of its numbers; an error's words where weights cannot be of that type.
    pub dtype: std::result::Result<Dtype, &'static str>,
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    /// Its bytes in the file: rows one after the other.
    pub range: Range<usize>,
}

/// Finds the tensors of a file of torch.save, in the order of its dictionary.
///
/// # Errors
/// If the file is of another kind, cut off, contradicts itself, or wants anything executed; if a tensor is transposed or otherwise spread out.
pub(super) fn tensors(map: &Mapped) -> Result<Vec<TorchTensor>> {
    let (path, bytes) = (map.path(), map.bytes());
    match content(bytes) {
        Some(Content::Zip) => of_zip(map),
        Some(Content::Pickle) => of_pickles(path, bytes),
        Some(other) => Err(other.error(path, "a PyTorch file")),
        None => Err(Error::invalid(path, "file", "is not a PyTorch file (torch.save)", GET_AGAIN)),
    }
}

/// The storages of a file by their keys, each with the range of its bytes.
type Storages<'a> = HashMap<&'a str, Range<usize>>;

fn of_zip(map: &Mapped) -> Result<Vec<TorchTensor>> {
    let (path, bytes) = (map.path(), map.bytes());
    let bad = |place: String, problem: String| Error::invalid(path, place, problem, GET_AGAIN);
    let entries = zip::entries(path, bytes)?;
    let mut found = entries.iter().filter_map(|(name, range)| Some((name.strip_suffix("data.pkl")?, range)));
    let (Some((folder, dictionary)), None) = (found.next(), found.next()) else {
        return Err(bad("file".to_owned(), "the zip archive has no data.pkl, or several".to_owned()));
    };
    let in_folder = || entries.iter().filter_map(|(name, range)| Some((name.strip_prefix(folder)?, range)));
    if in_folder().any(|(name, _)| name == "constants.pkl" || name.starts_with("code/")) {
        let remedy = "save its state_dict() with torch.save, or get the model as safetensors";
        return Err(Error::invalid(path, "file", "is a TorchScript program, not a dictionary of weights", remedy));
    }
    if let Some((name, range)) = in_folder().find(|(name, _)| *name == "byteorder") {
        let order = &bytes[range.clone()];
        if order != b"little" {
            let order = String::from_utf8_lossy(&order[..order.len().min(20)]);
            let remedy = "load and save it again with torch.save on a little-endian machine";
            return Err(Error::invalid(path, name, format!("the byte order is {}", quoted(&order)), remedy));
        }
    }
    if dictionary.len() > pickle::LONGEST {
        let problem = format!("the pickle has {} bytes, at most {} are read", dictionary.len(), pickle::LONGEST);
        return Err(bad("data.pkl".to_owned(), problem));
    }
    // By a read and not through the map: a file cut short meanwhile is an error, not zeros.
    let mut text = vec![0; dictionary.len()];
    map.read_at(&mut text, dictionary.start as u64)?;
    let pickle = pickle::read(path, dictionary.start as u64, &text)?;
    let storages = in_folder().filter_map(|(name, range)| Some((name.strip_prefix("data/")?, range.clone()))).collect();
    State { path, pickle: &pickle, storages }.tensors()
}

/// The magic number 0x1950a86a20f9469cfc6c as a pickle, behind the byte of its protocol.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Bytes in front of [`MAGIC`]: the opcode of the protocol and its number.
const PROTOCOL: usize = 2;

fn of_pickles(path: &Path, bytes: &[u8]) -> Result<Vec<TorchTensor>> {
    let bad = |place: String, problem: String| Error::invalid(path, place, problem, GET_AGAIN);
    if !bytes.get(PROTOCOL..).is_some_and(|rest| rest.starts_with(MAGIC)) {
        let problem = "is a Python pickle, but none that torch.save has written";
        return Err(Error::invalid(path, "file", problem, "get the model as safetensors"));
    }
    let mut at = PROTOCOL + MAGIC.len();
    let mut next = || -> Result<Pickle<'_>> {
        let pickle = pickle::read(path, at as u64, &bytes[at..])?;
        at += pickle.bytes;
        Ok(pickle)
    };
    let version = next()?;
    if !matches!(version.objects[version.root as usize], Object::Int(1001)) {
        return Err(bad("file".to_owned(), "is of an unknown version of torch.save's older format".to_owned()));
    }
    let (system, pickle, keys) = (next()?, next()?, next()?);
    let text = |pickle: &Pickle<'_>, key: &str| match &pickle.objects[pickle.root as usize] {
        Object::Dict(dict) => dict.iter().any(|&(k, v)| {
            matches!(pickle.objects[k as usize], Object::Text(k) if k == key)
                && matches!(pickle.objects[v as usize], Object::Bool(false))
        }),
        _ => false,
    };
    if text(&system, "little_endian") {
        return Err(bad("file".to_owned(), "was written by a big-endian machine".to_owned()));
    }
    let Object::List(list) = &keys.objects[keys.root as usize] else {
        return Err(bad(format!("byte {at}"), "the list of storages is missing".to_owned()));
    };
    let mut sizes = HashMap::new();
    for object in &pickle.objects {
        if let Object::Storage(storage) = object {
            sizes.insert(storage.key, storage.numbers.bytes);
        }
    }
    let mut storages = Storages::new();
    for &key in list {
        let Object::Text(key) = keys.objects[key as usize] else {
            return Err(bad(format!("byte {at}"), "the key of a storage is not a text".to_owned()));
        };
        let cut = || bad(format!("byte {at}"), format!("the file is cut off in storage {}", quoted(key)));
        let Some(&size) = sizes.get(key) else {
            return Err(bad(
                format!("byte {at}"),
                format!("storage {} is in the file and not in its pickle", quoted(key)),
            ));
        };
        let len = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
        let start = at + len.len();
        let len = usize::try_from(u64::from_le_bytes(*len)).ok().and_then(|len| len.checked_mul(size));
        let end = len.and_then(|len| start.checked_add(len)).filter(|&end| end <= bytes.len()).ok_or_else(cut)?;
        storages.insert(key, start..end);
        at = end;
    }
    State { path, pickle: &pickle, storages }.tensors()
}

/// The dictionary of a file, and where its storages are.
struct State<'a> {
    path: &'a Path,
    pickle: &'a Pickle<'a>,
    storages: Storages<'a>,
}

impl State<'_> {
    fn tensors(&self) -> Result<Vec<TorchTensor>> {
        let root = self.object(self.pickle.root);
        let Object::Dict(dict) = root else {
            let problem = format!("is {}, not a dictionary of tensors", root.kind());
            return Err(self.bad("dictionary".to_owned(), problem));
        };
        let mut seen = HashSet::new();
        let tensor = |&(key, value): &(_, _)| {
            let Object::Text(name) = self.object(key) else {
                return Err(self.bad("dictionary".to_owned(), format!("a key is {}", self.object(key).kind())));
            };
            if !seen.insert(*name) {
                return Err(self.bad(format!("tensor {}", quoted(name)), "is there twice".to_owned()));
            }
            match self.object(value) {
                Object::Tensor(view) => self.tensor(name, view),
                other => {
                    let problem = format!("is {}, not a tensor", other.kind());
                    let remedy = "save the state_dict() of the model alone (torch.save)";
                    Err(Error::invalid(self.path, format!("key {}", quoted(name)), problem, remedy))
                }
            }
        };
        dict.iter().map(tensor).collect()
    }

    fn object(&self, at: objects::Ref) -> &Object<'_> {
        &self.pickle.objects[at as usize]
    }

    /// The tensor, checked against its storage and that against the file.
    fn tensor(&self, name: &str, view: &View) -> Result<TorchTensor> {
        let bad = |problem: String| self.bad(format!("tensor {}", quoted(name)), problem);
        let Object::Storage(Storage { key, numbers, len }) = *self.object(view.storage) else {
            return Err(Error::Internal("a tensor was made of something other than a storage"));
        };
        let Some(stored) = self.storages.get(key) else {
            return Err(bad(format!("its storage {} is not in the file", quoted(key))));
        };
        if (len as u128) * (numbers.bytes as u128) != stored.len() as u128 {
            let problem =
                format!("its storage {} has {} bytes where {len} numbers are said to be", quoted(key), stored.len());
            return Err(bad(problem));
        }
        if !view.is_contiguous() {
            let problem = format!("its numbers are not in order: shape {:?}, strides {:?}", view.shape, view.strides);
            let remedy = "save it as contiguous tensors (torch.save of {name: tensor.contiguous()})";
            return Err(Error::invalid(self.path, format!("tensor {}", quoted(name)), problem, remedy));
        }
        let end = view.len().and_then(|n| view.offset.checked_add(n as u64));
        if end.is_none_or(|end| end > len) {
            let problem =
                format!("shape {:?} from number {} on is beyond its storage of {len}", view.shape, view.offset);
            return Err(bad(problem));
        }
        // Within the storage, which is within the file.
        let (start, n) = (view.offset as usize * numbers.bytes, view.len().unwrap_or(0) * numbers.bytes);
        let range = stored.start + start..stored.start + start + n;
        Ok(TorchTensor {
            name: name.to_owned(),
            dtype: numbers.dtype.ok_or(numbers.name),
            shape: view.shape.clone(),
            range,
        })
    }

    fn bad(&self, place: String, problem: String) -> Error {
        Error::invalid(self.path, place, problem, GET_AGAIN)
    }
}
