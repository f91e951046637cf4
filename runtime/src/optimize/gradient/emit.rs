//! Adds the nodes of derivatives to a graph.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Attribute, Graph, Node, ValueId};
use crate::optimize::pattern::{self, dtype_of, float_scalar, shape_of};
use crate::tensor::Tensor;

/// A graph that derivatives are added to.
pub struct Emitter<'g> {
    pub graph: &'g mut Graph,
}

impl Emitter<'_> {
    /// A node of a standard operator that version `since` introduced; its output 0.
    pub fn op(&mut self, op_type: &str, since: i64, inputs: &[ValueId]) -> Result<ValueId> {
        self.op_with(op_type, since, inputs, &[])
    }

    /// As [`Emitter::op`], with attributes.
    pub fn op_with(
        &mut self,
        op_type: &str,
        since: i64,
        inputs: &[ValueId],
        attributes: &[(&str, Attribute)],
    ) -> Result<ValueId> {
        let mut node = Node::new("", op_type, pattern::version(self.graph, since))
            .with_name(format!("gradient/{op_type}"));
        for (name, value) in attributes {
            node.attributes.set(*name, value.clone());
        }
        self.node(node, inputs)
    }

    /// Adds a node; its output 0.
    pub fn node(&mut self, node: Node, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        pattern::emit(self.graph, node, &inputs)
    }

    /// The element type of a value, which must be known.
    pub fn dtype(&self, value: ValueId) -> Result<DType> {
        match dtype_of(self.graph, value) {
            DType::Undefined => Err(Error::unsupported(format!(
                "Gradient needs the element type of '{}', which is not known",
                self.graph.value(value).name()
            ))),
            dtype => Ok(dtype),
        }
    }

    /// The rank of a value, which must be known.
    pub fn rank(&self, value: ValueId) -> Result<usize> {
        shape_of(self.graph, value).map(|shape| shape.rank()).ok_or_else(|| {
            Error::unsupported(format!(
                "Gradient needs the rank of '{}', which is not known",
                self.graph.value(value).name()
            ))
        })
    }

    /// The sizes of a value, which must be known.
    pub fn sizes(&self, value: ValueId) -> Result<Vec<usize>> {
        shape_of(self.graph, value).and_then(|shape| shape.to_known()).map(|dims| dims.to_vec()).ok_or_else(
            || {
                Error::unsupported(format!(
                    "Gradient needs the shape of '{}', which is not known",
                    self.graph.value(value).name()
                ))
            },
        )
    }

    /// A scalar constant of the element type of `like`.
    pub fn scalar(&mut self, like: ValueId, value: f64) -> Result<ValueId> {
        let dtype = self.dtype(like)?;
        let tensor = float_scalar(dtype, value).ok_or_else(|| {
            Error::unsupported(format!("Gradient needs floating-point values, not {dtype}"))
        })?;
        Ok(self.graph.add_constant("factor", tensor))
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Result<ValueId> {
        let tensor = Tensor::from_slice(&[values.len()], values)?;
        Ok(self.graph.add_constant("sizes", tensor))
    }

    /// The shape of a value.
    pub fn shape(&mut self, value: ValueId) -> Result<ValueId> {
        self.op("Shape", 13, &[value])
    }

    /// `value` everywhere in the shape and element type of `like`.
    pub fn filled_like(&mut self, like: ValueId, value: f64) -> Result<ValueId> {
        let (shape, scalar) = (self.shape(like)?, self.scalar(like, value)?);
        self.op("Expand", 13, &[scalar, shape])
    }

    /// `value` in the shape of `like`, which has as many elements.
    pub fn reshaped_like(&mut self, value: ValueId, like: ValueId) -> Result<ValueId> {
        let shape = self.shape(like)?;
        self.reshape(value, shape)
    }

    /// `value` in a computed shape; a size of 0 is taken literally.
    pub fn reshape(&mut self, value: ValueId, shape: ValueId) -> Result<ValueId> {
        self.op_with("Reshape", 14, &[value, shape], &[("allowzero", 1i64.into())])
    }

    /// `value` as one row of elements.
    pub fn flat(&mut self, value: ValueId) -> Result<ValueId> {
        let row = self.ints(&[-1])?;
        self.op("Reshape", 14, &[value, row])
    }

    /// Sums `value` over the axes along which `like` was broadcast to it, down to the shape of `like`.
    pub fn sum_to(&mut self, value: ValueId, like: ValueId) -> Result<ValueId> {
        if pattern::same_shape(self.graph, value, like) {
            return Ok(value);
        }
        // The shape of `like` with leading ones up to the rank of `value`.
        let (own, full) = (self.shape(like)?, self.shape(value)?);
        let (own_rank, full_rank) = (self.shape(own)?, self.shape(full)?);
        let lead = self.op("Sub", 14, &[full_rank, own_rank])?;
        let one = Tensor::from_slice(&[1], &[1i64])?;
        let ones = self.op_with("ConstantOfShape", 9, &[lead], &[("value", one.clone().into())])?;
        let padded = self.op_with("Concat", 13, &[ones, own], &[("axis", 0i64.into())])?;
        let one = self.graph.add_constant("one", one);
        let repeated = self.op("Equal", 13, &[padded, one])?;
        let axes = self.op("NonZero", 13, &[repeated])?;
        let axes = self.flat(axes)?;
        let attributes = [("keepdims", 1i64.into()), ("noop_with_empty_axes", 1i64.into())];
        let sum = self.op_with("ReduceSum", 13, &[value, axes], &attributes)?;
        self.reshape(sum, own)
    }

    /// The product of two values.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op("Mul", 14, &[a, b])
    }

    /// A value times a number.
    pub fn times(&mut self, value: ValueId, factor: f64) -> Result<ValueId> {
        if factor == 1.0 {
            return Ok(value);
        }
        let factor = self.scalar(value, factor)?;
        self.mul(value, factor)
    }
}
