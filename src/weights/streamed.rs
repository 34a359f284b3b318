//! The weights of a model that does not fit into its budget: some pinned, the others streamed through the slots of a ring.

use super::pinned::Pinned;
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::gguf::TensorInfo;
use crate::io::file;
use crate::progress::Progress;
use crate::stream::files::{ModelFile, ModelFiles, ReadLayout};
use crate::stream::memory::Buffer;
use crate::stream::pressure::Pressure;
use crate::stream::probe::slices;
use crate::stream::rates::Streams;
use crate::stream::ring::{Feeder, FilledSlot, Ring};
use crate::stream::{Plan, ReadOptions, ReadStrategy};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use strata_kernels::{Cpu, Matrix};

/// The weights of a model that does not fit.
pub struct Streamed {
    files: ModelFiles,
    plan: Plan,
    strategy: ReadStrategy,
    streams: Option<Streams>, // unless there is too little to measure
    output: (Buffer, Range<usize>),
    layers: Vec<Vec<Parts>>, // (layers, matrices)
    pass_state: Mutex<PassState>,
    single_pass: bool,
}

/// Statistics of the streamed reads of all passes.
#[derive(Clone, Copy, Default)]
struct StreamStatistics {
    bytes: u64,     // through the ring
    busy: Duration, // how long the drives worked for them
}

/// The state of streaming, which one pass at a time owns.
pub(crate) struct PassState {
    /// Unless all is pinned.
    ring: Option<Ring>,
    pinned: Pinned,
    /// The layer that the ring expects to be asked for next.
    pub next: usize,
    statistics: StreamStatistics,
}

/// Where the rows of a matrix are.
#[derive(Clone, Default)]
struct Parts {
    head: Range<usize>, // the first, in the pinned memory
    tail: Range<usize>, // the others, in a slot
}

/// The layout of all layers according to a plan.
struct Places {
    parts: Vec<Vec<Parts>>,          // (layers, matrices)
    stays: ReadLayout,               // the pinned memory
    pinned: Vec<Range<usize>>,       // the layers in it
    comes: Vec<(usize, ReadLayout)>, // slots, of the layers that have something in one
}

impl Places {
    fn of(tensors: &Tensors, plan: &Plan) -> Places {
        let (mut parts, mut stays, mut pinned, mut comes) = (Vec::new(), ReadLayout::default(), Vec::new(), Vec::new());
        for (i, (layer, rows)) in tensors.layers.iter().zip(&plan.pinned_rows).enumerate() {
            let (mut slot, start) = (ReadLayout::default(), stays.size());
            let place = |(tensor, rows): (&TensorInfo, &u64)| {
                let head = tensor.bytes / tensor.rows() * rows;
                Parts {
                    head: stays.add(tensor.part, tensor.offset, head),
                    tail: slot.add(tensor.part, tensor.offset + head, tensor.bytes - head),
                }
            };
            parts.push(layer.matrices().zip(rows).map(place).collect());
            pinned.push(start..stays.size());
            if slot.size() > 0 {
                comes.push((i, slot));
            }
        }
        Places { parts, stays, pinned, comes }
    }
}

impl PassState {
    /// Gives a slot back to be filled.
    pub fn give_back(&mut self, full: FilledSlot) {
        if let Some(ring) = &mut self.ring {
            ring.give(full.buffer);
        }
    }

    /// Starts over with layer `layer`, for a pass that does not begin where the last one has ended.
    pub fn start_over(&mut self, layer: usize) {
        if let Some(ring) = &mut self.ring {
            ring.start_over(layer);
        }
        self.next = layer;
    }
}

impl Streamed {
    /// Reads the pinned weights and starts the ring.
    ///
    /// # Errors
    /// If a file cannot be read, the memory cannot be had, or the user stopped.
    pub(crate) fn load(
        files: ModelFiles,
        plan: Plan,
        tensors: &Tensors,
        cpu: &Cpu,
        options: &ReadOptions,
        progress: &dyn Progress,
    ) -> Result<Streamed> {
        files.iter().for_each(ModelFile::expect_single_rows);
        let (output, mut last) = (&tensors.output.weight, ReadLayout::default());
        let output_at = last.add(output.part, output.offset, output.bytes);
        let Places { parts, stays, pinned, comes } = Places::of(tensors, &plan);
        let slot_bytes = comes.iter().map(|(_, slot)| slot.size()).max().unwrap_or(0);
        let mut slots = (0..plan.slots).map(|_| Buffer::new(slot_bytes)).collect::<Result<Vec<_>>>()?;
        let strategy = options.probe(&files, &comes, &mut slots)?;
        let (mut output, mut buffer) = (Buffer::new(last.size())?, Buffer::new(stays.size())?);
        progress.begin("reading weights", (last.size() + stays.size()) as u64);
        fill(&files, &last, &mut output, options, &strategy, progress)?;
        fill(&files, &stays, &mut buffer, options, &strategy, progress)?;
        files.iter().try_for_each(|file| file.check(0))?;
        progress.end();
        let measure = || options.rate(&files, &comes, &mut slots, &strategy);
        let streams =
            strategy.bytes_per_second.is_some().then(|| Streams::measure(cpu, output.bytes(), measure)).transpose()?;
        let ring = if comes.is_empty() {
            None
        } else {
            let feeder = Feeder::new(options.queue(&files, &strategy)?, slices(&comes, strategy.request));
            let feeder = feeder.single_pass(options.single_pass);
            Some(Ring::start(feeder, slots)?)
        };
        let pinned = Pinned::new(buffer, pinned, Pressure::new(options.memory.clone()));
        Ok(Streamed {
            files,
            plan,
            strategy,
            streams,
            output: (output, output_at),
            layers: parts,
            single_pass: options.single_pass,
            pass_state: Mutex::new(PassState { ring, pinned, next: 0, statistics: StreamStatistics::default() }),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The strategy of its reads.
    pub fn strategy(&self) -> &ReadStrategy {
        &self.strategy
    }

    /// The rates of drives and memory when it was loaded; `None` if there was too little to measure.
    pub fn streams(&self) -> Option<&Streams> {
        self.streams.as_ref()
    }

    /// Bytes per second of the drives while they worked for passes; `None` before the first.
    pub fn bytes_per_second(&self) -> Option<f64> {
        let StreamStatistics { bytes, busy } = self.pass_state().statistics;
        (!busy.is_zero()).then(|| bytes as f64 / busy.as_secs_f64())
    }

    /// Bytes of pinned weights that were released under memory pressure: they are read through the map of the file since.
    pub fn released(&self) -> u64 {
        self.pass_state().pinned.released()
    }

    /// True if the ring stops after the last layer.
    pub(crate) fn is_single_pass(&self) -> bool {
        self.single_pass
    }

    /// Locks the state of streaming for one pass.
    pub(crate) fn pass_state(&self) -> MutexGuard<'_, PassState> {
        self.pass_state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The bytes of the output matrix.
    pub(crate) fn output_bytes(&self) -> &[u8] {
        &self.output.0.bytes()[self.output.1.clone()]
    }

    /// Bytes of layer `i` that are streamed through the ring.
    pub(crate) fn streamed_bytes(&self, i: usize) -> u64 {
        self.layers[i].iter().map(|parts| parts.tail.len() as u64).sum()
    }

    /// Waits for the slot of layer `i`; `None` if nothing of it is streamed. Under memory pressure pinned rows are released, and `progress`
    /// is told; it may end the wait.
    ///
    /// # Errors
    /// If the weights cannot be read, or the user stopped.
    pub(crate) fn take(
        &self,
        i: usize,
        pass_state: &mut PassState,
        progress: &dyn Progress,
    ) -> Result<Option<FilledSlot>> {
        let PassState { ring, pinned, statistics, .. } = pass_state;
        let mut look = || {
            let given = pinned.relieve();
            if given > 0 {
                let mb = given / 1_000_000;
                progress.step(&format!("memory is short: {mb} MB of weights are released and will be read again"));
            }
            progress.check()
        };
        look()?;
        let (bytes, Some(ring)) = (self.streamed_bytes(i), ring) else { return Ok(None) };
        if bytes == 0 {
            return Ok(None);
        }
        let full = ring.take(i, &mut look)?;
        statistics.bytes += bytes;
        statistics.busy += full.took;
        Ok(Some(full))
    }

    /// Bytes of the first rows of matrix `m` of layer `i` that are read through the map of the file: none, unless they were released.
    pub(crate) fn mapped_bytes(&self, i: usize, m: usize, pass_state: &PassState) -> usize {
        if pass_state.pinned.holds(i) { 0 } else { self.layers[i][m].head.len() }
    }

    /// Matrix `m` of layer `i`, which is mapped as `mapped` and whose last rows are in `slot`.
    pub(crate) fn matrix<'a>(
        &self,
        (i, m): (usize, usize),
        tensor: &TensorInfo,
        pass_state: &'a PassState,
        slot: &'a [u8],
        mapped: &'a [u8],
    ) -> Matrix<'a> {
        let Parts { head, tail } = self.layers[i][m].clone();
        let head = match self.mapped_bytes(i, m, pass_state) {
            0 => &pass_state.pinned.bytes()[head],
            bytes => &mapped[..bytes],
        };
        matrix(tensor, head, if tail.is_empty() { &[] } else { &slot[tail] })
    }

    /// The output matrix.
    pub(crate) fn output(&self, tensor: &TensorInfo) -> Matrix<'_> {
        matrix(tensor, self.output_bytes(), &[])
    }

    /// Reads row `row` of a tensor that is neither pinned nor streamed.
    ///
    /// # Errors
    /// If the file cannot be read or has changed.
    pub(crate) fn read_row(&self, tensor: &TensorInfo, row: u64) -> Result<Vec<u8>> {
        let file = &self.files[tensor.part];
        let row_bytes = tensor.bytes / tensor.rows();
        let (mut bytes, offset) = (vec![0; row_bytes as usize], tensor.offset + row * row_bytes);
        let read = file::read_at(file.handle(false).0, &mut bytes, offset);
        file.check(offset)?;
        read.map_err(Error::io("read", file.path()))?;
        Ok(bytes)
    }
}

fn matrix<'a>(tensor: &TensorInfo, head: &'a [u8], tail: &'a [u8]) -> Matrix<'a> {
    Matrix::in_parts(tensor.ty, tensor.rows() as usize, tensor.cols() as usize, head, tail)
        .expect("the reader checked the size, `Tensors::find` the type, and the plan cuts between rows")
}

/// Fills `buffer` by reads into newly allocated memory.
fn fill(
    files: &ModelFiles,
    layout: &ReadLayout,
    buffer: &mut Buffer,
    options: &ReadOptions,
    strategy: &ReadStrategy,
    progress: &dyn Progress,
) -> Result<()> {
    let pieces = layout.pieces(strategy.request);
    let targets = buffer.carve(pieces.iter().map(|piece| piece.at..piece.at + piece.len));
    let mut queue = options.queue(files, &strategy.into_new_memory())?;
    queue.push(&pieces, targets, 0);
    for piece in &pieces {
        progress.check()?;
        queue.finish_one()?;
        // Not the one that came, but as many in all.
        progress.advance(piece.len as u64);
    }
    Ok(())
}
