//! Attention at depth: GB/s of keys and values for one token, their share of what plain reading of the same bytes takes, and
//! multiply-adds a second for a prompt's sub-batch.
//!
//! `cargo bench -p strata-kernels --bench attention [--shape 8b|1b|405b] [--threads N] [--isa NAME] [--depths N,N] [--prompt N] [--mb N]`;
//! medians of alternating runs. The KV cache of so many layers is walked that no entry is still in a processor cache.

use std::hint::black_box;
use std::time::Instant;
use strata_kernels::{AttentionScratch, AttentionShape, Cpu, Isa, KvEntries, KvLayout, SequenceChunk};
use strata_quant::GgmlType;

const MB: usize = 1024;
const RUNS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    let number = |name: &str, default: usize| option(name).map_or(default, |n| n.parse().expect("a number"));
    let threads = number("--threads", 2);
    let prompt = number("--prompt", 512);
    let depths = option("--depths").unwrap_or("1024,4096,16384".into());
    let depths: Vec<usize> = depths.split(',').map(|n| n.parse().expect("numbers")).collect();
    let (heads, kv_heads, head_dim) = match option("--shape").as_deref() {
        None | Some("8b") => (32, 8, 128),
        Some("1b") => (32, 8, 64),
        Some("405b") => (128, 8, 128),
        Some(other) => panic!("no shape {other}"),
    };
    let shape = AttentionShape::new(heads, kv_heads, head_dim);
    let isas: Vec<Isa> = match option("--isa") {
        Some(name) => vec![Isa::named(&name).expect("an instruction set of this machine")],
        None => Isa::available().filter(|isa| isa.name() != "scalar").collect(),
    };
    let cpus: Vec<Cpu> = isas.iter().map(|&isa| Cpu::new(isa, threads)).collect();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    println!("{threads} threads, {heads} heads on {kv_heads} of {head_dim}");
    println!("one token: GB/s, share of reading; {prompt} tokens: G multiply-adds/s");
    let bench = Bench { cpus, shape, prompt, bytes: number("--mb", MB) << 20 };
    for ty in [GgmlType::F16, GgmlType::Q8_0] {
        depths.iter().for_each(|&depth| bench.run(ty, depth, &mut random));
    }
}

struct Bench {
    cpus: Vec<Cpu>,
    shape: AttentionShape,
    prompt: usize,
    bytes: usize, // of KV cache that are walked
}

impl Bench {
    /// Measures and prints a line.
    fn run(&self, ty: GgmlType, depth: usize, random: &mut impl FnMut() -> f32) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (layout, prompt) = (KvLayout::new(ty, ty, kv_heads, head_dim).expect("a type for caches"), self.prompt);
        let bytes = layout.bytes(depth).expect("no overflow");
        let rows: Vec<f32> = (0..depth * kv_heads * head_dim).map(|_| random()).collect();
        let mut one = vec![0; bytes];
        self.cpus[0].append_kv(layout, 0, &rows, &rows, &mut one);
        let layers = one.repeat(self.bytes.div_ceil(bytes));
        let q: Vec<f32> = (0..prompt.max(1) * heads * head_dim).map(|_| random()).collect();
        let mut out = vec![0.0; q.len()];
        let mut scratch = AttentionScratch::default();
        // Seconds for `tokens` at the end of each of the layers.
        let mut attend = |cpu: &Cpu, tokens: usize, layers: &[u8]| {
            let n = tokens * heads * head_dim;
            let chunks = [SequenceChunk { sequence: 0, tokens, position: depth - tokens }];
            let start = Instant::now();
            for layer in layers.chunks_exact(bytes) {
                let entries = |_| KvEntries { layout, bytes: layer };
                assert!(cpu.attention(&mut scratch, self.shape, &q[..n], &chunks, entries, &mut out[..n]));
                black_box(&out);
            }
            start.elapsed().as_secs_f64()
        };
        let mut limits = Vec::new();
        let mut times = vec![Vec::new(); self.cpus.len()];
        let mut prompts = vec![Vec::new(); self.cpus.len()];
        for _ in 0..RUNS {
            limits.push(read(&layers, self.cpus[0].threads()));
            for (i, cpu) in self.cpus.iter().enumerate() {
                times[i].push(attend(cpu, 1, &layers));
                if prompt > 0 && prompt <= depth {
                    prompts[i].push(attend(cpu, prompt, &layers[..bytes]));
                }
            }
        }
        let (limit, walked) = (median(&mut limits), layers.len() as f64);
        print!("{:5} {depth:6}  read {:5.1}", ty.name(), walked / limit / 1e9);
        for (i, cpu) in self.cpus.iter().enumerate() {
            let time = median(&mut times[i]);
            print!("  {} {:5.1} {:3.0} %", cpu.isa().name(), walked / time / 1e9, 100.0 * limit / time);
            if !prompts[i].is_empty() {
                let visible = prompt * depth - prompt * (prompt - 1) / 2;
                let macs = 2 * visible * heads * head_dim;
                print!(" {:5.1} G", macs as f64 / median(&mut prompts[i]) / 1e9);
            }
        }
        println!();
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
