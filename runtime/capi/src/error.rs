//! Failures as C sees them, and the guard that every function runs in.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tenon_plugin_api::ffi::Str;
use tenon_runtime::error::{Error, ErrorKind, Result};

/// `tenon_error`.
pub struct CError {
    kind: u32,
    message: String,
}

/// Gives an error to the caller.
pub fn into_raw(error: &Error) -> *mut CError {
    Box::into_raw(Box::new(CError { kind: number(error.kind()), message: error.to_string() }))
}

/// Runs the body of a function; NULL on success. A panic becomes an error.
pub fn guard(body: impl FnOnce() -> Result<()>) -> *mut CError {
    match guarded(body) {
        Ok(()) => std::ptr::null_mut(),
        Err(error) => into_raw(&error),
    }
}

/// What `body` returns, with a panic turned into an error.
pub fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text =
            text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let error = Error::internal(format!("the library panicked: {text}; please report this"));
        // Dropping an unknown payload could panic again.
        std::mem::forget(payload);
        Err(error)
    })
}

/// Runs the body of a function that cannot report a failure; a panic gives `default`.
pub fn shielded<T>(default: T, body: impl FnOnce() -> T) -> T {
    guarded(|| Ok(body())).unwrap_or(default)
}

fn number(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::Io => 1,
        ErrorKind::InvalidModel => 2,
        ErrorKind::Unsupported => 3,
        ErrorKind::InvalidInput => 4,
        ErrorKind::Limit => 5,
        ErrorKind::Provider => 6,
        ErrorKind::Cancelled => 7,
        _ => 8,
    }
}

/// See `tenon.h`.
///
/// # Safety
/// `error` is NULL or an error that was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_error_kind(error: *const CError) -> u32 {
    // SAFETY: promised by the caller.
    unsafe { error.as_ref() }.map_or(0, |error| error.kind)
}

/// See `tenon.h`.
///
/// # Safety
/// `error` is NULL or an error that was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_error_message(error: *const CError) -> Str {
    // SAFETY: promised by the caller.
    unsafe { error.as_ref() }.map_or(Str::EMPTY, |error| Str::new(&error.message))
}

/// See `tenon.h`.
///
/// # Safety
/// `error` is NULL or an error that was not released, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_error_release(error: *mut CError) {
    if !error.is_null() {
        // SAFETY: every error comes from `into_raw`.
        drop(unsafe { Box::from_raw(error) });
    }
}
