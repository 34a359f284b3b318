//! How fast this machine's memory and processor are, measured in a moment: what a plan predicts from.

use std::time::{Duration, Instant};
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, GgmlType};

/// How long products are measured.
const TRIAL: Duration = Duration::from_millis(60);

/// Memory that few caches hold.
const PROBE_BYTES: usize = 256 << 20;

/// Bytes a second that all threads read from memory: from the end of `bytes`, or from memory of its own.
pub fn memory_bytes_per_second(cpu: &Cpu, bytes: Option<&[u8]>) -> f64 {
    match bytes {
        Some(bytes) => cpu.read_bytes_per_second(&bytes[bytes.len().saturating_sub(PROBE_BYTES)..]),
        None => cpu.read_bytes_per_second(&vec![1; PROBE_BYTES]),
    }
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
