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
use super::plan::{Stored, Tensor};
use super::rows::{Encoding, RowChunk, is_copy};
use super::sequential::{PIECE, Sequential, SoFar, Streams};
use super::source::SourceFile;
use super::target::Importance;
use crate::checkpoint::Part;
use crate::checkpoint::quantized::Unpacked;
use crate::error::{Allocation, Error, Result};
use crate::io::hash::{Digest, Hasher};
use crate::progress::Progress;
use crate::threads;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use strata_kernels::Isa;
use strata_quant::GgmlType;

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
    work.progress
        .begin("converting", reads.iter().flat_map(|read| &read.files).map(|&file| work.files[file].bytes).sum());

    let chunks = BufferPool::new(SOURCES, sizes.source)?;
    let wholes = BufferPool::new(1, sizes.whole)?;
    let blocks = sizes.blocks.iter().map(|&bytes| BufferPool::new(BLOCKS, bytes)).collect::<Result<Vec<_>>>()?;
    let mut digests = work.known.clone();
    let done: Vec<Result<()>> = thread::scope(|scope| {
        let (to_encode, chunks_read) = sync_channel(1);
        let reader = Reader { work, sizes: &sizes, needs: &needs, chunks, wholes, to: to_encode };
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

/// How files of the source are read: one alone, or all those that share tensors at the same time.
struct FileReadPlan {
    files: Vec<usize>,
    tensors: Vec<usize>, // in the order of their offsets in the first of the files that share them
    marks: Vec<Vec<Digest>>, // for each of them what earlier runs found the files' SHA-256 to be up to its end
    before: Vec<Vec<Digest>>, // for each file what earlier runs found it to be for the whole file
}

/// The files that must be read: those that hold something still needed, or whose SHA-256 is not known.
fn reads(work: &Work<'_>, needs: &[Vec<bool>], outputs: &[Output]) -> Vec<FileReadPlan> {
    let stored = || work.tensors.iter().enumerate().filter_map(|(t, tensor)| Some((t, tensor.stored()?)));
    let share = stored().any(|(_, stored)| !stored.others.is_empty());
    let all = 0..work.files.len();
    let groups: Vec<Vec<usize>> = if share { vec![all.collect()] } else { all.map(|file| vec![file]).collect() };
    let read = |files: Vec<usize>| {
        let mut tensors: Vec<_> = stored().filter(|(_, stored)| files.contains(&stored.file)).collect();
        tensors.sort_by_key(|(t, stored)| (stored.offset, *t));
        let tensors: Vec<usize> = tensors.into_iter().map(|(t, _)| t).collect();
        let marks = tensors.iter().map(|&t| outputs.iter().filter_map(|output| output.source_mark(t)).collect());
        let of_file = |&file: &usize| {
            let name = &work.files[file].name;
            outputs.iter().filter_map(|output| output.read_before(name)).map(|read| read.sha256).collect()
        };
        FileReadPlan { marks: marks.collect(), before: files.iter().map(of_file).collect(), tensors, files }
    };
    let unknown = |read: &FileReadPlan| read.files.iter().any(|&file| work.known[file].is_none());
    let reads = groups.into_iter().map(read);
    reads.filter(|read| unknown(read) || read.tensors.iter().any(|&t| needs[t].contains(&true))).collect()
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
    RowChunk(ChunkMessage),
    /// The end of a file.
    File { file: usize, sha256: Digest },
}

/// Rows of a tensor as they were read.
struct ChunkMessage {
    tensor: usize,
    first: usize,
    rows: usize,
    data: Arc<PooledBuffer>, // of these rows, or of the whole tensor where it is transposed
    bytes: usize,            // in `data`
    read: u64,               // for these rows
    unpacked: Option<Arc<Unpacked>>,
    end: Option<Digest>, // of the last rows: see `mark`
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
    wholes: BufferPool, // of transposed tensors
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
        unless_not_wanted(reads.iter().try_for_each(|read| self.files(read)))
    }

    fn files(&self, read: &FileReadPlan) -> std::result::Result<(), End> {
        let open = |&file: &usize| Sequential::open(&self.work.files[file], self.sizes.request, self.work.progress);
        let mut streams = Streams(read.files.iter().map(open).collect::<Result<_>>()?, read.files[0]);
        for (&t, marks) in read.tensors.iter().zip(&read.marks) {
            let Some(stored) = self.work.tensors[t].stored() else { continue };
            if self.needs[t].contains(&true) {
                self.tensor(&mut streams, t, marks)?;
            } else {
                streams.skip_behind(stored)?;
                if !marks.is_empty() {
                    check_mark(&streams.of(stored, &self.sides(stored)?), marks)?;
                }
            }
        }
        for ((mut stream, &file), before) in streams.0.into_iter().zip(&read.files).zip(&read.before) {
            stream.skip_to(self.work.files[file].bytes)?;
            check_mark(&stream, before)?;
            stream.file().check_unchanged()?;
            let sha256 = stream.digest();
            self.to.send(EncodeMessage::File { file, sha256 }).map_err(|_| End::NotWanted)?;
        }
        Ok(())
    }

    fn tensor(&self, streams: &mut Streams<'_>, t: usize, marks: &[Digest]) -> std::result::Result<(), End> {
        let tensor = &self.work.tensors[t];
        let Some(stored) = tensor.stored() else { return Ok(()) };
        let sides = self.sides(stored)?;
        let unpacked = stored.packed.as_ref().map(|packed| packed.unpacked(&sides).map(Arc::new)).transpose()?;
        let row_bytes = stored.bytes / tensor.rows as u64;
        let (step, mut whole) = (self.sizes.rows(tensor), None);
        for first in (0..tensor.rows).step_by(step) {
            self.work.progress.check()?;
            let rows = step.min(tensor.rows - first);
            let bytes = if stored.is_transposed() { stored.bytes } else { rows as u64 * row_bytes };
            let (data, read) = match &whole {
                Some(data) => (Arc::clone(data), 0),
                None => (Arc::new(self.fill(streams, stored, (first as u64, row_bytes), bytes as usize)?), bytes),
            };
            if stored.is_transposed() {
                whole = Some(data.clone());
            }
            let mut end = None;
            if first + rows == tensor.rows {
                let so_far = streams.of(stored, &sides);
                // Before the encoder gets what was just read.
                check_mark(&so_far, marks)?;
                end = Some(so_far.digest());
            }
            let (unpacked, bytes) = (unpacked.clone(), bytes as usize);
            let chunk = ChunkMessage { tensor: t, first, rows, data, bytes, read, unpacked, end };
            self.to.send(EncodeMessage::RowChunk(chunk)).map_err(|_| End::NotWanted)?;
        }
        Ok(())
    }

    /// A buffer with `bytes` bytes of a tensor from row `first` on, each of `row_bytes`.
    fn fill(
        &self,
        streams: &mut Streams<'_>,
        stored: &Stored,
        (first, row_bytes): (u64, u64),
        bytes: usize,
    ) -> std::result::Result<PooledBuffer, End> {
        let pool = if stored.is_transposed() { &self.wholes } else { &self.chunks };
        let mut buffer = pool.take(bytes).ok_or(End::NotWanted)?;
        streams.rows(stored, row_bytes, first, &mut buffer.bytes[..bytes])?;
        Ok(buffer)
    }

    /// The scales and the like of a quantized tensor. They may lie anywhere in any file, which is hashed when its turn comes.
    fn sides(&self, stored: &Stored) -> Result<Vec<Vec<u8>>> {
        let parts = stored.packed.iter().flat_map(|packed| packed.sides());
        let read = |part: &Part| {
            let (mut bytes, len) = (Vec::new(), part.bytes as usize); // of a mapped file
            let no_memory = |_| Error::OutOfMemory { what: Allocation::Conversion, bytes: part.bytes };
            bytes.try_reserve_exact(len).map_err(no_memory)?;
            bytes.resize(len, 0);
            self.work.files[part.shard].read(&mut bytes, part.offset)?;
            Ok(bytes)
        };
        parts.map(read).collect()
    }
}

/// That the bytes so far are those that earlier runs read.
fn check_mark(so_far: &impl SoFar, before: &[Digest]) -> Result<()> {
    if before.is_empty() {
        return Ok(());
    }
    let now = so_far.digest();
    match before.iter().find(|&&mark| mark != now) {
        Some(was) => {
            let bytes = so_far.bytes();
            Err(changed(so_far.path(), format!("its first {bytes} bytes had the SHA-256 {was}, they have {now}")))
        }
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
                EncodeMessage::RowChunk(chunk) => {
                    if shown != Some(chunk.tensor) {
                        shown = Some(chunk.tensor);
                        self.work.progress.step(&self.work.tensors[chunk.tensor].name);
                    }
                    self.chunk(chunk)
                }
            }
        };
        unless_not_wanted(chunks.iter().try_for_each(&mut step))
    }

    fn chunk(&self, chunk: ChunkMessage) -> std::result::Result<(), End> {
        let ChunkMessage { tensor: t, first, rows, data, bytes, read, unpacked, end } = chunk;
        let tensor = &self.work.tensors[t];
        let Some(stored) = tensor.stored() else { return Ok(()) };
        let path = self.work.files[stored.file].path;
        let mut filled = Vec::new(); // output, its type, its bytes of these rows, and the buffer unless they are the source's
        for (o, types) in self.work.types.iter().enumerate().filter(|(o, _)| self.needs[t][*o]) {
            let row_bytes = tensor.bytes(types[t]) / tensor.rows as u64;
            let size = (rows as u64 * row_bytes) as usize;
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
        let (bytes_of, unpacked, changed) = (&data.bytes[..bytes], unpacked.as_deref(), changed.as_ref());
        let chunk = RowChunk { tensor, stored, path, first, rows, bytes: bytes_of, unpacked, changed, isa };
        self.work.pool.install(|| chunk.encode(&mut encodings))?;
        for (o, at, size, buffer) in filled {
            let data = buffer.map_or_else(|| data.clone(), Arc::new);
            self.to[o]
                .send(WriteMessage::Blocks { tensor: t, at, bytes: size, data, end })
                .map_err(|_| End::NotWanted)?;
        }
        self.work.progress.advance(read);
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
