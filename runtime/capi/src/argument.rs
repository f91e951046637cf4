//! Checks and reads what a C caller passes.

use tenon_plugin_api::ffi::Str;
use tenon_runtime::error::{Error, Result};

/// The error for a pointer that must not be NULL.
fn null(name: &str) -> Error {
    Error::invalid_input(format!("argument '{name}' is NULL"))
}

/// What `pointer` points at.
///
/// # Safety
/// `pointer` is NULL or valid for reading during `'a`.
#[inline]
pub unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: promised by the caller.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// What `pointer` points at, for writing.
///
/// # Safety
/// `pointer` is NULL or valid for reading and writing during `'a`, by nobody else.
#[inline]
pub unsafe fn exclusive<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: promised by the caller.
    unsafe { pointer.as_mut() }.ok_or_else(|| null(name))
}

/// `count` elements at `pointer`, which may be NULL when there are none.
///
/// # Safety
/// `pointer` is NULL or valid for reading `count` elements during `'a`.
#[inline]
pub unsafe fn slice<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(name));
    }
    check_extent::<T>(count, name)?;
    // SAFETY: promised by the caller; not NULL and not too long.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// As [`slice`], for writing.
///
/// # Safety
/// `pointer` is NULL or valid for reading and writing `count` elements during `'a`, by nobody else.
#[inline]
pub unsafe fn slice_mut<'a, T>(pointer: *mut T, count: usize, name: &str) -> Result<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    if pointer.is_null() {
        return Err(null(name));
    }
    check_extent::<T>(count, name)?;
    // SAFETY: promised by the caller; not NULL and not too long.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, count) })
}

#[inline]
fn check_extent<T>(count: usize, name: &str) -> Result<()> {
    match count.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Error::invalid_input(format!(
            "argument '{name}' has {count} elements, more than memory can hold"
        ))),
    }
}

/// The text of a string.
///
/// # Safety
/// `text.data` is NULL or valid for reading `text.len` bytes during `'a`.
pub unsafe fn text<'a>(text: Str, name: &str) -> Result<&'a str> {
    // SAFETY: promised by the caller.
    let bytes = unsafe { slice(text.data.cast::<u8>(), text.len, name) }?;
    std::str::from_utf8(bytes).map_err(|_| Error::invalid_input(format!("argument '{name}' is not UTF-8")))
}

/// A struct whose first member is its size as a `usize`; all bits zero are a valid value of it.
///
/// # Safety
/// The type is `repr(C)`, starts with a `usize`, and is plain data.
pub unsafe trait Versioned {}

/// Copies a struct of the caller, whose members past its size are zero.
///
/// # Safety
/// `pointer` is NULL or points at as many readable bytes as its first member says.
pub unsafe fn read<T: Versioned>(pointer: *const T, name: &str) -> Result<Option<T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    let size = check_size(pointer, name)?;
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the caller promises `size` readable bytes, and no more than the destination holds are copied.
    unsafe {
        std::ptr::copy_nonoverlapping(
            pointer.cast::<u8>(),
            value.as_mut_ptr().cast(),
            size.min(size_of::<T>()),
        )
    };
    // SAFETY: `Versioned` types are valid when zeroed, and plain data.
    Ok(Some(unsafe { value.assume_init() }))
}

/// Writes the members of `value` that the caller's struct has room for, except the size.
///
/// # Safety
/// `pointer` is NULL or points at as many writable bytes as its first member says.
pub unsafe fn write<T: Versioned>(pointer: *mut T, value: &T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(null(name));
    }
    let size = check_size(pointer, name)?.min(size_of::<T>());
    let start = size_of::<usize>();
    // SAFETY: the caller promises `size` writable bytes; padding is copied as it is.
    unsafe {
        let source = std::ptr::from_ref(value).cast::<u8>().add(start);
        std::ptr::copy_nonoverlapping(source, pointer.cast::<u8>().add(start), size - start);
    }
    Ok(())
}

fn check_size<T>(pointer: *const T, name: &str) -> Result<usize> {
    // SAFETY: callers pass a readable struct that starts with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    if size < size_of::<usize>() {
        return Err(Error::invalid_input(format!(
            "'{name}' has struct_size {size}; set it to sizeof the struct"
        )));
    }
    Ok(size)
}
