//! Gathering by indices along one axis.

use tenon_kernels::gpu::layout;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] =
    &[Family { domain: "", op_types: &["Gather", "GatherElements"], lower: gather }];

struct Gather {
    axis: usize,
    is_wide: bool,
    /// One index for each element of the result.
    by_element: bool,
}

impl Operator for Gather {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (data, indices) = (cx.dims(0)?, cx.dims(1)?);
        let scalar = cx.scalar(0)?;
        let mut operands = [None, Some(cx.input(0)?), Some(cx.input(1)?)];
        let count: usize = indices.iter().product();
        if data[self.axis] == 0 && count > 0 {
            return Err(Error::invalid("an index into an empty axis"));
        }
        if self.by_element {
            if indices.len() != data.len() {
                return Err(Error::invalid("indices and data differ in rank"));
            }
            operands[0] = Some(cx.output(0, scalar, &indices)?);
            let plan = layout::gather_elements(scalar.bytes(), &data, &indices, self.axis, self.is_wide);
            return cx.run(plan, &operands);
        }
        let (before, after) = (&data[..self.axis], &data[self.axis + 1..]);
        let shape: Vec<usize> = before.iter().chain(&indices).chain(after).copied().collect();
        operands[0] = Some(cx.output(0, scalar, &shape)?);
        let extents = [before.iter().product(), data[self.axis], count, after.iter().product()];
        cx.run(layout::gather_rows(scalar.bytes(), extents, self.is_wide), &operands)
    }
}

fn gather(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let is_wide = match l.scalar(1)? {
        Scalar::I64 => true,
        Scalar::I32 => false,
        other => return Err(Decline(format!("indices of type {}", other.suffix()))),
    };
    let rank = l.rank(0)?;
    if rank == 0 {
        return Err(Decline::new("data of no dimension"));
    }
    let axis = axis_of(l.node.int_or("axis", 0)?, rank)?;
    Ok(Box::new(Gather { axis, is_wide, by_element: l.node.op_type() == "GatherElements" }))
}
