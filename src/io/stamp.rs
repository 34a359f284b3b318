//! The identity of a file, and whether it has changed since it was opened.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;

/// The identity of a file, equal for all its names and links: device and inode, or the canonical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(#[cfg(unix)] (u64, u64), #[cfg(not(unix))] std::path::PathBuf);

impl Identity {
    /// The identity of the file at `path`, links followed.
    ///
    /// # Errors
    /// If its metadata cannot be read.
    pub fn of(path: &Path) -> io::Result<Identity> {
        #[cfg(unix)]
        return fs::metadata(path).map(|about| Identity::of_metadata(&about));
        #[cfg(not(unix))]
        return path.canonicalize().map(Identity);
    }

    /// The identity of the file with this metadata.
    #[cfg(unix)]
    pub fn of_metadata(about: &Metadata) -> Identity {
        use std::os::unix::fs::MetadataExt;
        Identity((about.dev(), about.ino()))
    }
}

/// The metadata that change with a file. Equal stamps mean equal contents; a copy has another stamp.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// The length of the file.
    pub bytes: u64,
    /// The time of the last change of contents, in nanoseconds since 1970.
    pub modified: u64,
    /// Device, inode, and the time of the last change of contents or attributes, which no program can set back.
    pub node: [u64; 3],
}

impl Stamp {
    /// The stamp of the file with this metadata.
    pub fn of(about: &Metadata) -> Stamp {
        let since_1970 = about.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let modified = since_1970.map_or(0, |time| time.as_nanos() as u64);
        #[cfg(unix)]
        let node = {
            use std::os::unix::fs::MetadataExt;
            let changed = about.ctime().wrapping_mul(1_000_000_000).wrapping_add(about.ctime_nsec());
            [about.dev(), about.ino(), changed as u64]
        };
        #[cfg(not(unix))]
        let node = [0; 3];
        Stamp { bytes: about.len(), modified, node }
    }

    /// Checks that `file`, opened as `path` when it had this stamp, has the same length and was not written to. A renamed or removed file
    /// is fine: an open file keeps its bytes.
    ///
    /// # Errors
    /// Names the change and byte `offset`, up to which the caller has read; for a truncated file its new end.
    pub fn check(&self, file: &File, path: &Path, offset: u64) -> Result<()> {
        let now = file.metadata().map_err(|error| Error::io("look at", path)(error))?;
        let changed = |at: u64, what: String| {
            Err(Error::invalid(path, format!("byte {at}"), what, "start again when nothing writes to the file"))
        };
        let now_stamp = Stamp::of(&now);
        if now_stamp.bytes != self.bytes {
            let what = format!("the file had {} bytes when it was opened and has {} now", self.bytes, now_stamp.bytes);
            return changed(now_stamp.bytes.min(self.bytes), what);
        }
        if now_stamp.modified != self.modified {
            return changed(offset, "the file has been written to since it was opened".to_owned());
        }
        Ok(())
    }
}
