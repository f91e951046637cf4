//! The device: what it claims, and executables behind the plugin contract.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use tenon_plugin_api::provider::{
    ClaimSink, CompileRequest, Device, RunRequest, Synchronous, SynchronousEvent,
};
use tenon_plugin_api::{DType, Error, GraphView, MemoryInfo, Result, TensorView, TimelineEntry, provider};

use crate::cost;
use crate::error::{OpError, OpErrorKind};
use crate::executable::{self, Outputs, Timeline};
use crate::host;
use crate::ops;
use crate::program::Program;
use crate::subgraph;
use crate::tensor::{Dims, Tensor};
use crate::threads::Threads;

/// The machine's processors and memory.
pub struct CpuDevice {
    threads: Arc<Threads>,
    timeline: Arc<Timeline>,
}

impl CpuDevice {
    /// A device that computes with `threads` threads, 0 for one a processor.
    pub fn new(threads: usize) -> CpuDevice {
        CpuDevice { threads: Threads::shared(threads), timeline: Arc::default() }
    }

    pub(crate) fn claim_all(graph: GraphView<'_>, sink: &mut ClaimSink<'_>) {
        for view in graph.nodes() {
            let node = subgraph::read_node(view);
            match ops::build(&node.node) {
                Ok(_) => sink.claim(&[view.index()], cost::estimate(&node.node)),
                Err(error) => sink.decline(view.index(), error.message()),
            }
        }
    }
}

impl Device for CpuDevice {
    type Stream = Synchronous;
    type Executable = CpuExecutable;

    fn claim(&self, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        CpuDevice::claim_all(graph, sink);
        Ok(())
    }

    fn compile(&self, request: &CompileRequest<'_>) -> Result<CpuExecutable> {
        if !request.target.is_empty() && request.target != std::env::consts::ARCH {
            return Err(Error::unsupported(format!("target '{}' is not this machine's", request.target)));
        }
        let source = subgraph::read(request.graph);
        let program = Program::compile(&source.source).map_err(to_status)?;
        let constants = subgraph::constants(request.graph, request.constants_stay);
        let (threads, timeline) = (self.threads.clone(), self.timeline.clone());
        Ok(CpuExecutable(executable::Executable::new(program, constants, threads, timeline)))
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo {
            total_bytes: host::memory_total(),
            free_bytes: host::memory_available(),
            ..MemoryInfo::default()
        })
    }

    fn stream(&self) -> Result<Synchronous> {
        Ok(Synchronous)
    }

    fn event(&self) -> Result<SynchronousEvent> {
        Ok(SynchronousEvent)
    }

    fn timeline_start(&self) -> Result<()> {
        self.timeline.start();
        Ok(())
    }

    fn timeline_stop(&self) -> Result<Vec<TimelineEntry>> {
        let (now, clock) = (Instant::now(), monotonic_ns());
        let entry = |timing: executable::Timing| TimelineEntry {
            symbol: timing.op_type.clone(),
            node: timing.node,
            op_type: timing.op_type,
            start_ns: clock.saturating_sub(now.duration_since(timing.start).as_nanos() as u64),
            duration_ns: timing.nanoseconds,
            parameters: String::new(),
            stream: 0,
            flops: -1.0,
            bytes: -1.0,
        };
        Ok(self.timeline.stop().into_iter().map(entry).collect())
    }
}

/// The system's monotonic clock, which every library of the process reads alike.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the struct it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A compiled subgraph.
pub struct CpuExecutable(executable::Executable);

impl provider::Executable for CpuExecutable {
    type Stream = Synchronous;

    fn run(&self, request: &RunRequest<'_, Synchronous>) -> Result<()> {
        if request.inputs.len() != self.0.input_count() {
            let (given, expected) = (request.inputs.len(), self.0.input_count());
            return Err(Error::invalid(format!("the executable takes {expected} inputs, got {given}")));
        }
        self.0.run(request.inputs.iter().map(input), &HostOutputs(request)).map_err(to_status)
    }

    fn released(&self, value: u32) -> bool {
        self.0.is_released(value as usize)
    }
}

#[inline]
fn input(view: &TensorView<'_>) -> Result<Tensor, OpError> {
    let mut dims = Dims::new();
    for &dim in view.dims() {
        let dim = usize::try_from(dim);
        dims.push(dim.map_err(|_| OpError::invalid(format!("an input has the shape {:?}", view.dims())))?);
    }
    let (dtype, bytes) = (view.dtype(), view.byte_len());
    if dtype != DType::String && crate::tensor::byte_len(dtype, &dims)? != bytes {
        return Err(OpError::invalid(format!(
            "an input of type {dtype} and shape {dims:?} has {bytes} bytes"
        )));
    }
    // SAFETY: the host keeps inputs valid, unchanged and aligned until the run is done, and the length was checked.
    Ok(unsafe { Tensor::borrowed(dtype, dims, view.data().cast_const().cast(), bytes) })
}

struct HostOutputs<'a>(&'a RunRequest<'a, Synchronous>);

impl Outputs for HostOutputs<'_> {
    fn allocate(&self, index: usize, dtype: DType, dims: &[usize], bytes: usize) -> Result<*mut u8, OpError> {
        let mut sizes: SmallVec<[i64; 8]> = SmallVec::new();
        dims.iter().for_each(|&dim| sizes.push(dim as i64));
        let data: *mut c_void = self
            .0
            .allocate_output(index as u32, dtype, &sizes, bytes)
            .map_err(|error| OpError::invalid(error.message))?;
        Ok(data.cast())
    }
}

fn to_status(error: OpError) -> Error {
    match error.kind() {
        OpErrorKind::Invalid => Error::invalid(error.message()),
        OpErrorKind::Unsupported => Error::unsupported(error.message()),
    }
}
