//! The shapes of a convolution and how its channels are grouped.

use crate::error::{OpError, Result};
use crate::node::Node;
use crate::ops::window::{Geometry, Window};
use crate::tensor::Dims;

/// The attribute `group`.
pub fn group(node: &Node) -> Result<usize> {
    match node.int("group", 1)? {
        group if group >= 1 => Ok(group as usize),
        group => Err(OpError::invalid(format!("attribute 'group' is {group}, expected at least 1"))),
    }
}

/// Shapes of one convolution.
pub struct Shape {
    pub batch: usize,
    /// Input and output channels of a group.
    pub inputs: usize,
    pub outputs: usize,
    pub group: usize,
    pub geometry: Geometry,
}

impl Shape {
    /// Checks `x` (channels first) and `w` against each other.
    pub fn new(window: &Window, group: usize, x: &[usize], w: &[usize]) -> Result<Shape> {
        if x.len() < 3 || x.len() != w.len() {
            return Err(OpError::invalid(format!(
                "convolution takes an input and weights of one rank, at least 3; got shapes {x:?} and {w:?}"
            )));
        }
        if w[1] * group != x[1] || !w[0].is_multiple_of(group) {
            return Err(OpError::invalid(format!(
                "input shape {x:?} and weight shape {w:?} do not fit {group} groups of channels"
            )));
        }
        if !window.kernel.is_empty() && window.kernel[..] != w[2..] {
            return Err(OpError::invalid(format!(
                "kernel_shape {:?} differs from the weights' {w:?}",
                window.kernel
            )));
        }
        let geometry = window.fit(&x[2..], &w[2..])?;
        Ok(Shape { batch: x[0], inputs: w[1], outputs: w[0] / group, group, geometry })
    }

    /// Shape of the result, channels first.
    pub fn output_dims(&self) -> Dims {
        [self.batch, self.outputs * self.group]
            .into_iter()
            .chain(self.geometry.output.iter().copied())
            .collect()
    }
}
