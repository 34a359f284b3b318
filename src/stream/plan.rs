//! What of a model stays in memory, what is read again in every pass, and how fast that is: arithmetic only.
//!
//! A model that fits into its budget is mapped, as it lies in the file. Of one that does not, the output matrix is pinned, and of every
//! layer the same number of bytes is left out: what remains of it is pinned, attention first, then the first rows of the matrices of the
//! feed-forward network. The rest is read in each pass into a ring of slots, a layer each, so that the disk works on the next layers
//! while the processor works on this one. Nothing is chosen by use, as a cache would: a pass uses every weight once, and a cache that is
//! smaller than the model would have dropped each just before its turn.

use crate::error::{Error, Result};
use crate::io::direct::ALIGN;
use std::collections::HashMap;
use strata_quant::GgmlType;

/// Matrices of a layer: q, k, v, o, gate, up, down.
pub const MATRICES: usize = 7;

/// How many of them are the attention's; they come first.
const ATTENTION: usize = 4;

/// Rows are pinned in multiples of this, so that no tile of a kernel is cut.
pub const ROW_STEP: u64 = 32;

/// Slots of the ring: one that is used, one that is filled; a third evens out where disk and processor are equally fast.
const SLOTS: std::ops::RangeInclusive<u64> = 2..=3;

/// A third slot may take this part of the budget.
const THIRD_SLOT: u64 = 32;

/// The share of the memory's read rate that the kernels of a decode reach (kernels/README.md).
const KERNEL_SHARE: f64 = 0.9;

/// A matrix, as a plan sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatrixSize {
    /// Rows.
    pub rows: u64,
    /// Values of a row.
    pub cols: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
}

impl MatrixSize {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.rows * self.row_bytes
    }

    /// What it takes in memory to read `rows` of it by direct requests: whole pages at both ends.
    fn room(&self, rows: u64) -> u64 {
        if rows == 0 { 0 } else { rows * self.row_bytes + 2 * ALIGN as u64 }
    }
}

/// The weights of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of each layer.
    pub layers: Vec<[MatrixSize; MATRICES]>,
    /// Hidden state to logits; may be the embedding.
    pub output: MatrixSize,
    /// All files of the model.
    pub file_bytes: u64,
}

impl Sizes {
    /// Of tensors that may exist only on paper, with `layers` layers: name, lengths (the fastest first) and type of each.
    ///
    /// # Errors
    /// If a matrix is missing or of rows that are no whole blocks.
    pub fn of<'t>(layers: usize, tensors: impl Iterator<Item = (&'t str, &'t [u64], GgmlType)>) -> Result<Sizes> {
        const NAMES: [&str; MATRICES] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let mut sizes = HashMap::new();
        let mut file_bytes = 0;
        for (name, dims, ty) in tensors {
            let cols = dims.first().copied().unwrap_or(0);
            let row_bytes = ty.row_bytes(cols as usize).map(|bytes| bytes as u64);
            let row_bytes =
                row_bytes.ok_or_else(|| Error::argument(name, format!("has rows of {cols} values in {ty}")))?;
            let size = MatrixSize { rows: dims.iter().skip(1).product(), cols, row_bytes };
            file_bytes += size.bytes();
            sizes.insert(name, size);
        }
        let find =
            |name: &str| sizes.get(name).copied().ok_or_else(|| Error::argument(name, "the model has no such tensor"));
        let output = find("output.weight").or_else(|_| find("token_embd.weight"))?;
        let layer = |i: usize| -> Result<[MatrixSize; MATRICES]> {
            let mut layer = [MatrixSize::default(); MATRICES];
            for (matrix, name) in layer.iter_mut().zip(NAMES) {
                *matrix = find(&format!("blk.{i}.{name}.weight"))?;
            }
            Ok(layer)
        };
        Ok(Sizes { layers: (0..layers).map(layer).collect::<Result<_>>()?, output, file_bytes })
    }

    /// Bytes that a pass reads, from wherever they are.
    pub fn pass_bytes(&self) -> u64 {
        self.layers.iter().map(layer_bytes).sum::<u64>() + self.output.bytes()
    }

    /// Multiplications of one token in the layers, and in the output matrix.
    pub fn macs(&self) -> (u64, u64) {
        let matrix = |m: &MatrixSize| m.rows * m.cols;
        (self.layers.iter().flatten().map(matrix).sum(), matrix(&self.output))
    }
}

fn layer_bytes(layer: &[MatrixSize; MATRICES]) -> u64 {
    layer.iter().map(MatrixSize::bytes).sum()
}

/// What there is, and what is needed beside the weights, all in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All that may be used.
    pub budget: u64,
    /// The process itself.
    pub fixed: u64,
    /// Keys and values.
    pub kv: u64,
    /// Everything else between the matrices.
    pub scratch: u64,
}

/// What stays and what is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What there was.
    pub room: Room,
    /// True if the model fits: nothing is pinned nor streamed then.
    pub mapped: bool,
    /// The first rows of each matrix of each layer that stay.
    pub pinned_rows: Vec<[u64; MATRICES]>,
    /// Bytes of weights that stay, the output matrix included; all if the model is mapped.
    pub pinned_bytes: u64,
    /// Bytes of weights read in each pass.
    pub streamed_bytes: u64,
    /// Bytes of a slot of the ring.
    pub slot_bytes: u64,
    /// Slots.
    pub slots: u64,
}

impl Plan {
    /// Bytes of all slots.
    pub fn ring_bytes(&self) -> u64 {
        self.slot_bytes * self.slots
    }

    /// Everything that will be used.
    pub fn total_bytes(&self) -> u64 {
        let Room { fixed, kv, scratch, .. } = self.room;
        let parts = [fixed, kv, scratch, self.pinned_bytes, self.ring_bytes()];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Plans a model for a room.
///
/// # Errors
/// If it cannot be: says what is needed and what would help.
pub fn plan(sizes: &Sizes, room: Room) -> Result<Plan> {
    let beside = room.fixed.saturating_add(room.kv).saturating_add(room.scratch);
    if beside.saturating_add(sizes.file_bytes) <= room.budget {
        let pinned_rows = sizes.layers.iter().map(|layer| layer.map(|m| m.rows)).collect();
        let pinned_bytes = sizes.pass_bytes();
        return Ok(Plan { room, mapped: true, pinned_rows, pinned_bytes, streamed_bytes: 0, slot_bytes: 0, slots: 0 });
    }
    let fits = |plan: &Plan| plan.total_bytes() <= room.budget;
    let most = sizes.layers.iter().map(layer_bytes).max().unwrap_or(0);
    let least = leave_out(sizes, room, most, *SLOTS.start());
    if !fits(&least) {
        return Err(shortage(&least));
    }
    // The fewest bytes left out of each layer with which the plan fits: the less, the more memory it takes.
    let fewest = |slots: u64| {
        let (mut fits_with, mut too_few) = (most, 0);
        while fits_with - too_few > ALIGN as u64 {
            let middle = too_few + (fits_with - too_few) / 2;
            if fits(&leave_out(sizes, room, middle, slots)) {
                fits_with = middle;
            } else {
                too_few = middle;
            }
        }
        let all = leave_out(sizes, room, 0, slots);
        if fits(&all) { all } else { leave_out(sizes, room, fits_with, slots) }
    };
    let two = fewest(*SLOTS.start());
    let three = fewest(*SLOTS.end());
    Ok(if fits(&three) && three.slot_bytes <= room.budget / THIRD_SLOT { three } else { two })
}

/// The plan that leaves `bytes` out of every layer, or a little less.
fn leave_out(sizes: &Sizes, room: Room, bytes: u64, slots: u64) -> Plan {
    let mut pinned_rows = Vec::with_capacity(sizes.layers.len());
    let (mut pinned, mut streamed, mut slot) = (sizes.output.room(sizes.output.rows), 0, 0);
    for layer in &sizes.layers {
        let rows = pin(layer, layer_bytes(layer).saturating_sub(bytes));
        let mut in_slot = 0;
        for (matrix, rows) in layer.iter().zip(rows) {
            pinned += matrix.room(rows);
            streamed += (matrix.rows - rows) * matrix.row_bytes;
            in_slot += matrix.room(matrix.rows - rows);
        }
        slot = slot.max(in_slot);
        pinned_rows.push(rows);
    }
    let slots = if streamed == 0 { 0 } else { slots.min(sizes.layers.len() as u64) };
    Plan { room, mapped: false, pinned_rows, pinned_bytes: pinned, streamed_bytes: streamed, slot_bytes: slot, slots }
}

/// The first rows of each matrix that make at least `wanted` bytes: the attention's first.
fn pin(layer: &[MatrixSize; MATRICES], wanted: u64) -> [u64; MATRICES] {
    let (attention, ffn) = layer.split_at(ATTENTION);
    let sum = |part: &[MatrixSize]| part.iter().map(MatrixSize::bytes).sum::<u64>();
    let of_attention = wanted.min(sum(attention));
    let mut rows = [0; MATRICES];
    for (part, first, wanted) in [(attention, 0, of_attention), (ffn, ATTENTION, wanted - of_attention)] {
        let all = sum(part).max(1) as u128;
        for (i, matrix) in part.iter().enumerate() {
            let share = (matrix.rows as u128 * wanted as u128).div_ceil(all) as u64;
            rows[first + i] = share.next_multiple_of(ROW_STEP).min(matrix.rows);
        }
    }
    rows
}

/// Why even `plan`, which takes the least memory, does not fit.
fn shortage(plan: &Plan) -> Error {
    let Room { budget, fixed, kv, scratch } = plan.room;
    let (pinned, ring, need) = (plan.pinned_bytes, plan.ring_bytes(), plan.total_bytes());
    Error::BudgetTooSmall { budget, need, kv, activations: scratch, pinned, ring, program: fixed }
}

/// What limits a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Reading weights from disk.
    Disk,
    /// Reading weights from memory.
    Memory,
    /// Multiplying.
    Arithmetic,
}

impl Bound {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Disk => "disk",
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        }
    }
}

/// How fast a machine is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Bytes a second from all drives together.
    pub disk: f64,
    /// Bytes a second from them to memory that is new: the system makes its pages meanwhile.
    pub load: f64,
    /// Bytes a second from memory, on all threads.
    pub memory: f64,
    /// Multiplications a second in wide batches, on all threads.
    pub macs: f64,
    /// What remains of the drives' and the processor's speed while both work.
    pub beside: Beside,
}

impl Rates {
    /// Of a machine whose disk is not known, or not needed.
    pub fn without_disk(memory: f64, macs: f64) -> Rates {
        Rates { disk: f64::INFINITY, load: f64::INFINITY, memory, macs, beside: Beside::APART }
    }
}

/// What remains of two speeds while both are had at once, as shares: drives write to the memory that the processor reads from, and reads
/// through the page cache or of a file's holes take the processor's time as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beside {
    /// Of the drives'.
    pub disk: f64,
    /// Of the memory's, and so of arithmetic's: the processor does one at the other's speed.
    pub memory: f64,
}

impl Beside {
    /// They do not meet.
    pub const APART: Beside = Beside { disk: 1.0, memory: 1.0 };

    /// How long drives and processor take that begin together and need so many seconds each by itself: at what the other leaves them until
    /// the shorter ends, then at full speed.
    fn seconds(self, disk: f64, processor: f64) -> f64 {
        let (slow_disk, slow_processor) = (disk / self.disk, processor / self.memory);
        if slow_disk < slow_processor {
            slow_disk + processor - slow_disk * self.memory
        } else {
            slow_processor + disk - slow_processor * self.disk
        }
    }
}

/// How long a pass takes and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Seconds.
    pub seconds: f64,
    /// What they are spent on.
    pub bound: Bound,
}

impl Plan {
    /// A pass of `tokens` tokens that ends in one row of logits, when the weights that stay are there.
    pub fn pass(&self, sizes: &Sizes, rates: &Rates, tokens: u64) -> Estimate {
        let (layers, output) = sizes.macs();
        let macs = layers as f64 * tokens as f64 + output as f64;
        let disk = self.streamed_bytes as f64 / rates.disk;
        let memory = sizes.pass_bytes() as f64 / (rates.memory * KERNEL_SHARE);
        let arithmetic = macs / rates.macs;
        let processor = memory.max(arithmetic);
        let bound = match processor {
            _ if disk > processor => Bound::Disk,
            _ if memory > arithmetic => Bound::Memory,
            _ => Bound::Arithmetic,
        };
        Estimate { seconds: rates.beside.seconds(disk, processor), bound }
    }

    /// Seconds to read what stays, where it is in no cache.
    pub fn load_seconds(&self, rates: &Rates) -> f64 {
        self.pinned_bytes as f64 / rates.disk.min(rates.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1 8B in Q8_0.
    fn llama_8b() -> Sizes {
        let m = |rows, cols: u64| MatrixSize { rows, cols, row_bytes: cols / 32 * 34 };
        let layer = [
            m(4096, 4096),
            m(1024, 4096),
            m(1024, 4096),
            m(4096, 4096),
            m(14336, 4096),
            m(14336, 4096),
            m(4096, 14336),
        ];
        Sizes { layers: vec![layer; 32], output: m(128_256, 4096), file_bytes: 8_532_952_608 }
    }

    fn room(budget: u64) -> Room {
        Room { budget, fixed: 50_000_000, kv: 70_000_000, scratch: 20_000_000 }
    }

    #[test]
    fn what_fits_is_mapped() {
        let sizes = llama_8b();
        let all = plan(&sizes, room(sizes.file_bytes + 140_000_000)).unwrap();
        assert!(all.mapped && all.streamed_bytes == 0 && all.pinned_bytes == sizes.pass_bytes());
        assert!(!plan(&sizes, room(sizes.file_bytes + 139_999_999)).unwrap().mapped);
    }

    #[test]
    fn every_budget_is_kept_and_used() {
        let sizes = llama_8b();
        let mut before = u64::MAX;
        for budget in (14..86).map(|tenths| tenths * 100_000_000) {
            let plan = plan(&sizes, room(budget)).unwrap();
            assert!(plan.total_bytes() <= budget);
            let pinned: u64 = plan
                .pinned_rows
                .iter()
                .zip(&sizes.layers)
                .map(|(rows, layer)| {
                    for (rows, m) in rows.iter().zip(layer) {
                        assert!(*rows <= m.rows && (rows.is_multiple_of(ROW_STEP) || *rows == m.rows));
                    }
                    rows.iter().zip(layer).map(|(rows, m)| rows * m.row_bytes).sum::<u64>()
                })
                .sum();
            assert_eq!(pinned + plan.streamed_bytes + sizes.output.bytes(), sizes.pass_bytes());
            // A third slot takes a little of what could be pinned.
            assert!(plan.streamed_bytes <= before.saturating_add(before / 20), "{budget}");
            before = plan.streamed_bytes;
            // Nothing to speak of is left over: rows are pinned in steps, 32 times.
            if plan.streamed_bytes > 0 {
                assert!(budget - plan.total_bytes() < budget / 50, "{budget}: {}", plan.total_bytes());
            }
        }
        assert_eq!(before, 0);
    }

    #[test]
    fn attention_stays_before_the_rest_and_all_layers_alike() {
        let sizes = llama_8b();
        let plan = plan(&sizes, room(4_000_000_000)).unwrap();
        assert!(plan.pinned_rows.iter().all(|rows| rows == &plan.pinned_rows[0]));
        let rows = plan.pinned_rows[0];
        assert_eq!(rows[..4], [4096, 1024, 1024, 4096]);
        assert!(rows[4] > 0 && rows[4] < 14336 && rows[4] == rows[5] && rows[6] < 4096);
        // Where the layers differ, what is left out is the same.
        let mut mixed = sizes.clone();
        for layer in mixed.layers.iter_mut().step_by(3) {
            layer[6].row_bytes *= 2;
        }
        let plan = super::plan(&mixed, room(4_000_000_000)).unwrap();
        let left: Vec<u64> = (plan.pinned_rows.iter().zip(&mixed.layers))
            .map(|(rows, layer)| rows.iter().zip(layer).map(|(r, m)| (m.rows - r) * m.row_bytes).sum())
            .collect();
        let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
        assert!(most - least < most / 50, "{left:?}");
    }

    #[test]
    fn too_little_is_refused_with_the_numbers() {
        let error = plan(&llama_8b(), room(900_000_000)).unwrap_err();
        let Error::BudgetTooSmall { budget: 900_000_000, need, kv, activations, pinned, ring, program } = error else {
            panic!("{error}")
        };
        assert!(need > 900_000_000 && need == kv + activations + pinned + ring + program, "{error}");
        assert!(
            error.to_string().contains("900 MB is too small") && error.to_string().contains("70 MB for the KV cache")
        );
        let huge = Room { kv: 5_000_000_000, ..room(4_000_000_000) };
        assert!(matches!(plan(&llama_8b(), huge), Err(Error::BudgetTooSmall { kv: 5_000_000_000, .. })));
        let absurd = Room { kv: u64::MAX, ..room(4_000_000_000) };
        assert!(plan(&llama_8b(), absurd).is_err());
    }

    #[test]
    fn the_slowest_part_is_the_bound() {
        let sizes = llama_8b();
        let plan = plan(&sizes, room(4_000_000_000)).unwrap();
        let rates = Rates { disk: 2e9, load: 1e9, memory: 30e9, macs: 300e9, beside: Beside::APART };
        let one = plan.pass(&sizes, &rates, 1);
        assert_eq!((one.bound, one.seconds), (Bound::Disk, plan.streamed_bytes as f64 / 2e9));
        assert_eq!(plan.pass(&sizes, &Rates { disk: 200e9, ..rates }, 1).bound, Bound::Memory);
        let many = plan.pass(&sizes, &rates, 512);
        assert_eq!(many.bound, Bound::Arithmetic);
        assert!((many.seconds - 512.0 * 6.98e9 / 300e9).abs() < 0.1);
    }

    #[test]
    fn what_is_slowed_by_the_other_is_so_until_the_other_ends() {
        let beside = Beside { disk: 0.5, memory: 0.8 };
        // Memory ends after 1 s of its own in 1.25 s; the disk has done 0.625 s of its 10 by then.
        assert!((beside.seconds(10.0, 1.0) - (1.25 + 9.375)).abs() < 1e-9);
        // The disk ends after 2 s; memory has done 1.6 s of its 10 by then.
        assert!((beside.seconds(1.0, 10.0) - (2.0 + 8.4)).abs() < 1e-9);
        assert_eq!(Beside::APART.seconds(3.0, 2.0), 3.0);
        assert_eq!(beside.seconds(0.0, 2.0), 2.0);
    }
}
