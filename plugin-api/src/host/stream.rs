//! Streams, events and recordings of a device.

use super::device::Device;
use super::error::{Error, Result};
use super::memory::Copy;
use super::provider::ProviderInner;
use super::table::mandatory;
use crate::ffi;
use alloc::format;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::null_mut;

/// An in-order queue of work on one device. Dropping it waits for its work.
///
/// `Send` and not `Sync`: one caller at a time queues work on a stream.
pub struct Stream {
    handle: *mut ffi::Stream,
    device: Arc<Device>,
}

// SAFETY: the header lets any thread queue work, one at a time, which `!Sync` ensures.
unsafe impl Send for Stream {}

impl Stream {
    pub(super) fn new(device: &Arc<Device>) -> Result<Stream> {
        let provider = device.inner();
        let mut handle = null_mut();
        // SAFETY: the device is open and handle is writable.
        unsafe { provider.check(mandatory!(provider.table, stream_create)(device.handle(), &mut handle))? };
        Ok(Stream { handle: made(provider, handle, "stream")?, device: device.clone() })
    }

    /// # Safety
    /// As `Device::wrap_stream`.
    pub(super) unsafe fn wrap(device: &Arc<Device>, native: *mut c_void) -> Result<Stream> {
        let provider = device.inner();
        let wrap =
            provider.table.api.stream_wrap.ok_or_else(|| provider.missing("streams over native queues"))?;
        let mut handle = null_mut();
        // SAFETY: the device is open, the caller vouches for the queue, and handle is writable.
        unsafe { provider.check(wrap(device.handle(), native, &mut handle))? };
        Ok(Stream { handle: made(provider, handle, "stream")?, device: device.clone() })
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn handle(&self) -> *mut ffi::Stream {
        self.handle
    }

    fn provider(&self) -> &ProviderInner {
        self.device.inner()
    }

    /// Returns when everything queued so far is done, with the first failure of that work if there was one.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives.
        unsafe { self.provider().check(mandatory!(self.provider().table, stream_synchronize)(self.handle)) }
    }

    /// Queues copies. Host memory that is not pinned may be staged: then the source is read before the return.
    ///
    /// # Safety
    /// Each copy names `bytes` readable bytes at `src` and writable ones at `dst` until the stream has done it.
    pub unsafe fn copy(&self, copies: &[Copy<'_>]) -> Result<()> {
        // SAFETY: the stream lives; the caller vouches for the addresses.
        unsafe { super::memory::copy(self.provider(), self.handle, copies) }
    }

    /// Places `event` after the work queued so far.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.same_provider(&event.device)?;
        // SAFETY: event and stream live and belong to one provider.
        unsafe {
            self.provider().check(mandatory!(self.provider().table, event_record)(event.handle, self.handle))
        }
    }

    /// Work queued after this call waits for `event`, perhaps one of another device of the provider.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.same_provider(&event.device)?;
        // SAFETY: event and stream live and belong to one provider.
        unsafe {
            self.provider().check(mandatory!(self.provider().table, event_wait)(event.handle, self.handle))
        }
    }

    /// Device memory that is valid for work queued after this call; ended by [`Stream::free`].
    pub fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let allocate = self.provider().table.api.allocate_ordered;
        let allocate = allocate.ok_or_else(|| self.provider().missing("stream-ordered allocation"))?;
        let mut data = null_mut();
        // SAFETY: the stream lives and data is writable.
        unsafe { self.provider().check(allocate(self.handle, bytes, &mut data))? };
        Ok(data)
    }

    /// Ends memory of [`Stream::allocate`] once the work queued so far is done.
    ///
    /// # Safety
    /// `data` came from a stream of the same device and is not used by work queued later.
    pub unsafe fn free(&self, data: *mut c_void) -> Result<()> {
        let free = self.provider().table.api.free_ordered;
        let free = free.ok_or_else(|| self.provider().missing("stream-ordered allocation"))?;
        // SAFETY: the stream lives and the caller vouches for data.
        unsafe { self.provider().check(free(self.handle, data)) }
    }

    /// From here to [`Stream::capture_end`] work queued on the stream is recorded and not run.
    pub fn capture_begin(&self) -> Result<()> {
        let begin =
            self.provider().table.api.capture_begin.ok_or_else(|| self.provider().missing("capture"))?;
        // SAFETY: the stream lives.
        unsafe { self.provider().check(begin(self.handle)) }
    }

    /// Ends recording.
    pub fn capture_end(&self) -> Result<Recording> {
        let end = self.provider().table.api.capture_end.ok_or_else(|| self.provider().missing("capture"))?;
        let mut handle = null_mut();
        // SAFETY: the stream lives and handle is writable.
        unsafe { self.provider().check(end(self.handle, &mut handle))? };
        Ok(Recording { handle: made(self.provider(), handle, "recording")?, device: self.device.clone() })
    }

    /// Queues recorded work, with the addresses it was recorded with.
    ///
    /// # Safety
    /// The memory that the recorded work reads and writes is still valid.
    pub unsafe fn launch(&self, recording: &Recording) -> Result<()> {
        self.same_provider(&recording.device)?;
        let launch =
            self.provider().table.api.recording_launch.ok_or_else(|| self.provider().missing("capture"))?;
        // SAFETY: recording and stream live; the caller vouches for the memory.
        unsafe { self.provider().check(launch(recording.handle, self.handle)) }
    }

    fn same_provider(&self, other: &Device) -> Result<()> {
        if core::ptr::eq(self.provider().table.address, other.inner().table.address) {
            return Ok(());
        }
        let error = format!("an object of provider '{}' was given to its stream", other.provider_name());
        Err(Error::new(&self.provider().name, crate::Error::invalid(error)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is owned.
        unsafe { mandatory!(self.provider().table, stream_destroy)(self.handle) }
    }
}

/// A point in a stream.
pub struct Event {
    handle: *mut ffi::Event,
    device: Arc<Device>,
}

// SAFETY: the header lets any thread query and await an event, and recording is bound to its stream.
unsafe impl Send for Event {}
// SAFETY: as for Send.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(device: &Arc<Device>) -> Result<Event> {
        let provider = device.inner();
        let mut handle = null_mut();
        // SAFETY: the device is open and handle is writable.
        unsafe { provider.check(mandatory!(provider.table, event_create)(device.handle(), &mut handle))? };
        Ok(Event { handle: made(provider, handle, "event")?, device: device.clone() })
    }

    /// True when the event has been reached.
    pub fn query(&self) -> Result<bool> {
        let provider = self.device.inner();
        // SAFETY: the event lives.
        match unsafe { provider.check(mandatory!(provider.table, event_query)(self.handle)) } {
            Ok(()) => Ok(true),
            Err(error) if error.code() == ffi::CODE_NOT_READY => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns when the event has been reached.
    pub fn synchronize(&self) -> Result<()> {
        let provider = self.device.inner();
        // SAFETY: the event lives.
        unsafe { provider.check(mandatory!(provider.table, event_synchronize)(self.handle)) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is owned.
        unsafe { mandatory!(self.device.inner().table, event_destroy)(self.handle) }
    }
}

/// A captured sequence of work. It is not running when it is dropped.
pub struct Recording {
    handle: *mut ffi::Recording,
    device: Arc<Device>,
}

// SAFETY: the header lets any thread launch a recording, one at a time, which `!Sync` ensures.
unsafe impl Send for Recording {}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(destroy) = self.device.inner().table.api.recording_destroy {
            // SAFETY: the handle is owned.
            unsafe { destroy(self.handle) }
        }
    }
}

/// `handle`, or an error when a provider made something and returned NULL.
pub(super) fn made<T>(provider: &ProviderInner, handle: *mut T, what: &str) -> Result<*mut T> {
    if handle.is_null() {
        return Err(provider.broken(format!("it made a {what} and returned NULL")));
    }
    Ok(handle)
}
