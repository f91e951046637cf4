//! Operators along one axis that depend on order: running sums, the best k elements, norms, the place of the largest.

use tenon_kernels::gpu::order::{self, Lines, Scan};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["CumSum", "CumProd"], lower: cumulative },
    Family { domain: "", op_types: &["TopK"], lower: top_k },
    Family { domain: "", op_types: &["LpNormalization"], lower: lp_normalization },
    Family { domain: "", op_types: &["Hardmax"], lower: hardmax },
];

/// What is done with each line along an axis; the result has the input's shape.
enum Along {
    Scan(Scan),
    Normalize(u32),
    Hardmax,
}

struct Line {
    axis: usize,
    /// Dimensions from the axis on count as one.
    joins_rest: bool,
    along: Along,
}

impl Operator for Line {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let output = cx.output(0, scalar, &dims)?;
        let lines = match self.joins_rest {
            true => Lines {
                outer: dims[..self.axis].iter().product(),
                size: dims[self.axis..].iter().product(),
                inner: 1,
            },
            false if dims.is_empty() => Lines { outer: 1, size: 1, inner: 1 },
            false => Lines::new(&dims, self.axis),
        };
        let plan = match self.along {
            Along::Scan(scan) => order::scan(scalar, lines, scan),
            Along::Normalize(p) => order::normalize(scalar, lines, p),
            Along::Hardmax => order::hardmax(scalar, lines),
        };
        cx.run(plan, &[Some(output), Some(input)])
    }
}

fn cumulative(l: &Lowering<'_>) -> Lowered {
    let scalar = l.scalar(0)?;
    // Any shape tells whether there are kernels for the type.
    order::scan(scalar, Lines { outer: 1, size: 1, inner: 1 }, Scan::default())
        .map_err(|error| Decline(format!("{error} have no GPU kernel")))?;
    let axis = match l.ints(1)?[..] {
        [axis] => axis_of(axis, l.rank(0)?)?,
        ref other => return Err(Decline(format!("{} axes instead of one", other.len()))),
    };
    let scan = Scan {
        is_product: l.node.op_type() == "CumProd",
        is_exclusive: l.node.int_or("exclusive", 0)? != 0,
        is_reverse: l.node.int_or("reverse", 0)? != 0,
    };
    Ok(Box::new(Line { axis, joins_rest: false, along: Along::Scan(scan) }))
}

fn lp_normalization(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    let p = match l.node.int_or("p", 2)? {
        p @ (1 | 2) => p as u32,
        other => return Err(Decline(format!("a norm of order {other} has no GPU kernel"))),
    };
    let axis = axis_of(l.node.int_or("axis", -1)?, l.rank(0)?)?;
    Ok(Box::new(Line { axis, joins_rest: false, along: Along::Normalize(p) }))
}

fn hardmax(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    let is_old = l.node.version() < 13;
    let axis = axis_of(l.node.int_or("axis", if is_old { 1 } else { -1 })?, l.rank(0)?)?;
    Ok(Box::new(Line { axis, joins_rest: is_old, along: Along::Hardmax }))
}

struct TopK {
    axis: usize,
    k: usize,
    is_largest: bool,
}

impl Operator for TopK {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, mut dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let lines = match dims.is_empty() {
            true => return Err(Error::invalid("the input has no dimension")),
            false => Lines::new(&dims, self.axis),
        };
        dims[self.axis] = self.k;
        let values = cx.output(0, scalar, &dims)?;
        let indices = cx.output(1, Scalar::I64, &dims)?;
        let plan = order::top_k(scalar, lines, self.k, self.is_largest);
        cx.run(plan, &[Some(values), Some(indices), Some(input)])
    }
}

fn top_k(l: &Lowering<'_>) -> Lowered {
    let scalar = l.scalar(0)?;
    order::top_k(scalar, Lines { outer: 1, size: 1, inner: 1 }, 1, true)
        .map_err(|error| Decline(format!("{error} have no GPU kernel")))?;
    let k = match l.node.version() < 10 {
        true => l.node.int_or("k", -1)?,
        false => *l.ints(1)?.first().ok_or_else(|| Decline::new("k is empty"))?,
    };
    let k = usize::try_from(k).map_err(|_| Decline(format!("the top {k} elements")))?;
    let axis = axis_of(l.node.int_or("axis", -1)?, l.rank(0)?)?;
    Ok(Box::new(TopK { axis, k, is_largest: l.node.int_or("largest", 1)? != 0 }))
}
