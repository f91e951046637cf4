//! Operators that pick elements by their index: triangles, one-hot rows, reversed sequences, slices at tuples.

use tenon_kernels::gpu::index;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Trilu"], lower: trilu },
    Family { domain: "", op_types: &["OneHot"], lower: one_hot },
    Family { domain: "", op_types: &["ReverseSequence"], lower: reverse_sequence },
    Family { domain: "", op_types: &["GatherND"], lower: gather_nd },
];

struct Trilu {
    diagonal: i32,
    is_upper: bool,
}

impl Operator for Trilu {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let [batch @ .., rows, columns] = dims.as_slice() else {
            return Err(Error::invalid(format!("{dims:?} holds no matrices")));
        };
        let extents = [batch.iter().product(), *rows, *columns];
        let output = cx.output(0, scalar, &dims)?;
        let plan = index::triangle(scalar.bytes(), extents, self.diagonal, self.is_upper);
        cx.run(plan, &[Some(output), Some(input)])
    }
}

fn trilu(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let diagonal = match l.optional_ints(1)? {
        None => 0,
        Some(k) => *k.first().ok_or_else(|| Decline::new("the diagonal is empty"))?,
    };
    let bound = i64::from(i32::MAX);
    let diagonal = diagonal.clamp(-bound, bound) as i32;
    Ok(Box::new(Trilu { diagonal, is_upper: l.node.int_or("upper", 1)? != 0 }))
}

struct OneHot {
    axis: i64,
    depth: usize,
}

impl Operator for OneHot {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (indices, index, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let (values, scalar) = (cx.input(2)?, cx.scalar(2)?);
        if cx.dims(2)? != [2] {
            return Err(Error::invalid(format!("values of shape {:?}, expected [2]", cx.dims(2)?)));
        }
        let axis = axis_of(self.axis, dims.len() + 1).map_err(|Decline(reason)| Error::invalid(reason))?;
        let mut shape = dims.clone();
        shape.insert(axis, self.depth);
        let extents = [dims[..axis].iter().product(), self.depth, dims[axis..].iter().product()];
        let output = cx.output(0, scalar, &shape)?;
        let plan = index::one_hot(scalar.bytes(), index, extents);
        cx.run(plan, &[Some(output), Some(indices), Some(values)])
    }
}

fn one_hot(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    l.scalar(2)?;
    let depth = l.numbers(1, 1).and_then(|numbers| numbers.first().copied());
    let depth = depth.ok_or_else(|| Decline::new("the depth is not a constant"))?;
    if depth < 0.0 || depth >= f64::from(i32::MAX) {
        return Err(Decline(format!("a depth of {depth}")));
    }
    Ok(Box::new(OneHot { axis: l.node.int_or("axis", -1)?, depth: depth as usize }))
}

struct ReverseSequence {
    is_time_first: bool,
}

impl Operator for ReverseSequence {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, lengths, scalar, dims) = (cx.input(0)?, cx.input(1)?, cx.scalar(0)?, cx.dims(0)?);
        let [first, second, rest @ ..] = dims.as_slice() else {
            return Err(Error::invalid(format!("{dims:?} has no time and batch")));
        };
        let (steps, batch) = if self.is_time_first { (*first, *second) } else { (*second, *first) };
        if cx.dims(1)? != [batch] {
            return Err(Error::invalid(format!("lengths of shape {:?} for a batch of {batch}", cx.dims(1)?)));
        }
        let extents = [steps, batch, rest.iter().product()];
        let output = cx.output(0, scalar, &dims)?;
        let plan = index::reverse_sequence(scalar.bytes(), extents, self.is_time_first);
        cx.run(plan, &[Some(output), Some(input), Some(lengths)])
    }
}

fn reverse_sequence(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    if l.scalar(1)? != Scalar::I64 {
        return Err(Decline::new("lengths of a type other than int64"));
    }
    match (l.node.int_or("time_axis", 0)?, l.node.int_or("batch_axis", 1)?) {
        (0, 1) => Ok(Box::new(ReverseSequence { is_time_first: true })),
        (1, 0) => Ok(Box::new(ReverseSequence { is_time_first: false })),
        (time, batch) => Err(Decline(format!("time along axis {time} and batch along axis {batch}"))),
    }
}

struct GatherNd {
    batch_rank: usize,
}

impl Operator for GatherNd {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (data, indices) = (cx.dims(0)?, cx.dims(1)?);
        let scalar = cx.scalar(0)?;
        let (batch, wrong) =
            (self.batch_rank, || Error::invalid(format!("indices of shape {indices:?} into {data:?}")));
        let (&depth, front) = indices.split_last().ok_or_else(wrong)?;
        if front.len() < batch || batch + depth > data.len() || front[..batch] != data[..batch] {
            return Err(wrong());
        }
        let rows = front[batch..].iter().product();
        let shape: Vec<usize> = front.iter().chain(&data[batch + depth..]).copied().collect();
        let operands = [Some(cx.output(0, scalar, &shape)?), Some(cx.input(0)?), Some(cx.input(1)?)];
        cx.run(index::gather_nd(scalar.bytes(), &data, batch, rows, depth), &operands)
    }
}

fn gather_nd(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    if l.scalar(1)? != Scalar::I64 {
        return Err(Decline::new("indices of a type other than int64"));
    }
    let batch_rank = usize::try_from(l.node.int_or("batch_dims", 0)?);
    Ok(Box::new(GatherNd { batch_rank: batch_rank.map_err(|_| Decline::new("batch_dims is negative"))? }))
}
