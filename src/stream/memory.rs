//! Memory that reads write to: allocated once, in huge pages where the system has them, aligned for direct requests.
//!
//! A [`Buffer`] is written through [`Target`]s, which carve it into disjoint pieces and may go to other threads or to the kernel; its
//! bytes can be seen only when no target is left. A target that is never given back (a request to a disk that stalls) keeps its memory
//! alive for ever: nothing can be written to memory that somebody else has meanwhile.

// The reader's share of unsafe code: memory that the kernel fills.
#![allow(unsafe_code)]

use crate::error::{Allocation, Error, Result};
use crate::io::direct::ALIGN;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The size of a huge page on most systems. Large buffers are whole ones: what that takes more is little, and a mapping of whole ones is
/// aligned to them.
const HUGE: usize = 2 << 20;

/// A mapping of anonymous memory.
struct Region {
    map: memmap2::MmapMut,
    base: *mut u8,
}

// SAFETY: the memory behind `base` is that of `map`, which lives as long as the region; who may write and who may read it is settled by
// `Buffer` (disjoint targets while there are any, shared views only while there are none).
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Memory for reads.
pub struct Buffer(Arc<Region>);

/// A piece of a [`Buffer`] that one read fills.
pub struct Target {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Buffer {
    /// Allocates at least `bytes` bytes of zeros, at least one.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(bytes: usize) -> Result<Buffer> {
        let no_memory = |_| Error::OutOfMemory { what: Allocation::Weights, bytes: bytes as u64 };
        let len = bytes.max(1).next_multiple_of(if bytes < 32 * HUGE { ALIGN } else { HUGE });
        let mut map = memmap2::MmapMut::map_anon(len).map_err(no_memory)?;
        // A wish: small pages do as well, a little slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let base = map.as_mut_ptr();
        Ok(Buffer(Arc::new(Region { map, base })))
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.0.map.len()
    }

    /// Cuts out targets for reads: ranges in ascending order that do not overlap.
    ///
    /// # Panics
    /// If they overlap or exceed the buffer, or targets of an earlier call are left.
    pub fn carve(&mut self, ranges: impl Iterator<Item = Range<usize>>) -> Vec<Target> {
        assert!(Arc::get_mut(&mut self.0).is_some(), "the buffer is still being written");
        let mut free = 0;
        let cut = |range: Range<usize>| {
            assert!(free <= range.start && range.start <= range.end && range.end <= self.size(), "pieces overlap");
            free = range.end;
            Target { region: self.0.clone(), range }
        };
        ranges.map(cut).collect()
    }

    /// Releases the whole pages in `range` to the system. Their bytes are zeros from now on.
    ///
    /// # Panics
    /// If targets are left.
    pub fn release(&mut self, range: Range<usize>) {
        assert!(Arc::get_mut(&mut self.0).is_some(), "the buffer is still being written");
        let (start, end) = (range.start.next_multiple_of(ALIGN), range.end.min(self.size()) / ALIGN * ALIGN);
        #[cfg(target_os = "linux")]
        if start < end {
            // SAFETY: no CPU feature; `&mut self` and no target: nobody has a view of the bytes while they change. The range is inside
            // the map (memmap2 checks it), whose memory is private and anonymous: what is given back reads as zeros.
            let _ =
                unsafe { self.0.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (start, end);
    }

    /// Its bytes.
    ///
    /// # Panics
    /// If targets are left.
    pub fn bytes(&self) -> &[u8] {
        assert!(Arc::strong_count(&self.0) == 1, "the buffer is still being written");
        // Pairs with the release of the last target, on whichever thread that was.
        fence(Ordering::Acquire);
        // SAFETY: no CPU feature; the region is `len` bytes, initialized by the kernel. There is no target, and `carve`, which alone
        // makes them, wants `&mut self`, so nobody writes while the slice lives.
        unsafe { std::slice::from_raw_parts(self.0.base, self.size()) }
    }
}

impl Target {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Its bytes, to be written.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: no CPU feature; the range is inside the region and apart from that of every other target (`carve`), and the buffer
        // gives no view while this target lives.
        unsafe { std::slice::from_raw_parts_mut(self.region.base.add(self.range.start), self.range.len()) }
    }

    /// Skips the first `n` bytes, which are written.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len());
        self.range.start += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_written_apart_and_seen_together() {
        let mut buffer = Buffer::new(10_000).unwrap();
        assert_eq!(buffer.size(), 12_288);
        assert!(buffer.bytes().as_ptr().addr().is_multiple_of(ALIGN));
        let targets = buffer.carve([0..4096, 4096..8192, 9000..9001].into_iter());
        let write = |(i, mut target): (usize, Target)| {
            std::thread::spawn(move || {
                target.bytes().fill(i as u8 + 1);
                target.advance(target.len());
                assert!(target.is_empty());
            })
        };
        targets.into_iter().enumerate().map(write).for_each(|thread| thread.join().unwrap());
        let count = |value| buffer.bytes().iter().filter(|&&b| b == value).count();
        assert_eq!([1, 2, 3, 0].map(count), [4096, 4096, 1, 12_288 - 8193]);
    }

    #[test]
    fn what_is_given_back_is_zeros_and_nothing_else_is() {
        let mut buffer = Buffer::new(5 * ALIGN).unwrap();
        let mut targets = buffer.carve(std::iter::once(0..5 * ALIGN));
        targets[0].bytes().fill(7);
        drop(targets);
        buffer.release(ALIGN - 1..3 * ALIGN + 1);
        let zeros = if cfg!(target_os = "linux") { 2 * ALIGN } else { 0 };
        assert_eq!(buffer.bytes().iter().filter(|&&b| b == 0).count(), zeros);
        assert!(buffer.bytes()[..ALIGN].iter().chain(&buffer.bytes()[3 * ALIGN..]).all(|&b| b == 7));
    }

    #[test]
    #[should_panic(expected = "still being written")]
    fn what_is_being_written_is_not_seen() {
        let mut buffer = Buffer::new(1).unwrap();
        let _target = buffer.carve(std::iter::once(0..1));
        buffer.bytes();
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn pieces_do_not_overlap() {
        let _ = Buffer::new(100).unwrap().carve([0..10, 9..20].into_iter());
    }
}
