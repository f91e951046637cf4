//! NonZero and Compress.

use half::{bf16, f16};

use super::Positions;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::mover::copy_rows;
use crate::ops::layout::text::Strings;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{Bool, Complex, DType, Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("NonZero", 9, NEWEST, |_| Ok(Box::new(NonZero))),
    Operator::onnx("Compress", 9, NEWEST, compress),
];

struct NonZero;

impl Kernel for NonZero {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let found = non_zeros(input)?;
        // A scalar counts as a tensor of one dimension.
        let dims: Dims = if input.rank() == 0 { [1].as_slice().into() } else { input.dims().into() };
        let mut output = cx.output(0, DType::I64, &[input.rank().max(1), found.len()])?;
        let coordinates = output.as_mut_slice::<i64>()?;
        for (axis, &stride) in shape::strides(&dims).iter().enumerate() {
            let row = &mut coordinates[axis * found.len()..][..found.len()];
            row.iter_mut()
                .zip(&found)
                .for_each(|(value, &flat)| *value = (flat / stride % dims[axis]) as i64);
        }
        cx.set(0, output);
        Ok(())
    }
}

/// The flat positions of the elements that are not 0, false or "".
fn non_zeros(tensor: &Tensor) -> Result<Vec<usize>> {
    let dtype = tensor.dtype();
    if dtype == DType::String {
        let strings = Strings::new(tensor)?;
        return Ok((0..strings.len()).filter(|&i| !strings.get(i).is_empty()).collect());
    }
    Ok(match dtype {
        DType::F32 => find(tensor.as_slice::<f32>()?, |v| v != 0.0),
        DType::F64 => find(tensor.as_slice::<f64>()?, |v| v != 0.0),
        DType::F16 => find(tensor.as_slice::<f16>()?, |v| v != f16::ZERO),
        DType::BF16 => find(tensor.as_slice::<bf16>()?, |v| v != bf16::ZERO),
        DType::Complex64 => find(tensor.as_slice::<Complex<f32>>()?, |v| v.re != 0.0 || v.im != 0.0),
        DType::Complex128 => find(tensor.as_slice::<Complex<f64>>()?, |v| v.re != 0.0 || v.im != 0.0),
        _ => match dtype.bits() {
            8 => find(tensor.as_bytes(), |v| v != 0),
            16 => find(tensor.as_bytes().as_chunks::<2>().0, |v| v != [0; 2]),
            32 => find(tensor.as_bytes().as_chunks::<4>().0, |v| v != [0; 4]),
            64 => find(tensor.as_bytes().as_chunks::<8>().0, |v| v != [0; 8]),
            _ => return Err(OpError::unsupported(format!("NonZero of {dtype}"))),
        },
    })
}

fn find<T: Copy>(values: &[T], is_non_zero: impl Fn(T) -> bool) -> Vec<usize> {
    let mut found = Vec::with_capacity(values.iter().filter(|&&value| is_non_zero(value)).count());
    found.extend(values.iter().enumerate().filter(|&(_, &value)| is_non_zero(value)).map(|(i, _)| i));
    found
}

struct Compress {
    /// `None` flattens the input.
    axis: Option<i64>,
}

fn compress(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Compress { axis: node.optional_int("axis")? }))
}

impl Kernel for Compress {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, condition) = (cx.input(0)?, cx.input(1)?);
        let (mut dims, axis): (Dims, usize) = match self.axis {
            Some(axis) => (data.dims().into(), shape::axis(axis, data.rank())?),
            None => ([data.len()].as_slice().into(), 0),
        };
        let len = dims[axis];
        let chosen: Positions = condition
            .as_slice::<Bool>()?
            .iter()
            .enumerate()
            .filter(|(_, c)| c.0 != 0)
            .map(|(i, _)| i)
            .collect();
        if chosen.last().is_some_and(|&last| last >= len) {
            return Err(OpError::invalid(format!("the condition chooses elements outside an axis of {len}")));
        }
        dims[axis] = chosen.len();
        let row: usize = dims[axis + 1..].iter().product();
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &dims, |sources, destination, cell| {
            let count = chosen.len();
            copy_rows(parallel, row * cell, sources[0], destination, |i| i / count * len + chosen[i % count]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    #[test]
    fn non_zero_lists_coordinates_and_takes_minus_zero_for_zero() {
        let outputs =
            run(&node("", "NonZero", 13, &[], 1), &[Some(tensor(&[2, 2], &[0f32, 1.0, -0.0, f32::NAN]))])
                .unwrap();
        assert_eq!(outputs[0].dims(), [2, 2]);
        assert_eq!(outputs[0].as_slice::<i64>().unwrap(), [0, 1, 1, 1]);
        let outputs = run(&node("", "NonZero", 13, &[], 1), &[Some(strings(&[2], &["", "a"]))]).unwrap();
        assert_eq!(outputs[0].as_slice::<i64>().unwrap(), [1]);
        let outputs = run(&node("", "NonZero", 13, &[], 1), &[Some(tensor(&[], &[-128i8]))]).unwrap();
        assert_eq!(outputs[0].dims(), [1, 1]);
    }

    #[test]
    fn compress_keeps_what_a_short_condition_names() {
        let inputs = [Some(tensor(&[2, 3], &[1u8, 2, 3, 4, 5, 6])), Some(tensor(&[2], &[Bool(0), Bool(1)]))];
        let outputs = run(&node("", "Compress", 11, &[("axis", Attribute::Int(1))], 1), &inputs).unwrap();
        assert_eq!(outputs[0].as_slice::<u8>().unwrap(), [2, 5]);
        let outputs = run(&node("", "Compress", 11, &[], 1), &inputs).unwrap();
        assert_eq!(outputs[0].as_slice::<u8>().unwrap(), [2]);
        let inputs = [Some(tensor(&[1], &[1u8])), Some(tensor(&[2], &[Bool(0), Bool(1)]))];
        assert!(run(&node("", "Compress", 11, &[], 1), &inputs).is_err());
    }
}
