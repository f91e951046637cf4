//! What follows a product when its kernel does not do it: an addend, a residual, an activation, as one element-wise program.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::matmul;
use tenon_kernels::gpu::product::Activation;
use tenon_plugin_api::{Error, Result};

use super::activation::fused;
use super::elementwise::broadcast;
use super::matmul::activation_exprs;
use crate::map::{Expr, Leaf, Map, MapInput, broadcast_strides, class_of};
use crate::operator::{Decline, Expansion, Lowering};
use crate::schedule::ValueId;

/// `activation(x + beta bias + residual)`, by inputs of the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub bias: Option<usize>,
    pub beta: f32,
    pub residual: Option<usize>,
    pub activation: Activation,
}

/// What of a tail a kernel does, as values.
#[derive(Clone, Copy, Default)]
pub(super) struct Within {
    pub bias: Option<ValueId>,
    pub residual: Option<ValueId>,
    pub activation: matmul::Activation,
}

impl Tail {
    pub const NONE: Tail = Tail { bias: None, beta: 1.0, residual: None, activation: Activation::None };

    /// Of `tenon` products: bias in input 2, residual in input 3.
    pub fn read(l: &Lowering<'_>) -> std::result::Result<Tail, Decline> {
        let activation = fused(l)?;
        let given = |index: usize| l.has_input(index).then_some(index);
        let tail = Tail { bias: given(2), beta: 1.0, residual: given(3), activation };
        activation_exprs(activation, &mut vec![Expr::unary(MapOp::Move, Leaf::Operand(0))])?;
        Ok(tail)
    }

    pub fn is_empty(&self) -> bool {
        self.bias.is_none() && self.residual.is_none() && self.activation == Activation::None
    }

    /// Splits the tail of a product of shape `wide`, of which `n` columns: what its kernel does, and what is left.
    pub fn split(&self, cx: &Expansion<'_, '_>, wide: &[usize], n: usize) -> Result<(Within, Tail)> {
        let (mut within, mut left) = (Within::default(), *self);
        if let Some(index) = self.bias
            && self.beta == 1.0
            && cx.dims(index)? == [n]
        {
            (within.bias, left.bias) = (Some(cx.input(index)?), None);
        }
        // The kernel adds residuals behind the activation, the node in front of it.
        if left.bias.is_none()
            && self.activation == Activation::None
            && let Some(index) = self.residual
            && cx.dims(index)? == wide
        {
            (within.residual, left.residual) = (Some(cx.input(index)?), None);
        }
        if left.bias.is_none() && left.residual.is_none() {
            let known = match self.activation {
                Activation::None => Some(matmul::Activation::None),
                Activation::Relu => Some(matmul::Activation::Relu),
                Activation::Silu => Some(matmul::Activation::Silu),
                Activation::Gelu => Some(matmul::Activation::Gelu),
                Activation::GeluTanh => Some(matmul::Activation::GeluTanh),
                _ => None,
            };
            if let Some(activation) = known {
                (within.activation, left.activation) = (activation, Activation::None);
            }
        }
        Ok((within, left))
    }

    /// Computes `output` of shape `dims` from the product in `from`; every factor is a number in memory.
    pub fn run(
        &self,
        cx: &mut Expansion<'_, '_>,
        from: ValueId,
        output: ValueId,
        dims: &[usize],
        factors: &[ValueId],
    ) -> Result<()> {
        let scalar = cx.builder.scalar(output);
        let mut inputs = vec![MapInput {
            value: from,
            scalar: cx.builder.scalar(from),
            strides: contiguous(dims),
            offset: 0,
        }];
        let mut exprs = vec![Expr::unary(MapOp::Move, Leaf::Operand(0))];
        let then = |exprs: &mut Vec<Expr>, op: MapOp, leaf: Leaf| {
            exprs.push(Expr::binary(op, Leaf::Node(exprs.len() - 1), leaf));
        };
        for &value in factors {
            let strides = vec![0; dims.len()];
            inputs.push(MapInput { value, scalar: cx.builder.scalar(value), strides, offset: 0 });
            then(&mut exprs, MapOp::Multiply, Leaf::Operand(inputs.len() - 1));
        }
        for (index, factor) in [(self.bias, self.beta), (self.residual, 1.0)] {
            let Some(index) = index else { continue };
            let (value, own) = (cx.input(index)?, cx.dims(index)?);
            if broadcast(&own, dims)? != dims {
                return Err(Error::invalid(format!(
                    "an addend of shape {own:?} widens a product of {dims:?}"
                )));
            }
            let strides = broadcast_strides(&own, dims);
            inputs.push(MapInput { value, scalar: cx.builder.scalar(value), strides, offset: 0 });
            let mut addend = Leaf::Operand(inputs.len() - 1);
            let sum = Leaf::Node(exprs.len() - 1);
            if factor != 1.0 {
                exprs.push(Expr::binary(MapOp::Multiply, addend, Leaf::Number(f64::from(factor))));
                addend = Leaf::Node(exprs.len() - 1);
            }
            exprs.push(Expr::binary(MapOp::Add, sum, addend));
        }
        activation_exprs(self.activation, &mut exprs)?;
        cx.map(Map { class: class_of(scalar), output, scalar, dims: dims.to_vec(), inputs, exprs });
        Ok(())
    }
}
