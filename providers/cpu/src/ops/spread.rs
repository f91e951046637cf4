//! Reading a tensor as if it had a larger, broadcast shape, one row of the larger shape at a time.

use crate::error::{OpError, Result};
use crate::shape::{broadcast, broadcast_strides};
use crate::tensor::Dims;

/// A tensor seen under a shape it broadcasts to.
pub struct Spread<'a, T> {
    data: &'a [T],
    outer: Dims,
    strides: Dims,
    /// 1 when rows hold one element a column, 0 when one element stands for the whole row.
    step: usize,
}

impl<'a, T: Copy> Spread<'a, T> {
    /// Views `data` of shape `dims` as shape `to` (at least one dimension). Errors when it does not broadcast to `to`.
    pub fn new(data: &'a [T], dims: &[usize], to: &[usize]) -> Result<Spread<'a, T>> {
        if dims.len() > to.len() || broadcast(dims, to)?.as_slice() != to {
            return Err(OpError::invalid(format!("shape {dims:?} does not broadcast to {to:?}")));
        }
        let mut strides = broadcast_strides(dims, to);
        let step = strides.pop().unwrap_or(0);
        let outer = to[..to.len().saturating_sub(1)].into();
        Ok(Spread { data, outer, strides, step })
    }

    /// Where row `index` of the larger shape starts.
    fn start(&self, mut index: usize) -> usize {
        let mut start = 0;
        for (&dim, &stride) in self.outer.iter().zip(&self.strides).rev() {
            start += index % dim * stride;
            index /= dim;
        }
        start
    }

    /// Calls `f` with each element of `row` and the element of the view beside it.
    pub fn zip<U>(&self, index: usize, row: &mut [U], f: impl Fn(&mut U, T)) {
        let start = self.start(index);
        if self.step == 0 {
            let value = self.data[start];
            row.iter_mut().for_each(|element| f(element, value));
        } else {
            row.iter_mut().zip(&self.data[start..]).for_each(|(element, &value)| f(element, value));
        }
    }

    /// Element `column` of row `index`.
    pub fn at(&self, index: usize, column: usize) -> T {
        self.data[self.start(index) + column * self.step]
    }
}
