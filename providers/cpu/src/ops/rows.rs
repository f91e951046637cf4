//! Splitting work and outputs into ranges that threads take.

use std::marker::PhantomData;
use std::ops::Range;

use tenon_kernels::parallel::Parallel;

/// Elementary operations below which splitting costs more than it gains.
const GRAIN: usize = 32 * 1024;

/// Calls `body` with ranges that cover `0..items`, in parallel where the work (`items * work`) is worth it. `work` is
/// the cost of one item in elementary operations.
pub fn for_ranges(parallel: &dyn Parallel, items: usize, work: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
    if items == 0 {
        return;
    }
    let threads = parallel.threads();
    let worth = items.saturating_mul(work.max(1)) / GRAIN;
    if threads <= 1 || worth <= 1 || items == 1 {
        return body(0..items);
    }
    let tasks = worth.min(items).min(threads * 4);
    parallel.for_each(tasks, &|task| {
        let (start, end) = (task * items / tasks, (task + 1) * items / tasks);
        if start < end {
            body(start..end);
        }
    });
}

/// Splits `out` into rows of `row` elements and calls `body(index, row)` for each; `work` is the cost of one row.
pub fn for_rows<T: Send>(
    parallel: &dyn Parallel,
    out: &mut [T],
    row: usize,
    work: usize,
    body: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    if row == 0 || out.is_empty() {
        return;
    }
    let rows = Rows::new(out, row);
    for_ranges(parallel, rows.count(), work, &|range| {
        for index in range {
            // SAFETY: ranges of different tasks are disjoint, and so are their rows.
            body(index, unsafe { rows.row(index) });
        }
    });
}

/// A mutable slice cut into rows of equal length that different threads may hold.
pub struct Rows<'a, T> {
    data: *mut T,
    len: usize,
    row: usize,
    count: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: rows are handed out under the contract of `row`, which keeps them disjoint; T may move between threads.
unsafe impl<T: Send> Sync for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// Rows of `row` elements; a rest shorter than a row is left out. An empty slice has any number of empty rows.
    pub fn new(data: &'a mut [T], row: usize) -> Rows<'a, T> {
        let count = data.len().checked_div(row).unwrap_or(usize::MAX);
        Rows { data: data.as_mut_ptr(), len: data.len(), row, count, borrow: PhantomData }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Row `index`.
    ///
    /// # Safety
    /// No two holders may have the same row at once.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps rows disjoint")]
    pub unsafe fn row(&self, index: usize) -> &mut [T] {
        assert!(index < self.count, "row index is within the slice");
        // SAFETY: the row lies inside the borrowed slice and the caller keeps holders disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.row), self.row) }
    }

    /// `len` elements from `start` on, whatever the rows are.
    ///
    /// # Safety
    /// No two holders may have overlapping spans or rows at once.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps spans disjoint")]
    pub unsafe fn span(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "the span is within the slice");
        // SAFETY: the span lies inside the borrowed slice and the caller keeps holders disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
