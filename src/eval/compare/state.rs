//! The state of long work on disk: the hidden states of all lanes after a step and what is known so far, so that a run that is stopped or
//! killed is resumed there. It is whole or absent, as every output.
//!
//! ```text
//! "STRATAWS"   SHA-256 of what was asked for, 64 hexadecimal digits   step u64   bytes u64   lanes u64
//! bytes: what is known                       its owner knows the form
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
use std::cell::Cell;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"STRATAWS";
const HEADER: usize = 8 + Digest::LEN + 24;

/// Work between two saves takes at least so many times as long as saving: an interruption costs little, and saving 2 %.
const WORK_PER_SAVE: u32 = 50;

/// What a file keeps.
pub struct Saved {
    /// The step after which it was saved, as its owner counts.
    pub step: u64,
    /// What was known then.
    pub known: Vec<u8>,
    /// The states of all lanes.
    pub states: Vec<States>,
}

/// Where the state of work is kept.
pub struct StateFile {
    path: Option<PathBuf>, // nowhere
    of: Digest,
    tokens: usize,
    hidden: usize,
    pace: Cell<(Instant, Duration)>, // when it was saved last, and how long that took
}

/// Rows of a state that are written and read together.
const ROWS: usize = 64;

impl StateFile {
    /// At `path`, in a file named by `kind` and `of` in the folder `path`, or nowhere. `of` is a hash of everything that decides
    /// the states, each of which is `(tokens, hidden)`.
    pub fn new(kind: &str, path: Option<PathBuf>, of: Digest, [tokens, hidden]: [usize; 2]) -> StateFile {
        let name = format!("strata-{kind}-{}.state", &of.to_string()[..16]);
        let path = path.map(|path| if path.is_dir() { path.join(name) } else { path });
        StateFile { path, of, tokens, hidden, pace: Cell::new((Instant::now(), Duration::ZERO)) }
    }

    /// True if the next step is worth saving.
    pub fn is_due(&self) -> bool {
        let (saved, took) = self.pace.get();
        self.path.is_some() && saved.elapsed() >= WORK_PER_SAVE * took
    }

    /// Saves what is known after a step, and the states of all lanes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, step: u64, known: &[u8], lanes: &mut [&mut States]) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let begin = Instant::now();
        let (mut file, mut hasher) = (Outputs::single("compare", path, &Inputs::default())?, Hasher::default());
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
        };
        put(MAGIC)?;
        put(self.of.to_string().as_bytes())?;
        [step, known.len() as u64, lanes.len() as u64].iter().try_for_each(|number| put(&number.to_le_bytes()))?;
        put(known)?;
        for lane in lanes {
            for rows in blocks(self.tokens, ROWS) {
                put(&lane.rows(rows)?.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
            }
        }
        file.write_all(hasher.digest().to_string().as_bytes())?;
        file.commit()?;
        self.pace.set((Instant::now(), begin.elapsed()));
        Ok(())
    }

    /// What was saved, of no more than `most` lanes, whose states are put into those that `states` makes; `None` if there is nothing.
    ///
    /// # Errors
    /// If a file cannot be read, or is something else: it would be overwritten.
    pub fn load(&self, most: usize, mut states: impl FnMut() -> Result<States>) -> Result<Option<Saved>> {
        let Some(path) = self.path.as_ref().filter(|path| path.exists()) else { return Ok(None) };
        let (file, stamp) = open_regular(path)?;
        let saved = self.parse(BufReader::with_capacity(1 << 20, file), (stamp.bytes, most), &mut states)?;
        saved.map(Some).ok_or_else(|| self.refused())
    }

    /// The error of a file that is something else.
    pub fn refused(&self) -> Error {
        let problem = "is not the state of this comparison, which would overwrite it";
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        Error::invalid(path, "state", problem, "remove it, or name another file for the state")
    }

    fn parse(
        &self,
        mut file: impl Read,
        (bytes, most): (u64, usize),
        states: &mut dyn FnMut() -> Result<States>,
    ) -> Result<Option<Saved>> {
        let mut hasher = Hasher::default();
        let mut get = |bytes: &mut [u8]| -> Option<()> {
            file.read_exact(bytes).ok()?;
            hasher.update(bytes);
            Some(())
        };
        let mut header = [0; HEADER];
        let read = get(&mut header);
        let (magic, rest) = header.split_at(8);
        let (of, numbers) = rest.split_at(Digest::LEN);
        let [step, len, lanes] = [0, 1, 2].map(|i| u64::from_le_bytes(numbers.as_chunks().0[i]));
        let whole = (4 * self.tokens as u64)
            .checked_mul(self.hidden as u64)
            .and_then(|lane| lane.checked_mul(lanes)?.checked_add(len)?.checked_add((HEADER + Digest::LEN) as u64));
        let ours = magic == MAGIC && of == self.of.to_string().as_bytes();
        if read.is_none() || !ours || whole != Some(bytes) || lanes > most as u64 {
            return Ok(None);
        }
        let mut saved = Saved { step, known: vec![0; len as usize], states: Vec::new() };
        if get(&mut saved.known).is_none() {
            return Ok(None);
        }
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for _ in 0..lanes {
            let mut lane = states()?;
            for rows in blocks(self.tokens, ROWS) {
                bytes.resize(4 * rows.len() * self.hidden, 0);
                if get(&mut bytes).is_none() {
                    return Ok(None);
                }
                values.clear();
                values.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                lane.set(rows.start, &values)?;
            }
            saved.states.push(lane);
        }
        let digest = hasher.digest().to_string();
        let mut recorded = vec![0; Digest::LEN];
        let whole = file.read_exact(&mut recorded).is_ok() && recorded == digest.as_bytes();
        Ok(whole.then_some(saved))
    }

    /// Removes the file: the work is finished.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            // What is left would be resumed from, to the same end.
            let _ = fs::remove_file(path);
        }
    }
}
