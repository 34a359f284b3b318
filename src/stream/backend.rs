//! Backends that have many reads in flight at once.

use crate::stream::files::ModelFiles;
use crate::stream::memory::Target;
use crate::threads;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A read that is in flight: the bytes of a file from `offset` on, as many as `target` takes.
pub struct Read {
    /// The file, as an index into the model's files.
    pub file: usize,
    /// The byte offset in the file.
    pub offset: u64,
    /// The number of bytes that must arrive; the file may end after them.
    pub needed: usize,
    /// The memory that is filled.
    pub target: Target,
    /// The number of the buffer that it belongs to.
    pub ticket: u64,
}

/// A completed read and the number of bytes that it returned.
pub type Done = (Read, io::Result<usize>);

/// A backend that has many reads in flight at once.
pub trait Backend: Send {
    /// Submits a read.
    fn submit(&mut self, read: Read);

    /// Waits at most `io_timeout` for a read to complete.
    ///
    /// # Errors
    /// If the backend has failed as a whole.
    fn wait(&mut self, io_timeout: Duration) -> io::Result<Option<Done>>;
}

/// A pool of threads that call `pread`.
pub struct Pool {
    reads: Sender<Read>,
    done: Receiver<Done>,
}

impl Pool {
    /// Starts `threads` threads. They end with the pool, each after its current read.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn new(files: ModelFiles, direct: bool, threads: usize) -> io::Result<Pool> {
        let ((reads, queue), (to, done)) = (channel(), channel());
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.max(1) {
            let (files, queue, to) = (files.clone(), queue.clone(), to.clone());
            let work = move || serve(&files, direct, &queue, &to);
            threads::builder().name("strata-read".to_owned()).spawn(work)?;
        }
        Ok(Pool { reads, done })
    }
}

fn serve(files: &ModelFiles, direct: bool, queue: &Mutex<Receiver<Read>>, to: &Sender<Done>) {
    let next = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv().ok();
    while let Some(mut read) = next() {
        let (file, aligned) = files[read.file].handle(direct);
        if !aligned {
            advise(file, &read, Want::Ahead);
        }
        let result = read_once(file, read.target.bytes(), read.offset);
        if !aligned {
            advise(file, &read, Want::Forget);
        }
        if to.send((read, result)).is_err() {
            return;
        }
    }
}

#[cfg(unix)]
fn read_once(file: &std::fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}
#[cfg(not(unix))]
fn read_once(file: &std::fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    crate::io::file::read_at(file, buffer, offset).map(|()| buffer.len())
}

/// What the page cache should do with the bytes of a read.
enum Want {
    /// Read all of them ahead: by itself it would read small portions.
    Ahead,
    /// Drop them: they are needed again only after the whole model.
    Forget,
}

#[cfg(target_os = "linux")]
fn advise(file: &std::fs::File, read: &Read, want: Want) {
    let advice = match want {
        Want::Ahead => rustix::fs::Advice::WillNeed,
        Want::Forget => rustix::fs::Advice::DontNeed,
    };
    // A hint: where it fails, nothing is lost but speed.
    let _ = rustix::fs::fadvise(file, read.offset, std::num::NonZeroU64::new(read.target.len() as u64), advice);
}
#[cfg(not(target_os = "linux"))]
fn advise(_: &std::fs::File, _: &Read, want: Want) {
    match want {
        Want::Ahead | Want::Forget => {}
    }
}

impl Backend for Pool {
    fn submit(&mut self, read: Read) {
        // The threads outlive every read: they end when this sender is gone.
        let _ = self.reads.send(read);
    }

    fn wait(&mut self, io_timeout: Duration) -> io::Result<Option<Done>> {
        match self.done.recv_timeout(io_timeout) {
            Ok(done) => Ok(Some(done)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the threads that read have ended")),
        }
    }
}
