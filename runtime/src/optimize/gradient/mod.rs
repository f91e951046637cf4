//! Gradient as standard operators: reverse-mode differentiation of the nodes between the values that the node names.
//!
//! [`rules`] lists the operators that can be differentiated; an operator that the standard defines as a function of such
//! operators is differentiated through its body. The derivatives are ordinary nodes, so that a Gradient of a Gradient
//! works as well.

mod arithmetic;
mod emit;
mod layout;
mod linear;
mod norm;
mod reduce;
mod rules;

use std::collections::{HashMap, HashSet};

use super::pattern::{dtype_of, version};
use crate::dtype::DType;
use crate::error::{Error, Result, ResultExt};
use crate::graph::{Body, Graph, Node, NodeId, ValueId, inline};
use crate::shape;
use emit::Emitter;

/// Functions inside functions are opened this many levels deep.
const DEPTH: usize = 8;

/// Puts the derivatives of value `y` by the values `xs` in the place of a Gradient node. Values `zs` are held constant.
///
/// The node's inputs are the points at which it differentiates: where an input is another value than the one of that
/// name, the nodes from it to `y` are computed again for that input.
pub fn expand(graph: &mut Graph, id: NodeId) -> Result<()> {
    let request = Request::of(graph, id)?;
    let order = slice(graph, request.y, &request.variables)?;
    let (tape, y) = replay(graph, &order, &request)?;
    let mut differentials = backward(graph, &tape, y, &request.points[..request.wanted])?;
    let outputs = graph.node(id).outputs().to_vec();
    let label = graph.node(id).label(graph);
    for (output, point) in outputs.iter().zip(&request.points) {
        if output.is_some() && !differentials.contains_key(point) {
            let zero = Emitter { graph }.filled_like(*point, 0.0)?;
            differentials.insert(*point, zero);
        }
    }
    graph.remove_node(id);
    for (output, point) in outputs.iter().zip(&request.points) {
        if let Some(output) = output.filter(|v| graph.get_value(*v).is_some()) {
            let node = Node::new("", "Identity", version(graph, 13)).with_name(label.clone());
            let identity = graph.add_node(node, &[Some(differentials[point])], &[Some(output)])?;
            shape::infer_node(graph, identity)?;
        }
    }
    Ok(())
}

/// What a Gradient node asks for.
struct Request {
    y: ValueId,
    /// The values named by `xs`, then those named by `zs`.
    variables: Vec<ValueId>,
    /// The node's inputs: where each variable is put.
    points: Vec<ValueId>,
    /// How many of them are `xs`.
    wanted: usize,
}

impl Request {
    fn of(graph: &Graph, id: NodeId) -> Result<Request> {
        let node = graph.node(id);
        let find = |name: &str| {
            graph.find_value(name).ok_or_else(|| {
                Error::invalid_model(format!("Gradient names value '{name}', which its graph does not have"))
            })
        };
        let xs = node.attributes.strings("xs")?.unwrap_or(&[]);
        let zs = node.attributes.strings("zs")?.unwrap_or(&[]);
        let y = node
            .attributes
            .string("y")?
            .ok_or_else(|| Error::invalid_model("Gradient needs attribute 'y'"))?;
        let points: Vec<ValueId> = node.inputs().iter().flatten().copied().collect();
        if xs.is_empty() || points.len() != xs.len() + zs.len() || node.outputs().len() > xs.len() {
            return Err(Error::invalid_model(format!(
                "Gradient has {} inputs and {} outputs for {} names in xs and {} in zs",
                points.len(),
                node.outputs().len(),
                xs.len(),
                zs.len()
            )));
        }
        let variables = xs.iter().chain(zs).map(|name| find(name)).collect::<Result<_>>()?;
        Ok(Request { y: find(y)?, variables, points, wanted: xs.len() })
    }
}

/// The nodes that compute `y` from `variables`, in topological order.
fn slice(graph: &mut Graph, y: ValueId, variables: &[ValueId]) -> Result<Vec<NodeId>> {
    let mut needed = HashSet::new();
    let mut open = vec![y];
    while let Some(value) = open.pop() {
        if variables.contains(&value) {
            continue;
        }
        if let Some((node, _)) = graph.producer(value)
            && needed.insert(node)
        {
            open.extend(graph.node(node).reads());
        }
    }
    Ok(graph.topological_order()?.iter().copied().filter(|id| needed.contains(id)).collect())
}

/// Nodes that compute `y` at the given points and can be differentiated, in topological order, and that `y`.
fn replay(graph: &mut Graph, order: &[NodeId], request: &Request) -> Result<(Vec<NodeId>, ValueId)> {
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    let mut depends: HashSet<ValueId> = request.points[..request.wanted].iter().copied().collect();
    for (variable, point) in request.variables.iter().zip(&request.points) {
        if variable != point {
            map.insert(*variable, *point);
        }
    }
    let mut tape = Vec::new();
    for &id in order {
        let reads: Vec<ValueId> = graph.node(id).reads().map(|v| *map.get(&v).unwrap_or(&v)).collect();
        let moved = graph.node(id).reads().any(|v| map.contains_key(&v));
        let active = reads.iter().any(|v| depends.contains(v));
        let opened = active && !rules::knows(graph.node(id)) && has_function(graph.node(id));
        if !(active || moved) {
            continue;
        }
        let id = if moved || opened { copy(graph, id, &mut map)? } else { id };
        let label = graph.node(id).label(graph);
        if active {
            depends.extend(graph.node(id).outputs().iter().flatten().filter(|v| is_float(graph, **v)));
        }
        if opened {
            open_function(graph, id, &mut map, &mut depends, &mut tape, 0).in_node(|| label)?;
        } else if active {
            tape.push(id);
        }
    }
    Ok((tape, *map.get(&request.y).unwrap_or(&request.y)))
}

fn is_float(graph: &Graph, value: ValueId) -> bool {
    matches!(dtype_of(graph, value), DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Undefined)
}

fn has_function(node: &Node) -> bool {
    node.bodies().is_empty() && inline::standard_function(&node.domain, &node.op_type, node.version).is_some()
}

/// A copy of a node that reads what `map` says; its outputs are new values, which `map` learns.
fn copy(graph: &mut Graph, id: NodeId, map: &mut HashMap<ValueId, ValueId>) -> Result<NodeId> {
    let node = graph.node(id).clone();
    let at = |v: &ValueId| *map.get(v).unwrap_or(v);
    let mut twin = node.clone_operator();
    for body in node.bodies() {
        let captures = body.captures().iter().map(at).collect();
        twin = twin.with_body(Body::new(body.attribute(), body.graph().clone(), captures));
    }
    let inputs: Vec<_> = node.inputs().iter().map(|v| v.as_ref().map(at)).collect();
    let mut outputs = Vec::new();
    for value in node.outputs() {
        outputs.push(value.map(|v| {
            let (name, ty) = (graph.value(v).shared_name(), graph.value(v).ty().cloned());
            graph.add_value(&name, ty)
        }));
    }
    for (old, new) in node.outputs().iter().zip(&outputs) {
        if let (Some(old), Some(new)) = (old, new) {
            map.insert(*old, *new);
        }
    }
    graph.add_node(twin, &inputs, &outputs)
}

/// Puts the function's body in the place of node `id`, a copy whose outputs only `map` knows, and its nodes on the tape.
fn open_function(
    graph: &mut Graph,
    id: NodeId,
    map: &mut HashMap<ValueId, ValueId>,
    depends: &mut HashSet<ValueId>,
    tape: &mut Vec<NodeId>,
    depth: usize,
) -> Result<()> {
    let node = graph.node(id);
    let body = inline::standard_function(&node.domain, &node.op_type, node.version)
        .filter(|_| depth < DEPTH)
        .ok_or_else(|| {
            Error::unsupported(format!("operator {} cannot be differentiated", node.operator()))
        })?;
    let named: Vec<_> =
        node.outputs().iter().flatten().map(|v| (*v, graph.value(*v).shared_name())).collect();
    let added = inline::inline_node(graph, id, body)?;
    for (old, name) in named {
        let new =
            graph.find_value(&name).ok_or_else(|| Error::internal("an inlined output lost its name"))?;
        map.values_mut().filter(|v| **v == old).for_each(|v| *v = new);
    }
    let members: HashSet<NodeId> = added.into_iter().collect();
    let order: Vec<NodeId> =
        graph.topological_order()?.iter().copied().filter(|n| members.contains(n)).collect();
    for id in order {
        shape::infer_node(graph, id)?;
        let node = graph.node(id);
        if !node.reads().any(|v| depends.contains(&v)) {
            continue;
        }
        let outputs: Vec<ValueId> = node.outputs().iter().flatten().copied().collect();
        depends.extend(outputs.iter().copied().filter(|v| is_float(graph, *v)));
        let node = graph.node(id);
        if !rules::knows(node) && has_function(node) {
            open_function(graph, id, map, depends, tape, depth + 1)?;
        } else {
            tape.push(id);
        }
    }
    Ok(())
}

/// The derivatives of `y` by each of `points` that it depends on.
fn backward(
    graph: &mut Graph,
    tape: &[NodeId],
    y: ValueId,
    points: &[ValueId],
) -> Result<HashMap<ValueId, ValueId>> {
    let mut depends: HashSet<ValueId> = points.iter().copied().collect();
    for id in tape {
        let node = graph.node(*id);
        if node.reads().any(|v| depends.contains(&v)) {
            depends.extend(node.outputs().iter().flatten().filter(|v| is_float(graph, **v)));
        }
    }
    let mut differentials = HashMap::new();
    if !depends.contains(&y) {
        return Ok(differentials);
    }
    let one = Emitter { graph }.filled_like(y, 1.0)?;
    differentials.insert(y, one);
    for &id in tape.iter().rev() {
        let node = graph.node(id).clone();
        let given: Vec<Option<ValueId>> = node
            .outputs()
            .iter()
            .map(|v| v.filter(|v| !points.contains(v)).and_then(|v| differentials.get(&v).copied()))
            .collect();
        if given.iter().all(Option::is_none) {
            continue;
        }
        let label = node.label(graph);
        let wanted: Vec<bool> =
            node.inputs().iter().map(|v| v.is_some_and(|v| depends.contains(&v))).collect();
        let parts = rules::apply(&mut Emitter { graph }, &node, &given, &wanted).in_node(|| label)?;
        for (input, part) in node.inputs().iter().zip(parts) {
            let (Some(input), Some(part)) = (input, part) else { continue };
            if !depends.contains(input) {
                continue;
            }
            let sum = match differentials.get(input) {
                Some(&sum) => Emitter { graph }.op("Add", 14, &[sum, part])?,
                None => part,
            };
            differentials.insert(*input, sum);
        }
    }
    Ok(differentials)
}
