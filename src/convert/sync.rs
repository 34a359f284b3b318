//! Bringing a growing file to the disk while it grows, so that the disk works from the beginning, little is lost in a power cut, and
//! memory does not fill with what is still to be written.

use crate::threads;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes written between two syncs. One may be at work and one waiting before the writer waits too.
const STEP: u64 = 128 << 20;

/// A thread that syncs files, and bytes that it was not told of yet.
pub struct Syncer {
    to: Option<SyncSender<Arc<File>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    unsynced: u64,
}

impl Syncer {
    /// Starts the thread.
    pub fn start() -> io::Result<Syncer> {
        let (to, files): (_, Receiver<Arc<File>>) = sync_channel(1);
        // An error is told once by the system, and so kept for whoever comes next: the thread ends with it.
        let work = move || files.iter().try_for_each(|file| file.sync_data());
        let thread = threads::builder().name("strata-sync".to_owned()).spawn(work)?;
        Ok(Syncer { to: Some(to), thread: Some(thread), unsynced: 0 })
    }

    /// Told of bytes written to `file`.
    ///
    /// # Errors
    /// That of an earlier sync.
    pub fn wrote(&mut self, file: &Arc<File>, bytes: u64) -> io::Result<()> {
        self.unsynced += bytes;
        if self.unsynced < STEP {
            return Ok(());
        }
        self.unsynced = 0;
        match &self.to {
            Some(to) if to.send(file.clone()).is_ok() => Ok(()),
            _ => self.finish(),
        }
    }

    /// Waits for all syncs that were begun.
    ///
    /// # Errors
    /// That of one of them.
    pub fn finish(&mut self) -> io::Result<()> {
        self.to = None;
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|why| std::panic::resume_unwind(why)),
            None => Ok(()),
        }
    }
}
