//! Turns clusters into a plan: compiles each, places every value in a slot, inserts copies, finds lifetimes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use smallvec::SmallVec;
use tenon_plugin_api::host;

use crate::dtype::DType;
use crate::error::{Error, Result, ResultExt, Stage};
use crate::graph::host_op;
use crate::graph::{Dim, Graph, NodeId, TensorType, ValueId};
use crate::partition::{self, Chooser, Cluster, DeviceCost, Partitions, Place};
use crate::plan::{
    Action, ArenaSlot, BodyPlan, CopyStep, HostStep, Plan, RunStep, Slot, SlotInfo, Source, Step,
};
use crate::plugin::{GraphView, provider_error};
use crate::shape::expr;
use crate::tensor::Tensor;

/// A device of a session and what the planner needs to know of it.
#[derive(Clone)]
pub struct Device {
    pub handle: Arc<host::Device>,
    pub cost: DeviceCost,
}

impl Device {
    /// Where tensors this device works on must be.
    fn memory(&self, index: usize) -> Place {
        if self.cost.shares_host_memory { Place::Host } else { Place::Device(index) }
    }
}

/// Plans graphs for one list of devices.
#[derive(Clone)]
pub struct Compiler {
    devices: Arc<[Device]>,
    balance: bool,
}

/// A planned graph and how it was cut.
pub struct Planned {
    pub plan: Plan,
    pub partitions: Partitions,
    /// The graphs nested in it, at any depth, and how each was cut.
    pub nested: Vec<(Graph, Partitions)>,
}

impl Compiler {
    /// A compiler for `devices`, in the order in which they are preferred; `balance` lets estimated cost override it.
    pub fn new(devices: Arc<[Device]>, balance: bool) -> Compiler {
        Compiler { devices, balance }
    }

    /// The devices' names, by number.
    pub fn device_names(&self) -> Vec<String> {
        self.devices.iter().map(|device| device.cost.name.clone()).collect()
    }

    /// What the devices offer to run of `graph`.
    pub fn claims(&self, graph: &Graph) -> Result<partition::Claims> {
        let handles: Vec<_> = self.devices.iter().map(|device| device.handle.clone()).collect();
        partition::gather(graph, &handles)
    }

    /// Cuts and plans `graph` and the graphs nested in it.
    pub fn plan(&self, graph: &Graph) -> Result<Planned> {
        let claims = self.claims(graph)?;
        let costs: Vec<DeviceCost> = self.devices.iter().map(|device| device.cost.clone()).collect();
        let partitions =
            partition::assign(&Chooser { graph, claims: &claims, devices: &costs, balance: self.balance })?;
        let (plan, nested) =
            self.plan_partitions(graph, &partitions).map_err(|error| error.at_stage(Stage::Plan))?;
        Ok(Planned { plan, partitions, nested })
    }

    fn plan_partitions(
        &self,
        graph: &Graph,
        partitions: &Partitions,
    ) -> Result<(Plan, Vec<(Graph, Partitions)>)> {
        let mut planner = Planner::new(graph, &self.devices);
        let inputs: Vec<Slot> =
            graph.inputs().iter().map(|&value| planner.slot(value, Place::Host)).collect();
        for cluster in &partitions.clusters {
            match cluster.place {
                Place::Host => cluster.nodes.iter().try_for_each(|&id| planner.host_step(self, id))?,
                Place::Device(device) => planner.run_step(cluster, device)?,
            }
        }
        let nested = std::mem::take(&mut planner.nested);
        Ok((planner.finish(inputs)?, nested))
    }
}

struct Planner<'g> {
    graph: &'g Graph,
    devices: &'g Arc<[Device]>,
    slots: Vec<SlotInfo>,
    /// The slots a value has, one for each memory it is in.
    places: HashMap<(ValueId, Place), Slot>,
    values: Vec<ValueId>,
    steps: Vec<Step>,
    nested: Vec<(Graph, Partitions)>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph, devices: &'g Arc<[Device]>) -> Planner<'g> {
        Planner {
            graph,
            devices,
            slots: Vec::new(),
            places: HashMap::new(),
            values: Vec::new(),
            steps: Vec::new(),
            nested: Vec::new(),
        }
    }

    fn slot(&mut self, value: ValueId, memory: Place) -> Slot {
        let next = self.slots.len() as Slot;
        *self.places.entry((value, memory)).or_insert_with(|| {
            let name = self.graph.value(value).name().to_string();
            self.slots.push(SlotInfo { name, memory, output: None, arena: None });
            self.values.push(value);
            next
        })
    }

    /// The slot of `value` in `memory`, copied there first when it is elsewhere.
    fn slot_in(&mut self, value: ValueId, memory: Place) -> Result<Slot> {
        if let Some(&slot) = self.places.get(&(value, memory)) {
            return Ok(slot);
        }
        let mut held: Vec<(Place, Slot)> = self
            .places
            .iter()
            .filter(|((v, _), _)| *v == value)
            .map(|((_, place), &slot)| (*place, slot))
            .collect();
        held.sort_unstable();
        let Some(&(from_memory, from)) = held.first() else {
            let name = self.graph.value(value).name();
            return Err(Error::internal(format!("value '{name}' is read before anything computes it")));
        };
        // Devices of different providers exchange values through host memory.
        let from = match (from_memory, memory) {
            (Place::Device(a), Place::Device(b)) if !self.are_peers(a, b) => {
                self.slot_in(value, Place::Host)?
            }
            _ => from,
        };
        let to = self.slot(value, memory);
        self.steps.push(Step { action: Action::Copy(CopyStep { from, to }), release: SmallVec::new() });
        Ok(to)
    }

    fn are_peers(&self, a: usize, b: usize) -> bool {
        self.devices[a].handle.provider_name() == self.devices[b].handle.provider_name()
    }

    fn source(&mut self, value: ValueId) -> Result<Source> {
        match self.graph.constant(value) {
            Some(constant) => Ok(Source::Constant(constant.clone())),
            None => Ok(Source::Slot(self.slot_in(value, Place::Host)?)),
        }
    }

    fn run_step(&mut self, cluster: &Cluster, device: usize) -> Result<()> {
        let (mut inputs, outputs) = boundary(self.graph, &cluster.nodes);
        let target = &self.devices[device];
        let memory = target.memory(device);
        if matches!(memory, Place::Device(_)) {
            inputs.extend(measures(self.graph, &cluster.nodes, &inputs));
        }
        let view = GraphView::new(self.graph, &cluster.nodes, &inputs, &outputs);
        let executable = target
            .handle
            .compile(&host::CompileArgs { constants_stay: true, ..host::CompileArgs::new(view.as_ffi()) })
            .map_err(|error| provider_error(&error))?;
        let constants: Vec<(u32, Tensor)> = view
            .values()
            .iter()
            .enumerate()
            .filter_map(|(number, &value)| Some((number as u32, self.graph.constant(value)?.clone())))
            .collect();
        let inputs = inputs.iter().map(|&value| self.slot_in(value, memory)).collect::<Result<_>>()?;
        let outputs = outputs.iter().map(|&value| self.slot(value, memory)).collect();
        let nodes = cluster.nodes.len();
        let run = RunStep { executable, device, inputs, outputs, nodes, constants: Mutex::new(constants) };
        self.steps.push(Step { action: Action::Run(run), release: SmallVec::new() });
        Ok(())
    }

    fn host_step(&mut self, compiler: &Compiler, id: NodeId) -> Result<()> {
        let node = self.graph.node(id);
        let label = node.label(self.graph);
        let op = host_op::find(self.graph, id)
            .ok_or_else(|| Error::internal("a node of a provider was given to the host").in_node(&label))?;
        let inputs = node
            .inputs()
            .iter()
            .map(|input| input.map(|value| self.source(value)).transpose())
            .collect::<Result<_>>()
            .in_node(|| label.clone())?;
        let mut bodies = Vec::with_capacity(node.bodies().len());
        for body in node.bodies() {
            let planned = compiler.plan(body.graph()).in_node(|| label.clone())?;
            self.nested.push((body.graph().clone(), planned.partitions));
            self.nested.extend(planned.nested);
            let captures = body.captures().iter().map(|&value| self.source(value)).collect::<Result<_>>()?;
            bodies.push(BodyPlan {
                attribute: body.attribute().to_string(),
                plan: Arc::new(planned.plan),
                formal_inputs: body.formal_inputs().len(),
                captures,
                output_types: output_types(body.graph()),
            });
        }
        let outputs =
            node.outputs().iter().map(|output| output.map(|value| self.slot(value, Place::Host))).collect();
        let (version, attributes) = (node.version, node.attributes.clone());
        let step = HostStep { op, label, version, attributes, inputs, outputs, bodies };
        self.steps.push(Step { action: Action::Host(Box::new(step)), release: SmallVec::new() });
        Ok(())
    }

    fn finish(mut self, inputs: Vec<Slot>) -> Result<Plan> {
        let graph = self.graph;
        let outputs = graph.output_values().map(|value| self.source(value)).collect::<Result<Vec<_>>>()?;
        self.bind_outputs(&outputs, &inputs);
        let life = self.lifetimes(&inputs, &outputs);
        for (slot, &(_, last)) in life.iter().enumerate() {
            if let Some(step) = last.and_then(|last| self.steps.get_mut(last as usize)) {
                step.release.push(slot as Slot);
            }
        }
        let arena = self.arena(&life);
        let is_read = |slot: &Slot| life[*slot as usize].1.is_some() || is_output(&outputs, *slot);
        Ok(Plan {
            inputs: inputs.into_iter().map(|slot| Some(slot).filter(is_read)).collect(),
            input_shapes: graph
                .inputs()
                .iter()
                .map(|&value| graph.value(value).ty()?.shape().cloned())
                .collect(),
            outputs,
            slots: self.slots,
            steps: self.steps,
            devices: self.devices.clone(),
            arena,
        })
    }

    /// Lets each graph output be computed in the memory that the caller provides, where a cluster computes it.
    fn bind_outputs(&mut self, outputs: &[Source], inputs: &[Slot]) {
        let produced: HashSet<Slot> = self
            .steps
            .iter()
            .flat_map(|step| match &step.action {
                Action::Run(run) => run.outputs.to_vec(),
                Action::Copy(copy) => vec![copy.to],
                Action::Host(_) => Vec::new(),
            })
            .collect();
        for (number, source) in outputs.iter().enumerate() {
            if let Source::Slot(slot) = source
                && produced.contains(slot)
                && !inputs.contains(slot)
            {
                self.slots[*slot as usize].output.get_or_insert(number as u32);
            }
        }
    }

    /// For each slot the step that fills it and the last step that reads it; no last step for what leaves the graph.
    fn lifetimes(&self, inputs: &[Slot], outputs: &[Source]) -> Vec<(u32, Option<u32>)> {
        let mut life: Vec<(u32, Option<u32>)> = vec![(u32::MAX, None); self.slots.len()];
        inputs.iter().for_each(|&slot| life[slot as usize].0 = 0);
        for (number, step) in self.steps.iter().enumerate() {
            let number = number as u32;
            let (reads, writes) = touched(&step.action);
            for slot in writes {
                // A value that nobody reads is let go where it was made.
                let life = &mut life[slot as usize];
                *life = (life.0.min(number), Some(number));
            }
            reads.into_iter().for_each(|slot| life[slot as usize].1 = Some(number));
        }
        outputs.iter().for_each(|source| {
            if let Source::Slot(slot) = source {
                life[*slot as usize].1 = None;
            }
        });
        life
    }

    /// Chooses the slots that live in arenas: those that only clusters and copies touch and whose type is known.
    fn arena(&mut self, life: &[(u32, Option<u32>)]) -> Vec<ArenaSlot> {
        let mut only_devices = vec![true; self.slots.len()];
        let mut written = vec![false; self.slots.len()];
        for step in &self.steps {
            let (reads, writes) = touched(&step.action);
            if matches!(step.action, Action::Host(_)) {
                reads.iter().chain(&writes).for_each(|&slot| only_devices[slot as usize] = false);
            }
            writes.iter().for_each(|&slot| written[slot as usize] = true);
        }
        let mut arena = Vec::new();
        for (slot, info) in self.slots.iter_mut().enumerate() {
            let (first, Some(last)) = life[slot] else { continue };
            let ty = self.graph.value(self.values[slot]).ty().and_then(|ty| ty.as_tensor());
            let Some((dtype, Some(shape))) = ty.map(|ty| (ty.dtype, ty.shape.clone())) else { continue };
            let sized = dtype != DType::Undefined && dtype != DType::String;
            let planned = shape.iter().all(|dim| dim.to_expr().is_some());
            if only_devices[slot] && written[slot] && sized && planned {
                info.arena = Some(arena.len() as u32);
                arena.push(ArenaSlot { memory: info.memory, dtype, shape, first, last });
            }
        }
        arena
    }
}

/// The tensor types of a graph's outputs, inferred before declared.
fn output_types(graph: &Graph) -> Vec<Option<TensorType>> {
    let outputs = graph.outputs().iter();
    outputs
        .map(|output| {
            let inferred = graph.value(output.value).ty().and_then(|ty| ty.as_tensor());
            inferred.or(output.declared.as_ref().and_then(|ty| ty.as_tensor())).cloned()
        })
        .collect()
}

fn is_output(outputs: &[Source], slot: Slot) -> bool {
    outputs.iter().any(|source| matches!(source, Source::Slot(output) if *output == slot))
}

/// The slots an action reads and those it fills.
pub(super) fn touched(action: &Action) -> (Vec<Slot>, Vec<Slot>) {
    match action {
        Action::Run(run) => (run.inputs.to_vec(), run.outputs.to_vec()),
        Action::Copy(copy) => (vec![copy.from], vec![copy.to]),
        Action::Host(host) => {
            let inputs = host.inputs.iter().flatten();
            let captures = host.bodies.iter().flat_map(|body| &body.captures);
            let slot_of = |source: &Source| match source {
                Source::Slot(slot) => Some(*slot),
                Source::Constant(_) => None,
            };
            (
                inputs.chain(captures).filter_map(slot_of).collect(),
                host.outputs.iter().flatten().copied().collect(),
            )
        }
    }
}

/// The values a cluster takes from outside and those it gives to outside, each once and in a fixed order.
fn boundary(graph: &Graph, nodes: &[NodeId]) -> (Vec<ValueId>, Vec<ValueId>) {
    let members: HashSet<NodeId> = nodes.iter().copied().collect();
    let graph_outputs: HashSet<ValueId> = graph.output_values().collect();
    let (mut inputs, mut outputs, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for &id in nodes {
        let node = graph.node(id);
        for value in node.reads() {
            let inside = graph.producer(value).is_some_and(|(producer, _)| members.contains(&producer));
            if !inside && graph.constant(value).is_none() && seen.insert(value) {
                inputs.push(value);
            }
        }
        for value in node.outputs().iter().flatten() {
            let leaves = graph.consumers(*value).any(|consumer| !members.contains(&consumer));
            if leaves || graph_outputs.contains(value) {
                outputs.push(*value);
            }
        }
    }
    (inputs, outputs)
}

/// Inputs of the graph that a cluster does not read, but whose dimensions name sizes in its results that none of its own
/// inputs tells: a provider that knows sizes from its inputs alone learns them there.
fn measures(graph: &Graph, nodes: &[NodeId], inputs: &[ValueId]) -> Vec<ValueId> {
    let dims =
        |value: ValueId| graph.value(value).ty().and_then(|ty| ty.shape()).into_iter().flat_map(|s| s.iter());
    let names = |value: ValueId| {
        dims(value).filter_map(|dim| if let Dim::Symbol(name) = dim { Some(name) } else { None })
    };
    let mut known: HashSet<&str> =
        inputs.iter().flat_map(|&value| names(value)).map(|name| &**name).collect();
    let mut added = Vec::new();
    for value in nodes.iter().flat_map(|&id| graph.node(id).outputs()).flatten() {
        let mut wanted = BTreeSet::new();
        dims(*value).filter_map(Dim::to_expr).for_each(|dim| expr::collect_symbols(&dim, &mut wanted));
        for name in wanted {
            let tells = |&&input: &&ValueId| names(input).any(|other| *other == name);
            if !known.contains(&*name)
                && let Some(&input) = graph.inputs().iter().find(tells)
            {
                known.extend(names(input).map(|name| &**name));
                added.push(input);
            }
        }
    }
    added
}
