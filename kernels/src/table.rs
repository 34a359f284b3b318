//! The table of function pointers: one for each instruction set, no cell ever empty.

use crate::attention::{CellOps, Part, Rows};
use crate::matmul::{Job, Out};
use strata_quant::activations::FormBuffers;
use strata_quant::{Activations, GgmlType};

/// A matrix product over the job's rows.
///
/// # Safety
/// The processor has the instruction set whose table the function is in.
pub type Matmul = unsafe fn(Job<'_>, &Activations, Out<'_>);

/// [`strata_quant::encode`], compiled for an instruction set.
///
/// # Safety
/// The processor has the instruction set whose table the function is in.
pub type Encode = unsafe fn(GgmlType, &[f32], Option<&[f32]>, &mut [u8]);

/// Products over many columns: see `isa/wide`.
#[derive(Clone, Copy)]
pub struct Wide {
    /// Columns of a tile where there are so many in all: the order in which the activations must lie.
    pub width: fn(usize) -> usize,
    /// Rows of a panel: rows are shared out in multiples of it.
    pub rows: usize,
    /// Bytes that each thread keeps for results.
    pub room: usize,
    /// The columns from which on expanding a panel of weights of a format pays.
    pub from: fn(GgmlType) -> usize,
    /// Products by weight format, and what the activations must have too much; `None` for formats that have no panels.
    pub product: fn(GgmlType) -> Option<(Matmul, u8)>,
}

/// What an instruction set can do. Every function is unsafe to call without that instruction set, and only for that reason. Those that
/// return a `bool` say whether all numbers were finite.
pub struct Table {
    /// Products by weight format; [`crate::matmul::by_dot`] for formats with no kernel of their own.
    pub matmul: fn(GgmlType) -> Matmul,
    /// Products over many columns, where the set has its own.
    pub wide: Option<Wide>,
    /// Encodes a row of weights: [`strata_quant::encode`].
    pub encode: Encode,
    /// Fills the 8-bit form of activations.
    pub quantize: unsafe fn(FormBuffers<'_>),
    /// See `norm.rs`.
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]) -> bool,
    /// See `glu.rs`.
    pub silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]) -> bool,
    /// See `glu.rs`.
    pub add: unsafe fn(&mut [f32], &[f32]) -> bool,
    /// See `rope.rs`.
    pub rope: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    /// What attention does with cells of a type; see `attention/span.rs`.
    pub cells: fn(GgmlType) -> &'static CellOps,
    /// See `attention/span.rs`.
    pub softmax: unsafe fn(Rows, &mut [f32], &mut [f32], &mut [f32]) -> bool,
    /// See `attention/span.rs`.
    pub join: unsafe fn(Rows, &Part<'_>, &mut Part<'_>),
    /// See `attention/span.rs`.
    pub divide: unsafe fn(&[f32], f32, &mut [f32]) -> bool,
    /// See `limits.rs`.
    pub read: unsafe fn(&[u8]) -> u64,
    /// That many rounds of the set's 8-bit multiply-adds on registers; returns the products. See `limits.rs`.
    pub multiply_add: unsafe fn(usize) -> u64,
}

/// Compiles what is written once for all instruction sets for one of them: functions in which the compiler may use its instructions,
/// and a `BASE` table of them. `$token` is an expression for the token, valid inside such functions; `$r, $c` is the tile of plain
/// products, `4 x $n` that of attention; `$matmul` names the set's own products, `$wide` those over many columns, `$peak` its fastest
/// multiply-adds.
macro_rules! instantiate {
    ($token:expr, $(#[$feature:meta],)? $r:literal x $c:literal, $n:literal, $matmul:path, $wide:expr, $peak:path) => {
        mod instances {
            use super::*;
            use crate::attention::{CellOps, Part, Rows, cells, span};
            use crate::floats::{Bf16, F16, F32};
            use crate::matmul::{Job, Out};
            use crate::table::{Matmul, Table};
            use strata_quant::activations::FormBuffers;
            use strata_quant::{Activations, GgmlType};

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
            fn quantize(buffers: FormBuffers<'_>) {
                buffers.fill()
            }
            $(#[$feature])?
            fn rms_norm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> bool {
                crate::norm::rms_norm($token, x, w, eps, y)
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
            fn softmax(rows: Rows, scores: &mut [f32], peaks: &mut [f32], sums: &mut [f32]) -> bool {
                span::softmax($token, rows, scores, peaks, sums)
            }
            $(#[$feature])?
            fn join(rows: Rows, part: &Part<'_>, all: &mut Part<'_>) {
                span::join($token, rows, part, all)
            }
            $(#[$feature])?
            fn divide(x: &[f32], by: f32, out: &mut [f32]) -> bool {
                span::divide($token, x, by, out)
            }
            $crate::table::cells!($token, $(#[$feature],)? $n, f32_cells, cells::F32);
            $crate::table::cells!($token, $(#[$feature],)? $n, f16_cells, cells::F16);
            $crate::table::cells!($token, $(#[$feature],)? $n, q8_0_cells, cells::Q8_0);

            fn cells(ty: GgmlType) -> &'static CellOps {
                match ty {
                    GgmlType::F32 => &f32_cells::OPS,
                    GgmlType::F16 => &f16_cells::OPS,
                    GgmlType::Q8_0 => &q8_0_cells::OPS,
                    other => panic!("there are no cells of {other}"),
                }
            }
            $(#[$feature])?
            fn read(data: &[u8]) -> u64 {
                crate::limits::read(data)
            }

            fn matmul(ty: GgmlType) -> Matmul {
                match ty {
                    GgmlType::F32 => matmul_f32,
                    GgmlType::F16 => matmul_f16,
                    GgmlType::BF16 => matmul_bf16,
                    other => $matmul(other).unwrap_or(crate::matmul::by_dot),
                }
            }

            pub static TABLE: Table = Table {
                matmul,
                wide: $wide,
                encode,
                quantize,
                rms_norm,
                silu_mul,
                add,
                rope,
                cells,
                softmax,
                join,
                divide,
                read,
                multiply_add: $peak,
            };
        }
        pub use instances::TABLE;
    };
}
pub(crate) use instantiate;

/// What attention does with cells of one type, for [`instantiate`].
macro_rules! cells {
    ($token:expr, $(#[$feature:meta],)? $n:literal, $name:ident, $cells:path) => {
        mod $name {
            use super::*;
            use crate::attention::{CellOps, Scores, Weighted, span};

            $(#[$feature])?
            fn scores(job: Scores<'_>) {
                span::scores::<_, $cells, $n>($token, job)
            }
            $(#[$feature])?
            fn weigh(job: Weighted<'_>) {
                span::weigh::<_, $cells, $n>($token, job)
            }
            $(#[$feature])?
            fn widen_keys(keys: &[u8], d: usize, out: &mut [u8]) {
                span::widen_keys::<_, $cells>($token, keys, d, out)
            }
            $(#[$feature])?
            fn widen_values(values: &[u8], width: usize, out: &mut [u8]) {
                span::widen_values::<_, $cells>($token, values, width, out)
            }

            pub static OPS: CellOps = CellOps { scores, weigh, widen_keys, widen_values };
        }
    };
}
pub(crate) use cells;
