//! What the operating system says of this machine and this process.

use std::collections::HashSet;
use std::fs;

/// Threads to use where the user does not say: one for each physical core that this process may use. Two threads of one core share
/// its memory ports and its multipliers, and gain nothing here.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cores: HashSet<String> = (0..allowed)
        .filter_map(|cpu| {
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
        })
        .collect();
    if cores.is_empty() { allowed } else { cores.len() }
}

/// The largest resident size so far, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    field("/proc/self/status", "VmHWM:").map_or(0, |kib| kib * 1024)
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
