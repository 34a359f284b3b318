//! The claim to an output: only one program at a time writes what will be `NAME`, and a journal beside it says so.
//!
//! The file is `NAME.partial.journal`, locked as long as the claim is held. After a kill it tells what the run has left: for a
//! conversion its journal (`convert/journal.rs`), from which the same conversion resumes; for every other command its name and its
//! `.partial` files, which the same command replaces ([`Leftover`]). A command never replaces what another one has left.

use super::file::with_ending;
use super::stamp::Identity;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The extension of an unfinished file.
pub const PARTIAL: &str = ".partial";

/// The most bytes of a journal; one of a hundred thousand tensors is smaller.
const LONGEST: u64 = 64 << 20;

/// The exclusive right to write an output.
#[derive(Debug)]
pub struct Claim {
    output: PathBuf,
    path: PathBuf,
    file: File,
    written: u64, // bytes of the journal that this program wrote or found
}

/// What an earlier run has left, according to its journal.
#[derive(Debug, PartialEq)]
pub enum Leftover {
    /// No journal, or an empty one.
    Nothing,
    /// The files of a command that cannot resume; the same command replaces them.
    Discardable {
        /// The name of the command.
        command: String,
        /// The paths of its `.partial` files.
        partials: Vec<PathBuf>,
    },
    /// The whole text of any other journal: that of a conversion, or invalid.
    Journal(Vec<u8>),
}

/// The journal of a command that cannot resume.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Discardable {
    command: String,
    discardable: Vec<String>,
}

impl Claim {
    /// The path of the journal of an output.
    pub fn path_for(output: &Path) -> PathBuf {
        with_ending(output, ".partial.journal")
    }

    /// Claims `output` by locking its journal.
    ///
    /// # Errors
    /// If another program has the claim, or the journal's path holds something other than a regular file.
    pub fn lock(output: &Path) -> Result<Claim> {
        let path = Claim::path_for(output);
        loop {
            let file = open_own(&path, OpenOptions::new().create(true), "journal")?;
            try_lock(&file, &path, output)?;
            let written = file.metadata().map_err(Error::io("look at", &path))?.len();
            let claim = Claim { output: output.to_owned(), path: path.clone(), file, written };
            // Whoever had it may have removed it between the opening and the lock.
            if is_at(&claim.file, &path) {
                return Ok(claim);
            }
        }
    }

    /// Reads what an earlier run has left.
    ///
    /// # Errors
    /// If the journal cannot be read or is too long.
    pub fn leftover(&mut self) -> Result<Leftover> {
        let mut text = Vec::new();
        let read =
            self.file.seek(SeekFrom::Start(0)).and_then(|_| (&self.file).take(LONGEST + 1).read_to_end(&mut text));
        read.map_err(Error::io("read", &self.path))?;
        if text.len() as u64 > LONGEST {
            return Err(self.wrong(format!("the file has more than {LONGEST} bytes")));
        }
        if text.is_empty() {
            return Ok(Leftover::Nothing);
        }
        match serde_json::from_slice::<Discardable>(&text) {
            Ok(Discardable { command, discardable }) => {
                let partials: Option<Vec<_>> = discardable.iter().map(|name| self.partial(name)).collect();
                Ok(match partials {
                    Some(partials) => Leftover::Discardable { command, partials },
                    None => Leftover::Journal(text),
                })
            }
            Err(_) => Ok(Leftover::Journal(text)),
        }
    }

    /// The path of a `.partial` that a journal names; `None` if its name does not belong to this output or its parts.
    pub fn partial(&self, name: &str) -> Option<PathBuf> {
        let stem = self.output.file_stem()?.to_str()?;
        let own =
            name.starts_with(stem) && name.ends_with(PARTIAL) && Path::new(name).file_name() == Some(name.as_ref());
        own.then(|| self.output.with_file_name(name))
    }

    /// Records the `.partial` files of `command`, which cannot resume: names in the folder of the output.
    pub fn discardable(&mut self, command: &str, partials: Vec<String>) -> Result<()> {
        self.cut(0)?;
        let text = serde_json::to_vec(&Discardable { command: command.to_owned(), discardable: partials });
        self.append(&text.map_err(|error| Error::io("write", &self.path)(error.into()))?)
    }

    /// Truncates the journal to `bytes` bytes.
    pub fn cut(&mut self, bytes: u64) -> Result<()> {
        let done = self.file.set_len(bytes).and_then(|()| self.file.seek(SeekFrom::Start(bytes)));
        self.written = bytes;
        done.map(drop).map_err(Error::io("write", &self.path))
    }

    /// Appends to the journal.
    ///
    /// # Errors
    /// Also if another program has written to it or removed it, since the work could not be resumed then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let len = self.file.metadata().map_err(Error::io("look at", &self.path))?.len();
        if len != self.written || !is_at(&self.file, &self.path) {
            let problem = "was changed or removed by another program while strata was writing it";
            return Err(Error::invalid(&self.path, "journal", problem, "start again when nothing else writes to it"));
        }
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Syncs the journal to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }

    /// True if the journal is empty.
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Removes the journal while it is still locked, unless another file has taken its place.
    pub fn remove(&self) -> Result<()> {
        if !is_at(&self.file, &self.path) {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }

    /// The path of the journal.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the output.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// The error of a command that finds the unfinished files of another.
    pub fn is_of(&self, command: &str) -> Error {
        let problem = format!("an unfinished `strata {command}` has this name");
        let remedy = format!(
            "give that command again, remove its .partial files and {}, or name another output",
            self.path.display()
        );
        Error::invalid(&self.output, "output", problem, remedy)
    }

    fn wrong(&self, problem: String) -> Error {
        Error::invalid(&self.path, "journal", problem, "move it away: strata has not written it")
    }
}

/// Opens `path` for reading and writing. Refuses symbolic links, hard links and everything that is not a regular file.
pub(super) fn open_own(path: &Path, options: &mut OpenOptions, what: &str) -> Result<File> {
    let refuse = |problem: &str| Error::invalid(path, what, problem, "strata has not made it: move it away");
    if fs::symlink_metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(refuse("is not a regular file"));
    }
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(Error::io("create", path))?;
    let about = file.metadata().map_err(Error::io("look at", path))?;
    if !about.is_file() {
        return Err(refuse("is not a regular file"));
    }
    if !has_one_name(&about) {
        return Err(refuse("has a second name (a hard link), which would change with it"));
    }
    Ok(file)
}

fn has_one_name(about: &Metadata) -> bool {
    #[cfg(unix)]
    // None at all: it was removed just now.
    return std::os::unix::fs::MetadataExt::nlink(about) <= 1;
    #[cfg(not(unix))]
    return about.is_file();
}

/// Locks an open file against other programs; the error names `output`.
pub(super) fn try_lock(file: &File, path: &Path, output: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let problem = "another strata is writing it";
            Err(Error::invalid(output, "output", problem, "wait for its end, or name another file"))
        }
        // Some network file systems have no locks; there the user must not start two writers.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        Ok(()) => Ok(()),
    }
}

/// True if `path` still names the open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        let there = fs::symlink_metadata(path).map(|about| Identity::of_metadata(&about));
        matches!((file.metadata(), there), (Ok(open), Ok(there)) if Identity::of_metadata(&open) == there)
    }
    #[cfg(not(unix))]
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.gguf");
        let mut claim = Claim::lock(&output).unwrap();
        let error = Claim::lock(&output).unwrap_err().to_string();
        assert!(error.contains("another strata"), "{error}");
        assert!(claim.is_empty());
        assert_eq!(claim.leftover().unwrap(), Leftover::Nothing);
        claim.discardable("merge", vec!["m-1.partial".to_owned()]).unwrap();
        drop(claim);
        let mut claim = Claim::lock(&output).unwrap();
        let (command, partials) = ("merge".to_owned(), vec![folder.path().join("m-1.partial")]);
        assert_eq!(claim.leftover().unwrap(), Leftover::Discardable { command, partials });
        claim.cut(0).unwrap();
        claim.append(b"{\"journal\":2}\n").unwrap();
        assert_eq!(claim.leftover().unwrap(), Leftover::Journal(b"{\"journal\":2}\n".to_vec()));
        claim.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_of_others_are_not_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.gguf");
        for hostile in ["../m.partial", "/m.partial", "m.txt", "m/b.partial", "other.gguf.partial", "..", ""] {
            let text =
                serde_json::to_vec(&Discardable { command: "merge".to_owned(), discardable: vec![hostile.to_owned()] })
                    .unwrap();
            fs::write(Claim::path_for(&output), &text).unwrap();
            assert_eq!(Claim::lock(&output).unwrap().leftover().unwrap(), Leftover::Journal(text), "{hostile}");
        }
    }

    #[test]
    fn a_journal_that_others_change_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.gguf");
        let path = Claim::path_for(&output);
        type Change = fn(&Path);
        let changes: [Change; 4] = [
            |path| fs::write(path, "").unwrap(),
            |path| fs::write(path, "more than there was").unwrap(),
            |path| fs::remove_file(path).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "mine").unwrap();
            },
        ];
        for change in changes {
            let _ = fs::remove_file(&path);
            let mut claim = Claim::lock(&output).unwrap();
            claim.append(b"line\n").unwrap();
            change(&path);
            let error = claim.append(b"line\n").unwrap_err().to_string();
            assert!(error.contains("m.gguf.partial.journal") && error.contains("another program"), "{error}");
        }
        // A file of another program is not removed.
        let mut claim = Claim::lock(&output).unwrap();
        claim.append(b"line\n").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        claim.remove().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[cfg(unix)]
    #[test]
    fn what_stands_in_the_place_of_a_journal_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (output, precious) = (folder.path().join("m.gguf"), folder.path().join("precious"));
        let path = Claim::path_for(&output);
        fs::write(&precious, "precious").unwrap();
        type Put = fn(&Path, &Path);
        let puts: [Put; 4] = [
            |precious, path| std::os::unix::fs::symlink(precious, path).unwrap(),
            |_, path| std::os::unix::fs::symlink("nowhere", path).unwrap(),
            |precious, path| fs::hard_link(precious, path).unwrap(),
            |_, path| fs::create_dir(path).unwrap(),
        ];
        for put in puts {
            put(&precious, &path);
            let error = Claim::lock(&output).unwrap_err().to_string();
            assert!(error.contains("m.gguf.partial.journal") && error.contains("move it away"), "{error}");
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }
}
