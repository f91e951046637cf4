//! Inference through nodes with bodies: branches are merged, loop states are generalised until they are stable.

use smallvec::SmallVec;

use super::contents::Contents;
use super::site::{Known, Site};
use super::{Outputs, Pass, dim, merge, name_unknown_dims};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Graph, NodeId, Shape, TypeInfo, ValueId};

/// Passes over a loop body before the types of states that keep changing are given up.
const ROUNDS: usize = 3;

/// A type and contents, where known.
type Fact = (Option<TypeInfo>, Option<Contents>);

/// Infers the bodies of a node and the types of its outputs.
pub fn infer(pass: &mut Pass, graph: &mut Graph, id: NodeId, depth: usize) -> Result<Outputs> {
    let node = graph.node(id);
    let operator = if node.domain.is_empty() { &*node.op_type } else { "" };
    let (types, contents) = match operator {
        "If" => branch(pass, graph, id, depth)?,
        "Loop" => repeat(pass, graph, id, depth)?,
        "Scan" => scan(pass, graph, id, depth)?,
        "SequenceMap" => sequence_map(pass, graph, id, depth)?,
        _ => {
            for body in 0..node.bodies().len() {
                let formal = graph.node(id).bodies()[body].formal_inputs().to_vec();
                let declared =
                    |v: &ValueId| (graph.node(id).bodies()[body].graph().value(*v).ty().cloned(), None);
                let facts = formal.iter().map(declared).collect::<Vec<Fact>>();
                visit(pass, graph, id, body, facts, depth)?;
            }
            return pass.plain(graph, id);
        }
    };
    let outputs = graph.node(id).outputs().len();
    let (mut types, mut contents): Outputs = (SmallVec::from_vec(types), SmallVec::from_vec(contents));
    types.resize(outputs, None);
    contents.resize(outputs, None);
    Ok((types, contents))
}

/// The index of a body that the operator needs.
fn body_of(graph: &Graph, id: NodeId, attribute: &str) -> Result<usize> {
    let node = graph.node(id);
    node.bodies().iter().position(|b| b.attribute() == attribute).ok_or_else(|| {
        Error::invalid_model(format!("{} needs graph attribute '{attribute}'", node.operator()))
    })
}

/// Checks that a body has `inputs` formal inputs and at least `outputs` outputs.
fn check_body(graph: &Graph, id: NodeId, body: usize, inputs: usize, outputs: usize) -> Result<()> {
    let b = &graph.node(id).bodies()[body];
    let (has_inputs, has_outputs) = (b.formal_inputs().len(), b.graph().outputs().len());
    if has_inputs != inputs {
        return Err(Error::invalid_model(format!(
            "graph '{}' has {has_inputs} inputs; with the node's inputs it must have {inputs}",
            b.attribute()
        )));
    }
    if has_outputs < outputs {
        return Err(Error::invalid_model(format!(
            "graph '{}' has {has_outputs} outputs; with the node's inputs it needs at least {outputs}",
            b.attribute()
        )));
    }
    Ok(())
}

/// Infers one body with `facts` at its formal inputs; returns what it computes, as seen from outside.
fn visit(
    pass: &mut Pass,
    graph: &mut Graph,
    id: NodeId,
    body: usize,
    facts: Vec<Fact>,
    depth: usize,
) -> Result<Vec<Fact>> {
    let b = &graph.node(id).bodies()[body];
    let captured = b.captures().iter().map(|v| {
        let value = graph.value(*v);
        let contents = pass.known.get(v).cloned().or_else(|| Contents::of(value.constant()?));
        (value.ty().cloned(), contents)
    });
    let facts: Vec<Fact> = facts.into_iter().chain(captured).collect();
    let inner_depth = depth + 1;
    let inner = graph.body_graph_mut(id, body);
    let mut known = Known::new();
    for (input, (ty, contents)) in inner.inputs().to_vec().into_iter().zip(facts) {
        if let Some(ty) = ty {
            let ty = name_unknown_dims(ty, inner.value(input).name(), inner_depth);
            inner.set_type(input, Some(ty));
        }
        if let Some(contents) = contents {
            known.insert(input, contents);
        }
    }
    super::adopt_declared_outputs(inner);
    let outer = std::mem::replace(&mut pass.known, known);
    let result = pass.graph(inner, inner_depth);
    let known = std::mem::replace(&mut pass.known, outer);
    result?;
    let leave = |v: ValueId| {
        let ty = inner.value(v).ty().map(|ty| merge::leave_body(ty, inner_depth));
        let contents = known.get(&v).cloned().or_else(|| Contents::of(inner.constant(v)?));
        (ty, contents.filter(|c| c.ints().is_some()))
    };
    Ok(inner.output_values().map(leave).collect())
}

fn branch(
    pass: &mut Pass,
    graph: &mut Graph,
    id: NodeId,
    depth: usize,
) -> Result<(Vec<Option<TypeInfo>>, Vec<Option<Contents>>)> {
    let wanted = graph.node(id).outputs().len();
    if graph.node(id).input(0).is_none() {
        return Err(Error::invalid_model("If needs its condition as input 0"));
    }
    let condition = Site::new(graph, graph.node(id), &pass.known).int_of(0);
    let mut sides = Vec::new();
    for attribute in ["then_branch", "else_branch"] {
        let body = body_of(graph, id, attribute)?;
        check_body(graph, id, body, 0, wanted)?;
        sides.push(visit(pass, graph, id, body, Vec::new(), depth)?);
    }
    let (no, yes) = (sides.remove(1), sides.remove(0));
    Ok(match condition {
        Some(0) => no.into_iter().unzip(),
        Some(_) => yes.into_iter().unzip(),
        None => yes
            .into_iter()
            .zip(no)
            .map(|((a, x), (b, y))| {
                let ty = match (a, b) {
                    (Some(a), Some(b)) => merge::join(&a, &b),
                    _ => None,
                };
                (ty, if x == y { x } else { None })
            })
            .unzip(),
    })
}

/// The declared types of a body, to start over from.
fn snapshot(graph: &Graph, id: NodeId, body: usize) -> Graph {
    graph.node(id).bodies()[body].graph().clone()
}

fn restore(graph: &mut Graph, id: NodeId, body: usize, from: &Graph) {
    let inner = graph.body_graph_mut(id, body);
    for v in from.value_ids() {
        if inner.get_value(v).is_some() {
            inner.set_type(v, from.value(v).ty().cloned());
        }
    }
    for node in from.node_ids() {
        for (b, nested) in from.node(node).bodies().iter().enumerate() {
            restore(inner, node, b, nested.graph());
        }
    }
}

/// Visits a body until the types of its states, which are `facts[first..first + states.len()]` and come out as outputs
/// `out..`, are stable. Returns the stable state types and all outputs of the last visit.
fn settle(
    pass: &mut Pass,
    graph: &mut Graph,
    id: NodeId,
    body: usize,
    (mut facts, first, out, count): (Vec<Fact>, usize, usize, usize),
    depth: usize,
) -> Result<(Vec<Option<TypeInfo>>, Vec<Fact>)> {
    let declared = snapshot(graph, id, body);
    let formal = graph.node(id).bodies()[body].formal_inputs().to_vec();
    for (fact, input) in facts.iter_mut().zip(&formal) {
        if fact.0.is_none() {
            fact.0 = declared.value(*input).ty().cloned();
        }
    }
    // Each level of nesting multiplies the visits, so inner loops get fewer rounds, and deep ones a single visit.
    let rounds = ROUNDS.saturating_sub(depth);
    if rounds == 0 {
        for state in &mut facts[first..first + count] {
            state.0 = state.0.as_ref().map(without_shape);
        }
    }
    for round in 0.. {
        let results = visit(pass, graph, id, body, facts.clone(), depth)?;
        let mut stable = true;
        for k in 0..count {
            let state = &mut facts[first + k].0;
            let joined = match (&*state, &results[out + k].0) {
                (Some(a), Some(b)) if round + 1 < rounds => merge::join(a, b),
                (Some(a), Some(b)) => merge::join(a, b).map(|t| if t == *a { t } else { without_shape(&t) }),
                (None, other) => other.clone(),
                (Some(a), None) => Some(without_shape(a)),
            };
            if joined != *state {
                stable = false;
                *state = joined;
            }
        }
        if stable || rounds == 0 || round > rounds {
            let states = facts.drain(first..first + count).map(|f| f.0).collect();
            return Ok((states, results));
        }
        restore(graph, id, body, &declared);
    }
    unreachable!("the rounds end in a return")
}

fn without_shape(ty: &TypeInfo) -> TypeInfo {
    match ty {
        TypeInfo::Tensor(t) => TypeInfo::unranked(t.dtype),
        TypeInfo::Sequence(t) => TypeInfo::Sequence(Box::new(without_shape(t))),
        TypeInfo::Optional(t) => TypeInfo::Optional(Box::new(without_shape(t))),
        map => map.clone(),
    }
}

/// `ty` with one more dimension at `axis`.
fn stacked(ty: Option<&TypeInfo>, axis: i64, size: &Dim) -> Result<Option<TypeInfo>> {
    let Some(TypeInfo::Tensor(t)) = ty else { return Ok(None) };
    let Some(shape) = &t.shape else { return Ok(Some(TypeInfo::unranked(t.dtype))) };
    let mut dims = shape.clone();
    dims.0.insert(dim::axis(axis, shape.rank() + 1)?, size.clone());
    Ok(Some(TypeInfo::tensor(t.dtype, dims)))
}

fn input_fact(pass: &Pass, graph: &Graph, id: NodeId, i: usize) -> Fact {
    (Site::new(graph, graph.node(id), &pass.known).input(i).cloned(), None)
}

fn repeat(
    pass: &mut Pass,
    graph: &mut Graph,
    id: NodeId,
    depth: usize,
) -> Result<(Vec<Option<TypeInfo>>, Vec<Option<Contents>>)> {
    let body = body_of(graph, id, "body")?;
    let states = graph.node(id).inputs().len().saturating_sub(2);
    check_body(graph, id, body, states + 2, states + 1)?;
    let site = Site::new(graph, graph.node(id), &pass.known);
    let runs_through = !site.has(1) || site.int_of(1).is_some_and(|c| c != 0);
    let trips = site.size_of(0);
    let mut facts = vec![
        (Some(TypeInfo::tensor(DType::I64, Shape::scalar())), None),
        (Some(TypeInfo::tensor(DType::Bool, Shape::scalar())), None),
    ];
    facts.extend((0..states).map(|k| input_fact(pass, graph, id, k + 2)));
    let (mut types, results) = settle(pass, graph, id, body, (facts, 2, 1, states), depth)?;
    let b = &graph.node(id).bodies()[body];
    let keeps_going =
        b.graph().output_values().next().is_some_and(|v| keeps_condition(b.graph(), v, b.formal_inputs()))
            || results[0].1.as_ref().and_then(Contents::ints).is_some_and(|c| c.iter().all(|v| *v != 0));
    let trips = if runs_through && keeps_going { trips } else { Dim::Unknown };
    for (ty, _) in &results[1 + states..] {
        types.push(stacked(ty.as_ref(), 0, &trips)?);
    }
    Ok((types, Vec::new()))
}

/// True when the body returns the condition it was given.
fn keeps_condition(graph: &Graph, mut value: ValueId, formal: &[ValueId]) -> bool {
    while let Some((node, _)) = graph.producer(value).filter(|(n, _)| graph.node(*n).is_onnx("Identity")) {
        match graph.node(node).input(0) {
            Some(input) => value = input,
            None => return false,
        }
    }
    formal.get(1) == Some(&value)
}

fn scan(
    pass: &mut Pass,
    graph: &mut Graph,
    id: NodeId,
    depth: usize,
) -> Result<(Vec<Option<TypeInfo>>, Vec<Option<Contents>>)> {
    let body = body_of(graph, id, "body")?;
    let site = Site::new(graph, graph.node(id), &pass.known);
    let old = site.version() < 9;
    let offset = usize::from(old);
    let total = site.input_count().saturating_sub(offset);
    let scanned = site.size_attribute("num_scan_inputs", -1).map_err(|_| site.missing("num_scan_inputs"))?;
    let Some(states) = total.checked_sub(scanned) else {
        return Err(Error::invalid_model(format!(
            "num_scan_inputs is {scanned}, but the node has {total} such inputs"
        )));
    };
    check_body(graph, id, body, total, states)?;
    let in_axes = site.ints("scan_input_axes")?.unwrap_or(&[]);
    let out_axes = site.ints("scan_output_axes")?.unwrap_or(&[]).to_vec();
    let (mut batch, mut length) = (Dim::Unknown, Dim::Unknown);
    let mut facts = Vec::new();
    for k in 0..total {
        let ty = site.input(k + offset);
        let Some((tensor, shape)) = ty.and_then(|t| Some((t.as_tensor()?, t.shape()?.clone()))) else {
            let dtype = ty.and_then(TypeInfo::dtype);
            facts.push((dtype.map(TypeInfo::unranked), None));
            continue;
        };
        let mut shape = shape;
        if old && !shape.is_empty() {
            batch = dim::tighter(&batch, &shape.0.remove(0));
        }
        if k >= states {
            let axis = if old { 0 } else { in_axes.get(k - states).copied().unwrap_or(0) };
            length = dim::tighter(&length, &shape.0.remove(dim::axis(axis, shape.rank())?));
        }
        facts.push((Some(TypeInfo::tensor(tensor.dtype, shape)), None));
    }
    let (mut types, results) = settle(pass, graph, id, body, (facts, 0, 0, states), depth)?;
    for (k, (ty, _)) in results[states..].iter().enumerate() {
        let axis = if old { 0 } else { out_axes.get(k).copied().unwrap_or(0) };
        types.push(stacked(ty.as_ref(), axis, &length)?);
    }
    if old {
        types = types.iter().map(|t| stacked(t.as_ref(), 0, &batch)).collect::<Result<_>>()?;
    }
    Ok((types, Vec::new()))
}

fn sequence_map(
    pass: &mut Pass,
    graph: &mut Graph,
    id: NodeId,
    depth: usize,
) -> Result<(Vec<Option<TypeInfo>>, Vec<Option<Contents>>)> {
    let body = body_of(graph, id, "body")?;
    let inputs = graph.node(id).inputs().len();
    check_body(graph, id, body, inputs, 0)?;
    let element = |(ty, _): Fact| match ty {
        Some(TypeInfo::Sequence(element)) => (Some(*element), None),
        other => (other, None),
    };
    let facts = (0..inputs).map(|i| element(input_fact(pass, graph, id, i))).collect();
    let results = visit(pass, graph, id, body, facts, depth)?;
    let sequence = |(ty, _): Fact| ty.map(|t| TypeInfo::Sequence(Box::new(t)));
    Ok((results.into_iter().map(sequence).collect(), Vec::new()))
}
