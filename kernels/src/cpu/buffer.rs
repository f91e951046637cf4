//! Owned, cache-line aligned storage for packed operands, on huge pages where the system grants them.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const CACHE_LINE_BYTES: usize = 64;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A zero-initialised slice of plain numbers, 64-byte aligned; 2 MiB aligned and advised onto huge pages when large.
pub struct AlignedBuffer<T: Pod> {
    pointer: NonNull<T>,
    len: usize,
    layout: Layout,
}

/// Plain numbers: any byte pattern is a value and nothing needs dropping.
///
/// # Safety
/// Every byte pattern must be a valid value of the type, and its alignment at most 64.
pub unsafe trait Pod: Copy + Send + Sync + 'static {}

macro_rules! pod {
    ($($t:ty),*) => { $(
        // SAFETY: every bit pattern is a value of a numeric type.
        unsafe impl Pod for $t {}
    )* };
}
pod!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, half::f16, half::bf16);

// SAFETY: the buffer owns its memory and T is Send.
unsafe impl<T: Pod> Send for AlignedBuffer<T> {}
// SAFETY: shared access is read-only and T is Sync.
unsafe impl<T: Pod> Sync for AlignedBuffer<T> {}

impl<T: Pod> AlignedBuffer<T> {
    /// `len` zeros.
    ///
    /// # Panics
    /// When `len` elements exceed the address space.
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer size exceeds the address space");
        let huge = bytes >= 2 * HUGE_PAGE_BYTES;
        let align = if huge { HUGE_PAGE_BYTES } else { CACHE_LINE_BYTES };
        let size = bytes.next_multiple_of(CACHE_LINE_BYTES).max(CACHE_LINE_BYTES);
        let layout = Layout::from_size_align(size, align).expect("buffer size exceeds the address space");
        // SAFETY: the layout has non-zero size.
        let raw = unsafe { if huge { alloc(layout) } else { alloc_zeroed(layout) } };
        let Some(pointer) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        if huge {
            advise_huge_pages(raw, size);
            // SAFETY: `raw` owns `size` bytes; they are touched only after the advice so that huge pages back them.
            unsafe { raw.write_bytes(0, size) };
        }
        Self { pointer, len, layout }
    }

    /// Bytes of memory held.
    pub fn allocated_bytes(&self) -> usize {
        self.layout.size()
    }
}

impl<T: Pod> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout and not yet freed.
        unsafe { dealloc(self.pointer.as_ptr().cast(), self.layout) }
    }
}

impl<T: Pod> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the pointer covers `len` initialised elements.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the pointer covers `len` initialised elements and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(start: *mut u8, bytes: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(address: *mut std::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    // SAFETY: the range is one allocation of ours and the advice changes no contents; a refusal is harmless.
    let _ = unsafe { madvise(start.cast(), bytes, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_start: *mut u8, _bytes: usize) {}

/// Largest scratch a thread keeps between calls.
const KEPT_BYTES: usize = 64 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<AlignedBuffer<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with scratch kept by the thread between calls; the contents are unspecified. Calls may nest.
pub(crate) fn with_scratch<T: Pod, R>(len: usize, body: impl FnOnce(&mut [T]) -> R) -> R {
    let floats = (len * size_of::<T>()).div_ceil(size_of::<f32>());
    let kept = SCRATCH.with_borrow_mut(Vec::pop);
    let mut buffer = match kept {
        Some(buffer) if buffer.len() >= floats => buffer,
        _ => AlignedBuffer::zeroed(floats.next_multiple_of(4096)),
    };
    // SAFETY: the buffer is aligned for every `Pod`, holds at least `len` of them, and any bytes are a value.
    let result = body(unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<T>(), len) });
    if buffer.allocated_bytes() <= KEPT_BYTES {
        SCRATCH.with_borrow_mut(|kept| kept.push(buffer));
    }
    result
}
