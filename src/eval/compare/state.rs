//! The state of a comparison on disk: the hidden states of all lanes after a layer, so that a run that is stopped or killed is resumed
//! there. It is whole or absent, as every output.
//!
//! ```text
//! "STRATACS"   SHA-256 of what was asked for, 64 hexadecimal digits   layer u64   lanes u64
//! lanes times: values u64, values x f32         all little-endian
//! SHA-256 of all that
//! ```

use crate::error::{Error, Result};
use crate::io::file::open_regular;
use crate::io::hash::{Digest, Hasher};
use crate::io::inputs::Inputs;
use crate::io::outputs::Outputs;
use std::fs;
use std::io::{BufReader, Read};
use std::path::PathBuf;

const MAGIC: &[u8; 8] = b"STRATACS";

/// Where the state of a comparison is kept.
pub struct StateFile {
    path: Option<PathBuf>, // nowhere
    of: Digest,
    values: u64, // of a lane
}

impl StateFile {
    /// At `path`, in a file named by `of` in the folder `path`, or nowhere. `of` is a hash of everything that decides the states, each of
    /// which has `values` values.
    pub fn new(path: Option<PathBuf>, of: Digest, values: u64) -> StateFile {
        let name = format!("strata-compare-{}.state", &of.to_string()[..16]);
        let path = path.map(|path| if path.is_dir() { path.join(name) } else { path });
        StateFile { path, of, values }
    }

    /// Saves the states after layer `layer`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save<'h>(&self, layer: usize, lanes: impl Iterator<Item = &'h [f32]>) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let lanes: Vec<&[f32]> = lanes.collect();
        let (mut file, mut hasher) = (Outputs::single("compare", path, &Inputs::default())?, Hasher::default());
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
        };
        put(MAGIC)?;
        put(self.of.to_string().as_bytes())?;
        put(&(layer as u64).to_le_bytes())?;
        put(&(lanes.len() as u64).to_le_bytes())?;
        for lane in lanes {
            put(&(lane.len() as u64).to_le_bytes())?;
            for part in lane.chunks(1 << 16) {
                put(&part.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
            }
        }
        file.write_all(hasher.digest().to_string().as_bytes())?;
        file.commit()
    }

    /// The layer that the states were saved after, and the states; `None` if there are none.
    ///
    /// # Errors
    /// If the file cannot be read, or is something else: it would be overwritten.
    pub fn load(&self, lanes: usize) -> Result<Option<(usize, Vec<Vec<f32>>)>> {
        let Some(path) = &self.path else { return Ok(None) };
        if !path.exists() {
            return Ok(None);
        }
        let (file, stamp) = open_regular(path)?;
        let wanted = 8 + 2 * Digest::LEN as u64 + 16 + lanes as u64 * (8 + 4 * self.values);
        let whole = stamp.bytes == wanted;
        let state = if whole { self.parse(BufReader::with_capacity(1 << 20, file), lanes) } else { None };
        state.map(Some).ok_or_else(|| {
            let problem = "is not the state of this comparison, which would overwrite it";
            Error::invalid(path, "state", problem, "remove it, or name another file for the state")
        })
    }

    fn parse(&self, mut file: impl Read, lanes: usize) -> Option<(usize, Vec<Vec<f32>>)> {
        let mut hasher = Hasher::default();
        let mut get = |bytes: &mut [u8]| -> Option<()> {
            file.read_exact(bytes).ok()?;
            hasher.update(bytes);
            Some(())
        };
        let (mut magic, mut of, mut number) = ([0; 8], [0; Digest::LEN], [0; 8]);
        get(&mut magic)?;
        get(&mut of)?;
        if &magic != MAGIC || of != *self.of.to_string().as_bytes() {
            return None;
        }
        get(&mut number)?;
        let layer = u64::from_le_bytes(number) as usize;
        get(&mut number)?;
        if u64::from_le_bytes(number) != lanes as u64 {
            return None;
        }
        let mut states = Vec::with_capacity(lanes);
        for _ in 0..lanes {
            get(&mut number)?;
            if u64::from_le_bytes(number) != self.values {
                return None;
            }
            let mut state = vec![0.0; self.values as usize];
            let mut bytes = vec![0; 4 << 16];
            for part in state.chunks_mut(1 << 16) {
                let bytes = &mut bytes[..4 * part.len()];
                get(bytes)?;
                part.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
            }
            states.push(state);
        }
        let digest = hasher.digest().to_string();
        let mut recorded = vec![0; Digest::LEN];
        file.read_exact(&mut recorded).ok()?;
        (recorded == digest.as_bytes()).then_some((layer, states))
    }

    /// Removes the file of a comparison that is finished.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            // What is left would be resumed from, to the same end.
            let _ = fs::remove_file(path);
        }
    }
}
