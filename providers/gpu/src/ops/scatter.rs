//! Operators that put updates into a tensor: ScatterElements, ScatterND, TensorScatter.

use tenon_kernels::gpu::layout;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::scatter::{self, Reduction};
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator, refused};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Scatter", "ScatterElements", "ScatterND"], lower: scatter },
    Family { domain: "", op_types: &["TensorScatter"], lower: tensor_scatter },
];

struct Scatter {
    /// `None`: tuples of indices.
    axis: Option<usize>,
    is_wide: bool,
    reduction: Option<Reduction>,
}

impl Operator for Scatter {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (data, indices, updates) = (cx.dims(0)?, cx.dims(1)?, cx.dims(2)?);
        let scalar = cx.scalar(0)?;
        let (place, expected) = match self.axis {
            Some(axis) => (scatter::Scatter::elements(&data, &indices, axis, self.is_wide), indices.clone()),
            None => {
                let (&depth, front) =
                    indices.split_last().ok_or_else(|| Error::invalid("the indices have no dimension"))?;
                let rest = data.get(depth..).unwrap_or_default();
                let rows = front.iter().product();
                (scatter::Scatter::slices(&data, rows, depth), front.iter().chain(rest).copied().collect())
            }
        };
        if updates != expected {
            return Err(Error::invalid(format!("updates of shape {updates:?}, expected {expected:?}")));
        }
        let place = place.map_err(refused)?;
        let (from, at, what) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let output = cx.output(0, scalar, &data)?;
        cx.builder.copy(cx.node, output, from);
        if let Some(reduction) = self.reduction {
            return cx.run(place.reduce(scalar, reduction), &[Some(output), Some(at), Some(what)]);
        }
        let marks = cx.scratch(Scalar::U32, &[place.marks()])?;
        cx.run(layout::fill(4, place.marks(), 0), &[Some(marks)])?;
        cx.run(Ok(place.write(scalar.bytes())), &[Some(output), Some(marks), Some(at), Some(what)])
    }
}

fn scatter(l: &Lowering<'_>) -> Lowered {
    let scalar = l.scalar(0)?;
    if scalar.is_packed() {
        return Err(Decline(format!("elements of type {}", scalar.suffix())));
    }
    let is_wide = match l.scalar(1)? {
        Scalar::I64 => true,
        Scalar::I32 => false,
        other => return Err(Decline(format!("indices of type {}", other.suffix()))),
    };
    let by_tuple = l.node.op_type() == "ScatterND";
    if by_tuple && !is_wide {
        return Err(Decline::new("indices of a type other than int64"));
    }
    let rank = l.rank(0)?;
    if rank == 0 {
        return Err(Decline::new("data of no dimension"));
    }
    let axis = if by_tuple { None } else { Some(axis_of(l.node.int_or("axis", 0)?, rank)?) };
    let reduction = match l.node.text_or("reduction", "none")? {
        "none" => None,
        "add" => Some(Reduction::Add),
        "mul" => Some(Reduction::Multiply),
        "max" => Some(Reduction::Max),
        "min" => Some(Reduction::Min),
        other => return Err(Decline(format!("reduction '{other}' is not known"))),
    };
    if let Some(reduction) = reduction {
        let any = scatter::Scatter::slices(&[1], 1, 1).and_then(|place| place.reduce(scalar, reduction));
        any.map_err(|error| Decline(format!("{error} have no GPU kernel")))?;
    }
    Ok(Box::new(Scatter { axis, is_wide, reduction }))
}

struct TensorScatter {
    axis: usize,
    is_circular: bool,
}

impl Operator for TensorScatter {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (cache, update, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let axis = self.axis;
        let differs = |d: usize| if d == axis { update[d] > cache[d] } else { update[d] != cache[d] };
        if update.len() != cache.len() || (0..cache.len()).any(differs) {
            return Err(Error::invalid(format!("an update of shape {update:?} for a cache of {cache:?}")));
        }
        if cx.optional(2).is_some() && cx.dims(2)? != [cache[0]] {
            return Err(Error::invalid(format!(
                "starts of shape {:?} for a batch of {}",
                cx.dims(2)?,
                cache[0]
            )));
        }
        let (from, rows, starts) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        let output = cx.output(0, scalar, &cache)?;
        cx.builder.copy(cx.node, output, from);
        let extents =
            [cache[0], cache[1..axis].iter().product(), update[axis], cache[axis + 1..].iter().product()];
        let plan = scatter::rows(scalar.bytes(), extents, cache[axis], self.is_circular);
        cx.run(plan, &[Some(output), Some(rows), starts])
    }
}

fn tensor_scatter(l: &Lowering<'_>) -> Lowered {
    let scalar = l.scalar(0)?;
    if scalar.is_packed() {
        return Err(Decline(format!("elements of type {}", scalar.suffix())));
    }
    if l.has_input(2) && l.scalar(2)? != Scalar::I64 {
        return Err(Decline::new("starts of a type other than int64"));
    }
    let axis = axis_of(l.node.int_or("axis", -2)?, l.rank(0)?)?;
    if axis == 0 {
        return Err(Decline::new("a cache along the batch"));
    }
    let is_circular = match l.node.text_or("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(Decline(format!("mode '{other}' is not known"))),
    };
    Ok(Box::new(TensorScatter { axis, is_circular }))
}
