//! Key and value caches `[batch, heads, positions, width]`: joining the past with new rows.

use tenon_kernels::cpu::attention::HeadStrides;

use crate::error::Result;
use crate::kernel::Context;
use crate::tensor::{Element, Tensor};

/// Output `output` with the bytes of the cache in input `input`: in its memory where nobody else needs that or where
/// the caller gives the same memory for both, else a copy.
pub fn take_over(cx: &mut Context<'_>, input: usize, output: usize) -> Result<Tensor> {
    if let Some(cache) = cx.reuse(input, output) {
        return Ok(cache);
    }
    let cache = cx.input(input)?;
    let mut copy = cx.output(output, cache.dtype(), cache.dims())?;
    if copy.as_ptr() != cache.as_ptr() {
        copy.as_bytes_mut().copy_from_slice(cache.as_bytes());
    }
    Ok(copy)
}

/// New rows of a cache: where they lie and how many there are.
#[derive(Clone, Copy)]
pub struct NewRows<'a, T> {
    pub data: &'a [T],
    pub strides: HeadStrides,
    pub count: usize,
}

impl<'a, T> NewRows<'a, T> {
    /// The row of `width` elements at a batch, head and position.
    pub fn row(&self, batch: usize, head: usize, row: usize, width: usize) -> &'a [T] {
        let HeadStrides { batch: b, head: h, row: r } = self.strides;
        &self.data[batch * b + head * h + row * r..][..width]
    }
}

/// Writes `past` (of `past_len` positions) and then the new rows into `present`, for every batch and head.
pub fn join<T: Element>(
    past: Option<(&[T], usize)>,
    new: NewRows<'_, T>,
    [batch, heads, width]: [usize; 3],
    present: &mut [T],
) {
    let past_len = past.map_or(0, |past| past.1);
    let line = (past_len + new.count) * width;
    if line == 0 {
        return;
    }
    for (index, out) in present.chunks_exact_mut(line).enumerate().take(batch * heads) {
        let (b, h) = (index / heads, index % heads);
        let (head, tail) = out.split_at_mut(past_len * width);
        if let Some((past, _)) = past {
            head.copy_from_slice(&past[index * past_len * width..][..past_len * width]);
        }
        for (row, out) in tail.chunks_exact_mut(width.max(1)).enumerate() {
            out.copy_from_slice(new.row(b, h, row, width));
        }
    }
}
