//! TopK.

use std::collections::BinaryHeap;

use tenon_kernels::parallel::{SharedMut, for_each_range};

use super::key::keys;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::mover::copy_rows;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims};

pub const OPERATORS: &[Operator] =
    &[Operator::onnx("TopK", 1, 9, top_k_1), Operator::onnx("TopK", 10, NEWEST, top_k)];

/// Elements one thread takes at least.
const GRAIN: usize = 16 << 10;

struct TopK {
    axis: i64,
    /// The attribute of opset 1; later k is input 1.
    k: Option<i64>,
    largest: bool,
}

fn top_k_1(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(TopK { axis: node.int("axis", -1)?, k: Some(node.required_int("k")?), largest: true }))
}

fn top_k(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(TopK { axis: node.int("axis", -1)?, k: None, largest: node.int("largest", 1)? != 0 }))
}

impl Kernel for TopK {
    /// The result is sorted whether or not the node asks for it; among equal elements the lower index comes first.
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let mut dims: Dims = input.dims().into();
        let axis = shape::axis(self.axis, dims.len())?;
        let len = dims[axis];
        let wanted = self.k.map_or_else(|| cx.input(1)?.to_scalar::<i64>(), Ok)?;
        let k = usize::try_from(wanted).ok().filter(|&k| k <= len);
        let k =
            k.ok_or_else(|| OpError::invalid(format!("cannot take the top {wanted} of an axis of {len}")))?;
        let mut keys = keys(input)?;
        if self.largest {
            keys.iter_mut().for_each(|key| *key = !*key);
        }
        dims[axis] = k;
        let inner: usize = dims[axis + 1..].iter().product();
        let rows = dims[..axis].iter().product::<usize>() * inner;
        let parallel = cx.parallel();
        let mut indices = cx.output(1, DType::I64, &dims)?;
        let shared = SharedMut::new(indices.as_mut_slice::<i64>()?);
        for_each_range(parallel, rows, GRAIN.div_ceil(len.max(1)), 1, &|range| {
            let mut order: Vec<(u64, u32)> = Vec::with_capacity(len);
            for row in range {
                let start = row / inner * len * inner + row % inner;
                order.clear();
                order.extend((0..len).map(|i| (keys[start + i * inner], i as u32)));
                lowest(&mut order, k);
                for (i, &(_, index)) in order[..k].iter().enumerate() {
                    let at = (row / inner * k + i) * inner + row % inner;
                    // SAFETY: every row writes cells of its own.
                    unsafe { shared.slice(at..at + 1)[0] = i64::from(index) };
                }
            }
        });
        rearrange(cx, &[0], 0, &dims, |sources, destination, cell| {
            let chosen = indices.as_slice::<i64>()?;
            copy_rows(parallel, cell, sources[0], destination, |i| {
                let (outer, column) = (i / (k * inner), i % inner);
                (outer * len + chosen[i] as usize) * inner + column
            });
            Ok(())
        })?;
        cx.set(1, indices);
        Ok(())
    }
}

/// Brings the `k` lowest entries to the front, in order.
fn lowest(order: &mut [(u64, u32)], k: usize) {
    if k == 1 {
        if let Some(at) = (0..order.len()).min_by_key(|&i| order[i]) {
            order.swap(0, at);
        }
        return;
    }
    if k > 0 && k < order.len() / 8 {
        let mut heap: BinaryHeap<(u64, u32)> = order[..k].iter().copied().collect();
        for &entry in &order[k..] {
            if let Some(mut worst) = heap.peek_mut()
                && entry < *worst
            {
                *worst = entry;
            }
        }
        return order[..k].copy_from_slice(&heap.into_sorted_vec());
    }
    if k > 0 && k < order.len() {
        order.select_nth_unstable(k - 1);
    }
    order[..k].sort_unstable();
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn ties_go_to_the_lower_index_either_way() {
        let x = [2f32, 3.0, 3.0, 1.0, 1.0, -0.0, 0.0];
        let case = |largest: i64, k: i64| {
            let inputs = [Some(tensor(&[7], &x)), Some(tensor(&[1], &[k]))];
            let outputs =
                run(&node("", "TopK", 11, &[("largest", Attribute::Int(largest))], 2), &inputs).unwrap();
            outputs[1].as_slice::<i64>().unwrap().to_vec()
        };
        assert_eq!(case(1, 1), [1]);
        assert_eq!(case(1, 4), [1, 2, 0, 3]);
        assert_eq!(case(0, 3), [5, 6, 3]);
        assert_eq!(case(0, 0), [0i64; 0]);
    }

    #[test]
    fn an_inner_axis_and_unsigned_extremes() {
        let x = [u64::MAX, 0, 5, 1 << 63, 7, 6];
        let inputs = [Some(tensor(&[1, 3, 2], &x)), Some(tensor(&[1], &[2i64]))];
        let outputs = run(&node("", "TopK", 24, &[("axis", Attribute::Int(1))], 2), &inputs).unwrap();
        assert_eq!(outputs[0].as_slice::<u64>().unwrap(), [u64::MAX, 1 << 63, 7, 6]);
        assert_eq!(outputs[1].as_slice::<i64>().unwrap(), [0, 1, 2, 2]);
        let inputs = [Some(tensor(&[1, 3, 2], &x)), Some(tensor(&[1], &[4i64]))];
        assert!(run(&node("", "TopK", 24, &[("axis", Attribute::Int(1))], 2), &inputs).is_err());
    }
}
