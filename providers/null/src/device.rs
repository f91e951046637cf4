//! The device: what it claims, its memory and streams, and what it makes of a subgraph.

use std::convert::Infallible;
use tenon_plugin_api::provider::{
    ClaimSink, CompileRequest, Device, Executable, RunRequest, Synchronous, SynchronousEvent,
};
use tenon_plugin_api::{Error, GraphView, MemoryInfo, Result};

/// A device that runs nothing. A real one keeps its context, its kernels and its memory pool here.
pub struct NullDevice;

impl NullDevice {
    /// Gives every node back with a reason. Say what is missing and, where there is a way, what would help.
    pub(crate) fn decline_all(graph: GraphView<'_>, sink: &mut ClaimSink<'_>) {
        for node in graph.nodes() {
            sink.decline(node.index(), &format!("the null provider has no kernel for {}", node.op_type()));
        }
    }
}

impl Device for NullDevice {
    /// A device that queues work has a stream type of its own; `Synchronous` is for work done in the caller's thread.
    type Stream = Synchronous;
    type Executable = NullExecutable;

    fn claim(&self, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        NullDevice::decline_all(graph, sink);
        Ok(())
    }

    fn compile(&self, _request: &CompileRequest<'_>) -> Result<NullExecutable> {
        Err(Error::unsupported("the null provider claims no nodes, so there is nothing to compile"))
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo::default())
    }

    fn stream(&self) -> Result<Synchronous> {
        Ok(Synchronous)
    }

    fn event(&self) -> Result<SynchronousEvent> {
        Ok(SynchronousEvent)
    }
}

/// A compiled subgraph; this provider never makes one.
pub struct NullExecutable(Infallible);

impl Executable for NullExecutable {
    type Stream = Synchronous;

    fn run(&self, _request: &RunRequest<'_, Synchronous>) -> Result<()> {
        match self.0 {}
    }
}
