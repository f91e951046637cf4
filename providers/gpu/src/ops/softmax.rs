//! Softmax and its logarithm.

use tenon_kernels::gpu::rows;
use tenon_plugin_api::Result;

use super::{Family, axis_of};
use crate::operator::{Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] =
    &[Family { domain: "", op_types: &["Softmax", "LogSoftmax"], lower: softmax }];

struct Softmax {
    axis: usize,
    is_log: bool,
    /// Before opset 13 everything from the axis on is one axis.
    joins_rest: bool,
}

impl Operator for Softmax {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let output = cx.output(0, scalar, &dims)?;
        let volume = |dims: &[usize]| dims.iter().product::<usize>();
        let outer = volume(&dims[..self.axis.min(dims.len())]);
        let extents = match dims.get(self.axis) {
            None => [1, 1, 1],
            Some(_) if self.joins_rest => [outer, volume(&dims[self.axis..]), 1],
            Some(&axis) => [outer, axis, volume(&dims[self.axis + 1..])],
        };
        let plan = rows::softmax(scalar, extents, self.is_log, cx.has());
        cx.run(plan, &[Some(output), Some(input)])
    }
}

fn softmax(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    let joins_rest = l.node.version() < 13;
    let axis = axis_of(l.node.int_or("axis", if joins_rest { 1 } else { -1 })?, l.rank(0)?)?;
    Ok(Box::new(Softmax { axis, is_log: l.node.op_type() == "LogSoftmax", joins_rest }))
}
