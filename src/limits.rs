//! Limits that the system sets for this process, and how Strata keeps away from those that would end it.

use memmap2::MmapMut;
use std::fs;
use std::io;

/// Address space that is left for small things, which cannot say that they found none: Rust ends a program then.
const SPARE: usize = 32 << 20;

/// The stack of a thread in bytes, whatever the environment says (`RUST_MIN_STACK`): Rust's own default.
pub(crate) const STACK: usize = 2 << 20;

/// Address space that glibc's `malloc` reserves for a thread, in at most eight arenas for each processor.
const ARENA: u64 = 64 << 20;
const ARENAS: u64 = 8;

/// An error if the address space has no room (`ulimit -v`) for `bytes` and for small things beside: an allocation may end the program then.
///
/// # Errors
/// That of the system.
pub fn spare(bytes: u64) -> io::Result<()> {
    let bytes = usize::try_from(bytes).ok().and_then(|bytes| bytes.checked_add(SPARE));
    MmapMut::map_anon(bytes.ok_or(io::ErrorKind::OutOfMemory)?).map(drop)
}

/// Where address space is limited, has the allocator take some for later: the arenas of threads may reserve all the rest, and then the
/// next small allocation would end the program.
pub fn stock_up() {
    const PIECE: usize = 64 << 10; // no mapping of its own, which would be given back
    if address_space().is_none() {
        return;
    }
    let piece = |_| {
        let mut piece = Vec::<u8>::new();
        piece.try_reserve_exact(PIECE).ok().map(|()| piece)
    };
    let mut pieces: Vec<Vec<u8>> = (0..SPARE / PIECE).map_while(piece).collect();
    // The last one lies above the others, which stay with the allocator.
    std::mem::forget(pieces.pop());
}

/// Of `threads` as many as may be started, at least one: they take half of the address space that is left.
pub fn threads(threads: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let room = address_space().map_or(usize::MAX, |left| affordable(left / 2, ARENAS * processors) as usize);
    threads.min(room).max(1)
}

/// Threads that fit into so many bytes of address space, where so many of them get an arena.
fn affordable(bytes: u64, arenas: u64) -> u64 {
    let with_arenas = bytes / (STACK as u64 + ARENA);
    if with_arenas < arenas { with_arenas } else { (bytes - arenas * ARENA) / STACK as u64 }
}

/// Raises the limit of open files as far as the user may: a model in a thousand parts wants as many, and most systems set a low one.
pub fn allow_many_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // Where it is refused, the limit is what it was; a model in few parts does not meet it.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Bytes of address space that are left, if they are limited and the system tells how many are used.
fn address_space() -> Option<u64> {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    #[cfg(not(unix))]
    let limit = None::<u64>?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let used: u64 = used.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(used.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn threads_are_as_many_as_their_address_space_allows() {
        for (mib, threads) in [(0, 0), (65, 0), (66, 1), (200, 3), (16 * 66, 16), (16 * 66 + 2, 17), (2 * 16 * 66, 544)]
        {
            assert_eq!(super::affordable(mib << 20, 16), threads, "{mib} MiB");
        }
        assert_eq!(super::threads(0), 1);
    }
}
