//! Attention of a few query rows: keys and values are read once, as they lie, for all rows that share them.
//!
//! The keys of a head are cut into spans so that all threads have work; spans are joined by their maxima and sums.

use super::{Call, QueryRow};
use crate::cpu::buffer::with_scratch;
use crate::cpu::float::Float;
use crate::cpu::simd::{Kernel, Simd};
use crate::cpu::softmax::{exp_row, row_max};
use crate::parallel::SharedMut;

/// Keys whose scores are held at once.
const KEYS: usize = 128;
/// Keys of a span, at least.
const SPAN: usize = 512;
/// Query rows handled together.
const ROWS: usize = 4;
/// Vectors of the output held in registers for each of them.
const COLUMNS: usize = 4;

/// Runs every (batch, key head, span) and joins the spans.
pub(super) fn run<Q: Float, K: Float, Y: Float>(call: &Call<'_, Q, K, Y>) {
    let shape = call.shape;
    let rows = call.group() * shape.q_len;
    let heads = shape.batch * shape.kv_heads;
    let threads = call.ctx.parallel.threads();
    let most = shape.kv_len.div_ceil(SPAN).max(1);
    let spans =
        if threads == 1 || heads >= 4 * threads { 1 } else { (threads * 2).div_ceil(heads).min(most) };
    // Per row: maximum, sum, outputs.
    let record = (shape.v_dim + 2).next_multiple_of(16);
    with_scratch::<f32, _>(heads * spans * rows * record, |partial| {
        let out = SharedMut::new(partial);
        call.ctx.parallel.for_each(heads * spans, &|task| {
            let (head, span) = (task / spans, task % spans);
            let (batch, kv_head) = (head / shape.kv_heads, head % shape.kv_heads);
            // SAFETY: one part per task.
            let partial = unsafe { out.slice(task * rows * record..(task + 1) * rows * record) };
            let rows: Vec<QueryRow> = (0..rows).map(|row| call.row(batch, kv_head, row)).collect();
            let padded = shape.qk_dim.next_multiple_of(16);
            // Scratch is taken outside the kernel: a closure inside would be compiled without the tier's instructions.
            with_scratch::<f32, _>(rows.len() * (padded + KEYS), |scratch| {
                let rows = &rows;
                call.ctx.features.dispatch(Span {
                    call,
                    batch,
                    kv_head,
                    rows,
                    span,
                    spans,
                    record,
                    partial,
                    scratch,
                });
            });
        });
        for head in 0..heads {
            let (batch, kv_head) = (head / shape.kv_heads, head % shape.kv_heads);
            for row in 0..rows {
                let part = |span: usize| &partial[((head * spans + span) * rows + row) * record..][..record];
                join(call, batch, call.row(batch, kv_head, row), spans, part);
            }
        }
    });
}

/// Adds up the spans of one row and writes it; a sink joins as one more key without a value.
fn join<'p, Q: Float, K: Float, Y: Float>(
    call: &Call<'_, Q, K, Y>,
    batch: usize,
    row: QueryRow,
    spans: usize,
    part: impl Fn(usize) -> &'p [f32],
) {
    let sink = call.options.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[row.head]);
    let max = (0..spans).fold(sink, |max, span| max.max(part(span)[0]));
    let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let factor = |span: usize| (part(span)[0] - shift).exp();
    let sum: f32 = (0..spans).map(|span| factor(span) * part(span)[1]).sum::<f32>() + (sink - shift).exp();
    let scale = if sum == 0.0 { 0.0 } else { 1.0 / sum };
    if spans == 1 {
        let only = factor(0) * scale;
        // SAFETY: rows are written once, on one thread.
        return unsafe { call.store(batch, row, |d| part(0)[2 + d] * only) };
    }
    let value = |d: usize| (0..spans).map(|span| factor(span) * part(span)[2 + d]).sum::<f32>() * scale;
    // SAFETY: as above.
    unsafe { call.store(batch, row, value) };
}

struct Span<'a, 'b, Q, K, Y> {
    call: &'a Call<'b, Q, K, Y>,
    batch: usize,
    kv_head: usize,
    rows: &'a [QueryRow],
    span: usize,
    spans: usize,
    record: usize,
    partial: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl<Q: Float, K: Float, Y: Float> Kernel for Span<'_, '_, Q, K, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, batch, kv_head, rows, span, spans, record, partial, scratch } = self;
        let depth = call.shape.qk_dim;
        let start = rows.iter().map(|row| row.start).min().unwrap_or(0);
        let end = rows.iter().map(|row| row.end).max().unwrap_or(0).max(start);
        let bound = |span: usize| start + (end - start) * span / spans;
        let (first, end) = (bound(span), bound(span + 1));
        for record in partial.chunks_exact_mut(record) {
            record.fill(0.0);
            record[0] = f32::NEG_INFINITY;
        }
        let padded = depth.next_multiple_of(16);
        let (queries, scores) = scratch.split_at_mut(rows.len() * padded);
        queries.fill(0.0);
        for (queries, &row) in queries.chunks_exact_mut(padded.max(1)).zip(rows) {
            for (packed, q) in queries.iter_mut().zip(call.query(batch, row)) {
                *packed = q.to_f32() * call.options.scale;
            }
        }
        let mut key = first;
        while key < end {
            let keys = KEYS.min(end - key);
            let k = &call.k[call.strides[1].offset(batch, kv_head, key)..];
            let v = &call.v[call.strides[2].offset(batch, kv_head, key)..];
            let mut row = 0;
            while row < rows.len() {
                let count = ROWS.min(rows.len() - row);
                let (queries, scores) = (&queries[row * padded..], &mut scores[row * KEYS..]);
                let step = call.strides[1].row;
                // SAFETY: `keys` rows of keys were checked with the operand; queries and scores hold `count`.
                unsafe {
                    match count {
                        1 => dots::<S, K, 1>(s, k, step, keys, depth, queries, padded, scores),
                        2 => dots::<S, K, 2>(s, k, step, keys, depth, queries, padded, scores),
                        3 => dots::<S, K, 3>(s, k, step, keys, depth, queries, padded, scores),
                        _ => dots::<S, K, 4>(s, k, step, keys, depth, queries, padded, scores),
                    }
                }
                row += count;
            }
            for (index, &row) in rows.iter().enumerate() {
                let scores = &mut scores[index * KEYS..index * KEYS + keys];
                adjust(s, call, batch, row, key, scores);
                softmax_step(s, scores, &mut partial[index * record..(index + 1) * record]);
            }
            let mut row = 0;
            while row < rows.len() {
                let count = ROWS.min(rows.len() - row);
                let (scores, partial) = (&scores[row * KEYS..], &mut partial[row * record..]);
                let (step, v_dim) = (call.strides[2].row, call.shape.v_dim);
                // SAFETY: as above for the values; records hold `v_dim` outputs.
                unsafe {
                    match count {
                        1 => add_values::<S, K, 1>(s, v, step, keys, v_dim, scores, partial, record),
                        2 => add_values::<S, K, 2>(s, v, step, keys, v_dim, scores, partial, record),
                        3 => add_values::<S, K, 3>(s, v, step, keys, v_dim, scores, partial, record),
                        _ => add_values::<S, K, 4>(s, v, step, keys, v_dim, scores, partial, record),
                    }
                }
                row += count;
            }
            key += keys;
        }
    }
}

/// `scores[r][j] = key j . query r`; every key is loaded once for all `R` queries, which are zero-padded.
#[inline(always)]
unsafe fn dots<S: Simd, K: Float, const R: usize>(
    s: S,
    k: &[K],
    step: usize,
    keys: usize,
    depth: usize,
    queries: &[f32],
    padded: usize,
    scores: &mut [f32],
) {
    let whole = depth - depth % S::LANES;
    // SAFETY: the caller vouches for keys, queries and scores.
    unsafe {
        for j in 0..keys {
            let key = k.as_ptr().add(j * step);
            let mut acc = [s.zero(); R];
            let mut d = 0;
            while d < whole {
                let v = K::load(s, key.add(d));
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = s.fma(v, s.load(queries.as_ptr().add(r * padded + d)), *acc);
                }
                d += S::LANES;
            }
            if d < depth {
                let v = K::load_partial(s, key.add(d), depth - d);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let q = s.load_partial(queries.as_ptr().add(r * padded + d), depth - d);
                    *acc = s.fma(v, q, *acc);
                }
            }
            for (r, &acc) in acc.iter().enumerate() {
                scores[r * KEYS + j] = s.reduce_sum(acc);
            }
        }
    }
}

/// Soft cap, mask and bounds of one row of scores.
#[inline(always)]
fn adjust<S: Simd, Q: Float, K: Float, Y: Float>(
    s: S,
    call: &Call<'_, Q, K, Y>,
    batch: usize,
    row: QueryRow,
    key: usize,
    scores: &mut [f32],
) {
    let options = call.options;
    if options.softcap > 0.0 {
        let (cap, inverse) = (s.splat(options.softcap), s.splat(1.0 / options.softcap));
        let mut j = 0;
        while j < scores.len() {
            let n = S::LANES.min(scores.len() - j);
            let p = scores[j..].as_mut_ptr();
            // SAFETY: n scores remain.
            unsafe {
                let v = s.mul(cap, crate::cpu::math::tanh(s, s.mul(s.load_partial(p, n), inverse)));
                s.store_partial(p, n, v);
            }
            j += n;
        }
    }
    if let Some(mask) = &options.mask {
        for (j, score) in scores.iter_mut().enumerate() {
            *score += mask.value(batch, row.head, row.position, key + j);
        }
    }
    let len = scores.len();
    scores[..row.start.saturating_sub(key).min(len)].fill(f32::NEG_INFINITY);
    scores[row.end.saturating_sub(key).min(len)..].fill(f32::NEG_INFINITY);
}

/// Turns scores into probabilities relative to the running maximum and rescales the record.
#[inline(always)]
fn softmax_step<S: Simd>(s: S, scores: &mut [f32], record: &mut [f32]) {
    let old = record[0];
    // SAFETY: the row holds its length; it is read and written in place.
    unsafe {
        let max = row_max(s, scores.as_ptr(), scores.len()).max(old);
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let p = scores.as_mut_ptr();
        let sum = exp_row(s, p, p, scores.len(), s.splat(shift), true);
        let factor = (old - shift).exp();
        record[0] = max;
        record[1] = record[1] * factor + sum;
        if factor != 1.0 {
            record[2..].iter_mut().for_each(|v| *v *= factor);
        }
    }
}

/// `record[r].outputs[d] += sum over keys of probabilities[r][j] * values[j][d]`.
#[inline(always)]
unsafe fn add_values<S: Simd, K: Float, const R: usize>(
    s: S,
    v: &[K],
    step: usize,
    keys: usize,
    v_dim: usize,
    probabilities: &[f32],
    partial: &mut [f32],
    record: usize,
) {
    let block = COLUMNS * S::LANES;
    let mut d = 0;
    // SAFETY: the caller vouches for values, probabilities and records.
    unsafe {
        while d + block <= v_dim {
            let mut acc = [[s.zero(); COLUMNS]; R];
            for j in 0..keys {
                let value = v.as_ptr().add(j * step + d);
                let mut columns = [s.zero(); COLUMNS];
                for (c, column) in columns.iter_mut().enumerate() {
                    *column = K::load(s, value.add(c * S::LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let p = s.splat(*probabilities.as_ptr().add(r * KEYS + j));
                    for (sum, column) in acc.iter_mut().zip(columns) {
                        *sum = s.fma(p, column, *sum);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (c, &sum) in acc.iter().enumerate() {
                    let p = partial.as_mut_ptr().add(r * record + 2 + d + c * S::LANES);
                    s.store(p, s.add(s.load(p), sum));
                }
            }
            d += block;
        }
        while d < v_dim {
            let n = S::LANES.min(v_dim - d);
            let mut acc = [s.zero(); R];
            for j in 0..keys {
                let value = v.as_ptr().add(j * step + d);
                let column = if n == S::LANES { K::load(s, value) } else { K::load_partial(s, value, n) };
                for (r, sum) in acc.iter_mut().enumerate() {
                    *sum = s.fma(s.splat(*probabilities.as_ptr().add(r * KEYS + j)), column, *sum);
                }
            }
            for (r, &sum) in acc.iter().enumerate() {
                let p = partial.as_mut_ptr().add(r * record + 2 + d);
                s.store_partial(p, n, s.add(s.load_partial(p, n), sum));
            }
            d += n;
        }
    }
}
