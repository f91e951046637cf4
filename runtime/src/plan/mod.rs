//! The plan of a run: executables, copies and host operators in order, and the slots their values live in.

mod arena;
mod compile;
mod text;

use std::sync::{Arc, Mutex};

use smallvec::SmallVec;
use tenon_plugin_api::host;

use crate::dtype::DType;
use crate::graph::host_op::HostOp;
use crate::graph::{Attributes, Shape, TensorType};
use crate::partition::Place;
use crate::tensor::Tensor;

pub use arena::{Lifetime, pack};
pub use compile::{Compiler, Device, Planned};

/// A number of a slot in a run's frame.
pub type Slot = u32;

/// Everything a run does, decided beforehand.
pub struct Plan {
    pub(crate) slots: Vec<SlotInfo>,
    /// The slot of each graph input; `None` when nothing reads it.
    pub(crate) inputs: Vec<Option<Slot>>,
    pub(crate) input_shapes: Vec<Option<Shape>>,
    pub(crate) outputs: Vec<Source>,
    pub(crate) steps: Vec<Step>,
    pub(crate) devices: Arc<[Device]>,
    /// Slots whose memory is a part of an arena.
    pub(crate) arena: Vec<ArenaSlot>,
}

/// What is known about a slot.
#[derive(Clone, Debug)]
pub(crate) struct SlotInfo {
    /// The value's name.
    pub name: String,
    /// Where the bytes are: host memory, or the memory of a device.
    pub memory: Place,
    /// The graph output whose caller-provided memory the value is computed in.
    pub output: Option<u32>,
    /// Position in [`Plan::arena`].
    pub arena: Option<u32>,
}

/// A slot in an arena: its size as a product of dimensions, and when it is alive.
#[derive(Clone, Debug)]
pub(crate) struct ArenaSlot {
    pub memory: Place,
    pub dtype: DType,
    pub shape: Shape,
    /// First and last step that touch the slot.
    pub first: u32,
    pub last: u32,
}

/// Where an argument comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Slot(Slot),
    Constant(Tensor),
}

/// One action and the slots that nobody needs after it.
pub(crate) struct Step {
    pub action: Action,
    pub release: SmallVec<[Slot; 4]>,
}

pub(crate) enum Action {
    Run(RunStep),
    Copy(CopyStep),
    Host(Box<HostStep>),
}

/// A compiled cluster.
pub(crate) struct RunStep {
    pub executable: host::Executable,
    pub device: usize,
    pub inputs: SmallVec<[Slot; 8]>,
    pub outputs: SmallVec<[Slot; 4]>,
    /// Nodes in the cluster.
    pub nodes: usize,
    /// Constants that the executable may still read: its number for each, and the bytes kept alive.
    pub constants: Mutex<Vec<(u32, Tensor)>>,
}

/// A copy of one value between memories.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyStep {
    pub from: Slot,
    pub to: Slot,
}

/// An operator that the runtime runs itself.
pub(crate) struct HostStep {
    pub op: HostOp,
    /// Of the node, for messages.
    pub label: String,
    pub version: i64,
    pub attributes: Attributes,
    pub inputs: SmallVec<[Option<Source>; 4]>,
    pub outputs: SmallVec<[Option<Slot>; 2]>,
    pub bodies: Vec<BodyPlan>,
}

/// A nested graph, planned, and what it reads of the outer graph.
pub(crate) struct BodyPlan {
    pub attribute: String,
    pub plan: Arc<Plan>,
    pub formal_inputs: usize,
    pub captures: Vec<Source>,
    /// The tensor type of each output, where known.
    pub output_types: Vec<Option<TensorType>>,
}

impl Plan {
    /// The number of compiled clusters, nested graphs counted.
    pub fn cluster_count(&self) -> usize {
        let count = |step: &Step| match &step.action {
            Action::Run(_) => 1,
            Action::Copy(_) => 0,
            Action::Host(host) => host.bodies.iter().map(|body| body.plan.cluster_count()).sum(),
        };
        self.steps.iter().map(count).sum()
    }
}

/// True when `action` reads `slot`.
pub(crate) fn reads(action: &Action, slot: Slot) -> bool {
    compile::touched(action).0.contains(&slot)
}
