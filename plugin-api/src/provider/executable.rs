//! What a provider implements for a compiled subgraph, and what a run hands it.

use super::{ByteSink, Stream};
use crate::{DType, Error, Result, TensorView, ffi};
use alloc::format;
use core::ffi::c_void;

/// A compiled subgraph. Dropping it ends it; it is not running then.
pub trait Executable: Send + Sync + Sized + 'static {
    type Stream: Stream;

    /// Queues one run on `request.stream`, or runs to the end when that is `None`. Any thread; runs on different
    /// streams may overlap.
    fn run(&self, request: &RunRequest<'_, Self::Stream>) -> Result<()>;

    /// Bytes of workspace that a run with inputs of these shapes needs; their data is not to be read.
    /// [`Features::workspace`](super::Features::workspace).
    fn workspace_bytes(&self, _inputs: &[TensorView<'_>]) -> Result<usize> {
        Ok(0)
    }

    /// Writes the executable for [`Device::deserialize`](super::Device::deserialize), constants left out.
    /// [`Features::compile_cache`](super::Features::compile_cache).
    fn serialize(&self, _sink: &mut ByteSink<'_>) -> Result<()> {
        Err(Error::unsupported("this executable cannot be serialised"))
    }

    /// True when the bytes of constant `value` (index into the compiled graph's values) will not be read again.
    /// [`Features::released`](super::Features::released).
    fn released(&self, _value: u32) -> bool {
        false
    }
}

/// One run: inputs, where to queue it, and where outputs come from.
pub struct RunRequest<'a, S> {
    /// Where to queue the work; `None`: a stream of the provider's choice, and the work is done on return.
    pub stream: Option<&'a S>,
    /// One for each graph input, in its order.
    pub inputs: &'a [TensorView<'a>],
    /// Device memory for this run alone; NULL when its size is 0.
    pub workspace: *mut c_void,
    pub workspace_bytes: usize,
    context: *mut c_void,
    allocate_output: ffi::AllocateOutput,
}

impl<'a, S> RunRequest<'a, S> {
    /// Reads the arguments of a run.
    ///
    /// # Safety
    /// `args` is as the header says for the call's duration, and its stream, when not NULL, is a boxed `S`.
    #[inline]
    pub(super) unsafe fn new(args: &'a ffi::RunArgs) -> Result<RunRequest<'a, S>> {
        crate::view::covers::<ffi::RunArgs>(args.struct_size, "run args")?;
        let Some(allocate_output) = args.allocate_output else {
            return Err(Error::invalid("run: allocate_output is NULL"));
        };
        // SAFETY: the caller vouches for the stream and the inputs.
        unsafe {
            Ok(RunRequest {
                stream: args.stream.cast::<S>().as_ref(),
                inputs: TensorView::slice(args.inputs, args.input_count),
                workspace: args.workspace,
                workspace_bytes: args.workspace_bytes,
                context: args.context,
                allocate_output,
            })
        }
    }

    /// Asks the host for memory for output `index`: at least `bytes` bytes, aligned to 64, in the device's memory. Once
    /// an output, from the thread that called `run`. The result is never NULL and must not be followed after the run
    /// has been queued.
    #[inline]
    pub fn allocate_output(
        &self,
        index: u32,
        dtype: DType,
        dims: &[i64],
        bytes: usize,
    ) -> Result<*mut c_void> {
        let mut data = core::ptr::null_mut();
        // SAFETY: the function and its context come from one RunArgs; dims outlives the call.
        unsafe {
            Error::check((self.allocate_output)(
                self.context,
                index,
                dtype as u32,
                dims.as_ptr(),
                dims.len() as u32,
                bytes,
                &mut data,
            ))?;
        }
        match (data.is_null(), bytes) {
            (false, _) => Ok(data),
            (true, 0) => Ok(core::ptr::without_provenance_mut(64)),
            (true, _) => {
                Err(Error::internal(format!("the host gave no memory for output {index} ({bytes} bytes)")))
            }
        }
    }
}
