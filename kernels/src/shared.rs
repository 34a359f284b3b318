//! A slice that several threads write at the same time, each its own ranges of it.

use std::marker::PhantomData;
use std::ops::Range;

/// Hands out ranges of a slice to threads.
pub struct SharedSlice<'a, T> {
    base: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: `SharedSlice` gives access only through `range`, whose caller promises that ranges do not overlap.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// All of `slice`.
    pub fn new(slice: &'a mut [T]) -> SharedSlice<'a, T> {
        SharedSlice { base: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// One range.
    ///
    /// # Safety
    /// Ranges in use at the same time must not overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: no CPU feature; the range is inside the slice by the assertion, and nobody else has any of it by the promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }
}
