//! What surrounds a matrix product goes into it: transposes of its operands, a factor, bias, residual sum, activation.

use super::activation;
use super::conv::{residual, set_activation};
use super::pattern::{
    broadcasts_to, copy_of, dtype_of, is_scalar, other_input, private_producer, replace, result, scalar,
    shape_of, swaps_last_two,
};
use super::transpose::permutation;
use super::{DOMAIN, Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, ValueId};

/// A Transpose of the last two axes before a product.
pub const TRANSPOSED: Rewrite =
    Rewrite { name: "transposed MatMul", operators: &["MatMul", "FusedMatMul"], apply: transposed };

/// `activation(alpha * A @ B + bias + residual)`.
pub const EPILOGUE: Rewrite = Rewrite {
    name: "MatMul + bias and activation",
    operators: &["MatMul", "Gemm", "FusedMatMul"],
    apply: epilogue,
};

/// True for a product of matrices in one float type whose result's shape is known; vectors are left alone.
pub(super) fn is_plain(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let matrix = |i: usize| node.input(i).and_then(|v| shape_of(graph, v)).is_some_and(|s| s.rank() >= 2);
    let output = node.output(0);
    matrix(0)
        && matrix(1)
        && output.is_some_and(|y| dtype_of(graph, y).is_float() && shape_of(graph, y).is_some())
        && (node.is_onnx("MatMul") || node.is_onnx("Gemm") || node.is(DOMAIN, "FusedMatMul"))
}

/// The node as `FusedMatMul` with its inputs; `None` for a Gemm whose `beta` is not 1.
pub(super) fn as_fused(graph: &Graph, id: NodeId) -> Result<Option<(Node, Vec<Option<ValueId>>)>> {
    let node = graph.node(id);
    let mut copy = copy_of(node);
    let inputs = node.inputs().to_vec();
    if !node.is(DOMAIN, "FusedMatMul") {
        copy.domain = DOMAIN.into();
        copy.op_type = "FusedMatMul".into();
        copy.version = 1;
    }
    if node.is_onnx("Gemm") {
        let beta = node.float_or("beta", 1.0)?;
        if (node.input(2).is_some() && beta != 1.0) || node.version < 7 {
            return Ok(None);
        }
        copy.attributes.remove("beta");
        copy.attributes.remove("broadcast");
    }
    Ok(Some((copy, inputs)))
}

fn transposed(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !is_plain(graph, id) {
        return Ok(Outcome::NoMatch);
    }
    for (i, attribute) in [(0, "transA"), (1, "transB")] {
        let node = graph.node(id);
        let Some(transpose) = node.input(i).and_then(|v| private_producer(graph, v, "Transpose")) else {
            continue;
        };
        let Some(source) = graph.node(transpose).input(0) else { continue };
        if !permutation(graph, transpose).is_some_and(|p| swaps_last_two(&p)) {
            continue;
        }
        let flipped = !node.attributes.flag(attribute, false)?;
        let Some((mut copy, mut inputs)) = as_fused(graph, id)? else { continue };
        copy.attributes.set(attribute, i64::from(flipped));
        inputs[i] = Some(source);
        replace(graph, id, copy, &inputs)?;
        return Ok(Outcome::Fired);
    }
    Ok(Outcome::NoMatch)
}

fn epilogue(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !is_plain(graph, id) || !graph.node(id).string_or("activation", "")?.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let Some(output) = result(graph, id) else { return Ok(Outcome::NoMatch) };
    let Some(next) = graph.sole_consumer(output) else { return Ok(Outcome::NoMatch) };
    let Some((mut copy, mut inputs)) = as_fused(graph, id)? else { return Ok(Outcome::NoMatch) };
    let given = |inputs: &[Option<ValueId>], i: usize| inputs.get(i).copied().flatten().is_some();
    let pure = !given(&inputs, 2) && !given(&inputs, 3);
    if let Some(activation) = activation::of(graph, next) {
        set_activation(&mut copy, activation);
    } else if let Some(factor) = factor(graph, next, output).filter(|_| pure) {
        let alpha = f64::from(copy.float_or("alpha", 1.0)?) * factor;
        copy.attributes.set("alpha", alpha as f32);
    } else if let Some(residual) = residual(graph, id, next).filter(|_| !given(&inputs, 3)) {
        inputs.resize(4, None);
        inputs[3] = Some(residual);
    } else if let Some(bias) = bias(graph, next, output).filter(|_| !given(&inputs, 2)) {
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(bias);
    } else {
        return Ok(Outcome::NoMatch);
    }
    replace(graph, next, copy, &inputs)?;
    Ok(Outcome::Fired)
}

/// The constant that `next` multiplies the product by.
fn factor(graph: &Graph, next: NodeId, product: ValueId) -> Option<f64> {
    let node = graph.node(next);
    let other = if node.is_onnx("Mul") {
        other_input(graph, next, product)?
    } else if node.is_onnx("Div") && node.input(0) == Some(product) {
        node.input(1)?
    } else {
        return None;
    };
    let enlarges = shape_of(graph, other)?.rank() > shape_of(graph, product)?.rank();
    let value = scalar(graph, other).filter(|_| !enlarges && !is_scalar(graph, other, 0.0))?;
    Some(if node.is_onnx("Div") { 1.0 / value } else { value })
}

/// The other operand of an Add that broadcasts to the product.
fn bias(graph: &Graph, next: NodeId, product: ValueId) -> Option<ValueId> {
    let node = graph.node(next);
    if !node.is_onnx("Add") || node.version < 7 {
        return None;
    }
    let other = other_input(graph, next, product)?;
    let fits = broadcasts_to(shape_of(graph, other)?, shape_of(graph, product)?);
    (fits && dtype_of(graph, other) == dtype_of(graph, product)).then_some(other)
}
