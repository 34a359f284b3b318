//! Direct I/O for large files. Read or written once, they would only evict what others keep in the page cache, and the cache costs more
//! time than the data (measured on a virtual machine: 12 of 20 seconds of reading 6.6 GB).
//!
//! Direct requests need their offset, length and memory aligned to [`ALIGN`]. A [`Stream`] reads a whole file sequentially, ahead of its
//! consumer; a [`Sink`] gathers sequential writes and leaves only the ends that do not fill a page to the cache. Where the system refuses
//! direct requests, or the file is in the cache already, both use buffered ones: the bytes are the same.

use crate::io::file::{read_at, write_at};
use crate::threads;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};

/// The alignment of direct requests in bytes: a page, which no disk's block exceeds.
pub const ALIGN: usize = 4096;

/// Bytes of a request where memory allows; disks are fastest with 1 to 4 MiB.
const REQUEST: usize = 4 << 20;

/// The number of requests that a [`Stream`] reads ahead.
pub const AHEAD: usize = 3;

/// The bytes of a request where all buffers together may take `memory` bytes.
pub fn request_bytes(memory: u64) -> usize {
    let share = (memory / 32).clamp(ALIGN as u64, REQUEST as u64) as usize;
    share / ALIGN * ALIGN
}

/// Smaller files are read through the cache: a second handle is not worth it.
const SMALL: u64 = 64 << 20;

/// Aligned memory for a request.
struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize, // the first aligned byte
    len: usize,   // from there
}

impl AlignedBuffer {
    fn new(len: usize) -> io::Result<AlignedBuffer> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + ALIGN)?;
        bytes.resize(len + ALIGN, 0);
        let start = bytes.as_ptr().align_offset(ALIGN);
        Ok(AlignedBuffer { bytes, start, len })
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Opens a second handle of `file` for direct requests; `None` where the system refuses.
#[cfg(target_os = "linux")]
pub fn open(path: &Path, file: &File, write: bool) -> Option<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let direct = OpenOptions::new().read(!write).write(write).custom_flags(flags).open(path).ok()?;
    let node = |file: &File| file.metadata().map(|about| (about.dev(), about.ino())).ok();
    (node(file)? == node(&direct)?).then_some(direct)
}

#[cfg(not(target_os = "linux"))]
pub fn open(_: &Path, _: &File, _: bool) -> Option<File> {
    None
}

/// True if most of the file is in the page cache, which is faster than the disk then.
#[cfg(target_os = "linux")]
fn is_cached(file: &File, bytes: u64) -> bool {
    const SAMPLES: u64 = 32;
    let cached = (0..SAMPLES).filter(|i| {
        let mut byte = [0];
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(file, &mut parts, bytes / SAMPLES * i, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
    });
    cached.count() as u64 > SAMPLES / 2
}

#[cfg(not(target_os = "linux"))]
fn is_cached(_: &File, _: u64) -> bool {
    true
}

/// A sequential reader of a whole file with read-ahead.
pub struct Stream {
    full: Receiver<io::Result<(AlignedBuffer, usize)>>,
    free: mpsc::Sender<AlignedBuffer>,
    now: Option<(AlignedBuffer, usize)>, // a request and how much of it there is
    taken: usize,                        // of that
}

impl Stream {
    /// Starts to read `file`, which has been opened as `path` and has `bytes` bytes, by requests of `request` bytes, a number from
    /// [`request_bytes`]. The thread that reads ends with the stream.
    pub fn open(path: &Path, file: &File, bytes: u64, request: usize) -> io::Result<Stream> {
        let direct = if bytes < SMALL || is_cached(file, bytes) { None } else { open(path, file, false) };
        let (ordinary, (to, full), (free, empty)) = (file.try_clone()?, sync_channel(AHEAD), mpsc::channel());
        for _ in 0..AHEAD {
            // The receiver is right here.
            let _ = free.send(AlignedBuffer::new(request)?);
        }
        let work = move || ahead(direct, &ordinary, bytes, &empty, &to);
        threads::builder().name("strata-read".to_owned()).spawn(work)?;
        Ok(Stream { full, free, now: None, taken: 0 })
    }

    /// Fills `out` with the next bytes.
    ///
    /// # Errors
    /// Also if the file ends before.
    pub fn fill(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let Some((buffer, len)) = &self.now else {
                self.now = Some(self.full.recv().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))??);
                self.taken = 0;
                continue;
            };
            let n = out.len().min(len - self.taken);
            out[..n].copy_from_slice(&buffer.get()[self.taken..self.taken + n]);
            (out, self.taken) = (&mut out[n..], self.taken + n);
            if self.taken == *len
                && let Some((buffer, _)) = self.now.take()
            {
                // Nobody waits for it after the end.
                let _ = self.free.send(buffer);
            }
        }
        Ok(())
    }
}

/// Reads a file of `bytes` bytes until its end or until the consumer is gone.
fn ahead(
    mut direct: Option<File>,
    ordinary: &File,
    bytes: u64,
    empty: &Receiver<AlignedBuffer>,
    to: &SyncSender<io::Result<(AlignedBuffer, usize)>>,
) {
    let mut at = 0;
    while at < bytes {
        let Ok(mut buffer) = empty.recv() else { return };
        let len = (bytes - at).min(buffer.len as u64) as usize;
        // A last request that does not fill a page goes through the cache.
        let by_direct = direct
            .as_ref()
            .filter(|_| len.is_multiple_of(ALIGN))
            .map(|file| read_at(file, &mut buffer.get_mut()[..len], at));
        let read = match by_direct {
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                // This file system takes the flag and refuses the request.
                direct = None;
                read_at(ordinary, &mut buffer.get_mut()[..len], at)
            }
            Some(read) => read,
            None => read_at(ordinary, &mut buffer.get_mut()[..len], at),
        };
        let failed = read.is_err();
        if to.send(read.map(|()| (buffer, len))).is_err() || failed {
            return;
        }
        at += len as u64;
    }
}

/// A writer that gathers sequential writes into large direct requests.
pub struct Sink {
    file: Arc<File>,
    direct: Option<File>,
    buffer: AlignedBuffer,
    place: u64, // the offset of the first gathered byte, rounded down to a page
    first: usize,
    len: usize, // both in the buffer: what is gathered
}

impl Sink {
    /// Writes to `file`, which has been opened as `path`, by requests as those of [`Stream::open`].
    pub fn new(path: &Path, file: Arc<File>, request: usize) -> Sink {
        // Without memory to gather them in, bytes are written as they come.
        let (direct, buffer) = match AlignedBuffer::new(request) {
            Ok(buffer) => (open(path, &file, true), buffer),
            Err(_) => (None, AlignedBuffer { bytes: Vec::new(), start: 0, len: 0 }),
        };
        Sink { file, direct, buffer, place: 0, first: 0, len: 0 }
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Writes `bytes` at offset `at`; they may stay in the buffer until [`Sink::flush`].
    pub fn write(&mut self, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        if self.direct.is_none() {
            return write_at(&self.file, bytes, at);
        }
        while !bytes.is_empty() {
            if self.first + self.len == self.buffer.len || at != self.place + (self.first + self.len) as u64 {
                self.flush()?;
                self.place = at / ALIGN as u64 * ALIGN as u64;
                (self.first, self.len) = ((at - self.place) as usize, 0);
            }
            let end = self.first + self.len;
            let n = bytes.len().min(self.buffer.len - end);
            self.buffer.get_mut()[end..end + n].copy_from_slice(&bytes[..n]);
            (bytes, at, self.len) = (&bytes[n..], at + n as u64, self.len + n);
        }
        Ok(())
    }

    /// Writes the gathered bytes.
    pub fn flush(&mut self) -> io::Result<()> {
        let (first, end) = (self.first, self.first + self.len);
        self.len = 0;
        // Whole pages are written directly, the ends through the cache.
        let from = first.next_multiple_of(ALIGN).min(end);
        let to = (end / ALIGN * ALIGN).max(from);
        let bytes = self.buffer.get();
        let place = |i: usize| self.place + i as u64;
        write_at(&self.file, &bytes[first..from], place(first))?;
        write_at(&self.file, &bytes[to..end], place(to))?;
        let Some(direct) = self.direct.as_ref().filter(|_| from < to) else { return Ok(()) };
        match write_at(direct, &bytes[from..to], place(from)) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                // This file system takes the flag and refuses the request.
                let written = write_at(&self.file, &bytes[from..to], place(from));
                self.direct = None;
                written
            }
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that tell their place.
    fn pattern(n: usize) -> Vec<u8> {
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn a_stream_is_the_file() {
        let folder = tempfile::tempdir().unwrap();
        for n in [1, ALIGN - 1, ALIGN, REQUEST, SMALL as usize + 5 * ALIGN + 7] {
            let path = folder.path().join(n.to_string());
            let bytes = pattern(n);
            std::fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            file.sync_all().unwrap();
            #[cfg(target_os = "linux")]
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let mut stream = Stream::open(&path, &file, n as u64, REQUEST).unwrap();
            let mut read = vec![0; n];
            for part in read.chunks_mut(1_000_003) {
                stream.fill(part).unwrap();
            }
            assert!(read == bytes, "{n}");
            assert_eq!(stream.fill(&mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            // Said longer than it is.
            let mut stream = Stream::open(&path, &file, n as u64 + 1, ALIGN).unwrap();
            assert!(stream.fill(&mut vec![0; n + 1]).is_err());
        }
    }

    #[test]
    fn a_sink_writes_what_it_is_given_where_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let len = 3 * REQUEST + 12_345;
        let mut expected = vec![0; len];
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(len as u64).unwrap();
        let mut sink = Sink::new(&path, Arc::new(file), REQUEST);
        // Runs of neighbours of many lengths, in no order of places, with gaps between.
        let runs = [
            (2 * REQUEST + 77, 9_000),
            (32, 100),
            (8_192, 4_096),
            (20_000, 2 * REQUEST - 30_000),
            (len - 5, 5),
            (200, 0),
        ];
        for (at, n) in runs {
            let bytes = pattern(n);
            expected[at..at + n].copy_from_slice(&bytes);
            let mut place = at;
            for part in bytes.chunks(7_777) {
                sink.write(part, place as u64).unwrap();
                place += part.len();
            }
        }
        sink.flush().unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}
