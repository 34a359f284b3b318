//! Attention and the KV cache: every instruction set gives the bits of the scalar set, which agrees with attention in `f64`.

use crate::kernel_inputs::Random;
use crate::same_bits;
use strata_kernels::{AttentionScratch, AttentionShape, Cpu, Isa, KvEntries, KvLayout, SequenceChunk};
use strata_quant::GgmlType;

/// One sequence to attend to: everything by rows, and the KV cache made of it.
struct Sequence {
    shape: AttentionShape,
    types: (GgmlType, GgmlType),
    layout: KvLayout,
    q: Vec<f32>, // (tokens, heads, head_dim)
    k: Vec<f32>, // (tokens, kv_heads, head_dim)
    v: Vec<f32>, // (tokens, kv_heads, head_dim)
    cache: Vec<u8>,
}

impl Sequence {
    fn new(shape: AttentionShape, types: (GgmlType, GgmlType), tokens: usize, random: &mut Random) -> Sequence {
        let layout = KvLayout::new(types.0, types.1, shape.kv_heads, shape.head_dim).unwrap();
        let width = shape.kv_heads * shape.head_dim;
        let q = random.values(tokens * shape.heads * shape.head_dim);
        let (k, v) = (random.values(tokens * width), random.values(tokens * width));
        let mut sequence = Sequence { shape, types, layout, q, k, v, cache: Vec::new() };
        sequence.cache = sequence.appended(Isa::named("scalar").unwrap(), 1, tokens);
        sequence
    }

    fn tokens(&self) -> usize {
        self.q.len() / (self.shape.heads * self.shape.head_dim)
    }

    /// The KV cache after the tokens were appended in pieces. What was never written is no number, so that reading it shows.
    fn appended(&self, isa: Isa, threads: usize, piece: usize) -> Vec<u8> {
        let cpu = Cpu::new(isa, threads);
        let width = self.shape.kv_heads * self.shape.head_dim;
        let mut cache = vec![0xff; self.layout.bytes(self.tokens() + 1).unwrap()];
        for (i, (k, v)) in self.k.chunks(piece * width).zip(self.v.chunks(piece * width)).enumerate() {
            cpu.append_kv(self.layout, i * piece, k, v, &mut cache);
        }
        cache
    }

    fn queries(&self, tokens: std::ops::Range<usize>) -> &[f32] {
        let width = self.shape.heads * self.shape.head_dim;
        &self.q[tokens.start * width..tokens.end * width]
    }

    fn attended(&self, cpu: &Cpu, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let q = self.queries(tokens.clone());
        let mut out = vec![f32::NAN; q.len()];
        let chunks = [SequenceChunk { sequence: 0, tokens: tokens.len(), position: tokens.start }];
        let entries = |_| KvEntries { layout: self.layout, bytes: &self.cache };
        assert!(cpu.attention(&mut AttentionScratch::default(), self.shape, q, &chunks, entries, &mut out));
        out
    }
}

const CACHES: [(GgmlType, GgmlType); 5] = [
    (GgmlType::F16, GgmlType::F16),
    (GgmlType::F32, GgmlType::F32),
    (GgmlType::Q8_0, GgmlType::Q8_0),
    (GgmlType::F16, GgmlType::Q8_0),
    (GgmlType::Q8_0, GgmlType::F32),
];

#[test]
fn attention_is_the_same_bits_everywhere_and_right() {
    let mut random = Random(4);
    let all = usize::MAX;
    let whole = [(1, 1, 16, all), (8, 2, 64, all), (16, 1, 40, all), (3, 1, 32, all), (6, 6, 2, all), (10, 2, 24, all)];
    let windows = [(3, 1, 32, 1), (8, 2, 64, 100), (4, 2, 24, 256), (16, 1, 40, 300)];
    for (heads, kv_heads, head_dim, window) in whole.into_iter().chain(windows) {
        let shape = AttentionShape { window, ..AttentionShape::new(heads, kv_heads, head_dim) };
        for types in CACHES {
            let sequence = Sequence::new(shape, types, TOKENS, &mut random);
            let expected = sequence.attended(&Cpu::new(Isa::named("scalar").unwrap(), 1), 0..TOKENS);
            check_attention(&sequence, &expected);
            for cpu in Isa::available().flat_map(|isa| [1, 3].map(|threads| Cpu::new(isa, threads))) {
                for (piece, firsts) in PIECES {
                    for &first in *firsts {
                        let width = heads * head_dim;
                        let got = sequence.attended(&cpu, first..first + piece);
                        assert!(
                            same_bits(&got, &expected[first * width..(first + piece) * width]),
                            "{} {types:?} {heads}/{kv_heads}x{head_dim}, {window}: {piece} tokens from {first}, {} threads",
                            cpu.isa().name(),
                            cpu.threads()
                        );
                    }
                }
            }
        }
    }
}

/// Tokens of the sequence: two spans and some.
const TOKENS: usize = 530;
/// How many tokens at a time, and from where: about the ends of tiles of keys, spans and tiles of rows.
const PIECES: &[(usize, &[usize])] = &[
    (1, &[0, 1, 14, 15, 16, 254, 255, 256, 257, 510, 511, 512, 529]),
    (2, &[0, 15, 254, 255, 256]),
    (9, &[0, 250, 521]),
    (70, &[0, 230]),
    (TOKENS, &[0]),
];

#[test]
fn the_kv_cache_does_not_depend_on_who_appends() {
    let mut random = Random(6);
    for types in CACHES {
        for head_dim in [2, 32, 72] {
            let shape = AttentionShape::new(3, 3, head_dim);
            let sequence = Sequence::new(shape, types, 530, &mut random);
            for isa in Isa::available() {
                for (threads, piece) in [(1, 1), (2, 15), (3, 300), (2, 530)] {
                    let what = format!("{} {types:?} x{head_dim}: {piece} at a time, {threads} threads", isa.name());
                    assert!(sequence.appended(isa, threads, piece) == sequence.cache, "{what}");
                }
            }
        }
    }
}

#[test]
fn sequences_in_one_batch_attend_only_to_themselves() {
    let mut random = Random(7);
    let shape = AttentionShape::new(4, 2, 48);
    let sequences = CACHES.map(|types| Sequence::new(shape, types, 300, &mut random));
    let ranges = [250..270, 0..3, 299..300, 0..300, 7..8];
    let mut q = Vec::new();
    for (sequence, tokens) in sequences.iter().zip(&ranges) {
        q.extend_from_slice(sequence.queries(tokens.clone()));
    }
    let chunks: Vec<SequenceChunk> = (ranges.iter().enumerate())
        .map(|(sequence, tokens)| SequenceChunk { sequence, tokens: tokens.len(), position: tokens.start })
        .collect();
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; q.len()];
        let entries = |i: usize| KvEntries { layout: sequences[i].layout, bytes: &sequences[i].cache };
        assert!(Cpu::new(isa, 2).attention(&mut AttentionScratch::default(), shape, &q, &chunks, entries, &mut out));
        let one = Cpu::new(isa, 1);
        let alone =
            sequences.iter().zip(&ranges).flat_map(|(sequence, tokens)| sequence.attended(&one, tokens.clone()));
        assert!(same_bits(&out, &alone.collect::<Vec<_>>()), "{}", isa.name());
    }
}

/// Against the definition of softmax, in `f64`, over the values that the cache's types can hold.
fn check_attention(sequence: &Sequence, out: &[f32]) {
    let Sequence { shape, q, k, v, .. } = sequence;
    let (d, kv_heads) = (shape.head_dim, shape.kv_heads);
    let held = |ty: GgmlType, values: &[f32]| -> Vec<f64> {
        let mut padded = values.to_vec();
        padded.resize(d.next_multiple_of(32), 0.0);
        let (format, mut row) = (ty.format().unwrap(), vec![0; ty.row_bytes(padded.len()).unwrap()]);
        (format.encode)(&padded, None, &mut row);
        (format.decode)(&row, &mut padded);
        padded[..d].iter().map(|&v| v as f64).collect()
    };
    let (k_type, v_type) = sequence.types;
    let k: Vec<Vec<f64>> = k.chunks(d).map(|k| held(k_type, k)).collect(); // (tokens, kv_heads), (head_dim)
    let v: Vec<Vec<f64>> = v.chunks(d).map(|v| held(v_type, v)).collect();
    let rows = q.len() / d;
    for i in (0..rows).step_by(rows.div_ceil(40)) {
        let (token, head) = (i / shape.heads, i % shape.heads);
        let entry = |j: usize| j * kv_heads + head / shape.group();
        let score = |j: usize| -> f64 {
            k[entry(j)].iter().zip(&q[i * d..]).map(|(k, q)| k * *q as f64).sum::<f64>() * shape.scale as f64
        };
        let first = (token + 1).saturating_sub(shape.window);
        let scores: Vec<f64> = (first..=token).map(score).collect();
        let peak = scores.iter().cloned().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
        let total: f64 = weights.iter().sum();
        for c in 0..d {
            let terms = || weights.iter().enumerate().map(|(j, w)| w * v[entry(first + j)][c] / total);
            let (truth, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let bound = (scores.len() as f64 + 64.0) * f64::from(f32::EPSILON) * size + 1e-30;
            let got = out[i * d + c] as f64;
            assert!((got - truth).abs() <= bound, "token {token} head {head}: {got} instead of {truth}");
        }
    }
}

#[test]
fn attention_notices_what_is_not_finite_everywhere() {
    let mut random = Random(11);
    let shape = AttentionShape::new(4, 2, 40);
    let (tokens, width, kv_width) = (270, 4 * 40, 2 * 40);
    for types in CACHES {
        let good = Sequence::new(shape, types, tokens, &mut random);
        let chunks = [SequenceChunk { sequence: 0, tokens, position: 0 }];
        for isa in Isa::available() {
            // The last is too large for half precision, and only for that.
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 7e4] {
                for (token, threads) in [(0, 1), (17, 2), (269, 3)] {
                    let places = [token * width + 59, token * kv_width + 41, token * kv_width + 79];
                    for (i, ty) in [GgmlType::F32, types.0, types.1].into_iter().enumerate() {
                        let mut all = [&good.q, &good.k, &good.v].map(Vec::clone);
                        all[i][places[i]] = bad;
                        let [q, k, v] = all;
                        let cpu = Cpu::new(isa, threads);
                        let mut cache = vec![0xff; good.layout.bytes(tokens).unwrap()];
                        cpu.append_kv(good.layout, 0, &k, &v, &mut cache);
                        let entries = |_| KvEntries { layout: good.layout, bytes: &cache };
                        let mut out = vec![0.0; q.len()];
                        let finite =
                            cpu.attention(&mut AttentionScratch::default(), shape, &q, &chunks, entries, &mut out);
                        let wanted = bad.is_finite() && ty != GgmlType::F16;
                        let what = format!("{bad} in {} of token {token}", ["q", "k", "v"][i]);
                        assert_eq!(finite, wanted, "{} {types:?}: {what}", isa.name());
                    }
                }
            }
        }
    }
}
