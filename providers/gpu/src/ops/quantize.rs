//! Quantised tensors: to integers and back, and products of integers.

use tenon_kernels::gpu::elementwise::{Class, MapOp};
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::matmul::{self, Element, Epilogue, Kind, Layout, Matrix, Problem};
use tenon_kernels::gpu::product::{self, Activation, Product};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, NodeView, Result};

use super::{Family, axis_of};
use crate::constant::Derived;
use crate::map::{Expr, Leaf, Map, MapInput, broadcast_strides};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["QuantizeLinear", "DequantizeLinear"], lower: linear },
    Family { domain: "com.microsoft", op_types: &["QuantizeLinear", "DequantizeLinear"], lower: linear },
    Family { domain: "", op_types: &["MatMulInteger"], lower: matmul_integer },
];

/// The range of an 8- or 16-bit integer type.
fn range(scalar: Scalar) -> Option<(f64, f64)> {
    match scalar {
        Scalar::U8 => Some((0.0, 255.0)),
        Scalar::I8 => Some((-128.0, 127.0)),
        Scalar::U16 => Some((0.0, 65_535.0)),
        Scalar::I16 => Some((-32_768.0, 32_767.0)),
        _ => None,
    }
}

// ---- To integers and back -------------------------------------------------------------------------------------------

/// `clamp(round(x / scale) + zero)`, or `(x - zero) scale`.
struct Linear {
    output: Scalar,
    /// Of the integers where x becomes integers.
    range: Option<(f64, f64)>,
    axis: i64,
    /// Elements along the axis that share a scale; 0: all or one, as the scale's shape says.
    block: usize,
    has_zero: bool,
}

fn linear(l: &Lowering<'_>) -> Lowered {
    let quantizes = l.node.op_type() == "QuantizeLinear";
    let (input, output) = (l.scalar(0)?, l.output_scalar(0)?);
    let (float, integer) = if quantizes { (input, output) } else { (output, input) };
    if !float.is_float() || l.scalar(1)? != float {
        return Err(Decline::new("a scale of another type than the floats has no GPU kernel"));
    }
    let bounds = range(integer);
    if bounds.is_none() && (quantizes || integer != Scalar::I32) {
        return Err(Decline(format!("integers of type {} have no GPU kernel", integer.suffix())));
    }
    let block = usize::try_from(l.node.int_or("block_size", 0)?).unwrap_or(0);
    Ok(Box::new(Linear {
        output,
        range: if quantizes { bounds } else { None },
        axis: l.node.int_or("axis", 1)?,
        block,
        has_zero: l.has_input(2),
    }))
}

impl Linear {
    /// The dimensions with the axis of blocks split, and the strides of the scale over them.
    fn layout(&self, dims: &[usize], scale: &[usize]) -> Result<(Vec<usize>, Vec<i64>)> {
        let total: usize = scale.iter().product();
        if total == 1 {
            return Ok((dims.to_vec(), vec![0; dims.len()]));
        }
        let axis = axis_of(self.axis, dims.len()).map_err(|Decline(reason)| Error::invalid(reason))?;
        let refused = || Error::invalid(format!("a scale of shape {scale:?} for a tensor of {dims:?}"));
        if self.block == 0 {
            let mut strides = vec![0; dims.len()];
            if dims.get(axis) != Some(&total) {
                return Err(refused());
            }
            strides[axis] = 1;
            return Ok((dims.to_vec(), strides));
        }
        if scale.len() != dims.len() || !dims[axis].is_multiple_of(self.block) {
            return Err(Error::unsupported("blocks that do not divide their axis have no GPU kernel"));
        }
        let fits = |(at, (&own, &dim)): (usize, (&usize, &usize))| {
            own == if at == axis { dim / self.block } else { dim }
        };
        if !scale.iter().zip(dims).enumerate().all(fits) {
            return Err(refused());
        }
        let (mut split, mut strides) = (dims.to_vec(), contiguous(scale));
        split[axis] = dims[axis] / self.block;
        split.insert(axis + 1, self.block);
        strides.insert(axis + 1, 0);
        Ok((split, strides))
    }
}

impl Operator for Linear {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let dims = cx.dims(0)?;
        let (split, strides) = self.layout(&dims, &cx.dims(1)?)?;
        let output = cx.output(0, self.output, &dims)?;
        let input = |cx: &Expansion<'_, '_>, index: usize, strides: &[i64]| -> Result<MapInput> {
            Ok(MapInput {
                value: cx.input(index)?,
                scalar: cx.scalar(index)?,
                strides: strides.to_vec(),
                offset: 0,
            })
        };
        let mut inputs = vec![input(cx, 0, &contiguous(&split))?, input(cx, 1, &strides)?];
        if self.has_zero {
            inputs.push(input(cx, 2, &strides)?);
        }
        let (x, scale, zero) = (Leaf::Operand(0), Leaf::Operand(1), Leaf::Operand(2));
        let mut exprs: Vec<Expr> = Vec::new();
        let then = |exprs: &mut Vec<Expr>, op: MapOp, leaf: Leaf| {
            exprs.push(Expr::binary(op, Leaf::Node(exprs.len() - 1), leaf));
        };
        match self.range {
            Some((least, most)) => {
                exprs.push(Expr::binary(MapOp::Divide, x, scale));
                exprs.push(Expr::unary(MapOp::Round, Leaf::Node(0)));
                if self.has_zero {
                    then(&mut exprs, MapOp::Add, zero);
                }
                then(&mut exprs, MapOp::Max, Leaf::Number(least));
                then(&mut exprs, MapOp::Min, Leaf::Number(most));
            }
            None if self.has_zero => {
                exprs.push(Expr::binary(MapOp::Subtract, x, zero));
                then(&mut exprs, MapOp::Multiply, scale);
            }
            None => exprs.push(Expr::binary(MapOp::Multiply, x, scale)),
        }
        cx.map(Map { class: Class::F32, output, scalar: self.output, dims: split, inputs, exprs });
        Ok(())
    }
}

// ---- Products of integers -------------------------------------------------------------------------------------------

/// `(A - zero of A) (B - zero of B)` in i32; B is one matrix.
struct MatMulInteger {
    has_a_zero: bool,
    has_b_zero: bool,
    /// B and its zero point are constants, and B minus it has 8 bits with a sign: matrix units can multiply it.
    is_signed_weight: bool,
}

/// What is taken from unsigned elements to make them signed.
const MIDDLE: i64 = 128;

fn matmul_integer(l: &Lowering<'_>) -> Lowered {
    for index in [0, 1] {
        if !matches!(l.scalar(index)?, Scalar::U8 | Scalar::I8) {
            return Err(Decline(format!("input {index} is no integer of 8 bits")));
        }
    }
    if l.rank(1)? != 2 || l.rank(0)? < 2 {
        return Err(Decline::new(
            "a product of integers whose right side is not one matrix has no GPU kernel",
        ));
    }
    Ok(Box::new(MatMulInteger {
        has_a_zero: l.has_input(2),
        has_b_zero: l.has_input(3),
        is_signed_weight: Weight::read(l.node).is_some(),
    }))
}

/// A constant B whose zero point is that of signed integers.
struct Weight<'a> {
    bytes: &'a [u8],
    k: usize,
    n: usize,
    /// What makes an element signed.
    flip: u8,
}

impl<'a> Weight<'a> {
    fn read(node: NodeView<'a>) -> Option<Weight<'a>> {
        let value = node.input(1)?;
        let tensor = value.constant()?;
        let [k, n] = *tensor.dims() else { return None };
        let is_unsigned = tensor.dtype() == tenon_plugin_api::DType::U8;
        let middle = if is_unsigned { MIDDLE as u8 } else { 0 };
        let is_middle = match node.input(3) {
            None => middle == 0,
            Some(zero) => zero.constant()?.host_bytes()?.iter().all(|&byte| byte == middle),
        };
        let (k, n) = (usize::try_from(k).ok()?, usize::try_from(n).ok()?);
        let bytes = tensor.host_bytes()?;
        // Matrix units read rows of whole 16-byte pieces.
        let fits = is_middle && k > 0 && n > 0 && k.is_multiple_of(16) && bytes.len() == k * n;
        fits.then_some(Weight { bytes, k, n, flip: middle })
    }

    fn at(&self, row: usize, column: usize) -> u8 {
        self.bytes[row * self.n + column] ^ self.flip
    }
}

impl Operator for MatMulInteger {
    fn derived<'a>(&self, node: NodeView<'a>, _arch: &'a str) -> Vec<Derived<'a>> {
        let Some(weight) = Weight::read(node).filter(|_| self.is_signed_weight) else { return Vec::new() };
        let (k, n) = (weight.k, weight.n);
        let transposed = move |out: &mut [u8]| {
            let weight = Weight::read(node).ok_or_else(|| Error::internal("the weights are gone"))?;
            for (column, row) in out.chunks_mut(k).enumerate() {
                row.iter_mut().enumerate().for_each(|(at, to)| *to = weight.at(at, column));
            }
            Ok(())
        };
        let sums = move |out: &mut [u8]| {
            let weight = Weight::read(node).ok_or_else(|| Error::internal("the weights are gone"))?;
            for (column, to) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let sum: i32 = (0..k).map(|row| i32::from(weight.at(row, column).cast_signed())).sum();
                *to = sum.to_le_bytes();
            }
            Ok(())
        };
        vec![
            Derived { bytes: n * k, fill: Box::new(transposed) },
            Derived { bytes: n * 4, fill: Box::new(sums) },
        ]
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (mut dims, right) = (cx.dims(0)?, cx.dims(1)?);
        let (&[k, n], Some(&depth)) = (&right[..], dims.last()) else {
            return Err(Error::invalid(format!("a product of shapes {dims:?} and {right:?}")));
        };
        if k != depth {
            return Err(Error::invalid(format!(
                "a product of shapes {dims:?} and {right:?}: the depths differ"
            )));
        }
        let m: usize = dims.iter().rev().skip(1).product();
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        let output = cx.output(0, Scalar::I32, &dims)?;
        if m * n == 0 {
            return Ok(());
        }
        match self.tuned([m, n, k], cx) {
            Some(plan) => self.on_matrix_units(cx, plan, output, [m, n, k]),
            None => self.exact(cx, output, [m, n, k]),
        }
    }
}

impl MatMulInteger {
    /// The plan of the signed product; `None` where the family has none.
    fn tuned(&self, [m, n, k]: [usize; 3], cx: &Expansion<'_, '_>) -> Option<tenon_kernels::gpu::Plan> {
        if !self.is_signed_weight {
            return None;
        }
        let kind = Kind { input: Element::S8, output: matmul::Output::I32, layout: Layout::NT };
        let problem = Problem {
            kind,
            m,
            n,
            k,
            batches: 1,
            a: Matrix::packed(k),
            b: Matrix::constant(k),
            d: Matrix::packed(n),
            epilogue: Epilogue::default(),
        };
        let target = cx.builder.target;
        let plan = matmul::plan_for(target.arch, &problem, target.chip).ok()?;
        plan.launches.iter().all(|launch| (target.has)(&launch.symbol)).then_some(plan)
    }

    /// With A' = A - shift and B' = B - its zero point, both signed: `A' B' - (zero of A - shift) (sums of B's columns)`.
    fn on_matrix_units(
        &self,
        cx: &mut Expansion<'_, '_>,
        plan: tenon_kernels::gpu::Plan,
        output: ValueId,
        [m, n, k]: [usize; 3],
    ) -> Result<()> {
        let (transposed, sums) = (cx.derived(0, n * k)?, cx.derived(1, n * 4)?);
        let shift = if cx.scalar(0)? == Scalar::U8 { MIDDLE } else { 0 };
        let a = match shift {
            0 => cx.input(0)?,
            _ => {
                let signed = cx.scratch(Scalar::I8, &[m, k])?;
                let x = MapInput {
                    value: cx.input(0)?,
                    scalar: Scalar::U8,
                    strides: vec![k as i64, 1],
                    offset: 0,
                };
                let exprs = vec![Expr::binary(MapOp::Subtract, Leaf::Operand(0), Leaf::Number(shift as f64))];
                cx.map(Map {
                    class: Class::I64,
                    output: signed,
                    scalar: Scalar::I8,
                    dims: vec![m, k],
                    inputs: vec![x],
                    exprs,
                });
                signed
            }
        };
        if shift == 0 && !self.has_a_zero {
            return cx.run(Ok(plan), &[Some(a), Some(transposed), Some(output)]);
        }
        let product = cx.scratch(Scalar::I32, &[m, n])?;
        cx.run(Ok(plan), &[Some(a), Some(transposed), Some(product)])?;
        let read = |value, scalar, strides: [i64; 2]| MapInput {
            value,
            scalar,
            strides: strides.to_vec(),
            offset: 0,
        };
        let mut inputs = vec![read(product, Scalar::I32, [n as i64, 1]), read(sums, Scalar::I32, [0, 1])];
        let mut exprs = Vec::new();
        if self.has_a_zero {
            inputs.push(read(cx.input(2)?, cx.scalar(2)?, [self.row_stride(cx, 2, m)?, 0]));
            exprs.push(Expr::binary(MapOp::Subtract, Leaf::Operand(2), Leaf::Number(shift as f64)));
            exprs.push(Expr::binary(MapOp::Multiply, Leaf::Node(0), Leaf::Operand(1)));
        } else {
            exprs.push(Expr::binary(MapOp::Multiply, Leaf::Operand(1), Leaf::Number(-shift as f64)));
        }
        exprs.push(Expr::binary(MapOp::Subtract, Leaf::Operand(0), Leaf::Node(exprs.len() - 1)));
        cx.map(Map { class: Class::I64, output, scalar: Scalar::I32, dims: vec![m, n], inputs, exprs });
        Ok(())
    }

    /// The stride over rows of A of its zero point.
    fn row_stride(&self, cx: &Expansion<'_, '_>, index: usize, m: usize) -> Result<i64> {
        match cx.dims(index)?.iter().product::<usize>() {
            1 => Ok(0),
            count if count == m => Ok(1),
            count => Err(Error::invalid(format!("{count} zero points for {m} rows"))),
        }
    }

    /// Both sides as i32 minus their zero points, and a product of i32.
    fn exact(&self, cx: &mut Expansion<'_, '_>, output: ValueId, [m, n, k]: [usize; 3]) -> Result<()> {
        let a_strides = if self.has_a_zero { vec![self.row_stride(cx, 2, m)?, 0] } else { Vec::new() };
        let b_strides =
            if self.has_b_zero { broadcast_strides(&columns(cx, n)?, &[k, n]) } else { Vec::new() };
        let a = self.widened(cx, 0, [m, k], (2, a_strides))?;
        let b = self.widened(cx, 1, [k, n], (3, b_strides))?;
        let problem = Product {
            scalar: Scalar::I32,
            m,
            n,
            k,
            a_strides: (k as i64, 1),
            b_strides: (n as i64, 1),
            bias_strides: None,
            batch: Vec::new(),
            alpha: 1.0,
            beta: 1.0,
            activation: Activation::None,
        };
        cx.run(product::matmul(&problem, cx.chip().compute_units), &[Some(output), Some(a), Some(b)])
    }

    /// Input `index` as i32 minus the zero point that `zero` names with its strides.
    fn widened(
        &self,
        cx: &mut Expansion<'_, '_>,
        index: usize,
        dims: [usize; 2],
        zero: (usize, Vec<i64>),
    ) -> Result<ValueId> {
        let wide = cx.scratch(Scalar::I32, &dims)?;
        let read = |cx: &Expansion<'_, '_>, index: usize, strides: Vec<i64>| -> Result<MapInput> {
            Ok(MapInput { value: cx.input(index)?, scalar: cx.scalar(index)?, strides, offset: 0 })
        };
        let mut inputs = vec![read(cx, index, contiguous(&dims))?];
        let mut exprs = vec![Expr::unary(MapOp::Move, Leaf::Operand(0))];
        if !zero.1.is_empty() {
            inputs.push(read(cx, zero.0, zero.1)?);
            exprs = vec![Expr::binary(MapOp::Subtract, Leaf::Operand(0), Leaf::Operand(1))];
        }
        let dims = dims.to_vec();
        cx.map(Map { class: Class::I64, output: wide, scalar: Scalar::I32, dims, inputs, exprs });
        Ok(wide)
    }
}

/// The shape of B's zero points against its columns.
fn columns(cx: &Expansion<'_, '_>, n: usize) -> Result<Vec<usize>> {
    match cx.dims(3)?.iter().product::<usize>() {
        1 => Ok(vec![1]),
        count if count == n => Ok(vec![n]),
        count => Err(Error::invalid(format!("{count} zero points for {n} columns"))),
    }
}
