//! The results of a batch: kept in `OUT.results` as they come, a line each, and written to `OUT` in the order of the requests when all are
//! there. A run that is killed leaves the first file, perhaps with a line that is cut; the next one goes on from it.

use super::input::Line;
use crate::output;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use strata::io::inputs::Inputs;
use strata::io::outputs::Outputs;

/// What is answered.
pub struct Results {
    out: PathBuf,
    path: PathBuf,
    file: File,
    bytes: u64,                      // of whole lines
    places: Vec<Option<Range<u64>>>, // of the result of each request
    refused: usize,
}

impl Results {
    /// Opens what an earlier run for `out` has left, or begins.
    ///
    /// # Errors
    /// If another program writes it, or it has results of another batch.
    pub fn open(out: &Path, lines: &[Line], inputs: &Inputs) -> Result<Results> {
        Outputs::check(out, &[out], inputs)?;
        let mut name = out.file_name().context("the output has no name")?.to_owned();
        name.push(".results");
        let path = out.with_file_name(name);
        let shown = output::path(&path);
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = opened.with_context(|| format!("cannot open {shown}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another program writes {shown}"),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {shown}")),
        }
        let mut results =
            Results { out: out.to_owned(), path, file, bytes: 0, places: vec![None; lines.len()], refused: 0 };
        results.resume(lines).with_context(|| format!("cannot go on with {shown}"))?;
        Ok(results)
    }

    /// Takes over whole lines; one that is cut is removed.
    fn resume(&mut self, lines: &[Line]) -> Result<()> {
        let known: HashMap<&str, usize> = lines.iter().enumerate().map(|(i, line)| (line.id.as_str(), i)).collect();
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut text = Vec::new();
        while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
            let result: Option<Value> = serde_json::from_slice(&text).ok();
            let index = result.as_ref().and_then(|result| known.get(result["id"].as_str()?));
            let (Some(&index), Some(result)) = (index, &result) else {
                bail!("it has results of another batch, model or context; remove it, or name another output");
            };
            let place = self.bytes..self.bytes + text.len() as u64;
            self.note(index, place, result);
            text.clear();
        }
        self.file.set_len(self.bytes)?;
        Ok(())
    }

    fn note(&mut self, index: usize, place: Range<u64>, result: &Value) {
        self.bytes = place.end;
        if self.places[index].replace(place).is_none() {
            self.refused += usize::from(result["response"]["status_code"] != 200);
        }
    }

    /// True if a request has its result.
    pub fn has(&self, index: usize) -> bool {
        self.places[index].is_some()
    }

    /// Requests that have their results.
    pub fn done(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Requests that were refused.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Keeps the result of a request.
    pub fn push(&mut self, index: usize, result: &Value) -> Result<()> {
        let line = format!("{result}\n");
        // In one piece, behind the last whole line: a kill leaves at most a line that is cut.
        self.file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", output::path(&self.path)))?;
        self.note(index, self.bytes..self.bytes + line.len() as u64, result);
        Ok(())
    }

    /// Writes all results in the order of the requests.
    pub fn finish(mut self, inputs: &Inputs) -> Result<()> {
        let mut out = Outputs::single("batch", &self.out, inputs)?;
        for place in self.places.iter().flatten() {
            let mut line = vec![0; (place.end - place.start) as usize];
            let read = self.file.seek(SeekFrom::Start(place.start)).and_then(|_| self.file.read_exact(&mut line));
            read.with_context(|| format!("cannot read {}", output::path(&self.path)))?;
            out.write_all(&line)?;
        }
        out.commit()?;
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", output::path(&self.path)))
    }
}
