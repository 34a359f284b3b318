//! Walks formats x instruction sets x shapes x threads: every cell gives the bits of the scalar set, and the scalar set agrees with a
//! naive product in `f64` that shares no code with it. A new format or instruction set is tested with no edit here.

use strata_kernels::{AttentionShape, Cpu, Isa, KvHead, Matrix, Rotation};
use strata_quant::{ActivationKind, Activations, Format, GgmlType};

/// Reproducible numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Roughly normal.
    fn value(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            sum += (self.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Weights as bytes: encoded random values, or raw bytes with extreme codes.
fn weights(format: &Format, rows: usize, cols: usize, kind: usize, random: &mut Random) -> Vec<u8> {
    let ty = format.ty;
    let mut bytes = vec![0; rows * ty.row_bytes(cols).unwrap()];
    let scale = [1.0, 1e-3, 40.0][kind % 3];
    let values: Vec<f32> = random.values(rows * cols).iter().map(|v| v * scale).collect();
    (format.encode)(&values, None, &mut bytes);
    if kind >= 3 && ty.block_len() > 1 {
        // Saturated codes: all ones, all zeros, or the sign bit alone, under the encoded scales.
        let fill = [0xff, 0x00, 0x80][kind - 3];
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            let scales: Vec<_> = halves(ty).iter().map(|&at| [block[at], block[at + 1]]).collect();
            block.fill(fill);
            for (&at, scale) in halves(ty).iter().zip(scales) {
                block[at..at + 2].copy_from_slice(&scale);
            }
        }
    }
    bytes
}

/// Where the half-precision numbers of a block are.
fn halves(ty: GgmlType) -> &'static [usize] {
    use GgmlType::*;
    match ty {
        Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS => &[0],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        other => panic!("where are the scales of {other}?"),
    }
}

fn activations(rows: usize, cols: usize, saturated: bool, random: &mut Random) -> Activations {
    let mut x = Activations::default();
    for v in x.reset(rows, cols) {
        *v = if saturated { if random.bits() & 1 == 0 { 3.0 } else { -3.0 } } else { random.value() };
    }
    x
}

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
        for (rows, cols) in shapes {
            for kind in 0..6 {
                for m in [1, 2, 3, 4, 5, 8, 9, 17] {
                    let bytes = weights(format, rows, cols, kind, &mut random);
                    let w = Matrix::new(format.ty, rows, cols, &bytes).unwrap();
                    let mut x = activations(m, cols, kind >= 3, &mut random);
                    let mut expected = vec![f32::NAN; m * rows];
                    Cpu::new(Isa::named("scalar").unwrap(), 1).matmul(w, &mut x, &mut expected);
                    check_against_f64(format, &bytes, rows, cols, &x, &expected);
                    for isa in Isa::available() {
                        for threads in [1, 3] {
                            let mut y = vec![f32::NAN; m * rows];
                            let mut x2 = Activations::default();
                            x2.reset(m, cols).copy_from_slice(x.values());
                            Cpu::new(isa, threads).matmul(w, &mut x2, &mut y);
                            let name = format!("{}/{}/matmul", isa.name(), format.ty);
                            assert!(
                                same_bits(&y, &expected),
                                "{name} {rows}x{cols} m={m} kind={kind} threads={threads}"
                            );
                        }
                    }
                }
            }
        }
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
        let xs: Vec<f64> = match format.activation {
            ActivationKind::F32 => x.values()[c * cols..(c + 1) * cols].iter().map(|&v| v as f64).collect(),
            ActivationKind::Q8x32 => {
                let row = x.q8x32_row(c);
                (0..cols).map(|i| row.code(i / 32, i % 32) as f64 * row.scales[i / 32] as f64).collect()
            }
            ActivationKind::Q8x256 => {
                let row = x.q8x256_row(c);
                (0..cols).map(|i| row.codes[i / 256][i % 256] as f64 * row.scales[i / 256] as f64).collect()
            }
        };
        for r in 0..rows {
            let row = &w[r * cols..(r + 1) * cols];
            // Scales and offsets of a block are summed apart: together they may be smaller than either.
            let peak = row.iter().fold(0.0f64, |peak, w| peak.max(w.abs() as f64));
            let apart = if format.ty.block_len() > 1 && halves(format.ty).len() == 2 { 4.0 * peak } else { 0.0 };
            let terms = row.iter().zip(&xs).map(|(w, x)| (*w as f64 * x, (w.abs() as f64 + apart) * x.abs()));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), (t, magnitude)| (sum + t, size + magnitude));
            let bound = (cols as f64 + 4.0) * f64::from(f32::EPSILON) * size + f64::from(f32::MIN_POSITIVE);
            let got = y[c * rows + r] as f64;
            assert!((got - sum).abs() <= bound, "{}: row {r} column {c}: {got} instead of {sum}", format.ty);
        }
    }
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
        let mut expected: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; m * rows];
            Cpu::new(isa, 2).matmul(w, &mut x, &mut y);
            let expected = expected.get_or_insert_with(|| y.clone());
            assert!(same_bits(&y, expected), "{}/{}", isa.name(), format.ty);
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
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 2);
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
    for (rows, d) in [(1, 1), (2, 15), (3, 16), (5, 17), (4, 100), (7, 256)] {
        let x: Vec<f32> = random.values(rows * d).iter().map(|v| v * 8.0).collect();
        let (y, w) = (random.values(rows * d), random.values(d));
        let mut expected: Option<[Vec<f32>; 4]> = None;
        for isa in Isa::available() {
            for threads in [1, 2, 4] {
                let cpu = Cpu::new(isa, threads);
                let (mut norm, mut glu) = (vec![f32::NAN; rows * d], vec![f32::NAN; rows * d]);
                cpu.rms_norm(&x, &w, 1e-5, &mut norm);
                cpu.silu_mul(&x, &y, d, &mut glu);
                let (mut sum, mut biased) = (x.clone(), x.clone());
                cpu.add(&mut sum, &y, d);
                cpu.add_bias(&mut biased, &w);
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
fn attention_is_the_same_bits_everywhere_and_right() {
    let mut random = Random(4);
    for (heads, kv_heads, head_dim) in [(1, 1, 16), (4, 2, 64), (8, 1, 100), (6, 6, 2)] {
        for tokens in [1, 2, 300, 513] {
            let shape = AttentionShape { heads, kv_heads, head_dim };
            let dp = shape.padded_dim();
            for ty in [GgmlType::F16, GgmlType::F32] {
                let (format, row) = (ty.format().unwrap(), dp * ty.block_bytes());
                let mut cache = || -> Vec<u8> {
                    let mut cells = vec![0; kv_heads * tokens * row];
                    for cells in cells.chunks_exact_mut(row) {
                        (format.encode)(&random.values(head_dim), None, &mut cells[..head_dim * ty.block_bytes()]);
                    }
                    cells
                };
                let (k, v) = (cache(), cache()); // (kv_heads, tokens, padded_dim)
                let q = random.values(tokens * heads * head_dim);
                let kv = |token: usize, head: usize| {
                    let range = head * tokens * row..(head * tokens + token + 1) * row;
                    KvHead { ty, k: &k[range.clone()], v: &v[range] }
                };
                let mut expected: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    for threads in [1, 3] {
                        let mut out = vec![f32::NAN; q.len()];
                        Cpu::new(isa, threads).attention(shape, &q, kv, &mut out);
                        match &expected {
                            None => {
                                check_attention(shape, &q, kv, &out);
                                expected = Some(out);
                            }
                            Some(expected) => {
                                assert!(same_bits(&out, expected), "{} {heads}/{kv_heads}x{head_dim}", isa.name())
                            }
                        }
                    }
                }
            }
        }
    }
}

fn check_attention<'a>(shape: AttentionShape, q: &[f32], kv: impl Fn(usize, usize) -> KvHead<'a>, out: &[f32]) {
    let (d, dp) = (shape.head_dim, shape.padded_dim());
    let wide = |ty: GgmlType, cells: &[u8]| -> Vec<f64> {
        let mut values = vec![0.0; cells.len() / ty.block_bytes()];
        (ty.format().unwrap().decode)(cells, &mut values);
        values.into_iter().map(f64::from).collect()
    };
    let rows = q.len() / d;
    for i in (0..rows).step_by(rows.div_ceil(40)) {
        let (token, head) = (i / shape.heads, i % shape.heads);
        let kv = kv(token, head / shape.group());
        let (k, v) = (wide(kv.ty, kv.k), wide(kv.ty, kv.v));
        let scores: Vec<f64> = k
            .chunks(dp)
            .map(|k| k.iter().zip(&q[i * d..]).take(d).map(|(k, q)| k * *q as f64).sum::<f64>() / (d as f64).sqrt())
            .collect();
        let peak = scores.iter().cloned().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
        let total: f64 = weights.iter().sum();
        for j in 0..d {
            let truth: f64 = weights.iter().zip(v.chunks(dp)).map(|(w, v)| w * v[j]).sum::<f64>() / total;
            let size: f64 = weights.iter().zip(v.chunks(dp)).map(|(w, v)| (w * v[j]).abs()).sum::<f64>() / total;
            let bound = (scores.len() as f64 + 64.0) * f64::from(f32::EPSILON) * size + 1e-30;
            let got = out[i * d + j] as f64;
            assert!((got - truth).abs() <= bound, "token {token} head {head}: {got} instead of {truth}");
        }
    }
}

#[test]
fn rotations_are_the_same_bits_everywhere_and_right() {
    let mut random = Random(5);
    let (tokens, heads, head_dim, pairs) = (5, 3, 20, 8);
    let x = random.values(tokens * heads * head_dim);
    let frequencies: Vec<f64> = (0..pairs).map(|i| 500_000f64.powf(-(i as f64) / 10.0)).collect();
    let mut rotation = Rotation::default();
    rotation.set((0..tokens).map(|t| t * 1000), &frequencies, f64::sin_cos);
    let mut expected: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        let mut y = x.clone();
        Cpu::new(isa, 2).rope(&mut y, heads, head_dim, &rotation, 0);
        for i in 0..x.len() {
            let (token, at) = (i / (heads * head_dim), i % head_dim);
            let truth = if at / 2 < pairs {
                let (sin, cos) = ((token * 1000) as f64 * frequencies[at / 2]).sin_cos();
                let (even, odd) = (x[i - at % 2] as f64, x[i - at % 2 + 1] as f64);
                if at % 2 == 0 { even * cos - odd * sin } else { even * sin + odd * cos }
            } else {
                x[i] as f64
            };
            assert!((y[i] as f64 - truth).abs() < 1e-6);
        }
        let expected = expected.get_or_insert_with(|| y.clone());
        assert!(same_bits(&y, expected), "{}", isa.name());
    }
}

#[test]
fn unknown_instruction_sets_are_refused_by_name() {
    let error = Isa::named("avx1024").unwrap_err();
    assert!(error.contains("avx1024") && error.contains("scalar"), "{error}");
}
