//! An unfinished file: `NAME.partial` until it is complete.

use super::claim::{PARTIAL, is_at, open_own, try_lock};
use super::file::with_ending;
use super::stamp::Stamp;
use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that will be `path`, locked by this program and open until it is renamed.
///
/// Dropped before [`name`](Partial::name) it stays on disk; the owner decides whether to remove it.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    partial: PathBuf,
    file: Arc<File>,
    modified: Option<AtomicU64>, // the file's time after this program's last write, where it is exact
}

impl Partial {
    /// The path of the unfinished file.
    pub fn path_for(path: &Path) -> PathBuf {
        with_ending(path, PARTIAL)
    }

    /// Creates `NAME.partial` exclusively, without following links, and locks it.
    ///
    /// # Errors
    /// If the path exists: what an earlier run has left must be [`discard`]ed or [reopened](Partial::reopen).
    pub fn create(path: &Path) -> Result<Partial> {
        let partial = Partial::path_for(path);
        Partial::refuse_existing(path, "move it away, or name another output")?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = match options.open(&partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let problem = "another program has made it just now";
                return Err(Error::invalid(&partial, "output", problem, "name another output"));
            }
            opened => opened.map_err(Error::io("create", &partial))?,
        };
        try_lock(&file, &partial, path)?;
        Ok(Partial::watched(path, partial, file))
    }

    fn watched(path: &Path, partial: PathBuf, file: File) -> Partial {
        let modified = keeps_exact_time(&file).then(|| AtomicU64::new(0));
        let partial = Partial { path: path.to_owned(), partial, file: Arc::new(file), modified };
        partial.wrote();
        partial
    }

    /// Refuses an existing `.partial` that no journal describes.
    ///
    /// # Errors
    /// Names it, with `remedy`.
    pub fn refuse_existing(path: &Path, remedy: &str) -> Result<()> {
        let partial = Partial::path_for(path);
        if fs::symlink_metadata(&partial).is_err() {
            return Ok(());
        }
        let problem = "is there already, and nothing says that a strata that was stopped has left it";
        Err(Error::invalid(&partial, "output", problem, remedy))
    }

    /// Opens the `NAME.partial` that an earlier run has left, to resume it.
    ///
    /// # Errors
    /// If it is not a regular file, has a second name, or another program writes to it.
    pub fn reopen(path: &Path) -> Result<Partial> {
        let partial = Partial::path_for(path);
        let file = open_own(&partial, &mut OpenOptions::new(), "output")?;
        try_lock(&file, &partial, path)?;
        Ok(Partial::watched(path, partial, file))
    }

    /// Records the file's time after a write of this program: to be called after every write.
    pub fn wrote(&self) {
        if let Some(modified) = &self.modified {
            // If the metadata cannot be read, the next check fails as well.
            let now = self.file.metadata().map_or(0, |about| Stamp::of(&about).modified);
            modified.store(now, Ordering::Relaxed);
        }
    }

    /// The open file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The path of the unfinished file.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Checks that the file still has its name and `bytes` bytes, and that this program was the last to write to it.
    ///
    /// # Errors
    /// If another program has truncated, written to, removed or replaced it.
    pub fn check(&self, bytes: u64) -> Result<()> {
        let now = Stamp::of(&self.file.metadata().map_err(Error::io("look at", &self.partial))?);
        let (len, written_to) = (now.bytes, |modified: &AtomicU64| modified.load(Ordering::Relaxed) != now.modified);
        let problem = match len == bytes {
            true if self.modified.as_ref().is_some_and(written_to) => {
                "was written to by another program while strata was writing it".to_owned()
            }
            true if is_at(&self.file, &self.partial) => return Ok(()),
            true => "was removed or replaced by another program while strata was writing it".to_owned(),
            false => {
                format!("was changed by another program while strata was writing it: it has {len} bytes, not {bytes}")
            }
        };
        Err(Error::invalid(&self.partial, "output", problem, "start again when nothing else writes to it"))
    }

    /// Renames the complete and synced file of `bytes` bytes to its final path, replacing an existing file.
    ///
    /// # Errors
    /// As [`Partial::check`], or if the system refuses; the file is still the `.partial` then.
    pub fn name(&self, bytes: u64) -> Result<()> {
        self.check(bytes)?;
        fs::rename(&self.partial, &self.path).map_err(Error::io("rename the finished .partial to", &self.path))?;
        if is_at(&self.file, &self.path) {
            return Ok(());
        }
        let problem = "another program has replaced the finished file in this moment";
        Err(Error::invalid(&self.path, "output", problem, "start again when nothing else writes to it"))
    }

    /// Removes the file if the path still names it.
    pub fn remove(&self) {
        if is_at(&self.file, &self.partial) {
            // After a failure here the next run replaces it.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// True on local file systems, which update a file's time with each write. Network file systems update it later, which would look like
/// another program's write.
fn keeps_exact_time(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    {
        /// Magic numbers of statfs(2): ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, overlayfs.
        const LOCAL: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630];
        rustix::fs::fstatfs(file).is_ok_and(|about| LOCAL.contains(&(about.f_type as u64 & 0xffff_ffff)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

/// Removes a `.partial` that an earlier run has left, if it exists.
///
/// # Errors
/// If it is not a regular file, another program writes to it, or the system refuses.
pub fn discard(partial: &Path) -> Result<()> {
    if fs::symlink_metadata(partial).is_err() {
        return Ok(());
    }
    let file = open_own(partial, &mut OpenOptions::new(), "output")?;
    try_lock(&file, partial, partial)?;
    fs::remove_file(partial).map_err(Error::io("remove", partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_is_not_ours_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("m.gguf"), folder.path().join("precious"));
        let partial = Partial::path_for(&path);
        fs::write(&precious, "precious").unwrap();
        type Put = fn(&Path, &Path);
        let puts: [Put; 5] = [
            |precious, partial| std::os::unix::fs::symlink(precious, partial).unwrap(),
            |_, partial| std::os::unix::fs::symlink("nowhere", partial).unwrap(),
            |precious, partial| fs::hard_link(precious, partial).unwrap(),
            |_, partial| fs::create_dir(partial).unwrap(),
            |_, partial| {
                let made = std::process::Command::new("mkfifo").arg(partial).status().unwrap();
                assert!(made.success());
            },
        ];
        for put in puts {
            put(&precious, &partial);
            let refused = [Partial::create(&path).map(drop), Partial::reopen(&path).map(drop), discard(&partial)];
            for refused in refused {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("m.gguf.partial") && error.contains("move it away"), "{error}");
            }
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
            assert!(fs::symlink_metadata(&partial).is_ok());
            let _ = fs::remove_file(&partial).or_else(|_| fs::remove_dir(&partial));
        }
        fs::write(&partial, "somebody's").unwrap();
        assert!(Partial::create(&path).is_err());
        assert_eq!(fs::read(&partial).unwrap(), b"somebody's");
        discard(&partial).unwrap();
        let own = Partial::create(&path).unwrap();
        let other = discard(&partial).unwrap_err().to_string();
        assert!(other.contains("another strata"), "{other}");
        own.check(0).unwrap();
    }

    #[test]
    fn a_file_that_others_change_does_not_get_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        type Change = fn(&Partial);
        let changes: [Change; 5] = [
            |own| fs::write(own.partial(), "mine").unwrap(),
            |own| drop(File::create(own.partial()).unwrap()),
            |own| OpenOptions::new().write(true).open(own.partial()).unwrap().set_len(9).unwrap(),
            |own| fs::remove_file(own.partial()).unwrap(),
            |own| {
                fs::remove_file(own.partial()).unwrap();
                fs::write(own.partial(), "mine").unwrap();
            },
        ];
        for change in changes {
            fs::write(&path, "old").unwrap();
            let own = Partial::create(&path).unwrap();
            own.file().set_len(4).unwrap();
            own.wrote();
            own.check(4).unwrap();
            // File systems count time in steps of some milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change(&own);
            let error = own.name(4).unwrap_err().to_string();
            assert!(error.contains("m.gguf.partial") && error.contains("another program"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            own.remove();
            let _ = fs::remove_file(own.partial());
        }
    }
}
