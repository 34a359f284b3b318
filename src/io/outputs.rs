//! Writing the files of all commands but conversions: as `NAME.partial`, renamed when it is complete and synced.
//!
//! Files that belong together, as the parts of a split model, are renamed together after the last is complete. A failure before that
//! leaves nothing behind, and an existing `NAME` stays as it was.

use super::claim::{Claim, Leftover, PARTIAL};
use super::file::{Folder, output_folder, write_at};
use super::inputs::Inputs;
use super::partial::{self, Partial};
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that are written sequentially, one after the other.
#[derive(Debug)]
pub struct Outputs {
    claim: Claim,
    folder: Folder,
    paths: Vec<PathBuf>,
    done: Vec<(Partial, u64)>,           // complete files and their lengths
    current: Option<(Partial, Vec<u8>)>, // the file being written and its buffered bytes
    written: u64,                        // bytes of the current file on disk
    named: bool,
}

/// Rows come in pieces of a few kilobytes; a megabyte at a time keeps the system calls few.
const BUFFER: usize = 1 << 20;

impl Outputs {
    /// Claims and begins a single file of `command`.
    ///
    /// # Errors
    /// As [`Outputs::claim`].
    pub fn single(command: &str, path: &Path, inputs: &Inputs) -> Result<Outputs> {
        let mut outputs = Outputs::claim(command, path, vec![path.to_owned()], inputs)?;
        outputs.begin()?;
        Ok(outputs)
    }

    /// Claims the files `paths` of `command`, all in the folder of `name`, whose journal is locked.
    ///
    /// # Errors
    /// If a path cannot be an output or is an input, another program writes it, or another command has left unfinished files of that name.
    pub fn claim(command: &str, name: &Path, paths: Vec<PathBuf>, inputs: &Inputs) -> Result<Outputs> {
        Outputs::check(name, &paths, inputs)?;
        let folder = Folder::open(&output_folder(name)?)?;
        let mut claim = Claim::lock(name)?;
        match claim.leftover()? {
            Leftover::Nothing => {}
            Leftover::Discardable { command: other, partials } => {
                if other != command && partials.iter().any(|partial| partial.exists()) {
                    return Err(claim.is_of(&other));
                }
                partials.iter().try_for_each(|partial| partial::discard(partial))?;
            }
            Leftover::Journal(_) if is_unfinished(name, folder.path())? => {
                let problem = "an unfinished conversion has this name";
                let remedy =
                    "finish it with its command, remove NAME.partial and NAME.partial.journal, or name another file";
                return Err(Error::invalid(name, "output", problem, remedy));
            }
            // A journal without a .partial has nothing to lose.
            Leftover::Journal(_) => {}
        }
        let names = paths.iter().filter_map(|path| Partial::path_for(path).file_name()?.to_str().map(str::to_owned));
        claim.discardable(command, names.collect())?;
        let (done, current) = (Vec::with_capacity(paths.len()), None);
        Ok(Outputs { claim, folder, paths, done, current, written: 0, named: false })
    }

    /// Checks that `paths`, whose journal is that of `name`, can be outputs and are not inputs: to be called before hours of work.
    ///
    /// # Errors
    /// Names the first path that cannot.
    pub fn check(name: &Path, paths: &[impl AsRef<Path>], inputs: &Inputs) -> Result<()> {
        for path in paths.iter().map(AsRef::as_ref) {
            output_folder(path)?;
            inputs.refuse(path)?;
            inputs.refuse(&Partial::path_for(path))?;
        }
        inputs.refuse(&Claim::path_for(name))
    }

    /// Completes the current file and begins the next.
    ///
    /// # Errors
    /// If it cannot be created, or all files are written.
    pub fn begin(&mut self) -> Result<()> {
        self.complete()?;
        let Some(path) = self.paths.get(self.done.len()) else {
            return Err(Error::argument("output", "has no more files to write").of_file(self.claim.output()));
        };
        let partial = Partial::create(path)?;
        (self.current, self.written) = (Some((partial, Vec::with_capacity(BUFFER))), 0);
        Ok(())
    }

    /// Appends to the current file.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some((_, buffer)) = &mut self.current
            && !bytes.is_empty()
        {
            let n = bytes.len().min(BUFFER - buffer.len());
            buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some((partial, buffer)) = &mut self.current else { return Ok(()) };
        // After a truncation by another program, the next write would leave zeros before it.
        partial.check(self.written)?;
        write_at(partial.file(), buffer, self.written).map_err(Error::io("write", partial.partial()))?;
        partial.wrote();
        self.written += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    /// Flushes and syncs the current file.
    fn complete(&mut self) -> Result<()> {
        self.flush()?;
        let Some((partial, _)) = self.current.take() else { return Ok(()) };
        let synced = partial.file().sync_all().map_err(Error::io("write", partial.partial()));
        self.done.push((partial, self.written));
        synced
    }

    /// Completes the last file and renames all of them over existing files, so that they survive a power cut.
    ///
    /// # Errors
    /// If a file cannot be synced or was changed by another program. No file is renamed then, unless the system fails between two
    /// renames.
    pub fn commit(mut self) -> Result<()> {
        self.complete()?;
        if self.done.len() < self.paths.len() {
            return Err(Error::argument("output", "is not complete").of_file(self.claim.output()));
        }
        self.done.iter().try_for_each(|(partial, bytes)| partial.check(*bytes))?;
        self.done.iter().try_for_each(|(partial, bytes)| partial.name(*bytes))?;
        self.named = true;
        self.folder.sync()?;
        self.claim.remove()
    }

    /// The final path of the current file; after the last, the path that was claimed.
    pub fn path(&self) -> &Path {
        self.paths.get(self.done.len()).map_or(self.claim.output(), PathBuf::as_path)
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        self.done.iter().for_each(|(partial, _)| partial.remove());
        self.current.iter().for_each(|(partial, _)| partial.remove());
        // A journal that cannot be removed here is replaced by the next run.
        let _ = self.claim.remove();
    }
}

/// True if the folder has a `.partial` that may belong to `name` or to one of its parts.
fn is_unfinished(name: &Path, folder: &Path) -> Result<bool> {
    let stem = name.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut entries = fs::read_dir(folder).map_err(Error::io("read", folder))?.filter_map(|entry| entry.ok());
    Ok(entries.any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&stem) && name.ends_with(PARTIAL)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn single(path: &Path) -> Result<Outputs> {
        Outputs::single("calibrate", path, &Inputs::default())
    }

    #[test]
    fn a_file_has_its_name_only_once_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        fs::write(&path, "old").unwrap();

        let mut file = single(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(names(folder.path()), ["a.gguf", "a.gguf.partial", "a.gguf.partial.journal"]);
        drop(file);
        assert_eq!(names(folder.path()), ["a.gguf"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");

        let whole: Vec<u8> = (0..3 * BUFFER + 5).map(|i| (i / 7) as u8).collect();
        let mut file = single(&path).unwrap();
        whole.chunks(77_777).for_each(|part| file.write_all(part).unwrap());
        file.commit().unwrap();
        assert_eq!(names(folder.path()), ["a.gguf"]);
        assert!(fs::read(&path).unwrap() == whole);
    }

    #[test]
    fn what_a_killed_run_has_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As a kill leaves it: the files, the journal, no locks.
        for name in ["m-1.partial", "m-2.partial"] {
            fs::write(at(name), "half").unwrap();
        }
        let mut claim = Claim::lock(&at("m")).unwrap();
        claim.discardable("split", vec!["m-1.partial".to_owned(), "m-2.partial".to_owned()]).unwrap();
        drop(claim);
        let other = Outputs::claim("merge", &at("m"), vec![at("m")], &Inputs::default()).unwrap_err().to_string();
        assert!(other.contains("an unfinished `strata split`") && at("m-1.partial").exists(), "{other}");
        let mut one = Outputs::claim("split", &at("m"), vec![at("m-9")], &Inputs::default()).unwrap();
        one.begin().unwrap();
        one.commit().unwrap();
        assert_eq!(names(folder.path()), ["m-9"]);

        // A .partial that no journal tells of is somebody else's; so is an unfinished conversion.
        fs::write(at("n.partial"), "work of hours").unwrap();
        assert!(single(&at("n")).unwrap_err().to_string().contains("move it away"));
        fs::write(at("n.partial.journal"), "{\"journal\":1}\n").unwrap();
        assert!(single(&at("n")).unwrap_err().to_string().contains("unfinished conversion"));
        assert_eq!(fs::read(at("n.partial")).unwrap(), b"work of hours");
        assert_eq!(fs::read(at("n.partial.journal")).unwrap(), b"{\"journal\":1}\n");
    }

    #[test]
    fn an_input_is_no_output() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b.partial", "c.partial.journal"] {
            fs::write(at(name), name).unwrap();
            let mut inputs = Inputs::default();
            inputs.add(&at(name), "the text");
            let output = at(&name[..1]);
            let error = Outputs::single("calibrate", &output, &inputs).unwrap_err().to_string();
            assert!(error.contains("is the text itself"), "{error}");
            assert_eq!(fs::read(at(name)).unwrap(), name.as_bytes());
        }
        assert_eq!(names(folder.path()), ["a", "b.partial", "c.partial.journal"]);
    }

    #[test]
    fn bad_output_paths_are_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such");
        let said = |path: &Path| single(path).unwrap_err().to_string();
        let wrong = said(&missing.join("a.gguf"));
        assert!(wrong.contains(&format!("mkdir -p {}", missing.display())), "{wrong}");
        assert!(said(folder.path()).contains("is a folder"));
        assert!(said(Path::new("..")).contains("no file name"));
        let long = folder.path().join("x".repeat(300));
        assert!(said(&long).contains("cannot create"));
    }
}
