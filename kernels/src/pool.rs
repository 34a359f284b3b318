//! The thread pool: the same threads for every operation, woken together, waited for together.
//!
//! A forward pass is thousands of short operations; between two of them a thread spins for a moment before it sleeps, so that the next
//! operation finds it awake, and an idle program uses no processor.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Rounds of spinning before a thread sleeps: some tens of microseconds.
const SPINS: usize = 4000;

/// An operation: called once on each thread with the thread's number. It lives on the stack of `Pool::run`, which outwaits its use.
type Work = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts operations; a change wakes the threads.
    round: AtomicUsize,
    /// Threads still at work.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    work: Mutex<Option<SendWork>>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct SendWork(Work);
// SAFETY: the closure behind the pointer is `Sync`, and `Pool::run` keeps it alive until all threads are done with it.
unsafe impl Send for SendWork {}

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
            round: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            work: Mutex::new(None),
            wake: Condvar::new(),
        });
        // Where the system refuses a thread, the pool is that much smaller: what is computed does not depend on it.
        let threads = (1..threads.max(1))
            .map_while(|index| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("strata-{index}")).spawn(move || serve(&shared, index)).ok()
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
        let _one_at_a_time = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = &*self.shared;
        if !self.threads.is_empty() {
            // SAFETY: only the lifetime is erased; this function does not return, nor unwind, before `busy` is zero.
            let work = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Work>(work) };
            shared.busy.store(self.threads.len(), Ordering::Relaxed);
            let mut slot = shared.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *slot = Some(SendWork(work));
            shared.round.fetch_add(1, Ordering::Release);
            drop(slot);
            shared.wake.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| work(0)));
        let mut spins = 0;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a thread of the pool panicked");
    }
}

fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.round.load(Ordering::Acquire) == seen && spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        }
        let mut slot = shared.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while shared.round.load(Ordering::Acquire) == seen {
            slot = shared.wake.wait(slot).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        seen = shared.round.load(Ordering::Acquire);
        let work = *slot;
        drop(slot);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Some(SendWork(work)) = work {
            // SAFETY: `Pool::run` waits until `busy` is zero, which this thread brings about only after its last use.
            let work = unsafe { &*work };
            if catch_unwind(AssertUnwindSafe(|| work(index))).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
            shared.busy.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut slot = self.shared.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *slot = None;
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.round.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
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
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for culprit in 0..3 {
            assert!(catch_unwind(AssertUnwindSafe(|| pool.run(&|i| assert_ne!(i, culprit)))).is_err());
            pool.run(&|_| {});
        }
    }
}
