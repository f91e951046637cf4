//! Scaled dot-product attention over strided tensors: grouped heads, masks, windows, soft caps and sinks.

mod decode;
mod prefill;
mod reference;
mod shape;

pub use reference::attention_reference;
pub use shape::{AttentionShape, HeadStrides, Mask, MaskData, Options};

use super::features::Context;
use super::float::Float;
use crate::error::Result;
use crate::parallel::SharedMut;

/// Query rows of a key head up to which keys are read row by row instead of being packed.
const DECODE_ROWS: usize = 8;

/// `y = softmax(scale * q kᵀ + mask) v` for every batch and query head. A row that sees no key becomes zero.
pub fn attention<Q: Float, K: Float, Y: Float>(
    ctx: Context<'_>,
    shape: &AttentionShape,
    (q, q_strides): (&[Q], HeadStrides),
    (k, k_strides): (&[K], HeadStrides),
    (v, v_strides): (&[K], HeadStrides),
    options: &Options<'_>,
    (y, y_strides): (&mut [Y], HeadStrides),
) -> Result<()> {
    let strides = [q_strides, k_strides, v_strides, y_strides];
    shape::check(shape, [q.len(), k.len(), v.len(), y.len()], strides, options)?;
    if shape.batch * shape.q_heads * shape.q_len * shape.v_dim == 0 {
        return Ok(());
    }
    let call = Call { ctx, shape, q, k, v, y: SharedMut::new(y), strides, options };
    if call.group() * shape.q_len <= DECODE_ROWS {
        decode::run(&call);
    } else {
        prefill::run(&call);
    }
    Ok(())
}

/// The checked operands of one call.
struct Call<'a, Q, K, Y> {
    ctx: Context<'a>,
    shape: &'a AttentionShape,
    q: &'a [Q],
    k: &'a [K],
    v: &'a [K],
    y: SharedMut<'a, Y>,
    /// Of q, k, v and y.
    strides: [HeadStrides; 4],
    options: &'a Options<'a>,
}

/// One query row: rows of the query heads that share a key head are interleaved, position by position.
#[derive(Clone, Copy)]
struct QueryRow {
    head: usize,
    position: usize,
    /// Keys it may see before any mask.
    start: usize,
    end: usize,
}

impl<Q: Float, K: Float, Y: Float> Call<'_, Q, K, Y> {
    /// Query heads per key head.
    fn group(&self) -> usize {
        self.shape.q_heads / self.shape.kv_heads
    }

    /// Row `index` of those that read key head `kv_head`.
    fn row(&self, batch: usize, kv_head: usize, index: usize) -> QueryRow {
        let group = self.group();
        let position = index / group;
        let length = self.options.kv_length(self.shape, batch);
        let key_position = self.options.q_offset(self.shape, batch) + position as isize;
        let (start, end) = self.options.key_range(key_position, length);
        QueryRow { head: kv_head * group + index % group, position, start, end }
    }

    fn query(&self, batch: usize, row: QueryRow) -> &[Q] {
        &self.q[self.strides[0].offset(batch, row.head, row.position)..][..self.shape.qk_dim]
    }

    /// Writes one output row.
    ///
    /// # Safety
    /// No other task may write the same row.
    unsafe fn store(&self, batch: usize, row: QueryRow, value: impl Fn(usize) -> f32) {
        let at = self.strides[3].offset(batch, row.head, row.position);
        // SAFETY: the caller writes each row once, and rows do not overlap by `check`.
        let y = unsafe { self.y.slice(at..at + self.shape.v_dim) };
        for (d, y) in y.iter_mut().enumerate() {
            *y = Y::from_f32(value(d));
        }
    }
}
