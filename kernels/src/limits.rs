//! What this machine can do at most: the two numbers that every speed is a share of.
//!
//! * Decoding reads every weight once a token: it cannot be faster than plain reading of the same bytes.
//! * Prefill multiplies every weight with every token: it cannot be faster than 8-bit multiply-adds on registers alone.
//!
//! Both are measured with this crate's own threads and instructions, right beside what is to be compared: on a machine that others
//! share they move from minute to minute.

use crate::cpu::Cpu;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A measurement is the median of this many runs...
const RUNS: usize = 5;
/// ...of at least this long.
const RUN: Duration = Duration::from_millis(20);

impl Cpu {
    /// Bytes a second that all threads together read of `data`: the median of several passes. Where they come from is up to the
    /// caller: only `data` far larger than the caches says how fast memory is.
    pub fn read_bytes_per_second(&self, data: &[u8]) -> f64 {
        median(|| {
            let (start, mut read) = (Instant::now(), 0.0);
            while read == 0.0 || start.elapsed() < RUN {
                self.read_once(data);
                read += data.len().max(1) as f64;
            }
            read / start.elapsed().as_secs_f64()
        })
    }

    /// All threads together read `data`, and do nothing with it.
    pub fn read_once(&self, data: &[u8]) {
        self.pool.run(&|i| {
            let part = &data[self.share(data.len(), LINE, i)];
            // SAFETY: `Isa` proves the instruction set of its table.
            black_box(unsafe { (self.isa().table().read)(part) });
        });
    }

    /// Products of two 8-bit numbers that all threads together multiply and add up in a second, by this set's own instructions, from
    /// register to register: the median of several runs.
    pub fn int8_macs_per_second(&self) -> f64 {
        median(|| {
            let (start, done) = (Instant::now(), AtomicU64::new(0));
            self.pool.run(&|_| {
                let mut sums = black_box(Sums::ONES);
                while start.elapsed() < RUN {
                    // SAFETY: `Isa` proves the instruction set of its table.
                    let macs = unsafe { (self.isa().table().multiply_add)(ROUNDS, &mut sums) };
                    done.fetch_add(macs, Ordering::Relaxed);
                }
            });
            done.into_inner() as f64 / start.elapsed().as_secs_f64()
        })
    }
}

/// The sums of a multiply-add loop, in registers of up to 64 bytes, each of which takes the beginning of a row. Every sum is a factor of its
/// next step, so that no compiler can know the last without the steps before.
#[derive(Debug, PartialEq)]
pub struct Sums(pub [[u8; 64]; 24]);

impl Sums {
    const ONES: Sums = Sums([[1; 64]; 24]);
}

/// The other factor.
pub const FACTOR: i8 = 5;

/// Rounds of a multiply-add loop between two looks at the clock: some ten microseconds.
const ROUNDS: usize = 4096;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Places of a thread's share that are read in turn. One run of addresses keeps the hardware's prefetchers only half busy. Two threads
/// of a Xeon with AVX-512 (2026-11-24, GB/s): 1 place 28 to 30, 2 places 32.8, 4 places 33.2, 8 places 34.3, 16 places 33.5; software
/// prefetching at any distance made it slower.
const PLACES: usize = 8;

/// Reads all of `data` and does next to nothing with it: the bits that are set anywhere. Compiled for each instruction set, whose widest
/// loads it becomes.
#[inline(always)]
pub fn read(data: &[u8]) -> u64 {
    const STEP: usize = 4 * LINE;
    let part = data.len() / PLACES / STEP * STEP;
    let places: [&[[u8; STEP]]; PLACES] = std::array::from_fn(|p| data[p * part..(p + 1) * part].as_chunks().0);
    let mut all = [0u64; LINE / 8];
    for i in 0..part / STEP {
        for place in places {
            or(&mut all, &place[i]);
        }
    }
    let (lines, rest) = data[PLACES * part..].as_chunks::<LINE>();
    lines.iter().for_each(|line| or(&mut all, line));
    all.iter().copied().chain(rest.iter().map(|&byte| byte.into())).fold(0, |a, b| a | b)
}

/// Whole lines into `all`, bit by bit.
#[inline(always)]
fn or(all: &mut [u64; LINE / 8], lines: &[u8]) {
    for line in lines.as_chunks::<LINE>().0 {
        for (all, word) in all.iter_mut().zip(line.as_chunks().0) {
            *all |= u64::from_le_bytes(*word);
        }
    }
}

fn median(mut measure: impl FnMut() -> f64) -> f64 {
    let mut rates = [0.0; RUNS];
    rates.iter_mut().for_each(|rate| *rate = measure());
    rates.sort_by(f64::total_cmp);
    rates[RUNS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_byte_is_read() {
        const STEP: usize = PLACES * 4 * LINE;
        for isa in Isa::available() {
            for n in [0, 1, LINE - 1, LINE, LINE + 1, STEP - 1, STEP, 2 * STEP + LINE + 9] {
                let mut data = vec![0; n];
                // SAFETY: `Isa` proves the instruction set of its table.
                let read = |data: &[u8]| unsafe { (isa.table().read)(data) };
                assert_eq!(read(&data), 0);
                for i in 0..n {
                    data[i] = 16;
                    assert_ne!(read(&data), 0, "{isa:?}: byte {i} of {n}");
                    data[i] = 0;
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_has_limits() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 3);
            assert!(cpu.read_bytes_per_second(&[1; 1000]) > 0.0);
            assert!(cpu.int8_macs_per_second() > 0.0);
        }
    }

    /// A loop that the compiler shortens would make any limit.
    #[test]
    fn all_multiplications_take_place() {
        for isa in Isa::available() {
            let run = |rounds, sums: &mut Sums| {
                // SAFETY: `Isa` proves the instruction set of its table.
                unsafe { (isa.table().multiply_add)(rounds, sums) }
            };
            let total = |sums: &Sums| sums.0.as_flattened().iter().copied().map(u64::from).sum::<u64>();
            let mut sums = Sums::ONES;
            let products = run(1, &mut sums);
            // From ones, no lane of a step carries into its next byte, however wide it is.
            assert_eq!(total(&sums) - total(&Sums::ONES), products * FACTOR as u64, "{isa:?}");
            for _ in 1..1000 {
                run(1, black_box(&mut sums));
            }
            let mut together = Sums::ONES;
            assert_eq!(run(1000, &mut together), 1000 * products, "{isa:?}");
            assert_eq!(together, sums, "{isa:?}");
        }
    }
}
