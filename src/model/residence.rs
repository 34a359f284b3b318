//! Where the weights of a model are that does not fit into its budget: some pinned, the others in the slots of a ring.

use crate::error::{Error, Result};
use crate::file;
use crate::gguf::{Gguf, TensorInfo};
use crate::progress::Progress;
use crate::stream::memory::Buffer;
use crate::stream::plan::MATRICES;
use crate::stream::probe::slices;
use crate::stream::ring::{Feeder, Ring};
use crate::stream::source::{Layout, Source, Sources};
use crate::stream::{Options, Plan, Reader, Way};
use std::ops::Range;
use std::sync::Mutex;
use strata_kernels::Matrix;

/// The weights of a model that does not fit.
pub struct Streamed {
    sources: Sources,
    plan: Plan,
    way: Way,
    pinned: Buffer,
    output: Range<usize>, // in `pinned`
    layers: Vec<[Parts; MATRICES]>,
    ring: Option<Mutex<Ring>>, // unless all is pinned
}

/// Where the rows of a matrix are.
#[derive(Clone, Default)]
struct Parts {
    head: Range<usize>, // the first, in `pinned`
    tail: Range<usize>, // the others, in a slot
}

/// The files of a model.
///
/// # Errors
/// If they cannot be opened again.
pub fn sources(gguf: &Gguf) -> Result<Sources> {
    gguf.files().map(Source::open).collect::<Result<Vec<_>>>().map(Sources::from)
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
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Streamed> {
        sources.iter().for_each(Source::expect_single_rows);
        let mut stays = Layout::default();
        let output = stays.add(output.part, output.offset, output.bytes);
        let (mut parts, mut comes) = (Vec::new(), Vec::new());
        for (layer, (tensors, rows)) in layers.iter().zip(&plan.pinned_rows).enumerate() {
            let mut slot = Layout::default();
            let place = |m: usize| {
                let tensor = tensors[m];
                let head = tensor.bytes / tensor.rows() * rows[m];
                Parts {
                    head: stays.add(tensor.part, tensor.offset, head),
                    tail: slot.add(tensor.part, tensor.offset + head, tensor.bytes - head),
                }
            };
            parts.push(std::array::from_fn(place));
            if slot.size() > 0 {
                comes.push((layer, slot));
            }
        }

        let slot_bytes = comes.iter().map(|(_, slot)| slot.size()).max().unwrap_or(0);
        let mut slots = (0..plan.slots).map(|_| Buffer::new(slot_bytes)).collect::<Result<Vec<_>>>()?;
        let mut way = options.probe(&sources, &comes, &mut slots)?;
        let mut pinned = Buffer::new(stays.size())?;
        fill(&sources, &stays, &mut pinned, options, &way, progress)?;
        if way.bytes_per_second.is_some() {
            way.bytes_per_second = Some(options.rate(&sources, &comes, &mut slots, &way)?);
        }
        let ring = if comes.is_empty() {
            None
        } else {
            let feeder = Feeder::new(options.queue(&sources, &way)?, slices(&comes, way.request));
            Some(Mutex::new(Ring::start(feeder, slots)?))
        };
        Ok(Streamed { sources, plan, way, pinned, output, layers: parts, ring })
    }

    /// What stays and what does not.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How it is read.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The ring, unless all is pinned.
    pub fn ring(&self) -> Option<&Mutex<Ring>> {
        self.ring.as_ref()
    }

    /// What stays.
    pub fn pinned(&self) -> &[u8] {
        self.pinned.bytes()
    }

    /// True if some of layer `i` comes through the ring.
    pub fn is_streamed(&self, i: usize) -> bool {
        self.layers[i].iter().any(|parts| !parts.tail.is_empty())
    }

    /// Bytes of layer `i` that come through the ring.
    pub fn streamed_bytes(&self, i: usize) -> u64 {
        self.layers[i].iter().map(|parts| parts.tail.len() as u64).sum()
    }

    /// Matrix `m` of layer `i`, whose slot is `slot`.
    pub fn matrix<'a>(&'a self, i: usize, m: usize, tensor: &TensorInfo, slot: &'a [u8]) -> Matrix<'a> {
        let Parts { head, tail } = self.layers[i][m].clone();
        matrix(tensor, &self.pinned.bytes()[head], if tail.is_empty() { &[] } else { &slot[tail] })
    }

    /// Hidden state to logits.
    pub fn output(&self, tensor: &TensorInfo) -> Matrix<'_> {
        matrix(tensor, &self.pinned.bytes()[self.output.clone()], &[])
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
    // By threads even where io_uring reads faster: the memory is new, and its pages are made by whoever reads to them (measured on a
    // virtual machine: 0.5 GB/s by one thread, twice that by two).
    let reader = if way.reader == Reader::Uring { Reader::Pread } else { way.reader };
    let pieces = layout.pieces(way.request);
    let targets = buffer.carve(pieces.iter().map(|piece| piece.at..piece.at + piece.len));
    let mut queue = options.queue(sources, &Way { reader, ..*way })?;
    progress.begin("reading weights", layout.size() as u64);
    queue.push(&pieces, targets, 0);
    for piece in &pieces {
        progress.check()?;
        queue.finish_one()?;
        // Not the one that came, but as many in all.
        progress.advance(piece.len as u64);
    }
    sources.iter().try_for_each(|source| source.check(0))?;
    progress.end();
    Ok(())
}
