//! The memory budget of a model.
//!
//! By default it is the memory that the kernel reports as available, at most what every control group above this process allows
//! (containers), less a reserve for other programs.

use crate::error::{Error, Result};
pub use crate::size::Ram;
use std::fs;
use std::path::{Path, PathBuf};

/// The memory of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it, or the limit of the tightest control group, in bytes.
    pub total: u64,
    /// Bytes that can be allocated without swapping.
    pub available: u64,
}

impl Memory {
    /// Bytes that a program with much memory should release: none while a 32nd of all memory is available, else enough to make twice that
    /// available.
    pub fn shortage(&self) -> u64 {
        let low = (self.total / SCARCE).min(SCARCE_MOST);
        if self.available < low { 2 * low - self.available } else { 0 }
    }
}

/// The share of all memory, as a divisor, that should stay available: half of the default reserve; and its maximum in bytes.
const SCARCE: u64 = 32;
const SCARCE_MOST: u64 = 2_000_000_000;

/// The memory that a model may have, everything included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// All of it, in bytes.
    pub bytes: u64,
    /// Bytes that the process occupies already: its code, the vocabulary.
    pub fixed: u64,
}

/// The default reserve for other programs, in bytes: a sixteenth of all memory, within these bounds.
const RESERVE: std::ops::RangeInclusive<u64> = 256_000_000..=4_000_000_000;

/// Bytes that a process takes beside its buffers while it runs: stacks, rounding by the allocator and the kernel.
const GROWTH: u64 = 8_000_000;

impl Ram {
    /// The budget of this process; `None` if it is not given and the system does not report its memory.
    ///
    /// # Errors
    /// If it is a share and the system does not report its memory.
    pub fn budget(self) -> Result<Option<Budget>> {
        let bytes = match (self, memory()) {
            (Ram::Bytes(bytes), _) => bytes,
            (Ram::Share(share), Some(memory)) => (memory.total as f64 * share) as u64,
            (Ram::Share(_), None) => {
                return Err(Error::MemoryUnknown);
            }
            // What the process has is not free, yet its own.
            (Ram::Free, Some(memory)) => {
                let reserve = (memory.total / 16).clamp(*RESERVE.start(), *RESERVE.end());
                (memory.available + resident_bytes()).saturating_sub(reserve)
            }
            (Ram::Free, None) => return Ok(None),
        };
        Ok(Some(Budget { bytes, fixed: resident_bytes() + GROWTH }))
    }
}

/// The memory of this system within the control groups of this process; `None` if the system does not report it.
pub fn memory() -> Option<Memory> {
    memory_under(Path::new("/"))
}

/// The resident size of this process in bytes; 0 if the system does not report it.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kibibytes(&status, "VmRSS:").unwrap_or(0)
}

fn memory_under(root: &Path) -> Option<Memory> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let mut memory = Memory { total: kibibytes(&info, "MemTotal:")?, available: kibibytes(&info, "MemAvailable:")? };
    for group in control_groups(root) {
        let Some((limit, used)) = group.limit() else { continue };
        memory.total = memory.total.min(limit);
        memory.available = memory.available.min(limit.saturating_sub(used));
    }
    Some(memory)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The files of a control group.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
    cached: [&'static str; 2], // lines of memory.stat: the page cache, which is dropped where memory is wanted
}

impl Group {
    /// Its limit, and the bytes in use that are not page cache; `None` without a limit.
    fn limit(&self) -> Option<(u64, u64)> {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).ok();
        let limit = read(self.limit)?.trim().parse().ok()?; // version 2 says "max" where there is none
        let used: u64 = read(self.used)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let value = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let cached = self.cached.iter().filter_map(|name| value(name)).fold(0, u64::saturating_add);
        Some((limit, used.saturating_sub(cached)))
    }
}

/// The memory control groups of this process, of versions 1 and 2, the innermost first.
fn control_groups(root: &Path) -> Vec<Group> {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let (own, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut groups = Vec::new();
    // 4:memory:/path or 0::/path
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (kind, limit, used, cached) = match controllers {
            "" => ("cgroup2", "memory.max", "memory.current", ["inactive_file ", "active_file "]),
            c if c.split(',').any(|c| c == "memory") => {
                let cached = ["total_inactive_file ", "total_active_file "];
                ("cgroup", "memory.limit_in_bytes", "memory.usage_in_bytes", cached)
            }
            _ => continue,
        };
        let Some((shown, place)) = mounts.lines().find_map(|line| mount(line, kind)) else { continue };
        let place = root.join(place.trim_start_matches('/'));
        // In a container the mount shows a part of the tree; where it is not ours, what is shown is what we have.
        let inside = Path::new(path).strip_prefix(shown).unwrap_or(Path::new(""));
        let folders = inside.ancestors().map(|inside| place.join(inside));
        groups.extend(folders.map(|folder| Group { folder, limit, used, cached }));
    }
    groups
}

/// Parses a line `36 35 0:31 /root /mountpoint options - type source superoptions` of `mountinfo`: the root and the mount point, if the
/// type is `kind`.
fn mount<'a>(line: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let (left, right) = line.split_once(" - ")?;
    let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
    let memory = || right.get(2).is_some_and(|options| options.split(',').any(|o| o == "memory"));
    (right.first() == Some(&kind) && (kind == "cgroup2" || memory())).then_some((*left.get(3)?, *left.get(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file tree with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  2000 kB\nMemFree: 1 kB\nMemAvailable:   1000 kB\n");

    #[test]
    fn without_groups_the_kernel_has_the_word() {
        let root = tree(&[MEMINFO, ("proc/self/cgroup", "0::/\n")]);
        assert_eq!(memory_under(root.path()), Some(Memory { total: 2_048_000, available: 1_024_000 }));
        assert_eq!(memory_under(tree(&[]).path()), None);
        assert_eq!(memory_under(tree(&[("proc/meminfo", "MemTotal: many kB\n")]).path()), None);
    }

    #[test]
    fn every_group_above_the_process_counts() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/a/memory.max", "700000\n"),
            ("sys/fs/cgroup/a/memory.current", "500000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 400000\ninactive_file 90000\nactive_file 1\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "500000\n"),
        ]);
        assert_eq!(memory_under(root.path()), Some(Memory { total: 700_000, available: 290_001 }));
    }

    #[test]
    fn little_is_left_before_something_is_given_back() {
        let of = |available| Memory { total: 3_200, available }.shortage();
        assert_eq!([3_200, 100, 99, 0].map(of), [0, 0, 101, 200]);
        let huge = Memory { total: 1 << 40, available: 1_999_999_999 };
        assert_eq!(huge.shortage(), 2_000_000_001);
    }

    #[test]
    fn version_one_and_containers() {
        let mounts = "40 24 0:33 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                      41 24 0:34 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/docker/x\n4:hugetlb,memory:/docker/x\n"),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 300000\n"),
        ]);
        assert_eq!(memory_under(root.path()), Some(Memory { total: 900_000, available: 200_000 }));
    }
}
