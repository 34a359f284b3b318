//! Syncs an output to the disk while it is written, so that the disk works from the beginning, a power cut loses little, and memory
//! does not fill with unwritten pages.

use crate::threads;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes written between two syncs. One sync may run and one wait before the writer waits too.
const STEP: u64 = 128 << 20;

/// A thread that syncs files, and the bytes written since its last order.
pub struct Syncer {
    to: Option<SyncSender<Arc<File>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    unsynced: u64,
}

impl Syncer {
    /// Starts the thread.
    pub fn start() -> io::Result<Syncer> {
        let (to, files): (_, Receiver<Arc<File>>) = sync_channel(1);
        // The system reports an error only once, so the thread ends with it and keeps it for `finish`.
        let work = move || files.iter().try_for_each(|file| file.sync_data());
        let thread = threads::builder().name("strata-sync".to_owned()).spawn(work)?;
        Ok(Syncer { to: Some(to), thread: Some(thread), unsynced: 0 })
    }

    /// Counts bytes written to `file`, and orders a sync after every [`STEP`].
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

    /// Waits for all syncs that were ordered.
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
