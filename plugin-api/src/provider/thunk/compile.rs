//! Functions of the table about claims, executables and runs.

use super::{destroy, hand_out, null, object, put, status};
use crate::provider::{
    ByteSink, ClaimSink, CompileRequest, Device, Executable, ExecutableOf, Export, RunRequest,
};
use crate::view::slice_at;
use crate::{Error, GraphView, TensorView, ffi};
use core::ffi::c_void;

pub unsafe extern "C" fn claim<P: Export>(
    device: *mut ffi::Device,
    target: ffi::Str,
    graph: *const ffi::Graph,
    sink: *const ffi::ClaimSink,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives; target, graph and sink are readable for the call.
    status::<P>(|| unsafe {
        let graph = GraphView::new(graph.as_ref().ok_or_else(|| null("claim: graph"))?)?;
        let mut sink = ClaimSink::new(sink)?;
        let target = target.as_str().ok_or_else(|| Error::invalid("claim: target is not UTF-8"))?;
        match device.cast::<P::Device>().as_ref() {
            Some(device) if target.is_empty() => device.claim(graph, &mut sink),
            None if target.is_empty() => Err(null("claim: device, with an empty target,")),
            _ => P::state().provider()?.claim_for(target, graph, &mut sink),
        }
    })
}

pub unsafe extern "C" fn compile<P: Export>(
    device: *mut ffi::Device,
    args: *const ffi::CompileArgs,
    executable: *mut *mut ffi::Executable,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives, args is readable for the call, executable is writable.
    status::<P>(|| unsafe {
        let request = CompileRequest::new(args)?;
        hand_out(executable, "compile: executable", || match device.cast::<P::Device>().as_ref() {
            Some(device) if request.target.is_empty() => device.compile(&request),
            None if request.target.is_empty() => Err(null("compile: device, with an empty target,")),
            _ => P::state().provider()?.compile_for(&request),
        })
    })
}

pub unsafe extern "C" fn executable_destroy<P: Export>(executable: *mut ffi::Executable) {
    // SAFETY: the header: the caller gives the executable up.
    unsafe { destroy::<P, ExecutableOf<P>, _>(executable) }
}

pub unsafe extern "C" fn executable_serialize<P: Export>(
    executable: *mut ffi::Executable,
    sink: *const ffi::ByteSink,
) -> *mut ffi::Status {
    // SAFETY: the header: the executable lives and the sink is readable for the call.
    status::<P>(|| unsafe {
        object::<ExecutableOf<P>, _>(executable, "executable")?.serialize(&mut ByteSink::new(sink)?)
    })
}

pub unsafe extern "C" fn executable_deserialize<P: Export>(
    device: *mut ffi::Device,
    args: *const ffi::CompileArgs,
    bytes: *const c_void,
    len: usize,
    executable: *mut *mut ffi::Executable,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives, args and bytes are readable for the call, executable is writable.
    status::<P>(|| unsafe {
        let device: &P::Device = object(device, "device")?;
        let request = CompileRequest::new(args)?;
        let bytes = slice_at(bytes.cast::<u8>(), len);
        hand_out(executable, "executable_deserialize: executable", || device.deserialize(&request, bytes))
    })
}

pub unsafe extern "C" fn executable_released<P: Export>(executable: *mut ffi::Executable, value: u32) -> u32 {
    // SAFETY: the header: the executable lives.
    let answer = P::guard(|| unsafe {
        object::<ExecutableOf<P>, _>(executable, "executable")
            .is_ok_and(|executable| executable.released(value))
    });
    answer.unwrap_or(false).into()
}

pub unsafe extern "C" fn workspace_bytes<P: Export>(
    executable: *mut ffi::Executable,
    inputs: *const ffi::Tensor,
    input_count: usize,
    bytes: *mut usize,
) -> *mut ffi::Status {
    // SAFETY: the header: the executable lives, inputs are readable except for their data, bytes is writable.
    status::<P>(|| unsafe {
        let executable: &ExecutableOf<P> = object(executable, "executable")?;
        let inputs = TensorView::slice(inputs, input_count);
        put(bytes, "workspace_bytes: bytes", executable.workspace_bytes(inputs)?)
    })
}

pub unsafe extern "C" fn run<P: Export>(
    executable: *mut ffi::Executable,
    args: *const ffi::RunArgs,
) -> *mut ffi::Status {
    // SAFETY: the header: the executable lives and args is readable for the call.
    status::<P>(|| unsafe {
        let executable: &ExecutableOf<P> = object(executable, "executable")?;
        let args = args.as_ref().ok_or_else(|| null("run: args"))?;
        executable.run(&RunRequest::new(args)?)
    })
}
