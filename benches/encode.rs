//! How fast each format encodes on each instruction set: million weights a second on one thread, without and with importance.
//!
//! `cargo bench -p strata-kernels --bench encode [FORMAT ...]`; medians of alternating runs.

use std::time::Instant;
use strata_kernels::Isa;
use strata_quant::GgmlType;

const COLS: usize = 4096;
const ROWS: usize = 8;
const RUNS: usize = 7;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    // A sum of uniform numbers, nearly normal as weights are.
    let mut random = || (0..4).map(|_| uniform()).sum::<f32>() * 0.03;
    let values: Vec<f32> = (0..ROWS * COLS).map(|_| random()).collect();
    let importance: Vec<f32> = (0..COLS).map(|_| random().abs() + 1e-3).collect();
    let isas: Vec<Isa> = Isa::available().collect();
    println!("million weights a second, plain / with importance");
    println!("{:8}{}", "", isas.iter().map(|isa| format!("{:>18}", isa.name())).collect::<String>());
    for ty in GgmlType::with_format().map(|format| format.ty) {
        if !wanted.is_empty() && !wanted.iter().any(|name| name.eq_ignore_ascii_case(ty.name())) {
            continue;
        }
        let mut out = vec![0; ty.row_bytes(COLS).expect("whole blocks")];
        let mut times = vec![[const { Vec::new() }; 2]; isas.len()];
        for _ in 0..RUNS {
            for (isa, times) in isas.iter().zip(&mut times) {
                for (weights, times) in [None, Some(&importance[..])].into_iter().zip(times) {
                    let start = Instant::now();
                    for row in values.chunks_exact(COLS) {
                        isa.encode(ty, std::hint::black_box(row), weights, &mut out);
                    }
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        print!("{:8}", ty.name());
        for times in &mut times {
            let rate = |times: &mut Vec<f64>| {
                times.sort_by(f64::total_cmp);
                (ROWS * COLS) as f64 / times[RUNS / 2] / 1e6
            };
            let [plain, important] = times;
            print!("{:>9.1} /{:>7.1}", rate(plain), rate(important));
        }
        println!();
    }
}
