//! What a provider implements for its streams and events.

use crate::{Error, Result, ffi};
use core::ffi::c_void;

/// An in-order queue of work on one device. Dropping it waits for its work.
///
/// The contract lets one caller at a time queue work on a stream, but [`Stream::synchronize`] may come from any thread.
pub trait Stream: Send + Sync + Sized + 'static {
    type Event: Event;
    /// A captured sequence of work; [`NoRecording`](super::NoRecording) when there is no such thing.
    type Recording: Send + Sync + Sized + 'static;

    /// Returns when everything queued so far is done, with the first failure of that work if there was one.
    fn synchronize(&self) -> Result<()>;

    /// Copies in stream order. Host memory that is not pinned may be staged: then the source is read before the return.
    ///
    /// # Safety
    /// Each copy names `bytes` readable bytes at `src` and writable ones at `dst` until the copy has been done.
    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()>;

    /// Places `event` after the work queued so far.
    fn record(&self, event: &Self::Event) -> Result<()>;

    /// Work queued after this call waits for `event`, perhaps one of another device of this provider.
    fn wait(&self, event: &Self::Event) -> Result<()>;

    /// Device memory that is valid for work queued after this call.
    /// [`Features::ordered_allocation`](super::Features::ordered_allocation).
    fn allocate(&self, _bytes: usize) -> Result<*mut c_void> {
        Err(Error::unsupported("this stream does not allocate"))
    }

    /// Ends memory of [`Stream::allocate`] once the work queued so far is done.
    ///
    /// # Safety
    /// `data` came from [`Stream::allocate`] of a stream of the same device.
    unsafe fn free(&self, _data: *mut c_void) -> Result<()> {
        Err(Error::unsupported("this stream does not allocate"))
    }

    /// From here to [`Stream::capture_end`] work is recorded and not run.
    /// [`Features::capture`](super::Features::capture).
    fn capture_begin(&self) -> Result<()> {
        Err(Error::unsupported("this stream does not capture"))
    }

    /// Ends recording.
    fn capture_end(&self) -> Result<Self::Recording> {
        Err(Error::unsupported("this stream does not capture"))
    }

    /// Queues recorded work, with the addresses it was recorded with.
    fn launch(&self, _recording: &Self::Recording) -> Result<()> {
        Err(Error::unsupported("this stream does not capture"))
    }
}

/// A point in a stream. An event that was never recorded counts as reached.
pub trait Event: Send + Sync + Sized + 'static {
    /// True when the event has been reached.
    fn query(&self) -> Result<bool>;

    /// Returns when the event has been reached.
    fn synchronize(&self) -> Result<()>;
}
