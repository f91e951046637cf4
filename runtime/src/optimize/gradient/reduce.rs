//! Derivatives of reductions and of Softmax.

use super::rules::{Parts, Rule, Site};
use crate::error::{Error, Result};
use crate::graph::ValueId;

pub const RULES: &[(&str, Rule)] = &[
    ("ReduceSum", |s| reduction(s, |_, _, _, g| Ok(g))),
    ("ReduceMean", |s| reduction(s, mean)),
    ("ReduceMax", |s| reduction(s, extreme)),
    ("ReduceMin", |s| reduction(s, extreme)),
    ("ReduceL1", |s| reduction(s, absolute)),
    ("ReduceL2", |s| reduction(s, euclidean)),
    ("ReduceSumSquare", |s| reduction(s, square)),
    ("ReduceLogSum", |s| reduction(s, |s, _, y, g| exponential(s, y, g))),
    ("ReduceLogSumExp", |s| reduction(s, log_sum_exp)),
    ("GlobalAveragePool", |s| reduction(s, mean)),
    ("Softmax", softmax),
    ("LogSoftmax", log_softmax),
];

type Derivative = fn(&mut Site<'_, '_>, ValueId, ValueId, ValueId) -> Result<ValueId>;

/// `derivative(site, x, y, g)`, where result and its derivative keep the reduced axes with size 1.
fn reduction(s: &mut Site<'_, '_>, derivative: Derivative) -> Result<Parts> {
    let (x, g) = (s.input(0)?, s.by_output()?);
    let mut node = s.node.clone_operator();
    if *node.op_type != *"GlobalAveragePool" {
        node.attributes.set("keepdims", 1i64);
    }
    let inputs: Vec<Option<ValueId>> = s.node.inputs().to_vec();
    let (id, outputs) = s.emitter.graph.append(node, &inputs, 1)?;
    crate::shape::infer_node(s.emitter.graph, id)?;
    let y = outputs[0];
    let g = s.emitter.reshaped_like(g, y)?;
    let part = derivative(s, x, y, g)?;
    let shape = s.emitter.shape(x)?;
    let part = s.emitter.op("Expand", 13, &[part, shape])?;
    s.only(0, part)
}

fn mean(s: &mut Site<'_, '_>, x: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let (all, kept) = (s.emitter.op("Size", 13, &[x])?, s.emitter.op("Size", 13, &[y])?);
    let (all, kept) = (s.emitter.op("CastLike", 15, &[all, g])?, s.emitter.op("CastLike", 15, &[kept, g])?);
    let count = s.emitter.op("Div", 14, &[all, kept])?;
    s.emitter.op("Div", 14, &[g, count])
}

/// Equal elements share the derivative of a maximum or minimum.
fn extreme(s: &mut Site<'_, '_>, x: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let hit = s.emitter.op("Equal", 13, &[x, y])?;
    let hit = s.emitter.op("CastLike", 15, &[hit, g])?;
    let count = s.emitter.sum_to(hit, y)?;
    let share = s.emitter.op("Div", 14, &[g, count])?;
    s.emitter.mul(share, hit)
}

fn absolute(s: &mut Site<'_, '_>, x: ValueId, _: ValueId, g: ValueId) -> Result<ValueId> {
    let sign = s.emitter.op("Sign", 13, &[x])?;
    s.emitter.mul(g, sign)
}

fn euclidean(s: &mut Site<'_, '_>, x: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let slope = s.emitter.op("Div", 14, &[x, y])?;
    s.emitter.mul(g, slope)
}

fn square(s: &mut Site<'_, '_>, x: ValueId, _: ValueId, g: ValueId) -> Result<ValueId> {
    let twice = s.emitter.times(x, 2.0)?;
    s.emitter.mul(g, twice)
}

/// `g / exp(y)`.
fn exponential(s: &mut Site<'_, '_>, y: ValueId, g: ValueId) -> Result<ValueId> {
    let sum = s.emitter.op("Exp", 13, &[y])?;
    s.emitter.op("Div", 14, &[g, sum])
}

fn log_sum_exp(s: &mut Site<'_, '_>, x: ValueId, y: ValueId, g: ValueId) -> Result<ValueId> {
    let difference = s.emitter.op("Sub", 14, &[x, y])?;
    let share = s.emitter.op("Exp", 13, &[difference])?;
    s.emitter.mul(g, share)
}

/// The one axis of a Softmax. Before opset 13 all axes from it on were one, which is the same for the last.
fn axis(s: &Site<'_, '_>) -> Result<i64> {
    let recent = s.node.version >= 13;
    let axis = s.node.int_or("axis", if recent { -1 } else { 1 })?;
    if !recent && axis != -1 && axis + 1 != s.emitter.rank(s.input(0)?)? as i64 {
        return Err(Error::unsupported(format!(
            "{} of opset {} over several axes cannot be differentiated",
            s.node.op_type, s.node.version
        )));
    }
    Ok(axis)
}

fn total(s: &mut Site<'_, '_>, value: ValueId, axis: i64) -> Result<ValueId> {
    let axes = s.emitter.ints(&[axis])?;
    s.emitter.op_with("ReduceSum", 13, &[value, axes], &[("keepdims", 1i64.into())])
}

fn softmax(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (y, g, axis) = (s.output(0)?, s.by_output()?, axis(s)?);
    let product = s.emitter.mul(g, y)?;
    let sum = total(s, product, axis)?;
    let rest = s.emitter.op("Sub", 14, &[g, sum])?;
    let part = s.emitter.mul(y, rest)?;
    s.only(0, part)
}

fn log_softmax(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (y, g, axis) = (s.output(0)?, s.by_output()?, axis(s)?);
    let (share, sum) = (s.emitter.op("Exp", 13, &[y])?, total(s, g, axis)?);
    let product = s.emitter.mul(share, sum)?;
    let part = s.emitter.op("Sub", 14, &[g, product])?;
    s.only(0, part)
}
