//! Which weights stay in memory, which are read again in every pass, and how long a pass takes: arithmetic only.
//!
//! A model that fits into its budget is mapped, as it lies in the file. Of one that does not, the output matrix is pinned, and of every
//! layer the same number of bytes is left out: what remains of it is pinned, attention first, then the first rows of the matrices of the
//! feed-forward network. The rest is read in each pass into a ring of slots, a layer each, so that the disk works on the next layers
//! while the processor works on this one. Nothing is chosen by use, as a cache would: a pass uses every weight once, and a cache that is
//! smaller than the model would have dropped each just before its turn.

use crate::arch::Group;
use crate::error::{Error, Result};
use crate::io::direct::ALIGN;
use crate::roofline::{MatrixSize, Sizes, layer_bytes};

/// Rows are pinned in multiples of this, so that no tile of a kernel is cut.
pub const ROW_STEP: u64 = 32;

/// Slots of the ring: one in use, one being filled; a third evens out disk and processor where they are equally fast.
const SLOTS: std::ops::RangeInclusive<u64> = 2..=3;

/// A third slot may take the budget divided by this.
const THIRD_SLOT: u64 = 32;

/// The share of the memory's read rate that the GEMV kernels reach (kernels/README.md).
const KERNEL_SHARE: f64 = 0.9;

/// A budget and what is taken from it beside the weights, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetParts {
    /// The memory of the whole process.
    pub budget: u64,
    /// The program and its vocabulary.
    pub fixed: u64,
    /// The KV cache.
    pub kv: u64,
    /// Activations.
    pub scratch: u64,
}

/// Which weights stay in memory and which are streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The budget that it keeps.
    pub parts: BudgetParts,
    /// True if the model fits and is mapped: nothing is pinned or streamed then.
    pub mapped: bool,
    /// The number of first rows that are pinned of each matrix: `(layers, matrices)`.
    pub pinned_rows: Vec<Vec<u64>>,
    /// Bytes of pinned weights, the output matrix included; all weights if the model is mapped.
    pub pinned_bytes: u64,
    /// Bytes of weights that each pass reads from disk.
    pub streamed_bytes: u64,
    /// The size of a slot of the ring in bytes.
    pub slot_bytes: u64,
    /// The number of slots.
    pub slots: u64,
}

impl Plan {
    /// The size of the ring in bytes.
    pub fn ring_bytes(&self) -> u64 {
        self.slot_bytes * self.slots
    }

    /// The memory that the process will take, in bytes.
    pub fn total_bytes(&self) -> u64 {
        let BudgetParts { fixed, kv, scratch, .. } = self.parts;
        let parts = [fixed, kv, scratch, self.pinned_bytes, self.ring_bytes()];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Plans a model within a budget.
///
/// # Errors
/// If even the smallest plan does not fit.
pub fn plan(sizes: &Sizes, parts: BudgetParts) -> Result<Plan> {
    let beside = parts.fixed.saturating_add(parts.kv).saturating_add(parts.scratch);
    if beside.saturating_add(sizes.file_bytes) <= parts.budget {
        let pinned_rows = sizes.layers.iter().map(|layer| layer.iter().map(|m| m.rows).collect()).collect();
        let pinned_bytes = sizes.pass_bytes();
        return Ok(Plan { parts, mapped: true, pinned_rows, pinned_bytes, streamed_bytes: 0, slot_bytes: 0, slots: 0 });
    }
    let fits = |plan: &Plan| plan.total_bytes() <= parts.budget;
    let most = sizes.layers.iter().map(|layer| layer_bytes(layer)).max().unwrap_or(0);
    let least = leave_out(sizes, parts, most, *SLOTS.start());
    if !fits(&least) {
        return Err(shortage(&least));
    }
    // The fewest bytes left out of each layer with which the plan fits: the less, the more memory it takes.
    let fewest = |slots: u64| {
        let (mut fits_with, mut too_few) = (most, 0);
        while fits_with - too_few > ALIGN as u64 {
            let middle = too_few + (fits_with - too_few) / 2;
            if fits(&leave_out(sizes, parts, middle, slots)) {
                fits_with = middle;
            } else {
                too_few = middle;
            }
        }
        let all = leave_out(sizes, parts, 0, slots);
        if fits(&all) { all } else { leave_out(sizes, parts, fits_with, slots) }
    };
    let two = fewest(*SLOTS.start());
    let three = fewest(*SLOTS.end());
    Ok(if fits(&three) && three.slot_bytes <= parts.budget / THIRD_SLOT { three } else { two })
}

/// The least bytes within which a model can be streamed.
pub fn least_bytes(sizes: &Sizes) -> u64 {
    let most = sizes.layers.iter().map(|layer| layer_bytes(layer)).max().unwrap_or(0);
    leave_out(sizes, BudgetParts::default(), most, *SLOTS.start()).total_bytes()
}

/// The plan that streams `bytes` of every layer, or a little less.
fn leave_out(sizes: &Sizes, parts: BudgetParts, bytes: u64, slots: u64) -> Plan {
    let mut pinned_rows = Vec::with_capacity(sizes.layers.len());
    let (mut pinned, mut streamed, mut slot) = (buffer_bytes(&sizes.output, sizes.output.rows), 0, 0);
    for layer in &sizes.layers {
        let rows = pin(layer, layer_bytes(layer).saturating_sub(bytes));
        let mut in_slot = 0;
        for (matrix, &rows) in layer.iter().zip(&rows) {
            pinned += buffer_bytes(matrix, rows);
            streamed += (matrix.rows - rows) * matrix.row_bytes;
            in_slot += buffer_bytes(matrix, matrix.rows - rows);
        }
        slot = slot.max(in_slot);
        pinned_rows.push(rows);
    }
    let slots = if streamed == 0 { 0 } else { slots.min(sizes.layers.len() as u64) };
    Plan { parts, mapped: false, pinned_rows, pinned_bytes: pinned, streamed_bytes: streamed, slot_bytes: slot, slots }
}

/// Bytes of memory for `rows` rows read by direct requests: whole pages at both ends.
fn buffer_bytes(matrix: &MatrixSize, rows: u64) -> u64 {
    if rows == 0 { 0 } else { rows * matrix.row_bytes + 2 * ALIGN as u64 }
}

/// The number of first rows of each matrix that make at least `wanted` bytes: those of the attention first.
fn pin(layer: &[MatrixSize], wanted: u64) -> Vec<u64> {
    let all = |group| layer.iter().filter(|m| m.group == group).map(MatrixSize::bytes).sum::<u64>();
    let of_attention = wanted.min(all(Group::Attention));
    let rows = |matrix: &MatrixSize| {
        let wanted = if matrix.group == Group::Attention { of_attention } else { wanted - of_attention };
        let share = (matrix.rows as u128 * wanted as u128).div_ceil(all(matrix.group).max(1) as u128) as u64;
        share.next_multiple_of(ROW_STEP).min(matrix.rows)
    };
    layer.iter().map(rows).collect()
}

/// Why even `plan`, which takes the least memory, does not fit.
fn shortage(plan: &Plan) -> Error {
    let BudgetParts { budget, fixed, kv, scratch } = plan.parts;
    let (need, pinned, ring) = (plan.total_bytes(), plan.pinned_bytes, plan.ring_bytes());
    Error::BudgetTooSmall { budget, need, kv, activations: scratch, pinned, ring, program: fixed }
}

/// The bottleneck of a pass.
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
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Disk => "disk",
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        }
    }
}

/// The rates of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Bytes per second from all drives together.
    pub disk: f64,
    /// Bytes per second from all drives into newly allocated memory, whose pages the system makes meanwhile.
    pub load: f64,
    /// Bytes per second from memory, with all threads.
    pub memory: f64,
    /// Multiply-adds per second in GEMM, with all threads.
    pub macs: f64,
    /// How much drives and processor slow each other down.
    pub contention: Contention,
}

impl Rates {
    /// The rates of a machine whose disk is unknown or not needed.
    pub fn without_disk(memory: f64, macs: f64) -> Rates {
        Rates { disk: f64::INFINITY, load: f64::INFINITY, memory, macs, contention: Contention::APART }
    }
}

/// Contention of drives and processor: the share of its own rate that each keeps while both work. Drives write to the memory that the
/// processor reads, and reads through the page cache or of a file's holes take processor time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contention {
    /// The share that the drives keep.
    pub disk: f64,
    /// The share that memory reads keep, and with them arithmetic.
    pub memory: f64,
}

impl Contention {
    /// No contention.
    pub const APART: Contention = Contention { disk: 1.0, memory: 1.0 };

    /// Seconds that drives and processor take together, if they need `disk` and `processor` seconds alone: both at their shares until the
    /// shorter ends, then the other at full rate.
    fn seconds(self, disk: f64, processor: f64) -> f64 {
        let (slow_disk, slow_processor) = (disk / self.disk, processor / self.memory);
        if slow_disk < slow_processor {
            slow_disk + processor - slow_disk * self.memory
        } else {
            slow_processor + disk - slow_processor * self.disk
        }
    }
}

/// The predicted time of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Seconds.
    pub seconds: f64,
    /// The bottleneck.
    pub bound: Bound,
}

impl Plan {
    /// Predicts a pass of `tokens` tokens that ends in one row of logits, with the pinned weights in memory.
    pub fn pass(&self, sizes: &Sizes, rates: &Rates, tokens: u64) -> Estimate {
        let work = sizes.pass(tokens, 1, 0);
        let disk = self.streamed_bytes as f64 / rates.disk;
        let memory = work.bytes / (rates.memory * KERNEL_SHARE);
        let arithmetic = work.macs / rates.macs;
        let processor = memory.max(arithmetic);
        let bound = match processor {
            _ if disk > processor => Bound::Disk,
            _ if memory > arithmetic => Bound::Memory,
            _ => Bound::Arithmetic,
        };
        Estimate { seconds: rates.contention.seconds(disk, processor), bound }
    }

    /// Seconds to load the pinned weights, if no cache holds them.
    pub fn load_seconds(&self, rates: &Rates) -> f64 {
        self.pinned_bytes as f64 / rates.disk.min(rates.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::LLAMA;
    use crate::recipe::Recipe;
    use crate::synthetic::{Preset, Synthetic};
    use strata_quant::GgmlType;

    /// Llama 3.1 8B in Q8_0.
    fn llama_8b() -> Sizes {
        let preset = Preset::from_name("8b").unwrap();
        let tensors = Synthetic { preset, recipe: Recipe::pure(GgmlType::Q8_0).unwrap(), seed: 0 }.tensors();
        let tensors = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.as_slice(), tensor.ty));
        Sizes { file_bytes: 8_532_952_608, ..Sizes::of(LLAMA, preset.hyperparameters.layers, tensors).unwrap() }
    }

    fn parts(budget: u64) -> BudgetParts {
        BudgetParts { budget, fixed: 50_000_000, kv: 70_000_000, scratch: 20_000_000 }
    }

    #[test]
    fn what_fits_is_mapped() {
        let sizes = llama_8b();
        let all = plan(&sizes, parts(sizes.file_bytes + 140_000_000)).unwrap();
        assert!(all.mapped && all.streamed_bytes == 0 && all.pinned_bytes == sizes.pass_bytes());
        assert!(!plan(&sizes, parts(sizes.file_bytes + 139_999_999)).unwrap().mapped);
    }

    #[test]
    fn every_budget_is_kept_and_used() {
        let sizes = llama_8b();
        let mut before = u64::MAX;
        for budget in (14..86).map(|tenths| tenths * 100_000_000) {
            let plan = plan(&sizes, parts(budget)).unwrap();
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
        let plan = plan(&sizes, parts(4_000_000_000)).unwrap();
        assert!(plan.pinned_rows.iter().all(|rows| rows == &plan.pinned_rows[0]));
        let rows = &plan.pinned_rows[0];
        assert_eq!(rows[..4], [4096, 1024, 1024, 4096]);
        assert!(rows[4] > 0 && rows[4] < 14336 && rows[4] == rows[5] && rows[6] < 4096);
        // Where the layers differ, what is left out is the same.
        let mut mixed = sizes.clone();
        for layer in mixed.layers.iter_mut().step_by(3) {
            layer[6].row_bytes *= 2;
        }
        let plan = super::plan(&mixed, parts(4_000_000_000)).unwrap();
        let left: Vec<u64> = (plan.pinned_rows.iter().zip(&mixed.layers))
            .map(|(rows, layer)| rows.iter().zip(layer).map(|(r, m)| (m.rows - r) * m.row_bytes).sum())
            .collect();
        let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
        assert!(most - least < most / 50, "{left:?}");
    }

    #[test]
    fn too_little_is_refused_with_the_numbers() {
        let error = plan(&llama_8b(), parts(900_000_000)).unwrap_err();
        let Error::BudgetTooSmall { budget: 900_000_000, need, kv, activations, pinned, ring, program } = error else {
            panic!("{error}")
        };
        assert!(
            need == kv + activations + pinned + ring + program && need > 900_000_000 && kv == 70_000_000,
            "{error}"
        );
        let absurd = BudgetParts { kv: u64::MAX, ..parts(4_000_000_000) };
        assert!(plan(&llama_8b(), absurd).is_err());
    }

    #[test]
    fn the_slowest_part_is_the_bound() {
        let sizes = llama_8b();
        let plan = plan(&sizes, parts(4_000_000_000)).unwrap();
        let rates = Rates { disk: 2e9, load: 1e9, memory: 30e9, macs: 300e9, contention: Contention::APART };
        let one = plan.pass(&sizes, &rates, 1);
        let disk = plan.streamed_bytes as f64 / 2e9;
        // The processor's seconds are added and taken away again.
        assert!(one.bound == Bound::Disk && (one.seconds / disk - 1.0).abs() < 1e-12, "{one:?} {disk}");
        assert_eq!(plan.pass(&sizes, &Rates { disk: 200e9, ..rates }, 1).bound, Bound::Memory);
        let many = plan.pass(&sizes, &rates, 512);
        assert_eq!(many.bound, Bound::Arithmetic);
        assert!((many.seconds - 512.0 * 6.98e9 / 300e9).abs() < 0.1);
    }

    #[test]
    fn what_is_slowed_by_the_other_is_so_until_the_other_ends() {
        let contention = Contention { disk: 0.5, memory: 0.8 };
        // Memory ends after 1 s of its own in 1.25 s; the disk has done 0.625 s of its 10 by then.
        assert!((contention.seconds(10.0, 1.0) - (1.25 + 9.375)).abs() < 1e-9);
        // The disk ends after 2 s; memory has done 1.6 s of its 10 by then.
        assert!((contention.seconds(1.0, 10.0) - (2.0 + 8.4)).abs() < 1e-9);
        assert_eq!(Contention::APART.seconds(3.0, 2.0), 3.0);
        assert_eq!(contention.seconds(0.0, 2.0), 2.0);
    }
}
