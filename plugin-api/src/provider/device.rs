//! What a provider implements for an opened device.

use super::{ClaimSink, CompileRequest, Executable, KvPool, Stream, host_memory};
use crate::{Error, GraphView, MemoryInfo, MemoryKind, Result, TimelineEntry, ffi};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;

/// An opened device. Dropping it closes it; the host first drops everything made from it.
pub trait Device: Send + Sync + Sized + 'static {
    type Stream: Stream;
    type Executable: Executable<Stream = Self::Stream>;

    /// Says for every node of `graph` whether this device would run it. Any thread.
    fn claim(&self, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()>;

    /// Compiles a subgraph of nodes claimed before. Any thread.
    fn compile(&self, request: &CompileRequest<'_>) -> Result<Self::Executable>;

    /// Restores what [`Executable::serialize`] wrote. A blob of another build, device or graph is `Unsupported`.
    /// [`Features::compile_cache`](super::Features::compile_cache).
    fn deserialize(&self, _request: &CompileRequest<'_>, _bytes: &[u8]) -> Result<Self::Executable> {
        Err(Error::unsupported("this device has no compile cache"))
    }

    /// Memory figures. Any thread.
    fn memory_info(&self) -> Result<MemoryInfo>;

    /// `bytes` bytes, aligned to 64 (256 for device memory). Ordinary host memory unless overridden, which is right for
    /// a device that shares it. Any thread.
    fn allocate(&self, _memory: MemoryKind, bytes: usize) -> Result<*mut c_void> {
        host_memory::allocate(bytes)
    }

    /// Ends memory that [`Device::allocate`] gave.
    ///
    /// # Safety
    /// `data` came from [`Device::allocate`] of this device with the same kind, and nobody uses it any more.
    unsafe fn free(&self, _memory: MemoryKind, data: *mut c_void) {
        // SAFETY: the caller vouches for the origin.
        unsafe { host_memory::free(data) }
    }

    /// Copies now: done on return. Bytes in host memory unless overridden. Any thread.
    ///
    /// # Safety
    /// Each copy names `bytes` readable bytes at `src` and writable ones at `dst`.
    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { host_memory::copy(copies) };
        Ok(())
    }

    /// A new stream.
    fn stream(&self) -> Result<Self::Stream>;

    /// A stream over a native queue that belongs to somebody else.
    /// [`Features::wrap_stream`](super::Features::wrap_stream).
    ///
    /// # Safety
    /// `native` is a queue of the kind that the provider documents and outlives the stream.
    unsafe fn wrap_stream(&self, _native: *mut c_void) -> Result<Self::Stream> {
        Err(Error::unsupported("this device has no native queues"))
    }

    /// A new event.
    fn event(&self) -> Result<<Self::Stream as Stream>::Event>;

    /// What the attention kernels take. [`Features::attention`](super::Features::attention).
    fn attention_caps(&self) -> Result<ffi::AttentionCaps> {
        Ok(ffi::AttentionCaps::NONE)
    }

    /// A pool of key-value pages. [`Features::kv_pool`](super::Features::kv_pool).
    fn kv_pool(&self, _args: &ffi::KvPoolArgs) -> Result<Box<dyn KvPool<Self::Stream>>> {
        Err(Error::unsupported("this device has no key-value pools"))
    }

    /// Draws one token a sequence. [`Features::sampling`](super::Features::sampling).
    ///
    /// # Safety
    /// The addresses in `args` are device addresses of buffers as large as the header says.
    unsafe fn sample(&self, _stream: Option<&Self::Stream>, _args: &ffi::SampleArgs) -> Result<()> {
        Err(Error::unsupported("this device does not sample"))
    }

    /// Starts keeping timeline entries. [`Features::timeline`](super::Features::timeline).
    fn timeline_start(&self) -> Result<()> {
        Err(Error::unsupported("this device keeps no timeline"))
    }

    /// Stops, waits for the work and hands over the entries, in any order.
    fn timeline_stop(&self) -> Result<Vec<TimelineEntry>> {
        Err(Error::unsupported("this device keeps no timeline"))
    }
}

/// The device that a handle of the contract names, or `None` for NULL: for the peer side of a copy.
///
/// # Safety
/// `handle` is NULL or came from a provider whose device type is `D`, and the device is open for `'a`.
pub unsafe fn device_ref<'a, D: Device>(handle: *mut ffi::Device) -> Option<&'a D> {
    // SAFETY: handles are boxed devices; the caller vouches for type and life.
    unsafe { handle.cast::<D>().as_ref() }
}
