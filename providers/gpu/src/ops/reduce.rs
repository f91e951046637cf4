//! Reductions, positions of extremes, and pooling over whole planes.

use tenon_kernels::gpu::reduce::{self, Reduction};
use tenon_kernels::gpu::sampling;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        domain: "",
        op_types: &[
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceSumSquare",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
        ],
        lower: reduction,
    },
    Family { domain: "", op_types: &["GlobalAveragePool", "GlobalMaxPool"], lower: global },
    Family { domain: "", op_types: &["ArgMax", "ArgMin"], lower: position },
];

/// Which axes are reduced.
enum Axes {
    Some(Vec<usize>),
    All,
    /// Every one behind the channels.
    Spatial,
    /// None: the elements are only transformed.
    Empty,
}

struct Reduce {
    op: Reduction,
    axes: Axes,
    keep: bool,
}

impl Operator for Reduce {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let axes: Vec<usize> = match &self.axes {
            Axes::Some(axes) => axes.clone(),
            Axes::All => (0..dims.len()).collect(),
            Axes::Spatial => (2..dims.len()).collect(),
            Axes::Empty => Vec::new(),
        };
        if dims.iter().product::<usize>() == 0 {
            return Err(Error::unsupported("an empty tensor is not reduced on the GPU"));
        }
        let shape = reduced_shape(&dims, &axes, self.keep);
        let output = cx.output(0, scalar, &shape)?;
        let plan = reduce::plan(self.op, scalar, &dims, &axes);
        cx.run(plan, &[Some(output), Some(input)])
    }
}

fn reduced_shape(dims: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    let kept = |axis: usize| match (axes.contains(&axis), keep) {
        (false, _) => Some(dims[axis]),
        (true, true) => Some(1),
        (true, false) => None,
    };
    (0..dims.len()).filter_map(kept).collect()
}

fn reduction(l: &Lowering<'_>) -> Lowered {
    let op = match l.node.op_type() {
        "ReduceSum" => Reduction::Sum,
        "ReduceMean" => Reduction::Mean,
        "ReduceMax" => Reduction::Max,
        "ReduceMin" => Reduction::Min,
        "ReduceProd" => Reduction::Product,
        "ReduceSumSquare" => Reduction::SumSquare,
        "ReduceL1" => Reduction::L1,
        "ReduceL2" => Reduction::L2,
        "ReduceLogSum" => Reduction::LogSum,
        _ => Reduction::LogSumExp,
    };
    let scalar = l.scalar(0)?;
    let is_real = scalar.is_float() || scalar == Scalar::F64;
    let needs_real = matches!(op, Reduction::LogSum | Reduction::LogSumExp | Reduction::L2 | Reduction::Mean);
    if (needs_real && !is_real) || scalar == Scalar::U64 {
        return Err(Decline(format!("elements of type {} have no GPU kernel for this", scalar.suffix())));
    }
    let rank = l.rank(0)?;
    let axes = match l.node.ints("axes")? {
        Some(axes) => Some(axes.to_vec()),
        None => l.optional_ints(1)?,
    };
    let axes = match axes {
        Some(axes) if !axes.is_empty() => {
            let mut axes: Vec<usize> =
                axes.iter().map(|&axis| axis_of(axis, rank)).collect::<std::result::Result<_, _>>()?;
            axes.sort_unstable();
            axes.dedup();
            Axes::Some(axes)
        }
        _ if l.node.int_or("noop_with_empty_axes", 0)? != 0 => Axes::Empty,
        _ => Axes::All,
    };
    Ok(Box::new(Reduce { op, axes, keep: l.node.int_or("keepdims", 1)? != 0 }))
}

fn global(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    let op = if l.node.op_type() == "GlobalMaxPool" { Reduction::Max } else { Reduction::Mean };
    Ok(Box::new(Reduce { op, axes: Axes::Spatial, keep: true }))
}

/// Elements from which on many threads look through one row.
const LONG_ROW: usize = 256;

struct Position {
    is_max: bool,
    axis: usize,
    keep: bool,
    is_last: bool,
}

impl Operator for Position {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        if dims[self.axis] == 0 {
            return Err(Error::invalid("an empty axis has no extreme"));
        }
        let output = cx.output(0, Scalar::I64, &reduced_shape(&dims, &[self.axis], self.keep))?;
        let columns: usize = dims[self.axis];
        let is_row = columns >= LONG_ROW && dims[self.axis + 1..].iter().all(|&dim| dim == 1);
        let plan = match is_row && self.is_max && !self.is_last && scalar.is_float() {
            true => sampling::largest(scalar, dims.iter().product::<usize>() / columns, columns),
            false => reduce::extreme(self.is_max, scalar, &dims, self.axis, self.is_last),
        };
        cx.run(plan, &[Some(output), Some(input)])
    }
}

fn position(l: &Lowering<'_>) -> Lowered {
    let (scalar, rank) = (l.scalar(0)?, l.rank(0)?);
    if scalar == Scalar::U64 || rank == 0 {
        return Err(Decline(format!("elements of type {} have no GPU kernel for this", scalar.suffix())));
    }
    Ok(Box::new(Position {
        is_max: l.node.op_type() == "ArgMax",
        axis: axis_of(l.node.int_or("axis", 0)?, rank)?,
        keep: l.node.int_or("keepdims", 1)? != 0,
        is_last: l.node.int_or("select_last_index", 0)? != 0,
    }))
}
