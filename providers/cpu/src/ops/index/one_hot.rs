//! OneHot.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::mover::fill;
use crate::ops::layout::number;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims, Tensor};

pub const OPERATORS: &[Operator] = &[Operator::onnx("OneHot", 9, NEWEST, one_hot)];

struct OneHot {
    axis: i64,
}

fn one_hot(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(OneHot { axis: node.int("axis", -1)? }))
}

impl Kernel for OneHot {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (indices, values) = (cx.input(0)?, cx.input(2)?);
        let depth = match integers(cx.input(1)?)?.as_slice() {
            &[depth] if depth >= 0 => depth,
            other => {
                return Err(OpError::invalid(format!(
                    "depth must be one number of at least 0, got {other:?}"
                )));
            }
        };
        if values.len() != 2 {
            return Err(OpError::invalid(format!(
                "values must be two elements (off, on), got {:?}",
                values.dims()
            )));
        }
        let mut dims: Dims = indices.dims().into();
        let axis = shape::axis(self.axis, dims.len() + 1)?;
        let inner: usize = dims[axis..].iter().product();
        dims.insert(axis, depth as usize);
        let at = integers(indices)?;
        rearrange(cx, &[2], 0, &dims, |sources, cells, cell| {
            let (off, on) = sources[0].split_at(cell);
            if cells.is_empty() {
                return Ok(());
            }
            fill(cells, off);
            for (i, &index) in at.iter().enumerate() {
                let index = if index < 0 { index.wrapping_add(depth) } else { index };
                if (0..depth).contains(&index) {
                    let flat = (i / inner * depth as usize + index as usize) * inner + i % inner;
                    cells[flat * cell..][..cell].copy_from_slice(on);
                }
            }
            Ok(())
        })
    }
}

/// Numbers of any type as integers, fractions cut off.
fn integers(tensor: &Tensor) -> Result<Vec<i64>> {
    match tensor.dtype() {
        DType::I64 => Ok(tensor.as_slice::<i64>()?.to_vec()),
        _ => Ok(number::to_vec::<f64>(tensor)?.into_iter().map(|value| value as i64).collect()),
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    #[test]
    fn indices_outside_the_depth_leave_the_row_off() {
        let inputs = [
            Some(tensor(&[3], &[-1f32, 5.0, 0.0])),
            Some(tensor(&[], &[3i32])),
            Some(tensor(&[2], &[7u8, 9])),
        ];
        let outputs = run(&node("", "OneHot", 11, &[], 1), &inputs).unwrap();
        assert_eq!(outputs[0].as_slice::<u8>().unwrap(), [7, 7, 9, 7, 7, 7, 9, 7, 7]);
        let outputs = run(&node("", "OneHot", 11, &[("axis", Attribute::Int(0))], 1), &inputs).unwrap();
        assert_eq!(outputs[0].as_slice::<u8>().unwrap(), [7, 7, 9, 7, 7, 7, 9, 7, 7]);
    }

    #[test]
    fn values_may_be_strings() {
        let inputs =
            [Some(tensor(&[1], &[1i64])), Some(tensor(&[1], &[2i64])), Some(strings(&[2], &["no", "yes"]))];
        let outputs = run(&node("", "OneHot", 11, &[], 1), &inputs).unwrap();
        assert_eq!(outputs[0].as_bytes(), strings(&[1, 2], &["no", "yes"]).as_bytes());
    }
}
