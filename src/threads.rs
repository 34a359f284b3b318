//! Threads of the crate `rayon`, of which a system may refuse some: a limit of processes or of memory means fewer, never a panic.

use crate::error::{Error, Result};
use crate::limits;
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// A builder of threads with a stack of [`limits::STACK`].
pub(crate) fn builder() -> thread::Builder {
    thread::Builder::new().stack_size(limits::STACK)
}

/// The most threads that are ever asked for.
pub const MOST: usize = 1024;

/// The physical cores that this process may use: a thread for each is what a model runs on where nobody says otherwise. Two threads of one core share
/// its memory ports and its multipliers, and gain nothing here.
pub fn physical_cores() -> usize {
    let allowed = all_threads();
    let cores: HashSet<String> = allowed_cpus()
        .filter_map(|cpu| {
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
        })
        .collect();
    if cores.is_empty() { allowed } else { cores.len().min(allowed) }
}

/// Threads that run at once, hyperthreads included.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST)
}

/// The numbers of the processors that this process may run on, from a list like `0-3,8`; none where the system does not tell.
fn allowed_cpus() -> impl Iterator<Item = usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list =
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default().trim().to_owned();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect::<Vec<usize>>().into_iter()
}

/// A pool of up to `threads` threads.
///
/// # Errors
/// If the system gives not even one.
pub fn pool(threads: usize) -> Result<ThreadPool> {
    let Workers { mut idle, refused } = Workers::hire(threads);
    if let Some(error) = refused.filter(|_| idle.is_empty()) {
        return Err(Error::Thread(error));
    }
    let pool = ThreadPoolBuilder::new().num_threads(idle.len()).spawn_handler(|thread| employ(&mut idle, thread));
    pool.build().map_err(|error| Error::Thread(io::Error::other(error)))
}

/// Sets up the threads that the library shares where it is given no pool: up to `threads`, and the caller alone if the system gives none.
///
/// # Errors
/// If there are some already.
pub fn share(threads: usize) -> Result<()> {
    let mut idle = Workers::hire(threads).idle;
    let built = match idle.len() {
        0 => ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global(),
        n => ThreadPoolBuilder::new().num_threads(n).spawn_handler(|thread| employ(&mut idle, thread)).build_global(),
    };
    built.map_err(|error| Error::Thread(io::Error::other(error)))
}

/// Threads that wait for work, made before a pool is: a pool that cannot be completed is an error that cannot be mended.
struct Workers {
    idle: Vec<Sender<ThreadBuilder>>,
    refused: Option<io::Error>,
}

impl Workers {
    fn hire(threads: usize) -> Workers {
        let mut workers = Workers { idle: Vec::new(), refused: None };
        for i in 0..limits::threads(threads.min(MOST)) {
            let (to, from) = channel::<ThreadBuilder>();
            let work = move || from.into_iter().for_each(ThreadBuilder::run);
            match builder().name(format!("strata-{i}")).spawn(work) {
                Ok(_) => workers.idle.push(to),
                Err(error) => {
                    workers.refused = Some(error);
                    break;
                }
            }
        }
        workers
    }
}

/// Hands a thread of a pool to one of those that wait.
fn employ(idle: &mut Vec<Sender<ThreadBuilder>>, thread: ThreadBuilder) -> io::Result<()> {
    let worker = idle.pop().ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
    worker.send(thread).map_err(|_| io::Error::other("a thread has ended"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pool_has_as_many_threads_as_it_was_asked_for() {
        for (asked, had) in [(1, 1), (3, 3), (0, 1)] {
            let pool = super::pool(asked).unwrap();
            assert_eq!(pool.current_num_threads(), had);
            assert_eq!(pool.install(|| rayon::join(|| 1, || 2)), (1, 2));
        }
    }
}
