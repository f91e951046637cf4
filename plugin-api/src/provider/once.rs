//! A cell that is written once, without `std`: racing writers lose their value.

use alloc::boxed::Box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A cell for a `static`: empty at first, then holds one value for the life of the process.
pub(crate) struct Once<T> {
    value: AtomicPtr<T>,
}

impl<T: Send + Sync + 'static> Once<T> {
    pub(crate) const fn new() -> Once<T> {
        Once { value: AtomicPtr::new(null_mut()) }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: a pointer that is not NULL came from a box that is never freed while self lives.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    /// The value, after putting `value` there if the cell was empty.
    pub(crate) fn get_or_set(&self, value: T) -> &T {
        let mine = Box::into_raw(Box::new(value));
        match self.value.compare_exchange(null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: the cell now owns the box.
            Ok(_) => unsafe { &*mine },
            Err(first) => {
                // SAFETY: the exchange failed, so nobody else has seen this box.
                drop(unsafe { Box::from_raw(mine) });
                // SAFETY: as in `get`.
                unsafe { &*first }
            }
        }
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: the cell owns the box, and nobody borrows from a cell being dropped.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        let cell = Once::new();
        assert!(cell.get().is_none());
        assert_eq!(*cell.get_or_set(1), 1);
        assert_eq!(*cell.get_or_set(2), 1);
        assert_eq!(cell.get(), Some(&1));
    }
}
