//! Operators that change a tensor's shape but not its elements, and those that read the shape.

use smallvec::SmallVec;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Shape", 1, NEWEST, shape),
    Operator::onnx("Size", 1, NEWEST, |_| Ok(Box::new(Size))),
    Operator::onnx("Reshape", 1, 4, reshape_1),
    Operator::onnx("Reshape", 5, NEWEST, reshape),
    Operator::onnx("Flatten", 1, NEWEST, flatten),
    Operator::onnx("Squeeze", 1, NEWEST, squeeze),
    Operator::onnx("Unsqueeze", 1, NEWEST, unsqueeze),
    Operator::of("com.microsoft", "ExpandDims", |_| Ok(Box::new(Unsqueeze { axes: Axes::Input }))),
];

/// A list of axes: fixed by the node or read from input 1.
enum Axes {
    Fixed(SmallVec<[i64; 8]>),
    Input,
    None,
}

impl Axes {
    /// Opset 13 moved the axes of Squeeze and Unsqueeze from an attribute to an input.
    fn of(node: &Node) -> Result<Axes> {
        if node.version >= 13 {
            return Ok(if node.has_input(1) { Axes::Input } else { Axes::None });
        }
        Ok(node.ints("axes")?.map_or(Axes::None, |axes| Axes::Fixed(axes.into())))
    }

    fn resolve(&self, cx: &Context<'_>, rank: usize) -> Result<Option<Dims>> {
        match self {
            Axes::Fixed(axes) => shape::axes(axes, rank).map(Some),
            Axes::Input => shape::axes(&cx.input(1)?.to_i64s()?, rank).map(Some),
            Axes::None => Ok(None),
        }
    }
}

struct Shape {
    start: i64,
    end: Option<i64>,
}

fn shape(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Shape { start: node.int("start", 0)?, end: node.optional_int("end")? }))
}

impl Kernel for Shape {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims = cx.input(0)?.dims();
        let rank = dims.len() as i64;
        let clamp = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank) as usize;
        let (start, end) = (clamp(self.start), self.end.map_or(dims.len(), clamp));
        let chosen = dims.get(start..end).unwrap_or(&[]);
        let mut output = cx.output(0, DType::I64, &[chosen.len()])?;
        output.as_mut_slice::<i64>()?.iter_mut().zip(chosen).for_each(|(value, &dim)| *value = dim as i64);
        cx.set(0, output);
        Ok(())
    }
}

struct Size;

impl Kernel for Size {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let count = cx.input(0)?.len() as i64;
        let mut output = cx.output(0, DType::I64, &[])?;
        output.as_mut_slice::<i64>()?[0] = count;
        cx.set(0, output);
        Ok(())
    }
}

struct Reshape {
    /// The attribute of opset 1; later the shape is input 1.
    fixed: Option<SmallVec<[i64; 8]>>,
    allow_zero: bool,
}

fn reshape_1(node: &Node) -> Result<Box<dyn Kernel>> {
    let shape = node.ints("shape")?.ok_or_else(|| OpError::invalid("attribute 'shape' is missing"))?;
    Ok(Box::new(Reshape { fixed: Some(shape.into()), allow_zero: false }))
}

fn reshape(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Reshape { fixed: None, allow_zero: node.int("allowzero", 0)? != 0 }))
}

impl Kernel for Reshape {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let data = cx.input(0)?;
        let dims = match &self.fixed {
            Some(target) => reshaped_dims(data.dims(), target, self.allow_zero)?,
            None => reshaped_dims(data.dims(), &cx.input(1)?.to_i64s()?, self.allow_zero)?,
        };
        cx.forward(0, 0, &dims)
    }
}

/// The shape that `target` asks of a tensor of shape `dims`: -1 is inferred, 0 copies the dimension at its place
/// (unless `allow_zero`).
pub fn reshaped_dims(dims: &[usize], target: &[i64], allow_zero: bool) -> Result<Dims> {
    let mismatch = || OpError::invalid(format!("cannot reshape {dims:?} to {target:?}"));
    let mut inferred = None;
    let mut result = Dims::with_capacity(target.len());
    for (i, &wanted) in target.iter().enumerate() {
        result.push(match wanted {
            0 if !allow_zero => *dims.get(i).ok_or_else(mismatch)?,
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            _ => usize::try_from(wanted).map_err(|_| mismatch())?,
        });
    }
    let total: usize = dims.iter().product();
    let known = result.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(mismatch)?;
    if let Some(i) = inferred {
        if known == 0 || !total.is_multiple_of(known) {
            return Err(mismatch());
        }
        result[i] = total / known;
    } else if known != total {
        return Err(mismatch());
    }
    Ok(result)
}

struct Flatten {
    axis: i64,
}

fn flatten(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Flatten { axis: node.int("axis", 1)? }))
}

impl Kernel for Flatten {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims = cx.input(0)?.dims();
        let rank = dims.len();
        let axis = if self.axis == rank as i64 { rank } else { shape::axis(self.axis, rank)? };
        let (rows, columns) = (dims[..axis].iter().product(), dims[axis..].iter().product());
        cx.forward(0, 0, &[rows, columns])
    }
}

struct Squeeze {
    axes: Axes,
}

fn squeeze(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Squeeze { axes: Axes::of(node)? }))
}

impl Kernel for Squeeze {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims = cx.input(0)?.dims();
        let mut kept = Dims::new();
        let axes = self.axes.resolve(cx, dims.len())?;
        for (i, &dim) in dims.iter().enumerate() {
            match &axes {
                None if dim == 1 => {}
                Some(axes) if axes.contains(&i) => {
                    if dim != 1 {
                        return Err(OpError::invalid(format!(
                            "cannot squeeze axis {i} of shape {dims:?}: it is not 1"
                        )));
                    }
                }
                _ => kept.push(dim),
            }
        }
        cx.forward(0, 0, &kept)
    }
}

struct Unsqueeze {
    axes: Axes,
}

fn unsqueeze(node: &Node) -> Result<Box<dyn Kernel>> {
    match Axes::of(node)? {
        Axes::None => Err(OpError::invalid("Unsqueeze has no axes")),
        axes => Ok(Box::new(Unsqueeze { axes })),
    }
}

impl Kernel for Unsqueeze {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims = cx.input(0)?.dims();
        let count = match &self.axes {
            Axes::Fixed(axes) => axes.len(),
            _ => cx.input(1)?.len(),
        };
        let rank = dims.len() + count;
        let axes = self.axes.resolve(cx, rank)?.unwrap_or_default();
        let mut rest = dims.iter().copied();
        let expanded: Dims =
            (0..rank).map(|i| if axes.contains(&i) { 1 } else { rest.next().unwrap_or(1) }).collect();
        cx.forward(0, 0, &expanded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn reshape_infers_copies_and_keeps_zeros() {
        assert_eq!(reshaped_dims(&[2, 3, 4], &[0, -1], false).unwrap().as_slice(), [2, 12]);
        assert_eq!(reshaped_dims(&[0, 3], &[3, 0], true).unwrap().as_slice(), [3, 0]);
        assert!(reshaped_dims(&[0, 3], &[0, 5, -1], false).is_err());
        assert_eq!(reshaped_dims(&[], &[1, 1, -1], false).unwrap().as_slice(), [1, 1, 1]);
        for bad in [&[5][..], &[-1, -1], &[-2, 12], &[2, 3, 4, 0], &[i64::MAX, i64::MAX]] {
            assert!(reshaped_dims(&[2, 3, 4], bad, false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shape_slices_like_python() {
        let x = tensor(&[2, 3, 4], &[0u8; 24]);
        let case = |start, end| {
            let attributes = [("start", Attribute::Int(start)), ("end", Attribute::Int(end))];
            let output = run(&node("", "Shape", 15, &attributes, 1), &[Some(x.clone())]).unwrap();
            output[0].as_slice::<i64>().unwrap().to_vec()
        };
        assert_eq!(case(-2, 9), [3, 4]);
        assert_eq!(case(2, 1), [0i64; 0]);
        assert_eq!(case(-9, -1), [2, 3]);
    }

    #[test]
    fn squeeze_refuses_a_dimension_that_is_not_one() {
        let inputs = [Some(tensor(&[2, 1], &[1f32, 2.0])), Some(tensor(&[1], &[0i64]))];
        assert!(run(&node("", "Squeeze", 13, &[], 1), &inputs).is_err());
        let inputs = [Some(tensor(&[2, 1], &[1f32, 2.0])), Some(tensor(&[1], &[-1i64]))];
        assert_eq!(run(&node("", "Squeeze", 13, &[], 1), &inputs).unwrap()[0].dims(), [2]);
    }

    #[test]
    fn unsqueeze_counts_axes_in_the_result() {
        let inputs = [Some(tensor(&[3], &[1f32, 2.0, 3.0])), Some(tensor(&[2], &[-1i64, 0]))];
        assert_eq!(run(&node("", "Unsqueeze", 13, &[], 1), &inputs).unwrap()[0].dims(), [1, 3, 1]);
        let inputs = [Some(tensor(&[3], &[1f32, 2.0, 3.0])), Some(tensor(&[2], &[1i64, 1]))];
        assert!(run(&node("", "Unsqueeze", 13, &[], 1), &inputs).is_err());
    }
}
