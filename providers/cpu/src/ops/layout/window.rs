//! Operators whose output is a window on their input or a repetition of it: Slice, Expand, Tile, CenterCropPad,
//! ReverseSequence and com.microsoft's UnfoldTensor.

use smallvec::SmallVec;

use super::cells::rearrange;
use super::mover::{self, Side, Strides, strides_of};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Slice", 1, 9, slice_1),
    Operator::onnx("Slice", 10, NEWEST, |_| Ok(Box::new(Slice { fixed: None }))),
    Operator::onnx("Expand", 8, NEWEST, |_| Ok(Box::new(Expand))),
    Operator::onnx("Tile", 1, 5, |_| Ok(Box::new(Tile { one_axis: true }))),
    Operator::onnx("Tile", 6, NEWEST, |_| Ok(Box::new(Tile { one_axis: false }))),
    Operator::onnx("CenterCropPad", 18, NEWEST, center_crop_pad),
    Operator::onnx("ReverseSequence", 10, NEWEST, reverse_sequence),
    Operator::of("com.microsoft", "UnfoldTensor", unfold),
];

type Ints = SmallVec<[i64; 8]>;

/// What a slice takes of each named axis.
struct Bounds {
    starts: Ints,
    ends: Ints,
    axes: Option<Ints>,
    steps: Option<Ints>,
}

struct Slice {
    /// The attributes of opset 1; later the bounds are inputs.
    fixed: Option<Bounds>,
}

fn slice_1(node: &Node) -> Result<Box<dyn Kernel>> {
    let required = |name: &str| {
        let list =
            node.ints(name)?.ok_or_else(|| OpError::invalid(format!("attribute '{name}' is missing")))?;
        Ok::<_, OpError>(Ints::from_slice(list))
    };
    let axes = node.ints("axes")?.map(Ints::from_slice);
    let bounds = Bounds { starts: required("starts")?, ends: required("ends")?, axes, steps: None };
    Ok(Box::new(Slice { fixed: Some(bounds) }))
}

impl Kernel for Slice {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = cx.input(0)?.dims().into();
        let given;
        let bounds = match &self.fixed {
            Some(bounds) => bounds,
            None => {
                let list = |index: usize| cx.optional(index).map(Tensor::to_i64s).transpose();
                let (starts, ends) = (cx.input(1)?.to_i64s()?, cx.input(2)?.to_i64s()?);
                given = Bounds { starts, ends, axes: list(3)?, steps: list(4)? };
                &given
            }
        };
        let window = Window::of(&dims, bounds)?;
        if window.dims == dims && window.strides == strides_of(&dims) {
            return cx.forward(0, 0, &dims);
        }
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &window.dims, |sources, destination, cell| {
            let from = Side { start: window.start, strides: &window.strides };
            let to = Side { start: 0, strides: &strides_of(&window.dims) };
            mover::copy(parallel, cell, &window.dims, from, sources[0], to, destination)
        })
    }
}

/// A strided box inside a tensor.
struct Window {
    dims: Dims,
    start: usize,
    strides: Strides,
}

impl Window {
    fn of(dims: &[usize], bounds: &Bounds) -> Result<Window> {
        let count = bounds.starts.len();
        let of_count = |list: &Option<Ints>| list.as_ref().is_none_or(|list| list.len() == count);
        if bounds.ends.len() != count || !of_count(&bounds.axes) || !of_count(&bounds.steps) {
            return Err(OpError::invalid(
                "starts, ends, axes and steps of a slice must have the same length",
            ));
        }
        let axes = match &bounds.axes {
            Some(axes) => shape::axes(axes, dims.len())?,
            None if count <= dims.len() => (0..count).collect(),
            None => {
                return Err(OpError::invalid(format!(
                    "{count} starts for the {} dimensions of data",
                    dims.len()
                )));
            }
        };
        let mut window = Window { dims: dims.into(), start: 0, strides: strides_of(dims) };
        for (i, &axis) in axes.iter().enumerate() {
            let step = bounds.steps.as_ref().map_or(1, |steps| steps[i]);
            let (first, length) = span(bounds.starts[i], bounds.ends[i], step, dims[axis])?;
            if length > 0 {
                window.start += first * window.strides[axis] as usize;
            }
            window.dims[axis] = length;
            window.strides[axis] = window.strides[axis].saturating_mul(step as isize);
        }
        Ok(window)
    }
}

/// First index and number of elements of `start:end:step` on an axis of `len`.
fn span(start: i64, end: i64, step: i64, len: usize) -> Result<(usize, usize)> {
    let n = len as i64;
    let absolute = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
    let (start, end) = (absolute(start), absolute(end));
    let (start, end) = match step {
        0 => return Err(OpError::invalid("the step of a slice must not be 0")),
        1.. => (start.clamp(0, n), end.clamp(0, n)),
        _ if n == 0 => (0, 0),
        _ => (start.clamp(0, n - 1), end.clamp(-1, n - 1)),
    };
    let distance = if step > 0 { end - start } else { start - end };
    let length = if distance <= 0 { 0 } else { (distance as u64).div_ceil(step.unsigned_abs()) };
    Ok((start.max(0) as usize, length as usize))
}

struct Expand;

impl Kernel for Expand {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = cx.input(0)?.dims().into();
        let shape = sizes(&cx.input(1)?.to_i64s()?)?;
        let expanded = shape::broadcast(&dims, &shape)?;
        if expanded == dims {
            return cx.forward(0, 0, &dims);
        }
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &expanded, |sources, destination, cell| {
            let strides: Strides =
                shape::broadcast_strides(&dims, &expanded).iter().map(|&s| s as isize).collect();
            let (from, to) =
                (Side { start: 0, strides: &strides }, Side { start: 0, strides: &strides_of(&expanded) });
            mover::copy(parallel, cell, &expanded, from, sources[0], to, destination)
        })
    }
}

/// Integers as sizes; negative ones are an error.
pub fn sizes(values: &[i64]) -> Result<Dims> {
    let sizes: Option<Dims> = values.iter().map(|&value| usize::try_from(value).ok()).collect();
    sizes.ok_or_else(|| OpError::invalid(format!("sizes must not be negative, got {values:?}")))
}

struct Tile {
    /// Opset 1 repeats along one axis, given as scalars in the data's type.
    one_axis: bool,
}

impl Kernel for Tile {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = cx.input(0)?.dims().into();
        let repeats = if self.one_axis {
            let scalar = |index: usize| -> Result<i64> {
                let input = cx.input(index)?;
                match input.as_slice::<f32>() {
                    Ok(&[value]) => Ok(value as i64),
                    _ => match input.to_i64s()?.as_slice() {
                        &[value] => Ok(value),
                        _ => Err(OpError::invalid("tiles and axis must each be one number")),
                    },
                }
            };
            let mut repeats = Dims::from_elem(1, dims.len());
            repeats[shape::axis(scalar(2)?, dims.len())?] = sizes(&[scalar(1)?])?[0];
            repeats
        } else {
            sizes(&cx.input(1)?.to_i64s()?)?
        };
        if repeats.len() != dims.len() {
            return Err(OpError::invalid(format!(
                "{} repeats for the {} dimensions of input",
                repeats.len(),
                dims.len()
            )));
        }
        let tiled: Option<Dims> =
            dims.iter().zip(&repeats).map(|(&dim, &times)| dim.checked_mul(times)).collect();
        let tiled = tiled.ok_or_else(|| OpError::invalid(format!("repeats {repeats:?} are too large")))?;
        if tiled == dims {
            return cx.forward(0, 0, &dims);
        }
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &tiled, |sources, destination, cell| {
            let pairs: Dims = repeats.iter().zip(&dims).flat_map(|(&times, &dim)| [times, dim]).collect();
            let strides: Strides = strides_of(&dims).iter().flat_map(|&stride| [0, stride]).collect();
            let (from, to) =
                (Side { start: 0, strides: &strides }, Side { start: 0, strides: &strides_of(&pairs) });
            mover::copy(parallel, cell, &pairs, from, sources[0], to, destination)
        })
    }
}

struct CenterCropPad {
    axes: Option<Ints>,
}

fn center_crop_pad(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(CenterCropPad { axes: node.ints("axes")?.map(Ints::from_slice) }))
}

impl Kernel for CenterCropPad {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = cx.input(0)?.dims().into();
        let wanted = sizes(&cx.input(1)?.to_i64s()?)?;
        let axes = match &self.axes {
            Some(axes) => shape::axes(axes, dims.len())?,
            None => (0..dims.len()).collect(),
        };
        if wanted.len() != axes.len() {
            return Err(OpError::invalid(format!("{} sizes for {} axes", wanted.len(), axes.len())));
        }
        let (mut result, mut kept) = (dims.clone(), dims.clone());
        let (mut from_start, mut to_start) = (0, 0);
        let own = shape::strides(&dims);
        for (&axis, &size) in axes.iter().zip(&wanted) {
            result[axis] = size;
            kept[axis] = size.min(dims[axis]);
        }
        let target = strides_of(&result);
        for &axis in &axes {
            from_start += dims[axis].saturating_sub(result[axis]) / 2 * own[axis];
            to_start += result[axis].saturating_sub(dims[axis]) / 2 * target[axis] as usize;
        }
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &result, |sources, destination, cell| {
            if kept != result {
                destination.fill(0);
            }
            let from = Side { start: from_start, strides: &strides_of(&dims) };
            let to = Side { start: to_start, strides: &target };
            mover::copy(parallel, cell, &kept, from, sources[0], to, destination)
        })
    }
}

/// Every run of `size` elements along an axis, `step` apart; the runs lie along a new last axis.
struct Unfold {
    axis: i64,
    size: usize,
    step: usize,
}

fn unfold(node: &Node) -> Result<Box<dyn Kernel>> {
    let positive = |name: &str, value: i64| {
        let found = usize::try_from(value).ok().filter(|&value| value > 0);
        found.ok_or_else(|| OpError::invalid(format!("attribute '{name}' must be positive, got {value}")))
    };
    let size = positive("size", node.required_int("size")?)?;
    Ok(Box::new(Unfold { axis: node.int("dim", -1)?, size, step: positive("step", node.int("step", 1)?)? }))
}

impl Kernel for Unfold {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let mut dims: Dims = cx.input(0)?.dims().into();
        let axis = shape::axis(self.axis, dims.len())?;
        if dims[axis] < self.size {
            return Err(OpError::invalid(format!(
                "runs of {} elements do not fit axis {axis} of shape {dims:?}",
                self.size
            )));
        }
        let mut strides = strides_of(&dims);
        strides.push(strides[axis]);
        strides[axis] *= self.step as isize;
        dims[axis] = (dims[axis] - self.size) / self.step + 1;
        dims.push(self.size);
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &dims, |sources, destination, cell| {
            let (from, to) =
                (Side { start: 0, strides: &strides }, Side { start: 0, strides: &strides_of(&dims) });
            mover::copy(parallel, cell, &dims, from, sources[0], to, destination)
        })
    }
}

struct ReverseSequence {
    time_axis: i64,
    batch_axis: i64,
}

fn reverse_sequence(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(ReverseSequence {
        time_axis: node.int("time_axis", 0)?,
        batch_axis: node.int("batch_axis", 1)?,
    }))
}

impl Kernel for ReverseSequence {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = cx.input(0)?.dims().into();
        let axes = shape::axes(&[self.time_axis, self.batch_axis], dims.len())?;
        if axes.iter().any(|&axis| axis > 1) {
            return Err(OpError::invalid("time_axis and batch_axis must be 0 and 1"));
        }
        let (time, batch) = (dims[axes[0]], dims[axes[1]]);
        let lengths = sizes(&cx.input(1)?.to_i64s()?)?;
        if lengths.len() != batch || lengths.iter().any(|&length| length > time) {
            return Err(OpError::invalid(format!(
                "expected {batch} sequence lengths of at most {time}, got {lengths:?}"
            )));
        }
        let parallel = cx.parallel();
        let row: usize = dims[2..].iter().product();
        let second = dims[1];
        let time_first = axes[0] == 0;
        rearrange(cx, &[0], 0, &dims, |sources, destination, cell| {
            mover::copy_rows(parallel, row * cell, sources[0], destination, |i| {
                let (first, then) = (i / second, i % second);
                let (t, b) = if time_first { (first, then) } else { (then, first) };
                let from = if t < lengths[b] { lengths[b] - 1 - t } else { t };
                if time_first { from * second + b } else { b * second + from }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::tensor::DType;
    use crate::testing::{blank, node, run, tensor};

    #[test]
    fn spans_are_clamped_to_the_axis() {
        assert_eq!(span(-1, i64::MIN, -1, 5).unwrap(), (4, 5));
        assert_eq!(span(0, i64::MAX, 3, 5).unwrap(), (0, 2));
        assert_eq!(span(3, 1, 1, 5).unwrap().1, 0);
        assert_eq!(span(9, -9, -2, 5).unwrap(), (4, 3));
        assert_eq!(span(i64::MIN, -9, -1, 5).unwrap(), (0, 1));
        assert_eq!(span(0, 5, 1, 0).unwrap().1, 0);
        assert_eq!(span(-1, -5, -1, 0).unwrap().1, 0);
        assert_eq!(span(0, i64::MAX, i64::MAX, 5).unwrap(), (0, 1));
        assert_eq!(span(4, i64::MIN, i64::MIN, 5).unwrap(), (4, 1));
        assert!(span(0, 1, 0, 5).is_err());
    }

    #[test]
    fn slice_steps_backwards_over_two_axes() {
        let x: Vec<u16> = (0..24).collect();
        let list = |values: &[i64]| Some(tensor(&[values.len()], values));
        let inputs = [
            Some(tensor(&[2, 3, 4], &x)),
            list(&[-1, 0]),
            list(&[i64::MIN, 9]),
            list(&[-1, 1]),
            list(&[-2, 2]),
        ];
        let output = run(&node("", "Slice", 13, &[], 1), &inputs).unwrap().remove(0);
        assert_eq!(output.dims(), [2, 2, 2]);
        assert_eq!(output.as_slice::<u16>().unwrap(), [3, 1, 11, 9, 15, 13, 23, 21]);
    }

    #[test]
    fn expand_broadcasts_both_ways_and_to_nothing() {
        let x = Some(tensor(&[3, 1], &[1f32, 2.0, 3.0]));
        let expand = |shape: &[i64]| {
            run(&node("", "Expand", 13, &[], 1), &[x.clone(), Some(tensor(&[shape.len()], shape))])
                .map(|mut o| o.remove(0))
        };
        let output = expand(&[2, 1, 2]).unwrap();
        assert_eq!(output.dims(), [2, 3, 2]);
        assert_eq!(output.as_slice::<f32>().unwrap(), [1., 1., 2., 2., 3., 3., 1., 1., 2., 2., 3., 3.]);
        assert_eq!(expand(&[0]).unwrap().dims(), [3, 0]);
        assert!(expand(&[-1]).is_err());
        assert!(expand(&[4, 1]).is_err());
    }

    #[test]
    fn packed_elements_are_tiled() {
        let mut x = blank(DType::U4, &[3]);
        x.as_bytes_mut().copy_from_slice(&[0x21, 0x03]);
        let output = run(&node("", "Tile", 13, &[], 1), &[Some(x), Some(tensor(&[1], &[2i64]))]).unwrap();
        assert_eq!(output[0].as_bytes(), [0x21, 0x13, 0x32]);
    }

    #[test]
    fn center_crop_pad_crops_one_axis_and_pads_the_other() {
        let x: Vec<i32> = (1..=10).collect();
        let inputs = [Some(tensor(&[5, 2], &x)), Some(tensor(&[2], &[2i64, 5]))];
        let output = run(&node("", "CenterCropPad", 18, &[], 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<i32>().unwrap(), [0, 3, 4, 0, 0, 0, 5, 6, 0, 0]);
    }

    #[test]
    fn sequences_are_reversed_up_to_their_length() {
        let x: Vec<i64> = (0..6).collect();
        let inputs = [Some(tensor(&[2, 3], &x)), Some(tensor(&[2], &[3i64, 2]))];
        let attributes = [("time_axis", Attribute::Int(1)), ("batch_axis", Attribute::Int(0))];
        let output = run(&node("", "ReverseSequence", 10, &attributes, 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<i64>().unwrap(), [2, 1, 0, 4, 3, 5]);
    }
}
