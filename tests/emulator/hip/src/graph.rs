//! Graphs: captured work that is launched as a whole.

use crate::state::{Handle, state};
use crate::status::{Status, answer, put};
use crate::work::{perform, submit};
use std::ffi::{c_char, c_uint};

fn instantiate(target: Option<&mut Handle>, graph: Handle) -> Status {
    answer(|| {
        let mut state = state();
        let work = state.graphs.get(&graph).ok_or(Status::INVALID_VALUE)?.clone();
        let handle = state.handle();
        state.executables.insert(handle, work);
        put(target, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphInstantiate(
    executable: Option<&mut Handle>,
    graph: Handle,
    _error_node: Option<&mut Handle>,
    _log: *mut c_char,
    _log_bytes: usize,
) -> Status {
    instantiate(executable, graph)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphInstantiateWithFlags(
    executable: Option<&mut Handle>,
    graph: Handle,
    _flags: u64,
) -> Status {
    instantiate(executable, graph)
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphLaunch(executable: Handle, stream: Handle) -> Status {
    answer(|| {
        let (work, capturing) = {
            let mut state = state();
            let capturing = state.stream(stream)?.capture.is_some();
            (state.executables.get(&executable).ok_or(Status::INVALID_VALUE)?.clone(), capturing)
        };
        for work in work.iter() {
            if capturing {
                submit(stream, work.clone())?;
                continue;
            }
            let mut state = state();
            // A fault of one node is the device's; the rest does not run.
            if state.stream(stream).is_err() {
                break;
            }
            perform(&mut state, stream, work)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphExecDestroy(executable: Handle) -> Status {
    answer(|| state().executables.remove(&executable).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphDestroy(graph: Handle) -> Status {
    answer(|| state().graphs.remove(&graph).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphUpload(executable: Handle, _stream: Handle) -> Status {
    answer(|| state().executables.get(&executable).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

/// The number of captured operations; nodes themselves are not handed out.
#[unsafe(no_mangle)]
pub extern "C" fn hipGraphGetNodes(
    graph: Handle,
    nodes: Option<&mut Handle>,
    count: Option<&mut usize>,
) -> Status {
    answer(|| {
        if nodes.is_some() {
            return Err(Status::NOT_SUPPORTED);
        }
        let len = state().graphs.get(&graph).ok_or(Status::INVALID_VALUE)?.len();
        put(count, len)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGraphCreate(graph: Option<&mut Handle>, _flags: c_uint) -> Status {
    answer(|| {
        let mut state = state();
        let handle = state.handle();
        state.graphs.insert(handle, Default::default());
        put(graph, handle)
    })
}
