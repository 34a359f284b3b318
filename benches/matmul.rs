//! How close every format on every instruction set comes to the machine's limits: GEMV (decoding) to reading the same bytes, GEMM (prefill)
//! to multiplying on registers.
//!
//! `cargo bench -p strata-kernels --bench matmul [FORMAT ...] [--threads N] [--isa NAME] [--columns N,N] [--k N] [--activations 16]`
//!
//! Medians of alternating runs; each run is compared with limits that were measured right before it.

use std::hint::black_box;
use std::time::Instant;
use strata_kernels::{Cpu, Isa, Matrix};
use strata_quant::{ActivationBits, Activations, GgmlType};

/// Weights that GEMV reads: beyond all caches.
const BYTES: usize = 1 << 30;
/// From as many columns on arithmetic is the limit, and these are enough rows.
const MANY: usize = 32;
const MANY_ROWS: usize = 4096;
const RUNS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    let threads = option("--threads").map_or(2, |n| n.parse().expect("a number"));
    let columns: Vec<usize> =
        option("--columns").unwrap_or("1,2,4,8,512".into()).split(',').map(|n| n.parse().expect("numbers")).collect();
    let wanted = option("--activations").unwrap_or("8".into());
    let bits = ActivationBits::ALL.into_iter().find(|bits| bits.bits().to_string() == wanted).expect("8 or 16");
    let k = option("--k").map_or(4096, |k| k.parse().expect("a number"));
    let cpus: Vec<Cpu> = Isa::available()
        .filter(|isa| option("--isa").map_or(isa.name() != "scalar", |name| isa.name() == name))
        .map(|isa| Cpu::new(isa, threads).with_activations(bits))
        .collect();
    assert!(!cpus.is_empty(), "this machine has no such instruction set");
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let some: Vec<f32> = (0..64 * k).map(|_| random()).collect();
    println!(
        "{threads} threads; below {MANY} columns: GB/s of weights, share of reading; from there: billion multiply-adds/s, share of the int8 peak"
    );
    for format in GgmlType::with_format() {
        let wanted = args.iter().any(|arg| arg.eq_ignore_ascii_case(format.ty.name()));
        if !wanted && args.iter().any(|arg| GgmlType::from_name(arg).is_some()) {
            continue;
        }
        let row_bytes = format.ty.row_bytes(k).expect("whole blocks");
        let rows = BYTES / row_bytes;
        let mut encoded = vec![0; 64 * row_bytes];
        for (row, out) in some.chunks(k).zip(encoded.chunks_mut(row_bytes)) {
            Isa::best().encode(format.ty, row, None, out);
        }
        let data: Vec<u8> = encoded.iter().cycle().take(rows * row_bytes).copied().collect();
        let mut speeds = vec![vec![(Vec::new(), Vec::new()); columns.len()]; cpus.len()]; // of each run: (speed, share)
        for _ in 0..RUNS {
            for (cpu, speeds) in cpus.iter().zip(&mut speeds) {
                for (&m, (speeds, shares)) in columns.iter().zip(speeds) {
                    let rows = if m < MANY { rows } else { rows.min(MANY_ROWS) };
                    let (speed, limit) = run(cpu, format.ty, [m, k], &some, &data[..rows * row_bytes]);
                    speeds.push(speed);
                    shares.push(speed / limit);
                }
            }
        }
        for (cpu, speeds) in cpus.iter().zip(&mut speeds) {
            print!("{:8}{:12}", format.ty.name(), cpu.isa().name());
            for (m, (speeds, shares)) in columns.iter().zip(speeds) {
                let unit = if *m < MANY { "GB/s" } else { "G" };
                print!("  x{m} {:5.1} {unit} {:3.0} %", median(speeds) / 1e9, 100.0 * median(shares));
            }
            println!();
        }
    }
}

/// Work a second of a product with `m` columns of `k` values, bytes of weights or multiply-adds, and the machine's limit, measured right
/// before.
fn run(cpu: &Cpu, ty: GgmlType, [m, k]: [usize; 2], some: &[f32], data: &[u8]) -> (f64, f64) {
    let row_bytes = ty.row_bytes(k).expect("whole blocks");
    let rows = data.len() / row_bytes;
    let w = Matrix::new(ty, rows, k, data).expect("whole rows");
    let mut x = Activations::default();
    x.reset(m, k).iter_mut().enumerate().for_each(|(i, x)| *x = some[i % some.len()]);
    // The first product makes the 8-bit form of `x` that the next finds, and `y` is memory that has been touched.
    let mut y = vec![1.0; m * rows];
    let first = Matrix::new(ty, 1, k, &data[..row_bytes]).expect("a row");
    cpu.matmul(first, &mut x, &mut y[..m]);
    let (work, limit) = if m < MANY {
        (data.len() as f64, cpu.read_bytes_per_second(data))
    } else {
        ((rows * k * m) as f64, cpu.int8_macs_per_second() / cpu.activations().planes() as f64)
    };
    let start = Instant::now();
    cpu.matmul(black_box(w), &mut x, &mut y);
    let speed = work / start.elapsed().as_secs_f64();
    black_box(&y);
    (speed, limit)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
