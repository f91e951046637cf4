//! Attention of many query rows: tiles of keys against tiles of queries with a running softmax.
//!
//! Everything is transposed so that a vector lane is a query row and no reduction crosses lanes:
//! ```text
//! scores  [keys][lanes]   = keys packed as rows      x  queries packed as columns
//! softmax                   down the keys, lane by lane
//! outputs [v_dim][lanes] += values as they lie in memory  x  probabilities as they lie
//! ```

use super::shape::{Mask, MaskData};
use super::{Call, QueryRow};
use crate::cpu::buffer::with_scratch;
use crate::cpu::float::Float;
use crate::cpu::gemm::micro::{MAX_TILE, TILE_VECTORS, Tile, accumulate_tile, tile_rows};
use crate::cpu::gemm::{pack_rows, tile_shape};
use crate::cpu::math;
use crate::cpu::matrix::{Matrix, RowSplit};
use crate::cpu::simd::{Kernel, Simd};

/// Keys of a tile.
const KEYS: usize = 128;
/// Query rows that share a packed tile of keys.
const CHUNK_ROWS: usize = 256;

/// Splits the query rows of every key head into chunks and runs them.
pub(super) fn run<Q: Float, K: Float, Y: Float>(call: &Call<'_, Q, K, Y>) {
    let shape = call.shape;
    let rows = call.group() * shape.q_len;
    let (_, nr) = tile_shape(call.ctx.features);
    let heads = shape.batch * shape.kv_heads;
    let wanted = (call.ctx.parallel.threads() * 3).div_ceil(heads);
    let most = CHUNK_ROWS.min(rows.div_ceil(wanted)).next_multiple_of(nr);
    let chunks = rows.div_ceil(most);
    call.ctx.parallel.for_each(heads * chunks, &|task| {
        // Later rows see more keys: they go first.
        let (head, chunk) = (task % heads, chunks - 1 - task / heads);
        let (batch, kv_head) = (head / shape.kv_heads, head % shape.kv_heads);
        let first = chunk * most;
        let rows: Vec<QueryRow> =
            (first..rows.min(first + most)).map(|row| call.row(batch, kv_head, row)).collect();
        let tiles = rows.len().div_ceil(nr);
        let lens =
            Buffers::lens(tiles, nr, shape.qk_dim, shape.v_dim, !is_f32::<K>(), call.options.mask.is_some());
        // Scratch is taken outside the kernel: a closure inside would be compiled without the tier's instructions.
        with_scratch::<f32, _>(lens.iter().sum(), |scratch| {
            let buffers = Buffers::cut(scratch, lens);
            call.ctx.features.dispatch(Chunk { call, batch, kv_head, rows: &rows, buffers });
        });
    });
}

struct Chunk<'a, 'b, Q, K, Y> {
    call: &'a Call<'b, Q, K, Y>,
    batch: usize,
    kv_head: usize,
    rows: &'a [QueryRow],
    buffers: Buffers<'a>,
}

/// Scratch of a chunk, cut from one buffer.
struct Buffers<'a> {
    /// `[tiles][qk_dim][lanes]`.
    queries: &'a mut [f32],
    /// `[tiles][v_dim][lanes]`.
    outputs: &'a mut [f32],
    /// `[tiles][2][lanes]`: running maximum and sum.
    state: &'a mut [f32],
    /// `[KEYS][qk_dim]` in row panels.
    keys: &'a mut [f32],
    /// `[KEYS][v_dim]`, unused where values are read in place.
    values: &'a mut [f32],
    /// `[KEYS][lanes]`.
    scores: &'a mut [f32],
    /// `[KEYS][lanes]`.
    mask: &'a mut [f32],
}

impl<'a> Buffers<'a> {
    fn lens(tiles: usize, nr: usize, qk_dim: usize, v_dim: usize, values: bool, mask: bool) -> [usize; 7] {
        let values = if values { KEYS * v_dim } else { 0 };
        let mask = if mask { KEYS * nr } else { 0 };
        let lens =
            [tiles * qk_dim * nr, tiles * v_dim * nr, tiles * 2 * nr, KEYS * qk_dim, values, KEYS * nr, mask];
        lens.map(|len| len.next_multiple_of(16))
    }

    fn cut(mut scratch: &'a mut [f32], lens: [usize; 7]) -> Self {
        let [queries, outputs, state, keys, values, scores, mask] = lens.map(|len| {
            let (part, rest) = std::mem::take(&mut scratch).split_at_mut(len);
            scratch = rest;
            part
        });
        Self { queries, outputs, state, keys, values, scores, mask }
    }
}

impl<Q: Float, K: Float, Y: Float> Kernel for Chunk<'_, '_, Q, K, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, batch, kv_head, rows, mut buffers } = self;
        let work = Rows { call, batch, kv_head, rows };
        work.start(s, &mut buffers);
        let start = rows.iter().map(|row| row.start).min().unwrap_or(0);
        let end = rows.iter().map(|row| row.end).max().unwrap_or(0);
        let mut key = start;
        while key < end {
            let keys = KEYS.min(end - key);
            work.key_tile(s, &mut buffers, key, keys);
            key += keys;
        }
        work.finish(s, &buffers);
    }
}

/// A chunk without its scratch.
struct Rows<'a, 'b, Q, K, Y> {
    call: &'a Call<'b, Q, K, Y>,
    batch: usize,
    kv_head: usize,
    rows: &'a [QueryRow],
}

fn is_f32<T: 'static>() -> bool {
    std::any::TypeId::of::<T>() == std::any::TypeId::of::<f32>()
}

impl<Q: Float, K: Float, Y: Float> Rows<'_, '_, Q, K, Y> {
    /// Packs the queries and clears the running state; a sink is a key of its own that was already seen.
    #[inline(always)]
    fn start<S: Simd>(&self, _: S, buffers: &mut Buffers<'_>) {
        let nr = TILE_VECTORS * S::LANES;
        let qk_dim = self.call.shape.qk_dim;
        let options = self.call.options;
        buffers.queries.fill(0.0);
        buffers.outputs.fill(0.0);
        for (index, &row) in self.rows.iter().enumerate() {
            let (tile, lane) = (index / nr, index % nr);
            let packed = &mut buffers.queries[tile * qk_dim * nr..(tile + 1) * qk_dim * nr];
            for (d, q) in self.call.query(self.batch, row).iter().enumerate() {
                packed[d * nr + lane] = q.to_f32() * options.scale;
            }
        }
        for (tile, state) in buffers.state.chunks_exact_mut(2 * nr).enumerate() {
            let (max, sum) = state.split_at_mut(nr);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            if let Some(sinks) = options.sinks {
                for (lane, row) in self.rows.iter().skip(tile * nr).take(nr).enumerate() {
                    max[lane] = sinks[row.head];
                    sum[lane] = if sinks[row.head] == f32::NEG_INFINITY { 0.0 } else { 1.0 };
                }
            }
        }
    }

    /// All query tiles against keys `key..key + keys`.
    #[inline(always)]
    fn key_tile<S: Simd>(&self, s: S, buffers: &mut Buffers<'_>, key: usize, keys: usize) {
        let nr = TILE_VECTORS * S::LANES;
        let call = self.call;
        let (qk_dim, v_dim) = (call.shape.qk_dim, call.shape.v_dim);
        let split = RowSplit::new(keys, tile_rows::<S>());
        let row_stride = call.strides[1].row;
        let matrix = Matrix { data: call.k, rows: keys, cols: qk_dim, row_stride, col_stride: 1 };
        for panel in 0..split.panels() {
            let offset = call.strides[1].offset(self.batch, self.kv_head, key + split.start(panel));
            let dst = &mut buffers.keys[split.start(panel) * qk_dim..];
            pack_rows(&matrix, offset, split.height(panel), qk_dim, dst);
        }
        let v_offset = call.strides[2].offset(self.batch, self.kv_head, key);
        let (values, value_step) = if is_f32::<K>() {
            (call.v[v_offset..].as_ptr().cast::<f32>(), call.strides[2].row)
        } else {
            convert_rows(s, &call.v[v_offset..], call.strides[2].row, keys, v_dim, buffers.values);
            (buffers.values.as_ptr(), v_dim)
        };
        for (tile, rows) in self.rows.chunks(nr).enumerate() {
            let visible = rows.iter().any(|row| row.start < key + keys && row.end > key);
            if !visible {
                continue;
            }
            let queries = &buffers.queries[tile * qk_dim * nr..];
            // SAFETY: panels of keys and queries were packed above with these extents.
            unsafe { score_tile(s, split, qk_dim, buffers.keys, queries, rows.len(), buffers.scores) };
            self.hide(s, rows, key, keys, buffers.scores, buffers.mask);
            let state = &mut buffers.state[tile * 2 * nr..(tile + 1) * 2 * nr];
            let outputs = &mut buffers.outputs[tile * v_dim * nr..(tile + 1) * v_dim * nr];
            let scale = softmax_tile(s, keys, rows.len(), buffers.scores, state);
            // SAFETY: `keys` rows of `v_dim` values, `value_step` apart, were checked with the operand.
            unsafe {
                output_tile(s, keys, v_dim, values, value_step, buffers.scores, rows.len(), scale, outputs)
            };
        }
    }

    /// Applies the soft cap, the mask and the bounds of every row to a tile of scores.
    #[inline(always)]
    fn hide<S: Simd>(
        &self,
        s: S,
        rows: &[QueryRow],
        key: usize,
        keys: usize,
        scores: &mut [f32],
        mask: &mut [f32],
    ) {
        let nr = TILE_VECTORS * S::LANES;
        let options = self.call.options;
        if options.softcap > 0.0 {
            let (cap, inverse) = (s.splat(options.softcap), s.splat(1.0 / options.softcap));
            for vector in scores[..keys * nr].chunks_exact_mut(S::LANES) {
                // SAFETY: one vector.
                unsafe {
                    let v = s.mul(cap, math::tanh(s, s.mul(s.load(vector.as_ptr()), inverse)));
                    s.store(vector.as_mut_ptr(), v);
                }
            }
        }
        if let Some(values) = &options.mask {
            read_mask(values, self.batch, rows, key, keys, nr, mask);
            for (score, add) in
                scores[..keys * nr].chunks_exact_mut(S::LANES).zip(mask.chunks_exact(S::LANES))
            {
                // SAFETY: one vector each.
                unsafe { s.store(score.as_mut_ptr(), s.add(s.load(score.as_ptr()), s.load(add.as_ptr()))) };
            }
        }
        let inside = rows.iter().all(|row| row.start <= key && row.end >= key + keys);
        if !inside {
            bound_rows(s, rows, key, keys, scores);
        }
    }

    /// Divides by the sums and writes the output rows.
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, buffers: &Buffers<'_>) {
        let nr = TILE_VECTORS * S::LANES;
        let v_dim = self.call.shape.v_dim;
        for (index, &row) in self.rows.iter().enumerate() {
            let (tile, lane) = (index / nr, index % nr);
            let sum = buffers.state[(tile * 2 + 1) * nr + lane];
            let scale = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            let outputs = &buffers.outputs[tile * v_dim * nr + lane..];
            // SAFETY: every row belongs to one chunk.
            unsafe { self.call.store(self.batch, row, |d| outputs[d * nr] * scale) };
        }
    }
}

/// Widens `rows` rows of `cols` values into f32.
#[inline(always)]
fn convert_rows<S: Simd, K: Float>(
    s: S,
    src: &[K],
    stride: usize,
    rows: usize,
    cols: usize,
    dst: &mut [f32],
) {
    for row in 0..rows {
        let (src, dst) = (&src[row * stride..][..cols], &mut dst[row * cols..][..cols]);
        let mut i = 0;
        while i < cols {
            let n = S::LANES.min(cols - i);
            // SAFETY: n elements remain in both rows.
            unsafe {
                if n == S::LANES {
                    s.store(dst.as_mut_ptr().add(i), K::load(s, src.as_ptr().add(i)));
                } else {
                    s.store_partial(dst.as_mut_ptr().add(i), n, K::load_partial(s, src.as_ptr().add(i), n));
                }
            }
            i += S::LANES;
        }
    }
}

/// `scores[key][lane] = key . query`.
#[inline(always)]
unsafe fn score_tile<S: Simd>(
    s: S,
    split: RowSplit,
    depth: usize,
    keys: &[f32],
    queries: &[f32],
    lanes: usize,
    scores: &mut [f32],
) {
    let nr = TILE_VECTORS * S::LANES;
    for panel in 0..split.panels() {
        let (row, height) = (split.start(panel), split.height(panel));
        let a = keys[row * depth..].as_ptr();
        let out = scores[row * nr..(row + height) * nr].as_mut_ptr();
        // SAFETY: the caller packed both operands for these extents.
        unsafe {
            if lanes > S::LANES {
                accumulate_tile::<S, f32, TILE_VECTORS>(
                    s,
                    height,
                    depth,
                    a,
                    height,
                    queries.as_ptr(),
                    nr,
                    out,
                );
            } else {
                accumulate_tile::<S, f32, 1>(s, height, depth, a, height, queries.as_ptr(), nr, out);
            }
        }
    }
}

/// Mask values of a tile, lane by lane.
fn read_mask(
    mask: &Mask<'_>,
    batch: usize,
    rows: &[QueryRow],
    key: usize,
    keys: usize,
    nr: usize,
    tile: &mut [f32],
) {
    let covered = mask.columns.saturating_sub(key).min(keys);
    tile[covered * nr..keys * nr].fill(f32::NEG_INFINITY);
    let [b, h, r, c] = mask.strides;
    for (lane, row) in rows.iter().enumerate() {
        let at = batch * b + row.head * h + row.position * r + key * c;
        match mask.data {
            MaskData::Additive(data) => {
                for j in 0..covered {
                    tile[j * nr + lane] = data[at + j * c];
                }
            }
            MaskData::Bool(data) => {
                for j in 0..covered {
                    tile[j * nr + lane] = if data[at + j * c] != 0 { 0.0 } else { f32::NEG_INFINITY };
                }
            }
        }
    }
    for line in tile[..covered * nr].chunks_exact_mut(nr) {
        line[rows.len()..].fill(0.0);
    }
}

/// Hides keys outside each row's range. Key indices are exact in f32 within a tile.
#[inline(always)]
fn bound_rows<S: Simd>(s: S, rows: &[QueryRow], key: usize, keys: usize, scores: &mut [f32]) {
    let nr = TILE_VECTORS * S::LANES;
    let mut first = [0.0f32; TILE_VECTORS * 16];
    let mut end = [KEYS as f32; TILE_VECTORS * 16];
    for (lane, row) in rows.iter().enumerate() {
        first[lane] = row.start.saturating_sub(key).min(KEYS) as f32;
        end[lane] = row.end.saturating_sub(key).min(KEYS) as f32;
    }
    let hidden = s.splat(f32::NEG_INFINITY);
    for vector in 0..TILE_VECTORS {
        // SAFETY: the bounds hold a whole tile of lanes, the scores `keys` rows of them.
        unsafe {
            let (first, end) =
                (s.load(first.as_ptr().add(vector * S::LANES)), s.load(end.as_ptr().add(vector * S::LANES)));
            for j in 0..keys {
                let index = s.splat(j as f32);
                let p = scores[j * nr + vector * S::LANES..].as_mut_ptr();
                let v = s.select(s.lt(index, end), s.load(p), hidden);
                s.store(p, s.select(s.lt(index, first), hidden, v));
            }
        }
    }
}

/// Turns scores into probabilities relative to the running maximum; returns the factor of the former outputs.
#[inline(always)]
fn softmax_tile<S: Simd>(
    s: S,
    keys: usize,
    lanes: usize,
    scores: &mut [f32],
    state: &mut [f32],
) -> [S::F; TILE_VECTORS] {
    let nr = TILE_VECTORS * S::LANES;
    let (maxima, sums) = state.split_at_mut(nr);
    let lowest = s.splat(f32::NEG_INFINITY);
    let mut factors = [s.splat(1.0); TILE_VECTORS];
    for (vector, factor) in factors.iter_mut().enumerate().take(lanes.div_ceil(S::LANES)) {
        let at = vector * S::LANES;
        // SAFETY: `keys` rows of `nr` scores, `nr` maxima and sums.
        unsafe {
            let p = scores[at..keys * nr].as_mut_ptr();
            let old = s.load(maxima.as_ptr().add(at));
            let mut tops = [old, lowest];
            for j in 0..keys {
                tops[j % 2] = s.max(s.load(p.add(j * nr)), tops[j % 2]);
            }
            let max = s.max(tops[0], tops[1]);
            let shift = s.select(s.eq(max, lowest), s.zero(), max);
            let mut total = [s.zero(); 2];
            for j in 0..keys {
                let e = math::exp_negative(s, s.sub(s.load(p.add(j * nr)), shift));
                s.store(p.add(j * nr), e);
                total[j % 2] = s.add(total[j % 2], e);
            }
            *factor = math::exp_negative(s, s.sub(old, shift));
            let sum = s.fma(s.load(sums.as_ptr().add(at)), *factor, s.add(total[0], total[1]));
            s.store(maxima.as_mut_ptr().add(at), max);
            s.store(sums.as_mut_ptr().add(at), sum);
        }
    }
    factors
}

/// `outputs[d][lane] = outputs * scale[lane] + sum over keys of values[key][d] * probabilities[key][lane]`.
#[inline(always)]
unsafe fn output_tile<S: Simd>(
    s: S,
    keys: usize,
    v_dim: usize,
    values: *const f32,
    value_step: usize,
    probabilities: &[f32],
    lanes: usize,
    scale: [S::F; TILE_VECTORS],
    outputs: &mut [f32],
) {
    let nr = TILE_VECTORS * S::LANES;
    let split = RowSplit::new(v_dim, tile_rows::<S>());
    let mut tile = Tile([0.0; MAX_TILE]);
    let out = tile.0.as_mut_ptr();
    let wide = lanes > S::LANES;
    for panel in 0..split.panels() {
        let (row, height) = (split.start(panel), split.height(panel));
        // SAFETY: the caller vouches for the values; probabilities hold `keys` rows of `nr` lanes.
        unsafe {
            let (a, b) = (values.add(row), probabilities.as_ptr());
            if wide {
                accumulate_tile::<S, f32, TILE_VECTORS>(s, height, keys, a, value_step, b, nr, out);
            } else {
                accumulate_tile::<S, f32, 1>(s, height, keys, a, value_step, b, nr, out);
            }
            let outputs = outputs[row * nr..(row + height) * nr].as_mut_ptr();
            for i in 0..height {
                for (j, &scale) in scale.iter().enumerate().take(if wide { TILE_VECTORS } else { 1 }) {
                    let at = i * nr + j * S::LANES;
                    s.store(outputs.add(at), s.fma(s.load(outputs.add(at)), scale, s.load(out.add(at))));
                }
            }
        }
    }
}
