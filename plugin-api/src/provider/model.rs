//! What a provider implements for language models: key-value pools and collectives.

use crate::{DType, Result, ffi};
use core::ffi::c_void;

/// A pool of key-value pages in device memory.
pub trait KvPool<S>: Send + Sync {
    /// The device address of the pool and its size in bytes.
    fn data(&self) -> (*mut c_void, usize);

    /// Copies whole pages in stream order; each pair is (from, to).
    fn copy_pages(&self, stream: Option<&S>, pairs: &[[u64; 2]]) -> Result<()>;
}

/// Devices that run collectives together.
pub trait Group<S>: Send + Sync {
    /// Reduces `count` elements over the group; `reduction` is one of the `REDUCE_` constants.
    ///
    /// # Safety
    /// `src` and `dst` are addresses of `count` elements on the device of `rank`; they may be equal.
    unsafe fn all_reduce(
        &self,
        rank: u32,
        stream: Option<&S>,
        src: *const c_void,
        dst: *mut c_void,
        count: usize,
        dtype: DType,
        reduction: ffi::Reduction,
    ) -> Result<()>;

    /// Gathers `count` elements of every member, by rank, into `dst`.
    ///
    /// # Safety
    /// `src` is the address of `count` elements on the device of `rank`, `dst` that of `count` times the group's size.
    unsafe fn all_gather(
        &self,
        rank: u32,
        stream: Option<&S>,
        src: *const c_void,
        dst: *mut c_void,
        count: usize,
        dtype: DType,
    ) -> Result<()>;
}
