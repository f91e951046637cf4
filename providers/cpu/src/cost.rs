//! Estimated cost of a node, for the partitioner: a coarse roofline of one machine.

use tenon_plugin_api::ffi::Cost;

use crate::node::{Node, ValueInfo};
use crate::tensor::DType;

/// Elements assumed along a dimension that is not known before the run.
const UNKNOWN_DIM: f64 = 64.0;
/// Sustained arithmetic of a few cores, in operations a nanosecond.
const FLOPS_PER_NS: f64 = 100.0;
/// Sustained memory traffic, in bytes a nanosecond.
const BYTES_PER_NS: f64 = 10.0;
/// What calling a kernel takes, in nanoseconds.
const CALL_NS: f64 = 100.0;

/// Time, operations and bytes of one run of `node`.
pub fn estimate(node: &Node) -> Cost {
    let values = node.inputs.iter().chain(&node.outputs).flatten();
    let bytes: f64 = values.map(|value| elements(value) * bits(value.dtype) / 8.0).sum();
    let flops = flops(node);
    Cost { time_ns: CALL_NS + (flops / FLOPS_PER_NS).max(bytes / BYTES_PER_NS), flops, bytes }
}

fn bits(dtype: DType) -> f64 {
    match dtype.bits() {
        0 => 128.0,
        bits => bits as f64,
    }
}

fn elements(value: &ValueInfo) -> f64 {
    match &value.dims {
        None => UNKNOWN_DIM * UNKNOWN_DIM,
        Some(dims) => dims.iter().map(|dim| dim.map_or(UNKNOWN_DIM, |size| size as f64)).product(),
    }
}

/// Multiplications and additions: twice the output for each step of a contraction, once for the rest.
fn flops(node: &Node) -> f64 {
    let input = |index: usize| node.inputs.get(index).and_then(Option::as_ref);
    let output = node.outputs.first().and_then(Option::as_ref).map_or(0.0, elements);
    let dim = |value: &ValueInfo, index: usize| {
        value
            .dims
            .as_ref()
            .and_then(|dims| dims.get(index).copied().flatten())
            .map_or(UNKNOWN_DIM, |size| size as f64)
    };
    match node.op_type.as_str() {
        "MatMul" | "FusedMatMul" | "MatMulInteger" | "QLinearMatMul" | "Gemm" => {
            let depth = input(0).map_or(UNKNOWN_DIM, |a| {
                let rank = a.dims.as_ref().map_or(2, Vec::len);
                dim(a, rank.saturating_sub(1))
            });
            2.0 * output * depth
        }
        "Conv" | "FusedConv" | "ConvInteger" | "QLinearConv" => {
            let filter = input(if node.op_type == "QLinearConv" { 3 } else { 1 });
            let depth = filter.map_or(UNKNOWN_DIM, |w| elements(w) / dim(w, 0).max(1.0));
            2.0 * output * depth
        }
        _ => output,
    }
}
