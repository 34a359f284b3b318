//! What the two x86 sets share: four numbers in a register, prefetching, and the small integer scales of the K formats.

pub mod scales;

use super::walk::Acc;
use std::arch::x86_64::*;

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
    /// The hardware's own prefetchers follow too few lines ahead of this much arithmetic: half the speed is lost without it. Far ahead,
    /// two times four rows on, into the second cache, in the order of the file; near, three steps on in each row, into the first.
    #[inline(always)]
    fn prefetch<const N: usize>(rows: [&[u8]; 4], i: usize) {
        let far = rows[0].as_ptr().wrapping_add(8 * rows[0].len() + 4 * i * N);
        for line in (0..4 * N).step_by(64) {
            // SAFETY: SSE is part of x86-64; a prefetch reads nothing and may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(far.wrapping_add(line).cast()) };
        }
        for row in rows {
            let near = row.as_ptr().wrapping_add((i + 3) * N);
            for line in (0..N).step_by(64) {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(near.wrapping_add(line).cast()) };
            }
        }
    }
}
