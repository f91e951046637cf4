//! Quantisation, dequantisation, and operators on quantised tensors that keep the shape.

use super::Rule;
use super::elementwise::same;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("DequantizeLinear", 2, dequantize),
    Rule::onnx("DynamicQuantizeLinear", 1, dynamic),
    Rule::onnx("QuantizeLinear", 2, quantize),
    Rule::of("com.microsoft", "DequantizeLinear", 2, dequantize),
    Rule::of("com.microsoft", "GatherBlockQuantized", 3, gather_blocks),
    Rule::of("com.microsoft", "MulInteger", 3, mul_integer),
    Rule::of("com.microsoft", "QLinearAdd", 7, qlinear_binary),
    Rule::of("com.microsoft", "QLinearConcat", 3, qlinear_concat),
    Rule::of("com.microsoft", "QLinearLeakyRelu", 4, same),
    Rule::of("com.microsoft", "QLinearMul", 7, qlinear_binary),
    Rule::of("com.microsoft", "QLinearReduceMean", 4, qlinear_mean),
    Rule::of("com.microsoft", "QLinearSigmoid", 4, same),
    Rule::of("com.microsoft", "QLinearSoftmax", 5, same),
    Rule::of("com.microsoft", "QLinearWhere", 9, qlinear_where),
    Rule::of("com.microsoft", "QuantizeLinear", 2, quantize),
];

fn quantize(s: &mut Site<'_>) -> Result<()> {
    let attribute = s.dtype_attribute("output_dtype")?.filter(|d| *d != DType::Undefined);
    let dtype = if s.has(2) { s.dtype(2) } else { attribute.unwrap_or(DType::U8) };
    s.copy_shape(0, 0, dtype);
    Ok(())
}

fn dequantize(s: &mut Site<'_>) -> Result<()> {
    let attribute = s.dtype_attribute("output_dtype")?.filter(|d| *d != DType::Undefined);
    // Before version 19 every scale is float32.
    let by_scale = match s.dtype(1) {
        DType::Undefined if s.node.domain.is_empty() && s.version() < 19 => DType::F32,
        other => other,
    };
    s.copy_shape(0, 0, attribute.unwrap_or(by_scale));
    Ok(())
}

fn dynamic(s: &mut Site<'_>) -> Result<()> {
    s.copy_shape(0, 0, DType::U8);
    s.set_tensor(1, DType::F32, Some(Shape::scalar()));
    s.set_tensor(2, DType::U8, Some(Shape::scalar()));
    Ok(())
}

fn mul_integer(s: &mut Site<'_>) -> Result<()> {
    let shape = s.broadcast(&[0, 2])?;
    s.set_tensor(0, DType::I32, shape);
    Ok(())
}

/// A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point.
fn qlinear_binary(s: &mut Site<'_>) -> Result<()> {
    let shape = s.broadcast(&[0, 3])?;
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

/// condition, X, x_scale, x_zero_point, Y, y_scale, y_zero_point, z_scale, z_zero_point.
fn qlinear_where(s: &mut Site<'_>) -> Result<()> {
    let shape = s.broadcast(&[0, 1, 4])?;
    s.set_tensor(0, s.dtype(1), shape);
    Ok(())
}

/// Y_scale, Y_zero_point, then (tensor, scale, zero point) for each part.
fn qlinear_concat(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(1);
    let Some(first) = s.shape(2) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let axis = dim::axis(s.required_int("axis")?, first.rank())?;
    let mut dims = first.clone();
    for i in (5..s.input_count()).step_by(3) {
        s.expect_rank(i, first.rank())?;
        dims.0[axis] = dim::add(&dims[axis], &s.dim(i, axis));
    }
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

fn qlinear_mean(s: &mut Site<'_>) -> Result<()> {
    let keep = s.flag("keepdims", true)?;
    let axes = s.ints("axes")?;
    let shape = match s.shape(0) {
        Some(shape) => {
            let axes = match axes {
                Some(axes) => dim::axes(axes, shape.rank())?,
                None => (0..shape.rank()).collect(),
            };
            let dims = shape.iter().enumerate().filter_map(|(i, d)| match (axes.contains(&i), keep) {
                (false, _) => Some(d.clone()),
                (true, true) => Some(Dim::Known(1)),
                (true, false) => None,
            });
            Some(dims.collect())
        }
        None => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

/// Rows of a quantised table: the data's shape with `gather_axis` replaced by the indices' dimensions. Packed bytes hold
/// several elements along the last axis.
fn gather_blocks(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(2);
    let (Some(data), Some(indices)) = (s.shape(0), s.shape(1)) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let axis = dim::axis(s.int("gather_axis", 0)?, data.rank())?;
    let mut dims = data.clone();
    if s.dtype(0) == DType::U8 {
        let per_byte = 8 / s.int("bits", 4)?.clamp(1, 8);
        if let Some(last) = dims.0.last_mut() {
            *last = dim::times(last, per_byte);
        }
    }
    let (before, after) = (&dims[..axis], &dims[axis + 1..]);
    s.set_tensor(0, dtype, Some(before.iter().chain(indices.iter()).chain(after).cloned().collect()));
    Ok(())
}
