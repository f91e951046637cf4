//! Matrix products: plain, with transposes, bias, residual and activation.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::product::{self, Activation, BATCH_RANK, Product};
use tenon_plugin_api::{Error, Result};

use super::activation::fused;
use super::elementwise::broadcast;
use super::{Family, tensor};
use crate::map::{Expr, Leaf, Map, MapInput, broadcast_strides, class_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["MatMul"], lower: matmul },
    Family { domain: "", op_types: &["Gemm"], lower: gemm },
    Family { domain: "tenon", op_types: &["FusedMatMul"], lower: fused_matmul },
    Family { domain: "com.microsoft", op_types: &["FusedMatMul"], lower: scaled_matmul },
];

/// `activation(alpha * op(A) op(B) + beta * bias + residual)`, batches broadcast.
struct MatMul {
    transposes: (bool, bool),
    alpha: f32,
    beta: f32,
    bias: Option<usize>,
    residual: Option<usize>,
    activation: Activation,
}

const PLAIN: MatMul = MatMul {
    transposes: (false, false),
    alpha: 1.0,
    beta: 1.0,
    bias: None,
    residual: None,
    activation: Activation::None,
};

/// An operand as matrices: rows, columns, their strides, and the dimensions in front.
struct Side {
    rows: usize,
    columns: usize,
    strides: (i64, i64),
    batch: Vec<usize>,
}

impl Side {
    fn new(dims: &[usize], is_transposed: bool) -> Side {
        let split = dims.len() - 2;
        let (rows, columns) = (dims[split], dims[split + 1]);
        let batch = dims[..split].to_vec();
        match is_transposed {
            false => Side { rows, columns, strides: (columns as i64, 1), batch },
            true => Side { rows: columns, columns: rows, strides: (1, columns as i64), batch },
        }
    }

    /// Elements between neighbouring matrices, for each dimension of the broadcast batch.
    fn batch_strides(&self, out: &[usize]) -> Vec<i64> {
        let size = (self.rows * self.columns) as i64;
        broadcast_strides(&self.batch, out).into_iter().map(|stride| stride * size).collect()
    }
}

impl Operator for MatMul {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (mut a, mut b) = (cx.dims(0)?, cx.dims(1)?);
        let (is_row, is_column) = (a.len() == 1, b.len() == 1);
        if is_row {
            a.insert(0, 1);
        }
        if is_column {
            b.push(1);
        }
        if a.len() < 2 || b.len() < 2 {
            return Err(Error::invalid(format!("a product of shapes {a:?} and {b:?}")));
        }
        let (left, right) =
            (Side::new(&a, self.transposes.0 && !is_row), Side::new(&b, self.transposes.1 && !is_column));
        if left.columns != right.rows {
            return Err(Error::invalid(format!("a product of shapes {a:?} and {b:?}: the depths differ")));
        }
        let batch = broadcast(&left.batch, &right.batch)?;
        let wide: Vec<usize> = batch.iter().copied().chain([left.rows, right.columns]).collect();
        let mut shape = wide.clone();
        if is_column {
            shape.pop();
        }
        if is_row {
            shape.remove(batch.len());
        }
        let scalar = cx.scalar(0)?;
        let output = cx.output(0, scalar, &shape)?;
        self.product(cx, output, &left, &right, &batch, &wide)
    }
}

impl MatMul {
    fn product(
        &self,
        cx: &mut Expansion<'_, '_>,
        output: ValueId,
        left: &Side,
        right: &Side,
        batch: &[usize],
        wide: &[usize],
    ) -> Result<()> {
        let scalar = cx.scalar(0)?;
        let bias = match self.bias {
            Some(index) => {
                Some((cx.input(index)?, broadcast_strides(&checked(cx.dims(index)?, wide)?, wide)))
            }
            None => None,
        };
        // Only one addend fits the kernel; the activation comes after both.
        let residual = self.residual.map(|index| cx.input(index)).transpose()?;
        let in_kernel = if residual.is_some() { Activation::None } else { self.activation };
        let own = bias.as_ref().map(|(_, strides)| strides.clone());
        let strides = [left.batch_strides(batch), right.batch_strides(batch)];
        let bias_batch = own.as_ref().map_or(vec![0; batch.len()], |own| own[..batch.len()].to_vec());
        let extents: Vec<(usize, [i64; 3])> = (0..batch.len())
            .map(|axis| (batch[axis], [strides[0][axis], strides[1][axis], bias_batch[axis]]))
            .collect();
        let mut problem = Product {
            scalar,
            m: left.rows,
            n: right.columns,
            k: left.columns,
            a_strides: left.strides,
            b_strides: right.strides,
            bias_strides: own.map(|own| (own[batch.len()], own[batch.len() + 1])),
            batch: joined(&extents),
            alpha: self.alpha,
            beta: self.beta,
            activation: in_kernel,
        };
        stack_rows(&mut problem);
        if problem.batch.len() > BATCH_RANK {
            return Err(Error::unsupported(format!("a batch of {batch:?}: at most {BATCH_RANK} dimensions")));
        }
        let bias = bias.map(|(value, _)| value);
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let fits = residual
            .filter(|&residual| self.activation == Activation::None && cx.builder.dims(residual) == wide);
        if fits.is_some() || residual.is_none() {
            // The tuned kernels add the residual themselves.
            if let Some(plan) = tensor::plan(cx, &problem, b, fits.is_some()) {
                cx.run(Ok(plan), &[Some(output), Some(a), Some(b), bias, fits])?;
                if let Some(problem) = tensor::describe(cx, &problem, b, fits.is_some()) {
                    cx.builder.describe(problem);
                }
                return Ok(());
            }
        }
        let target = match residual {
            Some(_) => cx.scratch(scalar, wide)?,
            None => output,
        };
        let plan = match residual.and_then(|_| tensor::plan(cx, &problem, b, false)) {
            Some(plan) => Ok(plan),
            None => product::matmul(&problem, cx.chip().compute_units),
        };
        cx.run(plan, &[Some(target), Some(a), Some(b), bias])?;
        match residual {
            Some(residual) => self.add_residual(cx, output, target, residual, wide),
            None => Ok(()),
        }
    }

    fn add_residual(
        &self,
        cx: &mut Expansion<'_, '_>,
        output: ValueId,
        product: ValueId,
        residual: ValueId,
        wide: &[usize],
    ) -> Result<()> {
        let scalar = cx.builder.scalar(product);
        let strides = broadcast_strides(&checked(cx.builder.dims(residual).to_vec(), wide)?, wide);
        let input = |value, strides| MapInput { value, scalar, strides, offset: 0 };
        let mut exprs = vec![Expr::binary(MapOp::Add, Leaf::Operand(0), Leaf::Operand(1))];
        activation_exprs(self.activation, &mut exprs)?;
        cx.map(Map {
            class: class_of(scalar),
            output,
            scalar,
            dims: wide.to_vec(),
            inputs: vec![input(product, contiguous(wide)), input(residual, strides)],
            exprs,
        });
        Ok(())
    }
}

/// The dimensions of an addend that must broadcast to `wide` without widening it.
fn checked(dims: Vec<usize>, wide: &[usize]) -> Result<Vec<usize>> {
    match broadcast(&dims, wide)? == wide {
        true => Ok(dims),
        false => Err(Error::invalid(format!("an addend of shape {dims:?} widens a product of {wide:?}"))),
    }
}

/// The batch with dimensions of 1 dropped and neighbours joined.
fn joined(extents: &[(usize, [i64; 3])]) -> Vec<(usize, [i64; 3])> {
    let mut joined: Vec<(usize, [i64; 3])> = Vec::new();
    for &(extent, strides) in extents.iter().filter(|(extent, _)| *extent != 1) {
        match joined.last_mut() {
            Some((outer, outer_strides))
                if (0..3).all(|i| outer_strides[i] == strides[i] * extent as i64) =>
            {
                (*outer, *outer_strides) = (*outer * extent, strides);
            }
            _ => joined.push((extent, strides)),
        }
    }
    joined
}

/// A batch of matrices times one matrix is one tall product.
fn stack_rows(problem: &mut Product) {
    let [(extent, [a, 0, bias])] = problem.batch[..] else { return };
    let is_tall = a == problem.a_strides.0 * problem.m as i64;
    let bias_fits = problem.bias_strides.is_none_or(|(rows, _)| bias == rows * problem.m as i64);
    if is_tall && bias_fits {
        problem.m *= extent;
        problem.batch.clear();
    }
}

/// Appends `activation` of the last expression.
pub(super) fn activation_exprs(activation: Activation, exprs: &mut Vec<Expr>) -> Result<()> {
    let x = Leaf::Node(exprs.len() - 1);
    let number = |value: f32| Leaf::Number(f64::from(value));
    let op = match activation {
        Activation::None => return Ok(()),
        Activation::Relu => Expr::binary(MapOp::Max, x, number(0.0)),
        Activation::Sigmoid => Expr::unary(MapOp::Sigmoid, x),
        Activation::Tanh => Expr::unary(MapOp::Tanh, x),
        Activation::Silu => Expr::binary(MapOp::Silu, x, number(1.0)),
        Activation::Gelu => Expr::unary(MapOp::Gelu, x),
        Activation::GeluTanh => Expr::unary(MapOp::GeluTanh, x),
        Activation::Clip(low, high) => {
            exprs.push(Expr::binary(MapOp::Max, x, number(low)));
            Expr::binary(MapOp::Min, Leaf::Node(exprs.len() - 1), number(high))
        }
        Activation::LeakyRelu(alpha) => {
            exprs.push(Expr::binary(MapOp::Multiply, x, number(alpha)));
            exprs.push(Expr::binary(MapOp::Less, x, number(0.0)));
            Expr::select(Leaf::Node(exprs.len() - 1), Leaf::Node(exprs.len() - 2), x)
        }
        other => return Err(Error::unsupported(format!("{other:?} after a residual has no GPU kernel"))),
    };
    exprs.push(op);
    Ok(())
}

/// Declines operands of different types, and types without a product.
fn same_type(l: &Lowering<'_>, positions: &[usize]) -> std::result::Result<(), Decline> {
    let scalar = l.scalar(0)?;
    let is_known = scalar.bytes() >= 4 || scalar.is_float();
    if !is_known {
        return Err(Decline(format!("a product of {} has no GPU kernel", scalar.suffix())));
    }
    for &position in positions.iter().filter(|&&position| l.has_input(position)) {
        if l.scalar(position)? != scalar {
            return Err(Decline(format!("input {position} is of another type than input 0")));
        }
    }
    Ok(())
}

fn matmul(l: &Lowering<'_>) -> Lowered {
    same_type(l, &[1])?;
    Ok(Box::new(PLAIN))
}

fn gemm(l: &Lowering<'_>) -> Lowered {
    same_type(l, &[1, 2])?;
    let (alpha, beta) = (l.node.float_or("alpha", 1.0)?, l.node.float_or("beta", 1.0)?);
    Ok(Box::new(MatMul {
        transposes: (l.node.int_or("transA", 0)? != 0, l.node.int_or("transB", 0)? != 0),
        alpha,
        beta,
        bias: l.has_input(2).then_some(2),
        ..PLAIN
    }))
}

fn fused_matmul(l: &Lowering<'_>) -> Lowered {
    same_type(l, &[1, 2, 3])?;
    if !l.scalar(0)?.is_float() {
        return Err(Decline::new("a fused product of this type has no GPU kernel"));
    }
    let activation = fused(l)?;
    let residual = l.has_input(3).then_some(3);
    if residual.is_some() {
        activation_exprs(activation, &mut vec![Expr::unary(MapOp::Move, Leaf::Operand(0))])?;
    }
    Ok(Box::new(MatMul {
        transposes: (l.node.int_or("transA", 0)? != 0, l.node.int_or("transB", 0)? != 0),
        alpha: l.node.float_or("alpha", 1.0)?,
        beta: 1.0,
        bias: l.has_input(2).then_some(2),
        residual,
        activation,
    }))
}

fn scaled_matmul(l: &Lowering<'_>) -> Lowered {
    same_type(l, &[1])?;
    if l.node.int_or("transBatchA", 0)? != 0 || l.node.int_or("transBatchB", 0)? != 0 {
        return Err(Decline::new("transposed batches have no GPU kernel"));
    }
    Ok(Box::new(MatMul {
        transposes: (l.node.int_or("transA", 0)? != 0, l.node.int_or("transB", 0)? != 0),
        alpha: l.node.float_or("alpha", 1.0)?,
        ..PLAIN
    }))
}
