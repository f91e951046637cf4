//! Runs programs: prepares constants once, keeps run states between runs, hands outputs to the caller's memory.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use smallvec::SmallVec;
use tenon_kernels::cpu::Features;

use crate::buffer::Pool;
use crate::constant::Constant;
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Machine, OutputMemory, Released};
use crate::program::{Arg, OutputSource, Program, Step, at_node};
use crate::tensor::{DType, Tensor};
use crate::threads::Threads;

/// Where the caller's memory for outputs comes from.
pub trait Outputs {
    /// At least `bytes` bytes, aligned to 64, for graph output `index`. Asked once an output.
    fn allocate(&self, index: usize, dtype: DType, dims: &[usize], bytes: usize) -> Result<*mut u8>;
}

/// One timed step.
#[derive(Clone, Debug)]
pub struct Timing {
    pub node: String,
    pub op_type: String,
    pub start: Instant,
    pub nanoseconds: u64,
}

/// Collects the timings of all executables of one device while switched on.
#[derive(Default)]
pub struct Timeline {
    on: AtomicBool,
    entries: Mutex<Vec<Timing>>,
}

impl Timeline {
    pub fn start(&self) {
        self.on.store(true, Ordering::SeqCst);
    }

    pub fn stop(&self) -> Vec<Timing> {
        self.on.store(false, Ordering::SeqCst);
        std::mem::take(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A program with what it needs to run. Runs may overlap.
pub struct Executable {
    program: Program,
    /// The constants of the source by value index; emptied of what nobody reads once prepared.
    given: Mutex<Vec<Option<Constant>>>,
    ready: OnceLock<Ready>,
    preparing: Mutex<()>,
    #[expect(clippy::vec_box, reason = "a state is handed from run to run, and a pointer moves faster")]
    states: Mutex<Vec<Box<State>>>,
    threads: Arc<Threads>,
    features: Features,
    timeline: Arc<Timeline>,
}

/// What the first run found out.
struct Ready {
    /// Constants that runs read, by number.
    constants: Vec<Option<Constant>>,
    /// For each step, the inputs its kernel packed away.
    released: Vec<Released>,
    /// For each value of the source: true when its bytes are not read again.
    dropped: Vec<bool>,
}

/// Memory of one run, kept for the next.
struct State {
    pool: Pool,
    slots: Vec<Option<Tensor>>,
    /// Of the step that runs; empty between steps.
    inputs: Vec<Option<Tensor>>,
    outputs: Vec<Option<Tensor>>,
}

// SAFETY: a state is used by one run, that is one thread, at a time, and between runs all its slots are empty, so no
// handle to a block of its pool exists outside it.
unsafe impl Send for State {}

impl State {
    /// Lets go of every tensor.
    fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
        self.inputs.clear();
        self.outputs.clear();
    }
}

impl Executable {
    /// An executable of `program`. `constants` holds the constants of the source by value index.
    pub fn new(
        program: Program,
        constants: Vec<Option<Constant>>,
        threads: Arc<Threads>,
        timeline: Arc<Timeline>,
    ) -> Executable {
        Executable {
            program,
            given: Mutex::new(constants),
            ready: OnceLock::new(),
            preparing: Mutex::new(()),
            states: Mutex::new(Vec::new()),
            threads,
            features: Features::detect(),
            timeline,
        }
    }

    /// The number of inputs a run takes.
    pub fn input_count(&self) -> usize {
        self.program.inputs.len()
    }

    /// True when the bytes of the source's constant `value` are not read again.
    pub fn is_released(&self, value: usize) -> bool {
        self.ready.get().is_some_and(|ready| ready.dropped.get(value).copied().unwrap_or(false))
    }

    /// Runs once. `inputs` are the graph's inputs in order.
    pub fn run(&self, inputs: impl Iterator<Item = Result<Tensor>>, outputs: &dyn Outputs) -> Result<()> {
        let ready = self.ready()?;
        let mut state = self.take_state();
        let result =
            self.take_inputs(&mut state, inputs).and_then(|()| self.run_in(&mut state, ready, outputs));
        state.clear();
        self.states.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        result
    }

    fn take_state(&self) -> Box<State> {
        let kept = self.states.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| {
            let slots = vec![None; self.program.slots];
            Box::new(State { pool: Pool::new(), slots, inputs: Vec::new(), outputs: Vec::new() })
        })
    }

    fn take_inputs(&self, state: &mut State, inputs: impl Iterator<Item = Result<Tensor>>) -> Result<()> {
        for (tensor, slot) in inputs.zip(&self.program.inputs) {
            let tensor = tensor?;
            if let Some(slot) = slot {
                state.slots[*slot as usize] = Some(tensor);
            }
        }
        Ok(())
    }

    fn run_in(&self, state: &mut State, ready: &Ready, outputs: &dyn Outputs) -> Result<()> {
        let State { pool, slots, inputs, outputs: results } = state;
        let machine = Machine { parallel: &*self.threads, features: self.features };
        let memory = StepOutputs { outputs, step: Cell::new(None), taken: RefCell::default() };
        let timed = self.timeline.on.load(Ordering::Relaxed);
        for (step, &released) in self.program.steps.iter().zip(&ready.released) {
            let start = timed.then(Instant::now);
            memory.step.set(Some(step));
            inputs.clear();
            results.clear();
            inputs.extend(step.args.iter().enumerate().map(|(index, arg)| match *arg {
                Arg::Absent => None,
                Arg::Constant(_) if released.contains(index) => None,
                Arg::Constant(number) => ready.constants[number as usize].as_ref().map(Constant::view),
                Arg::Slot { slot, last: true } => slots[slot as usize].take(),
                Arg::Slot { slot, last: false } => slots[slot as usize].clone(),
            }));
            let mut cx = Context {
                inputs,
                outputs: results,
                wanted: step.wanted,
                pool,
                machine: &machine,
                memory: &memory,
            };
            step.kernel.run(&mut cx).map_err(|error| at_node(&step.name, &step.op_type, &error))?;
            memory.store(step, results, slots).map_err(|error| at_node(&step.name, &step.op_type, &error))?;
            if let Some(start) = start {
                self.record(step, start);
            }
        }
        self.copy_outputs(slots, ready, outputs)
    }

    fn copy_outputs(&self, slots: &[Option<Tensor>], ready: &Ready, outputs: &dyn Outputs) -> Result<()> {
        for (index, source) in self.program.outputs.iter().enumerate() {
            let OutputSource::Copy(arg) = source else { continue };
            let constant;
            let tensor = match *arg {
                Arg::Slot { slot, .. } => slots[slot as usize].as_ref(),
                Arg::Constant(number) => {
                    constant = ready.constants[number as usize].as_ref().map(Constant::view);
                    constant.as_ref()
                }
                Arg::Absent => None,
            };
            let tensor =
                tensor.ok_or_else(|| OpError::invalid(format!("nothing was computed for output {index}")))?;
            copy_to(tensor, index, outputs)?;
        }
        Ok(())
    }

    fn record(&self, step: &Step, start: Instant) {
        let nanoseconds = start.elapsed().as_nanos() as u64;
        let timing = Timing { node: step.name.clone(), op_type: step.op_type.clone(), start, nanoseconds };
        self.timeline.entries.lock().unwrap_or_else(PoisonError::into_inner).push(timing);
    }

    fn ready(&self) -> Result<&Ready> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let _one = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let ready = self.prepare()?;
        Ok(self.ready.get_or_init(|| ready))
    }

    /// Runs the prologue and lets every kernel pack its constants, dropping each constant after its last reader.
    fn prepare(&self) -> Result<Ready> {
        let machine = Machine { parallel: &*self.threads, features: self.features };
        let program = &self.program;
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let mut constants: Vec<Option<Constant>> =
            program.constants.iter().map(|source| given[(*source)?].take()).collect();
        let mut readers = vec![0usize; constants.len()];
        let all = || program.prologue.iter().chain(&program.steps);
        all().flat_map(|step| &step.args).for_each(|arg| count(arg, &mut readers));
        let copied = program.outputs.iter().filter_map(|source| match source {
            OutputSource::Copy(arg) => Some(arg),
            OutputSource::InPlace => None,
        });
        copied.for_each(|arg| count(arg, &mut readers));
        let pool = Pool::new();
        for step in &program.prologue {
            compute_once(step, &mut constants, &pool, &machine)?;
            step.args.iter().for_each(|arg| let_go(arg, &mut readers, &mut constants));
        }
        let mut released = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            let inputs: SmallVec<[Option<Tensor>; 6]> =
                step.args.iter().map(|arg| constant_view(arg, &mut constants)).collect();
            let packed = step
                .kernel
                .pack(&Constants { inputs: &inputs, machine: &machine })
                .map_err(|error| at_node(&step.name, &step.op_type, &error))?;
            drop(inputs);
            for (index, arg) in step.args.iter().enumerate() {
                if packed.contains(index) {
                    let_go(arg, &mut readers, &mut constants);
                }
            }
            released.push(packed);
        }
        let mut dropped = vec![false; given.len()];
        for (number, source) in program.constants.iter().enumerate() {
            if let Some(value) = *source {
                dropped[value] = constants[number].as_ref().is_none_or(|constant| !constant.is_borrowed());
            }
        }
        Ok(Ready { constants, released, dropped })
    }
}

fn count(arg: &Arg, readers: &mut [usize]) {
    if let Arg::Constant(number) = *arg {
        readers[number as usize] += 1;
    }
}

fn let_go(arg: &Arg, readers: &mut [usize], constants: &mut [Option<Constant>]) {
    if let Arg::Constant(number) = *arg {
        readers[number as usize] -= 1;
        if readers[number as usize] == 0 {
            constants[number as usize] = None;
        }
    }
}

/// A view of a constant argument, aligned for its element type.
fn constant_view(arg: &Arg, constants: &mut [Option<Constant>]) -> Option<Tensor> {
    let Arg::Constant(number) = *arg else { return None };
    let constant = constants[number as usize].as_mut()?;
    constant.align();
    Some(constant.view())
}

fn compute_once(
    step: &Step,
    constants: &mut [Option<Constant>],
    pool: &Pool,
    machine: &Machine<'_>,
) -> Result<()> {
    let located = |error: OpError| at_node(&step.name, &step.op_type, &error);
    let mut inputs: SmallVec<[Option<Tensor>; 6]> =
        step.args.iter().map(|arg| constant_view(arg, constants)).collect();
    let packed = step.kernel.pack(&Constants { inputs: &inputs, machine }).map_err(located)?;
    inputs.iter_mut().enumerate().filter(|(i, _)| packed.contains(*i)).for_each(|(_, input)| *input = None);
    let memory = Unbound;
    let mut outputs = Vec::new();
    let mut cx = Context {
        inputs: &mut inputs,
        outputs: &mut outputs,
        wanted: step.wanted,
        pool,
        machine,
        memory: &memory,
    };
    step.kernel.run(&mut cx).map_err(located)?;
    for (index, target) in step.targets.iter().enumerate() {
        let Some(number) = target.slot else { continue };
        let result = outputs.get(index).and_then(Option::as_ref);
        let result =
            result.ok_or_else(|| located(OpError::invalid(format!("output {index} was not computed"))))?;
        constants[number as usize] = Some(Constant::copied(result));
    }
    Ok(())
}

fn copy_to(tensor: &Tensor, index: usize, outputs: &dyn Outputs) -> Result<()> {
    let bytes = tensor.as_bytes();
    let data = outputs.allocate(index, tensor.dtype(), tensor.dims(), bytes.len())?;
    if !bytes.is_empty() {
        // SAFETY: the caller gave that many bytes for this output alone.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len()) };
    }
    Ok(())
}

/// Output memory of steps that run once: all in the pool.
struct Unbound;

impl OutputMemory for Unbound {
    fn is_external(&self, _index: usize) -> bool {
        false
    }

    fn allocate(&self, _index: usize, _dtype: DType, _dims: &[usize], _bytes: usize) -> Result<*mut u8> {
        Err(OpError::invalid("no output of a constant step is external"))
    }
}

/// Output memory of the current step: the caller's for graph outputs, the pool for the rest.
struct StepOutputs<'a> {
    outputs: &'a dyn Outputs,
    step: Cell<Option<&'a Step>>,
    /// Graph outputs whose memory was asked for: index, address, bytes.
    taken: RefCell<SmallVec<[(u32, *mut u8, usize); 2]>>,
}

impl StepOutputs<'_> {
    fn graph_output(&self, index: usize) -> Option<u32> {
        self.step.get()?.targets.get(index)?.output
    }

    /// Moves the results of a step to their slots, and to the caller's memory where a kernel did not write there itself.
    fn store(&self, step: &Step, results: &mut [Option<Tensor>], slots: &mut [Option<Tensor>]) -> Result<()> {
        for (index, target) in step.targets.iter().enumerate() {
            let Some(slot) = target.slot else { continue };
            let result = results.get_mut(index).and_then(Option::take);
            let result =
                result.ok_or_else(|| OpError::invalid(format!("output {index} was not computed")))?;
            if let Some(output) = target.output {
                self.deliver(output, &result)?;
            }
            slots[slot as usize] = Some(result);
        }
        Ok(())
    }

    fn deliver(&self, output: u32, result: &Tensor) -> Result<()> {
        let taken = self.taken.borrow().iter().find(|(index, ..)| *index == output).copied();
        match taken {
            None => copy_to(result, output as usize, self.outputs),
            Some((_, data, _)) if std::ptr::eq(data, result.as_ptr()) => Ok(()),
            Some((_, data, bytes)) if bytes == result.as_bytes().len() => {
                // SAFETY: the caller gave that many bytes for this output, and the result lies elsewhere.
                unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), data, bytes) };
                Ok(())
            }
            Some(_) => {
                Err(OpError::invalid("the kernel asked for memory of another size than its result has"))
            }
        }
    }
}

impl OutputMemory for StepOutputs<'_> {
    fn is_external(&self, index: usize) -> bool {
        match self.graph_output(index) {
            Some(output) => !self.taken.borrow().iter().any(|(taken, ..)| *taken == output),
            None => false,
        }
    }

    fn allocate(&self, index: usize, dtype: DType, dims: &[usize], bytes: usize) -> Result<*mut u8> {
        let output =
            self.graph_output(index).ok_or_else(|| OpError::invalid("not an output of the graph"))?;
        let data = self.outputs.allocate(output as usize, dtype, dims, bytes)?;
        self.taken.borrow_mut().push((output, data, bytes));
        Ok(data)
    }
}
