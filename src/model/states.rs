//! The hidden states of a batch between layers: in memory, or in a file, of which a group of sequences at a time is in memory.

use crate::error::{Error, Result};
use crate::io::file::{read_at, write_at};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Hidden states `(tokens, hidden)`.
pub struct States {
    hidden: usize,
    place: Place,
}

enum Place {
    Memory(Vec<f32>),
    File(StatesFile),
}

/// States in a file of the machine's byte order, which has no name where the system allows that: it is gone with the program.
struct StatesFile {
    file: File,
    path: PathBuf,    // where it was made
    values: Vec<f32>, // of the rows in memory
    bytes: Vec<u8>,   // the same as they are in the file
}

impl States {
    /// Rows of `hidden` values, none yet: in a file in the folder `spill`, or in memory.
    ///
    /// # Errors
    /// If a file cannot be made there.
    pub fn new(spill: Option<&Path>, hidden: usize) -> Result<States> {
        match spill {
            Some(folder) => States::in_file(folder, hidden),
            None => Ok(States::in_memory(Vec::new(), hidden)),
        }
    }

    /// Those in memory, rows of `hidden` values.
    pub fn in_memory(h: Vec<f32>, hidden: usize) -> States {
        States { hidden, place: Place::Memory(h) }
    }

    /// Rows of `hidden` values that are kept in a file in `folder`; it has none yet.
    ///
    /// # Errors
    /// If a file cannot be made there.
    pub fn in_file(folder: &Path, hidden: usize) -> Result<States> {
        let (file, path) = unnamed(folder)?;
        Ok(States { hidden, place: Place::File(StatesFile { file, path, values: Vec::new(), bytes: Vec::new() }) })
    }

    /// Calls `f` with some rows `(rows, hidden)`, and keeps what it makes of them.
    ///
    /// # Errors
    /// Those of `f`, and of the file.
    pub fn update<T>(&mut self, rows: Range<usize>, f: impl FnOnce(&mut [f32]) -> Result<T>) -> Result<T> {
        let hidden = self.hidden;
        match &mut self.place {
            Place::Memory(h) => f(&mut h[rows.start * hidden..rows.end * hidden]),
            Place::File(file) => {
                file.read(rows.start * hidden, rows.len() * hidden)?;
                let done = f(&mut file.values)?;
                file.write(rows.start * hidden)?;
                Ok(done)
            }
        }
    }

    /// Some rows `(rows, hidden)`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn rows(&mut self, rows: Range<usize>) -> Result<&[f32]> {
        let hidden = self.hidden;
        match &mut self.place {
            Place::Memory(h) => Ok(&h[rows.start * hidden..rows.end * hidden]),
            Place::File(file) => {
                file.read(rows.start * hidden, rows.len() * hidden)?;
                Ok(&file.values)
            }
        }
    }

    /// Sets the rows from `first` on to `h (rows, hidden)`. In memory they follow what is there.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&mut self, first: usize, h: &[f32]) -> Result<()> {
        let at = first * self.hidden;
        match &mut self.place {
            Place::Memory(states) => {
                states.truncate(at);
                states.extend_from_slice(h);
                Ok(())
            }
            Place::File(file) => {
                file.values.clear();
                file.values.extend_from_slice(h);
                file.write(at)
            }
        }
    }

    /// Those in memory, for another batch; none of a file.
    pub fn into_memory(self) -> Vec<f32> {
        match self.place {
            Place::Memory(h) => h,
            Place::File(_) => Vec::new(),
        }
    }
}

impl StatesFile {
    fn read(&mut self, first: usize, values: usize) -> Result<()> {
        self.bytes.resize(4 * values, 0);
        read_at(&self.file, &mut self.bytes, 4 * first as u64).map_err(Error::io("read", &self.path))?;
        self.values.clear();
        self.values.extend(self.bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)));
        Ok(())
    }

    fn write(&mut self, first: usize) -> Result<()> {
        self.bytes.clear();
        self.bytes.extend(self.values.iter().flat_map(|value| value.to_ne_bytes()));
        write_at(&self.file, &self.bytes, 4 * first as u64).map_err(Error::io("write", &self.path))
    }
}

/// A new file in `folder` whose name is removed at once.
fn unnamed(folder: &Path) -> Result<(File, PathBuf)> {
    let mut number = 0;
    loop {
        let path = folder.join(format!("strata-{}-{number}.states", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                // Where an open file keeps its name, it stays until somebody cleans up.
                let _ = std::fs::remove_file(&path);
                return Ok((file, path));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < u16::MAX => number += 1,
            Err(error) => return Err(Error::io("create", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_memory_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let mut both = [States::in_memory(Vec::new(), 2), States::in_file(folder.path(), 2).unwrap()];
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), usize::from(cfg!(not(unix))));
        for states in &mut both {
            states.set(0, &[1.0, 2.0, 3.0, 4.0]).unwrap();
            states.set(2, &[5.0, 6.0]).unwrap();
            let double = |h: &mut [f32]| {
                h.iter_mut().for_each(|value| *value *= 2.0);
                Ok(())
            };
            states.update(1..3, double).unwrap();
            assert_eq!(states.rows(0..3).unwrap(), [1.0, 2.0, 6.0, 8.0, 10.0, 12.0]);
            states.update(0..1, |_| Err::<(), _>(Error::Cancelled)).unwrap_err();
            assert_eq!(states.rows(0..2).unwrap(), [1.0, 2.0, 6.0, 8.0]);
        }
        assert!(both[1].rows(2..4).is_err());
        assert!(States::in_file(&folder.path().join("none"), 2).is_err());
    }
}
