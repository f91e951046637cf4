//! Events: points in a stream, with its emulated time.

use crate::state::{Event, Handle, current, state};
use crate::status::{Status, answer, put};
use crate::work::{Work, submit};
use std::ffi::c_uint;

/// `hipEventDisableTiming`.
const DISABLE_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub extern "C" fn hipEventCreateWithFlags(event: Option<&mut Handle>, flags: c_uint) -> Status {
    answer(|| {
        let mut state = state();
        state.healthy(current())?;
        let handle = state.handle();
        state.events.insert(handle, Event { timed: flags & DISABLE_TIMING == 0, ..Event::default() });
        put(event, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipEventCreate(event: Option<&mut Handle>) -> Status {
    hipEventCreateWithFlags(event, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipEventDestroy(event: Handle) -> Status {
    answer(|| state().events.remove(&event).map(|_| ()).ok_or(Status::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipEventRecord(event: Handle, stream: Handle) -> Status {
    answer(|| {
        let capture = {
            let mut state = state();
            let capture = state.stream(stream)?.capture;
            state.events.get_mut(&event).ok_or(Status::INVALID_HANDLE)?.capture = capture;
            capture
        };
        // Inside a capture an event only orders; it has no time.
        if capture.is_some() { Ok(()) } else { submit(stream, Work::Record { event }) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipEventSynchronize(event: Handle) -> Status {
    answer(|| {
        let state = state();
        state.healthy(current())?;
        match state.events.get(&event).ok_or(Status::INVALID_HANDLE)?.capture {
            Some(_) => Err(Status::CAPTURE_UNSUPPORTED),
            None => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipEventQuery(event: Handle) -> Status {
    hipEventSynchronize(event)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipEventElapsedTime(milliseconds: Option<&mut f32>, start: Handle, stop: Handle) -> Status {
    answer(|| {
        let state = state();
        state.healthy(current())?;
        let time = |event: Handle| {
            let event = state.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
            if event.timed { event.time.ok_or(Status::INVALID_HANDLE) } else { Err(Status::INVALID_HANDLE) }
        };
        let (start, stop) = (time(start)?, time(stop)?);
        put(milliseconds, ((stop - start) * 1e3) as f32)
    })
}
