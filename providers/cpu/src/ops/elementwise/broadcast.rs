//! Broadcasting of several contiguous operands as few, long rows: neighbouring dimensions that every operand treats
//! alike are merged, so that most real shapes become one or two loops.

use std::ops::Range;

use crate::error::{OpError, Result};
use crate::tensor::Dims;

/// How `N` operands are walked to fill one contiguous output.
pub struct Broadcast<const N: usize> {
    /// Merged sizes, innermost first; at least one entry.
    sizes: Dims,
    /// Steps in elements of each operand along the merged sizes; 0 where it repeats. Innermost first.
    steps: [Dims; N],
    len: usize,
}

/// The shape that several shapes broadcast to (ONNX "multidirectional broadcasting").
pub fn shape_of(shapes: &[&[usize]]) -> Result<Dims> {
    let mut dims: Dims = shapes.first().map_or_else(Dims::new, |first| (*first).into());
    for other in shapes.iter().skip(1) {
        if dims.as_slice() != *other {
            dims = crate::shape::broadcast(&dims, other)?;
        }
    }
    Ok(dims)
}

impl<const N: usize> Broadcast<N> {
    /// The walk of operands of `shapes` over an output of shape `to`. Errors when one of them does not broadcast to it.
    pub fn new(shapes: [&[usize]; N], to: &[usize]) -> Result<Self> {
        let mut steps: [Dims; N] = std::array::from_fn(|_| Dims::new());
        if shapes.iter().all(|shape| *shape == to) {
            let len = to.iter().product();
            steps.iter_mut().for_each(|steps| steps.push(1));
            return Ok(Self { sizes: Dims::from_slice(&[len]), steps, len });
        }
        for shape in shapes {
            check(shape, to)?;
        }
        let mut sizes = Dims::new();
        let mut seen = [1usize; N];
        let mut last = None;
        for back in 1..=to.len() {
            let size = to[to.len() - back];
            if size == 1 {
                continue;
            }
            let own: [usize; N] =
                std::array::from_fn(|i| shapes[i].len().checked_sub(back).map_or(1, |at| shapes[i][at]));
            let repeats = own.map(|own| own == 1);
            if last == Some(repeats) {
                let at = sizes.len() - 1;
                sizes[at] *= size;
            } else {
                sizes.push(size);
                for i in 0..N {
                    steps[i].push(if repeats[i] { 0 } else { seen[i] });
                }
                last = Some(repeats);
            }
            for i in 0..N {
                seen[i] *= own[i];
            }
        }
        if sizes.is_empty() {
            sizes.push(1);
            steps.iter_mut().for_each(|steps| steps.push(0));
        }
        Ok(Self { len: sizes.iter().product(), sizes, steps })
    }

    /// Elements of the output.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when operand `i` is one element along a row, otherwise it runs along with the output.
    pub fn repeats(&self, i: usize) -> bool {
        self.steps[i][0] == 0
    }

    /// When exactly one operand repeats every `period` output elements, with `1 < period <= most`, and all others run
    /// along: that operand and its period.
    pub fn periodic(&self, most: usize) -> Option<(usize, usize)> {
        let period = self.sizes[0];
        if self.sizes.len() != 2
            || period < 2
            || period > most
            || self.steps.iter().any(|steps| steps[0] != 1)
        {
            return None;
        }
        let mut repeating = (0..N).filter(|&i| self.steps[i][1] == 0);
        let only = repeating.next()?;
        if repeating.next().is_some() { None } else { Some((only, period)) }
    }

    /// Calls `body(at, len, offsets)` for every row of the output elements `range`: the row fills output elements
    /// `at .. at + len` and operand `i` starts at its element `offsets[i]`.
    pub fn for_each_row(&self, range: Range<usize>, mut body: impl FnMut(usize, usize, [usize; N])) {
        if range.is_empty() {
            return;
        }
        let inner = self.sizes[0];
        if self.sizes.len() == 1 {
            let offsets = std::array::from_fn(|i| self.steps[i][0] * range.start);
            return body(range.start, range.len(), offsets);
        }
        let (mut row, mut column) = (range.start / inner, range.start % inner);
        let mut counters: Dims = self.sizes[1..]
            .iter()
            .map(|&size| {
                let counter = row % size;
                row /= size;
                counter
            })
            .collect();
        let mut bases: [usize; N] = std::array::from_fn(|i| {
            counters.iter().zip(&self.steps[i][1..]).map(|(&c, &step)| c * step).sum()
        });
        let mut at = range.start;
        while at < range.end {
            let len = (inner - column).min(range.end - at);
            body(at, len, std::array::from_fn(|i| bases[i] + column * self.steps[i][0]));
            at += len;
            column = 0;
            for (k, counter) in counters.iter_mut().enumerate() {
                *counter += 1;
                let wrapped = *counter == self.sizes[k + 1];
                for (base, steps) in bases.iter_mut().zip(&self.steps) {
                    *base += steps[k + 1];
                    if wrapped {
                        *base -= steps[k + 1] * self.sizes[k + 1];
                    }
                }
                if !wrapped {
                    break;
                }
                *counter = 0;
            }
        }
    }
}

fn check(shape: &[usize], to: &[usize]) -> Result<()> {
    let fits = shape.len() <= to.len()
        && shape.iter().rev().zip(to.iter().rev()).all(|(&own, &size)| own == size || own == 1);
    if fits {
        return Ok(());
    }
    Err(OpError::invalid(format!("a tensor of shape {shape:?} does not broadcast to shape {to:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(shapes: [&[usize]; 2], range: Option<Range<usize>>) -> Vec<(usize, [usize; 2])> {
        let to = shape_of(&shapes).unwrap();
        let plan = Broadcast::new(shapes, &to).unwrap();
        let mut seen = Vec::new();
        plan.for_each_row(range.unwrap_or(0..plan.len()), |at, len, offsets| {
            for k in 0..len {
                seen.push((
                    at + k,
                    std::array::from_fn(|i| offsets[i] + if plan.repeats(i) { 0 } else { k }),
                ));
            }
        });
        seen
    }

    fn reference(shapes: [&[usize]; 2]) -> Vec<(usize, [usize; 2])> {
        let to = shape_of(&shapes).unwrap();
        let strides = shapes.map(|shape| crate::shape::broadcast_strides(shape, &to));
        (0..to.iter().product())
            .map(|at: usize| {
                let mut rest = at;
                let mut offsets = [0; 2];
                for axis in (0..to.len()).rev() {
                    for i in 0..2 {
                        offsets[i] += rest % to[axis] * strides[i][axis];
                    }
                    rest /= to[axis];
                }
                (at, offsets)
            })
            .collect()
    }

    #[test]
    fn rows_visit_every_element_once_with_the_right_operands() {
        let shapes: [[&[usize]; 2]; 9] = [
            [&[2, 3, 4], &[2, 3, 4]],
            [&[2, 3, 4], &[]],
            [&[2, 3, 4], &[3, 1]],
            [&[2, 1, 4], &[3, 1]],
            [&[1], &[1, 1]],
            [&[5, 1, 2, 1], &[1, 3, 1, 7]],
            [&[0, 3], &[3]],
            [&[2, 2, 3, 3], &[2, 1, 3, 1]],
            [&[], &[]],
        ];
        for shapes in shapes {
            let expected = reference(shapes);
            assert_eq!(walk(shapes, None), expected, "{shapes:?}");
            for start in 0..expected.len() {
                let end = (start + 5).min(expected.len());
                assert_eq!(walk(shapes, Some(start..end)), expected[start..end], "{shapes:?} from {start}");
            }
        }
    }

    #[test]
    fn equal_masks_merge_into_one_loop() {
        let plan = Broadcast::new([&[2, 3, 4, 5], &[3, 1, 1]], &[2, 3, 4, 5]).unwrap();
        assert_eq!(plan.sizes.as_slice(), [20, 3, 2]);
        assert_eq!(plan.periodic(512), None);
        let row = Broadcast::new([&[5], &[2, 3, 5]], &[2, 3, 5]).unwrap();
        assert_eq!((row.periodic(512), row.periodic(4)), (Some((0, 5)), None));
        assert!(Broadcast::new([&[2, 3], &[2]], &[2, 3]).is_err());
    }
}
