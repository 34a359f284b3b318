//! Reading of texts: prompts, corpora, lists. Unlike a model a text may come from a pipe or from standard input, so reading ends at a size
//! limit, after a time without a writer, and when the user stops it.

use crate::error::{Error, Result};
use crate::io::stamp::Stamp;
use crate::progress::Progress;
use crate::stream::budget;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The most bytes of a text without a length, such as a pipe: some sixty million tokens.
const ENDLESS: u64 = 256 << 20;

/// The most bytes of a regular file, however much memory is free.
const LARGEST: u64 = 4 << 30;

/// The most bytes of a list of settings.
pub const LIST: u64 = 1 << 20;

/// Bytes of a read.
const PIECE: usize = 256 << 10;

/// How often a reader that waits for a pipe checks whether the user has stopped.
#[cfg(unix)]
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a named pipe may have no writer before a warning, and before an error.
const SAY_AFTER: Duration = Duration::from_secs(2);
const NO_WRITER: Duration = Duration::from_secs(30);

/// The most bytes of a text: a quarter of the free memory, since its tokens take memory as well.
pub fn largest() -> u64 {
    budget::memory().map_or(LARGEST, |memory| (memory.available / 4).min(LARGEST))
}

/// Reads the text at `path` as UTF-8: a regular file, a pipe, a device, or standard input, which is called `-`. Invalid UTF-8
/// becomes U+FFFD with a warning to `progress`.
///
/// # Errors
/// If it is larger than `limit` or endless, a folder, UTF-16, cannot be read, or changes meanwhile; if nobody writes to a named pipe; if
/// the user stops.
pub fn read(path: &Path, limit: u64, progress: &dyn Progress) -> Result<String> {
    let mut source = TextFile::open(path)?;
    let bytes = source.read(limit, progress)?;
    decode(&source.name, bytes, progress)
}

/// Reads the bytes of a text, or of a file that may come from a pipe as texts do.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(path: &Path, limit: u64, progress: &dyn Progress) -> Result<Vec<u8>> {
    TextFile::open(path)?.read(limit, progress)
}

/// An open text.
struct TextFile {
    name: PathBuf, // the path, or "standard input"
    file: File,
    stamp: Stamp,
    kind: Kind,
}

/// The kind of file a text is read from.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Regular,
    /// A named pipe, opened without blocking.
    Pipe,
    Other,
}

impl TextFile {
    fn open(path: &Path) -> Result<TextFile> {
        let is_stdin = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name));
        let name = if is_stdin { PathBuf::from("standard input") } else { path.to_owned() };
        let refused = |error| Error::io("open", &name)(error);
        let file = if is_stdin { stdin() } else { open_without_waiting(path) }.map_err(refused)?;
        let about = file.metadata().map_err(refused)?;
        if about.is_dir() {
            return Err(Error::invalid(&name, "text", "is a folder, not a file", "name a file in it"));
        }
        let kind = match about.is_file() {
            true => Kind::Regular,
            false if is_pipe(&about) && !is_stdin => Kind::Pipe,
            false => Kind::Other,
        };
        Ok(TextFile { kind, stamp: Stamp::of(&about), file, name })
    }

    fn read(&mut self, limit: u64, progress: &dyn Progress) -> Result<Vec<u8>> {
        let limit = if self.kind == Kind::Regular { limit } else { limit.min(ENDLESS) };
        if self.kind == Kind::Regular && self.stamp.bytes > limit {
            return Err(self.too_large(format!("has {} bytes", self.stamp.bytes), limit));
        }
        let (mut bytes, mut piece, mut writer) = (Vec::new(), vec![0; PIECE], Writer::default());
        loop {
            progress.check()?;
            let ready = self.wait()?;
            if !ready && (self.kind != Kind::Pipe || !bytes.is_empty()) {
                continue;
            }
            // One byte more than the limit, to detect a longer text.
            let wanted = (limit + 1 - bytes.len() as u64).min(PIECE as u64) as usize;
            match self.file.read(&mut piece[..wanted]) {
                // An end of file without a poll event is that of a pipe without a writer.
                Ok(0) if !ready => writer.missing(&self.name, progress)?,
                Ok(0) => break,
                Ok(n) if bytes.len() as u64 + n as u64 > limit => {
                    return Err(self.too_large("is longer".to_owned(), limit));
                }
                Ok(n) => {
                    if bytes.try_reserve(n).is_err() {
                        return Err(self.too_large("is larger than the memory".to_owned(), limit));
                    }
                    bytes.extend_from_slice(&piece[..n]);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Error::io("read", &self.name)(error)),
            }
        }
        if self.kind == Kind::Regular {
            self.stamp.check(&self.file, &self.name, bytes.len() as u64)?;
        }
        Ok(bytes)
    }

    fn too_large(&self, problem: String, limit: u64) -> Error {
        let problem = format!("{problem}, at most {limit} bytes are read");
        let remedy = format!("take a part of it, as head -c {limit} gives it");
        Error::invalid(&self.name, "text", problem, remedy)
    }

    /// Waits up to [`POLL_INTERVAL`] for data or the end of the file: true if there is either.
    fn wait(&self) -> Result<bool> {
        #[cfg(unix)]
        if self.kind != Kind::Regular {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let time = Timespec { tv_sec: 0, tv_nsec: i64::from(POLL_INTERVAL.subsec_nanos()) };
            return match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&time)) {
                Ok(n) => Ok(n > 0),
                Err(rustix::io::Errno::INTR) => Ok(false),
                Err(error) => Err(Error::io("read", &self.name)(error.into())),
            };
        }
        Ok(true)
    }
}

/// The wait for a program that writes to a pipe.
struct Writer {
    since: Instant, // the start of the wait
    said: bool,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer { since: Instant::now(), said: false }
    }
}

impl Writer {
    /// Warns, and later fails, if no writer has come.
    fn missing(&mut self, name: &Path, progress: &dyn Progress) -> Result<()> {
        let waited = self.since.elapsed();
        if waited > NO_WRITER {
            let problem = format!("no program has opened this pipe to write to it in {} seconds", NO_WRITER.as_secs());
            return Err(Error::invalid(name, "text", problem, "start the one that does, or name a file"));
        }
        if waited > SAY_AFTER && !std::mem::replace(&mut self.said, true) {
            progress.warn(&format!("{}: waiting for a program that writes to this pipe", name.display()));
        }
        Ok(())
    }
}

/// A duplicate of standard input, which can be closed.
fn stdin() -> io::Result<File> {
    #[cfg(unix)]
    return std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned().map(File::from);
    #[cfg(windows)]
    return std::os::windows::io::AsHandle::as_handle(&io::stdin()).try_clone_to_owned().map(File::from);
}

/// Opens a text without blocking on a pipe that has no writer.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path)
}

fn is_pipe(about: &Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::FileTypeExt::is_fifo(&about.file_type());
    #[cfg(not(unix))]
    return !about.is_file();
}

/// The text of `bytes`. Invalid UTF-8 becomes U+FFFD, as in `String::from_utf8_lossy`.
fn decode(name: &Path, bytes: Vec<u8>, progress: &dyn Progress) -> Result<String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let remedy = "convert it: iconv -f UTF-16 -t UTF-8";
        return Err(Error::invalid(name, "byte 0", "is UTF-16, as its byte order mark says; texts are UTF-8", remedy));
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error.into_bytes(),
    };
    let (mut first, mut at, mut count) = (None, 0, 0usize);
    for chunk in bytes.utf8_chunks() {
        at += chunk.valid().len();
        if !chunk.invalid().is_empty() {
            (first, count) = (first.or(Some(at)), count + 1);
        }
        at += chunk.invalid().len();
    }
    let mut text = String::new();
    let room = bytes.len().saturating_add(count.saturating_mul(char::REPLACEMENT_CHARACTER.len_utf8()));
    text.try_reserve_exact(room).map_err(|_| {
        Error::invalid(name, "text", "is not UTF-8, and there is no memory to mend it", "convert it to UTF-8 first")
    })?;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    let were = if count == 1 { "sequence was" } else { "sequences were" };
    let at = first.unwrap_or_default();
    progress.warn(&format!("{}: byte {at}: not UTF-8; {count} {were} replaced by U+FFFD", name.display()));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Keeps warnings, and stops after so many looks.
    struct Watch {
        looks: AtomicUsize,
        warned: Mutex<Vec<String>>,
    }

    impl Watch {
        fn new(looks: usize) -> Watch {
            Watch { looks: AtomicUsize::new(looks), warned: Mutex::default() }
        }

        fn warned(&self) -> String {
            self.warned.lock().unwrap().join("|")
        }
    }

    impl Progress for Watch {
        fn begin(&self, _: &str, _: u64) {}
        fn advance(&self, _: u64) {}
        fn end(&self) {}
        fn warn(&self, what: &str) {
            self.warned.lock().unwrap().push(what.to_owned());
        }
        fn cancelled(&self) -> bool {
            self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
        }
    }

    #[test]
    fn bad_bytes_are_replaced_and_told_with_their_offset() {
        let name = Path::new("T");
        for (bytes, text, told) in [
            (&b"plain"[..], "plain", ""),
            (b"", "", ""),
            ("\u{feff}kept \u{e9}".as_bytes(), "\u{feff}kept \u{e9}", ""),
            (b"caf\xe9 x", "caf\u{fffd} x", "T: byte 3: not UTF-8; 1 sequence was replaced by U+FFFD"),
            (b"\xf0\x9f\x98", "\u{fffd}", "T: byte 0: not UTF-8; 1 sequence was"),
            (b"ab\xff\xffc\x80", "ab\u{fffd}\u{fffd}c\u{fffd}", "T: byte 2: not UTF-8; 3 sequences were"),
        ] {
            let watch = Watch::new(9);
            assert_eq!(decode(name, bytes.to_vec(), &watch).unwrap(), text);
            assert!(watch.warned().starts_with(told) && watch.warned().is_empty() == told.is_empty(), "{told}");
        }
        for bytes in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a"] {
            let error = decode(name, bytes.to_vec(), &Watch::new(9)).unwrap_err().to_string();
            assert!(error.contains("UTF-16") && error.contains("iconv"), "{error}");
        }
    }

    #[test]
    fn texts_have_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "12345678").unwrap();
        let watch = Watch::new(1000);
        assert_eq!(read(&path, 8, &watch).unwrap(), "12345678");
        let error = read(&path, 7, &watch).unwrap_err().to_string();
        assert!(error.contains("has 8 bytes, at most 7") && error.contains("head -c 7"), "{error}");
        assert!(read(folder.path(), 7, &watch).unwrap_err().to_string().contains("is a folder"));
        let missing = read(&folder.path().join("none"), 7, &watch);
        assert!(matches!(missing, Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound));
        #[cfg(unix)]
        {
            let error = read(Path::new("/dev/zero"), 1 << 20, &watch).unwrap_err().to_string();
            assert!(error.contains("is longer, at most 1048576"), "{error}");
            assert_eq!(read(Path::new("/dev/null"), 7, &watch).unwrap(), "");
        }
        assert!(matches!(read(&path, 8, &Watch::new(0)), Err(Error::Cancelled)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_read_to_its_end_and_can_be_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Nobody writes, and the user stops.
        assert!(matches!(read(&path, 100, &Watch::new(5)), Err(Error::Cancelled)));
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(300));
                let mut pipe = File::options().write(true).open(path).unwrap();
                for part in ["one ", "two ", "three"] {
                    io::Write::write_all(&mut pipe, part.as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_millis(150));
                }
            }
        });
        assert_eq!(read(&path, 100, &Watch::new(1000)).unwrap(), "one two three");
        writer.join().unwrap();
    }
}
