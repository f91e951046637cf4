//! Streams, events and captured work of an opened device.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use tenon_plugin_api::provider::{Event, Stream, device_ref};
use tenon_plugin_api::{MemoryKind, Result, ffi};

use crate::device::GpuDevice;
use crate::driver::{Graph, Mark, Queue, Side};
use crate::opened::Opened;

/// An in-order queue of a device, and the memory that executables on it compute in.
pub struct GpuStream {
    pub(crate) opened: Arc<Opened>,
    pub(crate) queue: Queue,
    arena: Mutex<Arena>,
}

/// Scratch memory of a queue. Work of one queue is done in order, so all its executables share one block.
#[derive(Default)]
struct Arena {
    address: u64,
    bytes: usize,
    /// Smaller blocks that queued work may still use.
    retired: Vec<u64>,
    /// A block of its own that holds zeros between launches, and its size.
    zeroed: (u64, usize),
}

impl GpuStream {
    pub(crate) fn new(opened: Arc<Opened>) -> Result<GpuStream> {
        let queue = opened.driver.queue(opened.context)?;
        Ok(GpuStream { opened, queue, arena: Mutex::default() })
    }

    /// Scratch memory of at least `bytes` bytes for work that is queued next.
    pub(crate) fn arena(&self, bytes: usize) -> Result<u64> {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > arena.bytes {
            let address = self.opened.pool.allocate(bytes)?;
            if arena.bytes > 0 {
                let old = arena.address;
                arena.retired.push(old);
            }
            (arena.address, arena.bytes) = (address, bytes);
        }
        Ok(arena.address)
    }

    /// At least `bytes` bytes that are zero for the launch that is queued next, which leaves them zero.
    pub(crate) fn zeroed(&self, bytes: usize) -> Result<u64> {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > arena.zeroed.1 {
            let address = self.opened.pool.allocate(bytes)?;
            if arena.zeroed.1 > 0 {
                let old = arena.zeroed.0;
                arena.retired.push(old);
            }
            arena.zeroed = (address, bytes);
            let (driver, context) = (&self.opened.driver, self.opened.context);
            // SAFETY: the block was just allocated with that many bytes.
            unsafe { driver.zero(context, self.queue, address, bytes)? };
        }
        Ok(arena.zeroed.0)
    }
}

impl Drop for GpuStream {
    fn drop(&mut self) {
        self.opened.driver.destroy_queue(self.opened.context, self.queue);
        let arena = std::mem::take(&mut *self.arena.lock().unwrap_or_else(PoisonError::into_inner));
        let current = (arena.bytes > 0).then_some(arena.address);
        let zeroed = (arena.zeroed.1 > 0).then_some(arena.zeroed.0);
        for address in arena.retired.into_iter().chain(current).chain(zeroed) {
            // SAFETY: the pool gave it, and the queue's work is done.
            unsafe { self.opened.pool.free(address) };
        }
    }
}

/// The end of a copy that `kind` and `data` name.
///
/// # Safety
/// `device` is NULL or an open device of this provider.
unsafe fn side(own: &Opened, kind: u32, data: *mut c_void, device: *mut ffi::Device) -> Result<Side> {
    Ok(match MemoryKind::from_number(kind)? {
        MemoryKind::Host | MemoryKind::Pinned => Side::Host(data),
        MemoryKind::Device => {
            // SAFETY: the caller vouches for the handle.
            let peer = unsafe { device_ref::<GpuDevice>(device) };
            let context = peer.map_or(own.context, |peer| peer.opened.context);
            Side::Device(context, data.addr() as u64)
        }
    })
}

/// Queues `copies`.
///
/// # Safety
/// As [`Stream::copy`].
pub(crate) unsafe fn queue_copies(opened: &Opened, queue: Queue, copies: &[ffi::Copy]) -> Result<()> {
    for copy in copies.iter().filter(|copy| copy.bytes != 0) {
        // SAFETY: the caller vouches for handles and addresses.
        unsafe {
            let to = side(opened, copy.dst_memory, copy.dst, copy.dst_device)?;
            let from = side(opened, copy.src_memory, copy.src.cast_mut(), copy.src_device)?;
            opened.driver.copy(opened.context, queue, to, from, copy.bytes)?;
        }
    }
    Ok(())
}

impl Stream for GpuStream {
    type Event = GpuEvent;
    type Recording = GpuRecording;

    fn synchronize(&self) -> Result<()> {
        self.opened.driver.synchronize(self.opened.context, self.queue)
    }

    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { queue_copies(&self.opened, self.queue, copies) }
    }

    fn record(&self, event: &GpuEvent) -> Result<()> {
        self.opened.driver.record(self.opened.context, self.queue, event.mark)
    }

    fn wait(&self, event: &GpuEvent) -> Result<()> {
        self.opened.driver.wait(self.opened.context, self.queue, event.mark)
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let address = self.opened.driver.allocate_ordered(self.opened.context, self.queue, bytes.max(1))?;
        Ok(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    unsafe fn free(&self, data: *mut c_void) -> Result<()> {
        // SAFETY: the caller vouches for the origin.
        unsafe { self.opened.driver.free_ordered(self.opened.context, self.queue, data.addr() as u64) }
    }

    fn capture_begin(&self) -> Result<()> {
        self.opened.driver.capture_begin(self.opened.context, self.queue)
    }

    fn capture_end(&self) -> Result<GpuRecording> {
        let graph = self.opened.driver.capture_end(self.opened.context, self.queue)?;
        Ok(GpuRecording { opened: self.opened.clone(), graph })
    }

    fn launch(&self, recording: &GpuRecording) -> Result<()> {
        self.opened.driver.start(self.opened.context, recording.graph, self.queue)
    }
}

/// A point in a stream.
pub struct GpuEvent {
    opened: Arc<Opened>,
    mark: Mark,
}

impl GpuEvent {
    pub(crate) fn new(opened: Arc<Opened>) -> Result<GpuEvent> {
        let mark = opened.driver.mark(opened.context, false)?;
        Ok(GpuEvent { opened, mark })
    }
}

impl Event for GpuEvent {
    fn query(&self) -> Result<bool> {
        self.opened.driver.is_reached(self.opened.context, self.mark)
    }

    fn synchronize(&self) -> Result<()> {
        self.opened.driver.synchronize_mark(self.opened.context, self.mark)
    }
}

impl Drop for GpuEvent {
    fn drop(&mut self) {
        self.opened.driver.destroy_mark(self.opened.context, self.mark);
    }
}

/// Captured work of a stream.
pub struct GpuRecording {
    opened: Arc<Opened>,
    pub(crate) graph: Graph,
}

impl GpuRecording {
    pub(crate) fn new(opened: Arc<Opened>, graph: Graph) -> GpuRecording {
        GpuRecording { opened, graph }
    }
}

impl Drop for GpuRecording {
    fn drop(&mut self) {
        self.opened.driver.destroy_graph(self.opened.context, self.graph);
    }
}
