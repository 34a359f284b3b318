//! Facts about this machine and this process from the operating system.

use std::fs;
use strata::threads::all_threads;

/// The number of threads of `rayon`: all hardware threads, or RAYON_NUM_THREADS if that is fewer.
pub fn shared_threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
    wanted.map_or(all_threads(), |n: usize| n.min(all_threads()))
}

/// The largest resident size so far, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    field("/proc/self/status", "VmHWM:").map_or(0, |kib| kib * 1024)
}

/// The resident size of this process in bytes; 0 where the system does not tell.
pub fn rss_bytes() -> u64 {
    field("/proc/self/status", "VmRSS:").map_or(0, |kib| kib * 1024)
}

/// Resets [`peak_rss_bytes`] to the current resident size, where the system allows it.
pub fn reset_peak_rss() {
    // 5 is the kernel's number for it; see proc(5).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes that programs may still use without swapping; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:").map(|kib| kib * 1024)
}

/// Bytes that this process had read from storage so far; 0 where the system does not tell.
pub fn bytes_read() -> u64 {
    field("/proc/self/io", "read_bytes:").unwrap_or(0)
}

/// The processor's name.
pub fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// The number after `name` in a file of names and numbers.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
