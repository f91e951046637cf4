//! Work of a stream: it runs at once, or is kept while the stream captures a graph.

use crate::state::{Handle, State, state};
use crate::status::{Result, Status};
use std::sync::Arc;
use tenon_emulator::{Kernel, Launch, Memory, Options};

/// A side of a copy. Host addresses are kept as numbers: the caller keeps the memory valid until the work is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Device(u64),
    Host(usize),
}

#[derive(Clone)]
pub(crate) enum Work {
    Copy {
        to: Side,
        from: Side,
        bytes: usize,
    },
    Fill {
        address: u64,
        pattern: [u8; 4],
        width: usize,
        count: usize,
    },
    Launch {
        kernel: Kernel,
        launch: Arc<Launch>,
    },
    Free {
        address: u64,
    },
    /// An event records the stream's clock.
    Record {
        event: Handle,
    },
}

/// Seconds that submitting a kernel or copy takes on a device.
const SUBMISSION: f64 = 2e-6;
/// Bytes a second between host and device.
const LINK: f64 = 50e9;

impl Work {
    /// Does the work on a device and returns its emulated seconds.
    fn run(&self, memory: &Memory, bandwidth: f64) -> std::result::Result<f64, tenon_emulator::Error> {
        match self {
            Work::Copy { to, from, bytes } => {
                copy(memory, *to, *from, *bytes)?;
                let local = matches!((to, from), (Side::Device(_), Side::Device(_)));
                Ok(SUBMISSION + *bytes as f64 / if local { bandwidth / 2.0 } else { LINK })
            }
            Work::Fill { address, pattern, width, count } => {
                if *width == 1 {
                    memory.fill(*address, pattern[0], *count)?;
                } else {
                    memory.write(*address, &pattern[..*width].repeat(*count))?;
                }
                Ok(SUBMISSION + (width * count) as f64 / bandwidth)
            }
            Work::Launch { kernel, launch } => {
                let report = kernel.launch(memory, launch, &Options::default())?;
                if let Err(error) = kernel.record() {
                    eprintln!("{} is not recorded as executed: {error}", kernel.name());
                }
                Ok(SUBMISSION + report.estimated_seconds(kernel.target()))
            }
            Work::Free { .. } | Work::Record { .. } => Ok(0.0),
        }
    }
}

fn copy(memory: &Memory, to: Side, from: Side, bytes: usize) -> tenon_emulator::Result<()> {
    match (to, from) {
        (Side::Device(to), Side::Device(from)) => memory.copy(to, from, bytes),
        (Side::Device(to), Side::Host(from)) => {
            // SAFETY: the caller of the copy vouches for the host memory until the stream has done the work.
            let from = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
            memory.write(to, from)
        }
        (Side::Host(to), Side::Device(from)) => {
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
            memory.read(from, to)
        }
        (Side::Host(to), Side::Host(from)) => {
            // SAFETY: as above; the ranges may overlap.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
            Ok(())
        }
    }
}

/// Gives work to a stream.
///
/// # Errors
/// What the driver reports at once: a bad handle, an earlier fault. A fault of the work itself is reported by the
/// next call that looks at the device; a copy's bad address at once.
pub(crate) fn submit(stream: Handle, work: Work) -> Result<()> {
    let mut state = state();
    if let Some(capture) = state.stream(stream)?.capture {
        // Memory that a captured program frees stays: every launch of the graph uses the same addresses.
        if matches!(work, Work::Free { .. }) {
            return Ok(());
        }
        let origin = state.captures.get(&capture).map(|capture| capture.origin);
        let capture = state.captures.get_mut(&capture).ok_or(Status::ILLEGAL_STATE)?;
        if origin != Some(stream) && !capture.unjoined.contains(&stream) {
            capture.unjoined.push(stream);
        }
        capture.work.push(work);
        return Ok(());
    }
    perform(&mut state, stream, &work)
}

/// Runs work on a stream now.
pub(crate) fn perform(state: &mut State, stream: Handle, work: &Work) -> Result<()> {
    let device = state.stream(stream)?.device;
    if let Work::Free { address } = work {
        return state.free(*address);
    }
    if let Work::Record { event } = work {
        let time = Some(state.stream(stream)?.clock);
        if let Some(event) = state.events.get_mut(event) {
            event.time = time;
        }
        return Ok(());
    }
    let is_launch = matches!(work, Work::Launch { .. });
    if is_launch {
        state.devices[device].launches += 1;
        if state.lose_after.is_some_and(|limit| state.devices[device].launches > limit) {
            state.fail(device, Status::LAUNCH_FAILURE, "the device was lost".to_string());
            return Ok(());
        }
    }
    let bandwidth = state.devices[device].chip.bandwidth;
    let memory = state.memory.clone();
    match work.run(&memory, bandwidth) {
        Ok(seconds) => {
            state.stream(stream)?.clock += seconds;
            Ok(())
        }
        Err(error) => {
            let status = Status::of(&error);
            let refused = matches!(status, Status::INVALID_CONFIGURATION | Status::NOT_SUPPORTED);
            if is_launch && !refused {
                state.fail(device, status, error.to_string());
                return Ok(());
            }
            Err(if is_launch { status } else { Status::INVALID_VALUE })
        }
    }
}
