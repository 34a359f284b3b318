//! What is written once for all instruction sets, compiled for one of them.

/// Compiles what is written once for all instruction sets for one of them: functions in which the compiler may use its instructions,
/// and a `TABLE` of them. `$token` is an expression for the token, valid inside such functions; `$r, $c` is the tile of plain products,
/// `4 x $n` that of attention; `$gemv` are lists of the set's own kernels, `$gemm` those over panels, `$peak` its fastest multiply-adds.
macro_rules! instantiate {
    ($token:expr, $(#[$feature:meta],)? $r:literal x $c:literal, $n:literal, [$($gemv:expr),*], $gemm:expr, $peak:path) => {
        mod instances {
            use super::*;
            use crate::attention::{kv, span};
            use crate::floats::{Bf16, F16, F32};
            use crate::isa::instantiate::kv_kernels;
            use crate::jobs::{KvKernels, PartialSoftmax, QueryRows};
            use crate::matmul::{Job, Out};
            use crate::table::{Matmul, Table};
            use strata_quant::activations::FormBuffers;
            use strata_quant::{Activations, Codec, GgmlType, GroupMetric, GroupRows};

            $(#[$feature])?
            fn matmul_f32(job: Job<'_>, x: &Activations, out: Out<'_>) {
                crate::floats::matmul::<_, F32, $r, $c>($token, job, x, out)
            }
            $(#[$feature])?
            fn matmul_f16(job: Job<'_>, x: &Activations, out: Out<'_>) {
                crate::floats::matmul::<_, F16, $r, $c>($token, job, x, out)
            }
            $(#[$feature])?
            fn matmul_bf16(job: Job<'_>, x: &Activations, out: Out<'_>) {
                crate::floats::matmul::<_, Bf16, $r, $c>($token, job, x, out)
            }
            $(#[$feature])?
            fn encode(ty: GgmlType, values: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
                strata_quant::encode($token, ty, values, importance, blocks)
            }
            $(#[$feature])?
            fn round_given(codec: &Codec, group: usize, metric: &GroupMetric, rows: GroupRows<'_>) {
                strata_quant::round_given($token, codec, group, metric, rows)
            }
            $(#[$feature])?
            fn quantize(buffers: FormBuffers<'_>) {
                buffers.fill()
            }
            $(#[$feature])?
            fn rms_norm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> bool {
                crate::norm::rms_norm($token, x, w, eps, y)
            }
            $(#[$feature])?
            fn rms_norm_heads(x: &mut [f32], w: &[f32], eps: f32) -> bool {
                crate::norm::rms_norm_heads($token, x, w, eps)
            }
            $(#[$feature])?
            fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) -> bool {
                crate::glu::silu_mul($token, gate, up, out)
            }
            $(#[$feature])?
            fn add(x: &mut [f32], y: &[f32]) -> bool {
                crate::glu::add($token, x, y)
            }
            $(#[$feature])?
            fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
                crate::rope::rope(x, head_dim, cos, sin)
            }
            $(#[$feature])?
            fn rope_neox(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
                crate::rope::rope_neox(x, head_dim, cos, sin)
            }
            $(#[$feature])?
            fn softmax(rows: QueryRows, scores: &mut [f32], peaks: &mut [f32], sums: &mut [f32]) -> bool {
                span::softmax($token, rows, scores, peaks, sums)
            }
            $(#[$feature])?
            fn merge(rows: QueryRows, part: &PartialSoftmax<'_>, all: &mut PartialSoftmax<'_>) {
                span::merge($token, rows, part, all)
            }
            $(#[$feature])?
            fn divide(x: &[f32], by: f32, out: &mut [f32]) -> bool {
                span::divide($token, x, by, out)
            }
            kv_kernels!($token, $(#[$feature],)? $n, kv_f32, kv::F32);
            kv_kernels!($token, $(#[$feature],)? $n, kv_f16, kv::F16);
            kv_kernels!($token, $(#[$feature],)? $n, kv_q8_0, kv::Q8_0);

            fn kv(ty: GgmlType) -> &'static KvKernels {
                match ty {
                    GgmlType::F32 => &kv_f32::KERNELS,
                    GgmlType::F16 => &kv_f16::KERNELS,
                    GgmlType::Q8_0 => &kv_q8_0::KERNELS,
                    other => panic!("no KV cache is kept in {other}: `KvLayout::new` refuses it"),
                }
            }
            $(#[$feature])?
            fn exponentials(z: &[f32], max: f32, weights: &mut [f64]) -> f64 {
                crate::divergence::exponentials(z, max, weights)
            }
            $(#[$feature])?
            fn weighted_difference(weights: &[f64], b: &[f32], c: &[f32]) -> f64 {
                crate::divergence::weighted_difference(weights, b, c)
            }
            $(#[$feature])?
            fn read(data: &[u8]) -> u64 {
                crate::limits::read(data)
            }

            const FLOATS: &[(GgmlType, Matmul)] =
                &[(GgmlType::F32, matmul_f32), (GgmlType::F16, matmul_f16), (GgmlType::BF16, matmul_bf16)];

            pub static TABLE: Table = Table {
                gemv: &[FLOATS, $($gemv),*],
                gemm: $gemm,
                encode,
                round_given,
                quantize,
                rms_norm,
                rms_norm_heads,
                silu_mul,
                add,
                rope,
                rope_neox,
                kv,
                softmax,
                merge,
                divide,
                exponentials,
                weighted_difference,
                read,
                multiply_add: $peak,
            };
        }
        pub use instances::TABLE;
    };
}
pub(crate) use instantiate;

/// Attention over KV cache entries of one type, for [`instantiate`].
macro_rules! kv_kernels {
    ($token:expr, $(#[$feature:meta],)? $n:literal, $name:ident, $Entries:path) => {
        mod $name {
            use super::*;
            use crate::attention::span;
            use crate::jobs::{KvKernels, Scores, WeightedSum};

            $(#[$feature])?
            fn scores(job: Scores<'_>) {
                span::scores::<_, $Entries, $n>($token, job)
            }
            $(#[$feature])?
            fn weighted_sum(job: WeightedSum<'_>) {
                span::weighted_sum::<_, $Entries, $n>($token, job)
            }
            $(#[$feature])?
            fn widen_keys(keys: &[u8], d: usize, out: &mut [u8]) {
                span::widen_keys::<_, $Entries>($token, keys, d, out)
            }
            $(#[$feature])?
            fn widen_values(values: &[u8], width: usize, out: &mut [u8]) {
                span::widen_values::<_, $Entries>($token, values, width, out)
            }

            pub static KERNELS: KvKernels = KvKernels { scores, weighted_sum, widen_keys, widen_values };
        }
    };
}
pub(crate) use kv_kernels;
