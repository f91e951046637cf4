//! Memory of a device that works in host memory: aligned blocks that know their own size, and plain copies.

use crate::{Error, Result, ffi};
use alloc::alloc::{Layout, alloc, dealloc};
use alloc::format;
use core::ffi::c_void;

/// Alignment of every block, and the room before it that holds its size.
const ALIGN: usize = 256;

/// A block of `bytes` bytes aligned to 256, not initialised; ended by [`free`].
pub fn allocate(bytes: usize) -> Result<*mut c_void> {
    let total = bytes.checked_add(ALIGN).and_then(|total| Layout::from_size_align(total, ALIGN).ok());
    let Some(layout) = total else {
        return Err(Error::out_of_memory(format!(
            "{bytes} bytes of host memory: more than an address space holds"
        )));
    };
    // SAFETY: the layout is not empty.
    let block = unsafe { alloc(layout) };
    if block.is_null() {
        return Err(Error::out_of_memory(format!("{bytes} bytes of host memory")));
    }
    // SAFETY: the block has ALIGN bytes before the address that is given out, aligned for a usize.
    unsafe {
        block.cast::<usize>().write(layout.size());
        Ok(block.add(ALIGN).cast())
    }
}

/// Ends a block of [`allocate`]; NULL is ignored.
///
/// # Safety
/// `data` is NULL or came from [`allocate`], and nobody uses it any more.
pub unsafe fn free(data: *mut c_void) {
    if data.is_null() {
        return;
    }
    // SAFETY: `allocate` wrote the size of the whole block ALIGN bytes before the address it gave out.
    unsafe {
        let block = data.cast::<u8>().sub(ALIGN);
        let size = block.cast::<usize>().read();
        dealloc(block, Layout::from_size_align_unchecked(size, ALIGN));
    }
}

/// Does `copies` in order; source and destination may overlap.
///
/// # Safety
/// Each copy names `bytes` readable bytes at `src` and writable ones at `dst`, in memory that this process can follow.
pub unsafe fn copy(copies: &[ffi::Copy]) {
    for copy in copies.iter().filter(|copy| copy.bytes != 0) {
        // SAFETY: the caller vouches for the addresses.
        unsafe { core::ptr::copy(copy.src.cast::<u8>(), copy.dst.cast::<u8>(), copy.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_writable_to_the_last_byte() {
        for bytes in [0, 1, 63, 64, 4097] {
            let data = allocate(bytes).unwrap();
            assert_eq!(data.addr() % ALIGN, 0);
            // SAFETY: the block has `bytes` bytes and is ended once.
            unsafe {
                data.cast::<u8>().write_bytes(0xab, bytes);
                free(data);
            }
        }
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert_eq!(allocate(usize::MAX).unwrap_err().code, crate::Code::OutOfMemory);
        assert_eq!(allocate(isize::MAX as usize).unwrap_err().code, crate::Code::OutOfMemory);
    }
}
