//! From a graph to operators: what is claimed and at which cost, and what an executable is made of.

use std::collections::HashSet;
use std::sync::Arc;

use tenon_kernels::estimate::{Cost, Peak};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::provider::ClaimSink;
use tenon_plugin_api::{Error, GraphView, NodeView, Result, ValueView, ffi};

use crate::operator::{Decline, Derived, Expansion, Lowering, Operator, scalar_of};
use crate::ops;
use crate::schedule::{Builder, Declared, DeclaredDim, Home, Target, Task, ValueId};

/// Elements assumed along a dimension that is not known before the run.
const UNKNOWN_DIM: usize = 64;
/// What starting a kernel takes, in nanoseconds.
const LAUNCH_NS: f64 = 2_500.0;
/// The part of the roofline that kernels reach, on average.
const EFFICIENCY: f64 = 0.6;

/// A node with its operator.
pub(crate) struct Compiled {
    pub operator: Box<dyn Operator>,
    /// The operator's own constants.
    pub derived: Vec<ValueId>,
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<Option<ValueId>>,
    pub name: String,
    pub op_type: String,
}

/// Says for every node of `graph` whether `target` runs it.
pub(crate) fn claim(target: Target<'_>, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) {
    let mut shapes_only: HashSet<u32> = HashSet::new();
    for node in graph.nodes() {
        if computes_shapes(graph, node, &shapes_only) {
            shapes_only.extend(node.outputs());
            sink.decline(node.index(), "computes shapes, which is work for the host");
            continue;
        }
        match lower(node).and_then(|(operator, lowering)| estimate(target, graph, &*operator, &lowering)) {
            Ok(cost) => sink.claim(&[node.index()], cost),
            Err(Decline(reason)) => sink.decline(node.index(), &reason),
        }
    }
}

/// True for nodes that work on shapes: `Shape` and `Size`, and whatever reads nothing but their results and constants.
fn computes_shapes(graph: GraphView<'_>, node: NodeView<'_>, known: &HashSet<u32>) -> bool {
    if node.domain().is_empty() && matches!(node.op_type(), "Shape" | "Size") {
        return true;
    }
    let mut variable = node
        .inputs()
        .iter()
        .filter(|&&input| graph.value(input).is_some_and(|value| value.constant().is_none()))
        .peekable();
    variable.peek().is_some() && variable.all(|input| known.contains(input))
}

/// The operator of a node whose element types are all known to kernels.
fn lower(node: NodeView<'_>) -> std::result::Result<(Box<dyn Operator>, Lowering<'_>), Decline> {
    let lowering = Lowering::new(node);
    let operator = ops::lower(&lowering)?;
    for index in 0..node.inputs().len() {
        if let Some(value) = node.input(index)
            && !lowering.is_host_input(index)
        {
            scalar_of(value.dtype())?;
            if value.dims().is_none() {
                return Err(Decline(format!("the rank of input {index} is not known")));
            }
        }
    }
    Ok((operator, lowering))
}

/// The cost of a node, with guesses for what is not known of its shapes.
fn estimate(
    target: Target<'_>,
    graph: GraphView<'_>,
    operator: &dyn Operator,
    lowering: &Lowering<'_>,
) -> std::result::Result<ffi::Cost, Decline> {
    let node = lowering.node;
    let values: Vec<Option<ValueView<'_>>> =
        node.inputs().iter().chain(node.outputs()).map(|&value| graph.value(value)).collect();
    let declared: Vec<Declared> = values.iter().map(|value| describe(*value, Home::Arena)).collect();
    let mut builder = Builder::new(target, &declared);
    let count = node.inputs().len();
    let slots: Vec<Option<ValueId>> =
        values.iter().enumerate().map(|(index, value)| value.map(|_| index)).collect();
    let mut is_exact = true;
    for (index, value) in values.iter().enumerate().take(count) {
        let Some(value) = value else { continue };
        let Some(dims) = value.dims() else { continue };
        is_exact &= dims.iter().all(|&dim| dim >= 0);
        let dims: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(UNKNOWN_DIM)).collect();
        let scalar = builder.scalar(index);
        builder.define(index, scalar, &dims)?;
    }
    let mut expansion = Expansion {
        builder: &mut builder,
        inputs: &slots[..count],
        outputs: &slots[count..],
        derived: &[],
        node: node.index(),
    };
    operator.supports(target)?;
    match operator.expand(&mut expansion) {
        Ok(()) => price(&builder),
        // With guessed sizes a refusal means nothing.
        Err(_) if !is_exact => Ok(ffi::Cost { time_ns: 2.0 * LAUNCH_NS, flops: -1.0, bytes: -1.0 }),
        Err(error) => Err(error.into()),
    }
}

/// The time of the work collected.
fn price(builder: &Builder<'_>) -> std::result::Result<ffi::Cost, Decline> {
    let Target { chip, has, .. } = builder.target;
    let peak = Peak {
        flops_per_second: chip.bf16_flops_per_second / 16.0 * EFFICIENCY,
        bytes_per_second: chip.bytes_per_second * EFFICIENCY,
    };
    let mut total = ffi::Cost { time_ns: 0.0, flops: 0.0, bytes: 0.0 };
    let mut add = |cost: Cost| {
        total.time_ns += LAUNCH_NS + cost.seconds(peak) * 1e9;
        total.flops += cost.flops;
        total.bytes += cost.bytes;
    };
    for work in &builder.works {
        match &work.task {
            Task::Plan { plan, .. } => {
                for launch in &plan.launches {
                    if !has(&launch.symbol) {
                        return Err(Decline(format!("this build holds no kernel '{}'", launch.symbol)));
                    }
                    add(launch.cost);
                }
            }
            Task::Map(map) => {
                let program =
                    map.program().ok_or_else(|| Decline::new("the expression needs too many registers"))?;
                let plan = tenon_kernels::gpu::elementwise::plan(&program)
                    .map_err(|error| Decline(error.to_string()))?;
                for launch in &plan.launches {
                    if !has(&launch.symbol) {
                        return Err(Decline(format!("this build holds no kernel '{}'", launch.symbol)));
                    }
                    add(launch.cost);
                }
            }
            Task::Copy { to, .. } => add(Cost { flops: 0.0, bytes: 2.0 * builder.byte_len(*to) as f64 }),
        }
    }
    Ok(total)
}

fn describe(value: Option<ValueView<'_>>, home: Home) -> Declared {
    let Some(value) = value else { return Declared { scalar: None, dims: None, home: Home::Absent } };
    let dim = |(axis, &dim): (usize, &i64)| match usize::try_from(dim) {
        Ok(size) => DeclaredDim::Known(size),
        Err(_) => match value.dim_symbol(axis) {
            Some(symbol) => DeclaredDim::Symbol(Arc::from(symbol)),
            None => DeclaredDim::Unknown,
        },
    };
    Declared {
        scalar: scalar_of(value.dtype()).ok(),
        dims: value.dims().map(|dims| dims.iter().enumerate().map(dim).collect()),
        home,
    }
}

/// A graph in the executable's terms.
pub(crate) struct Compilation {
    pub nodes: Vec<Compiled>,
    pub declared: Vec<Declared>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    /// Shapes of constants, by value.
    pub constants: Vec<(ValueId, Vec<usize>)>,
    /// Constants that must be on the device.
    pub device_constants: Vec<u32>,
}

impl Compilation {
    /// The work of a run with inputs of these dimensions, and the values that its outputs are; `address` tells where
    /// constants are.
    pub fn expand<'b>(
        &'b self,
        target: Target<'b>,
        inputs: &[Vec<usize>],
        address: &dyn Fn(ValueId) -> Option<u64>,
    ) -> Result<(Builder<'b>, Vec<ValueId>)> {
        let mut builder = Builder::new(target, &self.declared);
        for (value, dims) in &self.constants {
            if let Some(address) = address(*value) {
                builder.states[*value].home = Home::Constant(address);
            }
            let scalar = builder.scalar(*value);
            builder.define(*value, scalar, dims)?;
        }
        for (&value, dims) in self.inputs.iter().zip(inputs) {
            let scalar = builder.scalar(value);
            builder.define(value, scalar, dims)?;
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let mut expansion = Expansion {
                builder: &mut builder,
                inputs: &node.inputs,
                outputs: &node.outputs,
                derived: &node.derived,
                node: number as u32,
            };
            node.operator.expand(&mut expansion).map_err(|error| Error {
                message: format!("node '{}' ({}): {}", node.name, node.op_type, error.message),
                ..error
            })?;
        }
        let outputs = self.claim_outputs(&mut builder)?;
        Ok((builder, outputs))
    }

    /// Outputs that are inputs or constants, or handed out twice, are copied at the end.
    fn claim_outputs(&self, builder: &mut Builder<'_>) -> Result<Vec<ValueId>> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (number, &value) in self.outputs.iter().enumerate() {
            if builder.states[value].home == Home::Output(number as u32) {
                outputs.push(value);
                continue;
            }
            let dims = builder.dims(value).to_vec();
            let copy = builder.scratch(builder.scalar(value), &dims)?;
            builder.states[copy].home = Home::Output(number as u32);
            builder.view(u32::MAX, copy, value, 0)?;
            outputs.push(copy);
        }
        Ok(outputs)
    }

    /// The constants that runs read, where the graph declares every dimension of its inputs: an operator that makes
    /// constants of its own reads those or what they were made from. `None`: all may be read.
    pub fn constants_read(&self, target: Target<'_>) -> Option<HashSet<ValueId>> {
        let inputs: Option<Vec<Vec<usize>>> =
            self.inputs.iter().map(|&value| self.declared[value].known_dims()).collect();
        let (builder, _) = self.expand(target, &inputs?, &|_| Some(0)).ok()?;
        let touched = builder.works.iter().flat_map(|work| work.touched());
        Some(touched.map(|value| builder.root(value).0).collect())
    }
}

/// Lowers every node of a claimed subgraph for `arch`; also gives the constants that operators make, by value.
pub(crate) fn compile<'a>(
    graph: GraphView<'a>,
    arch: &'static str,
) -> Result<(Compilation, Vec<(u32, Derived<'a>)>)> {
    let mut declared: Vec<Declared> =
        (0..graph.value_count()).map(|index| describe(graph.value(index as u32), Home::Arena)).collect();
    let slot = |&value: &u32| (value != ffi::NO_VALUE).then_some(value as ValueId);
    let mut needed: Vec<bool> = vec![false; declared.len()];
    let mut nodes = Vec::with_capacity(graph.node_count());
    let mut made = Vec::new();
    for node in graph.nodes() {
        let (operator, lowering) = lower(node).map_err(|Decline(reason)| {
            Error::unsupported(format!("node '{}' ({}): {reason}", node.name(), node.op_type()))
        })?;
        for (index, &input) in node.inputs().iter().enumerate() {
            if input != ffi::NO_VALUE && !lowering.is_host_input(index) {
                needed[input as usize] = true;
            }
        }
        // Numbered behind the graph's own values.
        let first = declared.len() + made.len();
        made.extend(operator.derived(node, arch));
        nodes.push(Compiled {
            operator,
            derived: (first..declared.len() + made.len()).collect(),
            inputs: node.inputs().iter().map(slot).collect(),
            outputs: node.outputs().iter().map(slot).collect(),
            name: node.name().into(),
            op_type: node.op_type().into(),
        });
    }
    graph.outputs().iter().for_each(|&value| needed[value as usize] = true);
    let mut constants = Vec::new();
    let mut device_constants = Vec::new();
    for index in 0..declared.len() {
        let Some(tensor) = graph.value(index as u32).and_then(|value| value.constant()) else { continue };
        declared[index].home = Home::Absent;
        let dims: Option<Vec<usize>> = tensor.dims().iter().map(|&dim| usize::try_from(dim).ok()).collect();
        constants.push((index, dims.ok_or_else(|| Error::invalid("a constant has a negative dimension"))?));
        if needed[index] {
            device_constants.push(index as u32);
        }
    }
    let mut derived = Vec::with_capacity(made.len());
    for constant in made {
        let (value, dims) = (declared.len(), vec![constant.bytes]);
        let known = vec![DeclaredDim::Known(constant.bytes)];
        declared.push(Declared { scalar: Some(Scalar::U8), dims: Some(known), home: Home::Absent });
        constants.push((value, dims));
        derived.push((value as u32, constant));
    }
    let ids = |values: &[u32]| values.iter().map(|&value| value as ValueId).collect::<Vec<_>>();
    let (inputs, outputs) = (ids(graph.inputs()), ids(graph.outputs()));
    for (number, &value) in outputs.iter().enumerate() {
        if declared[value].home == Home::Arena {
            declared[value].home = Home::Output(number as u32);
        }
    }
    for (number, &value) in inputs.iter().enumerate() {
        declared[value].home = Home::Input(number as u32);
    }
    Ok((Compilation { nodes, declared, inputs, outputs, constants, device_constants }, derived))
}
