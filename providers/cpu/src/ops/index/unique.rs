//! Unique: the distinct elements or subtensors along an axis.

use std::cmp::Ordering;

use super::key::keys;
use crate::error::Result;
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::mover::copy_rows;
use crate::ops::layout::text::Strings;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Unique", 11, NEWEST, unique),
    Operator::of("com.microsoft", "Unique", |_| {
        Ok(Box::new(Unique { axis: None, sorted: false, outputs: [None, Some(1), Some(2)] }))
    }),
];

struct Unique {
    /// `None` flattens the input.
    axis: Option<i64>,
    /// Ascending, or in the order of first occurrence.
    sorted: bool,
    /// Which outputs hold the first positions, the inverse and the counts.
    outputs: [Option<usize>; 3],
}

fn unique(node: &Node) -> Result<Box<dyn Kernel>> {
    let (axis, sorted) = (node.optional_int("axis")?, node.int("sorted", 1)? != 0);
    Ok(Box::new(Unique { axis, sorted, outputs: [Some(1), Some(2), Some(3)] }))
}

impl Kernel for Unique {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let (mut dims, axis): (Dims, usize) = match self.axis {
            Some(axis) => (input.dims().into(), shape::axis(axis, input.rank())?),
            None => ([input.len()].as_slice().into(), 0),
        };
        let len = dims[axis];
        let inner: usize = dims[axis + 1..].iter().product();
        let groups = Groups::find(input, len, inner, self.sorted)?;
        dims[axis] = groups.firsts.len();
        let parallel = cx.parallel();
        rearrange(cx, &[0], 0, &dims, |sources, destination, cell| {
            let count = groups.firsts.len();
            copy_rows(parallel, inner * cell, sources[0], destination, |i| {
                i / count * len + groups.firsts[i % count]
            });
            Ok(())
        })?;
        for (output, values) in self.outputs.iter().zip([&groups.firsts, &groups.inverse, &groups.counts]) {
            if let Some(output) = output.filter(|&output| cx.wants(output)) {
                let mut tensor = cx.output(output, DType::I64, &[values.len()])?;
                tensor
                    .as_mut_slice::<i64>()?
                    .iter_mut()
                    .zip(values)
                    .for_each(|(to, &value)| *to = value as i64);
                cx.set(output, tensor);
            }
        }
        Ok(())
    }
}

/// The groups of equal subtensors along an axis.
struct Groups {
    /// First position of each group.
    firsts: Vec<usize>,
    /// The group of every position.
    inverse: Vec<usize>,
    /// Members of each group.
    counts: Vec<usize>,
}

impl Groups {
    /// Groups the `len` positions of an axis with `inner` elements after it.
    fn find(tensor: &Tensor, len: usize, inner: usize, sorted: bool) -> Result<Groups> {
        let outer = tensor.len().checked_div(len * inner).unwrap_or(0);
        if tensor.dtype() == DType::String {
            let strings = Strings::new(tensor)?;
            return Ok(Groups::by(len, outer, inner, sorted, |i, j| strings.get(i).cmp(strings.get(j))));
        }
        let keys = keys(tensor)?;
        Ok(Groups::by(len, outer, inner, sorted, |i, j| keys[i].cmp(&keys[j])))
    }

    fn by(
        len: usize,
        outer: usize,
        inner: usize,
        sorted: bool,
        compare: impl Fn(usize, usize) -> Ordering,
    ) -> Groups {
        let elements = |a: usize, b: usize| -> Ordering {
            let pairs = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i)));
            let at = |position: usize, o: usize, i: usize| (o * len + position) * inner + i;
            let mut orders = pairs.map(|(o, i)| compare(at(a, o, i), at(b, o, i)));
            orders.find(|&order| order != Ordering::Equal).unwrap_or(Ordering::Equal)
        };
        let mut order: Vec<usize> = (0..len).collect();
        order.sort_by(|&a, &b| elements(a, b));
        let mut groups = Groups { firsts: Vec::new(), inverse: vec![0; len], counts: Vec::new() };
        for (i, &position) in order.iter().enumerate() {
            if i == 0 || elements(order[i - 1], position) != Ordering::Equal {
                groups.firsts.push(position);
                groups.counts.push(0);
            }
            let group = groups.firsts.len() - 1;
            groups.inverse[position] = group;
            groups.counts[group] += 1;
        }
        if !sorted {
            groups.order_by_occurrence();
        }
        groups
    }

    fn order_by_occurrence(&mut self) {
        let mut order: Vec<usize> = (0..self.firsts.len()).collect();
        order.sort_by_key(|&group| self.firsts[group]);
        let mut rank = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &group)| rank[group] = place);
        self.inverse.iter_mut().for_each(|group| *group = rank[*group]);
        self.counts = order.iter().map(|&group| self.counts[group]).collect();
        self.firsts.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    fn ints(tensor: &Tensor) -> &[i64] {
        tensor.as_slice().unwrap()
    }

    #[test]
    fn elements_are_counted_in_either_order() {
        let x = || Some(tensor(&[2, 3], &[2f32, 1.0, 1.0, 3.0, 4.0, 3.0]));
        let outputs = run(&node("", "Unique", 11, &[], 4), &[x()]).unwrap();
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), [1., 2., 3., 4.]);
        assert_eq!((ints(&outputs[1]), ints(&outputs[2])), (&[1, 0, 3, 4][..], &[1, 0, 0, 2, 3, 2][..]));
        let outputs = run(&node("", "Unique", 11, &[("sorted", Attribute::Int(0))], 4), &[x()]).unwrap();
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), [2., 1., 3., 4.]);
        assert_eq!((ints(&outputs[2]), ints(&outputs[3])), (&[0, 1, 1, 2, 3, 2][..], &[1, 2, 2, 1][..]));
    }

    #[test]
    fn columns_and_strings_are_compared_whole() {
        let x = Some(tensor(&[2, 3], &[1i32, 0, 1, 2, 9, 2]));
        let outputs = run(&node("", "Unique", 11, &[("axis", Attribute::Int(-1))], 4), &[x]).unwrap();
        assert_eq!(outputs[0].dims(), [2, 2]);
        assert_eq!(outputs[0].as_slice::<i32>().unwrap(), [0, 1, 9, 2]);
        let outputs = run(&node("", "Unique", 11, &[], 1), &[Some(strings(&[3], &["b", "a", "b"]))]).unwrap();
        assert_eq!(outputs[0].as_bytes(), strings(&[2], &["a", "b"]).as_bytes());
    }

    #[test]
    fn nothing_has_no_distinct_elements() {
        let outputs = run(&node("", "Unique", 11, &[], 4), &[Some(tensor::<f32>(&[0], &[]))]).unwrap();
        assert!(outputs.iter().all(|output| output.dims() == [0]));
    }
}
