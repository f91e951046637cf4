//! Functions of the table about streams, events and recordings.

use super::{destroy, hand_out, null, object, put, status};
use crate::provider::{Device, Event, Export, Provider, Stream, StreamOf};
use crate::{Code, Error, Result, ffi};
use core::ffi::c_void;

type EventOf<P> = <StreamOf<P> as Stream>::Event;
type RecordingOf<P> = <StreamOf<P> as Stream>::Recording;

unsafe fn stream<'a, P: Provider>(handle: *mut ffi::Stream) -> Result<&'a StreamOf<P>> {
    // SAFETY: the caller vouches for the handle.
    unsafe { object(handle, "stream") }
}

unsafe fn event<'a, P: Provider>(handle: *mut ffi::Event) -> Result<&'a EventOf<P>> {
    // SAFETY: the caller vouches for the handle.
    unsafe { object(handle, "event") }
}

pub unsafe extern "C" fn allocate_ordered<P: Export>(
    handle: *mut ffi::Stream,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: the header: the stream lives and data is writable.
    status::<P>(|| unsafe {
        if data.is_null() {
            return Err(null("allocate_ordered: data"));
        }
        put(data, "allocate_ordered: data", stream::<P>(handle)?.allocate(bytes)?)
    })
}

pub unsafe extern "C" fn free_ordered<P: Export>(
    handle: *mut ffi::Stream,
    data: *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: the header: the stream lives and data came from allocate_ordered.
    status::<P>(|| unsafe { stream::<P>(handle)?.free(data) })
}

pub unsafe extern "C" fn stream_create<P: Export>(
    device: *mut ffi::Device,
    out: *mut *mut ffi::Stream,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives and out is writable.
    status::<P>(|| unsafe {
        let device: &P::Device = object(device, "device")?;
        hand_out(out, "stream_create: stream", || device.stream())
    })
}

pub unsafe extern "C" fn stream_wrap<P: Export>(
    device: *mut ffi::Device,
    native: *mut c_void,
    out: *mut *mut ffi::Stream,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives, native outlives the stream, and out is writable.
    status::<P>(|| unsafe {
        let device: &P::Device = object(device, "device")?;
        hand_out(out, "stream_wrap: stream", || device.wrap_stream(native))
    })
}

pub unsafe extern "C" fn stream_destroy<P: Export>(handle: *mut ffi::Stream) {
    // SAFETY: the header: the caller gives the stream up.
    unsafe { destroy::<P, StreamOf<P>, _>(handle) }
}

pub unsafe extern "C" fn stream_synchronize<P: Export>(handle: *mut ffi::Stream) -> *mut ffi::Status {
    // SAFETY: the header: the stream lives.
    status::<P>(|| unsafe { stream::<P>(handle)?.synchronize() })
}

pub unsafe extern "C" fn event_create<P: Export>(
    device: *mut ffi::Device,
    out: *mut *mut ffi::Event,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives and out is writable.
    status::<P>(|| unsafe {
        let device: &P::Device = object(device, "device")?;
        hand_out(out, "event_create: event", || device.event())
    })
}

pub unsafe extern "C" fn event_destroy<P: Export>(handle: *mut ffi::Event) {
    // SAFETY: the header: the caller gives the event up.
    unsafe { destroy::<P, EventOf<P>, _>(handle) }
}

pub unsafe extern "C" fn event_record<P: Export>(
    handle: *mut ffi::Event,
    on: *mut ffi::Stream,
) -> *mut ffi::Status {
    // SAFETY: the header: event and stream live.
    status::<P>(|| unsafe { stream::<P>(on)?.record(event::<P>(handle)?) })
}

pub unsafe extern "C" fn event_wait<P: Export>(
    handle: *mut ffi::Event,
    on: *mut ffi::Stream,
) -> *mut ffi::Status {
    // SAFETY: the header: event and stream live.
    status::<P>(|| unsafe { stream::<P>(on)?.wait(event::<P>(handle)?) })
}

pub unsafe extern "C" fn event_query<P: Export>(handle: *mut ffi::Event) -> *mut ffi::Status {
    // SAFETY: the header: the event lives.
    status::<P>(|| match unsafe { event::<P>(handle)? }.query()? {
        true => Ok(()),
        false => Err(Error::new(Code::NotReady, "the event has not been reached")),
    })
}

pub unsafe extern "C" fn event_synchronize<P: Export>(handle: *mut ffi::Event) -> *mut ffi::Status {
    // SAFETY: the header: the event lives.
    status::<P>(|| unsafe { event::<P>(handle)?.synchronize() })
}

pub unsafe extern "C" fn capture_begin<P: Export>(handle: *mut ffi::Stream) -> *mut ffi::Status {
    // SAFETY: the header: the stream lives.
    status::<P>(|| unsafe { stream::<P>(handle)?.capture_begin() })
}

pub unsafe extern "C" fn capture_end<P: Export>(
    handle: *mut ffi::Stream,
    out: *mut *mut ffi::Recording,
) -> *mut ffi::Status {
    // SAFETY: the header: the stream lives and out is writable.
    status::<P>(|| unsafe {
        let stream = stream::<P>(handle)?;
        hand_out(out, "capture_end: recording", || stream.capture_end())
    })
}

pub unsafe extern "C" fn recording_launch<P: Export>(
    recording: *mut ffi::Recording,
    on: *mut ffi::Stream,
) -> *mut ffi::Status {
    // SAFETY: the header: recording and stream live.
    status::<P>(|| unsafe { stream::<P>(on)?.launch(object::<RecordingOf<P>, _>(recording, "recording")?) })
}

pub unsafe extern "C" fn recording_destroy<P: Export>(recording: *mut ffi::Recording) {
    // SAFETY: the header: the caller gives the recording up.
    unsafe { destroy::<P, RecordingOf<P>, _>(recording) }
}
