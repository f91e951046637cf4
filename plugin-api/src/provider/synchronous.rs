//! Streams and events of a device whose work is done when the call returns, such as a CPU.

use super::{Event, Stream, host_memory};
use crate::{Result, ffi};

/// A stream of a device that works in the caller's thread on host memory: nothing is ever queued.
#[derive(Clone, Copy, Debug, Default)]
pub struct Synchronous;

/// An event of a [`Synchronous`] stream: always reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct SynchronousEvent;

/// The recording type of streams that do not capture; there is no value of it.
#[derive(Clone, Copy, Debug)]
pub enum NoRecording {}

impl Stream for Synchronous {
    type Event = SynchronousEvent;
    type Recording = NoRecording;

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { host_memory::copy(copies) };
        Ok(())
    }

    fn record(&self, _event: &SynchronousEvent) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _event: &SynchronousEvent) -> Result<()> {
        Ok(())
    }
}

impl Event for SynchronousEvent {
    fn query(&self) -> Result<bool> {
        Ok(true)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
