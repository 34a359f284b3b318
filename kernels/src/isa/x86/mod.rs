//! What the x86 sets share: four numbers in a register, prefetching, and GEMM in vectors of eight lanes.

pub mod gemm;

use super::gemv::Acc;
use std::arch::x86_64::*;

/// Bytes between those being read and those being prefetched. Measured on a Xeon with AVX-512 (2026-11-24), Q4_K on two threads, GB/s: 24.8
/// without, 30.2 at 512, 31.4 at 1024, 31.9 at 2048; with a second prefetch into the second cache, 4 to 16 KiB ahead, 30.4 to 30.6. (Four
/// rows that are neighbours: 17.7.)
const PREFETCH: usize = 2048;

impl Acc for __m128 {
    #[inline(always)]
    fn zero() -> __m128 {
        // SAFETY: every x86-64 processor has SSE; registers only.
        unsafe { _mm_setzero_ps() }
    }
    #[inline(always)]
    fn values(self) -> [f32; 4] {
        let mut values = [0.0; 4];
        // SAFETY: every x86-64 processor has SSE; `values` has the four that are written.
        unsafe { _mm_storeu_ps(values.as_mut_ptr(), self) };
        values
    }
    /// Into the first cache, [`PREFETCH`] bytes on in each row. The hardware's own prefetchers bring the lines from memory to the second
    /// cache, since each of the four rows goes on in the row that is next; what they do not do is hide the way from there.
    #[inline(always)]
    fn prefetch<const N: usize>(rows: [&[u8]; 4], i: usize) {
        for row in rows {
            let at = row.as_ptr().wrapping_add(i * N + PREFETCH);
            for line in (0..N).step_by(64) {
                // SAFETY: SSE is part of x86-64; a prefetch reads nothing and may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast()) };
            }
        }
    }
}
