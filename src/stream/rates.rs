//! How fast this machine's memory and processor are, measured in a moment: what a plan predicts from.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, GgmlType};

/// How long each is measured.
const TRIAL: Duration = Duration::from_millis(60);

/// Memory that few caches hold, for where nothing else is at hand.
const PROBE_BYTES: usize = 128 << 20;

/// Bytes a second that `threads` threads read from memory: from `bytes`, which is not empty, or from memory of its own.
pub fn memory_bytes_per_second(threads: usize, bytes: Option<&[u8]>) -> f64 {
    let own;
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => {
            own = vec![1u8; PROBE_BYTES];
            &own
        }
    };
    let begin = Instant::now();
    let work = |part: &[u8]| {
        let mut read = 0;
        while begin.elapsed() < TRIAL {
            for block in part.chunks(1 << 20).take_while(|_| begin.elapsed() < TRIAL) {
                black_box(sum(block));
                read += block.len();
            }
        }
        read
    };
    let read: usize = thread::scope(|scope| {
        let parts = bytes.chunks(bytes.len().div_ceil(threads.max(1)));
        let threads: Vec<_> = parts.map(|part| scope.spawn(|| work(part))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    read as f64 / begin.elapsed().as_secs_f64()
}

/// In eight lanes, so that the compiler takes the widest loads that it knows.
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    for words in bytes.as_chunks::<64>().0 {
        for (lane, word) in lanes.iter_mut().zip(words.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Multiplications a second of products of weights of type `ty` with many tokens at once.
pub fn macs_per_second(cpu: &Cpu, ty: GgmlType) -> f64 {
    const ROWS: usize = 512;
    const COLS: usize = 4096;
    const TOKENS: usize = 128;
    let row = ty.row_bytes(COLS).unwrap_or(0);
    let bytes = vec![0; ROWS * row];
    let Some(w) = Matrix::new(ty, ROWS, COLS, &bytes) else { return f64::INFINITY };
    let mut x = Activations::default();
    x.reset(TOKENS, COLS).iter_mut().enumerate().for_each(|(i, x)| *x = (i % 7) as f32);
    let mut y = vec![0.0; TOKENS * ROWS];
    // The first makes the form of the activations and wakes the threads.
    cpu.matmul(w, &mut x, &mut y);
    let (begin, mut products) = (Instant::now(), 0);
    while products == 0 || begin.elapsed() < TRIAL {
        cpu.matmul(w, &mut x, &mut y);
        products += 1;
    }
    (ROWS * COLS * TOKENS * products) as f64 / begin.elapsed().as_secs_f64()
}
