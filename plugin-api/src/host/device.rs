//! An opened device.

use super::error::Result;
use super::executable::{CompileArgs, Executable};
use super::memory::{Copy, Memory};
use super::provider::{Provider, ProviderInner};
use super::stream::{Event, Stream};
use super::table::mandatory;
use super::{Claims, Graph};
use crate::{DeviceInfo, MemoryInfo, TimelineEntry, ffi};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;

/// An opened device; dropping the last reference to it and to what was made from it closes it.
pub struct Device {
    handle: *mut ffi::Device,
    provider: Provider,
    info: DeviceInfo,
}

// SAFETY: the header lets any thread call the functions used here; the timeline's are guarded by its docs.
unsafe impl Send for Device {}
// SAFETY: as for Send.
unsafe impl Sync for Device {}

impl Device {
    /// # Safety
    /// `handle` is an open device of `provider`, given up to the result.
    pub(super) unsafe fn new(handle: *mut ffi::Device, provider: Provider, info: DeviceInfo) -> Device {
        Device { handle, provider, info }
    }

    /// Facts about the device, as the provider listed them.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    pub fn provider_name(&self) -> &str {
        self.provider.name()
    }

    pub(super) fn handle(&self) -> *mut ffi::Device {
        self.handle
    }

    pub(super) fn inner(&self) -> &ProviderInner {
        &self.provider.inner
    }

    /// Asks for every node of `graph` whether the device would run it. `target` is empty for the device itself.
    pub fn claim(&self, graph: Graph<'_>, target: &str) -> Result<Claims> {
        super::claim::claim(self.inner(), self.handle, target, graph)
    }

    /// Compiles a subgraph of nodes that the device claimed.
    pub fn compile(self: &Arc<Self>, args: &CompileArgs<'_>) -> Result<Executable> {
        Executable::compile(&self.provider, Some(self), args)
    }

    /// Restores what [`Executable::serialize`] wrote; `args` is what it was compiled with.
    pub fn deserialize(self: &Arc<Self>, args: &CompileArgs<'_>, bytes: &[u8]) -> Result<Executable> {
        Executable::deserialize(self, args, bytes)
    }

    /// Memory of kind `kind` (a `MEMORY_` constant), not initialised.
    pub fn allocate(self: &Arc<Self>, kind: ffi::Memory, bytes: usize) -> Result<Memory> {
        Memory::allocate(self, kind, bytes)
    }

    /// Copies now: done on return.
    ///
    /// # Safety
    /// Each copy names `bytes` readable bytes at `src` and writable ones at `dst`, in the memory that it says.
    pub unsafe fn copy(&self, copies: &[Copy<'_>]) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { super::memory::copy(self.inner(), core::ptr::null_mut(), copies) }
    }

    /// A new stream.
    pub fn stream(self: &Arc<Self>) -> Result<Stream> {
        Stream::new(self)
    }

    /// A stream over a native queue that belongs to somebody else.
    ///
    /// # Safety
    /// `native` is a queue of the kind that the provider documents, and outlives the stream.
    pub unsafe fn wrap_stream(self: &Arc<Self>, native: *mut c_void) -> Result<Stream> {
        // SAFETY: the caller vouches for the queue.
        unsafe { Stream::wrap(self, native) }
    }

    /// A new event.
    pub fn event(self: &Arc<Self>) -> Result<Event> {
        Event::new(self)
    }

    /// Memory figures.
    pub fn memory_info(&self) -> Result<MemoryInfo> {
        let mut info = ffi::MemoryInfo {
            struct_size: size_of::<ffi::MemoryInfo>(),
            total_bytes: 0,
            free_bytes: 0,
            used_bytes: 0,
            peak_bytes: 0,
        };
        // SAFETY: the device is open and info is writable.
        unsafe { self.inner().check(mandatory!(self.inner().table, memory_info)(self.handle, &mut info))? };
        Ok(MemoryInfo {
            total_bytes: info.total_bytes,
            free_bytes: info.free_bytes,
            used_bytes: info.used_bytes,
            peak_bytes: info.peak_bytes,
        })
    }

    /// What the attention kernels take; [`ffi::AttentionCaps::NONE`] when there are none.
    pub fn attention_caps(&self) -> Result<ffi::AttentionCaps> {
        let mut caps = ffi::AttentionCaps::NONE;
        if let Some(attention_caps) = self.inner().table.api.attention_caps {
            // SAFETY: the device is open and caps is writable.
            unsafe { self.inner().check(attention_caps(self.handle, &mut caps))? };
        }
        Ok(caps)
    }

    /// Starts keeping entries for everything that runs on the device. Calls of this and of [`Device::timeline_stop`] on
    /// one device must not overlap.
    pub fn timeline_start(&self) -> Result<()> {
        let Some(start) = self.inner().table.api.timeline_start else {
            return Err(self.inner().missing("timeline"));
        };
        // SAFETY: the device is open.
        unsafe { self.inner().check(start(self.handle)) }
    }

    /// Stops, waits for the work and hands over the entries in order of start.
    pub fn timeline_stop(&self) -> Result<Vec<TimelineEntry>> {
        let Some(stop) = self.inner().table.api.timeline_stop else {
            return Err(self.inner().missing("timeline"));
        };
        let mut entries: Vec<TimelineEntry> = Vec::new();
        let sink = ffi::TimelineSink {
            struct_size: size_of::<ffi::TimelineSink>(),
            context: (&raw mut entries).cast(),
            entry: Some(on_entry),
        };
        // SAFETY: the device is open, the sink is valid for the call and its context is what the callback expects.
        unsafe { self.inner().check(stop(self.handle, &sink))? };
        Ok(entries)
    }
}

unsafe extern "C" fn on_entry(context: *mut c_void, entry: *const ffi::TimelineEntry) {
    if entry.is_null() {
        return;
    }
    // SAFETY: `timeline_stop` passed its vector and does not touch it during the call; the entry is valid for the call,
    // with the size it says, and members behind it read as zero.
    unsafe {
        let entries = &mut *context.cast::<Vec<TimelineEntry>>();
        entries.push(TimelineEntry::from_ffi(&super::table::read_sized(entry, (*entry).struct_size)));
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the handle is owned, and everything made from it held a reference and is gone.
        unsafe { mandatory!(self.inner().table, close_device)(self.handle) }
    }
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Device({}:{} {})", self.provider_name(), self.info.index, self.info.name)
    }
}
