//! Walks formats x instruction sets x shapes x threads: every kernel gives the bits of the scalar set, and the scalar set agrees with a
//! naive product in `f64` that shares no code with it. A new format or instruction set is tested with no edit here.

#[path = "every_kernel/attention.rs"]
mod attention;
mod kernel_inputs;

use kernel_inputs::{Random, activations, weights};
use strata_kernels::{Cpu, Isa, IsaError, Matrix, Rope, Rotation};
use strata_quant::activations::{Planes, RADIX};
use strata_quant::{ActivationBits, ActivationRow, Activations, Format, GgmlType};

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn products_are_the_same_bits_everywhere_and_right() {
    let mut random = Random(1);
    for format in GgmlType::with_format() {
        let len = format.ty.block_len();
        let shapes: Vec<(usize, usize)> = if len == 1 {
            vec![(1, 1), (3, 15), (4, 16), (5, 17), (7, 100), (33, 256)]
        } else {
            vec![(1, len), (3, 2 * len), (4, 3 * len), (5, 4 * len), (6, 5 * len), (33, 8 * len), (9, 15 * len)]
        };
        for bits in ActivationBits::ALL {
            let cpu = |isa, threads| Cpu::new(isa, threads).with_activations(bits);
            // Threads take longer to start than these products.
            let cpus = [1, 3].map(|threads| Isa::available().map(|isa| cpu(isa, threads)).collect::<Vec<_>>());
            for &(rows, cols) in &shapes {
                for (kind, m) in (0..6).flat_map(|kind| [1, 2, 3, 4, 5, 17].map(|m| (kind, m))) {
                    let (scalar, cpus) = (&cpus[0][0], &cpus[(m + kind) % 2]);
                    products(format, (rows, cols), (m, kind), (scalar, cpus), &mut random);
                }
            }
        }
    }
}

/// A product of a matrix `(rows, cols)` with `m` rows of activations: on all `cpus` that of the scalar set on one thread.
fn products(
    format: &Format,
    (rows, cols): (usize, usize),
    (m, kind): (usize, usize),
    (scalar, cpus): (&Cpu, &[Cpu]),
    random: &mut Random,
) {
    let bytes = weights(format, rows, cols, kind, random);
    let w = Matrix::new(format.ty, rows, cols, &bytes).unwrap();
    let mut x = activations(m, cols, kind >= 3, random);
    let mut expected = vec![f32::NAN; m * rows];
    scalar.matmul(w, &mut x, &mut expected);
    check_against_f64(format, &bytes, rows, cols, &x, &expected);
    for cpu in cpus {
        let mut y = vec![f32::NAN; m * rows];
        let mut x2 = Activations::default();
        x2.reset(m, cols).copy_from_slice(x.values());
        cpu.matmul(w, &mut x2, &mut y);
        let (bits, threads) = (cpu.activations().bits(), cpu.threads());
        let what = format!("{rows}x{cols} m={m} {bits} bits kind={kind} threads={threads}");
        assert!(same_bits(&y, &expected), "{}/{}/matmul {what}", cpu.isa().name(), format.ty);
    }
}

#[test]
fn where_the_rows_lie_does_not_matter() {
    let mut random = Random(7);
    for format in GgmlType::with_format() {
        let (rows, cols) = (39, 2 * format.ty.block_len().max(16));
        let (row, bytes) = (format.ty.row_bytes(cols).unwrap(), weights(format, rows, cols, 0, &mut random));
        let whole = Matrix::new(format.ty, rows, cols, &bytes).unwrap();
        for cut in [0, 1, 4, 32, 38, rows] {
            let (head, tail) = (bytes[..cut * row].to_vec(), bytes[cut * row..].to_vec());
            let parts = Matrix::in_parts(format.ty, rows, cols, &head, &tail).unwrap();
            for isa in Isa::available() {
                for (m, threads) in [(1, 1), (1, 2), (5, 3)] {
                    let mut x = activations(m, cols, false, &mut random);
                    let (mut y, mut expected) = (vec![f32::NAN; m * rows], vec![f32::NAN; m * rows]);
                    Cpu::new(isa, threads).matmul(whole, &mut x, &mut expected);
                    Cpu::new(isa, threads).matmul(parts, &mut x, &mut y);
                    assert!(same_bits(&y, &expected), "{}/{}/matmul cut at {cut}", isa.name(), format.ty);
                }
            }
            let (mut y, mut expected) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
            for r in [0, cut.saturating_sub(1), cut.min(rows - 1), rows - 1] {
                parts.decode_row(r, &mut y);
                whole.decode_row(r, &mut expected);
                assert!(same_bits(&y, &expected));
            }
            // Half a row, and a row too few.
            assert!(
                Matrix::in_parts(format.ty, rows, cols, &head, &tail[tail.len().min(row)..]).is_none() || cut == rows
            );
            if cut > 0 {
                let (head, tail) = bytes.split_at(cut * row - 1);
                assert!(Matrix::in_parts(format.ty, rows, cols, head, tail).is_none());
            }
        }
    }
}

/// The error a float dot product may have: k roundings of the sum of magnitudes.
fn check_against_f64(format: &Format, bytes: &[u8], rows: usize, cols: usize, x: &Activations, y: &[f32]) {
    let mut w = vec![0.0; rows * cols];
    (format.decode)(bytes, &mut w);
    for c in 0..x.rows() {
        // The product is with the activations that the format sees: after their quantization.
        let xs: Vec<f64> = match x.row(format.activation, c) {
            ActivationRow::F32(row) => row.iter().map(|&v| v as f64).collect(),
            ActivationRow::Q8x32(row) => {
                let code = |i: usize| whole(&row, |row| row.code(i / 32, i % 32));
                (0..cols).map(|i| code(i) * row.high.scales[i / 32] as f64).collect()
            }
            ActivationRow::Q8x256(row) => {
                let code = |i: usize| whole(&row, |row| row.codes[i / 256][i % 256].into());
                (0..cols).map(|i| code(i) * row.high.scales[i / 256] as f64).collect()
            }
        };
        for r in 0..rows {
            let row = &w[r * cols..(r + 1) * cols];
            // Scales and offsets of a block are summed apart: together they may be smaller than either.
            let peak = row.iter().fold(0.0f64, |peak, w| peak.max(w.abs() as f64));
            let apart = if format.ty.block_len() > 1 && format.scales.len() == 2 { 4.0 * peak } else { 0.0 };
            let terms = row.iter().zip(&xs).map(|(w, x)| (*w as f64 * x, (w.abs() as f64 + apart) * x.abs()));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), (t, magnitude)| (sum + t, size + magnitude));
            let bound = (cols as f64 + 4.0) * f64::from(f32::EPSILON) * size + f64::from(f32::MIN_POSITIVE);
            let got = y[c * rows + r] as f64;
            assert!((got - sum).abs() <= bound, "{}: row {r} column {c}: {got} instead of {sum}", format.ty);
        }
    }
}

/// A code of one plane or two.
fn whole<R>(row: &Planes<R>, code: impl Fn(&R) -> i32) -> f64 {
    row.low.as_ref().map_or(code(&row.high), |low| RADIX * code(&row.high) + code(low)).into()
}

/// More columns than go through a panel together, and more rows than a panel has, with a rest of both.
#[test]
fn large_products_are_the_same_bits_everywhere() {
    let mut random = Random(6);
    for format in GgmlType::with_format() {
        let (rows, cols, m) = (70, 512, 523);
        let bytes = weights(format, rows, cols, 0, &mut random);
        let w = Matrix::new(format.ty, rows, cols, &bytes).unwrap();
        let mut x = activations(m, cols, false, &mut random);
        for bits in ActivationBits::ALL {
            let mut expected: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; m * rows];
                Cpu::new(isa, 2).with_activations(bits).matmul(w, &mut x, &mut y);
                let expected = expected.get_or_insert_with(|| y.clone());
                assert!(same_bits(&y, expected), "{}/{} {} bits", isa.name(), format.ty, bits.bits());
            }
        }
    }
}

/// So many rows that there are several groups of panels for a thread, and pieces for whoever comes first.
#[test]
fn tall_products_are_the_same_bits_everywhere() {
    let mut random = Random(7);
    for format in GgmlType::with_format() {
        let (rows, cols) = (1100, 256);
        let bytes = weights(format, rows, cols, 0, &mut random);
        let w = Matrix::new(format.ty, rows, cols, &bytes).unwrap();
        for (m, bits) in [1, 4, 13, 20].into_iter().flat_map(|m| ActivationBits::ALL.map(|bits| (m, bits))) {
            let mut x = activations(m, cols, false, &mut random);
            let mut expected = vec![f32::NAN; m * rows];
            let cpu = |isa, threads| Cpu::new(isa, threads).with_activations(bits);
            cpu(Isa::named("scalar").unwrap(), 1).matmul(w, &mut x, &mut expected);
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; m * rows];
                cpu(isa, 2).matmul(w, &mut x, &mut y);
                assert!(same_bits(&y, &expected), "{}/{} m={m} {} bits", isa.name(), format.ty, bits.bits());
            }
        }
    }
}

/// Types that want the same activations in different forms.
#[test]
fn matrices_together_are_what_each_is_alone() {
    let mut random = Random(8);
    let types = [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::Q8_0, GgmlType::F16, GgmlType::Q4_0];
    let shapes = [300, 70, 1, 260, 64].map(|rows| (rows, 512));
    let all: Vec<Vec<u8>> = std::iter::zip(types, shapes)
        .map(|(ty, (rows, cols))| weights(ty.format().unwrap(), rows, cols, 0, &mut random))
        .collect();
    let ws: [_; 5] = std::array::from_fn(|i| Matrix::new(types[i], shapes[i].0, shapes[i].1, &all[i]).unwrap());
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        for m in [1, 4, 9] {
            let mut x = activations(m, 512, false, &mut random);
            let mut together = shapes.map(|(rows, _)| vec![f32::NAN; m * rows]);
            cpu.matmuls(ws, &mut x, together.each_mut().map(|y| y.as_mut_slice()));
            for (w, y) in std::iter::zip(ws, &together) {
                let mut alone = vec![f32::NAN; y.len()];
                let mut fresh = Activations::default();
                fresh.reset(m, 512).copy_from_slice(x.values());
                cpu.matmul(w, &mut fresh, &mut alone);
                assert!(same_bits(y, &alone), "{} m={m} {} rows", isa.name(), w.rows());
            }
        }
    }
}

#[test]
fn rows_of_the_result_do_not_depend_on_the_batch() {
    let mut random = Random(2);
    for format in GgmlType::with_format() {
        let (rows, cols, m) = (37, 512, 13);
        let bytes = weights(format, rows, cols, 0, &mut random);
        let w = Matrix::new(format.ty, rows, cols, &bytes).unwrap();
        let mut x = activations(m, cols, false, &mut random);
        for (isa, bits) in Isa::available().flat_map(|isa| ActivationBits::ALL.map(|bits| (isa, bits))) {
            let cpu = Cpu::new(isa, 2).with_activations(bits);
            let mut all = vec![f32::NAN; m * rows];
            cpu.matmul(w, &mut x, &mut all);
            for c in 0..m {
                let mut one = Activations::default();
                one.reset(1, cols).copy_from_slice(&x.values()[c * cols..(c + 1) * cols]);
                let mut y = vec![f32::NAN; rows];
                cpu.matmul(w, &mut one, &mut y);
                assert!(same_bits(&y, &all[c * rows..(c + 1) * rows]), "{}/{} column {c}", isa.name(), format.ty);
            }
        }
    }
}

#[test]
fn elementwise_operations_are_the_same_bits_everywhere_and_right() {
    let mut random = Random(3);
    // The last is large enough to be shared out.
    for (rows, d) in [(1, 1), (2, 15), (3, 16), (5, 17), (4, 100), (7, 256), (9, 2048)] {
        let x: Vec<f32> = random.values(rows * d).iter().map(|v| v * 8.0).collect();
        let (y, w) = (random.values(rows * d), random.values(d));
        let mut expected: Option<[Vec<f32>; 4]> = None;
        for isa in Isa::available() {
            for threads in [1, 2, 4] {
                let cpu = Cpu::new(isa, threads);
                let (mut norm, mut glu) = (vec![f32::NAN; rows * d], vec![f32::NAN; rows * d]);
                let mut finite = cpu.rms_norm(&x, &w, 1e-5, &mut norm);
                finite &= cpu.silu_mul(&x, &y, &mut glu);
                let (mut sum, mut biased) = (x.clone(), x.clone());
                finite &= cpu.add(&mut sum, &y, d) && cpu.add_bias(&mut biased, &w);
                let (mut both, mut normed) = (x.clone(), vec![f32::NAN; rows * d]);
                finite &= cpu.add_rms_norm(&mut both, &y, &w, 1e-5, &mut normed);
                let mut again = vec![f32::NAN; rows * d];
                assert!(finite && cpu.rms_norm(&sum, &w, 1e-5, &mut again));
                assert!(same_bits(&both, &sum) && same_bits(&normed, &again), "a sum and its norm in one step");
                assert!(cpu.rms_norm_heads(&mut both, 1, &w, 1e-5) && same_bits(&both, &normed), "in place");
                let got = [norm, glu, sum, biased];
                match &expected {
                    None => {
                        check_elementwise(&x, &y, &w, d, &got);
                        expected = Some(got);
                    }
                    Some(expected) => {
                        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                            assert!(same_bits(got, expected), "{}: operation {i} of {rows}x{d}", isa.name());
                        }
                    }
                }
            }
        }
    }
}

fn check_elementwise(x: &[f32], y: &[f32], w: &[f32], d: usize, got: &[Vec<f32>; 4]) {
    for (i, &v) in x.iter().enumerate() {
        let row = &x[i / d * d..(i / d + 1) * d];
        let mean = row.iter().map(|&v| v as f64 * v as f64).sum::<f64>() / d as f64;
        let close = |got: f32, truth: f64, ulps: f64| {
            let bound = ulps * f64::from(f32::EPSILON) * truth.abs() + 1e-37;
            assert!((got as f64 - truth).abs() <= bound, "{got} instead of {truth}");
        };
        close(got[0][i], v as f64 / (mean + 1e-5).sqrt() * w[i % d] as f64, d as f64 + 4.0);
        close(got[1][i], v as f64 / (1.0 + (-v as f64).exp()) * y[i] as f64, 8.0);
        assert_eq!(got[2][i], v + y[i]);
        assert_eq!(got[3][i], v + w[i % d]);
    }
}

#[test]
fn rotations_are_the_same_bits_everywhere_and_right() {
    let mut random = Random(5);
    let (tokens, heads, head_dim, pairs) = (5, 3, 20, 8);
    let x = random.values(tokens * heads * head_dim);
    let frequencies: Vec<f64> = (0..pairs).map(|i| 500_000f64.powf(-(i as f64) / 10.0)).collect();
    let angle = |position: usize, pair: usize| (position as f64 * frequencies[pair]).sin_cos();
    let single = |position, pair| (angle(position, pair).0 as f32, angle(position, pair).1 as f32);
    for rope in [Rope::Interleaved, Rope::Neox] {
        let mut rotation = Rotation::default();
        rotation.set(rope, (0..tokens).rev().map(|t| t * 1000), pairs, single);
        let mut expected: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut y = x.clone();
            Cpu::new(isa, 2).rope(&mut y, heads, head_dim, &rotation, &[4, 3, 2, 1, 0]);
            for i in 0..x.len() {
                let (token, at) = (i / (heads * head_dim), i % head_dim);
                let (pair, second, apart) = match rope {
                    Rope::Interleaved => (at / 2, at % 2, 1),
                    Rope::Neox => (at % pairs, at / pairs, pairs),
                };
                let truth = if at < 2 * pairs {
                    let (sin, cos) = angle(token * 1000, pair);
                    let (a, b) = (x[i - second * apart] as f64, x[i - second * apart + apart] as f64);
                    if second == 0 { a * cos - b * sin } else { a * sin + b * cos }
                } else {
                    x[i] as f64
                };
                assert!((y[i] as f64 - truth).abs() < 1e-6, "{rope:?}, {i}");
            }
            let expected = expected.get_or_insert_with(|| y.clone());
            assert!(same_bits(&y, expected), "{}", isa.name());
        }
    }
}

/// A scale that is not finite reaches the result of its row, whatever kernel multiplies.
#[test]
fn no_product_swallows_a_bad_scale() {
    let mut random = Random(9);
    for format in GgmlType::with_format() {
        let ty = format.ty;
        let (rows, cols) = (39, 2 * ty.block_len().max(128));
        let bytes = weights(format, rows, cols, 0, &mut random);
        let places = if ty.block_len() > 1 { format.scales.to_vec() } else { vec![ty.block_bytes() - 2] };
        for (at, half) in places.into_iter().flat_map(|at| [(at, [0u8, 0x7e]), (at, [0, 0x7c]), (at, [0, 0xfc])]) {
            let value = match ty {
                GgmlType::F32 | GgmlType::BF16 => [half[0] | 0x80, half[1] | 0x7f],
                _ => half,
            };
            let (mut damaged, row) = (bytes.clone(), 37);
            let block = row * ty.row_bytes(cols).unwrap() + ty.block_bytes();
            damaged[block + at..block + at + 2].copy_from_slice(&value);
            let w = Matrix::new(ty, rows, cols, &damaged).unwrap();
            for isa in Isa::available() {
                for m in [1, 3, 17] {
                    let (mut x, mut y) = (activations(m, cols, false, &mut random), vec![0.0; m * rows]);
                    Cpu::new(isa, 2).matmul(w, &mut x, &mut y);
                    for (i, y) in y.iter().enumerate() {
                        let is_bad = i % rows == row;
                        assert_eq!(!y.is_finite(), is_bad, "{}/{ty} m={m} {value:x?}: row {}", isa.name(), i % rows);
                    }
                }
            }
        }
    }
}

/// Every operation that would lose a number that is not finite says so, on every instruction set.
#[test]
fn operations_notice_what_is_not_finite_everywhere() {
    let mut random = Random(10);
    for isa in Isa::available() {
        for (rows, d, threads) in [(1, 15, 1), (3, 40, 2), (9, 2048, 3)] {
            let cpu = Cpu::new(isa, threads);
            let (x, y, w) = (random.values(rows * d), random.values(rows * d), random.values(d));
            let mut out = vec![0.0; rows * d];
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, d - 1, rows * d / 2, rows * d - 1] {
                    let (mut x2, mut y2, mut w2) = (x.clone(), y.clone(), w.clone());
                    (x2[at], y2[at], w2[at % d]) = (bad, bad, bad);
                    let noticed = [
                        !cpu.rms_norm(&x2, &w, 1e-5, &mut out),
                        !cpu.rms_norm(&x, &w2, 1e-5, &mut out),
                        !cpu.silu_mul(&x2, &y, &mut out),
                        !cpu.silu_mul(&x, &y2, &mut out),
                        !cpu.add(&mut x.clone(), &y2, d),
                        !cpu.add(&mut x2.clone(), &y, d),
                        !cpu.add_bias(&mut x.clone(), &w2),
                        !cpu.add_rms_norm(&mut x.clone(), &y2, &w, 1e-5, &mut out),
                        !cpu.add_rms_norm(&mut x2.clone(), &y, &w, 1e-5, &mut out),
                    ];
                    assert_eq!(noticed, [true; 9], "{} {rows}x{d}: {bad} at {at}", isa.name());
                }
            }
            // Finite numbers whose squares, or products, are not.
            let mut large = x.clone();
            large[0] = 2e19;
            assert!(!cpu.rms_norm(&large, &w, 1e-5, &mut out), "{}", isa.name());
            large[0] = 3e38;
            assert!(!cpu.silu_mul(&large, &large, &mut out), "{}", isa.name());
            assert!(!cpu.add(&mut large.clone(), &large, d), "{}", isa.name());
        }
    }
}

#[test]
fn unknown_instruction_sets_are_refused_by_name() {
    let error = Isa::named("avx1024").unwrap_err();
    assert_eq!(error, IsaError::Unknown("avx1024".into()));
    let text = error.to_string();
    assert!(text.contains("avx1024") && text.contains("scalar"), "{text}");
}
