//! Where the weights of a model are that does not fit into its budget: some pinned, the others in the slots of a ring.

use crate::error::{Error, Result};
use crate::gguf::TensorInfo;
use crate::io::file;
use crate::model::pinned::Pinned;
use crate::progress::Progress;
use crate::stream::memory::Buffer;
use crate::stream::plan::MATRICES;
use crate::stream::pressure::Pressure;
use crate::stream::probe::slices;
use crate::stream::rates::Streams;
use crate::stream::ring::{Feeder, Full, Ring};
use crate::stream::source::{Layout, Source, Sources};
use crate::stream::{Options, Plan, Way};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use strata_kernels::{Cpu, Matrix};

/// The weights of a model that does not fit.
pub struct Streamed {
    sources: Sources,
    plan: Plan,
    way: Way,
    streams: Option<Streams>, // unless there is too little to measure
    output: (Buffer, Range<usize>),
    layers: Vec<[Parts; MATRICES]>,
    in_hand: Mutex<InHand>,
}

/// What one pass at a time has for itself.
pub struct InHand {
    /// Unless all is pinned.
    ring: Option<Ring>,
    pinned: Pinned,
    came: (u64, Duration), // bytes through the ring, and how long the drives worked for them
}

/// Where the rows of a matrix are.
#[derive(Clone, Default)]
struct Parts {
    head: Range<usize>, // the first, in the pinned memory
    tail: Range<usize>, // the others, in a slot
}

/// Where all layers are, as a plan says.
struct Places {
    parts: Vec<[Parts; MATRICES]>,
    stays: Layout,               // the pinned memory
    pinned: Vec<Range<usize>>,   // the layers in it
    comes: Vec<(usize, Layout)>, // slots, of the layers that have something in one
}

impl Places {
    fn of(layers: &[[&TensorInfo; MATRICES]], plan: &Plan) -> Places {
        let (mut parts, mut stays, mut pinned, mut comes) = (Vec::new(), Layout::default(), Vec::new(), Vec::new());
        for (layer, (tensors, rows)) in layers.iter().zip(&plan.pinned_rows).enumerate() {
            let (mut slot, start) = (Layout::default(), stays.size());
            let place = |m: usize| {
                let tensor = tensors[m];
                let head = tensor.bytes / tensor.rows() * rows[m];
                Parts {
                    head: stays.add(tensor.part, tensor.offset, head),
                    tail: slot.add(tensor.part, tensor.offset + head, tensor.bytes - head),
                }
            };
            parts.push(std::array::from_fn(place));
            pinned.push(start..stays.size());
            if slot.size() > 0 {
                comes.push((layer, slot));
            }
        }
        Places { parts, stays, pinned, comes }
    }
}

impl InHand {
    /// Gives a slot back to be filled.
    pub fn give(&mut self, full: Full) {
        if let Some(ring) = &mut self.ring {
            ring.give(full.buffer);
        }
    }

    /// The next pass starts with the first layer, though this one has not come to the last.
    pub fn restart(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.restart();
        }
    }
}

impl Streamed {
    /// Reads what stays and starts to read what does not. `layers` are the matrices of each layer, in the order of the plan.
    ///
    /// # Errors
    /// If a file cannot be read, the memory cannot be had, or the user stopped.
    pub fn load(
        sources: Sources,
        plan: Plan,
        layers: &[[&TensorInfo; MATRICES]],
        output: &TensorInfo,
        cpu: &Cpu,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Streamed> {
        sources.iter().for_each(Source::expect_single_rows);
        let mut last = Layout::default();
        let output_at = last.add(output.part, output.offset, output.bytes);
        let Places { parts, stays, pinned, comes } = Places::of(layers, &plan);
        let slot_bytes = comes.iter().map(|(_, slot)| slot.size()).max().unwrap_or(0);
        let mut slots = (0..plan.slots).map(|_| Buffer::new(slot_bytes)).collect::<Result<Vec<_>>>()?;
        let way = options.probe(&sources, &comes, &mut slots)?;
        let (mut output, mut buffer) = (Buffer::new(last.size())?, Buffer::new(stays.size())?);
        progress.begin("reading weights", (last.size() + stays.size()) as u64);
        fill(&sources, &last, &mut output, options, &way, progress)?;
        fill(&sources, &stays, &mut buffer, options, &way, progress)?;
        sources.iter().try_for_each(|source| source.check(0))?;
        progress.end();
        let measure = || options.rate(&sources, &comes, &mut slots, &way);
        let streams =
            way.bytes_per_second.is_some().then(|| Streams::measure(cpu, output.bytes(), measure)).transpose()?;
        let ring = if comes.is_empty() {
            None
        } else {
            let feeder = Feeder::new(options.queue(&sources, &way)?, slices(&comes, way.request));
            Some(Ring::start(feeder, slots)?)
        };
        let pinned = Pinned::new(buffer, pinned, Pressure::new(options.memory.clone()));
        Ok(Streamed {
            sources,
            plan,
            way,
            streams,
            output: (output, output_at),
            layers: parts,
            in_hand: Mutex::new(InHand { ring, pinned, came: (0, Duration::ZERO) }),
        })
    }

    /// What stays and what does not.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How it is read.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// How fast drives and memory were when it was loaded; `None` if there was too little to read to tell.
    pub fn streams(&self) -> Option<&Streams> {
        self.streams.as_ref()
    }

    /// Bytes a second that the drives have given while they worked for passes; `None` before there was one.
    pub fn bytes_per_second(&self) -> Option<f64> {
        let (bytes, time) = self.in_hand().came;
        (!time.is_zero()).then(|| bytes as f64 / time.as_secs_f64())
    }

    /// Bytes that were pinned and given back, because others needed the memory: the map of the file has served for them since.
    pub fn given_back(&self) -> u64 {
        self.in_hand().pinned.given_back()
    }

    /// What a pass has for itself.
    pub fn in_hand(&self) -> MutexGuard<'_, InHand> {
        self.in_hand.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The output matrix, as long as it is.
    pub fn output_bytes(&self) -> &[u8] {
        &self.output.0.bytes()[self.output.1.clone()]
    }

    /// Bytes of layer `i` that come through the ring.
    pub fn streamed_bytes(&self, i: usize) -> u64 {
        self.layers[i].iter().map(|parts| parts.tail.len() as u64).sum()
    }

    /// The slot with what layer `i` has in the ring, if it has something there. Where others need memory, what is pinned is given back, and
    /// `progress` hears of it; it may end the wait.
    ///
    /// # Errors
    /// If the weights cannot be read, or the user stopped.
    pub fn take(&self, i: usize, in_hand: &mut InHand, progress: &dyn Progress) -> Result<Option<Full>> {
        let InHand { ring, pinned, came } = in_hand;
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
        *came = (came.0 + bytes, came.1 + full.took);
        Ok(Some(full))
    }

    /// The bytes of the first rows of matrix `m` of layer `i` that the map of the file serves for: none, unless they were given back.
    pub fn mapped_bytes(&self, i: usize, m: usize, in_hand: &InHand) -> usize {
        if in_hand.pinned.holds(i) { 0 } else { self.layers[i][m].head.len() }
    }

    /// Matrix `m` of layer `i`, all of which is mapped as `mapped`, and the last rows of which are in `slot`.
    pub fn matrix<'a>(
        &self,
        (i, m): (usize, usize),
        tensor: &TensorInfo,
        in_hand: &'a InHand,
        slot: &'a [u8],
        mapped: &'a [u8],
    ) -> Matrix<'a> {
        let Parts { head, tail } = self.layers[i][m].clone();
        let head = match self.mapped_bytes(i, m, in_hand) {
            0 => &in_hand.pinned.bytes()[head],
            bytes => &mapped[..bytes],
        };
        matrix(tensor, head, if tail.is_empty() { &[] } else { &slot[tail] })
    }

    /// Hidden state to logits.
    pub fn output(&self, tensor: &TensorInfo) -> Matrix<'_> {
        matrix(tensor, self.output_bytes(), &[])
    }

    /// Reads row `row` of a tensor that is neither pinned nor streamed.
    ///
    /// # Errors
    /// If the file cannot be read or has changed.
    pub fn read_row(&self, tensor: &TensorInfo, row: u64) -> Result<Vec<u8>> {
        let source = &self.sources[tensor.part];
        let row_bytes = tensor.bytes / tensor.rows();
        let (mut bytes, offset) = (vec![0; row_bytes as usize], tensor.offset + row * row_bytes);
        let read = file::read_at(source.handle(false).0, &mut bytes, offset);
        source.check(offset)?;
        read.map_err(Error::io("read", source.path()))?;
        Ok(bytes)
    }
}

fn matrix<'a>(tensor: &TensorInfo, head: &'a [u8], tail: &'a [u8]) -> Matrix<'a> {
    Matrix::in_parts(tensor.ty, tensor.rows() as usize, tensor.cols() as usize, head, tail)
        .expect("the reader checked the size, the store the type, and the plan cuts between rows")
}

/// Fills `buffer`.
fn fill(
    sources: &Sources,
    layout: &Layout,
    buffer: &mut Buffer,
    options: &Options,
    way: &Way,
    progress: &dyn Progress,
) -> Result<()> {
    let pieces = layout.pieces(way.request);
    let targets = buffer.carve(pieces.iter().map(|piece| piece.at..piece.at + piece.len));
    let mut queue = options.queue(sources, &way.to_new_memory())?;
    queue.push(&pieces, targets, 0);
    for piece in &pieces {
        progress.check()?;
        queue.finish_one()?;
        // Not the one that came, but as many in all.
        progress.advance(piece.len as u64);
    }
    Ok(())
}
