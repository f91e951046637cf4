//! Quantised tensors: to codes of few bits and back, with scales and zero points of any granularity.

use tenon_kernels::gpu::elementwise::{Class, MapOp};
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::quantize::{self, Granularity, Sharing};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of, narrow};
use crate::map::{Expr, Leaf, Map, MapInput};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["QuantizeLinear", "DequantizeLinear"], lower: linear },
    Family { domain: "com.microsoft", op_types: &["QuantizeLinear", "DequantizeLinear"], lower: linear },
];

/// The range of an 8- or 16-bit integer type.
pub(super) fn range(scalar: Scalar) -> Option<(f64, f64)> {
    match scalar {
        Scalar::U8 => Some((0.0, 255.0)),
        Scalar::I8 => Some((-128.0, 127.0)),
        Scalar::U16 => Some((0.0, 65_535.0)),
        Scalar::I16 => Some((-32_768.0, 32_767.0)),
        _ => None,
    }
}

/// `saturate(round(x / scale) + zero)`, or `(x - zero) scale`.
struct Linear {
    quantizes: bool,
    /// Its granularity is filled in with the shapes.
    linear: quantize::Linear,
    axis: i64,
    /// Elements along the axis that share a scale; 0: all or one, as the scale's shape says.
    block: usize,
}

fn linear(l: &Lowering<'_>) -> Lowered {
    let quantizes = l.node.op_type() == "QuantizeLinear";
    let (input, output) = (l.scalar(0)?, l.output_scalar(0)?);
    let (real, code) = if quantizes { (input, output) } else { (output, input) };
    let scale = l.scalar(1)?;
    let precision = match l.node.int_or("precision", 0)? {
        0 if real == scale || scale == Scalar::F8E8M0 => real,
        0 => Scalar::F32,
        number => u32::try_from(number)
            .ok()
            .and_then(Scalar::from_onnx)
            .filter(|scalar| scalar.is_float())
            .ok_or_else(|| Decline(format!("quotients of type {number} have no GPU kernel")))?,
    };
    let linear = quantize::Linear {
        real,
        code,
        scale,
        precision,
        has_zero: l.has_input(2),
        rules: narrow::rules(l)?,
        granularity: Granularity { extents: [1; 3], sharing: Sharing::Tensor },
    };
    let is_sum = !quantizes && code == Scalar::I32 && real.is_float() && scale == real;
    if !is_sum {
        linear.check().map_err(|error| Decline(error.to_string()))?;
    }
    let block = usize::try_from(l.node.int_or("block_size", 0)?).unwrap_or(0);
    Ok(Box::new(Linear { quantizes, linear, axis: l.node.int_or("axis", 1)?, block }))
}

/// Which elements of a tensor of `dims` share the scales of a tensor of shape `scale`.
pub(super) fn granularity(dims: &[usize], scale: &[usize], axis: i64, block: usize) -> Result<Granularity> {
    let total: usize = scale.iter().product();
    if scale.len() <= 1 && total == 1 && block == 0 {
        return Ok(Granularity { extents: [1, 1, dims.iter().product()], sharing: Sharing::Tensor });
    }
    let axis = match dims.len() {
        1 => 0,
        rank => axis_of(axis, rank).map_err(|Decline(reason)| Error::invalid(reason))?,
    };
    let refused = || Error::invalid(format!("a scale of shape {scale:?} for a tensor of {dims:?}"));
    if dims.is_empty() {
        return Err(refused());
    }
    let extents = [dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product()];
    if scale.len() == 1 && block == 0 {
        let sharing = Sharing::Axis;
        return if total == dims[axis] { Ok(Granularity { extents, sharing }) } else { Err(refused()) };
    }
    let fits = scale.len() == dims.len() && (0..dims.len()).all(|i| i == axis || scale[i] == dims[i]);
    if !fits || scale[axis] == 0 {
        return Err(refused());
    }
    let size = if block == 0 { dims[axis].div_ceil(scale[axis]) } else { block };
    if size == 0 || dims[axis].div_ceil(size) != scale[axis] {
        return Err(refused());
    }
    Ok(Granularity { extents, sharing: Sharing::Block(size) })
}

impl Operator for Linear {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let dims = cx.dims(0)?;
        let granularity = granularity(&dims, &cx.dims(1)?, self.axis, self.block)?;
        let zeros = if self.linear.has_zero { cx.dims(2)?.iter().product() } else { granularity.scales() };
        if zeros != granularity.scales() {
            return Err(Error::invalid(format!("{zeros} zero points for {} scales", granularity.scales())));
        }
        let scalar = if self.quantizes { self.linear.code } else { self.linear.real };
        let output = cx.output(0, scalar, &dims)?;
        // A program joins the one that computes its input; floats that a kernel wrote are converted faster by their own.
        let is_joined = !self.quantizes || cx.builder.is_mapped(cx.input(0)?) || self.linear.check().is_err();
        if let Some((split, strides)) = self.as_map(granularity).filter(|_| is_joined) {
            return self.map(cx, output, split, &strides);
        }
        if self.linear.code == Scalar::I32 {
            return Err(Error::unsupported(
                "blocks that do not divide their axis have no GPU kernel for int32",
            ));
        }
        let linear = quantize::Linear { granularity, ..self.linear };
        let plan = if self.quantizes { linear.quantize() } else { linear.dequantize() };
        let zero = if self.linear.has_zero { Some(cx.input(2)?) } else { None };
        let operands = [Some(output), Some(cx.input(0)?), Some(cx.input(1)?), zero];
        cx.run(plan, &operands)
    }
}

impl Linear {
    /// The dimensions, with the axis of blocks split, and the strides of the scale over them, where an element-wise program
    /// can compute it: it may be joined with its neighbours.
    fn as_map(&self, granularity: Granularity) -> Option<(Vec<usize>, Vec<i64>)> {
        let quantize::Linear { code, real, scale, .. } = self.linear;
        let is_plain = range(code).is_some() || code == Scalar::I32;
        if !is_plain || scale != real {
            return None;
        }
        let [outer, axis, inner] = granularity.extents;
        Some(match granularity.sharing {
            Sharing::Tensor => (vec![inner], vec![0]),
            Sharing::Axis => (vec![outer, axis, inner], vec![0, 1, 0]),
            Sharing::Block(size) if axis.is_multiple_of(size) => {
                let own = contiguous(&[outer, axis / size, inner]);
                (vec![outer, axis / size, size, inner], vec![own[0], own[1], 0, own[2]])
            }
            Sharing::Block(_) => return None,
        })
    }

    fn map(
        &self,
        cx: &mut Expansion<'_, '_>,
        output: crate::schedule::ValueId,
        dims: Vec<usize>,
        strides: &[i64],
    ) -> Result<()> {
        let input = |cx: &Expansion<'_, '_>, index: usize, strides: &[i64]| -> Result<MapInput> {
            Ok(MapInput {
                value: cx.input(index)?,
                scalar: cx.scalar(index)?,
                strides: strides.to_vec(),
                offset: 0,
            })
        };
        let mut inputs = vec![input(cx, 0, &contiguous(&dims))?, input(cx, 1, strides)?];
        if self.linear.has_zero {
            inputs.push(input(cx, 2, strides)?);
        }
        let (x, scale, zero) = (Leaf::Operand(0), Leaf::Operand(1), Leaf::Operand(2));
        let mut exprs: Vec<Expr> = Vec::new();
        let then = |exprs: &mut Vec<Expr>, op: MapOp, leaf: Leaf| {
            exprs.push(Expr::binary(op, Leaf::Node(exprs.len() - 1), leaf));
        };
        let has_zero = self.linear.has_zero;
        match range(self.linear.code).filter(|_| self.quantizes) {
            Some((least, most)) => {
                exprs.push(Expr::binary(MapOp::Divide, x, scale));
                match self.linear.precision {
                    Scalar::F16 => exprs.push(Expr::unary(MapOp::ToF16, Leaf::Node(0))),
                    Scalar::BF16 => exprs.push(Expr::unary(MapOp::ToBf16, Leaf::Node(0))),
                    _ => {}
                }
                exprs.push(Expr::unary(MapOp::Round, Leaf::Node(exprs.len() - 1)));
                if has_zero {
                    then(&mut exprs, MapOp::Add, zero);
                }
                then(&mut exprs, MapOp::Max, Leaf::Number(least));
                then(&mut exprs, MapOp::Min, Leaf::Number(most));
            }
            None if has_zero => {
                exprs.push(Expr::binary(MapOp::Subtract, x, zero));
                then(&mut exprs, MapOp::Multiply, scale);
            }
            None => exprs.push(Expr::binary(MapOp::Multiply, x, scale)),
        }
        let scalar = if self.quantizes { self.linear.code } else { self.linear.real };
        cx.map(Map { class: Class::F32, output, scalar, dims, inputs, exprs });
        Ok(())
    }
}
