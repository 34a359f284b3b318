//! Which strategy of reading is the fastest here: each is tried for a moment on the model's own files, into the memory that it will use.

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

/// A strategy of reading, or the wish for the fastest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reader {
    /// The fastest.
    #[default]
    Auto,
    /// Direct requests through io_uring.
    Uring,
    /// Direct requests by threads with positioned reads.
    Pread,
    /// Through the page cache, whose pages are dropped again.
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

/// Puts something between the queue and its backend: how tests break reads.
pub type Wrap = Arc<dyn Fn(Box<dyn Backend>) -> Box<dyn Backend> + Send + Sync>;

/// How to read.
#[derive(Clone)]
pub struct ReadOptions {
    /// The strategy.
    pub reader: Reader,
    /// How long a drive may give no answer.
    pub io_timeout: Duration,
    /// What comes between.
    pub wrap: Option<Wrap>,
    /// Who is asked, instead of the system, how much memory others need.
    pub memory: Option<Ask>,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions { reader: Reader::Auto, io_timeout: Duration::from_secs(30), wrap: None, memory: None }
    }
}

/// The strategy that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadStrategy {
    /// The strategy.
    pub reader: Reader,
    /// Requests in flight on each drive.
    pub depth: usize,
    /// Bytes of a request.
    pub request: usize,
    /// Bytes a second from all drives, if it was measured.
    pub bytes_per_second: Option<f64>,
    /// Bytes a second into memory that is new, as when weights are loaded, if it was measured.
    pub new_bytes_per_second: Option<f64>,
}

impl ReadStrategy {
    /// How to read to memory that is new: by threads even where io_uring reads faster, for its pages are made by whoever reads to them
    /// (measured on a virtual machine: 0.5 GB/s by one thread, twice that by two).
    pub fn into_new_memory(self) -> ReadStrategy {
        let reader = if self.reader == Reader::Uring { Reader::Pread } else { self.reader };
        ReadStrategy { reader, ..self }
    }

    /// The same with reads for [`TURN`] in flight on each drive, if that is more.
    fn with_enough_in_flight(self, files: &ModelFiles) -> ReadStrategy {
        let rate = self.bytes_per_second.unwrap_or(0.0) / drives(files).0.len() as f64;
        let enough = (rate * TURN.as_secs_f64() / self.request as f64).ceil() as usize;
        ReadStrategy { depth: self.depth.max(enough.min(MOST)), ..self }
    }
}

/// Requests on each drive and their bytes, as they are tried: from 1 to 4 MiB disks are at their best, and some want many at once.
const SIZES: [(usize, usize); 4] = [(4, 2 << 20), (8, 1 << 20), (16, 2 << 20), (32, 4 << 20)];

/// How long each strategy is tried, and the chosen one is measured.
const TRIAL: Duration = Duration::from_millis(120);
const MEASURE: Duration = Duration::from_millis(500);

/// What a trial reads of a layer at most, so that it ends soon.
const PART: usize = 64 << 20;

/// A strategy must be faster by so much to be preferred over one that was tried before.
const BETTER: f64 = 1.05;

/// Whoever asks for the next reads may wait so long for a turn while the processor computes, and the drive should have work until then.
/// Measured on two cores, 8B in Q8_0 within 7 GB, requests of 1 MiB: with 8 in flight, 3 ms, a token took 9 % more than reading alone; with
/// 32 as long as that.
const TURN: Duration = Duration::from_millis(12);

/// Requests in flight on a drive, at most.
const MOST: usize = 64;

/// Bytes a second below which every strategy is as good: a disk that has no use for many requests.
const SLOW: f64 = 400e6;

/// Less to read than this is not worth a probe.
const SMALL: usize = 32 << 20;

impl ReadOptions {
    /// A queue for this strategy.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn queue(&self, files: &ModelFiles, strategy: &ReadStrategy) -> Result<Queue> {
        let backend = strategy.reader.backend(files, strategy.depth);
        let backend = backend.map_err(|source| Error::ReaderRefused { reader: strategy.reader.name(), source })?;
        let backend = match &self.wrap {
            Some(wrap) => wrap(backend),
            None => backend,
        };
        Ok(Queue::new(backend, files.clone(), strategy.reader.is_direct(), strategy.depth, self.io_timeout))
    }

    /// Finds the fastest strategy to read `layouts` again and again. `slots`, at least one, are used for it and given back.
    ///
    /// # Errors
    /// If a file cannot be read, or the strategy that is wished for is refused.
    pub fn probe(
        &self,
        files: &ModelFiles,
        layouts: &[(usize, ReadLayout)],
        slots: &mut Vec<Buffer>,
    ) -> Result<ReadStrategy> {
        self.fastest(self.wishes(files), files, layouts, slots)
    }

    /// The ways that may be the fastest.
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

    /// Of `wishes`, of which there is at least one.
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
        if layouts.iter().map(|(_, layout)| layout.size()).sum::<usize>() < SMALL {
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

    /// Measures the strategy again, for longer: what a plan predicts from.
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

    /// Bytes a second of a strategy, over a moment.
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

/// The drives of a model that may not be loaded, and the fastest strategy to read them.
pub struct Drives<'o> {
    options: &'o ReadOptions,
    files: ModelFiles,
    layouts: Vec<(usize, ReadLayout)>,
    slots: Vec<Buffer>,
    strategy: ReadStrategy,
}

impl<'o> Drives<'o> {
    /// Probes them on stretches of the model's tensors; `None` if these are too small to tell.
    ///
    /// # Errors
    /// If a file cannot be read, or the strategy that is wished for is refused.
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

    /// Bytes a second that they give together, over a moment.
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
