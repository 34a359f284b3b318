//! Reads through io_uring: one system call submits many, and no thread waits for each.

// The reader's share of unsafe code: requests to the kernel with addresses in them.
#![allow(unsafe_code)]

use crate::stream::backend::{Backend, Done, Read};
use crate::stream::files::ModelFiles;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// An io_uring instance and the reads that are in flight in it.
pub struct Uring {
    ring: IoUring,
    files: ModelFiles,
    direct: bool,
    reads: Vec<Option<Read>>, // in flight, by number
}

impl Uring {
    /// Sets up a ring for `depth` reads in flight.
    ///
    /// # Errors
    /// If the kernel has no io_uring, is too old, or refuses it, as in many containers.
    pub fn new(files: ModelFiles, direct: bool, depth: usize) -> io::Result<Uring> {
        let ring = IoUring::new(depth.next_power_of_two().clamp(1, 4096) as u32)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Uring { ring, files, direct, reads: Vec::new() })
    }

    fn take_done(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        let read = self.reads.get_mut(entry.user_data() as usize)?.take()?;
        let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some((read, result))
    }
}

impl Backend for Uring {
    fn submit(&mut self, mut read: Read) {
        let number = self.reads.iter().position(Option::is_none).unwrap_or(self.reads.len());
        let (file, _) = self.files[read.file].handle(self.direct);
        let target = read.target.bytes();
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), target.as_mut_ptr(), target.len() as u32)
            .offset(read.offset)
            .build()
            .user_data(number as u64);
        if number == self.reads.len() {
            self.reads.push(None);
        }
        self.reads[number] = Some(read);
        loop {
            // SAFETY: no CPU feature; the kernel writes at most `target.len()` bytes to the target, which stays in `reads`, and with it
            // its memory, until the read is done, or for ever (`drop`). The file is open as long as `files`.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // FilledSlot of what has not been handed over.
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    fn wait(&mut self, io_timeout: Duration) -> io::Result<Option<Done>> {
        loop {
            let ready = !self.ring.completion().is_empty();
            if ready && self.ring.submission().is_empty() {
                if let Some(done) = self.take_done() {
                    return Ok(Some(done));
                }
                continue;
            }
            let time = Timespec::from(io_timeout);
            let waited = match ready {
                true => self.ring.submit(),
                false => self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)),
            };
            match waited {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(ETIME) => return Ok(None),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy) => {}
                Err(error) => return Err(error),
            }
            if let Some(done) = self.take_done() {
                return Ok(Some(done));
            }
        }
    }
}

/// The error number of a wait that timed out.
const ETIME: i32 = rustix::io::Errno::TIME.raw_os_error();

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may still write to what it has not given back: that memory is never used again.
        self.reads.drain(..).flatten().for_each(std::mem::forget);
    }
}
