//! The journal of an output: what it is to be, and what of it is done.
//!
//! Lines of JSON in `NAME.partial.journal`. The first says what decides the bytes ([`Head`]); then comes one for each finished tensor and
//! each source file read to its end, in the order in which that happened. A line is only a claim until the bytes in the `.partial` have
//! the SHA-256 that it names: so nothing depends on the order in which the system brings file and journal to the disk.

use crate::error::{Error, Result};
use crate::io::file::with_ending;
use crate::io::hash::Digest;
use crate::io::stamp::Stamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What is to be made, from what. Conversions with equal heads, sources aside, make equal bytes of equal sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The version of the journal's form.
    pub journal: u32,
    /// All that was asked for.
    pub recipe: Map<String, Json>,
    /// Of each metadata key the SHA-256 of its value.
    pub metadata: BTreeMap<String, Digest>,
    /// The files of the source.
    pub sources: Vec<SourceHead>,
    /// The tensors, in file order.
    pub tensors: Vec<TensorHead>,
}

/// A file of the source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceHead {
    /// Its name without folders.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of its beginning.
    pub head: Digest,
}

/// A tensor of the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorHead {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: String,
    /// The part of the output that has it.
    pub part: usize,
    /// Where it starts in that.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// A line after the first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// A tensor is written.
    Tensor(Finished),
    /// A file of the source was read to its end.
    Source(FileRead),
    /// All is written: what remains is the name.
    Complete(bool),
}

/// A written tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// Its name.
    pub name: String,
    /// The SHA-256 of its bytes in the output.
    pub sha256: Digest,
    /// The SHA-256 of the source file from its start to the end of what this tensor was made of; none if it was computed.
    pub source: Option<Digest>,
}

/// A source file read to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileRead {
    /// Its name.
    pub name: String,
    /// The SHA-256 of the whole file.
    pub sha256: Digest,
    /// What it was then.
    pub stamp: Stamp,
}

/// The version of the form.
pub const VERSION: u32 = 1;

/// A journal of a hundred thousand tensors is smaller.
const LONGEST: u64 = 64 << 20;

/// What a journal says.
pub struct Record {
    /// What was to be made.
    pub head: Head,
    /// The tensors that are done, by name.
    pub finished: BTreeMap<String, Finished>,
    /// The files that were read, by name.
    pub read: BTreeMap<String, FileRead>,
    /// True if only the name is missing.
    pub complete: bool,
    bytes: u64, // up to the end of the last whole line
}

/// An open journal, which no other process has.
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Where the journal of an output lies.
    pub fn path_for(output: &Path) -> PathBuf {
        with_ending(output, ".partial.journal")
    }

    /// Opens or creates the journal at `path` and locks it; `output` is for errors.
    ///
    /// # Errors
    /// If another process has it.
    pub fn lock(path: &Path, output: &Path) -> Result<Journal> {
        if fs::symlink_metadata(path).is_ok_and(|about| !about.is_file()) {
            return Err(Error::invalid(path, "journal", "is not a regular file", "remove it"));
        }
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(Error::io("create", path))?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let problem = "another strata is writing it";
                    return Err(Error::invalid(output, "output", problem, "wait for its end, or name another file"));
                }
                // Some network file systems know no locks: then the user has to see to it.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
                Ok(()) => {}
            }
            // Whoever had it may have removed it between the opening and the lock.
            let journal = Journal { path: path.to_owned(), file };
            if journal.is_at_its_path() {
                return Ok(journal);
            }
        }
    }

    fn is_at_its_path(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let node = |about: fs::Metadata| (about.dev(), about.ino());
            match (self.file.metadata(), fs::metadata(&self.path)) {
                (Ok(open), Ok(there)) => node(open) == node(there),
                _ => false,
            }
        }
        #[cfg(not(unix))]
        self.path.exists()
    }

    /// What it says; `None` of a new journal, or one whose first line was never finished.
    ///
    /// # Errors
    /// If the first line makes no sense though others follow.
    pub fn read(&mut self) -> Result<Option<Record>> {
        let wrong = |problem: String| {
            Error::invalid(&self.path, "line 1", problem, "begin anew with --restart, or name another output")
        };
        let mut text = Vec::new();
        let read =
            self.file.seek(SeekFrom::Start(0)).and_then(|_| (&self.file).take(LONGEST + 1).read_to_end(&mut text));
        read.map_err(Error::io("read", &self.path))?;
        if text.len() as u64 > LONGEST {
            return Err(wrong(format!("the file has more than {LONGEST} bytes")));
        }
        // Without its end a line is torn, and the last one.
        let mut lines = text.split_inclusive(|&byte| byte == b'\n').take_while(|line| line.ends_with(b"\n"));
        let Some(first) = lines.next() else { return Ok(None) };
        let head: Head = match serde_json::from_slice(first) {
            Ok(head) => head,
            Err(error) => return Err(wrong(format!("is damaged, or of another version of strata ({error})"))),
        };
        let bytes = first.len() as u64;
        let (finished, read) = (BTreeMap::new(), BTreeMap::new());
        let mut record = Record { head, finished, read, complete: false, bytes };
        for line in lines {
            // What follows a damaged line may be anything: it is done again.
            let Ok(what) = serde_json::from_slice(line) else { break };
            match what {
                Line::Tensor(tensor) => drop(record.finished.insert(tensor.name.clone(), tensor)),
                Line::Source(source) => drop(record.read.insert(source.name.clone(), source)),
                Line::Complete(complete) => record.complete = complete,
            }
            record.bytes += line.len() as u64;
        }
        Ok(Some(record))
    }

    /// Begins it anew.
    pub fn begin(&mut self, head: &Head) -> Result<()> {
        self.cut(0)?;
        self.append(head)
    }

    /// Goes on after what `record` has read.
    pub fn go_on(&mut self, record: &Record) -> Result<()> {
        self.cut(record.bytes)
    }

    fn cut(&mut self, bytes: u64) -> Result<()> {
        let done = self.file.set_len(bytes).and_then(|()| self.file.seek(SeekFrom::Start(bytes)));
        done.map(drop).map_err(Error::io("write", &self.path))
    }

    /// Adds a line.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|error| Error::io("write", &self.path)(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io("write", &self.path))
    }

    /// Brings it to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }

    /// True if nothing was ever written to it.
    pub fn is_empty(&self) -> bool {
        self.file.metadata().is_ok_and(|about| about.len() == 0)
    }

    /// Removes it, while it is still locked.
    pub fn remove(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

impl Head {
    /// What decides the bytes and is not the same in both, a phrase each. Sources are looked at elsewhere: by their contents.
    pub fn differences(&self, now: &Head) -> Vec<String> {
        let mut found = Vec::new();
        if self.journal != now.journal {
            found.push(format!("the journal's version was {}, is {}", self.journal, now.journal));
        }
        changes(&mut found, &self.recipe, &now.recipe, |key, was, is| match (was, is) {
            (Some(was), Some(is)) => format!("{key} was {was}, is {is}"),
            (Some(was), None) => format!("{key} was {was}, is not given"),
            (None, Some(is)) => format!("{key} was not given, is {is}"),
            (None, None) => key.to_owned(),
        });
        let by_name =
            |head: &Head| head.tensors.iter().map(|t| (t.name.clone(), t.clone())).collect::<BTreeMap<_, _>>();
        let (was, is) = (by_name(self), by_name(now));
        let types = found.len();
        for (name, was) in &was {
            match is.get(name) {
                Some(is) if is.ty != was.ty => found.push(format!("type of {name} was {}, is {}", was.ty, is.ty)),
                Some(_) => {}
                None => found.push(format!("tensor {name} is gone")),
            }
        }
        found.extend(is.keys().filter(|name| !was.contains_key(*name)).map(|name| format!("tensor {name} is new")));
        changes(&mut found, &self.metadata, &now.metadata, |key, was, is| match (was, is) {
            (Some(_), Some(_)) => format!("the value of {key} is another"),
            (Some(_), None) => format!("{key} is not set any more"),
            (None, _) => format!("{key} was not set"),
        });
        if found.len() == types && self.tensors != now.tensors {
            found.push("the order or the places of the tensors are others".to_owned());
        }
        found
    }
}

/// Phrases for the keys whose values differ.
fn changes<'a, K: AsRef<str> + 'a, V: PartialEq + 'a, M>(
    found: &mut Vec<String>,
    was: &'a M,
    is: &'a M,
    say: impl Fn(&str, Option<&V>, Option<&V>) -> String,
) where
    &'a M: IntoIterator<Item = (&'a K, &'a V)>,
{
    let was: BTreeMap<&str, &V> = was.into_iter().map(|(key, value)| (key.as_ref(), value)).collect();
    let is: BTreeMap<&str, &V> = is.into_iter().map(|(key, value)| (key.as_ref(), value)).collect();
    let new = is.keys().filter(|key| !was.contains_key(*key));
    for key in was.keys().chain(new) {
        let (was, is) = (was.get(key).copied(), is.get(key).copied());
        if was != is {
            found.push(say(key, was, is));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let tensor = |name: &str, offset| {
            let (name, ty) = (name.to_owned(), "Q8_0".to_owned());
            TensorHead { name, ty, part: 0, offset, bytes: 34 }
        };
        let source = SourceHead { name: "a".into(), bytes: 7, head: Digest::of(b"a") };
        Head {
            journal: VERSION,
            recipe: Map::from_iter([("type".to_owned(), "Q8_0".into())]),
            metadata: BTreeMap::from([("general.name".to_owned(), Digest::of(b"x"))]),
            sources: vec![source],
            tensors: vec![tensor("a", 0), tensor("b", 64)],
        }
    }

    fn line(name: &str) -> Line {
        Line::Tensor(Finished { name: name.into(), sha256: Digest::of(b""), source: None })
    }

    #[test]
    fn only_whole_and_sound_lines_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.partial.journal");
        let mut journal = Journal::lock(&path, &path).unwrap();
        assert!(journal.is_empty() && journal.read().unwrap().is_none());
        journal.begin(&head()).unwrap();
        journal.append(&line("a")).unwrap();
        journal.append(&line("b")).unwrap();
        journal.append(&Line::Complete(true)).unwrap();
        let text = fs::read(&path).unwrap();
        let ends: Vec<usize> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        for cut in 0..=text.len() {
            fs::write(&path, &text[..cut]).unwrap();
            let record = journal.read().unwrap();
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(record.is_some(), whole > 0, "{cut}");
            let Some(record) = record else { continue };
            assert_eq!((record.finished.len(), record.complete), ((whole - 1).min(2), whole == 4), "{cut}");
            // What goes on after a torn line does not stick to it.
            journal.go_on(&record).unwrap();
            journal.append(&line("c")).unwrap();
            assert!(journal.read().unwrap().unwrap().finished.contains_key("c"), "{cut}");
        }
        // A line that is damaged ends what is believed.
        for (at, finished) in [(ends[0] + 3, 0), (ends[1] + 3, 1)] {
            let mut damaged = text.clone();
            damaged[at] = b'\xff';
            fs::write(&path, damaged).unwrap();
            let record = journal.read().unwrap().unwrap();
            assert_eq!((record.finished.len(), record.complete), (finished, false));
        }
        for wrong in ["{}\n", "[]\n", "\n", "null\n{\"complete\":true}\n", "\u{fffd}\n"] {
            fs::write(&path, wrong).unwrap();
            let error = journal.read().map(drop).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains("--restart"), "{error}");
        }
        let error = Journal::lock(&path, Path::new("m")).map(drop).unwrap_err().to_string();
        assert!(error.contains("another strata"), "{error}");
        journal.remove().unwrap();
        drop(journal);
        Journal::lock(&path, &path).unwrap();
    }

    #[test]
    fn differences_are_named() {
        let differ = |change: fn(&mut Head)| {
            let mut now = head();
            change(&mut now);
            head().differences(&now).join("; ")
        };
        assert_eq!(differ(|_| ()), "");
        assert_eq!(differ(|head| head.sources.clear()), "");
        assert_eq!(differ(|head| head.tensors[1].ty = "Q4_0".into()), "type of b was Q8_0, is Q4_0");
        assert_eq!(differ(|head| drop(head.tensors.pop())), "tensor b is gone");
        assert_eq!(differ(|head| head.tensors[1].name = "c".into()), "tensor b is gone; tensor c is new");
        assert_eq!(differ(|head| head.tensors.swap(0, 1)), "the order or the places of the tensors are others");
        assert_eq!(differ(|head| head.recipe["type"] = "F16".into()), "type was \"Q8_0\", is \"F16\"");
        assert_eq!(differ(|head| head.recipe.clear()), "type was \"Q8_0\", is not given");
        let set = |head: &mut Head| drop(head.recipe.insert("name".into(), "x".into()));
        assert_eq!(differ(set), "name was not given, is \"x\"");
        assert_eq!(differ(|head| head.metadata.clear()), "general.name is not set any more");
        let other =
            |head: &mut Head| *head.metadata.entry("general.name".into()).or_insert(Digest::of(b"")) = Digest::of(b"y");
        assert_eq!(differ(other), "the value of general.name is another");
    }
}
