//! Key-value pools, sampling and collectives of a device.

use super::device::Device;
use super::error::{Result, unnamed};
use super::stream::{Stream, made};
use crate::{DType, ffi};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;

/// A pool of key-value pages in device memory.
pub struct KvPool {
    handle: *mut ffi::KvPool,
    device: Arc<Device>,
}

// SAFETY: a pool is an address; copies are bound to their stream, and dropping needs the only owner.
unsafe impl Send for KvPool {}
// SAFETY: as for Send.
unsafe impl Sync for KvPool {}

impl KvPool {
    fn new(device: &Arc<Device>, args: &ffi::KvPoolArgs) -> Result<KvPool> {
        let inner = device.inner();
        let create = inner.table.api.kv_pool_create.ok_or_else(|| inner.missing("key-value pools"))?;
        let mut handle = null_mut();
        // SAFETY: the device is open, args is readable for the call and handle is writable.
        unsafe { inner.check(create(device.handle(), args, &mut handle))? };
        Ok(KvPool { handle: made(inner, handle, "key-value pool")?, device: device.clone() })
    }

    /// The device address of the pool and its size in bytes.
    pub fn data(&self) -> Result<(*mut c_void, usize)> {
        let inner = self.device.inner();
        let get = inner.table.api.kv_pool_data.ok_or_else(|| inner.missing("key-value pools"))?;
        let (mut data, mut bytes) = (null_mut(), 0);
        // SAFETY: the pool lives and both out pointers are writable.
        unsafe { inner.check(get(self.handle, &mut data, &mut bytes))? };
        Ok((data, bytes))
    }

    /// Copies whole pages in stream order; each pair is (from, to).
    pub fn copy_pages(&self, stream: &Stream, pairs: &[[u64; 2]]) -> Result<()> {
        let inner = self.device.inner();
        let copy = inner.table.api.kv_pool_copy_pages.ok_or_else(|| inner.missing("key-value pools"))?;
        // SAFETY: pool and stream live, and pairs holds two numbers a pair.
        unsafe { inner.check(copy(self.handle, stream.handle(), pairs.as_ptr().cast(), pairs.len())) }
    }
}

impl Drop for KvPool {
    fn drop(&mut self) {
        if let Some(destroy) = self.device.inner().table.api.kv_pool_destroy {
            // SAFETY: the handle is owned.
            unsafe { destroy(self.handle) }
        }
    }
}

impl Device {
    /// A pool of key-value pages.
    pub fn kv_pool(self: &Arc<Self>, args: &ffi::KvPoolArgs) -> Result<KvPool> {
        KvPool::new(self, args)
    }

    /// Draws one token a sequence; `args.stream` is replaced by `stream`.
    ///
    /// # Safety
    /// The addresses in `args` name device buffers of the sizes that the header says, until the work is done.
    pub unsafe fn sample(&self, stream: &Stream, args: &ffi::SampleArgs) -> Result<()> {
        let sample = self.inner().table.api.sample.ok_or_else(|| self.inner().missing("sampling"))?;
        let args = ffi::SampleArgs { stream: stream.handle(), ..*args };
        // SAFETY: device and stream live; the caller vouches for the buffers.
        unsafe { self.inner().check(sample(self.handle(), &args)) }
    }
}

/// Devices that run collectives together.
pub struct Group {
    handle: *mut ffi::Group,
    devices: Vec<Arc<Device>>,
}

// SAFETY: collectives are bound to their stream, and dropping needs the only owner.
unsafe impl Send for Group {}
// SAFETY: as for Send.
unsafe impl Sync for Group {}

impl Group {
    /// Joins devices of one provider; a device's rank is its position.
    ///
    /// # Errors
    /// When there is no device, when the devices are not of one provider, and when it has no collectives.
    pub fn new(devices: &[Arc<Device>]) -> Result<Group> {
        let first = devices.first().ok_or_else(|| unnamed("a group needs at least one device".into()))?;
        let inner = first.inner();
        let create = inner.table.api.group_create.ok_or_else(|| inner.missing("collectives"))?;
        let same = |device: &&Arc<Device>| core::ptr::eq(device.inner().table.address, inner.table.address);
        if let Some(other) = devices.iter().find(|device| !same(device)) {
            let name = other.provider_name();
            return Err(inner.missing(&alloc::format!("collectives with devices of provider '{name}'")));
        }
        let handles: Vec<*mut ffi::Device> = devices.iter().map(|device| device.handle()).collect();
        let mut handle = null_mut();
        // SAFETY: the devices are open and handle is writable.
        unsafe { inner.check(create(handles.as_ptr(), handles.len(), &mut handle))? };
        Ok(Group { handle: made(inner, handle, "group")?, devices: devices.to_vec() })
    }

    /// Reduces `count` elements over the group; every member calls it.
    ///
    /// # Safety
    /// `src` and `dst` are addresses of `count` elements on the device of `rank` until the work is done.
    pub unsafe fn all_reduce(
        &self,
        rank: u32,
        stream: &Stream,
        src: *const c_void,
        dst: *mut c_void,
        count: usize,
        dtype: DType,
        reduction: ffi::Reduction,
    ) -> Result<()> {
        let inner = self.devices[0].inner();
        let reduce = inner.table.api.all_reduce.ok_or_else(|| inner.missing("collectives"))?;
        // SAFETY: group and stream live; the caller vouches for the buffers.
        unsafe {
            inner.check(reduce(self.handle, rank, stream.handle(), src, dst, count, dtype as u32, reduction))
        }
    }

    /// Gathers `count` elements of every member, by rank, into `dst`.
    ///
    /// # Safety
    /// `src` is the address of `count` elements on the device of `rank`, `dst` that of `count` times the group's size,
    /// until the work is done.
    pub unsafe fn all_gather(
        &self,
        rank: u32,
        stream: &Stream,
        src: *const c_void,
        dst: *mut c_void,
        count: usize,
        dtype: DType,
    ) -> Result<()> {
        let inner = self.devices[0].inner();
        let gather = inner.table.api.all_gather.ok_or_else(|| inner.missing("collectives"))?;
        // SAFETY: group and stream live; the caller vouches for the buffers.
        unsafe { inner.check(gather(self.handle, rank, stream.handle(), src, dst, count, dtype as u32)) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(destroy) = self.devices[0].inner().table.api.group_destroy {
            // SAFETY: the handle is owned.
            unsafe { destroy(self.handle) }
        }
    }
}
