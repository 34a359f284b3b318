//! Rates of drives, memory and processor, measured in a moment: a plan predicts from them.

use crate::error::Result;
use crate::stream::memory::Buffer;
use crate::stream::plan::Contention;
use crate::threads;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use strata_kernels::{Cpu, Matrix};
use strata_quant::{Activations, GgmlType};

/// The duration of the measurement of GEMM.
const TRIAL: Duration = Duration::from_millis(60);

/// Bytes that are read to measure the memory's rate. Twice as much gave the same on a machine that says its third cache has 480 MB.
pub const PROBE_BYTES: usize = 256 << 20;

/// The rates of drives and memory, alone and together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streams {
    /// Bytes per second from all drives, while the processor is idle.
    pub disk: f64,
    /// Bytes per second that all threads read from memory, while the drives are idle.
    pub memory: f64,
    /// The shares that both keep at once.
    pub contention: Contention,
}

impl Streams {
    /// Measures drives and `memory`, each alone and both at once. `disk` reads for a moment and returns its bytes per second.
    ///
    /// # Errors
    /// Those of `disk`.
    pub fn measure(cpu: &Cpu, memory: &[u8], mut disk: impl FnMut() -> Result<f64>) -> Result<Streams> {
        let memory = &memory[memory.len().saturating_sub(PROBE_BYTES)..];
        let alone = (disk()?, cpu.read_bytes_per_second(memory));
        let done = AtomicBool::new(false);
        let both = thread::scope(|scope| {
            let reading = threads::builder().spawn_scoped(scope, || {
                let (begin, mut bytes) = (Instant::now(), 0);
                while !done.load(Ordering::Relaxed) {
                    cpu.read_once(memory);
                    bytes += memory.len();
                }
                bytes as f64 / begin.elapsed().as_secs_f64()
            });
            // Without another thread they cannot be measured at once; they count as apart then.
            let Ok(reading) = reading else { return Ok(alone) };
            let disk = disk();
            done.store(true, Ordering::Relaxed);
            // A thread that panics takes the process with it, as everywhere.
            disk.map(|disk| (disk, reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
        })?;
        let share = |both: f64, alone: f64| if alone > 0.0 { (both / alone).clamp(0.01, 1.0) } else { 1.0 };
        let contention = Contention { disk: share(both.0, alone.0), memory: share(both.1, alone.1) };
        Ok(Streams { disk: alone.0, memory: alone.1, contention })
    }
}

/// Allocates memory to measure, where there are no weights.
///
/// # Errors
/// If it cannot be had.
pub fn some_memory(bytes: usize) -> Result<Buffer> {
    let mut buffer = Buffer::new(bytes)?;
    // Pages that nobody has written to are all the same one.
    buffer.carve(std::iter::once(0..bytes)).iter_mut().for_each(|target| target.bytes().fill(1));
    Ok(buffer)
}

/// Bytes per second that all threads read of the end of `bytes`.
pub fn memory_bytes_per_second(cpu: &Cpu, bytes: &[u8]) -> f64 {
    cpu.read_bytes_per_second(&bytes[bytes.len().saturating_sub(PROBE_BYTES)..])
}

/// Multiply-adds per second of GEMM with weights of type `ty`.
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
