//! The memory of a run: slots, streams and arenas, kept between runs; and the walk over a plan's steps.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;
use tenon_plugin_api::{ffi, host};

use crate::error::{Error, Result, Stage};
use crate::execute::bound::Fixed;
use crate::execute::device_tensor::DeviceTensor;
use crate::execute::{control, run, sequence};
use crate::graph::Bindings;
use crate::partition::Place;
use crate::plan::{self, Action, Plan, Slot, Source};
use crate::plugin::provider_error;
use crate::tensor::{Buffer, Dims, Tensor, Value};

/// Memory of the caller for one output: the run writes there instead of allocating.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Aligned to 64 bytes.
    pub data: NonNull<u8>,
    pub capacity: usize,
}

// SAFETY: whoever makes a binding promises the memory to one run; it is plain bytes.
unsafe impl Send for Binding {}
// SAFETY: as for Send.
unsafe impl Sync for Binding {}

/// A plan with the frames of its past runs. Runs may overlap.
pub struct Runner {
    plan: Arc<Plan>,
    /// For each step of the plan, runners of the nested graphs of its host operator.
    bodies: Vec<Vec<Runner>>,
    #[expect(clippy::vec_box, reason = "a frame is handed from run to run, and a pointer moves faster")]
    frames: Mutex<Vec<Box<Frame>>>,
}

/// The values of the outputs, in order.
pub type Outputs = SmallVec<[Value; 2]>;

/// A run that has begun. Dropped before it is finished, it leaves nothing behind.
pub struct Run<'a> {
    runner: &'a Runner,
    frame: Option<Box<Frame>>,
}

/// What a slot holds during a run.
#[derive(Clone, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    Host(Value),
    Device(DeviceTensor),
}

/// One run's state.
pub(super) struct Frame {
    pub slots: Vec<Held>,
    /// A stream for each device that does not share host memory, made when first needed.
    pub streams: Vec<Option<host::Stream>>,
    /// Values that queued work may still touch; let go when their streams have been synchronised.
    pub in_flight: Vec<Held>,
    pub arena: ArenaState,
    /// What stays the same from run to run, in the frame of a bound run.
    pub fixed: Fixed,
}

/// Where the arena slots of a run are.
#[derive(Default)]
pub(super) struct ArenaState {
    /// The input shapes that `layout` was made for.
    shapes: Vec<Option<Dims>>,
    /// For each arena slot its offset and size, when its size is known.
    layout: Vec<Option<(usize, usize)>>,
    blocks: BTreeMap<Place, Block>,
}

#[derive(Clone)]
enum Block {
    Host(Buffer),
    Device(Arc<host::Memory>),
}

impl Runner {
    /// A runner of `plan`.
    pub fn new(plan: impl Into<Arc<Plan>>) -> Runner {
        let plan = plan.into();
        let of = |step: &plan::Step| match &step.action {
            Action::Host(host) => host.bodies.iter().map(|body| Runner::new(body.plan.clone())).collect(),
            Action::Run(_) | Action::Copy(_) => Vec::new(),
        };
        let bodies = plan.steps.iter().map(of).collect();
        Runner { plan, bodies, frames: Mutex::default() }
    }

    /// The plan this runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Begins a run, which takes its inputs before it goes on.
    pub fn start(&self) -> Run<'_> {
        let kept = self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Run { runner: self, frame: Some(kept.unwrap_or_else(|| Box::new(Frame::new(&self.plan)))) }
    }

    fn steps(&self, frame: &mut Frame, bindings: &[Option<Binding>]) -> Result<Outputs> {
        if !self.plan.arena.is_empty() {
            frame.lay_out_arena(&self.plan)?;
        }
        self.walk(frame, bindings)?;
        self.outputs(frame, bindings)
    }

    /// Does every step of the plan.
    pub(super) fn walk(&self, frame: &mut Frame, bindings: &[Option<Binding>]) -> Result<()> {
        (0..self.plan.steps.len()).try_for_each(|number| self.step(number, None, frame, bindings))
    }

    /// Does step `number` of the plan. `inputs`: those of a cluster, where they have been described already.
    pub(super) fn step(
        &self,
        number: usize,
        inputs: Option<&[ffi::Tensor]>,
        frame: &mut Frame,
        bindings: &[Option<Binding>],
    ) -> Result<()> {
        let step = &self.plan.steps[number];
        match &step.action {
            Action::Run(step) => match inputs {
                Some(inputs) => run::run(&self.plan, step, inputs, frame, bindings)?,
                None => {
                    let inputs = run::describe_inputs(&self.plan, step, frame)?;
                    run::run(&self.plan, step, &inputs, frame, bindings)?;
                }
            },
            Action::Copy(step) => run::copy(&self.plan, *step, frame, bindings)?,
            Action::Host(step) if step.bodies.is_empty() => {
                sequence::run(step, frame).map_err(|error| error.in_node(&step.label))?;
            }
            Action::Host(step) => {
                control::run(step, &self.bodies[number], frame).map_err(|error| error.in_node(&step.label))?
            }
        }
        for &slot in &step.release {
            frame.release(slot);
        }
        Ok(())
    }

    fn outputs(&self, frame: &Frame, bindings: &[Option<Binding>]) -> Result<Outputs> {
        let mut outputs = SmallVec::with_capacity(self.plan.outputs.len());
        for (number, source) in self.plan.outputs.iter().enumerate() {
            let value = frame.value(source)?;
            outputs.push(match bindings.get(number).copied().flatten() {
                Some(binding) => bound(value, binding, number)?,
                None => value,
            });
        }
        Ok(outputs)
    }
}

impl Run<'_> {
    /// Gives the value of graph input `index`, which is let go where the plan does not read it.
    #[inline]
    pub fn input(&mut self, index: usize, value: Value) {
        let slot = self.runner.plan.inputs.get(index).copied().flatten();
        if let (Some(slot), Some(frame)) = (slot, &mut self.frame) {
            frame.slots[slot as usize] = Held::Host(value);
        }
    }

    /// Runs to the end. `bindings` gives memory for outputs, by number, and may be shorter than the outputs.
    pub fn finish(mut self, bindings: &[Option<Binding>]) -> Result<Outputs> {
        let Some(mut frame) = self.frame.take() else {
            return Err(Error::internal("a run has a frame until it is finished"));
        };
        let result = self.runner.steps(&mut frame, bindings);
        // A frame whose streams failed may still be touched by a device: it is not used again.
        let settled = frame.settle(&self.runner.plan);
        if settled.is_ok() {
            self.frame = Some(frame);
        }
        result.and_then(|outputs| settled.map(|()| outputs)).map_err(|error| error.at_stage(Stage::Execute))
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(mut frame) = self.frame.take() {
            frame.slots.iter_mut().for_each(|slot| *slot = Held::Nothing);
            self.runner.frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
        }
    }
}

/// Moves a value into the caller's memory unless it was computed there.
fn bound(value: Value, binding: Binding, number: usize) -> Result<Value> {
    let Value::Tensor(tensor) = &value else {
        return Err(Error::invalid_input(format!(
            "output {number} is {}, which cannot be bound",
            value.description()
        )));
    };
    if std::ptr::eq(tensor.as_ptr(), binding.data.as_ptr()) {
        return Ok(value);
    }
    let bytes = tensor.as_bytes();
    if bytes.len() > binding.capacity {
        return Err(too_small(number, bytes.len(), binding.capacity));
    }
    // SAFETY: the binding promises `capacity` bytes to this run, and the tensor's bytes are elsewhere.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), binding.data.as_ptr(), bytes.len()) };
    // SAFETY: the binding's memory is initialised up to here and stays valid for the caller who reads the result.
    let tensor = unsafe { Tensor::from_borrowed(tensor.dtype(), tensor.dims(), binding.data, bytes.len()) }?;
    Ok(Value::Tensor(tensor))
}

pub(super) fn too_small(number: usize, needed: usize, capacity: usize) -> Error {
    Error::invalid_input(format!(
        "output {number} needs {needed} bytes, but the buffer given for it has {capacity}; give a larger buffer"
    ))
}

impl Frame {
    /// A frame for `plan` in which nothing has been computed.
    pub fn new(plan: &Plan) -> Frame {
        Frame {
            slots: vec![Held::Nothing; plan.slots.len()],
            streams: plan.devices.iter().map(|_| None).collect(),
            in_flight: Vec::new(),
            arena: ArenaState::default(),
            fixed: Fixed::default(),
        }
    }

    /// The value of a host slot or a constant.
    pub fn value(&self, source: &Source) -> Result<Value> {
        match source {
            Source::Constant(tensor) => Ok(Value::Tensor(tensor.clone())),
            Source::Slot(slot) => match &self.slots[*slot as usize] {
                Held::Host(value) => Ok(value.clone()),
                Held::Device(_) => Err(Error::internal("a device value was read on the host")),
                Held::Nothing => Err(Error::internal("a value was read before it was computed")),
            },
        }
    }

    fn release(&mut self, slot: Slot) {
        if self.fixed.keeps(slot) {
            return;
        }
        let held = std::mem::take(&mut self.slots[slot as usize]);
        if matches!(held, Held::Device(_)) {
            self.in_flight.push(held);
        }
    }

    /// Waits for all queued work, after which nothing is in flight.
    pub fn settle(&mut self, plan: &Plan) -> Result<()> {
        let mut first = Ok(());
        for (device, stream) in self.streams.iter().enumerate() {
            let Some(stream) = stream else { continue };
            if let Err(error) = stream.synchronize() {
                let name = &plan.devices[device].cost.name;
                tracing::error!(device = %name, "a stream failed: {error}");
                first = first.and(Err(provider_error(&error)));
            }
        }
        self.in_flight.clear();
        first
    }

    /// The stream of a device, made on first use.
    pub fn stream(&mut self, plan: &Plan, device: usize) -> Result<&host::Stream> {
        let slot = &mut self.streams[device];
        if slot.is_none() {
            let stream = plan.devices[device].handle.stream().map_err(|error| provider_error(&error))?;
            *slot = Some(stream);
        }
        slot.as_ref().ok_or_else(|| Error::internal("a stream was just made"))
    }

    /// Finds an offset for every arena slot whose size follows from the shapes of this run's inputs.
    pub fn lay_out_arena(&mut self, plan: &Plan) -> Result<()> {
        let shapes: Vec<Option<Dims>> = plan.inputs.iter().map(|slot| self.input_dims(*slot)).collect();
        if shapes == self.arena.shapes && !self.arena.layout.is_empty() {
            return Ok(());
        }
        let bindings = bind(plan, &shapes);
        let mut sizes: Vec<Option<usize>> = plan
            .arena
            .iter()
            .map(|slot| slot.dtype.byte_len(slot.shape.eval(&bindings)?.iter().product()))
            .collect();
        // Slots in the caller's memory need none of the arena's.
        for (number, info) in plan.slots.iter().enumerate() {
            if let Some(arena) = info.arena.filter(|_| self.fixed.keeps(number as Slot)) {
                sizes[arena as usize] = None;
            }
        }
        self.arena.layout = vec![None; plan.arena.len()];
        self.arena.blocks.clear();
        let memories: std::collections::BTreeSet<Place> = plan.arena.iter().map(|slot| slot.memory).collect();
        for memory in memories {
            let members: Vec<usize> = (0..plan.arena.len())
                .filter(|&i| plan.arena[i].memory == memory && sizes[i].is_some())
                .collect();
            let lifetimes: Vec<plan::Lifetime> = members
                .iter()
                .map(|&i| plan::Lifetime {
                    first: plan.arena[i].first,
                    last: plan.arena[i].last,
                    bytes: sizes[i].unwrap_or(0),
                })
                .collect();
            let (offsets, total) = plan::pack(&lifetimes);
            for (&member, (offset, life)) in members.iter().zip(offsets.iter().zip(&lifetimes)) {
                self.arena.layout[member] = Some((*offset, life.bytes));
            }
            let block = match memory {
                Place::Host => Block::Host(Buffer::zeroed(total)),
                Place::Device(device) => Block::Device(run::allocate_device(plan, device, total)?),
            };
            self.arena.blocks.insert(memory, block);
        }
        self.arena.shapes = shapes;
        Ok(())
    }

    fn input_dims(&self, slot: Option<Slot>) -> Option<Dims> {
        match &self.slots[slot? as usize] {
            Held::Host(Value::Tensor(tensor)) => Some(tensor.dims().into()),
            Held::Device(tensor) => Some(tensor.dims.clone()),
            _ => None,
        }
    }

    /// The host memory planned for an arena slot, when it has room for `bytes`.
    pub fn arena_host(&self, arena: u32, bytes: usize) -> Option<(Buffer, usize)> {
        let (offset, size) = (*self.arena.layout.get(arena as usize)?)?;
        match self.arena.blocks.get(&Place::Host)? {
            Block::Host(buffer) if bytes <= size => Some((buffer.clone(), offset)),
            _ => None,
        }
    }

    /// The device memory planned for an arena slot, when it has room for `bytes`.
    pub fn arena_device(
        &self,
        arena: u32,
        device: usize,
        bytes: usize,
    ) -> Option<(Arc<host::Memory>, usize)> {
        let (offset, size) = (*self.arena.layout.get(arena as usize)?)?;
        match self.arena.blocks.get(&Place::Device(device))? {
            Block::Device(memory) if bytes <= size => Some((memory.clone(), offset)),
            _ => None,
        }
    }
}

/// The sizes of symbols that the shapes of the inputs give.
fn bind(plan: &Plan, shapes: &[Option<Dims>]) -> Bindings {
    let mut bindings = Bindings::new();
    for (declared, actual) in plan.input_shapes.iter().zip(shapes) {
        let (Some(declared), Some(actual)) = (declared, actual) else { continue };
        for (dim, &size) in declared.iter().zip(actual) {
            if let crate::graph::Dim::Symbol(symbol) = dim {
                bindings.entry(symbol.clone()).or_insert(size as i64);
            }
        }
    }
    bindings
}
