//! Setting and deleting metadata of a GGUF file that exists.
//!
//! A change that leaves the length of the header and lies in one sector of a disk is written in place: a disk writes a sector as a whole, so
//! that no power cut leaves half of it. Everything else is a new file beside the old one, which takes its name when it is complete.

use crate::arch::Hyperparameters;
use crate::convert::check_overrides;
use crate::error::{Error, Result};
use crate::gguf::keys::{ALIGNMENT_KEY, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
use crate::gguf::{Gguf, Layout, TensorInfo, Value};
use crate::io::file::{Mapped, free_bytes, output_folder, write_at};
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;
use crate::progress::Progress;
use crate::split::copy;
use crate::tokenizer::Tokenizer;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Changes of a file's metadata.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Keys to set, with their values.
    pub set: Vec<Assignment>,
    /// Keys to delete.
    pub delete: Vec<String>,
}

/// A key to set.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The key.
    pub key: String,
    /// Its new value.
    pub value: Value,
    /// True if an integer or a float may have the length that the key's value has in the file.
    pub any_length: bool,
}

/// How a file was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It has these values already.
    Nothing,
    /// So many bytes of it were written in place.
    InPlace(usize),
    /// A new file of so many bytes took its name.
    Rewritten(u64),
}

/// Bytes that a disk writes as a whole: the smallest sector in use.
const SECTOR: usize = 512;

/// A planned change of a file.
pub struct Plan {
    gguf: Gguf,
    path: PathBuf, // of the file that carries the metadata, links followed
    layout: Layout,
    edit: Edit,
    range: Range<usize>, // of the header's bytes that change
    header: Vec<u8>,
}

/// Plans `changes` of the model at `path`; of a split one they are of the metadata of all, which its first file carries.
///
/// # Errors
/// If the file is none, a key is missing or cannot be set so, or a model that could be run could not any more.
pub fn plan(path: &Path, changes: &Changes) -> Result<Plan> {
    let gguf = Gguf::open(path)?;
    let Some(file) = gguf.files().next() else { return Err(Error::InMemory { doing: "changed" }) };
    // A rename would replace a link and not what it stands for.
    let path = file.path().canonicalize().map_err(Error::io("find", file.path()))?;
    let mut old = layout(&gguf)?;
    let mut new = old.clone();
    apply(&gguf, &mut new, changes)?;
    still_runs(&gguf, &new)?;
    let (was, placed) = (old.place()?, new.clone().place()?);
    let mut bytes = vec![0; was.header.len().min(file.bytes().len())];
    file.read_at(&mut bytes, 0)?;
    // A header that others have laid out in another way is not written into.
    let same_places = bytes == was.header && was.tensors == placed.tensors && was.header.len() == placed.header.len();
    let differs = |(a, b): (&u8, &u8)| a != b;
    let first = bytes.iter().zip(&placed.header).position(differs);
    let last = bytes.iter().zip(&placed.header).rposition(differs);
    let range = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
    let one_sector = range.start / SECTOR == range.end.saturating_sub(1) / SECTOR;
    let edit = match same_places {
        true if range.is_empty() => Edit::Nothing,
        true if one_sector && has_one_name(&path)? => Edit::InPlace(range.len()),
        _ => Edit::Rewritten(placed.file_bytes),
    };
    Ok(Plan { gguf, path, layout: new, edit, range, header: placed.header })
}

impl Plan {
    /// What [`Plan::run`] does.
    pub fn edit(&self) -> &Edit {
        &self.edit
    }

    /// The file that is changed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the file. `progress` counts bytes.
    ///
    /// # Errors
    /// If the file cannot be written or has changed meanwhile, another program writes it, the disk is full, or the user stopped. It is
    /// as it was then.
    pub fn run(self, progress: &dyn Progress) -> Result<Edit> {
        match self.edit {
            Edit::Nothing => {}
            Edit::InPlace(_) => self.in_place()?,
            Edit::Rewritten(bytes) => self.rewrite(bytes, progress)?,
        }
        Ok(self.edit)
    }

    fn in_place(&self) -> Result<()> {
        // Nobody else writes the file meanwhile; without a commit nothing but the claim is made.
        let claim = Outputs::claim("set", &self.path, vec![self.path.clone()], &Inputs::default())?;
        let file = fs::OpenOptions::new().write(true).open(&self.path).map_err(Error::io("write", &self.path))?;
        self.gguf.check()?;
        let wrote = write_at(&file, &self.header[self.range.clone()], self.range.start as u64);
        wrote.and_then(|()| file.sync_all()).map_err(Error::io("write", &self.path))?;
        drop(claim);
        Ok(())
    }

    fn rewrite(&self, bytes: u64, progress: &dyn Progress) -> Result<()> {
        if let Some(free) = free_bytes(&output_folder(&self.path)?).filter(|&free| free < bytes) {
            let problem = format!("the new file has {bytes} bytes, {free} are free");
            return Err(Error::invalid(&self.path, "disk", problem, "free some space"));
        }
        let permissions = fs::metadata(&self.path).map_err(Error::io("look at", &self.path))?.permissions();
        let own: Vec<&TensorInfo> = self.gguf.tensors().iter().filter(|tensor| tensor.part == 0).collect();
        progress.begin("rewriting", own.iter().map(|tensor| tensor.bytes).sum());
        let mut writer = self.layout.clone().create_beside("set", &self.path, &Inputs::default())?;
        copy(&self.gguf, own.into_iter(), &mut writer, progress)?;
        self.gguf.check()?;
        writer.finish()?;
        fs::set_permissions(&self.path, permissions).map_err(Error::io("set the permissions of", &self.path))?;
        progress.end();
        Ok(())
    }
}

/// The layout of the file of a model that has the metadata: the first.
fn layout(gguf: &Gguf) -> Result<Layout> {
    let mut layout = Layout::new();
    layout.alignment = gguf.u32(ALIGNMENT_KEY)?.unwrap_or(layout.alignment);
    layout.metadata = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let own = gguf.tensors().iter().filter(|tensor| tensor.part == 0);
    own.for_each(|tensor| layout.tensor(&tensor.name, &tensor.dims, tensor.ty));
    Ok(layout)
}

/// Puts the changes into a layout.
fn apply(gguf: &Gguf, layout: &mut Layout, changes: &Changes) -> Result<()> {
    let assigned = |one: &Assignment| {
        let old = gguf.metadata().get(&one.key).map(|value| value.to_owned());
        let value = old.filter(|_| one.any_length).and_then(|old| with_length_of(&old, &one.value));
        (one.key.clone(), value.unwrap_or_else(|| one.value.clone()))
    };
    let set: Vec<(String, Value)> = changes.set.iter().map(assigned).collect();
    check_overrides(layout, &set)?;
    for (i, key) in changes.delete.iter().enumerate() {
        let refuse = |problem: &str| Err(Error::MetadataRefused { key: key.clone(), problem: problem.to_owned() });
        if gguf.metadata().get(key).is_none() {
            return refuse("the file has no such key to delete");
        }
        if [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key.as_str()) && gguf.files().count() > 1 {
            return refuse("it says how the model is split; strata merge joins its files");
        }
        if changes.delete[..i].contains(key) {
            return refuse("it is to be deleted twice");
        }
        if set.iter().any(|(other, _)| other == key) {
            return refuse("it is to be both set and deleted");
        }
        layout.metadata.retain(|(other, _)| other != key);
        if key == ALIGNMENT_KEY {
            layout.alignment = Layout::new().alignment;
        }
    }
    set.into_iter().for_each(|(key, value)| layout.set(key, value));
    Ok(())
}

/// An integer or float as one of the same length as `old`, if it holds it.
fn with_length_of(old: &Value, new: &Value) -> Option<Value> {
    let integer: i128 = match *new {
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::U64(v) => v.into(),
        Value::F32(v) => return matches!(old, Value::F64(_)).then_some(Value::F64(v.into())),
        Value::F64(v) => return matches!(old, Value::F32(_)).then_some(Value::F32(v as f32)),
        _ => return None,
    };
    Some(match old {
        Value::U8(_) => u8::try_from(integer).ok()?.into(),
        Value::I8(_) => i8::try_from(integer).ok()?.into(),
        Value::U16(_) => u16::try_from(integer).ok()?.into(),
        Value::I16(_) => i16::try_from(integer).ok()?.into(),
        Value::U32(_) => u32::try_from(integer).ok()?.into(),
        Value::I32(_) => i32::try_from(integer).ok()?.into(),
        Value::U64(_) => u64::try_from(integer).ok()?.into(),
        Value::I64(_) => i64::try_from(integer).ok()?.into(),
        _ => return None,
    })
}

/// Refuses what makes of a model that Strata reads one that it does not.
fn still_runs(gguf: &Gguf, new: &Layout) -> Result<()> {
    let has_text = |gguf: &Gguf| gguf.metadata().get("tokenizer.ggml.tokens").is_some();
    let mut whole = new.clone();
    gguf.tensors().iter().filter(|tensor| tensor.part > 0).for_each(|t| whole.tensor(&t.name, &t.dims, t.ty));
    let files = gguf.files().map(|file| Mapped::open(file.path())).collect::<Result<Vec<_>>>()?;
    let changed = Gguf::over(gguf.path(), whole, gguf.tensors().to_vec(), files, Vec::new())?;
    if Hyperparameters::read(gguf).is_ok() {
        Hyperparameters::read(&changed).map_err(|error| refused(gguf, &error))?;
    }
    if has_text(gguf) && Tokenizer::from_gguf(gguf).is_ok() {
        Tokenizer::from_gguf(&changed).map_err(|error| refused(gguf, &error))?;
    }
    Ok(())
}

fn refused(gguf: &Gguf, error: &Error) -> Error {
    let (place, problem) = match error {
        Error::Invalid { place, problem, .. } => (place.clone(), problem.clone()),
        other => ("metadata".to_owned(), other.to_string()),
    };
    let problem = format!("the file could not be run any more: {problem}");
    Error::invalid(gguf.path(), place, problem, "choose another value, or leave the key as it is")
}

/// True if no hard link names the file too: a change in place would be one of that name as well.
fn has_one_name(path: &Path) -> Result<bool> {
    let about = fs::metadata(path).map_err(Error::io("look at", path))?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&about) == 1);
    #[cfg(not(unix))]
    return Ok(about.is_file());
}
