//! Pad: constant, reflect, edge and wrap.

use smallvec::SmallVec;
use tenon_kernels::parallel::{SharedMut, for_each_range};

use super::cells::rearrange;
use super::mover::fill;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Pad", 1, 10, pad_1),
    Operator::onnx("Pad", 11, NEWEST, pad_11),
    Operator::of("com.microsoft", "Pad", pad_11),
];

/// Work given to one thread at least, in bytes.
const GRAIN_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

impl Mode {
    fn of(node: &Node) -> Result<Mode> {
        match node.string("mode", "constant")? {
            "constant" => Ok(Mode::Constant),
            "reflect" => Ok(Mode::Reflect),
            "edge" => Ok(Mode::Edge),
            "wrap" => Ok(Mode::Wrap),
            other => Err(OpError::invalid(format!("attribute 'mode' of Pad is unknown: {other}"))),
        }
    }

    /// Where position `at` of an axis of `len` reads, `at` counted from the axis's first element. `None`: the constant.
    fn source(self, at: isize, len: isize) -> Option<isize> {
        if (0..len).contains(&at) {
            return Some(at);
        }
        match self {
            Mode::Constant => None,
            Mode::Edge => Some(at.clamp(0, len - 1)),
            Mode::Wrap => Some(at.rem_euclid(len)),
            Mode::Reflect if len == 1 => Some(0),
            Mode::Reflect => {
                let period = 2 * (len - 1);
                let phase = at.rem_euclid(period);
                Some(phase.min(period - phase))
            }
        }
    }
}

struct Pad {
    mode: Mode,
    /// The attributes before opset 11: all begins, then all ends, and the value.
    fixed: Option<(SmallVec<[i64; 8]>, f32)>,
}

fn pad_1(node: &Node) -> Result<Box<dyn Kernel>> {
    let name = if node.version == 1 { "paddings" } else { "pads" };
    let pads = node.ints(name)?.ok_or_else(|| OpError::invalid(format!("attribute '{name}' is missing")))?;
    Ok(Box::new(Pad { mode: Mode::of(node)?, fixed: Some((pads.into(), node.float("value", 0.0)?)) }))
}

fn pad_11(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Pad { mode: Mode::of(node)?, fixed: None }))
}

/// One axis of the padding: how the output's positions map to the input's.
struct Axis {
    len: usize,
    /// Output positions before the kept part of the input.
    before: usize,
    /// First kept element and the number of them.
    first: usize,
    kept: usize,
}

impl Axis {
    fn new(len: usize, begin: i64, end: i64, mode: Mode) -> Result<Axis> {
        let error = || OpError::invalid(format!("cannot pad an axis of {len} by {begin} and {end}"));
        let crop = |pad: i64| usize::try_from(pad.min(0).unsigned_abs()).map_err(|_| error());
        let grow = |pad: i64| usize::try_from(pad.max(0)).map_err(|_| error());
        let first = crop(begin)?;
        let kept = len.checked_sub(first).and_then(|n| n.checked_sub(crop(end).ok()?)).ok_or_else(error)?;
        let (before, after) = (grow(begin)?, grow(end)?);
        let total = kept.checked_add(before).and_then(|n| n.checked_add(after)).ok_or_else(error)?;
        if mode != Mode::Constant && kept == 0 && total > 0 {
            return Err(error());
        }
        Ok(Axis { len: total, before, first, kept })
    }

    /// The input position that output position `at` reads.
    fn source(&self, at: usize, mode: Mode) -> Option<usize> {
        let inner = mode.source(at as isize - self.before as isize, self.kept as isize)?;
        Some(self.first + inner as usize)
    }
}

impl Pad {
    fn axes(&self, cx: &Context<'_>, dims: &[usize]) -> Result<SmallVec<[Axis; 6]>> {
        let given;
        let pads = match &self.fixed {
            Some((pads, _)) => pads,
            None => {
                given = cx.input(1)?.to_i64s()?;
                &given
            }
        };
        let named: Dims = match cx.optional(3) {
            Some(axes) if self.fixed.is_none() => shape::axes(&axes.to_i64s()?, dims.len())?,
            _ => (0..dims.len()).collect(),
        };
        if pads.len() != 2 * named.len() {
            return Err(OpError::invalid(format!("expected {} pads, got {}", 2 * named.len(), pads.len())));
        }
        let pads_of = |axis: usize| match named.iter().position(|&other| other == axis) {
            Some(i) => (pads[i], pads[i + named.len()]),
            None => (0, 0),
        };
        dims.iter()
            .enumerate()
            .map(|(i, &len)| Axis::new(len, pads_of(i).0, pads_of(i).1, self.mode))
            .collect()
    }

    /// The value of the attribute in the data's type.
    fn fixed_value(&self, dtype: DType) -> Result<SmallVec<[u8; 16]>> {
        let value = self.fixed.as_ref().map_or(0.0, |(_, value)| *value);
        Ok(match dtype {
            DType::F32 => value.to_le_bytes().as_slice().into(),
            DType::F64 => f64::from(value).to_le_bytes().as_slice().into(),
            DType::F16 => half::f16::from_f32(value).to_le_bytes().as_slice().into(),
            _ if value == 0.0 => SmallVec::from_elem(0, super::cells::cell_bytes(dtype)),
            other => {
                return Err(OpError::unsupported(format!("Pad of {other} with a value before opset 11")));
            }
        })
    }
}

impl Kernel for Pad {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let data = cx.input(0)?;
        let (dtype, dims): (DType, Dims) = (data.dtype(), data.dims().into());
        let axes = self.axes(cx, &dims)?;
        let result: Dims = axes.iter().map(|axis| axis.len).collect();
        let value = cx.optional(2).filter(|value| self.fixed.is_none() && !value.is_empty());
        if value.is_some_and(|value: &Tensor| value.len() != 1) {
            return Err(OpError::invalid("constant_value must be one element"));
        }
        let inputs: &[usize] = if value.is_some() { &[0, 2] } else { &[0] };
        let attribute = self.fixed_value(dtype)?;
        let (mode, parallel) = (self.mode, cx.parallel());
        rearrange(cx, inputs, 0, &result, |sources, destination, cell| {
            let value = sources.get(1).map_or(attribute.as_slice(), |value| &value[..cell]);
            pad_into(parallel, mode, &axes, &dims, cell, value, sources[0], destination);
            Ok(())
        })
    }
}

/// Fills `destination` row by row; a row runs along the last padded axis, in steps of all the axes after it.
fn pad_into(
    parallel: &dyn tenon_kernels::Parallel,
    mode: Mode,
    axes: &[Axis],
    dims: &[usize],
    cell: usize,
    value: &[u8],
    source: &[u8],
    destination: &mut [u8],
) {
    if destination.is_empty() {
        return;
    }
    let padded = |axis: usize| axes[axis].kept != dims[axis] || axes[axis].len != dims[axis];
    let Some(last) = (0..axes.len()).rfind(|&axis| padded(axis)) else {
        return destination.copy_from_slice(source);
    };
    let step = cell * dims[last + 1..].iter().product::<usize>();
    let row = axes[last].len * step;
    let strides = shape::strides(&dims[..=last]);
    let rows = destination.len() / row;
    let shared = SharedMut::new(destination);
    for_each_range(parallel, rows, GRAIN_BYTES.div_ceil(row), 1, &|range| {
        for index in range {
            // SAFETY: rows are disjoint.
            let to = unsafe { shared.slice(index * row..(index + 1) * row) };
            let mut flat = index;
            let mut from = Some(0);
            for axis in (0..last).rev() {
                let at = axes[axis].source(flat % axes[axis].len, mode);
                flat /= axes[axis].len;
                from = from.zip(at).map(|(from, at)| from + at * strides[axis]);
            }
            match from {
                None => fill(to, value),
                Some(from) => pad_row(mode, &axes[last], step, value, &source[from * step..], to),
            }
        }
    });
}

/// One row: the border before, the kept part, the border after.
fn pad_row(mode: Mode, axis: &Axis, step: usize, value: &[u8], source: &[u8], to: &mut [u8]) {
    let after = axis.before + axis.kept;
    to[axis.before * step..after * step].copy_from_slice(&source[axis.first * step..][..axis.kept * step]);
    if mode == Mode::Constant {
        fill(&mut to[..axis.before * step], value);
        return fill(&mut to[after * step..], value);
    }
    for at in (0..axis.before).chain(after..axis.len) {
        let from = axis.source(at, mode).expect("only the constant mode has no source");
        to[at * step..][..step].copy_from_slice(&source[from * step..][..step]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    fn padded(mode: &str, x: Tensor, pads: &[i64], value: Option<Tensor>) -> Result<Tensor> {
        let attributes = [("mode", Attribute::String(mode.into()))];
        let inputs = [Some(x), Some(tensor(&[pads.len()], pads)), value];
        run(&node("", "Pad", 19, &attributes, 1), &inputs).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn borders_longer_than_the_axis_repeat_it() {
        let x = || tensor(&[3], &[1i32, 2, 3]);
        let values = |mode: &str, pads: &[i64]| {
            padded(mode, x(), pads, None).unwrap().as_slice::<i32>().unwrap().to_vec()
        };
        assert_eq!(values("reflect", &[3, 5]), [2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2]);
        assert_eq!(values("wrap", &[4, 4]), [3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(values("edge", &[2, 1]), [1, 1, 1, 2, 3, 3]);
        assert_eq!(values("reflect", &[-1, 2]), [2, 3, 2, 3]);
        assert_eq!(values("constant", &[-2, -1]), [0i32; 0]);
    }

    #[test]
    fn the_constant_surrounds_and_negative_pads_crop() {
        let x = tensor(&[2, 2], &[1f64, 2.0, 3.0, 4.0]);
        let output = padded("constant", x, &[1, -1, 0, 2], Some(tensor(&[], &[9f64]))).unwrap();
        assert_eq!(output.dims(), [3, 3]);
        assert_eq!(output.as_slice::<f64>().unwrap(), [9., 9., 9., 2., 9., 9., 4., 9., 9.]);
    }

    #[test]
    fn strings_are_padded_with_a_string_or_nothing() {
        let x = || strings(&[1], &["ab"]);
        let output = padded("constant", x(), &[1, 1], Some(strings(&[], &["xyz"]))).unwrap();
        assert_eq!(output.as_bytes(), strings(&[3], &["xyz", "ab", "xyz"]).as_bytes());
        let output = padded("constant", x(), &[0, 1], None).unwrap();
        assert_eq!(output.as_bytes(), strings(&[2], &["ab", ""]).as_bytes());
    }

    #[test]
    fn impossible_pads_are_errors() {
        assert!(padded("constant", tensor(&[2], &[1u8, 2]), &[-2, -1], None).is_err());
        assert!(padded("edge", tensor::<u8>(&[0], &[]), &[1, 0], None).is_err());
        assert!(padded("edge", tensor(&[1], &[1u8]), &[1], None).is_err());
        assert!(padded("constant", tensor(&[1], &[1u8]), &[i64::MAX, i64::MAX], None).is_err());
    }
}
