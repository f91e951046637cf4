//! The thread pool: a parallel for loop whose caller works too, with workers that spin briefly and then sleep.
//!
//! Architecture invariant: one loop runs on a pool at a time. A caller that finds the pool busy (another run, or a loop
//! inside a loop) does its tasks alone, so loops never wait for each other and cannot deadlock.

use std::any::Any;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use tenon_kernels::parallel::Parallel;

/// Turns of the spin loop before a worker sleeps: some tens of microseconds.
const SPINS: u32 = 4000;

/// In [`Shared::state`]: set while workers may enter the current loop.
const OPEN: u64 = 1 << 31;
/// In [`Shared::state`]: number of workers inside the current loop.
const ENTERED: u64 = OPEN - 1;
/// In [`Shared::state`]: one loop further.
const EPOCH: u64 = 1 << 32;

/// A pool of `threads() - 1` workers beside the caller.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    busy: Mutex<()>,
}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

struct Shared {
    /// Epoch, whether the loop is open, and how many workers are inside.
    state: AtomicU64,
    next: AtomicUsize,
    /// Written only while no worker is inside and the loop is closed.
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    body: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `job` is written by the one caller that holds `busy` while no worker is inside, published by the release store of
// `state`, and read by workers only after they entered through an acquiring exchange; the body it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as for Sync; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl Threads {
    /// The process-wide pool with this many threads, the caller counted; 0 means one a processor.
    pub fn shared(threads: usize) -> Arc<Threads> {
        static POOLS: OnceLock<Mutex<BTreeMap<usize, Arc<Threads>>>> = OnceLock::new();
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n.min(1024),
        };
        let mut pools = POOLS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        pools.entry(threads).or_insert_with(|| Arc::new(Threads::start(threads))).clone()
    }

    fn start(threads: usize) -> Threads {
        let idle: *const (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { tasks: 0, body: idle }),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let spawn = |index: usize| {
            let (shared, asleep) = (shared.clone(), Arc::new(AtomicBool::new(false)));
            let flag = asleep.clone();
            let builder = std::thread::Builder::new().name(format!("tenon-cpu-{index}"));
            // A machine that refuses a thread gives a smaller pool, not an error.
            let handle = builder.spawn(move || work(&shared, &flag)).ok()?;
            Some(Worker { thread: handle.thread().clone(), asleep })
        };
        let workers = (1..threads).map_while(spawn).collect();
        Threads { shared, workers, busy: Mutex::new(()) }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(|worker| worker.thread.unpark());
    }
}

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn for_each(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let alone = || (0..tasks).for_each(body);
        if tasks <= 1 || self.workers.is_empty() {
            return alone();
        }
        let Ok(_busy) = self.busy.try_lock() else { return alone() };
        let shared = &*self.shared;
        // SAFETY: erasing the lifetime is sound because this function does not return, and does not unwind, before
        // every worker that could call the body has left (see `Leave`).
        let body: *const (dyn Fn(usize) + Sync) = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(body)
        };
        // SAFETY: the loop is closed and nobody is inside, so no worker reads the job now.
        unsafe { *shared.job.get() = Job { tasks, body } };
        shared.next.store(0, Ordering::Relaxed);
        let epoch = (shared.state.load(Ordering::Relaxed) & !(EPOCH - 1)).wrapping_add(EPOCH);
        shared.state.store(epoch | OPEN, Ordering::SeqCst);
        for worker in self.workers.iter().take(tasks - 1) {
            if worker.asleep.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        drain(shared, Job { tasks, body });
        leave(shared);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            drop(_busy);
            resume_unwind(panic);
        }
    }
}

/// Closes the loop and waits until no worker is inside.
fn leave(shared: &Shared) {
    shared.state.fetch_and(!OPEN, Ordering::SeqCst);
    let mut turns = 0u32;
    while shared.state.load(Ordering::Acquire) & ENTERED != 0 {
        turns += 1;
        if turns < SPINS { spin_loop() } else { std::thread::yield_now() }
    }
}

/// Takes tasks until none is left. A panic of a task is kept for the caller.
fn drain(shared: &Shared, job: Job) {
    // SAFETY: the caller of `for_each` waits for everybody inside before its body goes away.
    let body = unsafe { &*job.body };
    let run = || {
        loop {
            let task = shared.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            body(task);
        }
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        shared.next.store(job.tasks, Ordering::Relaxed);
        shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

fn work(shared: &Shared, asleep: &AtomicBool) {
    let mut seen = 0;
    loop {
        let state = wait_for_loop(shared, asleep, seen);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        seen = state & !(EPOCH - 1);
        if shared.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Somebody entered or the loop closed in between: look again, this loop not yet seen.
            seen = seen.wrapping_sub(EPOCH);
            continue;
        }
        // SAFETY: this worker is inside an open loop, so the job is not being written.
        let job = unsafe { *shared.job.get() };
        drain(shared, job);
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Returns the state once a loop other than `seen` is open, or when the pool stops.
fn wait_for_loop(shared: &Shared, asleep: &AtomicBool, seen: u64) -> u64 {
    let mut turns = 0u32;
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        let open = state & OPEN != 0 && state & !(EPOCH - 1) != seen;
        if open || shared.stop.load(Ordering::Relaxed) {
            return state;
        }
        turns += 1;
        if turns < SPINS {
            spin_loop();
            continue;
        }
        asleep.store(true, Ordering::SeqCst);
        let state = shared.state.load(Ordering::SeqCst);
        if (state & OPEN == 0 || state & !(EPOCH - 1) == seen) && !shared.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
        turns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        let pool = Threads::start(4);
        for tasks in [0, 1, 2, 3, 17, 1000] {
            let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..50 {
                pool.for_each(tasks, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    fn loops_inside_loops_and_from_many_threads_finish() {
        let pool = Threads::start(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.for_each(5, &|_| {
                            pool.for_each(3, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 100 * 15);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Threads::start(3);
        let failed = catch_unwind(AssertUnwindSafe(|| pool.for_each(100, &|i| assert_ne!(i, 50, "task 50"))));
        assert!(failed.is_err());
        let count = AtomicUsize::new(0);
        pool.for_each(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 10);
    }
}
