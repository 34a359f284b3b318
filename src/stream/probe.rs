//! The probe: finds the fastest way to read by trying each for a moment on the model's own files, into the memory that it will use.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::io::direct::ALIGN;
use crate::stream::backend::{Backend, Pool};
use crate::stream::files::{ModelFile, ModelFiles, ReadLayout, files};
use crate::stream::memory::Buffer;
use crate::stream::pressure::Ask;
use crate::stream::queue::{Queue, drives};
use crate::stream::ring::{Feeder, Slice};
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A way to read, or the request for the fastest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reader {
    /// The fastest of the others.
    #[default]
    Auto,
    /// Direct requests through io_uring.
    Uring,
    /// Direct requests by threads with positioned reads.
    Pread,
    /// Reads through the page cache, whose pages are dropped again.
    Buffered,
}

impl FromStr for Reader {
    type Err = Error;

    fn from_str(name: &str) -> Result<Reader> {
        let all = [Reader::Auto, Reader::Uring, Reader::Pread, Reader::Buffered];
        let known = all.map(Reader::name).to_vec();
        let unknown = || Error::UnknownName { kind: "reader", name: name.to_owned(), known };
        all.into_iter().find(|reader| reader.name() == name).ok_or_else(unknown)
    }
}

impl Reader {
    /// Its name, as `--reader` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Reader::Auto => "auto",
            Reader::Uring => "uring",
            Reader::Pread => "pread",
            Reader::Buffered => "buffered",
        }
    }

    fn is_direct(self) -> bool {
        self != Reader::Buffered
    }

    fn backend(self, files: &ModelFiles, depth: usize) -> io::Result<Box<dyn Backend>> {
        let (all, direct) = (depth * drives(files).0.len(), self.is_direct());
        match self {
            #[cfg(target_os = "linux")]
            Reader::Auto | Reader::Uring => Ok(Box::new(crate::stream::uring::Uring::new(files.clone(), direct, all)?)),
            #[cfg(not(target_os = "linux"))]
            Reader::Auto | Reader::Uring => Err(io::ErrorKind::Unsupported.into()),
            Reader::Pread | Reader::Buffered => Ok(Box::new(Pool::new(files.clone(), direct, all)?)),
        }
    }
}

/// Wraps the backend of a queue: tests inject faults this way.
pub type Wrap = Arc<dyn Fn(Box<dyn Backend>) -> Box<dyn Backend> + Send + Sync>;

/// Settings for reading streamed weights.
#[derive(Clone)]
pub struct ReadOptions {
    /// The way to read.
    pub reader: Reader,
    /// The I/O timeout: a drive that completes no read for so long has failed.
    pub io_timeout: Duration,
    /// Reads each layer once and stops after the last, without a probe before: for work that is one pass.
    pub single_pass: bool,
    /// A wrapper of the backend.
    pub wrap: Option<Wrap>,
    /// A function that reports the memory in place of the system.
    pub memory: Option<Ask>,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions {
            reader: Reader::Auto,
            io_timeout: Duration::from_secs(30),
            single_pass: false,
            wrap: None,
            memory: None,
        }
    }
}

/// How weights are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadStrategy {
    /// The way to read.
    pub reader: Reader,
    /// Requests in flight on each drive.
    pub depth: usize,
    /// The size of a request in bytes.
    pub request: usize,
    /// Bytes per second from all drives, if measured.
    pub bytes_per_second: Option<f64>,
    /// Bytes per second into newly allocated memory, as when weights are loaded, if measured.
    pub new_bytes_per_second: Option<f64>,
}

impl ReadStrategy {
    /// The same for newly allocated memory: by threads even where io_uring is faster, because the reading thread makes its pages
    /// (measured on a virtual machine: 0.5 GB/s by one thread, twice that by two).
    pub fn into_new_memory(self) -> ReadStrategy {
        let reader = if self.reader == Reader::Uring { Reader::Pread } else { self.reader };
        ReadStrategy { reader, ..self }
    }

    /// The same with [`TURN`] worth of reads in flight on each drive, if that is more.
    fn with_enough_in_flight(self, files: &ModelFiles) -> ReadStrategy {
        let rate = self.bytes_per_second.unwrap_or(0.0) / drives(files).0.len() as f64;
        let enough = (rate * TURN.as_secs_f64() / self.request as f64).ceil() as usize;
        ReadStrategy { depth: self.depth.max(enough.min(MOST)), ..self }
    }
}

/// Candidates: requests in flight on each drive and their size in bytes. Disks are at their best from 1 to 4 MiB.
const SIZES: [(usize, usize); 4] = [(4, 2 << 20), (8, 1 << 20), (16, 2 << 20), (32, 4 << 20)];

/// The duration of a trial, and of the measurement of the chosen strategy.
const TRIAL: Duration = Duration::from_millis(120);
const MEASURE: Duration = Duration::from_millis(500);

/// The most bytes that a trial reads of a layer.
const PART: usize = 64 << 20;

/// A strategy must be faster by this factor to replace one that was tried before.
const BETTER: f64 = 1.05;

/// The thread that submits reads may wait so long for a time slice while the processor computes; the drive should have work until then.
/// Measured on two cores, 8B in Q8_0 within 7 GB, requests of 1 MiB: with 8 in flight, 3 ms, a token took 9 % more than reading alone; with
/// 32 as long as that.
const TURN: Duration = Duration::from_millis(12);

/// Requests in flight on a drive, at most.
const MOST: usize = 64;

/// Bytes per second below which all strategies are equal: such a disk gains nothing from parallel requests.
const SLOW: f64 = 400e6;

/// The least number of streamed bytes that is worth a probe.
const SMALL: usize = 32 << 20;

impl ReadOptions {
    /// A queue for this strategy.
    ///
    /// # Errors
    /// If the system refuses the reader.
    pub fn queue(&self, files: &ModelFiles, strategy: &ReadStrategy) -> Result<Queue> {
        let backend = strategy.reader.backend(files, strategy.depth);
        let backend = backend.map_err(|source| Error::ReaderRefused { reader: strategy.reader.name(), source })?;
        let backend = match &self.wrap {
            Some(wrap) => wrap(backend),
            None => backend,
        };
        Ok(Queue::new(backend, files.clone(), strategy.reader.is_direct(), strategy.depth, self.io_timeout))
    }

    /// Finds the fastest strategy to read `layouts` again and again. Reads into `slots`, at least one.
    ///
    /// # Errors
    /// If a file cannot be read, or the requested reader is refused.
    pub fn probe(
        &self,
        files: &ModelFiles,
        layouts: &[(usize, ReadLayout)],
        slots: &mut Vec<Buffer>,
    ) -> Result<ReadStrategy> {
        self.fastest(self.wishes(files), files, layouts, slots)
    }

    /// The candidates.
    fn wishes(&self, files: &ModelFiles) -> &'static [Reader] {
        let can_direct = files.iter().any(|file| file.handle(true).1);
        match self.reader {
            Reader::Auto if can_direct => &[Reader::Uring, Reader::Pread, Reader::Buffered],
            Reader::Auto => &[Reader::Buffered],
            Reader::Uring => &[Reader::Uring],
            Reader::Pread => &[Reader::Pread],
            Reader::Buffered => &[Reader::Buffered],
        }
    }

    /// The fastest of `wishes`, of which there is at least one.
    fn fastest(
        &self,
        wishes: &[Reader],
        files: &ModelFiles,
        layouts: &[(usize, ReadLayout)],
        slots: &mut Vec<Buffer>,
    ) -> Result<ReadStrategy> {
        let unmeasured = |reader, depth, request| {
            let (bytes_per_second, new_bytes_per_second) = (None, None);
            ReadStrategy { reader, depth, request, bytes_per_second, new_bytes_per_second }
        };
        // What is refused is not tried, unless it is the only wish.
        let readers: Vec<Reader> = match wishes {
            [only] => vec![*only],
            _ => wishes.iter().copied().filter(|reader| reader.backend(files, 1).is_ok()).collect(),
        };
        let first = readers.first().copied().unwrap_or(Reader::Buffered);
        let mut best = unmeasured(first, SIZES[0].0, SIZES[0].1);
        if self.single_pass || layouts.iter().map(|(_, layout)| layout.size()).sum::<usize>() < SMALL {
            self.queue(files, &best)?;
            return Ok(best);
        }
        // The first touches the memory, which takes its time, too.
        let new = self.measure(files, layouts, slots, &best.into_new_memory(), Duration::ZERO)?;
        best.new_bytes_per_second = Some(new);
        let trial = |(depth, request)| ReadStrategy { depth, request, ..best };
        let mut trials: Vec<ReadStrategy> = SIZES.into_iter().map(trial).collect();
        let mut others = readers.into_iter().skip(1);
        'fastest: loop {
            for trial in trials.drain(..) {
                let rate = self.measure(files, layouts, slots, &trial, TRIAL)?;
                if rate > best.bytes_per_second.unwrap_or(0.0) * BETTER {
                    best = ReadStrategy { bytes_per_second: Some(rate), ..trial };
                }
                if rate < SLOW {
                    break 'fastest;
                }
            }
            match others.next() {
                Some(reader) => trials.push(ReadStrategy { reader, ..best }),
                None => break 'fastest,
            }
        }
        let (deeper, rate) = (best.with_enough_in_flight(files), best.bytes_per_second.unwrap_or(0.0));
        if deeper.depth > best.depth && self.measure(files, layouts, slots, &deeper, TRIAL)? * BETTER > rate {
            best = deeper;
        }
        Ok(best)
    }

    /// Measures the chosen strategy for longer, in bytes per second: the rate that a plan predicts from.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn rate(
        &self,
        files: &ModelFiles,
        layouts: &[(usize, ReadLayout)],
        slots: &mut Vec<Buffer>,
        strategy: &ReadStrategy,
    ) -> Result<f64> {
        self.measure(files, layouts, slots, strategy, MEASURE)
    }

    /// The bytes per second of a strategy, over `duration`.
    fn measure(
        &self,
        files: &ModelFiles,
        layouts: &[(usize, ReadLayout)],
        slots: &mut Vec<Buffer>,
        strategy: &ReadStrategy,
        time: Duration,
    ) -> Result<f64> {
        let mut slices = slices(layouts, strategy.request);
        slices.iter_mut().for_each(|slice| slice.pieces.truncate(PART / strategy.request));
        if strategy.reader == Reader::Buffered {
            // What the page cache has would be measured instead of the drive.
            files.iter().for_each(ModelFile::leave_cache);
        }
        let bytes: Vec<usize> = slices.iter().map(|slice| slice.pieces.iter().map(|p| p.needed).sum()).collect();
        let mut feeder = Feeder::new(self.queue(files, strategy)?, slices);
        let (begin, mut read, mut done) = (Instant::now(), 0, 0);
        slots.drain(..).for_each(|slot| feeder.start(slot));
        while !feeder.is_idle() {
            let Some(full) = feeder.turn()? else { continue };
            read += bytes[done % bytes.len()];
            done += 1;
            if begin.elapsed() < time {
                feeder.start(full.buffer);
            } else {
                slots.push(full.buffer);
            }
        }
        Ok(read as f64 / begin.elapsed().as_secs_f64())
    }
}

/// The drives of a model that is not loaded, and the fastest strategy to read them.
pub struct Drives<'o> {
    options: &'o ReadOptions,
    files: ModelFiles,
    layouts: Vec<(usize, ReadLayout)>,
    slots: Vec<Buffer>,
    strategy: ReadStrategy,
}

impl<'o> Drives<'o> {
    /// Probes the drives with the model's tensors; `None` if these are too small.
    ///
    /// # Errors
    /// If a file cannot be read, or the requested reader is refused.
    pub fn of(gguf: &Gguf, options: &'o ReadOptions) -> Result<Option<Drives<'o>>> {
        let files = files(gguf)?;
        let mut layouts = Vec::new();
        for (i, tensor) in gguf.tensors().iter().enumerate().filter(|(_, tensor)| tensor.bytes > ALIGN as u64) {
            let mut layout = ReadLayout::default();
            layout.add(tensor.part, tensor.offset, tensor.bytes.min(PART as u64));
            layouts.push((i, layout));
        }
        let largest = layouts.iter().map(|(_, layout)| layout.size()).max().unwrap_or(0);
        let mut slots = (0..3).map(|_| Buffer::new(largest)).collect::<Result<Vec<_>>>()?;
        // To try the cache it would have to be emptied, and whoever runs the model next would miss what it has.
        let wishes = match options.wishes(&files) {
            [direct @ .., Reader::Buffered] if !direct.is_empty() => direct,
            only => only,
        };
        let strategy = options.fastest(wishes, &files, &layouts, &mut slots)?;
        Ok(strategy.bytes_per_second.map(|_| Drives { options, files, layouts, slots, strategy }))
    }

    /// The strategy that was found.
    pub fn strategy(&self) -> &ReadStrategy {
        &self.strategy
    }

    /// Measures the bytes per second of all drives together.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn bytes_per_second(&mut self) -> Result<f64> {
        self.options.rate(&self.files, &self.layouts, &mut self.slots, &self.strategy)
    }
}

/// The slices of these layouts, cut into requests.
pub fn slices(layouts: &[(usize, ReadLayout)], request: usize) -> Vec<Slice> {
    assert!(request.is_multiple_of(ALIGN));
    layouts.iter().map(|(layer, layout)| Slice { layer: *layer, pieces: layout.pieces(request) }).collect()
}
