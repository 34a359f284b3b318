//! Reading, encoding and writing at the same time.
//!
//! ```text
//!  reader                       caller, with a pool of threads         one writer for each output
//!  the file in order, chunks  -> rows to f32, f32 to blocks         ->  write at the tensor's place
//!  SHA-256 of the file          for every output                       SHA-256 of the tensor, journal
//!       ^---------- chunks come back ----------+------------ blocks come back ----'
//! ```
//!
//! Each file of the source is read once, from its first byte to its last, whatever the order of the tensors in the outputs: so its
//! SHA-256 is that of `sha256sum`, and a hard disk reads sequentially. Buffers are few and reused; the slowest thread makes the others wait.
//! A thread that fails drops its ends of the channels; the others then end too, and the writers still write what they have received.

use super::buffers::{BLOCKS, SOURCES, Sizes};
use super::output::{Output, changed};
use super::plan::Tensor;
use super::rows::{Encoding, RowChunk, is_copy};
use super::source::{Reading, SourceFile};
use super::target::Importance;
use crate::error::{Allocation, Error, Result};
use crate::io::hash::{Digest, Hasher};
use crate::progress::Progress;
use crate::threads;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use strata_kernels::Isa;
use strata_quant::GgmlType;

/// Bytes that are hashed right after they were read, or written right after they were hashed: they are in the cache then.
const PIECE: usize = 1 << 18;

/// What a run works on.
pub struct Work<'a> {
    /// The files of the source.
    pub files: &'a [SourceFile<'a>],
    /// Of each file the SHA-256, where it is known already and the file has not changed.
    pub known: Vec<Option<Digest>>,
    /// The tensors of the outputs.
    pub tensors: &'a [Tensor],
    /// For each output the type of each tensor.
    pub types: &'a [Vec<GgmlType>],
    /// For each output the importance of each tensor's columns, if any; see [`Encoding`].
    pub importance: &'a [Vec<Option<Importance<'a>>>],
    /// The instructions to encode with.
    pub isa: Isa,
    /// The threads to encode with.
    pub pool: &'a rayon::ThreadPool,
    /// The most memory to use.
    pub memory: Option<u64>,
    /// Counts bytes of the source.
    pub progress: &'a dyn Progress,
}

/// The reads and buffers of a run.
pub struct Todo {
    needs: Vec<Vec<bool>>, // (tensors, outputs)
    sizes: Sizes,
    reads: Vec<FileReadPlan>,
}

impl Todo {
    /// Every tensor that an output still needs.
    ///
    /// # Errors
    /// If the memory does not suffice.
    pub fn new(work: &Work<'_>, outputs: &[Output]) -> Result<Todo> {
        let needs: Vec<Vec<bool>> =
            (0..work.tensors.len()).map(|t| outputs.iter().map(|output| output.needs(t)).collect()).collect();
        let wanted: Vec<_> = (work.tensors.iter().enumerate())
            .filter(|(t, _)| needs[*t].contains(&true))
            .map(|(t, tensor)| (tensor, work.types.iter().zip(&needs[t]).map(|(ty, n)| n.then_some(ty[t])).collect()))
            .collect();
        let sizes = Sizes::new(&wanted, work.pool.current_num_threads(), work.memory)?;
        let reads = reads(work, &needs, outputs);
        Ok(Todo { needs, sizes, reads })
    }

    /// Bytes of a request to the disk.
    pub fn request(&self) -> usize {
        self.sizes.request
    }
}

/// Converts, and returns the SHA-256 of each file of the source.
pub fn run(work: &Work<'_>, todo: Todo, outputs: &mut [Output]) -> Result<Vec<Digest>> {
    let Todo { needs, sizes, reads } = todo;
    work.progress.begin("converting", reads.iter().map(|read| work.files[read.file].bytes).sum());

    let chunks = BufferPool::new(SOURCES, sizes.source)?;
    let blocks = sizes.blocks.iter().map(|&bytes| BufferPool::new(BLOCKS, bytes)).collect::<Result<Vec<_>>>()?;
    let mut digests = work.known.clone();
    let done: Vec<Result<()>> = thread::scope(|scope| {
        let (to_encode, chunks_read) = sync_channel(1);
        let reader = Reader { work, sizes: &sizes, needs: &needs, chunks, to: to_encode };
        let mut to_write = Vec::new();
        let mut threads = Vec::new();
        // Where the system refuses a thread, those before it end by themselves: nobody is left at the other end.
        for output in outputs.iter_mut() {
            let (to, from) = sync_channel(1);
            to_write.push(to);
            match threads::builder().spawn_scoped(scope, move || write(output, work, &from)) {
                Ok(thread) => threads.push(thread),
                Err(error) => return vec![Err(Error::Thread(error))],
            }
        }
        match threads::builder().spawn_scoped(scope, || reader.run(&reads)) {
            Ok(thread) => threads.push(thread),
            Err(error) => return vec![Err(Error::Thread(error))],
        }
        let encoder = Encoder { work, needs: &needs, blocks, to: to_write };
        let encoded = encoder.run(&chunks_read, &mut digests);
        // Closes the channels, so that the other threads end.
        drop((chunks_read, encoder));
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|why| std::panic::resume_unwind(why)));
        std::iter::once(encoded).chain(ends).collect()
    });
    done.into_iter().collect::<Result<()>>()?;
    work.progress.end();
    digests.into_iter().collect::<Option<_>>().ok_or(Error::Internal("a file of the source was not read to its end"))
}

/// How a file of the source is read.
struct FileReadPlan {
    file: usize,
    tensors: Vec<usize>,     // in the order of their offsets
    marks: Vec<Vec<Digest>>, // for each of them what earlier runs found the file's SHA-256 to be up to its end
    before: Vec<Digest>,     // what earlier runs found it to be for the whole file
}

/// The files that must be read: those that hold something still needed, or whose SHA-256 is not known.
fn reads(work: &Work<'_>, needs: &[Vec<bool>], outputs: &[Output]) -> Vec<FileReadPlan> {
    let mut tensors = vec![Vec::new(); work.files.len()];
    for (t, tensor) in work.tensors.iter().enumerate() {
        if let Some(stored) = tensor.stored() {
            tensors[stored.file].push((stored.offset, t));
        }
    }
    let read = |(file, mut tensors): (usize, Vec<(u64, usize)>)| {
        tensors.sort();
        let tensors: Vec<usize> = tensors.into_iter().map(|(_, t)| t).collect();
        let marks = tensors.iter().map(|&t| outputs.iter().filter_map(|output| output.source_mark(t)).collect());
        let name = &work.files[file].name;
        let before = outputs.iter().filter_map(|output| output.read_before(name)).map(|read| read.sha256);
        FileReadPlan { file, marks: marks.collect(), tensors, before: before.collect() }
    };
    let reads = tensors.into_iter().enumerate().map(read);
    reads.filter(|r| work.known[r.file].is_none() || r.tensors.iter().any(|&t| needs[t].contains(&true))).collect()
}

/// A buffer that returns to its [`BufferPool`] when it is dropped.
struct PooledBuffer {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        // Nobody may be waiting for it any more.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}

/// A fixed number of buffers, each of which returns when it is dropped.
struct BufferPool {
    home: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

impl BufferPool {
    fn new(count: usize, bytes: usize) -> Result<BufferPool> {
        let (home, free) = channel();
        for _ in 0..count {
            let mut buffer = Vec::new();
            let no_memory = |_| Error::OutOfMemory { what: Allocation::Conversion, bytes: bytes as u64 };
            buffer.try_reserve_exact(bytes).map_err(no_memory)?;
            // The receiver is right here.
            let _ = home.send(buffer);
        }
        Ok(BufferPool { home, free })
    }

    /// The next free one, with at least `bytes` bytes of whatever was there before.
    fn take(&self, bytes: usize) -> Option<PooledBuffer> {
        let mut buffer = self.free.recv().ok()?;
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        Some(PooledBuffer { bytes: buffer, home: self.home.clone() })
    }
}

/// From the reader to the encoder.
enum EncodeMessage {
    /// Rows of a tensor.
    RowChunk { tensor: usize, first: usize, bytes: usize, data: Arc<PooledBuffer>, end: Option<Digest> },
    /// The end of a file.
    File { file: usize, sha256: Digest },
}

/// From the encoder to a writer.
enum WriteMessage {
    /// Bytes of a tensor, `at` bytes after its start.
    Blocks { tensor: usize, at: u64, bytes: usize, data: Arc<PooledBuffer>, end: Option<Digest> },
    /// The end of a file.
    File { file: usize, sha256: Digest },
}

struct Reader<'a> {
    work: &'a Work<'a>,
    sizes: &'a Sizes,
    needs: &'a [Vec<bool>],
    chunks: BufferPool,
    to: SyncSender<EncodeMessage>,
}

/// Why work ended early: with an error of its own, or because the receiver of its results has ended with one.
enum End {
    Failed(Error),
    NotWanted,
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Failed(error)
    }
}

fn unless_not_wanted(end: std::result::Result<(), End>) -> Result<()> {
    match end {
        Err(End::Failed(error)) => Err(error),
        _ => Ok(()),
    }
}

impl Reader<'_> {
    fn run(self, reads: &[FileReadPlan]) -> Result<()> {
        unless_not_wanted(reads.iter().try_for_each(|read| self.file(read)))
    }

    fn file(&self, read: &FileReadPlan) -> std::result::Result<(), End> {
        let file = &self.work.files[read.file];
        let (mut reading, mut hasher) = (file.stream(self.sizes.request)?, Hasher::default());
        let mut at = 0;
        for (&t, marks) in read.tensors.iter().zip(&read.marks) {
            let Some(stored) = self.work.tensors[t].stored() else { continue };
            if self.needs[t].contains(&true) {
                self.gap(&mut reading, at..stored.offset, &mut hasher)?;
                self.tensor(&mut reading, file, t, marks, &mut hasher)?;
                at = stored.end();
            } else if !marks.is_empty() {
                self.gap(&mut reading, at..stored.end(), &mut hasher)?;
                at = stored.end();
                check_mark(file, at, hasher.digest(), marks)?;
            }
        }
        self.gap(&mut reading, at..file.bytes, &mut hasher)?;
        let sha256 = hasher.digest();
        check_mark(file, file.bytes, sha256, &read.before)?;
        file.check_unchanged()?;
        self.to.send(EncodeMessage::File { file: read.file, sha256 }).map_err(|_| End::NotWanted)
    }

    /// Hashes a range of the file that no output needs.
    fn gap(&self, reading: &mut Reading<'_>, range: std::ops::Range<u64>, hasher: &mut Hasher) -> Result<()> {
        let (mut piece, mut at) = (vec![0; PIECE.min((range.end - range.start) as usize)], range.start);
        while at < range.end {
            self.work.progress.check()?;
            let piece = &mut piece[..(range.end - at).min(PIECE as u64) as usize];
            reading.fill(piece)?;
            hasher.update(piece);
            at += piece.len() as u64;
            self.work.progress.advance(piece.len() as u64);
        }
        Ok(())
    }

    fn tensor(
        &self,
        reading: &mut Reading<'_>,
        file: &SourceFile<'_>,
        t: usize,
        marks: &[Digest],
        hasher: &mut Hasher,
    ) -> std::result::Result<(), End> {
        let tensor = &self.work.tensors[t];
        let Some(stored) = tensor.stored() else { return Ok(()) };
        let row_bytes = stored.bytes / tensor.rows as u64;
        let step = self.sizes.rows(tensor);
        for first in (0..tensor.rows).step_by(step) {
            self.work.progress.check()?;
            let rows = step.min(tensor.rows - first);
            let bytes = (rows as u64 * row_bytes) as usize;
            let mut buffer = self.chunks.take(bytes).ok_or(End::NotWanted)?;
            for piece in buffer.bytes[..bytes].chunks_mut(PIECE) {
                reading.fill(piece)?;
                hasher.update(piece);
            }
            let mut end = None;
            if first + rows == tensor.rows {
                let digest = hasher.digest();
                // Before the encoder gets what was just read.
                check_mark(file, stored.end(), digest, marks)?;
                end = Some(digest);
            }
            let chunk = EncodeMessage::RowChunk { tensor: t, first, bytes, data: Arc::new(buffer), end };
            self.to.send(chunk).map_err(|_| End::NotWanted)?;
        }
        Ok(())
    }
}

fn check_mark(file: &SourceFile<'_>, at: u64, now: Digest, before: &[Digest]) -> Result<()> {
    match before.iter().find(|&&mark| mark != now) {
        Some(was) => Err(changed(file.path, format!("its first {at} bytes had the SHA-256 {was}, they have {now}"))),
        None => Ok(()),
    }
}

struct Encoder<'a> {
    work: &'a Work<'a>,
    needs: &'a [Vec<bool>],
    blocks: Vec<BufferPool>, // by output
    to: Vec<SyncSender<WriteMessage>>,
}

impl Encoder<'_> {
    fn run(&self, chunks: &Receiver<EncodeMessage>, digests: &mut [Option<Digest>]) -> Result<()> {
        let mut shown = None;
        let mut step = |piece| -> std::result::Result<(), End> {
            self.work.progress.check()?;
            match piece {
                EncodeMessage::File { file, sha256 } => {
                    digests[file] = Some(sha256);
                    for to in &self.to {
                        to.send(WriteMessage::File { file, sha256 }).map_err(|_| End::NotWanted)?;
                    }
                    Ok(())
                }
                EncodeMessage::RowChunk { tensor, first, bytes, data, end } => {
                    if shown != Some(tensor) {
                        shown = Some(tensor);
                        self.work.progress.step(&self.work.tensors[tensor].name);
                    }
                    self.chunk(tensor, first, bytes, data, end)
                }
            }
        };
        unless_not_wanted(chunks.iter().try_for_each(&mut step))
    }

    fn chunk(
        &self,
        t: usize,
        first: usize,
        bytes: usize,
        data: Arc<PooledBuffer>,
        end: Option<Digest>,
    ) -> std::result::Result<(), End> {
        let tensor = &self.work.tensors[t];
        let Some(stored) = tensor.stored() else { return Ok(()) };
        let path = self.work.files[stored.file].path;
        let rows = bytes as u64 / (stored.bytes / tensor.rows as u64);
        let mut filled = Vec::new(); // output, its type, its bytes of these rows, and the buffer unless they are the source's
        for (o, types) in self.work.types.iter().enumerate().filter(|(o, _)| self.needs[t][*o]) {
            let row_bytes = tensor.bytes(types[t]) / tensor.rows as u64;
            let size = (rows * row_bytes) as usize;
            let buffer = match is_copy(stored, types[t]) {
                true => None,
                false => Some(self.blocks[o].take(size).ok_or(End::NotWanted)?),
            };
            filled.push((o, first as u64 * row_bytes, size, buffer));
        }
        let mut encodings: Vec<_> = (filled.iter_mut())
            .filter_map(|(o, _, size, buffer)| {
                let out = &mut buffer.as_mut()?.bytes[..*size];
                Some(Encoding { ty: self.work.types[*o][t], importance: self.work.importance[*o][t], out })
            })
            .collect();
        let (changed, isa) = (stored.change.as_ref().map(|change| change.of_rows(tensor.cols)), self.work.isa);
        let chunk =
            RowChunk { tensor, stored, path, first, bytes: &data.bytes[..bytes], changed: changed.as_ref(), isa };
        self.work.pool.install(|| chunk.encode(&mut encodings))?;
        for (o, at, size, buffer) in filled {
            let data = buffer.map_or_else(|| data.clone(), Arc::new);
            self.to[o]
                .send(WriteMessage::Blocks { tensor: t, at, bytes: size, data, end })
                .map_err(|_| End::NotWanted)?;
        }
        self.work.progress.advance(bytes as u64);
        Ok(())
    }
}

/// Writes what comes for one output, tensor after tensor.
fn write(output: &mut Output, work: &Work<'_>, parts: &Receiver<WriteMessage>) -> Result<()> {
    let mut hasher = Hasher::default();
    for part in parts {
        match part {
            WriteMessage::File { file, sha256 } => output.finish_source(&work.files[file], sha256)?,
            WriteMessage::Blocks { tensor, at, bytes, data, end } => {
                if at == 0 {
                    hasher = Hasher::default();
                }
                for (i, piece) in data.bytes[..bytes].chunks(PIECE).enumerate() {
                    hasher.update(piece);
                    output.write(tensor, at + (i * PIECE) as u64, piece)?;
                }
                drop(data);
                if end.is_some() {
                    output.finish_tensor(tensor, hasher.digest(), end)?;
                }
            }
        }
    }
    Ok(())
}
