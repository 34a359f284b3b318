//! The journal of an output: what will be written, and what has been.
//!
//! Lines of JSON in `NAME.partial.journal`. The first says what decides the bytes ([`Head`]); then comes one for each finished tensor and
//! each source file read to its end, in the order in which that happened. Each ends with a check of itself and the lines before, so that
//! a damaged journal is not taken for a source that has changed. A line is only a claim until the bytes in the `.partial` have the SHA-256
//! that it names: so nothing depends on the order in which the system brings file and journal to the disk.

use crate::error::{Error, Result, Setting};
use crate::io::claim::{Claim, Leftover};
use crate::io::hash::{Digest, Hasher};
use crate::io::stamp::Stamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The first line: what decides the bytes of the output. Conversions with equal heads, sources aside, make equal bytes of equal sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The version of the journal's form.
    pub journal: u32,
    /// The settings that decide the bytes.
    pub recipe: Map<String, Json>,
    /// The SHA-256 of the value of each metadata key.
    pub metadata: BTreeMap<String, Digest>,
    /// The files of the source.
    pub sources: Vec<SourceHead>,
    /// The tensors, in file order.
    pub tensors: Vec<TensorHead>,
    /// The names of the `.partial` files.
    pub partials: Vec<String>,
}

/// A file of the source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceHead {
    /// The name of the file, without folders.
    pub name: String,
    /// The length of the file.
    pub bytes: u64,
    /// The SHA-256 of the first MiB.
    pub head: Digest,
}

/// A tensor of the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorHead {
    /// The tensor's name.
    pub name: String,
    /// The name of its type.
    pub ty: String,
    /// The number of the output file that has it, from 0.
    pub part: usize,
    /// The offset of its data in that file.
    pub offset: u64,
    /// The length of its data.
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
    /// Every tensor is written; only the renaming is left.
    Complete(bool),
}

/// A written tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// The tensor's name.
    pub name: String,
    /// The SHA-256 of its data in the output.
    pub sha256: Digest,
    /// The SHA-256 of the source file from its start to the end of what this tensor was made of; none if it was computed.
    pub source: Option<Digest>,
}

/// A source file read to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileRead {
    /// The file's name.
    pub name: String,
    /// The SHA-256 of the whole file.
    pub sha256: Digest,
    /// The state of the file when it was read.
    pub stamp: Stamp,
}

/// The version of the journal; from 2 on, lines end with checks.
pub const VERSION: u32 = 2;

/// The contents of a journal.
pub struct Record {
    /// The first line.
    pub head: Head,
    /// The finished tensors, by name.
    pub finished: BTreeMap<String, Finished>,
    /// The source files that were read to their end, by name.
    pub read: BTreeMap<String, FileRead>,
    /// True if only the renaming is left.
    pub complete: bool,
    /// The number, from 1, of the first damaged line; its tensor and those of later lines are written again.
    pub damaged: Option<usize>,
    bytes: u64,    // up to the end of the last sound line
    check: String, // that of the last sound line
}

/// What an earlier run has left beside an output.
pub enum Earlier {
    /// Nothing.
    Nothing,
    /// The `.partial` files of another command, and the error if they are still there.
    Other(Vec<PathBuf>, Error),
    /// The journal of a conversion.
    Record(Box<Record>),
    /// A journal whose first line is invalid: the error if there is unfinished work to lose.
    Unknown(Error),
}

/// An open and locked journal.
pub struct Journal {
    claim: Claim,
    check: String, // that of the last line
}

impl Journal {
    /// Opens or creates the journal of `output` and locks it.
    ///
    /// # Errors
    /// As [`Claim::lock`].
    pub fn lock(output: &Path) -> Result<Journal> {
        Ok(Journal { claim: Claim::lock(output)?, check: String::new() })
    }

    /// Reads what an earlier run has left.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&mut self) -> Result<Earlier> {
        let text = match self.claim.leftover()? {
            Leftover::Nothing => return Ok(Earlier::Nothing),
            Leftover::Discardable { command, partials } => {
                return Ok(Earlier::Other(partials, self.claim.is_of(&command)));
            }
            Leftover::Journal(text) => text,
        };
        // Without its end a line is torn, and the last one.
        let mut lines = text.split_inclusive(|&byte| byte == b'\n').take_while(|line| line.ends_with(b"\n"));
        let Some(first) = lines.next() else { return Ok(Earlier::Nothing) };
        let Some((head, mut check)) = sound::<Head>(first, "") else {
            let (problem, remedy) =
                ("is damaged, or of another version of strata", "name another output, or start over");
            let error = Error::invalid(self.claim.path(), "line 1", problem, remedy);
            return Ok(Earlier::Unknown(error.with_setting(Setting::Restart)));
        };
        let (finished, read, bytes) = (BTreeMap::new(), BTreeMap::new(), first.len() as u64);
        let mut record = Record { head, finished, read, complete: false, damaged: None, bytes, check: String::new() };
        for (i, line) in lines.enumerate() {
            // What follows a damaged line may be anything: it is done again.
            let Some((what, its_check)) = sound(line, &check) else {
                record.damaged = Some(i + 2);
                break;
            };
            match what {
                Line::Tensor(tensor) => drop(record.finished.insert(tensor.name.clone(), tensor)),
                Line::Source(source) => drop(record.read.insert(source.name.clone(), source)),
                Line::Complete(complete) => record.complete = complete,
            }
            record.bytes += line.len() as u64;
            check = its_check;
        }
        record.check = check;
        Ok(Earlier::Record(Box::new(record)))
    }

    /// Clears the journal and writes its first line.
    pub fn begin(&mut self, head: &Head) -> Result<()> {
        self.claim.cut(0)?;
        self.check.clear();
        self.append(head)
    }

    /// Resumes the journal after the last sound line of `record`.
    pub fn resume(&mut self, record: &Record) -> Result<()> {
        self.check.clone_from(&record.check);
        self.claim.cut(record.bytes)
    }

    /// Appends a line with its check.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|error| Error::io("write", self.claim.path())(error.into()))?;
        self.check = check(&self.check, &text);
        let body = text.strip_suffix('}').unwrap_or(&text);
        self.claim.append(format!("{body}{CHECK}{}\"}}\n", self.check).as_bytes())
    }

    /// Syncs the journal to the disk.
    pub fn sync(&self) -> Result<()> {
        self.claim.sync()
    }

    /// The `.partial` files that a record names.
    pub fn partials(&self, record: &Record) -> Vec<PathBuf> {
        record.head.partials.iter().filter_map(|name| self.claim.partial(name)).collect()
    }

    /// The path of the journal.
    pub fn path(&self) -> &Path {
        self.claim.path()
    }

    /// True if the journal has no line.
    pub fn is_empty(&self) -> bool {
        self.claim.is_empty()
    }

    /// Removes the journal while it is locked.
    pub fn remove(&self) -> Result<()> {
        self.claim.remove()
    }
}

/// The key of the check at the end of a line.
const CHECK: &str = ",\"check\":\"";

/// The check of a line of JSON after one with the check `before`: the first half of a SHA-256.
fn check(before: &str, text: &str) -> String {
    let mut hasher = Hasher::default();
    hasher.update(before.as_bytes());
    hasher.update(text.as_bytes());
    hasher.digest().to_string()[..Digest::LEN / 2].to_owned()
}

/// The value and check of a line; `None` if the check is wrong.
fn sound<T: DeserializeOwned>(line: &[u8], before: &str) -> Option<(T, String)> {
    let line = str::from_utf8(line).ok()?.trim_end().strip_suffix("\"}")?;
    let (body, stated) = line.rsplit_once(CHECK)?;
    let text = format!("{body}}}");
    let right = check(before, &text);
    if right != stated {
        return None;
    }
    Some((serde_json::from_str(&text).ok()?, right))
}

impl Head {
    /// The differences that decide bytes, a phrase each. Sources are not compared here but by their contents.
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
        if found.len() == types && self.partials != now.partials {
            found.push("the names of the files are others".to_owned());
        }
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
    use std::fs;

    /// The record of a journal that has one.
    fn record(journal: &mut Journal) -> Option<Box<Record>> {
        match journal.read().unwrap() {
            Earlier::Record(record) => Some(record),
            _ => None,
        }
    }

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
            partials: vec!["m.partial".to_owned()],
        }
    }

    fn line(name: &str) -> Line {
        Line::Tensor(Finished { name: name.into(), sha256: Digest::of(b""), source: None })
    }

    #[test]
    fn only_whole_and_sound_lines_count() {
        let folder = tempfile::tempdir().unwrap();
        let (output, path) = (folder.path().join("m"), folder.path().join("m.partial.journal"));
        let mut journal = Journal::lock(&output).unwrap();
        assert!(journal.is_empty() && record(&mut journal).is_none());
        journal.begin(&head()).unwrap();
        journal.append(&line("a")).unwrap();
        journal.append(&line("b")).unwrap();
        journal.append(&Line::Complete(true)).unwrap();
        let text = fs::read(&path).unwrap();
        let ends: Vec<usize> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        for cut in 0..=text.len() {
            fs::write(&path, &text[..cut]).unwrap();
            let read = record(&mut journal);
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(read.is_some(), whole > 0, "{cut}");
            let Some(read) = read else { continue };
            assert_eq!((read.finished.len(), read.complete), ((whole - 1).min(2), whole == 4), "{cut}");
            assert_eq!(read.damaged, None, "{cut}");
            // A line after a torn one is not joined with it.
            journal.resume(&read).unwrap();
            journal.append(&line("c")).unwrap();
            assert!(record(&mut journal).unwrap().finished.contains_key("c"), "{cut}");
        }
        // Whatever is changed in a line ends what is believed there, be it one digit of a hash.
        for at in ends[0]..text.len() - 1 {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let read = record(&mut journal).unwrap();
            let sound = ends.iter().filter(|&&end| end <= at).count();
            assert!(read.finished.len() < sound && !read.complete, "{at}");
            // A line end may have become something else: then two lines are one, or the last is torn.
            assert!(read.damaged == Some(sound + 1) || ends.contains(&(at + 1)), "{at}");
        }
        // So does a line that is missing or comes twice.
        let parts: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
        for order in [&[0, 2, 3][..], &[0, 1, 1, 2], &[0, 2, 1, 3]] {
            fs::write(&path, order.iter().map(|&i| parts[i]).collect::<Vec<_>>().concat()).unwrap();
            assert!(record(&mut journal).unwrap().damaged.is_some(), "{order:?}");
        }
        for wrong in ["{}\n", "[]\n", "\n", "null\n{\"complete\":true}\n", "\u{fffd}\n", "{\"journal\":1}\n"] {
            fs::write(&path, wrong).unwrap();
            let Earlier::Unknown(error) = journal.read().unwrap() else { panic!("{wrong:?} is taken for a journal") };
            assert!(
                matches!(&error, Error::Invalid { place, setting: Some(Setting::Restart), .. } if place == "line 1"),
                "{error}"
            );
        }
        fs::write(&path, "{\"command\":\"merge\",\"discardable\":[\"m.partial\"]}").unwrap();
        assert!(
            matches!(journal.read().unwrap(), Earlier::Other(left, _) if left == [folder.path().join("m.partial")])
        );
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
