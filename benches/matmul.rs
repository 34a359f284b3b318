//! How close every format comes to the limit of memory: GB/s of weights, and their share of what plain reading of the same bytes takes.
//!
//! `cargo bench -p strata-kernels --bench matmul [FORMAT ...] [--threads N] [--isa NAME] [--columns N,N]`; medians of alternating runs.

use std::hint::black_box;
use std::time::Instant;
use strata_kernels::{Cpu, Isa, Matrix};
use strata_quant::{Activations, GgmlType};

const COLS: usize = 4096;
const BYTES: usize = 256 << 20;
const RUNS: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    let threads = option("--threads").map_or(2, |n| n.parse().expect("a number"));
    let columns: Vec<usize> =
        option("--columns").unwrap_or("1,4,8".into()).split(',').map(|n| n.parse().expect("numbers")).collect();
    let isas: Vec<Isa> = match option("--isa") {
        Some(name) => vec![Isa::named(&name).expect("an instruction set of this machine")],
        None => Isa::available().filter(|isa| isa.name() != "scalar").collect(),
    };
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    println!("{threads} threads; GB/s, share of reading; time as a multiple of one column's");
    for format in GgmlType::with_format() {
        let wanted = args.iter().any(|arg| arg.eq_ignore_ascii_case(format.ty.name()));
        if !wanted && args.iter().any(|arg| GgmlType::from_name(arg).is_some()) {
            continue;
        }
        let row_bytes = format.ty.row_bytes(COLS).expect("whole blocks");
        let rows = BYTES / row_bytes;
        let some: Vec<f32> = (0..64 * COLS).map(|_| random()).collect();
        let mut encoded = vec![0; 64 * row_bytes];
        for (row, out) in some.chunks(COLS).zip(encoded.chunks_mut(row_bytes)) {
            Isa::best().encode(format.ty, row, None, out);
        }
        let data: Vec<u8> = encoded.iter().cycle().take(rows * row_bytes).copied().collect();
        let w = Matrix::new(format.ty, rows, COLS, &data).expect("whole rows");
        let mut limits = Vec::new();
        let mut times = vec![vec![Vec::new(); columns.len()]; isas.len()];
        let cpus: Vec<Cpu> = isas.iter().map(|&isa| Cpu::new(isa, threads)).collect();
        for _ in 0..RUNS {
            limits.push(read(&data, threads));
            for (cpu, times) in cpus.iter().zip(&mut times) {
                for (&m, times) in columns.iter().zip(times) {
                    let mut x = Activations::default();
                    x.reset(m, COLS).iter_mut().for_each(|x| *x = random());
                    let mut y = vec![0.0; m * rows];
                    cpu.matmul(w, &mut x, &mut y);
                    let start = Instant::now();
                    cpu.matmul(black_box(w), &mut x, &mut y);
                    times.push(start.elapsed().as_secs_f64());
                    black_box(&y);
                }
            }
        }
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[RUNS / 2]
        };
        let limit = median(&mut limits);
        print!("{:8} read {:5.1}", format.ty.name(), data.len() as f64 / limit / 1e9);
        for (isa, times) in isas.iter().zip(&mut times) {
            let medians: Vec<f64> = times.iter_mut().map(median).collect();
            print!(
                "  {} {:5.1} {:3.0} %",
                isa.name(),
                data.len() as f64 / medians[0] / 1e9,
                100.0 * limit / medians[0]
            );
            for (m, time) in columns.iter().zip(&medians).skip(1) {
                print!("  x{m} {:.2}", time / medians[0]);
            }
        }
        println!();
    }
}

/// Seconds to read all of it, with all threads.
fn read(data: &[u8], threads: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in data.chunks(data.len().div_ceil(threads)) {
            scope.spawn(move || {
                // Sixteen sums at a time, so that the compiler uses its widest registers and nothing waits.
                let mut sums = [0u64; 16];
                for chunk in part.as_chunks::<128>().0 {
                    for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                        *sum = sum.wrapping_add(u64::from_le_bytes(*word));
                    }
                }
                black_box(sums);
            });
        }
    });
    start.elapsed().as_secs_f64()
}
