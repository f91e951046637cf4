//! Attention as its definition says: all scores of a row, then one softmax. The reference for the fast path.

use super::shape::{AttentionShape, HeadStrides, Options, check};
use crate::cpu::features::Context;
use crate::cpu::float::Float;
use crate::error::Result;
use crate::parallel::SharedMut;

/// The same contract as [`super::attention`].
pub fn attention_reference<Q: Float, K: Float, Y: Float>(
    ctx: Context<'_>,
    shape: &AttentionShape,
    (q, q_strides): (&[Q], HeadStrides),
    (k, k_strides): (&[K], HeadStrides),
    (v, v_strides): (&[K], HeadStrides),
    options: &Options<'_>,
    (y, y_strides): (&mut [Y], HeadStrides),
) -> Result<()> {
    check(
        shape,
        [q.len(), k.len(), v.len(), y.len()],
        [q_strides, k_strides, v_strides, y_strides],
        options,
    )?;
    let group = shape.q_heads / shape.kv_heads;
    let out = SharedMut::new(y);
    ctx.parallel.for_each(shape.batch * shape.q_heads, &|task| {
        let (b, h) = (task / shape.q_heads, task % shape.q_heads);
        let kv_length = options.kv_length(shape, b);
        let mut scores = vec![0.0f32; kv_length];
        for i in 0..shape.q_len {
            let q = &q[q_strides.offset(b, h, i)..][..shape.qk_dim];
            let (start, end) = options.key_range(options.q_offset(shape, b) + i as isize, kv_length);
            for (j, score) in scores.iter_mut().enumerate().take(end).skip(start) {
                let k = &k[k_strides.offset(b, h / group, j)..][..shape.qk_dim];
                let dot: f32 = q.iter().zip(k).map(|(q, k)| q.to_f32() * k.to_f32()).sum();
                *score = dot * options.scale;
                if options.softcap > 0.0 {
                    *score = options.softcap * (*score / options.softcap).tanh();
                }
                *score += options.mask.map_or(0.0, |mask| mask.value(b, h, i, j));
            }
            let sink = options.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[h]);
            let seen = &mut scores[start..end];
            let max = seen.iter().copied().fold(sink, f32::max);
            let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let mut sum = (sink - shift).exp();
            for score in seen.iter_mut() {
                *score = (*score - shift).exp();
                sum += *score;
            }
            let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            let at = y_strides.offset(b, h, i);
            // SAFETY: rows are disjoint, by the check.
            let y = unsafe { out.slice(at..at + shape.v_dim) };
            for (d, y) in y.iter_mut().enumerate() {
                let value = |j: usize| v[v_strides.offset(b, h / group, j) + d].to_f32();
                let sum: f32 = (start..end).map(|j| scores[j] * value(j)).sum();
                *y = Y::from_f32(sum * scale);
            }
        }
    });
    Ok(())
}
