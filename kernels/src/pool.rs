//! The thread pool: the same threads for every operation, woken together, waited for together.
//!
//! A forward pass is thousands of short operations; between two of them a thread spins for a moment before it sleeps, so that the next
//! operation finds it awake, and an idle program uses no processor.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Spins before the processor is yielded to other threads: some microseconds.
const SPINS: usize = 300;
/// Yields before a thread sleeps: some tens of microseconds on an idle processor.
const YIELDS: usize = 100;

/// The stack of a thread, whatever the environment says (`RUST_MIN_STACK`): what Rust gives where it says nothing.
const STACK: usize = 2 << 20;

/// An operation: called once on each thread with the thread's number. It lives on the stack of `Pool::run`, which outwaits its use.
type Work = *const (dyn Fn(usize) + Sync);

/// What the caller writes and the threads watch, in lines of the cache of its own.
#[repr(align(128))]
struct Round {
    /// Counts operations; a change wakes the threads.
    number: AtomicUsize,
    /// The operation; null for the last, which ends the threads.
    work: AtomicPtr<Work>,
    /// Threads asleep, or about to be. Only they need the lock, and only for them is it taken.
    asleep: AtomicUsize,
}

/// What the threads write and the caller watches.
#[repr(align(128))]
struct Done {
    /// Threads still at work.
    busy: AtomicUsize,
    panicked: AtomicBool,
}

struct Shared {
    round: Round,
    done: Done,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// Starts a round.
    fn publish(&self, work: *mut Work) {
        self.round.work.store(work, Ordering::Relaxed);
        // Either this sees that a thread is about to sleep, or that thread sees the new round: both are in the one order of `SeqCst`.
        self.round.number.fetch_add(1, Ordering::SeqCst);
        if self.round.asleep.load(Ordering::SeqCst) > 0 {
            // Whoever has seen the old round under the lock is waiting once the lock is had.
            drop(self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            self.wake.notify_all();
        }
    }

    /// Waits for a round after `seen`; its number.
    fn next_round(&self, seen: usize) -> usize {
        for i in 0..SPINS + YIELDS {
            let round = self.round.number.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            pause(i);
        }
        self.round.asleep.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while self.round.number.load(Ordering::SeqCst) == seen {
            guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.round.asleep.fetch_sub(1, Ordering::SeqCst);
        self.round.number.load(Ordering::Acquire)
    }
}

/// Persistent threads; the caller of [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    running: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads in all, at least one.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            round: Round {
                number: AtomicUsize::new(0),
                work: AtomicPtr::new(std::ptr::null_mut()),
                asleep: AtomicUsize::new(0),
            },
            done: Done { busy: AtomicUsize::new(0), panicked: AtomicBool::new(false) },
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        // Where the system refuses a thread, the pool is that much smaller: what is computed does not depend on it.
        let threads = (1..threads.max(1))
            .map_while(|index| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("strata-{index}"))
                    .stack_size(STACK)
                    .spawn(move || serve(&shared, index))
                    .ok()
            })
            .collect();
        Pool { shared, threads, running: Mutex::new(()) }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `work(i)` for every thread `i` at the same time; returns when all are done. Panics if one of them did.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() {
            return work(0);
        }
        let _one_at_a_time = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; this function does not return, nor unwind, before `busy` is zero.
        let mut published = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Work>(work) };
        shared.done.busy.store(self.threads.len(), Ordering::Relaxed);
        shared.publish(&mut published);
        let mine = catch_unwind(AssertUnwindSafe(|| work(0)));
        let mut spins = 0;
        while shared.done.busy.load(Ordering::Acquire) > 0 {
            pause(spins);
            spins += 1;
        }
        // Cleared before anything unwinds: a flag left set would make the next operation panic for this one.
        let others_panicked = shared.done.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!others_panicked, "a thread of the pool panicked");
    }
}

/// The `i`th wait in a row.
fn pause(i: usize) {
    if i < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
}

fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = shared.next_round(seen);
        let work = shared.round.work.load(Ordering::Relaxed);
        if work.is_null() {
            return;
        }
        // SAFETY: `Pool::run` has both the pointer and the operation on its stack, and waits until `busy` is zero, which this thread
        // brings about only after its last use.
        let work = unsafe { &**work };
        if catch_unwind(AssertUnwindSafe(|| work(index))).is_err() {
            shared.done.panicked.store(true, Ordering::Relaxed);
        }
        shared.done.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.publish(std::ptr::null_mut());
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_works_once_a_round() {
        let pool = Pool::new(4);
        let counts: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..2000 {
            pool.run(&|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2000));
    }

    #[test]
    fn sleepers_are_woken() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        for _ in 0..20 {
            while pool.shared.round.asleep.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.load(Ordering::Relaxed), 60);
    }

    /// Every set of threads that panic together, each followed by an operation in which none does.
    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        const THREADS: usize = 3;
        let pool = Pool::new(THREADS);
        assert_eq!(pool.threads(), THREADS);
        for culprits in 0..1usize << THREADS {
            let run = catch_unwind(AssertUnwindSafe(|| pool.run(&|i| assert!(culprits >> i & 1 == 0))));
            assert_eq!(run.is_err(), culprits != 0, "threads {culprits:03b}");
            let calls = AtomicUsize::new(0);
            pool.run(&|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.into_inner(), THREADS, "after {culprits:03b}");
        }
    }
}
