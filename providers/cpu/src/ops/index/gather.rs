//! Gather, GatherElements and GatherND.

use super::{check_range, position, positions, wrap};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::mover::copy_rows;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Gather", 1, NEWEST, gather),
    Operator::onnx("GatherElements", 11, NEWEST, gather_elements),
    Operator::onnx("GatherND", 11, NEWEST, gather_nd),
    Operator::of("com.microsoft", "GatherND", gather_nd),
];

struct Gather {
    axis: i64,
}

fn gather(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Gather { axis: node.int("axis", 0)? }))
}

impl Kernel for Gather {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, indices) = (cx.input(0)?.dims(), cx.input(1)?);
        let axis = shape::axis(self.axis, data.len())?;
        let mut result: Dims = data[..axis].into();
        result.extend_from_slice(indices.dims());
        result.extend_from_slice(&data[axis + 1..]);
        let row: usize = data[axis + 1..].iter().product();
        let len = data[axis];
        let chosen = positions(indices, len)?;
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &result, |sources, destination, cell| {
            let row = row * cell;
            if destination.len() == chosen.len() * row {
                copy_rows(parallel, row, sources[0], destination, |i| chosen[i]);
            } else {
                let count = chosen.len();
                copy_rows(parallel, row, sources[0], destination, |i| i / count * len + chosen[i % count]);
            }
            Ok(())
        })
    }
}

struct GatherElements {
    axis: i64,
}

fn gather_elements(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(GatherElements { axis: node.int("axis", 0)? }))
}

impl Kernel for GatherElements {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, indices) = (cx.input(0)?, cx.input(1)?);
        let dims: Dims = indices.dims().into();
        let from = element_positions(indices, data.dims(), self.axis)?;
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &dims, |sources, destination, cell| {
            copy_rows(parallel, cell, sources[0], destination, |i| from[i]);
            Ok(())
        })
    }
}

/// The flat position in a tensor of shape `data` of every element of `indices`: the element's own coordinates, with
/// the one along `axis` replaced by its value.
pub(super) fn element_positions(indices: &Tensor, data: &[usize], axis: i64) -> Result<Vec<usize>> {
    let dims = indices.dims();
    let axis = shape::axis(axis, data.len())?;
    if dims.len() != data.len() || !(0..data.len()).all(|i| i == axis || dims[i] <= data[i]) {
        return Err(OpError::invalid(format!("indices of shape {dims:?} do not fit data of shape {data:?}")));
    }
    let strides = shape::strides(data);
    let last = dims.len() - 1;
    let (columns, step) = (dims[last], if axis == last { 0 } else { strides[last] });
    let values = indices.to_i64s()?;
    let (len, stride) = (data[axis], strides[axis]);
    check_range(&values, len)?;
    let mut flat = Vec::with_capacity(values.len());
    if values.is_empty() {
        return Ok(flat);
    }
    for (row, values) in values.chunks_exact(columns).enumerate() {
        let (mut rest, mut start) = (row, 0);
        for i in (0..last).rev() {
            if i != axis {
                start += rest % dims[i] * strides[i];
            }
            rest /= dims[i];
        }
        let row = values.iter().enumerate();
        flat.extend(row.map(|(column, &value)| start + column * step + wrap(value, len) * stride));
    }
    Ok(flat)
}

struct GatherNd {
    batch_dims: i64,
}

fn gather_nd(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(GatherNd { batch_dims: node.int("batch_dims", 0)? }))
}

impl Kernel for GatherNd {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, indices) = (cx.input(0)?, cx.input(1)?);
        let slices = Slices::new(data.dims(), indices, self.batch_dims)?;
        let mut result: Dims = indices.dims()[..indices.rank() - 1].into();
        result.extend_from_slice(&data.dims()[slices.named_dims..]);
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &result, |sources, destination, cell| {
            copy_rows(parallel, slices.len * cell, sources[0], destination, |i| slices.starts[i]);
            Ok(())
        })
    }
}

/// The slices of a tensor that the last dimension of an index tensor names.
pub(super) struct Slices {
    /// Where each slice starts, in slices.
    pub starts: Vec<usize>,
    /// Elements in a slice.
    pub len: usize,
    /// Leading dimensions of the tensor that the batch and an index tuple fix.
    pub named_dims: usize,
}

impl Slices {
    pub fn new(data: &[usize], indices: &Tensor, batch_dims: i64) -> Result<Slices> {
        let error = || {
            let index_dims = indices.dims();
            OpError::invalid(format!(
                "indices of shape {index_dims:?} do not fit data of shape {data:?}, batch_dims {batch_dims}"
            ))
        };
        let batch = usize::try_from(batch_dims).map_err(|_| error())?;
        let Some((&tuple, rows)) = indices.dims().split_last() else {
            return Err(error());
        };
        let named_dims = batch + tuple;
        if named_dims > data.len() || batch > rows.len() || data[..batch] != rows[..batch] {
            return Err(error());
        }
        let named = &data[..named_dims];
        let strides = shape::strides(named);
        let per_batch: usize = rows[batch..].iter().product();
        let count: usize = rows.iter().product();
        let batch_step: usize = data[batch..named_dims].iter().product();
        let values = indices.to_i64s()?;
        let mut starts = Vec::with_capacity(count);
        for row in 0..count {
            let mut start = row / per_batch * batch_step;
            for (i, &value) in values[row * tuple..][..tuple].iter().enumerate() {
                start += position(value, data[batch + i])? * strides[batch + i];
            }
            starts.push(start);
        }
        Ok(Slices { starts, len: data[named_dims..].iter().product(), named_dims })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::tensor::DType;
    use crate::testing::{blank, node, run, strings, tensor};

    fn gathered(x: Tensor, indices: Tensor, axis: i64) -> Result<Tensor> {
        run(&node("", "Gather", 13, &[("axis", Attribute::Int(axis))], 1), &[Some(x), Some(indices)])
            .map(|mut o| o.remove(0))
    }

    #[test]
    fn gather_takes_along_any_axis_from_both_ends() {
        let x: Vec<i16> = (0..12).collect();
        let x = || tensor(&[2, 3, 2], &x);
        let output = gathered(x(), tensor(&[2], &[-1i32, 0]), 1).unwrap();
        assert_eq!(output.dims(), [2, 2, 2]);
        assert_eq!(output.as_slice::<i16>().unwrap(), [4, 5, 0, 1, 10, 11, 6, 7]);
        assert_eq!(gathered(x(), tensor(&[], &[1i64]), -1).unwrap().dims(), [2, 3]);
        assert_eq!(gathered(x(), tensor::<i64>(&[0, 2], &[]), 0).unwrap().dims(), [0, 2, 3, 2]);
        assert!(gathered(x(), tensor(&[1], &[3i64]), 1).is_err());
        assert!(gathered(x(), tensor(&[1], &[i64::MIN]), 1).is_err());
    }

    #[test]
    fn strings_and_packed_elements_are_gathered() {
        let output = gathered(strings(&[3], &["a", "bb", "ccc"]), tensor(&[2], &[2i64, 0]), 0).unwrap();
        assert_eq!(output.as_bytes(), strings(&[2], &["ccc", "a"]).as_bytes());
        let mut x = blank(DType::I4, &[3]);
        x.as_bytes_mut().copy_from_slice(&[0xF1, 0x07]);
        assert_eq!(gathered(x, tensor(&[2], &[1i64, 2]), 0).unwrap().as_bytes(), [0x7F]);
    }

    #[test]
    fn gather_nd_steps_through_batches() {
        let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let inputs = [Some(tensor(&[2, 2, 2], &x)), Some(tensor(&[2, 1], &[1i64, -2]))];
        let output =
            run(&node("", "GatherND", 12, &[("batch_dims", Attribute::Int(1))], 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [2., 3., 4., 5.]);
        let inputs = [Some(tensor(&[2, 2, 2], &x)), Some(tensor::<i64>(&[3, 0], &[]))];
        assert_eq!(run(&node("", "GatherND", 12, &[], 1), &inputs).unwrap()[0].dims(), [3, 2, 2, 2]);
        let inputs = [Some(tensor(&[2], &[1f32, 2.0])), Some(tensor(&[1, 2], &[0i64, 0]))];
        assert!(run(&node("", "GatherND", 12, &[], 1), &inputs).is_err());
    }

    #[test]
    fn gather_elements_replaces_one_coordinate() {
        let inputs = [Some(tensor(&[2, 2], &[1f64, 2.0, 3.0, 4.0])), Some(tensor(&[1, 2], &[-1i64, 0]))];
        let output = run(&node("", "GatherElements", 13, &[], 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f64>().unwrap(), [3., 2.]);
    }
}
