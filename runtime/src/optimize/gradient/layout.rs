//! Derivatives of operators that move elements.

use super::rules::{Parts, Rule, Site};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::tensor::Tensor;

pub const RULES: &[(&str, Rule)] = &[
    ("Reshape", reshape),
    ("Flatten", reshape),
    ("Squeeze", reshape),
    ("Unsqueeze", reshape),
    ("Expand", expand),
    ("Transpose", transpose),
    ("Concat", concat),
    ("Split", split),
    ("Slice", selection),
    ("Gather", selection),
    ("GatherElements", selection),
    ("GatherND", selection),
    ("Tile", selection),
    ("DepthToSpace", selection),
    ("SpaceToDepth", selection),
    ("ReverseSequence", selection),
    ("Compress", selection),
    ("MaxPool", max_pool),
];

fn reshape(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (x, g) = (s.input(0)?, s.by_output()?);
    let part = s.emitter.reshaped_like(g, x)?;
    s.only(0, part)
}

fn expand(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (x, g) = (s.input(0)?, s.by_output()?);
    let part = s.emitter.sum_to(g, x)?;
    s.only(0, part)
}

fn transpose(s: &mut Site<'_, '_>) -> Result<Parts> {
    let g = s.by_output()?;
    let attributes = match s.node.attributes.ints("perm")? {
        None => Vec::new(),
        Some(perm) => {
            let mut inverse = vec![0i64; perm.len()];
            for (to, &from) in perm.iter().enumerate() {
                let slot = usize::try_from(from).ok().and_then(|from| inverse.get_mut(from));
                *slot.ok_or_else(|| Error::invalid_model("perm is not a permutation"))? = to as i64;
            }
            vec![("perm", inverse.into())]
        }
    };
    let part = s.emitter.op_with("Transpose", 13, &[g], &attributes)?;
    s.only(0, part)
}

/// The size of `value` along `axis`, as a list of one.
fn size_along(s: &mut Site<'_, '_>, value: ValueId, axis: i64) -> Result<ValueId> {
    let shape = s.emitter.shape(value)?;
    let index = s.emitter.ints(&[axis])?;
    s.emitter.op("Gather", 13, &[shape, index])
}

fn concat(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (g, axis) = (s.by_output()?, s.node.int_or("axis", 1)?);
    let mut sizes = Vec::new();
    for index in 0..s.node.inputs().len() {
        let input = s.input(index)?;
        sizes.push(size_along(s, input, axis)?);
    }
    let mut parts = Vec::new();
    let zero = s.emitter.ints(&[0])?;
    let (mut start, axes) = (zero, s.emitter.ints(&[axis])?);
    for (index, size) in sizes.iter().enumerate() {
        let end = s.emitter.op("Add", 14, &[start, *size])?;
        let part = s.wants(index).then(|| s.emitter.op("Slice", 13, &[g, start, end, axes])).transpose()?;
        parts.push(part);
        start = end;
    }
    Ok(parts)
}

fn split(s: &mut Site<'_, '_>) -> Result<Parts> {
    let axis = s.node.int_or("axis", 0)?;
    let mut pieces = Vec::new();
    for index in 0..s.node.outputs().len() {
        let output = s.output(index)?;
        pieces.push(match s.given[index] {
            Some(piece) => piece,
            None => s.emitter.filled_like(output, 0.0)?,
        });
    }
    let part = s.emitter.op_with("Concat", 13, &pieces, &[("axis", axis.into())])?;
    s.only(0, part)
}

/// An operator whose output elements are elements of input 0: it is run on the elements' positions, and each derivative
/// is added at the position it came from.
fn selection(s: &mut Site<'_, '_>) -> Result<Parts> {
    let x = s.input(0)?;
    let size = s.emitter.op("Size", 13, &[x])?;
    let (zero, one) = (Tensor::scalar(0i64), Tensor::scalar(1i64));
    let (zero, one) =
        (s.emitter.graph.add_constant("first", zero), s.emitter.graph.add_constant("step", one));
    let positions = s.emitter.op("Range", 11, &[zero, size, one])?;
    let positions = s.emitter.reshaped_like(positions, x)?;
    let mut inputs = vec![positions];
    for index in 1..s.node.inputs().len() {
        inputs.push(s.input(index)?);
    }
    let chosen = s.emitter.node(s.node.clone_operator(), &inputs)?;
    scatter(s, chosen)
}

/// Adds the derivative at the positions `chosen` of input 0.
fn scatter(s: &mut Site<'_, '_>, chosen: ValueId) -> Result<Parts> {
    let (x, g) = (s.input(0)?, s.by_output()?);
    let zeros = s.emitter.filled_like(x, 0.0)?;
    let (zeros, chosen, g) = (s.emitter.flat(zeros)?, s.emitter.flat(chosen)?, s.emitter.flat(g)?);
    let attributes = [("axis", 0i64.into()), ("reduction", "add".into())];
    let sum = s.emitter.op_with("ScatterElements", 18, &[zeros, chosen, g], &attributes)?;
    let part = s.emitter.reshaped_like(sum, x)?;
    s.only(0, part)
}

/// The second output of MaxPool names the position of each maximum.
fn max_pool(s: &mut Site<'_, '_>) -> Result<Parts> {
    if s.node.int_or("storage_order", 0)? != 0 {
        return Err(Error::unsupported("MaxPool with storage_order 1 cannot be differentiated"));
    }
    let x = s.input(0)?;
    let mut node = s.node.clone_operator();
    node.version = node.version.max(8);
    let (id, outputs) = s.emitter.graph.append(node, &[Some(x)], 2)?;
    crate::shape::infer_node(s.emitter.graph, id)?;
    debug_assert_ne!(s.emitter.dtype(x)?, DType::String);
    scatter(s, outputs[1])
}
