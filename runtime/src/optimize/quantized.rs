//! Products of dequantised operands: DequantizeLinear goes into the product, so that a provider may multiply the codes.

use super::matmul::{as_fused, is_plain};
use super::pattern::{dtype_of, producer, replace, shape_of};
use super::{Outcome, Rewrite, State};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, NodeId, ValueId};

/// A product of 8-bit codes with 8-bit codes of the same kind, or of floats with constant codes of 8 bits and less.
///
/// `tenon.QuantizedMatMul` is `tenon.FusedMatMul` (inputs A, B, bias, residual) whose A and B are DequantizeLinear of the
/// inputs 0 and 1 with scale and zero point in inputs 4 and 5, and 6 and 7; an operand without a scale is what it is.
/// `a_axis`, `a_block_size`, `b_axis` and `b_block_size` are the attributes of those nodes, `dtype` is their result type.
pub const REWRITE: Rewrite =
    Rewrite { name: "MatMul of codes", operators: &["MatMul", "Gemm", "FusedMatMul"], apply: quantized };

/// The inputs of a DequantizeLinear and how its scales are spread.
struct Dequantized {
    codes: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    axis: i64,
    block_size: i64,
}

impl Dequantized {
    /// The node that computes `value`, when its result has the type of its scale.
    fn of(graph: &Graph, value: ValueId) -> Result<Option<Dequantized>> {
        let Some(id) = producer(graph, value, "DequantizeLinear") else { return Ok(None) };
        let node = graph.node(id);
        let (Some(codes), Some(scale)) = (node.input(0), node.input(1)) else { return Ok(None) };
        if dtype_of(graph, scale) != dtype_of(graph, value) && !has_powers(graph, scale) {
            return Ok(None);
        }
        let (axis, block_size) = (node.int_or("axis", 1)?, node.int_or("block_size", 0)?);
        Ok(Some(Dequantized { codes, scale, zero: node.input(2), axis, block_size }))
    }
}

fn quantized(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !is_plain(graph, id) {
        return Ok(Outcome::NoMatch);
    }
    let node = graph.node(id);
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return Ok(Outcome::NoMatch) };
    let Some(right) = Dequantized::of(graph, b)? else { return Ok(Outcome::NoMatch) };
    let left = Dequantized::of(graph, a)?.filter(|left| is_pair(graph, left, &right));
    if has_powers(graph, right.scale) && left.is_none() {
        return Outcome::check_failed(
            "its left operand has no codes and block scales like those of its right one",
        );
    }
    if left.is_none() && !is_weight(graph, right.codes) {
        return Outcome::check_failed("its right operand is no constant, and its left one has other codes");
    }
    let dtype = dtype_of(graph, b);
    if dtype == DType::F64 || dtype != dtype_of(graph, a) {
        return Outcome::check_failed(format!("it multiplies {} by {dtype}", dtype_of(graph, a)));
    }
    let Some((mut copy, mut inputs)) = as_fused(graph, id)? else { return Ok(Outcome::NoMatch) };
    copy.op_type = "QuantizedMatMul".into();
    inputs.resize(4, None);
    inputs[1] = Some(right.codes);
    if let Some(left) = &left {
        inputs[0] = Some(left.codes);
    }
    for (name, side) in [("a", &left), ("b", &Some(right))] {
        inputs.extend([side.as_ref().map(|side| side.scale), side.as_ref().and_then(|side| side.zero)]);
        let (axis, block_size) = side.as_ref().map_or((1, 0), |side| (side.axis, side.block_size));
        copy.attributes.set(format!("{name}_axis"), axis);
        copy.attributes.set(format!("{name}_block_size"), block_size);
    }
    copy.attributes.set("dtype", i64::from(dtype.onnx()));
    replace(graph, id, copy, &inputs)?;
    Ok(Outcome::Fired)
}

/// True for codes that matrix units multiply with each other.
fn is_pair(graph: &Graph, a: &Dequantized, b: &Dequantized) -> bool {
    if has_powers(graph, a.scale) || has_powers(graph, b.scale) {
        return is_microscaled(graph, a)
            && is_microscaled(graph, b)
            && dtype_of(graph, a.codes) == dtype_of(graph, b.codes);
    }
    let (a, b) = (a.codes, b.codes);
    let is_byte = |dtype| matches!(dtype, DType::U8 | DType::I8);
    let is_float8 =
        |dtype| matches!(dtype, DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ);
    let (a, b) = (dtype_of(graph, a), dtype_of(graph, b));
    is_byte(a) && is_byte(b) || is_float8(a) && is_float8(b)
}

/// True for scales that are powers of two, the type of which says nothing of the result's.
fn has_powers(graph: &Graph, scale: ValueId) -> bool {
    dtype_of(graph, scale) == DType::F8E8M0
}

/// True for MXFP8 and MXFP4: floats of 8 or 4 bits with a power of two for each 32.
fn is_microscaled(graph: &Graph, side: &Dequantized) -> bool {
    has_powers(graph, side.scale)
        && side.block_size == 32
        && side.zero.is_none()
        && matches!(dtype_of(graph, side.codes), DType::F8E4M3FN | DType::F4E2M1)
}

/// True for a constant matrix of integer codes.
fn is_weight(graph: &Graph, codes: ValueId) -> bool {
    let is_integer = matches!(dtype_of(graph, codes), DType::U8 | DType::I8 | DType::U4 | DType::I4);
    is_integer && graph.constant(codes).is_some() && shape_of(graph, codes).is_some_and(|s| s.rank() == 2)
}
