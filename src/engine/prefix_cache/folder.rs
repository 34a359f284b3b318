//! The folder of the prefix cache: its files by name, and the bound on their bytes. Other processes may write to it and remove from it at
//! any time.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How long an unfinished file may be: one that is older was left by a process that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// The ending of an unfinished file.
const UNFINISHED: &str = ".kv.new";

/// The folder.
pub(super) struct Folder {
    path: PathBuf,
    limit: u64, // bytes
}

/// A file that has no name yet.
pub(super) struct Unnamed {
    file: File,
    path: PathBuf,
    is_named: bool,
}

impl std::ops::Deref for Unnamed {
    type Target = File;
    fn deref(&self) -> &File {
        &self.file
    }
}

impl std::ops::DerefMut for Unnamed {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Folder {
    /// Makes the folder, which only its owner may read: prompts are private.
    pub fn open(path: &Path, limit: u64) -> Result<Folder> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(Error::io("make the folder", path))?;
        Ok(Folder { path: path.to_owned(), limit })
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of all files; none if the folder cannot be read.
    pub fn names(&self) -> HashSet<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".kv")).collect()
    }

    /// Begins a file.
    pub fn create(&self, name: &str) -> Result<Unnamed> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{name}.{}-{n}{UNFINISHED}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(Error::io("create", &path))?;
        Ok(Unnamed { file, path, is_named: false })
    }

    /// Gives a complete file its name.
    pub fn name(&self, mut file: Unnamed, path: &Path) -> Result<()> {
        fs::rename(&file.path, path).map_err(Error::io("rename", &file.path))?;
        file.is_named = true;
        Ok(())
    }

    /// Says that a file was used just now. If it is gone, it will be written again.
    pub fn touch(&self, path: &Path) {
        let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes a file, unless another process has.
    pub fn remove(&self, path: &Path) {
        let _ = fs::remove_file(path);
    }

    /// Removes the files that were not used for the longest time, until the others are within the limit.
    pub fn keep_within_limit(&self) {
        let (now, mut files, mut total) = (SystemTime::now(), Vec::new(), 0);
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let (name, Ok(about)) = (entry.file_name(), entry.metadata()) else { continue };
            let (name, used) = (name.to_string_lossy(), about.modified().unwrap_or(now));
            let is_left = now.duration_since(used).is_ok_and(|age| age > LEFT_BEHIND);
            if name.ends_with(UNFINISHED) && is_left {
                self.remove(&entry.path());
            } else if name.ends_with(".kv") {
                total += about.len();
                files.push((used, about.len(), entry.path()));
            }
        }
        files.sort();
        for (_, bytes, path) in files {
            if total <= self.limit {
                return;
            }
            self.remove(&path);
            total -= bytes;
        }
    }
}
