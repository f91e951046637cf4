//! The cache of GroupQueryAttention that holds a window only: which positions stay, and how a step leaves them.

use tenon_kernels::cpu::Float;

use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::ops::attention::plain::Mask;
use crate::tensor::{DType, Element, Tensor};

/// A cache with room for `capacity` positions of which a query sees the last `window`.
#[derive(Clone, Copy, Debug)]
pub struct WindowCache {
    capacity: usize,
    window: usize,
}

impl WindowCache {
    pub fn new(capacity: usize, window: usize) -> Result<WindowCache> {
        if window == 0 || capacity < window {
            return Err(OpError::invalid(format!(
                "a cache of {capacity} positions does not hold a window of {window}"
            )));
        }
        Ok(WindowCache { capacity, window })
    }

    /// How many positions are in the cache after `total` tokens: all that fit, and when they do not, as many whole steps
    /// of `capacity - window + 1` fewer as are needed.
    pub fn resident(self, total: usize) -> usize {
        let step = self.capacity - self.window + 1;
        total - step * total.saturating_sub(self.capacity).div_ceil(step)
    }

    /// The cache after a step, from the rows `[batch * heads, room, width]` that it worked on: of the `lengths[b]` valid
    /// ones the last that stay, first in the buffer.
    pub fn keep<T: Element + Float>(
        self,
        cx: &Context<'_>,
        part: usize,
        staged: &Tensor,
        lengths: &[usize],
        totals: &[usize],
    ) -> Result<Tensor> {
        let &[batch, heads, room, width] = staged.dims() else {
            return Err(OpError::invalid("the rows of a step have four axes"));
        };
        let mut present = cx.zeroed_output(part, T::DTYPE, &[batch, heads, self.capacity, width])?;
        let (from, to) = (room * width, self.capacity * width);
        let data = staged.as_slice::<T>()?;
        for (index, out) in present.as_mut_slice::<T>()?.chunks_exact_mut(to.max(1)).enumerate() {
            let (length, kept) = (lengths[index / heads], self.resident(totals[index / heads]));
            let first = index * from + (length - kept) * width;
            out[..kept * width].copy_from_slice(&data[first..][..kept * width]);
        }
        Ok(present)
    }
}

/// A bias whose columns are absolute positions, with columns for the rows of the cache: column `c` of entry `b` is
/// column `first[b] + c`. Returns it with its strides and columns.
pub fn bias_of_window(
    cx: &Context<'_>,
    bias: &Tensor,
    [batch, heads, rows, room]: [usize; 4],
    first: &[usize],
) -> Result<(Tensor, [usize; 4], usize)> {
    let columns = bias.dims().last().copied().unwrap_or(0);
    let (strides, columns) = Mask::<f32>::fit(bias.dims(), [batch, heads, rows, columns])?;
    let mut out = cx.scratch(DType::F32, &[batch, heads, rows, room])?;
    let data = bias.as_slice::<f32>()?;
    for (index, out) in out.as_mut_slice::<f32>()?.chunks_exact_mut(room.max(1)).enumerate() {
        let (b, h, row) = (index / (heads * rows), index / rows % heads, index % rows);
        let line = b * strides[0] + h * strides[1] + row * strides[2];
        for (column, out) in out.iter_mut().enumerate() {
            let at = first[b] + column;
            *out = if at < columns { data[line + at * strides[3]] } else { 0.0 };
        }
    }
    Ok((out, [heads * rows * room, rows * room, room, 1], room))
}

#[cfg(test)]
mod tests {
    use super::WindowCache;

    #[test]
    fn the_window_stays_and_the_capacity_is_never_exceeded() {
        for (capacity, window) in [(4, 4), (6, 4), (9, 2), (5, 1)] {
            let cache = WindowCache::new(capacity, window).unwrap();
            let mut before = 0;
            for total in 0..60 {
                let resident = cache.resident(total);
                assert!(total.min(window) <= resident && resident <= total.min(capacity));
                assert!(resident <= before + 1, "positions that left do not come back");
                before = resident;
            }
        }
        assert!(WindowCache::new(3, 4).is_err() && WindowCache::new(3, 0).is_err());
    }
}
