//! Operators that move elements: transposes, slices, joins, splits, repetition, padding.

use tenon_kernels::gpu::index::{self, PadMode};
use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Transpose"], lower: transpose },
    Family { domain: "", op_types: &["Slice"], lower: slice },
    Family { domain: "", op_types: &["Concat"], lower: concat },
    Family { domain: "", op_types: &["Split"], lower: split },
    Family { domain: "", op_types: &["Expand"], lower: expand },
    Family { domain: "", op_types: &["Tile"], lower: tile },
    Family { domain: "", op_types: &["Pad"], lower: pad },
    Family { domain: "", op_types: &["DepthToSpace", "SpaceToDepth"], lower: depth },
];

/// Copies `from`, read with `strides` from element `offset`, into the whole of `to`.
fn gather_into(
    cx: &mut Expansion<'_, '_>,
    to: ValueId,
    from: ValueId,
    dims: &[usize],
    strides: Vec<i64>,
    offset: i64,
) -> Result<()> {
    let copy = StridedCopy {
        element_bytes: cx.builder.scalar(from).bytes(),
        dims: dims.to_vec(),
        from_strides: strides,
        from_offset: offset,
        to_strides: contiguous(dims),
        to_offset: 0,
    };
    cx.run(layout::strided_copy(&copy), &[Some(to), Some(from)])
}

/// Copies the whole of `from` to the block of `to` that starts at `start`.
fn place_into(cx: &mut Expansion<'_, '_>, to: ValueId, from: ValueId, start: &[usize]) -> Result<()> {
    let dims = cx.builder.dims(from).to_vec();
    let strides = contiguous(cx.builder.dims(to));
    let offset = strides.iter().zip(start).map(|(stride, &start)| stride * start as i64).sum();
    let copy = StridedCopy {
        element_bytes: cx.builder.scalar(from).bytes(),
        from_strides: contiguous(&dims),
        dims,
        from_offset: 0,
        to_strides: strides,
        to_offset: offset,
    };
    cx.run(layout::strided_copy(&copy), &[Some(to), Some(from)])
}

struct Transpose(Option<Vec<usize>>);

impl Operator for Transpose {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let dims = cx.dims(0)?;
        let order = self.0.clone().unwrap_or_else(|| (0..dims.len()).rev().collect());
        let own = contiguous(&dims);
        let shape: Vec<usize> = order.iter().map(|&axis| dims[axis]).collect();
        let input = cx.input(0)?;
        // Moving dimensions of 1 about moves no element.
        let moved: Vec<usize> = order.iter().copied().filter(|&axis| dims[axis] != 1).collect();
        if moved.is_sorted() {
            return cx.view(0, input, 0, &shape);
        }
        let output = cx.output(0, cx.scalar(0)?, &shape)?;
        let strides = order.iter().map(|&axis| own[axis]).collect();
        gather_into(cx, output, input, &shape, strides, 0)
    }
}

fn transpose(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let rank = l.rank(0)?;
    let Some(order) = l.node.ints("perm")? else { return Ok(Box::new(Transpose(None))) };
    let order: Vec<usize> =
        order.iter().map(|&axis| axis_of(axis, rank)).collect::<std::result::Result<_, _>>()?;
    if order.len() != rank || (0..rank).any(|axis| !order.contains(&axis)) {
        return Err(Decline(format!("perm {order:?} is not an order of {rank} dimensions")));
    }
    Ok(Box::new(Transpose(Some(order))))
}

/// One axis of a slice, as the operator takes it.
struct Cut {
    axis: usize,
    start: i64,
    end: i64,
    step: i64,
}

struct Slice(Vec<Cut>);

impl Operator for Slice {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let dims = cx.dims(0)?;
        let mut strides = contiguous(&dims);
        let mut shape = dims.clone();
        let mut offset = 0;
        for cut in &self.0 {
            let dim = dims[cut.axis] as i64;
            let from_front = |at: i64| if at < 0 { at.saturating_add(dim) } else { at };
            let (low, high) = if cut.step > 0 { (0, dim) } else { (-1, dim - 1) };
            let start = from_front(cut.start).clamp(low.max(0), high.max(0));
            let end = from_front(cut.end).clamp(low, high);
            let length = if cut.step > 0 { end - start } else { start - end };
            let count = length.max(0).unsigned_abs().div_ceil(cut.step.unsigned_abs());
            shape[cut.axis] = count as usize;
            offset += start * strides[cut.axis];
            strides[cut.axis] *= cut.step;
        }
        let (input, scalar) = (cx.input(0)?, cx.scalar(0)?);
        let total: usize = shape.iter().product();
        // A run of neighbours is a view.
        let own = contiguous(&shape);
        let is_run = strides.iter().zip(&own).zip(&shape).all(|((a, b), &dim)| dim == 1 || a == b);
        let offset_bytes = offset.max(0) as u64 * scalar.bytes() as u64;
        if is_run && total > 0 && offset_bytes.is_multiple_of(16) {
            return cx.view(0, input, offset_bytes, &shape);
        }
        let output = cx.output(0, scalar, &shape)?;
        if total == 0 {
            return Ok(());
        }
        gather_into(cx, output, input, &shape, strides, offset)
    }
}

fn slice(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let rank = l.rank(0)?;
    let is_old = l.node.version() < 10;
    let read = |index: usize, name: &str| -> std::result::Result<Option<Vec<i64>>, Decline> {
        if is_old { Ok(l.node.ints(name)?.map(<[i64]>::to_vec)) } else { l.optional_ints(index) }
    };
    let missing = || Decline::new("starts or ends are missing");
    let starts = read(1, "starts")?.ok_or_else(missing)?;
    let ends = read(2, "ends")?.ok_or_else(missing)?;
    let axes = read(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = if is_old { None } else { l.optional_ints(4)? }.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(Decline::new("starts, ends, axes and steps differ in length"));
    }
    let cuts = (0..starts.len())
        .map(|i| match steps[i] {
            0 => Err(Decline::new("a step is 0")),
            step => Ok(Cut { axis: axis_of(axes[i], rank)?, start: starts[i], end: ends[i], step }),
        })
        .collect::<std::result::Result<_, _>>()?;
    Ok(Box::new(Slice(cuts)))
}

struct Concat {
    axis: usize,
}

impl Operator for Concat {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let mut shape = cx.dims(0)?;
        shape[self.axis] = 0;
        for index in 0..cx.inputs.len() {
            let dims = cx.dims(index)?;
            let differs = |axis: usize| axis != self.axis && dims[axis] != shape[axis];
            if dims.len() != shape.len() || (0..dims.len()).any(differs) {
                return Err(Error::invalid(format!(
                    "input {index} of shape {dims:?} does not fit {shape:?}"
                )));
            }
            shape[self.axis] += dims[self.axis];
        }
        let output = cx.output(0, cx.scalar(0)?, &shape)?;
        let mut start = vec![0; shape.len()];
        for index in 0..cx.inputs.len() {
            let input = cx.input(index)?;
            place_into(cx, output, input, &start)?;
            start[self.axis] += cx.builder.dims(input)[self.axis];
        }
        Ok(())
    }
}

fn concat(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let axis = axis_of(l.node.int_or("axis", if l.node.version() < 4 { 1 } else { 0 })?, l.rank(0)?)?;
    Ok(Box::new(Concat { axis }))
}

struct Split {
    axis: usize,
    sizes: Option<Vec<usize>>,
    count: usize,
}

impl Operator for Split {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let whole = dims[self.axis];
        let part = whole.div_ceil(self.count.max(1));
        let sizes = match &self.sizes {
            Some(sizes) => sizes.clone(),
            None => (0..self.count).map(|i| part.min(whole.saturating_sub(i * part))).collect(),
        };
        if sizes.iter().sum::<usize>() != whole {
            return Err(Error::invalid(format!("parts {sizes:?} do not make up {whole}")));
        }
        let strides = contiguous(&dims);
        let is_outermost = dims[..self.axis].iter().all(|&dim| dim == 1);
        let mut at = 0;
        for (index, size) in sizes.into_iter().enumerate() {
            let mut shape = dims.clone();
            shape[self.axis] = size;
            let offset = at as i64 * strides[self.axis];
            at += size;
            let offset_bytes = offset as u64 * scalar.bytes() as u64;
            if is_outermost && offset_bytes.is_multiple_of(16) {
                cx.view(index, input, offset_bytes, &shape)?;
            } else if cx.has_output(index) {
                let output = cx.output(index, scalar, &shape)?;
                if shape.iter().product::<usize>() > 0 {
                    gather_into(cx, output, input, &shape, strides.clone(), offset)?;
                }
            }
        }
        Ok(())
    }
}

fn split(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let axis = axis_of(l.node.int_or("axis", 0)?, l.rank(0)?)?;
    let sizes = match l.node.ints("split")? {
        Some(sizes) => Some(sizes.to_vec()),
        None => l.optional_ints(1)?,
    };
    let sizes = sizes
        .map(|sizes| {
            sizes.iter().map(|&size| usize::try_from(size)).collect::<std::result::Result<Vec<_>, _>>()
        })
        .transpose()
        .map_err(|_| Decline::new("a part has a negative size"))?;
    let count = l.node.outputs().len();
    Ok(Box::new(Split { axis, sizes, count }))
}

/// Repeats along dimensions: Expand (`shape`, broadcast) or Tile (`repeats`).
enum Repeat {
    Expand(Option<Vec<i64>>),
    Tile(Vec<i64>),
}

impl Operator for Repeat {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        match self {
            Repeat::Expand(shape) => {
                let shape: Option<Vec<usize>> = match shape {
                    Some(shape) => shape.iter().map(|&dim| usize::try_from(dim).ok()).collect(),
                    None => cx.declared_output(0).and_then(|dims| dims.into_iter().collect()),
                };
                let shape =
                    shape.ok_or_else(|| Error::unsupported("the shape is not known before the run"))?;
                let shape = super::elementwise::broadcast(&dims, &shape)?;
                if shape == dims {
                    return cx.view(0, input, 0, &shape);
                }
                let output = cx.output(0, scalar, &shape)?;
                let strides = crate::map::broadcast_strides(&dims, &shape);
                gather_into(cx, output, input, &shape, strides, 0)
            }
            Repeat::Tile(repeats) => {
                // A dimension is repeated as a dimension of stride 0 in front of it.
                let own = contiguous(&dims);
                let (mut shape, mut wide, mut strides) = (Vec::new(), Vec::new(), Vec::new());
                for axis in 0..dims.len() {
                    let repeat = usize::try_from(repeats[axis]).unwrap_or(0);
                    shape.push(dims[axis] * repeat);
                    wide.extend([repeat, dims[axis]]);
                    strides.extend([0, own[axis]]);
                }
                let output = cx.output(0, scalar, &shape)?;
                if shape.iter().product::<usize>() == 0 {
                    return Ok(());
                }
                gather_into(cx, output, input, &wide, strides, 0)
            }
        }
    }
}

fn expand(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    if let Ok(shape) = l.ints(1) {
        return Ok(Box::new(Repeat::Expand(Some(shape))));
    }
    if l.unknown_dims(0)? == 0 {
        return Ok(Box::new(Repeat::Expand(None)));
    }
    Err(Decline::new("the shape is computed during the run"))
}

fn tile(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let repeats = l.ints(1)?;
    if repeats.len() != l.rank(0)? {
        return Err(Decline::new("there is not one repeat for each dimension"));
    }
    Ok(Box::new(Repeat::Tile(repeats)))
}

/// Padding; negative amounts cut.
struct Pad {
    begins: Vec<i64>,
    ends: Vec<i64>,
    /// `None`: with the constant of these bits.
    mode: Option<PadMode>,
    bits: u64,
}

impl Operator for Pad {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let (mut shape, mut inner, mut offset, mut target) = (Vec::new(), Vec::new(), 0, 0);
        let own = contiguous(&dims);
        for (axis, &dim) in dims.iter().enumerate() {
            let size = dim as i64 + self.begins[axis] + self.ends[axis];
            shape.push(usize::try_from(size).map_err(|_| Error::invalid("padding cuts more than there is"))?);
            let cut = (-self.begins[axis]).max(0) + (-self.ends[axis]).max(0);
            inner.push((dim as i64 - cut).max(0) as usize);
            offset += (-self.begins[axis]).max(0) * own[axis];
        }
        let strides = contiguous(&shape);
        for (stride, &begin) in strides.iter().zip(&self.begins) {
            target += begin.max(0) * stride;
        }
        let output = cx.output(0, scalar, &shape)?;
        if let Some(mode) = self.mode {
            let plan = index::pad(scalar.bytes(), &dims, &self.begins, &self.ends, mode);
            return cx.run(plan, &[Some(output), Some(input)]);
        }
        let total: usize = shape.iter().product();
        if inner != shape {
            cx.run(layout::fill(scalar.bytes(), total, self.bits), &[Some(output)])?;
        }
        let copy = StridedCopy {
            element_bytes: scalar.bytes(),
            dims: inner,
            from_strides: own,
            from_offset: offset,
            to_strides: strides,
            to_offset: target,
        };
        cx.run(layout::strided_copy(&copy), &[Some(output), Some(input)])
    }
}

fn pad(l: &Lowering<'_>) -> Lowered {
    let (scalar, rank) = (l.scalar(0)?, l.rank(0)?);
    let mode = match l.node.text_or("mode", "constant")? {
        "constant" => None,
        "edge" => Some(PadMode::Edge),
        "reflect" => Some(PadMode::Reflect),
        "wrap" => Some(PadMode::Wrap),
        other => return Err(Decline(format!("padding of mode '{other}' has no GPU kernel"))),
    };
    let (pads, value) = if l.node.version() < 11 {
        let name = if l.node.version() < 2 { "paddings" } else { "pads" };
        let pads = l.node.ints(name)?.ok_or_else(|| Decline::new("the pads are missing"))?;
        (pads.to_vec(), f64::from(l.node.float_or("value", 0.0)?))
    } else {
        let value = match l.has_input(2) {
            true => l.numbers(2, 1).and_then(|numbers| numbers.first().copied()),
            false => Some(0.0),
        };
        (l.ints(1)?, value.ok_or_else(|| Decline::new("the padding value is not a constant"))?)
    };
    let axes: Vec<usize> = match l.optional_ints(3)? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<std::result::Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Decline::new("there are not two pads for each axis"));
    }
    let (mut begins, mut ends) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        begins[axis] = pads[i];
        ends[axis] = pads[axes.len() + i];
    }
    let bits = element_bits(scalar, value).ok_or_else(|| Decline::new("this type has no padding kernel"))?;
    Ok(Box::new(Pad { begins, ends, mode, bits }))
}

/// The bits of `value` as an element.
fn element_bits(scalar: tenon_kernels::gpu::scalar::Scalar, value: f64) -> Option<u64> {
    use tenon_kernels::gpu::scalar::Scalar;
    Some(match scalar {
        Scalar::F32 => u64::from((value as f32).to_bits()),
        Scalar::F64 => value.to_bits(),
        Scalar::F16 => u64::from(half::f16::from_f64(value).to_bits()),
        Scalar::BF16 => u64::from(half::bf16::from_f64(value).to_bits()),
        Scalar::U64 if value > 9e15 => return None,
        _ => value as i64 as u64,
    })
}

/// Moves blocks between channels and space: a transpose over split dimensions.
struct Depth {
    block: usize,
    to_space: bool,
    is_column_first: bool,
}

impl Operator for Depth {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims, b) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?, self.block);
        let [n, c, h, w] = dims[..] else { return Err(Error::invalid("four dimensions are expected")) };
        let (wide, order, shape) = if self.to_space {
            let depth = c / (b * b);
            let (wide, order) = match self.is_column_first {
                true => ([n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3]),
                false => ([n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]),
            };
            (wide, order, [n, depth, h * b, w * b])
        } else {
            ([n, c, h / b, b, w / b, b], [0, 3, 5, 1, 2, 4], [n, c * b * b, h / b, w / b])
        };
        if wide.iter().product::<usize>() != dims.iter().product::<usize>() {
            return Err(Error::invalid(format!("{dims:?} does not divide into blocks of {b}")));
        }
        let own = contiguous(&wide);
        let output = cx.output(0, scalar, &shape)?;
        let moved: Vec<usize> = order.iter().map(|&axis| wide[axis]).collect();
        gather_into(cx, output, input, &moved, order.iter().map(|&axis| own[axis]).collect(), 0)
    }
}

fn depth(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let block = usize::try_from(l.node.int_or("blocksize", 0)?).ok().filter(|&block| block > 0);
    let block = block.ok_or_else(|| Decline::new("blocksize must be positive"))?;
    let to_space = l.node.op_type() == "DepthToSpace";
    let is_column_first = l.node.text_or("mode", "DCR")? == "CRD";
    if is_column_first && !to_space {
        return Err(Decline::new("columns first have no GPU kernel in this direction"));
    }
    if l.rank(0)? != 4 {
        return Err(Decline::new("four dimensions are expected"));
    }
    Ok(Box::new(Depth { block, to_space, is_column_first }))
}
