//! Device memory: allocations with their own address ranges, so that an access outside of all of them is found.

use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{RwLock, RwLockReadGuard};

/// Where device addresses start: below the host's mappings, above its heap.
const FIRST_ADDRESS: u64 = 0x2000_0000_0000;
/// Between two allocations nothing is mapped, so that running past the end of one does not reach the next.
const GUARD_BYTES: u64 = 1 << 20;
const ALIGNMENT: u64 = 4096;
/// Small allocations start with bytes that are NaN in every float format, large ones with zeros.
const FILLED_BYTES: usize = 16 << 20;

/// Device memory, shared by all devices of a process.
pub struct Memory {
    inner: RwLock<Inner>,
}

struct Inner {
    /// Sorted by base.
    ranges: Vec<Range>,
    next: u64,
    used: u64,
    capacity: u64,
}

/// Mapped addresses.
pub(crate) struct Range {
    base: u64,
    len: u64,
    host: *mut u8,
    /// The bytes, unless the host owns them.
    _owned: Option<Vec<u64>>,
}

// SAFETY: `host` points to bytes that live as long as the range; all access from programs is by atomics.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

/// The mapped ranges while a launch runs; nothing is freed meanwhile.
pub(crate) struct View<'a> {
    inner: RwLockReadGuard<'a, Inner>,
}

/// A place in device memory that is known to be mapped.
#[derive(Clone, Copy)]
pub(crate) struct Place(*mut u8);

impl Memory {
    /// Memory of `capacity` bytes.
    pub fn new(capacity: u64) -> Memory {
        let inner = Inner { ranges: Vec::new(), next: FIRST_ADDRESS, used: 0, capacity };
        Memory { inner: RwLock::new(inner) }
    }

    /// Allocates `bytes` and returns their device address, which the host cannot dereference.
    ///
    /// # Errors
    /// [`Kind::OutOfMemory`] when the capacity is used up.
    pub fn allocate(&self, bytes: u64) -> Result<u64> {
        let mut inner = self.write_lock();
        if bytes > inner.capacity - inner.used {
            let free = inner.capacity - inner.used;
            return Err(Error::new(Kind::OutOfMemory, format!("{bytes} bytes asked for, {free} are free")));
        }
        let words = usize::try_from(bytes.div_ceil(8)).map_err(|_| too_large(bytes))?.max(1);
        let mut owned: Vec<u64> = Vec::new();
        owned.try_reserve_exact(words).map_err(|_| too_large(bytes))?;
        owned.resize(words, if words * 8 <= FILLED_BYTES { u64::MAX } else { 0 });
        let base = inner.next;
        inner.next = (base + bytes + GUARD_BYTES).next_multiple_of(ALIGNMENT);
        inner.used += bytes;
        let host = owned.as_mut_ptr().cast();
        inner.ranges.push(Range { base, len: bytes, host, _owned: Some(owned) });
        inner.ranges.sort_by_key(|range| range.base);
        Ok(base)
    }

    /// Frees an allocation or forgets a registered range; false when there is none at `address`.
    pub fn free(&self, address: u64) -> bool {
        let mut inner = self.write_lock();
        let Some(at) = inner.ranges.iter().position(|range| range.base == address) else { return false };
        let range = inner.ranges.remove(at);
        if range._owned.is_some() {
            inner.used -= range.len;
        }
        true
    }

    /// Maps host memory at its own address.
    ///
    /// # Safety
    /// `host` must be valid for reads and writes of `bytes` until [`Memory::free`] is called with its address, and
    /// the host must not access it while a launch runs.
    pub unsafe fn register(&self, host: *mut u8, bytes: u64) {
        let mut inner = self.write_lock();
        inner.ranges.push(Range { base: host as u64, len: bytes, host, _owned: None });
        inner.ranges.sort_by_key(|range| range.base);
    }

    /// Bytes not allocated.
    pub fn free_bytes(&self) -> u64 {
        let inner = self.read_lock();
        inner.capacity - inner.used
    }

    /// Base and length of the range that holds an address.
    pub fn range_of(&self, address: u64) -> Option<(u64, u64)> {
        let inner = self.read_lock();
        let at = find(&inner.ranges, address, 1)?;
        Some((inner.ranges[at].base, inner.ranges[at].len))
    }

    /// Copies `bytes` from the host to a device address.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let inner = self.write_lock();
        let to = inner.host(address, bytes.len())?;
        // SAFETY: `host` checked that the range holds the bytes; the lock excludes launches.
        unsafe { std::ptr::copy(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies from a device address to the host.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let inner = self.write_lock();
        let from = inner.host(address, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies between device addresses; the ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let inner = self.write_lock();
        let (to, from) = (inner.host(to, bytes)?, inner.host(from, bytes)?);
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    /// Sets `bytes` bytes to a value.
    pub fn fill(&self, address: u64, value: u8, bytes: usize) -> Result<()> {
        let inner = self.write_lock();
        let to = inner.host(address, bytes)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(to, value, bytes) };
        Ok(())
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { inner: self.read_lock() }
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_lock(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn host(&self, address: u64, bytes: usize) -> Result<*mut u8> {
        let at = find(&self.ranges, address, bytes as u64).ok_or_else(|| {
            Error::new(Kind::OutOfBounds, format!("no allocation holds {bytes} bytes at {address:#x}"))
        })?;
        let range = &self.ranges[at];
        // SAFETY: the range holds `address`.
        Ok(unsafe { range.host.add((address - range.base) as usize) })
    }
}

impl View<'_> {
    /// The place of `bytes` bytes at an address. `hint` is the range of the previous access.
    #[inline]
    pub fn place(&self, address: u64, bytes: u64, hint: &mut usize) -> Option<Place> {
        let ranges = &self.inner.ranges;
        let holds = ranges.get(*hint).is_some_and(|range| range.holds(address, bytes));
        if !holds {
            *hint = find(ranges, address, bytes)?;
        }
        let range = &ranges[*hint];
        // SAFETY: the range holds the address.
        Some(Place(unsafe { range.host.add((address - range.base) as usize) }))
    }

    /// Where an address lies relative to the nearest allocation below it.
    pub fn describe(&self, address: u64) -> String {
        let ranges = &self.inner.ranges;
        let after = ranges.partition_point(|range| range.base <= address);
        match after.checked_sub(1).map(|at| &ranges[at]) {
            Some(Range { base, len, .. }) => {
                format!("{} bytes into the allocation of {len} bytes at {base:#x}", address - base)
            }
            None => "below every allocation".to_string(),
        }
    }
}

impl Range {
    #[inline]
    fn holds(&self, address: u64, bytes: u64) -> bool {
        address >= self.base && bytes <= self.len && address - self.base <= self.len - bytes
    }
}

impl Place {
    /// For lanes whose access is out of a buffer's range; must not be loaded or stored.
    pub const NOWHERE: Place = Place(std::ptr::null_mut());

    /// The place of the first byte of a slice, which must outlive its use.
    pub fn inside(bytes: &mut [u8]) -> Place {
        Place(bytes.as_mut_ptr())
    }

    /// The place `bytes` further on, inside what was asked of [`View::place`].
    pub fn add(self, bytes: usize) -> Place {
        Place(self.0.wrapping_add(bytes))
    }

    #[inline]
    pub fn load32(self) -> u32 {
        if self.0.addr().is_multiple_of(4) {
            return self.atomic32().load(Relaxed);
        }
        u32::from(self.load16()) | u32::from(self.add(2).load16()) << 16
    }

    #[inline]
    pub fn store32(self, value: u32) {
        if self.0.addr().is_multiple_of(4) {
            return self.atomic32().store(value, Relaxed);
        }
        self.store16(value as u16);
        self.add(2).store16((value >> 16) as u16);
    }

    pub fn load16(self) -> u16 {
        if self.0.addr().is_multiple_of(2) {
            // SAFETY: the place is mapped and aligned.
            return unsafe { AtomicU16::from_ptr(self.0.cast()) }.load(Relaxed);
        }
        u16::from(self.load8()) | u16::from(self.add(1).load8()) << 8
    }

    pub fn store16(self, value: u16) {
        if self.0.addr().is_multiple_of(2) {
            // SAFETY: the place is mapped and aligned.
            return unsafe { AtomicU16::from_ptr(self.0.cast()) }.store(value, Relaxed);
        }
        self.store8(value as u8);
        self.add(1).store8((value >> 8) as u8);
    }

    pub fn load8(self) -> u8 {
        // SAFETY: the place is mapped.
        unsafe { AtomicU8::from_ptr(self.0) }.load(Relaxed)
    }

    pub fn store8(self, value: u8) {
        // SAFETY: the place is mapped.
        unsafe { AtomicU8::from_ptr(self.0) }.store(value, Relaxed);
    }

    pub fn is_aligned(self, bytes: usize) -> bool {
        self.0.addr().is_multiple_of(bytes)
    }

    /// The place as an atomic word; it must be aligned to 4 bytes.
    pub fn atomic32<'a>(self) -> &'a AtomicU32 {
        // SAFETY: the place is mapped while a launch runs and callers check the alignment.
        unsafe { AtomicU32::from_ptr(self.0.cast()) }
    }

    /// The place as an atomic pair of words; it must be aligned to 8 bytes.
    pub fn atomic64<'a>(self) -> &'a AtomicU64 {
        // SAFETY: as in `atomic32`.
        unsafe { AtomicU64::from_ptr(self.0.cast()) }
    }
}

fn find(ranges: &[Range], address: u64, bytes: u64) -> Option<usize> {
    let at = ranges.partition_point(|range| range.base <= address).checked_sub(1)?;
    ranges[at].holds(address, bytes).then_some(at)
}

fn too_large(bytes: u64) -> Error {
    Error::new(Kind::OutOfMemory, format!("the host cannot hold {bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_past_the_end_is_found() {
        let memory = Memory::new(1 << 20);
        let address = memory.allocate(10).expect("there is room");
        assert!(memory.write(address + 8, &[1, 2]).is_ok());
        assert_eq!(memory.write(address + 9, &[1, 2]).map_err(|e| e.kind()), Err(Kind::OutOfBounds));
        assert!(memory.free(address) && !memory.free(address));
        assert_eq!(memory.free_bytes(), 1 << 20);
    }

    #[test]
    fn more_than_the_capacity_is_refused() {
        let memory = Memory::new(100);
        assert_eq!(memory.allocate(101).map_err(|e| e.kind()), Err(Kind::OutOfMemory));
    }
}
