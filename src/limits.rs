//! Limits that the system sets for this process, and how Strata keeps away from those that would end it.

use memmap2::MmapMut;
use std::fs;
use std::io;

/// Address space that is left for small things, which cannot say that they found none: Rust ends a program then.
const SPARE: usize = 32 << 20;

/// What a thread takes for its stack, as Rust makes it.
const STACK: u64 = 2 << 20;

/// An error if so little address space is left (`ulimit -v`) that the next small allocation may end the program.
///
/// # Errors
/// That of the system.
pub fn spare() -> io::Result<()> {
    MmapMut::map_anon(SPARE).map(drop)
}

/// Of `threads` as many as may be started, at least one: their stacks take a quarter of the address space that is left.
pub fn threads(threads: usize) -> usize {
    let room = address_space().map_or(usize::MAX, |left| (left / 4 / STACK) as usize);
    threads.min(room).max(1)
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
