//! Memory of a device, and copies.

use super::device::Device;
use super::error::Result;
use super::provider::ProviderInner;
use super::table::mandatory;
use crate::ffi;
use alloc::format;
use alloc::sync::Arc;
use core::ffi::c_void;

/// Memory that a device gave; freed on drop, when no queued work may use it any more.
pub struct Memory {
    data: *mut c_void,
    bytes: usize,
    kind: ffi::Memory,
    device: Arc<Device>,
}

// SAFETY: memory is an address; following it is an unsafe act of whoever does it, and any thread may free it.
unsafe impl Send for Memory {}
// SAFETY: as for Send.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn allocate(device: &Arc<Device>, kind: ffi::Memory, bytes: usize) -> Result<Memory> {
        let provider = device.inner();
        let mut data = core::ptr::null_mut();
        // SAFETY: the device is open and data is writable.
        unsafe {
            provider.check(mandatory!(provider.table, allocate)(device.handle(), kind, bytes, &mut data))?
        };
        if data.is_null() && bytes != 0 {
            return Err(provider.broken(format!("it allocated {bytes} bytes and returned NULL")));
        }
        Ok(Memory { data, bytes, kind, device: device.clone() })
    }

    /// A host or a device address, as [`Memory::kind`] says.
    pub fn as_ptr(&self) -> *mut c_void {
        self.data
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// A `MEMORY_` constant.
    pub fn kind(&self) -> ffi::Memory {
        self.kind
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let table = &self.device.inner().table;
        // SAFETY: the memory is owned and came from this device with this kind.
        unsafe { mandatory!(table, free)(self.device.handle(), self.kind, self.data) }
    }
}

impl core::fmt::Debug for Memory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Memory({} bytes on {:?})", self.bytes, self.device)
    }
}

/// One copy of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    pub dst: *mut c_void,
    pub src: *const c_void,
    pub bytes: usize,
    /// A `MEMORY_` constant.
    pub dst_memory: ffi::Memory,
    /// A `MEMORY_` constant.
    pub src_memory: ffi::Memory,
    /// The device that `dst` belongs to; `None` for host memory.
    pub dst_device: Option<&'a Device>,
    /// The device that `src` belongs to; `None` for host memory.
    pub src_device: Option<&'a Device>,
}

/// Queues copies on `stream`, or does them now when it is NULL.
///
/// # Safety
/// `stream` is NULL or a live stream of the provider, and each copy names memory that may be read and written.
pub(super) unsafe fn copy(
    provider: &ProviderInner,
    stream: *mut ffi::Stream,
    copies: &[Copy<'_>],
) -> Result<()> {
    const NONE: ffi::Copy = ffi::Copy {
        dst: core::ptr::null_mut(),
        src: core::ptr::null(),
        bytes: 0,
        dst_memory: 0,
        src_memory: 0,
        dst_device: core::ptr::null_mut(),
        src_device: core::ptr::null_mut(),
    };
    let handle = |device: Option<&Device>| device.map_or(core::ptr::null_mut(), Device::handle);
    // In pieces of the stack's size: almost every call has one copy.
    for piece in copies.chunks(8) {
        let mut raw = [NONE; 8];
        for (raw, copy) in raw.iter_mut().zip(piece) {
            *raw = ffi::Copy {
                dst: copy.dst,
                src: copy.src,
                bytes: copy.bytes,
                dst_memory: copy.dst_memory,
                src_memory: copy.src_memory,
                dst_device: handle(copy.dst_device),
                src_device: handle(copy.src_device),
            };
        }
        // SAFETY: the caller vouches for stream and addresses; raw holds as many copies as the piece.
        unsafe { provider.check(mandatory!(provider.table, copy)(stream, raw.as_ptr(), piece.len()))? };
    }
    Ok(())
}
