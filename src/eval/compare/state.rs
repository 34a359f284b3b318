//! The state of a comparison on disk: the hidden states of all lanes after a layer, so that a run that is stopped or killed is resumed
//! there. It is whole or absent, as every output.
//!
//! ```text
//! "STRATACS"   SHA-256 of what was asked for, 64 hexadecimal digits   layer u64   lanes u64
//! lanes times: tokens x hidden x f32         all little-endian
//! SHA-256 of all that
//! ```

use super::ranges::blocks;
use crate::error::{Error, Result};
use crate::io::file::open_regular;
use crate::io::hash::{Digest, Hasher};
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;
use crate::model::States;
use std::fs;
use std::io::{BufReader, Read};
use std::path::PathBuf;

const MAGIC: &[u8; 8] = b"STRATACS";

/// Where the state of a comparison is kept.
pub struct StateFile {
    path: Option<PathBuf>, // nowhere
    of: Digest,
    tokens: usize,
    hidden: usize,
}

/// Rows of a state that are written and read together.
const ROWS: usize = 64;

impl StateFile {
    /// At `path`, in a file named by `of` in the folder `path`, or nowhere. `of` is a hash of everything that decides the states, each of
    /// which is `(tokens, hidden)`.
    pub fn new(path: Option<PathBuf>, of: Digest, [tokens, hidden]: [usize; 2]) -> StateFile {
        let name = format!("strata-compare-{}.state", &of.to_string()[..16]);
        let path = path.map(|path| if path.is_dir() { path.join(name) } else { path });
        StateFile { path, of, tokens, hidden }
    }

    /// Saves the states after layer `layer`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, layer: usize, mut lanes: Vec<&mut States>) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let (mut file, mut hasher) = (Outputs::single("compare", path, &Inputs::default())?, Hasher::default());
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
        };
        put(MAGIC)?;
        put(self.of.to_string().as_bytes())?;
        put(&(layer as u64).to_le_bytes())?;
        put(&(lanes.len() as u64).to_le_bytes())?;
        for lane in &mut lanes {
            for rows in blocks(self.tokens, ROWS) {
                put(&lane.rows(rows)?.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
            }
        }
        file.write_all(hasher.digest().to_string().as_bytes())?;
        file.commit()
    }

    /// The layer that the states were saved after, which `lanes` then have; `None` if there are none.
    ///
    /// # Errors
    /// If a file cannot be read, or is something else: it would be overwritten.
    pub fn load(&self, lanes: &mut [States]) -> Result<Option<usize>> {
        let Some(path) = &self.path else { return Ok(None) };
        if !path.exists() {
            return Ok(None);
        }
        let (file, stamp) = open_regular(path)?;
        let state = 4 * (self.tokens as u64).saturating_mul(self.hidden as u64);
        let whole = stamp.bytes == 8 + 2 * Digest::LEN as u64 + 16 + lanes.len() as u64 * state;
        let layer = if whole { self.parse(BufReader::with_capacity(1 << 20, file), lanes)? } else { None };
        layer.map(Some).ok_or_else(|| {
            let problem = "is not the state of this comparison, which would overwrite it";
            Error::invalid(path, "state", problem, "remove it, or name another file for the state")
        })
    }

    fn parse(&self, mut file: impl Read, lanes: &mut [States]) -> Result<Option<usize>> {
        let mut hasher = Hasher::default();
        let mut get = |bytes: &mut [u8]| -> Option<()> {
            file.read_exact(bytes).ok()?;
            hasher.update(bytes);
            Some(())
        };
        let mut header = [0; 8 + Digest::LEN + 16];
        let read = get(&mut header);
        let (magic, rest) = header.split_at(8);
        let (of, numbers) = rest.split_at(Digest::LEN);
        let [layer, count] = [0, 1].map(|i| u64::from_le_bytes(numbers.as_chunks().0[i]));
        if read.is_none() || magic != MAGIC || of != self.of.to_string().as_bytes() || count != lanes.len() as u64 {
            return Ok(None);
        }
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for lane in lanes {
            for rows in blocks(self.tokens, ROWS) {
                bytes.resize(4 * rows.len() * self.hidden, 0);
                if get(&mut bytes).is_none() {
                    return Ok(None);
                }
                values.clear();
                values.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                lane.set(rows.start, &values)?;
            }
        }
        let digest = hasher.digest().to_string();
        let mut recorded = vec![0; Digest::LEN];
        let whole = file.read_exact(&mut recorded).is_ok() && recorded == digest.as_bytes();
        Ok(whole.then_some(layer as usize))
    }

    /// Removes the file of a comparison that is finished.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            // What is left would be resumed from, to the same end.
            let _ = fs::remove_file(path);
        }
    }
}
