//! The functions that a table points at: they turn C arguments into calls of the author's traits, and failures and
//! panics into statuses.
//!
//! Handles are boxes of the author's types. Each function here relies on the header: a handle came from this table and
//! lives, an out pointer is writable, and arrays have the lengths that come with them.

mod compile;
mod device;
mod identity;
mod model;
mod stream;

pub(super) use compile::*;
pub(super) use device::*;
pub(super) use identity::*;
pub(super) use model::*;
pub(super) use stream::*;

use super::Export;
use crate::{Error, Result, ffi};
use alloc::boxed::Box;
use alloc::format;
use core::ptr::null_mut;

/// Runs `body` behind the guard and turns its failure into a status.
#[inline]
fn status<P: Export>(body: impl FnOnce() -> Result<()>) -> *mut ffi::Status {
    match P::guard(body) {
        Ok(Ok(())) => null_mut(),
        Ok(Err(error)) | Err(error) => error.into_status(),
    }
}

/// The object behind a handle.
///
/// # Safety
/// `handle` is NULL or a box of `T` that lives for `'a`.
#[inline]
unsafe fn object<'a, T, H>(handle: *mut H, what: &str) -> Result<&'a T> {
    // SAFETY: the caller vouches for the handle.
    unsafe { handle.cast::<T>().as_ref() }.ok_or_else(|| null(what))
}

#[cold]
fn null(what: &str) -> Error {
    Error::invalid(format!("{what} is NULL"))
}

/// Boxes what `make` returns and writes its handle to `out`.
///
/// # Safety
/// `out` is NULL or writable.
unsafe fn hand_out<T, H>(out: *mut *mut H, what: &str, make: impl FnOnce() -> Result<T>) -> Result<()> {
    if out.is_null() {
        return Err(null(what));
    }
    let object = Box::new(make()?);
    // SAFETY: the caller vouches for the pointer.
    unsafe { out.write(Box::into_raw(object).cast()) };
    Ok(())
}

/// Writes `value` to an out pointer.
///
/// # Safety
/// `out` is NULL or writable.
unsafe fn put<T>(out: *mut T, what: &str, value: T) -> Result<()> {
    if out.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller vouches for the pointer.
    unsafe { out.write(value) };
    Ok(())
}

/// Drops the box behind a handle; NULL is ignored. A panic of the destructor stops here.
///
/// # Safety
/// `handle` is NULL or a box of `T` that nobody uses any more.
unsafe fn destroy<P: Export, T, H>(handle: *mut H) {
    if !handle.is_null() {
        // SAFETY: the caller gives the box up.
        let _panicked = P::guard(|| drop(unsafe { Box::from_raw(handle.cast::<T>()) }));
    }
}
