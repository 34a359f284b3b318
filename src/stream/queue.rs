//! The queue of reads: some in flight on each drive, the others waiting in order. Short reads are continued; failures name file and offset.

use crate::error::{Error, Result};
use crate::io::direct::ALIGN;
use crate::stream::backend::{Backend, Read};
use crate::stream::files::{ModelFiles, Piece};
use crate::stream::memory::Target;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// The time that the last reads have to complete before their memory is leaked.
const LAST_READS: Duration = Duration::from_secs(1);

/// A queue of reads.
pub struct Queue {
    backend: Box<dyn Backend>,
    files: ModelFiles,
    direct: bool,
    drives: Vec<Drive>,
    drive_of: Vec<usize>, // (files)
    depth: usize,
    io_timeout: Duration,
}

/// The reads of one drive.
#[derive(Default)]
struct Drive {
    waiting: VecDeque<Read>,
    flying: Vec<(usize, u64)>, // file and offset of what is in flight
}

impl Queue {
    /// Keeps up to `depth` reads in flight on each drive of `files`. A drive that ends none of them in `io_timeout` has failed.
    pub fn new(
        backend: Box<dyn Backend>,
        files: ModelFiles,
        direct: bool,
        depth: usize,
        io_timeout: Duration,
    ) -> Queue {
        let (numbers, drive_of) = drives(&files);
        let drives = numbers.iter().map(|_| Drive::default()).collect();
        Queue { backend, files, direct, drives, drive_of, depth: depth.max(1), io_timeout }
    }

    /// The files.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Queues the reads that fill `targets` with `pieces`.
    pub fn push(&mut self, pieces: &[Piece], targets: Vec<Target>, ticket: u64) {
        for (&Piece { file, offset, needed, .. }, target) in pieces.iter().zip(targets) {
            self.drives[self.drive_of[file]].waiting.push_back(Read { file, offset, needed, target, ticket });
        }
        self.launch();
    }

    /// Waits until a read is complete, and returns its ticket.
    ///
    /// # Errors
    /// If a file cannot be read, ends too early, or its drive stalls: with the path and the offset; or if nothing is queued.
    pub fn finish_one(&mut self) -> Result<u64> {
        loop {
            self.launch();
            let Some(&(file, offset)) = self.drives.iter().find_map(|drive| drive.flying.first()) else {
                return Err(Error::Internal("weights were waited for that nobody had asked for"));
            };
            let done = self.backend.wait(self.io_timeout).map_err(|error| self.failed(file, offset, error))?;
            let Some((read, result)) = done else {
                let problem = format!("no answer from the drive in {} seconds", self.io_timeout.as_secs_f32());
                return Err(self.failed(file, offset, io::Error::new(io::ErrorKind::TimedOut, problem)));
            };
            if let Some(ticket) = self.landed(read, result)? {
                return Ok(ticket);
            }
        }
    }

    /// Submits waiting reads up to the depth of each drive.
    fn launch(&mut self) {
        for drive in &mut self.drives {
            while drive.flying.len() < self.depth
                && let Some(read) = drive.waiting.pop_front()
            {
                drive.flying.push((read.file, read.offset));
                self.backend.submit(read);
            }
        }
    }

    /// Handles a completed read: returns its ticket, or puts the missing rest at the front of the queue.
    fn landed(&mut self, mut read: Read, result: io::Result<usize>) -> Result<Option<u64>> {
        let (file, offset, drive) = (read.file, read.offset, self.drive_of[read.file]);
        let flying = &mut self.drives[drive].flying;
        if let Some(i) = flying.iter().position(|&at| at == (file, offset)) {
            flying.remove(i);
        }
        match result {
            Ok(n) if n >= read.needed => return Ok(Some(read.ticket)),
            Ok(n) => {
                // Direct requests go on from a whole block.
                let n = n / ALIGN * ALIGN;
                if n == 0 {
                    self.files[file].check(offset)?;
                    return Err(self.failed(file, offset, io::ErrorKind::UnexpectedEof.into()));
                }
                read.target.advance(n);
                read.offset += n as u64;
                read.needed -= n;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // This file system takes the flag and refuses the request.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.files[file].handle(self.direct).1 => {
                self.files[file].refuse_direct();
            }
            Err(error) => return Err(self.failed(file, offset, error)),
        }
        self.drives[drive].waiting.push_front(read);
        Ok(None)
    }

    fn failed(&self, file: usize, offset: u64, error: io::Error) -> Error {
        let problem = io::Error::new(error.kind(), format!("at byte {offset}: {error}"));
        Error::io("read", self.files[file].path())(problem)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // What is in flight owns its memory; when it has landed, so do we again.
        while self.drives.iter().any(|drive| !drive.flying.is_empty()) {
            self.drives.iter_mut().for_each(|drive| drive.waiting.clear());
            let Ok(Some((read, _))) = self.backend.wait(LAST_READS) else { return };
            let flying = &mut self.drives[self.drive_of[read.file]].flying;
            flying.retain(|&at| at != (read.file, read.offset));
        }
    }
}

/// The device numbers of all drives, and for each file the index of its drive.
pub fn drives(files: &ModelFiles) -> (Vec<u64>, Vec<usize>) {
    let mut numbers = Vec::new();
    let of = |number| {
        numbers.iter().position(|known| *known == number).unwrap_or_else(|| {
            numbers.push(number);
            numbers.len() - 1
        })
    };
    let drive_of = files.iter().map(|file| file.drive()).map(of).collect();
    (numbers, drive_of)
}
