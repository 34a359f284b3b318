//! A guard for mapped files that another program truncates.
//!
//! Touching a page past the new end raises SIGBUS, which ends the process. For a guarded map the handler replaces that page and all after
//! it by zeros. The zeros never reach a result: a pass checks its files before it returns one (`Store::check`), and reports the change.

// Part of the memory map: a signal handler and a table that it reads.
#![cfg_attr(unix, allow(unsafe_code))]

#[cfg(unix)]
use std::sync::Once;
#[cfg(unix)]
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most maps that are guarded at once; further ones are mapped without a guard.
#[cfg(unix)]
const GUARDS: usize = 1024;

/// The registration of a mapped file with the handler, until it is dropped.
#[derive(Debug)]
pub struct Guard {
    #[cfg(unix)]
    place: Option<usize>, // in `MAPS`
}

/// A guarded map; free while `start` is 0.
#[cfg(unix)]
struct Map {
    start: AtomicUsize,
    len: AtomicUsize, // 0 until it is set up
}

#[cfg(unix)]
static MAPS: [Map; GUARDS] = [const { Map { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; GUARDS];

#[cfg(unix)]
static PAGE: AtomicUsize = AtomicUsize::new(4096);

impl Guard {
    /// Guards `map`, which must be a whole mapping and outlive the guard.
    #[cfg(unix)]
    pub fn new(map: &[u8]) -> Guard {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install);
        let free = |map: &Map, start| map.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let place = MAPS.iter().position(|entry| free(entry, map.as_ptr().addr()));
        if let Some(place) = place {
            MAPS[place].len.store(map.len(), Ordering::Release);
        }
        Guard { place }
    }

    /// A guard without effect: this system has no SIGBUS.
    #[cfg(not(unix))]
    pub fn new(_: &[u8]) -> Guard {
        Guard {}
    }
}

#[cfg(unix)]
impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            MAPS[place].len.store(0, Ordering::Release);
            MAPS[place].start.store(0, Ordering::Release);
        }
    }
}

/// The handler of the signal before this one.
#[cfg(unix)]
static BEFORE: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

#[cfg(unix)]
fn install() {
    // SAFETY: no CPU feature; `sysconf` has no memory to harm. `sigaction` gets two structures that are valid for it, zeroed where not
    // set, and a handler of the signature that SA_SIGINFO asks for, which only does what a handler may (see there).
    unsafe {
        PAGE.store(libc::sysconf(libc::_SC_PAGESIZE).max(4096) as usize, Ordering::Relaxed);
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) == 0 && BEFORE.set(before).is_ok() {
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_bus_error as *const () as usize;
            // On the stack that Rust keeps for the overflow of the usual one.
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut());
        }
    }
}

/// Replaces the missing page of a guarded map by zeros; other faults go to the previous handler.
#[cfg(unix)]
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: no CPU feature; the system hands a valid structure to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() }.addr();
    for map in &MAPS {
        let (start, len) = (map.start.load(Ordering::Acquire), map.len.load(Ordering::Acquire));
        if start == 0 || !(start..start + len).contains(&address) {
            continue;
        }
        let page = address & !(PAGE.load(Ordering::Relaxed) - 1);
        // SAFETY: no CPU feature; from `page`, a whole page, to the end lies inside one mapping that Strata made and still holds, since its
        // guard is in the table. Nothing else lies there. A mapping of zeros in its place keeps every slice of it readable. `mmap` is a
        // plain system call: it takes no lock and no memory of this program.
        let put = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                start + len - page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if put != libc::MAP_FAILED {
            return;
        }
    }
    if let Some(before) = BEFORE.get() {
        // SAFETY: no CPU feature; a structure that `sigaction` itself filled in. The access is tried again, and the old handler is asked.
        unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
    }
}

#[cfg(all(test, unix))]
mod tests {
    use crate::io::file::Mapped;
    use std::fs::OpenOptions;

    #[test]
    fn zeros_stand_in_for_what_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let (a, b) = (Mapped::open(&path).unwrap(), Mapped::open(&path).unwrap());
        OpenOptions::new().write(true).open(&path).unwrap().set_len(10_000).unwrap();
        // The page of the new end has zeros after it by itself.
        assert_eq!(a.bytes().iter().filter(|&&byte| byte == 7).count(), 10_000);
        assert!(a.bytes()[10_000..].iter().all(|&byte| byte == 0));
        drop(a);
        assert_eq!(b.bytes()[99_999], 0);
        assert_eq!(b.bytes()[50_000], 0);
        assert_eq!(b.bytes()[9_999], 7);
    }
}
