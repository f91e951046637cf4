//! Streams and their captures.

use crate::state::{Capture, Handle, Stream, current, state};
use crate::status::{Status, answer, put};
use std::ffi::{c_int, c_uint};
use std::sync::Arc;

fn create(target: Option<&mut Handle>) -> Status {
    answer(|| {
        let mut state = state();
        let device = current();
        state.healthy(device)?;
        let handle = state.handle();
        state.streams.insert(handle, Stream { device, clock: 0.0, capture: None });
        put(target, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamCreate(stream: Option<&mut Handle>) -> Status {
    create(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamCreateWithFlags(stream: Option<&mut Handle>, _flags: c_uint) -> Status {
    create(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamCreateWithPriority(
    stream: Option<&mut Handle>,
    _flags: c_uint,
    _priority: c_int,
) -> Status {
    create(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamDestroy(stream: Handle) -> Status {
    answer(|| state().streams.remove(&stream).map(|_| ()).ok_or(Status::INVALID_HANDLE))
}

/// Work ran when it was submitted, so a stream is always done; what is left to tell is whether its device faulted.
#[unsafe(no_mangle)]
pub extern "C" fn hipStreamSynchronize(stream: Handle) -> Status {
    answer(|| match state().stream(stream)?.capture {
        Some(_) => Err(Status::CAPTURE_UNSUPPORTED),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamQuery(stream: Handle) -> Status {
    hipStreamSynchronize(stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> Status {
    answer(|| {
        let mut state = state();
        let event = *state.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
        let waiting = state.stream(stream)?;
        match (waiting.capture, event.capture) {
            // A stream that waits for captured work takes part in the capture.
            (None, Some(capture)) => waiting.capture = Some(capture),
            (Some(own), Some(other)) if own != other => return Err(Status::CAPTURE_INVALIDATED),
            (Some(_), Some(capture)) => {
                if let Some(capture) = state.captures.get_mut(&capture)
                    && capture.origin == stream
                {
                    // The order of submission is an order of execution, so waiting joins whatever came before.
                    capture.unjoined.clear();
                }
            }
            (_, None) => waiting.clock = waiting.clock.max(event.time.unwrap_or(0.0)),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamBeginCapture(stream: Handle, _mode: c_int) -> Status {
    answer(|| {
        let mut state = state();
        if stream <= 2 {
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        if state.stream(stream)?.capture.is_some() {
            return Err(Status::ILLEGAL_STATE);
        }
        let handle = state.handle();
        state.stream(stream)?.capture = Some(handle);
        state.captures.insert(handle, Capture { origin: stream, ..Capture::default() });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamEndCapture(stream: Handle, graph: Option<&mut Handle>) -> Status {
    answer(|| {
        let mut state = state();
        let handle = state.stream(stream)?.capture.ok_or(Status::ILLEGAL_STATE)?;
        if state.captures.get(&handle).is_none_or(|capture| capture.origin != stream) {
            return Err(Status::CAPTURE_UNMATCHED);
        }
        let capture = state.captures.remove(&handle).ok_or(Status::ILLEGAL_STATE)?;
        for stream in state.streams.values_mut().filter(|stream| stream.capture == Some(handle)) {
            stream.capture = None;
        }
        for event in state.events.values_mut().filter(|event| event.capture == Some(handle)) {
            event.capture = None;
        }
        if !capture.unjoined.is_empty() {
            return Err(Status::CAPTURE_UNJOINED);
        }
        let made = state.handle();
        state.graphs.insert(made, Arc::new(capture.work));
        put(graph, made)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamIsCapturing(stream: Handle, status: Option<&mut c_int>) -> Status {
    answer(|| {
        let capturing = state().stream(stream)?.capture.is_some();
        put(status, c_int::from(capturing))
    })
}
