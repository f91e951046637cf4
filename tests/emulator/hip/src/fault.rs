//! The text of the last fault of a device, for people who debug a kernel.

use crate::state::state;
use std::ffi::{c_char, c_int};

/// Copies the zero-terminated text of the last fault of any device into `text` and returns its length without the
/// zero; nothing is copied where it does not fit or `text` is null.
///
/// # Safety
/// `text` must be null or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenonHipLastFault(text: *mut c_char, size: usize) -> c_int {
    let fault = state().last_fault.clone();
    if !text.is_null() && fault.len() < size {
        // SAFETY: the caller vouches for `size` bytes, and the text with its zero fits.
        unsafe {
            std::ptr::copy_nonoverlapping(fault.as_ptr(), text.cast(), fault.len());
            *text.add(fault.len()) = 0;
        }
    }
    fault.len() as c_int
}
