//! Memory of one run: 64-byte-aligned, reference-counted blocks that return to a free list when the last holder drops.
//!
//! Architecture invariant: a pool and its blocks belong to one run state and are used by one thread at a time, so the
//! counters are plain cells. Worker threads see slices only, never a [`Block`].

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment of every block, in bytes: one cache line, one AVX-512 register.
pub const ALIGN: usize = 64;

/// Blocks freed in one run are kept for the next up to this many bytes.
const KEEP_BYTES: usize = 1 << 30;

/// A source of blocks.
#[derive(Clone, Default)]
pub struct Pool(Rc<Shelves>);

#[derive(Default)]
struct Shelves {
    /// Free allocations by size class.
    free: RefCell<Vec<Vec<NonNull<u8>>>>,
    kept_bytes: Cell<usize>,
    live_bytes: Cell<usize>,
    peak_bytes: Cell<usize>,
}

/// A shared handle to one allocation. The bytes are always initialised.
pub struct Block {
    header: NonNull<Header>,
}

#[repr(C, align(64))]
struct Header {
    holders: Cell<u32>,
    class: u32,
    pool: Pool,
}

const HEADER: usize = size_of::<Header>();

impl Pool {
    /// An empty pool.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// A block of at least `bytes` bytes, its content unspecified but initialised.
    pub fn allocate(&self, bytes: usize) -> Block {
        let class = class_of(bytes);
        let capacity = capacity_of(class);
        let reused = self.0.free.borrow_mut().get_mut(class).and_then(Vec::pop);
        let memory = match reused {
            Some(memory) => {
                self.0.kept_bytes.set(self.0.kept_bytes.get() - capacity);
                memory
            }
            None => allocate_zeroed(capacity),
        };
        let live = self.0.live_bytes.get() + capacity;
        self.0.live_bytes.set(live);
        self.0.peak_bytes.set(self.0.peak_bytes.get().max(live));
        let header = memory.cast::<Header>();
        // SAFETY: the allocation holds a header followed by `capacity` bytes and nobody else refers to it.
        unsafe {
            header.write(Header { holders: Cell::new(1), class: class as u32, pool: self.clone() });
        }
        Block { header }
    }

    /// The most bytes that were in use at once, capacities counted.
    pub fn peak_bytes(&self) -> usize {
        self.0.peak_bytes.get()
    }

    fn take_back(&self, memory: NonNull<u8>, class: usize) {
        let capacity = capacity_of(class);
        self.0.live_bytes.set(self.0.live_bytes.get() - capacity);
        if self.0.kept_bytes.get() + capacity > KEEP_BYTES {
            // SAFETY: `memory` came from `allocate_zeroed(capacity)` and has no holder left.
            unsafe { dealloc(memory.as_ptr(), layout_of(capacity)) };
            return;
        }
        self.0.kept_bytes.set(self.0.kept_bytes.get() + capacity);
        let mut free = self.0.free.borrow_mut();
        if free.len() <= class {
            free.resize_with(class + 1, Vec::new);
        }
        free[class].push(memory);
    }
}

impl Drop for Shelves {
    fn drop(&mut self) {
        for (class, shelf) in self.free.get_mut().iter().enumerate() {
            for memory in shelf {
                // SAFETY: a shelf holds only allocations of its class that have no holder.
                unsafe { dealloc(memory.as_ptr(), layout_of(capacity_of(class))) };
            }
        }
    }
}

impl Block {
    /// The first byte, aligned to [`ALIGN`].
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the header is followed by the block's bytes within one allocation.
        unsafe { self.header.as_ptr().cast::<u8>().add(HEADER) }
    }

    /// Bytes this block can hold.
    pub fn capacity(&self) -> usize {
        capacity_of(self.header().class as usize)
    }

    /// True when this is the only handle.
    pub fn is_unique(&self) -> bool {
        self.header().holders.get() == 1
    }

    fn header(&self) -> &Header {
        // SAFETY: the header lives as long as any handle does.
        unsafe { self.header.as_ref() }
    }
}

impl Clone for Block {
    fn clone(&self) -> Block {
        let holders = &self.header().holders;
        holders.set(holders.get() + 1);
        Block { header: self.header }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let holders = self.header().holders.get();
        if holders > 1 {
            self.header().holders.set(holders - 1);
            return;
        }
        // SAFETY: this was the last handle; the header is read out once and the memory goes back to its pool.
        let header = unsafe { self.header.read() };
        header.pool.take_back(self.header.cast(), header.class as usize);
    }
}

/// Classes are powers of two split in four, from 64 bytes on.
fn class_of(bytes: usize) -> usize {
    let units = bytes.max(1).div_ceil(ALIGN);
    if units <= 4 {
        return units - 1;
    }
    let top = (units - 1).ilog2() as usize;
    let quarter = (units - 1) >> (top - 2);
    (top - 1) * 4 + (quarter - 4)
}

fn capacity_of(class: usize) -> usize {
    if class < 4 {
        return (class + 1) * ALIGN;
    }
    let (octave, quarter) = (class / 4, class % 4);
    ((5 + quarter) << (octave - 1)) * ALIGN
}

fn layout_of(capacity: usize) -> Layout {
    Layout::from_size_align(HEADER + capacity, ALIGN).expect("tensor sizes are checked against isize::MAX")
}

fn allocate_zeroed(capacity: usize) -> NonNull<u8> {
    let layout = layout_of(capacity);
    // SAFETY: the layout's size is at least the header's, so not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_with_at_most_a_quarter_to_spare() {
        for bytes in (0..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let capacity = capacity_of(class_of(bytes));
            assert!(capacity >= bytes, "{bytes} in {capacity}");
            assert!(bytes < 256 || capacity <= bytes + bytes / 4 + ALIGN, "{bytes} in {capacity}");
        }
    }

    #[test]
    fn a_dropped_block_is_handed_out_again() {
        let pool = Pool::new();
        let first = pool.allocate(100);
        let address = first.as_ptr();
        let second = first.clone();
        drop(first);
        assert_ne!(pool.allocate(100).as_ptr(), address);
        drop(second);
        let again = [pool.allocate(100), pool.allocate(100)];
        assert!(again.iter().any(|block| block.as_ptr() == address));
        assert_eq!(address as usize % ALIGN, 0);
    }
}
