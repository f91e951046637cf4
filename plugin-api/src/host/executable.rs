//! Compiled subgraphs: making, running, serialising.

use super::Graph;
use super::device::Device;
use super::error::Result;
use super::provider::{OptionList, Provider};
use super::stream::{Stream, made};
use super::table::mandatory;
use crate::ffi;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;

/// What to compile, and how.
#[derive(Clone, Copy)]
pub struct CompileArgs<'a> {
    /// Nodes that the provider claimed.
    pub graph: Graph<'a>,
    /// Empty: the device's own arch; else an arch or chip that need not be present.
    pub target: &'a str,
    /// The bytes of constants stay valid and unchanged until the executable is dropped, or until
    /// [`Executable::released`] says that a constant is not needed. Whoever sets this keeps to it.
    pub constants_stay: bool,
    /// Dimensions of the graph's values are exact for every run.
    pub specialize: bool,
    pub options: &'a [(&'a str, &'a str)],
}

impl<'a> CompileArgs<'a> {
    /// Compile `graph` for the device itself; constants are copied, dimensions are as known.
    pub fn new(graph: Graph<'a>) -> CompileArgs<'a> {
        CompileArgs { graph, target: "", constants_stay: false, specialize: false, options: &[] }
    }

    fn to_ffi(self, options: &OptionList) -> ffi::CompileArgs {
        ffi::CompileArgs {
            struct_size: size_of::<ffi::CompileArgs>(),
            graph: self.graph.raw(),
            target: ffi::Str::new(self.target),
            constants_stay: self.constants_stay.into(),
            specialize: self.specialize.into(),
            option_count: options.pointers.len() as u32,
            reserved: 0,
            options: options.pointers.as_ptr(),
        }
    }
}

/// A compiled subgraph. It is not running when it is dropped.
pub struct Executable {
    run: unsafe extern "C" fn(*mut ffi::Executable, *const ffi::RunArgs) -> *mut ffi::Status,
    handle: *mut ffi::Executable,
    provider: Provider,
    device: Option<Arc<Device>>,
}

// SAFETY: the header lets any thread run, size and serialise an executable, several at once.
unsafe impl Send for Executable {}
// SAFETY: as for Send.
unsafe impl Sync for Executable {}

impl Executable {
    pub(super) fn compile(
        provider: &Provider,
        device: Option<&Arc<Device>>,
        args: &CompileArgs<'_>,
    ) -> Result<Executable> {
        let inner = &provider.inner;
        let options = OptionList::new(args.options);
        let raw = args.to_ffi(&options);
        let handle = device.map_or(null_mut(), |device| device.handle());
        let mut executable = null_mut();
        // SAFETY: args is readable for the call and executable is writable.
        unsafe { inner.check(mandatory!(inner.table, compile)(handle, &raw, &mut executable))? };
        Executable::own(provider, device, executable)
    }

    pub(super) fn deserialize(
        device: &Arc<Device>,
        args: &CompileArgs<'_>,
        bytes: &[u8],
    ) -> Result<Executable> {
        let inner = device.inner();
        let deserialize =
            inner.table.api.executable_deserialize.ok_or_else(|| inner.missing("compile cache"))?;
        let options = OptionList::new(args.options);
        let raw = args.to_ffi(&options);
        let mut executable = null_mut();
        // SAFETY: args and bytes are readable for the call and executable is writable.
        unsafe {
            let data = bytes.as_ptr().cast();
            inner.check(deserialize(device.handle(), &raw, data, bytes.len(), &mut executable))?;
        }
        Executable::own(device.provider(), Some(device), executable)
    }

    fn own(
        provider: &Provider,
        device: Option<&Arc<Device>>,
        handle: *mut ffi::Executable,
    ) -> Result<Executable> {
        Ok(Executable {
            run: mandatory!(provider.inner.table, run),
            handle: made(&provider.inner, handle, "executable")?,
            provider: provider.clone(),
            device: device.cloned(),
        })
    }

    /// The device it was compiled on; `None` when it was compiled for an absent target.
    pub fn device(&self) -> Option<&Arc<Device>> {
        self.device.as_ref()
    }

    /// Queues one run on `stream`, or runs to the end when that is `None`. Outputs are asked for through `allocate`,
    /// which receives `context`.
    ///
    /// # Safety
    /// `inputs` describe memory of the executable's device that stays readable and unchanged until the work is done,
    /// `workspace` is an address and a size of such memory that nobody else uses, and `allocate` keeps to the header's
    /// `tenon_allocate_output` when it is called with `context`.
    #[inline]
    pub unsafe fn run(
        &self,
        stream: Option<&Stream>,
        inputs: &[ffi::Tensor],
        workspace: (*mut c_void, usize),
        context: *mut c_void,
        allocate: ffi::AllocateOutput,
    ) -> Result<()> {
        let args = ffi::RunArgs {
            struct_size: size_of::<ffi::RunArgs>(),
            stream: stream.map_or(null_mut(), Stream::handle),
            inputs: inputs.as_ptr(),
            input_count: inputs.len(),
            workspace: workspace.0,
            workspace_bytes: workspace.1,
            context,
            allocate_output: Some(allocate),
        };
        // SAFETY: the executable lives, args is readable for the call, and the caller vouches for what it names.
        unsafe { self.provider.inner.check((self.run)(self.handle, &args)) }
    }

    /// Bytes of workspace that a run with inputs of these shapes needs; their data is not read.
    ///
    /// # Safety
    /// Each input's `dims` holds `rank` readable entries.
    #[inline]
    pub unsafe fn workspace_bytes(&self, inputs: &[ffi::Tensor]) -> Result<usize> {
        let Some(workspace_bytes) = self.provider.inner.table.api.workspace_bytes else { return Ok(0) };
        let mut bytes = 0;
        // SAFETY: the executable lives, the caller vouches for the inputs, and bytes is writable.
        unsafe {
            let status = workspace_bytes(self.handle, inputs.as_ptr(), inputs.len(), &mut bytes);
            self.provider.inner.check(status)?;
        }
        Ok(bytes)
    }

    /// The executable as bytes for [`Device::deserialize`], constants left out.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let inner = &self.provider.inner;
        let serialize = inner.table.api.executable_serialize.ok_or_else(|| inner.missing("compile cache"))?;
        let mut bytes: Vec<u8> = Vec::new();
        let sink = ffi::ByteSink {
            struct_size: size_of::<ffi::ByteSink>(),
            context: (&raw mut bytes).cast(),
            write: Some(on_write),
        };
        // SAFETY: the executable lives, the sink is valid for the call and its context is what the callback expects.
        unsafe { inner.check(serialize(self.handle, &sink))? };
        Ok(bytes)
    }

    /// True when the provider will not read constant `value` (index into the compiled graph's values) again.
    pub fn released(&self, value: u32) -> bool {
        match self.provider.inner.table.api.executable_released {
            // SAFETY: the executable lives.
            Some(released) => unsafe { released(self.handle, value) != 0 },
            None => false,
        }
    }
}

unsafe extern "C" fn on_write(context: *mut c_void, bytes: *const c_void, len: usize) -> *mut ffi::Status {
    // SAFETY: `serialize` passed its vector and does not touch it during the call.
    let sink = unsafe { &mut *context.cast::<Vec<u8>>() };
    if sink.try_reserve(len).is_err() {
        return crate::Error::out_of_memory("no room for the serialised executable").into_status();
    }
    // SAFETY: the provider passes len readable bytes.
    sink.extend_from_slice(unsafe { crate::view::slice_at(bytes.cast::<u8>(), len) });
    null_mut()
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: the handle is owned, and no run borrows it.
        unsafe { mandatory!(self.provider.inner.table, executable_destroy)(self.handle) }
    }
}

impl core::fmt::Debug for Executable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Executable({:?})", self.device)
    }
}
