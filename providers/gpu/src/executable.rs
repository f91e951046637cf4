//! A compiled subgraph: schedules by input shapes, queued launch by launch or replayed as one captured graph.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;
use tenon_plugin_api::provider::{self, RunRequest, Stream};
use tenon_plugin_api::{DType, Error, Result, TensorView};

use crate::compile::Compilation;
use crate::constant::{Block, Constants};
use crate::driver::{Arguments, Queue, Side};
use crate::opened::Opened;
use crate::schedule::{Location, Patch, ReadyLaunch, Schedule, Step, ValueId};
use crate::stream::{GpuRecording, GpuStream};
use crate::timeline::Span;

/// Schedules that are kept, the least recently used one going first.
const SCHEDULES: usize = 64;
/// Captured graphs of one schedule: one for each set of addresses.
const GRAPHS: usize = 8;
/// Fewer steps than this are queued one by one.
const GRAPH_STEPS: usize = 3;

/// Of every input its rank, element type, size in bytes and dimensions, one input after the other.
type Key = SmallVec<[i64; 32]>;

/// A compiled subgraph on a device.
pub struct GpuExecutable {
    opened: Arc<Opened>,
    compilation: Compilation,
    constants: Constants,
    schedules: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    entries: HashMap<Key, Arc<Prepared>>,
    /// The one used last, which mostly is the next one too.
    last: Option<(Key, Arc<Prepared>)>,
    clock: u64,
}

/// A schedule and what has been captured of it.
struct Prepared {
    schedule: Schedule,
    used: std::sync::atomic::AtomicU64,
    graphs: Mutex<Vec<Replay>>,
}

/// The addresses of a run, and its work as a graph once they have come twice.
struct Replay {
    addresses: Addresses,
    graph: Option<GpuRecording>,
}

/// What locations are resolved with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addresses {
    inputs: SmallVec<[u64; 8]>,
    outputs: SmallVec<[u64; 8]>,
    arena: u64,
    zeroed: u64,
}

impl Addresses {
    fn resolve(&self, location: Location) -> u64 {
        match location {
            Location::Input(index, offset) => self.inputs[index as usize] + offset,
            Location::Output(index, offset) => self.outputs[index as usize] + offset,
            Location::Arena(offset) => self.arena + offset,
            Location::Absolute(address) => address,
            Location::Zeroed(offset) => self.zeroed + offset,
        }
    }
}

fn key(inputs: &[TensorView<'_>]) -> Key {
    let mut key = Key::new();
    for input in inputs {
        let raw = input.raw();
        key.extend_from_slice(&[i64::from(raw.rank), i64::from(raw.dtype), raw.bytes as i64]);
        key.extend_from_slice(input.dims());
    }
    key
}

/// True when `key` is that of `inputs`. Numbers are compared one by one: they are too few for calls.
fn is_key(key: &[i64], inputs: &[TensorView<'_>]) -> bool {
    let mut rest = key;
    let matches = inputs.iter().all(|input| {
        let (raw, dims) = (input.raw(), input.dims());
        let Some((&[rank, dtype, bytes], tail)) = rest.split_first_chunk() else { return false };
        let Some((own, tail)) = tail.split_at_checked(dims.len()) else { return false };
        rest = tail;
        let is_alike = rank == i64::from(raw.rank) && dtype == i64::from(raw.dtype);
        is_alike && bytes == raw.bytes as i64 && own.iter().zip(dims).all(|(own, dim)| own == dim)
    });
    matches && rest.is_empty()
}

impl GpuExecutable {
    pub(crate) fn new(opened: Arc<Opened>, compilation: Compilation, constants: Constants) -> GpuExecutable {
        GpuExecutable { opened, compilation, constants, schedules: Mutex::default() }
    }

    /// The schedule for inputs of these types and shapes, checked and made when they come for the first time.
    fn prepare(&self, inputs: &[TensorView<'_>]) -> Result<Arc<Prepared>> {
        let mut cache = self.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, prepared)) = cache.last.as_ref().filter(|(key, _)| is_key(key, inputs)) {
            return Ok(prepared.clone());
        }
        let key = key(inputs);
        cache.clock += 1;
        let clock = cache.clock;
        if let Some(prepared) = cache.entries.get(&key) {
            prepared.used.store(clock, std::sync::atomic::Ordering::Relaxed);
            let prepared = prepared.clone();
            cache.last = Some((key, prepared.clone()));
            return Ok(prepared);
        }
        self.check(inputs)?;
        let schedule = self.schedule(inputs)?;
        if cache.entries.len() >= SCHEDULES {
            let used = |prepared: &Arc<Prepared>| prepared.used.load(std::sync::atomic::Ordering::Relaxed);
            let oldest = cache.entries.iter().min_by_key(|(_, p)| used(p)).map(|(key, _)| key.clone());
            oldest.map(|key| cache.entries.remove(&key));
        }
        let prepared = Arc::new(Prepared { schedule, used: clock.into(), graphs: Mutex::default() });
        cache.entries.insert(key.clone(), prepared.clone());
        cache.last = Some((key, prepared.clone()));
        Ok(prepared)
    }

    /// Runs a graph without inputs to the end; gives the memory of its outputs, and where each of them lies.
    pub(crate) fn run_once(&self) -> Result<(Block, Vec<u64>)> {
        let schedule = self.schedule(&[])?;
        let mut offsets = Vec::with_capacity(schedule.outputs.len());
        let mut total = 0;
        for (_, _, bytes) in &schedule.outputs {
            offsets.push(total);
            total += bytes.next_multiple_of(256) as u64;
        }
        let block = Block::new(&self.opened, total.max(1) as usize)?;
        let outputs: Vec<u64> = offsets.into_iter().map(|offset| block.address + offset).collect();
        let stream = GpuStream::new(self.opened.clone())?;
        let addresses = self.addresses(&stream, &schedule, SmallVec::new(), outputs.as_slice().into())?;
        self.queue_all(stream.queue, &schedule, &addresses)?;
        stream.synchronize()?;
        Ok((block, outputs))
    }

    fn schedule(&self, inputs: &[TensorView<'_>]) -> Result<Schedule> {
        let has = |symbol: &str| self.opened.kernels.has(symbol);
        let dims = |input: &TensorView<'_>| -> Option<Vec<usize>> {
            input.dims().iter().map(|&dim| usize::try_from(dim).ok()).collect()
        };
        let dims: Option<Vec<Vec<usize>>> = inputs.iter().map(dims).collect();
        let dims = dims.ok_or_else(|| Error::invalid("an input has a negative dimension"))?;
        let address = |value: ValueId| self.constants.address(value as u32);
        let (builder, outputs) = self.compilation.expand(self.opened.target(&has), &dims, &address)?;
        builder.finish(&outputs, &self.opened.kernels)
    }

    fn check(&self, inputs: &[TensorView<'_>]) -> Result<()> {
        let (given, expected) = (inputs.len(), self.compilation.inputs.len());
        if given != expected {
            return Err(Error::invalid(format!("the executable takes {expected} inputs, got {given}")));
        }
        for (index, input) in inputs.iter().enumerate() {
            let expected = input.element_count().and_then(|count| input.dtype().byte_len(count));
            if expected != Some(input.byte_len()) {
                let (dims, bytes) = (input.dims(), input.byte_len());
                return Err(Error::invalid(format!("input {index} of shape {dims:?} has {bytes} bytes")));
            }
            let declared = self.compilation.declared[self.compilation.inputs[index]].scalar;
            if declared.is_some_and(|scalar| scalar as u32 != input.dtype() as u32) {
                return Err(Error::invalid(format!("input {index} is of type {}", input.dtype())));
            }
        }
        Ok(())
    }

    fn run_on(&self, stream: &GpuStream, request: &RunRequest<'_, GpuStream>) -> Result<()> {
        let prepared = self.prepare(request.inputs)?;
        let schedule = &prepared.schedule;
        let inputs = request.inputs.iter().map(|input| input.data().addr() as u64).collect();
        let mut outputs = SmallVec::new();
        for (index, (scalar, dims, bytes)) in schedule.outputs.iter().enumerate() {
            let dtype = DType::from_onnx(*scalar as i32).unwrap_or_default();
            let data = request.allocate_output(index as u32, dtype, dims, *bytes)?;
            outputs.push(data.addr() as u64);
        }
        let addresses = self.addresses(stream, schedule, inputs, outputs)?;
        if self.opened.timeline.is_on() {
            return self.queue_timed(stream, schedule, &addresses);
        }
        if schedule.steps.len() < GRAPH_STEPS || !self.opened.uses_graphs {
            return self.queue_all(stream.queue, schedule, &addresses);
        }
        self.replay(stream, &prepared, addresses)
    }

    fn addresses(
        &self,
        stream: &GpuStream,
        schedule: &Schedule,
        inputs: SmallVec<[u64; 8]>,
        outputs: SmallVec<[u64; 8]>,
    ) -> Result<Addresses> {
        let arena = if schedule.arena_bytes > 0 { stream.arena(schedule.arena_bytes)? } else { 0 };
        let zeroed = if schedule.zeroed_bytes > 0 { stream.zeroed(schedule.zeroed_bytes)? } else { 0 };
        Ok(Addresses { inputs, outputs, arena, zeroed })
    }

    /// Starts the captured graph of these addresses; captures it when they come for the second time.
    fn replay(&self, stream: &GpuStream, prepared: &Prepared, addresses: Addresses) -> Result<()> {
        let mut graphs = prepared.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(position) = graphs.iter().position(|replay| replay.addresses == addresses) else {
            if graphs.len() >= GRAPHS {
                // A graph that may still run is ended by the driver after it has.
                graphs.remove(0);
            }
            graphs.push(Replay { addresses: addresses.clone(), graph: None });
            drop(graphs);
            return self.queue_all(stream.queue, &prepared.schedule, &addresses);
        };
        let replay = &mut graphs[position];
        if replay.graph.is_none() {
            // A stream of our own, so that the caller's may be capturing itself.
            let own = GpuStream::new(self.opened.clone())?;
            own.capture_begin()?;
            let queued = self.queue_all(own.queue, &prepared.schedule, &addresses);
            let graph = self.opened.driver.capture_end(self.opened.context, own.queue);
            queued?;
            replay.graph = Some(GpuRecording::new(self.opened.clone(), graph?));
        }
        match &replay.graph {
            Some(graph) => self.opened.driver.start(self.opened.context, graph.graph, stream.queue),
            None => Err(Error::internal("a graph was just captured")),
        }
    }

    fn queue_all(&self, queue: Queue, schedule: &Schedule, addresses: &Addresses) -> Result<()> {
        let mut scratch = Vec::new();
        schedule.steps.iter().try_for_each(|step| self.queue_step(queue, step, addresses, &mut scratch))
    }

    fn queue_step(
        &self,
        queue: Queue,
        step: &Step,
        addresses: &Addresses,
        scratch: &mut Vec<u8>,
    ) -> Result<()> {
        let (driver, context) = (&self.opened.driver, self.opened.context);
        match step {
            Step::Launch(launch) => self.launch(queue, launch, addresses, scratch),
            Step::Copy { to, from, bytes, .. } => {
                let (to, from) = (addresses.resolve(*to), addresses.resolve(*from));
                if *bytes == 0 || to == from {
                    return Ok(());
                }
                let side = |address| Side::Device(context, address);
                // SAFETY: both ends were laid out for that many bytes.
                unsafe { driver.copy(context, queue, side(to), side(from), *bytes) }
            }
        }
    }

    fn launch(
        &self,
        queue: Queue,
        launch: &ReadyLaunch,
        addresses: &Addresses,
        scratch: &mut Vec<u8>,
    ) -> Result<()> {
        let (driver, context) = (&self.opened.driver, self.opened.context);
        scratch.clear();
        scratch.extend_from_slice(&launch.bytes);
        for patch in &launch.patches {
            match patch {
                Patch::Address { at, location } => {
                    scratch[*at..*at + 8].copy_from_slice(&addresses.resolve(*location).to_le_bytes());
                }
                Patch::TensorMap { at, map, location } => {
                    let words = driver.encode_tensor_map(context, map, addresses.resolve(*location))?;
                    for (index, word) in words.iter().enumerate() {
                        let at = at + 8 * index;
                        scratch[at..at + 8].copy_from_slice(&word.to_le_bytes());
                    }
                }
            }
        }
        let args = Arguments { bytes: scratch, places: &launch.places };
        // SAFETY: the planner wrote the parameters for this kernel, and every address leads to memory laid out for it.
        unsafe { driver.launch(context, launch.function, &launch.config, args, queue) }
    }

    /// Queues every step between two marks of the device's clock.
    fn queue_timed(&self, stream: &GpuStream, schedule: &Schedule, addresses: &Addresses) -> Result<()> {
        let mut scratch = Vec::new();
        for step in &schedule.steps {
            let (symbol, nodes, cost) = match step {
                Step::Launch(launch) => (launch.symbol.as_str(), launch.nodes.as_slice(), Some(launch.cost)),
                Step::Copy { to, from, .. } if addresses.resolve(*to) == addresses.resolve(*from) => continue,
                Step::Copy { nodes, .. } => ("copy", nodes.as_slice(), None),
            };
            let named = nodes.iter().filter_map(|&node| self.compilation.nodes.get(node as usize));
            let names: Vec<&str> = named.clone().map(|node| node.name.as_str()).collect();
            let types: Vec<&str> = named.map(|node| node.op_type.as_str()).collect();
            let span = Span {
                symbol: symbol.into(),
                node: names.join("+"),
                op_type: types.join("+"),
                parameters: match step {
                    Step::Launch(launch) => format!("grid {:?}", launch.config.grid),
                    Step::Copy { bytes, .. } => format!("{bytes} bytes"),
                },
                stream: stream.queue.0,
                cost,
            };
            self.opened.timeline.around(&self.opened, stream.queue, span, || {
                self.queue_step(stream.queue, step, addresses, &mut scratch)
            })?;
        }
        Ok(())
    }
}

impl provider::Executable for GpuExecutable {
    type Stream = GpuStream;

    fn run(&self, request: &RunRequest<'_, GpuStream>) -> Result<()> {
        match request.stream {
            Some(stream) => self.run_on(stream, request),
            None => {
                let stream = GpuStream::new(self.opened.clone())?;
                self.run_on(&stream, request)?;
                stream.synchronize()
            }
        }
    }

    /// Constants are uploaded, or read, before compiling ends.
    fn released(&self, _value: u32) -> bool {
        true
    }
}
