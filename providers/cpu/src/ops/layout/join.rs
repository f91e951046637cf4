//! Concat and Split.

use smallvec::SmallVec;

use super::cells::rearrange;
use super::mover::{self, Side};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::Dims;

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Concat", 1, NEWEST, concat),
    Operator::onnx("Split", 1, 1, split_1),
    Operator::onnx("Split", 2, 12, split_2),
    Operator::onnx("Split", 13, NEWEST, split_13),
];

struct Concat {
    axis: i64,
}

fn concat(node: &Node) -> Result<Box<dyn Kernel>> {
    let axis = if node.version < 4 { node.int("axis", 1)? } else { node.required_int("axis")? };
    Ok(Box::new(Concat { axis }))
}

impl Kernel for Concat {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let mut dims: Dims = cx.input(0)?.dims().into();
        let axis = shape::axis(self.axis, dims.len())?;
        let mut inputs: SmallVec<[usize; 8]> = SmallVec::new();
        let mut lengths: SmallVec<[usize; 8]> = SmallVec::new();
        for index in 0..cx.input_count() {
            let own = cx.input(index)?.dims();
            let fits = own.len() == dims.len() && (0..dims.len()).all(|i| i == axis || own[i] == dims[i]);
            if !fits {
                let message =
                    format!("cannot join input {index} of shape {own:?} to {dims:?} along axis {axis}");
                return Err(OpError::invalid(message));
            }
            inputs.push(index);
            lengths.push(own[axis]);
        }
        if inputs.len() == 1 {
            return cx.forward(0, 0, &dims);
        }
        dims[axis] = lengths.iter().sum();
        let rows: usize = dims[..axis].iter().product();
        let row: usize = dims[axis + 1..].iter().product();
        let width = dims[axis] * row;
        let parallel = cx.parallel();
        rearrange(cx, &inputs, 0, &dims, |sources, destination, cell| {
            let mut start = 0;
            for (source, length) in sources.iter().zip(&lengths) {
                let part = length * row;
                if rows == 1 && source.len() < 4096 {
                    destination[start * cell..][..source.len()].copy_from_slice(source);
                } else {
                    let from = Side { start: 0, strides: &[part as isize, 1] };
                    let to = Side { start, strides: &[width as isize, 1] };
                    mover::copy(parallel, cell, &[rows, part], from, source, to, destination)?;
                }
                start += part;
            }
            Ok(())
        })
    }
}

/// Where the lengths of the parts come from.
enum Lengths {
    Fixed(SmallVec<[i64; 8]>),
    Input,
    Equal,
}

struct Split {
    axis: i64,
    lengths: Lengths,
    parts: usize,
}

fn split_1(node: &Node) -> Result<Box<dyn Kernel>> {
    split(node, node.has_input(1))
}

fn split_2(node: &Node) -> Result<Box<dyn Kernel>> {
    split(node, false)
}

fn split_13(node: &Node) -> Result<Box<dyn Kernel>> {
    if let Some(parts) = node.optional_int("num_outputs")?
        && parts != node.outputs.len() as i64
    {
        let message =
            format!("attribute 'num_outputs' is {parts} but the node has {} outputs", node.outputs.len());
        return Err(OpError::invalid(message));
    }
    split(node, node.has_input(1))
}

fn split(node: &Node, from_input: bool) -> Result<Box<dyn Kernel>> {
    let lengths = match node.ints("split")? {
        _ if from_input => Lengths::Input,
        Some(lengths) => Lengths::Fixed(lengths.into()),
        None => Lengths::Equal,
    };
    Ok(Box::new(Split { axis: node.int("axis", 0)?, lengths, parts: node.outputs.len() }))
}

impl Split {
    /// The length of each part of an axis of `total`.
    fn lengths(&self, cx: &Context<'_>, total: usize) -> Result<SmallVec<[usize; 8]>> {
        let given: SmallVec<[i64; 8]> = match &self.lengths {
            Lengths::Fixed(lengths) => lengths.clone(),
            Lengths::Input => match cx.input(1)?.as_slice::<f32>() {
                // Opset 1 gave the lengths in the type of the data.
                Ok(lengths) => lengths.iter().map(|&length| length as i64).collect(),
                Err(_) => cx.input(1)?.to_i64s()?,
            },
            Lengths::Equal => {
                let each = total.div_ceil(self.parts.max(1));
                return Ok((0..self.parts).map(|i| each.min(total.saturating_sub(i * each))).collect());
            }
        };
        let lengths: Option<SmallVec<[usize; 8]>> =
            given.iter().map(|&length| usize::try_from(length).ok()).collect();
        match lengths {
            Some(lengths) if lengths.iter().sum::<usize>() == total && lengths.len() == self.parts => {
                Ok(lengths)
            }
            _ => Err(OpError::invalid(format!(
                "cannot split an axis of {total} into {} parts of {given:?}",
                self.parts
            ))),
        }
    }
}

impl Kernel for Split {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let mut dims: Dims = cx.input(0)?.dims().into();
        let axis = shape::axis(self.axis, dims.len())?;
        let lengths = self.lengths(cx, dims[axis])?;
        let rows: usize = dims[..axis].iter().product();
        let row: usize = dims[axis + 1..].iter().product();
        let width = dims[axis] * row;
        let parallel = cx.parallel();
        let mut start = 0;
        for (index, &length) in lengths.iter().enumerate() {
            let part = length * row;
            dims[axis] = length;
            if cx.wants(index) {
                rearrange(cx, &[0], index, &dims, |sources, destination, cell| {
                    let from = Side { start, strides: &[width as isize, 1] };
                    let to = Side { start: 0, strides: &[part as isize, 1] };
                    mover::copy(parallel, cell, &[rows, part], from, sources[0], to, destination)
                })?;
            }
            start += part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    #[test]
    fn concat_joins_along_any_axis_even_empty_parts() {
        let inputs = [
            Some(tensor(&[2, 1], &[1i32, 2])),
            Some(tensor::<i32>(&[2, 0], &[])),
            Some(tensor(&[2, 2], &[3i32, 4, 5, 6])),
        ];
        let output = run(&node("", "Concat", 13, &[("axis", Attribute::Int(-1))], 1), &inputs).unwrap();
        assert_eq!(output[0].dims(), [2, 3]);
        assert_eq!(output[0].as_slice::<i32>().unwrap(), [1, 3, 4, 2, 5, 6]);
        assert!(run(&node("", "Concat", 13, &[("axis", Attribute::Int(0))], 1), &inputs).is_err());
    }

    #[test]
    fn strings_from_several_inputs_keep_their_text() {
        let inputs = [Some(strings(&[1], &["ab"])), Some(strings(&[2], &["", "xyz"]))];
        let output = run(&node("", "Concat", 13, &[("axis", Attribute::Int(0))], 1), &inputs).unwrap();
        assert_eq!(output[0].as_bytes(), strings(&[3], &["ab", "", "xyz"]).as_bytes());
    }

    #[test]
    fn split_gives_the_last_part_the_rest() {
        let x = Some(tensor(&[7], &[0u8, 1, 2, 3, 4, 5, 6]));
        let attributes = [("num_outputs", Attribute::Int(3))];
        let parts = run(&node("", "Split", 18, &attributes, 3), std::slice::from_ref(&x)).unwrap();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [3, 3, 1]);
        let lengths = Some(tensor(&[2], &[3i64, 3]));
        assert!(run(&node("", "Split", 13, &[], 2), &[x, lengths]).is_err());
    }
}
