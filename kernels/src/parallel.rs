//! The thread pool as kernels see it: a number of threads and a parallel for loop.

use std::marker::PhantomData;
use std::ops::Range;

/// Runs independent tasks. Providers implement it over their own thread pool.
///
/// Kernels give every task its own part of the output and rely on the contract of [`Parallel::for_each`] for memory
/// safety: a task that runs twice at once, or after the call has returned, is a data race.
pub trait Parallel: Sync {
    /// Number of tasks that run at once.
    fn threads(&self) -> usize;

    /// Calls `body(i)` exactly once for every `i < tasks`, in any order and on any thread, and returns when all are done.
    fn for_each(&self, tasks: usize, body: &(dyn Fn(usize) + Sync));
}

/// Runs every task on the calling thread, in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn for_each(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        for task in 0..tasks {
            body(task);
        }
    }
}

/// Splits `0..len` into ranges of at least `grain` items (a multiple of `step` but for the last) and runs them.
pub fn for_each_range(
    parallel: &dyn Parallel,
    len: usize,
    grain: usize,
    step: usize,
    body: &(dyn Fn(Range<usize>) + Sync),
) {
    if len == 0 {
        return;
    }
    let tasks = (len / grain.max(1)).clamp(1, parallel.threads().max(1));
    if tasks == 1 {
        return body(0..len);
    }
    let chunk = len.div_ceil(tasks).next_multiple_of(step.max(1));
    parallel.for_each(len.div_ceil(chunk), &|task| {
        let start = task * chunk;
        body(start..len.min(start + chunk));
    });
}

/// A mutable slice whose disjoint parts are handed to concurrent tasks.
pub struct SharedMut<'a, T> {
    pointer: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice` and `pointer`, whose contracts demand disjoint parts; T itself may move between threads.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as for Sync.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The start of the slice, for kernels that write rows with gaps.
    pub fn pointer(&self) -> *mut T {
        self.pointer
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No other task may hold a part that overlaps `range`.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's contract")]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "task range outside the shared slice");
        // SAFETY: the range lies inside the slice and the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.end - range.start) }
    }
}
