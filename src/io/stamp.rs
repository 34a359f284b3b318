//! What tells a file from all others, and whether it is still what it was when it was opened.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;

/// What tells a file from all others, by whatever name: links lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(#[cfg(unix)] (u64, u64), #[cfg(not(unix))] std::path::PathBuf);

impl Identity {
    /// Of the file that `path` leads to.
    ///
    /// # Errors
    /// If there is none, or it cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Identity> {
        #[cfg(unix)]
        return fs::metadata(path).map(|about| Identity::of_metadata(&about));
        #[cfg(not(unix))]
        return path.canonicalize().map(Identity);
    }

    /// Of what has been looked at.
    #[cfg(unix)]
    pub fn of_metadata(about: &Metadata) -> Identity {
        use std::os::unix::fs::MetadataExt;
        Identity((about.dev(), about.ino()))
    }
}

/// What changes when a file does. An equal stamp means equal contents; a copy has another stamp and may have the same contents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its length.
    pub bytes: u64,
    /// When its contents changed last, in nanoseconds since 1970.
    pub modified: u64,
    /// Device, inode, and when either of contents and attributes changed last: no program can set that back.
    pub node: [u64; 3],
}

impl Stamp {
    /// Of what has been looked at.
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

    /// That `file`, which was opened as `path` when it had this stamp, is still what it was: as long, and not written to. That another
    /// has taken its name meanwhile, or that it was removed, does not matter: whoever has it open keeps its bytes.
    ///
    /// # Errors
    /// Says what has happened. What has been read of it before byte `offset` may not belong to what follows; of a file that was cut
    /// the error names its new end instead.
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
