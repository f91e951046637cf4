//! Constant folding: contents that shapes determine, reshapes of constants, and through the evaluator small nodes and
//! work on weights.

use super::pattern::copy_of;
use super::{Outcome, Rewrite, State};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, TypeInfo, ValueId};
use crate::shape::Analysis;
use crate::tensor::Tensor;

/// Reshapes of constants share their memory, whatever the size.
pub const RESHAPED: Rewrite = Rewrite {
    name: "reshaped constants",
    operators: &["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"],
    apply: reshaped,
};

/// Small nodes are computed.
pub const FOLDED: Rewrite = Rewrite { name: "constant folding", operators: &[], apply: folded };

/// Work on weights that does not make them larger, such as what a fused normalisation leaves of itself, is done once
/// here: providers pack and plan for weights that they know.
pub const WEIGHTS: Rewrite = Rewrite { name: "work on weights", operators: &[], apply: worked };

/// Operators whose result is not a function of their inputs.
const NOT_PURE: &[&str] = &[
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Dropout",
    "BitmaskDropout",
];

/// True when equal inputs give equal outputs.
pub fn is_pure(node: &Node) -> bool {
    !NOT_PURE.contains(&&*node.op_type)
}

/// Makes every value a constant whose contents follow from shapes. Returns how many.
pub fn fold_known(graph: &mut Graph, analysis: &Analysis) -> Result<usize> {
    let mut folded = 0;
    for value in graph.value_ids().collect::<Vec<_>>() {
        if graph.producer(value).is_none() || graph.is_output(value) {
            continue;
        }
        if let Some(tensor) = analysis.tensor(graph, value) {
            graph.make_constant(value, tensor)?;
            folded += 1;
        }
    }
    Ok(folded)
}

fn reshaped(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    if !node.domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let (Some(input), Some(output)) = (graph.constant_input(id, 0), node.output(0)) else {
        return Ok(Outcome::NoMatch);
    };
    let Some(dims) = graph.value(output).ty().and_then(TypeInfo::shape).and_then(|s| s.to_known()) else {
        return Ok(Outcome::NoMatch);
    };
    if graph.is_output(output) {
        return Ok(Outcome::NoEffect);
    }
    match input.reshaped(&dims) {
        Ok(tensor) => graph.make_constant(output, tensor)?,
        Err(error) => return Outcome::check_failed(error.message()),
    }
    Ok(Outcome::Fired)
}

/// The bytes of a tensor type of known shape.
fn byte_len(ty: &TypeInfo) -> Option<usize> {
    let dims = ty.shape()?.to_known()?;
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    match ty.dtype()? {
        DType::String => count.checked_mul(16),
        dtype => dtype.byte_len(count),
    }
}

fn folded(graph: &mut Graph, id: NodeId, state: &mut State<'_>) -> Result<Outcome> {
    let limit = state.context.fold_limit_bytes;
    let Some(Work { outputs, read, written }) = work(graph, id, state) else { return Ok(Outcome::NoMatch) };
    if read > limit {
        return Outcome::check_failed(format!("its inputs have {read} bytes, more than {limit}"));
    }
    let Some(written) = written else {
        return Outcome::check_failed("the size of its result is not known beforehand");
    };
    if written > limit {
        return Outcome::check_failed(format!("its outputs have {written} bytes, more than {limit}"));
    }
    compute(graph, id, &outputs, state)
}

fn worked(graph: &mut Graph, id: NodeId, state: &mut State<'_>) -> Result<Outcome> {
    let Some(Work { outputs, read, written }) = work(graph, id, state) else { return Ok(Outcome::NoMatch) };
    let small = state.context.fold_limit_bytes;
    let Some(written) = written.filter(|&written| written <= read.max(small)) else {
        return Outcome::check_failed("its result is larger than what it is made of, or of unknown size");
    };
    let left = state.weight_bytes;
    if written > left {
        return Outcome::check_failed(format!(
            "its outputs have {written} bytes, and {left} may still be made"
        ));
    }
    let outcome = compute(graph, id, &outputs, state)?;
    if outcome == Outcome::Fired {
        state.weight_bytes -= written;
    }
    Ok(outcome)
}

/// A node that constants determine.
struct Work {
    /// Its outputs with their places.
    outputs: Vec<(usize, ValueId)>,
    /// Bytes of its inputs.
    read: usize,
    /// Bytes of its outputs where they are known.
    written: Option<usize>,
}

/// What a node would take; `None` where it is not for folding.
fn work(graph: &Graph, id: NodeId, state: &State<'_>) -> Option<Work> {
    state.context.evaluator?;
    let node = graph.node(id);
    let constant = |v: &ValueId| graph.constant(*v).is_some();
    if !node.bodies().is_empty() || !is_pure(node) || !node.inputs().iter().flatten().all(constant) {
        return None;
    }
    let outputs: Vec<(usize, ValueId)> =
        node.outputs().iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?))).collect();
    if outputs.is_empty() || outputs.iter().any(|(_, v)| state.refused.contains(v) || graph.is_output(*v)) {
        return None;
    }
    let read = node.inputs().iter().flatten().filter_map(|v| graph.constant(*v)).map(Tensor::byte_len).sum();
    let written = outputs.iter().try_fold(0usize, |sum, (_, v)| {
        graph.value(*v).ty().and_then(byte_len).map(|bytes| sum.saturating_add(bytes))
    });
    Some(Work { outputs, read, written })
}

/// Makes the outputs constants.
fn compute(
    graph: &mut Graph,
    id: NodeId,
    outputs: &[(usize, ValueId)],
    state: &mut State<'_>,
) -> Result<Outcome> {
    let Some(evaluator) = state.context.evaluator else { return Ok(Outcome::NoMatch) };
    let tensors = match alone(graph, id, outputs).and_then(|g| evaluator.evaluate(&g)) {
        Ok(tensors) if tensors.len() == outputs.len() => tensors,
        Ok(tensors) => {
            state.refused.extend(outputs.iter().map(|o| o.1));
            return Outcome::check_failed(format!(
                "{} outputs were computed of {}",
                tensors.len(),
                outputs.len()
            ));
        }
        Err(error) => {
            state.refused.extend(outputs.iter().map(|o| o.1));
            return Outcome::check_failed(format!("it could not be computed: {}", error.message()));
        }
    };
    for ((_, value), tensor) in outputs.iter().zip(tensors) {
        graph.make_constant(*value, tensor)?;
    }
    graph.remove_node(id);
    Ok(Outcome::Fired)
}

/// A graph of this one node with its constant inputs.
fn alone(graph: &Graph, id: NodeId, outputs: &[(usize, ValueId)]) -> Result<Graph> {
    let node = graph.node(id);
    let mut single = Graph::new("constant", graph.opsets.clone());
    let mut inputs = Vec::new();
    for input in node.inputs() {
        let tensor = input.and_then(|v| graph.constant(v));
        inputs.push(tensor.map(|t| single.add_constant("input", t.clone())));
    }
    let mut slots = vec![None; node.outputs().len()];
    for (i, value) in outputs {
        let v = graph.value(*value);
        slots[*i] = Some(single.add_value(v.name(), v.ty().cloned()));
    }
    single.add_node(copy_of(node), &inputs, &slots)?;
    for slot in slots.into_iter().flatten() {
        let name = single.value(slot).shared_name();
        single.add_output(name, slot, None);
    }
    Ok(single)
}
