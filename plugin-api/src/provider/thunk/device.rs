//! Functions of the table about an opened device: memory, attention capability, timeline.

use super::super::host_memory;
use super::{destroy, null, object, put, status};
use crate::provider::{Device, Export, Provider, StreamOf};
use crate::view::slice_at;
use crate::{MemoryKind, Result, ffi};
use core::ffi::c_void;

/// The device behind a handle.
///
/// # Safety
/// `handle` is NULL or a device of this table that lives for `'a`.
unsafe fn device<'a, P: Provider>(handle: *mut ffi::Device) -> Result<&'a P::Device> {
    // SAFETY: the caller vouches for the handle.
    unsafe { object(handle, "device") }
}

pub unsafe extern "C" fn close_device<P: Export>(handle: *mut ffi::Device) {
    // SAFETY: the header: the caller gives the device up.
    unsafe { destroy::<P, P::Device, _>(handle) }
}

pub unsafe extern "C" fn memory_info<P: Export>(
    handle: *mut ffi::Device,
    info: *mut ffi::MemoryInfo,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives and info is writable.
    status::<P>(|| unsafe {
        let out = info.as_mut().ok_or_else(|| null("memory_info: info"))?;
        crate::view::covers::<ffi::MemoryInfo>(out.struct_size, "memory info")?;
        let figures = device::<P>(handle)?.memory_info()?;
        out.total_bytes = figures.total_bytes;
        out.free_bytes = figures.free_bytes;
        out.used_bytes = figures.used_bytes;
        out.peak_bytes = figures.peak_bytes;
        Ok(())
    })
}

pub unsafe extern "C" fn allocate<P: Export>(
    handle: *mut ffi::Device,
    memory: ffi::Memory,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives and data is writable.
    status::<P>(|| unsafe {
        if data.is_null() {
            return Err(null("allocate: data"));
        }
        let block = device::<P>(handle)?.allocate(MemoryKind::from_number(memory)?, bytes)?;
        put(data, "allocate: data", block)
    })
}

pub unsafe extern "C" fn free<P: Export>(handle: *mut ffi::Device, memory: ffi::Memory, data: *mut c_void) {
    // SAFETY: the header: the device lives and data came from allocate with the same kind.
    let _failed = P::guard(|| unsafe {
        if !data.is_null() {
            device::<P>(handle)?.free(MemoryKind::from_number(memory)?, data);
        }
        Ok::<(), crate::Error>(())
    });
}

pub unsafe extern "C" fn copy<P: Export>(
    stream: *mut ffi::Stream,
    copies: *const ffi::Copy,
    count: usize,
) -> *mut ffi::Status {
    use crate::provider::Stream;
    // SAFETY: the header: the stream lives, and each copy names memory that may be read and written.
    status::<P>(|| unsafe {
        let copies = slice_at(copies, count);
        if let Some(stream) = stream.cast::<StreamOf<P>>().as_ref() {
            return stream.copy(copies);
        }
        for run in copies.chunk_by(|a, b| owner(a) == owner(b)) {
            match owner(&run[0]).cast::<P::Device>().as_ref() {
                Some(device) => device.copy(run)?,
                None => host_memory::copy(run),
            }
        }
        Ok(())
    })
}

/// The device that does a copy without a stream: the destination's, else the source's, NULL between host buffers.
fn owner(copy: &ffi::Copy) -> *mut ffi::Device {
    if copy.dst_device.is_null() { copy.src_device } else { copy.dst_device }
}

pub unsafe extern "C" fn attention_caps<P: Export>(
    handle: *mut ffi::Device,
    caps: *mut ffi::AttentionCaps,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives and caps is writable.
    status::<P>(|| unsafe {
        let out = caps.as_mut().ok_or_else(|| null("attention_caps: caps"))?;
        crate::view::covers::<ffi::AttentionCaps>(out.struct_size, "attention caps")?;
        let struct_size = out.struct_size;
        *out = ffi::AttentionCaps { struct_size, ..device::<P>(handle)?.attention_caps()? };
        Ok(())
    })
}

pub unsafe extern "C" fn timeline_start<P: Export>(handle: *mut ffi::Device) -> *mut ffi::Status {
    // SAFETY: the header: the device lives.
    status::<P>(|| unsafe { device::<P>(handle)?.timeline_start() })
}

pub unsafe extern "C" fn timeline_stop<P: Export>(
    handle: *mut ffi::Device,
    sink: *const ffi::TimelineSink,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives, the sink is readable and its function takes its context.
    status::<P>(|| unsafe {
        let sink = sink.as_ref().ok_or_else(|| null("timeline_stop: sink"))?;
        crate::view::covers::<ffi::TimelineSink>(sink.struct_size, "timeline sink")?;
        let write = sink.entry.ok_or_else(|| null("timeline_stop: the sink's function"))?;
        let mut entries = device::<P>(handle)?.timeline_stop()?;
        entries.sort_by_key(|entry| entry.start_ns);
        for entry in &entries {
            write(sink.context, &entry.to_ffi());
        }
        Ok(())
    })
}
