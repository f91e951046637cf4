//! Runs over fixed memory: inputs and outputs stay on the device, nothing is copied or waited for between runs.

use std::cell::RefCell;
use std::rc::Rc;

use smallvec::SmallVec;
use tenon_plugin_api::{ffi, host};

use crate::error::{Error, Result, Stage};
use crate::execute::device_tensor::DeviceTensor;
use crate::execute::frame::{Frame, Held, Runner};
use crate::execute::run::describe_inputs;
use crate::partition::Place;
use crate::plan::{Action, Plan, Slot, Source};
use crate::tensor::Value;

/// An input of a bound run.
#[derive(Clone)]
pub enum Given {
    Device(DeviceTensor),
    /// Copied to where it is read in every run.
    Host(Value),
}

/// What stays the same from run to run, by slot. Empty in the frames of ordinary runs.
#[derive(Default)]
pub(super) struct Fixed {
    slots: Vec<Fate>,
}

#[derive(Clone, Default)]
enum Fate {
    #[default]
    Free,
    /// The value of an input, which is never let go.
    Input,
    /// The host's copy of an output that stays on the device.
    Unused,
    /// The caller's memory for an output.
    Output(DeviceTensor),
}

impl Fixed {
    /// True for slots whose memory is the caller's.
    pub fn keeps(&self, slot: Slot) -> bool {
        !matches!(self.fate(slot), Fate::Free)
    }

    /// True for slots that need no copy of the value they mirror.
    pub fn skips(&self, slot: Slot) -> bool {
        matches!(self.fate(slot), Fate::Input | Fate::Unused)
    }

    /// True for slots that hold the same value in every run.
    fn is_input(&self, slot: Slot) -> bool {
        matches!(self.fate(slot), Fate::Input)
    }

    /// The caller's memory for what is computed in `slot`.
    pub fn output(&self, slot: Slot) -> Option<&DeviceTensor> {
        match self.fate(slot) {
            Fate::Output(tensor) => Some(tensor),
            _ => None,
        }
    }

    fn fate(&self, slot: Slot) -> &Fate {
        self.slots.get(slot as usize).unwrap_or(&Fate::Free)
    }
}

/// A run that is repeated over the same memory.
///
/// Runs are queued one behind the other on the streams of this object. An output may have the memory of an input only
/// where the operator that computes it does so in place, as caches of keys and values are.
pub struct BoundRun<'a> {
    runner: &'a Runner,
    frame: Frame,
    /// The steps of the plan that have work to do.
    steps: Vec<BoundStep>,
    /// The slots that a run fills with something new.
    filled: Vec<Slot>,
    /// A stream for each device of the plan, lent to the frame while steps are queued.
    streams: Rc<RefCell<Streams>>,
}

/// A step of the plan.
struct BoundStep {
    number: usize,
    /// The inputs of a cluster all of whose inputs are bound: the same in every run.
    inputs: Option<SmallVec<[ffi::Tensor; 8]>>,
}

type Streams = Vec<Option<host::Stream>>;

impl<'a> BoundRun<'a> {
    /// Binds inputs, all of them, and outputs, by number. Outputs that are not bound are copied to the host, which
    /// waits for them.
    pub(crate) fn new(
        runner: &'a Runner,
        inputs: Vec<Given>,
        outputs: Vec<(usize, DeviceTensor)>,
    ) -> Result<BoundRun<'a>> {
        let plan = runner.plan();
        let mut frame = Frame::new(plan);
        frame.fixed.slots = vec![Fate::Free; plan.slots.len()];
        for (input, given) in plan.inputs.iter().zip(inputs) {
            let Some(slot) = *input else { continue };
            match given {
                Given::Host(value) => frame.slots[slot as usize] = Held::Host(value),
                Given::Device(tensor) => bind_input(plan, &mut frame, slot, tensor)?,
            }
            frame.fixed.slots[slot as usize] = Fate::Input;
        }
        for (number, tensor) in outputs {
            bind_output(plan, &mut frame, number, tensor)?;
        }
        frame.lay_out_arena(plan)?;
        let steps = steps(plan, &frame)?;
        let filled = (0..plan.slots.len() as Slot).filter(|&slot| !frame.fixed.keeps(slot)).collect();
        let streams = std::mem::take(&mut frame.streams);
        Ok(BoundRun { runner, frame, steps, filled, streams: Rc::new(RefCell::new(streams)) })
    }

    /// Queues the runs behind those of `other`, a bound run of the same session, so that each sees what the ones queued
    /// before wrote without anybody waiting for them.
    pub fn behind(mut self, other: &BoundRun<'a>) -> BoundRun<'a> {
        self.streams = other.streams.clone();
        self
    }

    /// Queues one run.
    pub fn run(&mut self) -> Result<()> {
        let BoundRun { runner, frame, steps, filled, streams } = self;
        for &slot in filled.iter() {
            frame.slots[slot as usize] = Held::Nothing;
        }
        let queued = with_streams(streams, frame, |frame| {
            steps.iter().try_for_each(|step| runner.step(step.number, step.inputs.as_deref(), frame, &[]))
        });
        queued.map_err(|error| error.at_stage(Stage::Execute))
    }

    /// Waits for everything queued, and reports its first failure.
    pub fn synchronize(&mut self) -> Result<()> {
        let settled = with_streams(&self.streams, &mut self.frame, |frame| frame.settle(self.runner.plan()));
        settled.map_err(|error| error.at_stage(Stage::Execute))
    }

    /// Output `number` of the last run, on the host; not for bound outputs.
    pub fn output(&self, number: usize) -> Result<Value> {
        let source = self.runner.plan().outputs.get(number);
        let source = source.ok_or_else(|| Error::invalid_input(format!("there is no output {number}")))?;
        match source {
            Source::Slot(slot) if self.frame.fixed.keeps(*slot) => {
                Err(Error::invalid_input(format!("output {number} is bound to a device tensor: read that")))
            }
            source => self.frame.value(source),
        }
    }
}

impl Drop for BoundRun<'_> {
    fn drop(&mut self) {
        // Memory goes when nothing is queued that uses it.
        let _ = self.synchronize();
    }
}

/// Works on the frame while it has the streams.
fn with_streams<T>(streams: &RefCell<Streams>, frame: &mut Frame, work: impl FnOnce(&mut Frame) -> T) -> T {
    let mut streams = streams.borrow_mut();
    std::mem::swap(&mut frame.streams, &mut streams);
    let result = work(frame);
    std::mem::swap(&mut frame.streams, &mut streams);
    result
}

/// The steps with work to do: all but copies of what is bound.
fn steps(plan: &Plan, frame: &Frame) -> Result<Vec<BoundStep>> {
    let mut steps = Vec::new();
    for (number, step) in plan.steps.iter().enumerate() {
        let inputs = match &step.action {
            Action::Copy(copy)
                if frame.fixed.skips(copy.to) && step.release.iter().all(|&slot| frame.fixed.keeps(slot)) =>
            {
                continue;
            }
            Action::Run(run) if run.inputs.iter().all(|&slot| frame.fixed.is_input(slot)) => {
                Some(describe_inputs(plan, run, frame)?)
            }
            _ => None,
        };
        steps.push(BoundStep { number, inputs });
    }
    Ok(steps)
}

/// Gives the device slot that mirrors an input the caller's tensor.
fn bind_input(plan: &Plan, frame: &mut Frame, slot: Slot, tensor: DeviceTensor) -> Result<()> {
    let name = &plan.slots[slot as usize].name;
    for step in &plan.steps {
        match &step.action {
            Action::Copy(copy) if copy.from == slot => {
                same_device(plan, copy.to, &tensor)?;
                frame.slots[copy.to as usize] = Held::Device(tensor.clone());
                frame.fixed.slots[copy.to as usize] = Fate::Input;
            }
            Action::Run(run) if run.inputs.contains(&slot) => return Err(read_on_host(name)),
            Action::Host(_) if crate::plan::reads(&step.action, slot) => return Err(read_on_host(name)),
            _ => {}
        }
    }
    // The copy steps are skipped: the host's slot tells the shape.
    frame.slots[slot as usize] = Held::Device(tensor);
    Ok(())
}

fn read_on_host(name: &str) -> Error {
    Error::invalid_input(format!("input '{name}' is read on the host, and cannot be a device tensor"))
}

/// Lets the device slot of an output have the caller's memory.
fn bind_output(plan: &Plan, frame: &mut Frame, number: usize, tensor: DeviceTensor) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid_input(format!("output {number} cannot be bound: {why}")));
    let Some(Source::Slot(slot)) = plan.outputs.get(number) else {
        return refuse("it does not exist or is a constant");
    };
    let copies = plan.steps.iter().find_map(|step| match &step.action {
        Action::Copy(copy) if copy.to == *slot => Some(*copy),
        _ => None,
    });
    let Some(copy) = copies else { return refuse("it is not computed on a device") };
    same_device(plan, copy.from, &tensor)?;
    if frame.fixed.keeps(copy.from) {
        return refuse("it is an input, or bound already");
    }
    if plan.steps.iter().any(|step| crate::plan::reads(&step.action, *slot)) {
        return refuse("it is read on the host");
    }
    frame.fixed.slots[copy.from as usize] = Fate::Output(tensor);
    frame.fixed.slots[*slot as usize] = Fate::Unused;
    Ok(())
}

fn same_device(plan: &Plan, slot: Slot, tensor: &DeviceTensor) -> Result<()> {
    let info = &plan.slots[slot as usize];
    let given = tensor.memory.device();
    let fits = |device: &host::Device| {
        device.provider_name() == given.provider_name() && device.info().index == given.info().index
    };
    match info.memory {
        Place::Device(device) if fits(&plan.devices[device].handle) => Ok(()),
        _ => Err(Error::invalid_input(format!(
            "'{}' is not in the memory of the device that the tensor bound to it is in",
            info.name
        ))),
    }
}
