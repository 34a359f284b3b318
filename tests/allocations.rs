//! A pass of a shape that has been seen before allocates nothing: decoding is thousands of short steps, and a page fault costs as much as
//! one of them.

mod common;

use common::{mix, model_file, open};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use strata::model::{CacheTypes, KvCache, Scratch, Segment};
use strata::progress::Quiet;
use strata::{GgmlType, Isa};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, because the count is of the whole process.
#[test]
fn a_pass_like_one_before_allocates_nothing() {
    let (_dir, path) = model_file(mix("Q4_K_M"));
    for threads in [1, 2] {
        let model = open(&path, Isa::best(), threads);
        for types in [CacheTypes::default(), CacheTypes { k: GgmlType::Q8_0, v: GgmlType::F32 }] {
            let mut cache = KvCache::with_types(model.hyperparameters(), 300, types).unwrap();
            let mut scratch = Scratch::default();
            let mut pass = |tokens: &[u32]| {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                let mut hidden =
                    model.pass(&mut scratch, &mut [Segment { tokens, cache: &mut cache }], &Quiet).unwrap();
                std::hint::black_box(hidden.logits(tokens.len() - 1..tokens.len(), &Quiet).unwrap());
                ALLOCATIONS.load(Ordering::Relaxed) - before
            };
            assert!(pass(&[3840; 250]) > 0, "the count counts");
            pass(&[17]);
            for depth in 251..255 {
                assert_eq!(pass(&[17]), 0, "{threads} threads, a token at {depth}");
            }
            // What the second span needs; then no more.
            for _ in 255..258 {
                pass(&[17]);
            }
            for depth in 258..270 {
                assert_eq!(pass(&[17]), 0, "{threads} threads, a token at {depth}");
            }
            pass(&[1, 2, 3, 4]);
            assert_eq!(pass(&[5, 6, 7, 8]), 0, "{threads} threads, four tokens");
            pass(&[9; 9]);
            assert_eq!(pass(&[9; 9]), 0, "{threads} threads, nine tokens");
        }
    }
}
