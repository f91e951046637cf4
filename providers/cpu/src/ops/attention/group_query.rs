//! GroupQueryAttention of com.microsoft: grouped heads over a key and value cache, with rotary embedding, query and key
//! norms, local windows, soft caps, sinks and 8- or 4-bit caches.

use half::{bf16, f16};
use tenon_kernels::cpu::Float;
use tenon_kernels::cpu::attention::{self as kernel, AttentionShape, HeadStrides, attention};

use super::cache::take_over;
use super::plain::{self, Mask, MaskData, Scores, attend};
use super::quantized_cache::{CacheKind, QuantizedCache};
use super::rotary::rotate;
use super::window_cache::{WindowCache, bias_of_window};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::ops::rows::{Rows, for_ranges};
use crate::tensor::{DType, Element, Tensor};

struct GroupQuery {
    heads: usize,
    kv_heads: usize,
    scale: Option<f32>,
    softcap: f32,
    /// Positions before its own that a query sees.
    window: Option<usize>,
    causal: bool,
    rotary: bool,
    interleaved: bool,
    smooth: bool,
    scores: Option<Scores>,
    norm_epsilon: [f32; 2],
    cache: [CacheKind; 2],
    /// The cache holds a window of positions, not all.
    windowed: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("GroupQueryAttention has no kernel for double")),
        other => real::check(other)?,
    }
    let heads = |name: &str| match node.required_int(name)? {
        heads if heads > 0 => Ok(heads as usize),
        heads => Err(OpError::invalid(format!("attribute '{name}' is {heads}, expected at least 1"))),
    };
    let windowed = node.flag("sliding_window_cache", false)?;
    let window = node.int("local_window_size", -1)?;
    let scores = match node.int("qk_output", 0)? {
        0 => None,
        1 => Some(Scores::Masked),
        2 => Some(Scores::Probabilities),
        mode => return Err(OpError::invalid(format!("qk_output {mode} is none of 0, 1, 2"))),
    };
    let bits = node.int("kv_cache_bit_width", 8)?;
    let epsilon = node.float("qk_norm_epsilon", 1e-6)?;
    let cache = [
        CacheKind::of(node.string("k_quant_type", "NONE")?, bits)?,
        CacheKind::of(node.string("v_quant_type", "NONE")?, bits)?,
    ];
    if windowed && (scores.is_some() || cache.iter().any(|kind| kind.bits > 0)) {
        return Err(OpError::unsupported(
            "there is no kernel for sliding_window_cache = 1 with a quantised cache or with qk_output",
        ));
    }
    let (q_heads, kv_heads) = (heads("num_heads")?, heads("kv_num_heads")?);
    if q_heads % kv_heads != 0 {
        return Err(OpError::invalid(format!(
            "{q_heads} query heads do not divide over {kv_heads} key heads"
        )));
    }
    Ok(Box::new(GroupQuery {
        heads: q_heads,
        kv_heads,
        scale: node.optional_float("scale")?.filter(|&scale| scale != 0.0),
        softcap: node.float("softcap", 0.0)?,
        window: usize::try_from(window - 1).ok(),
        causal: node.flag("causal", true)?,
        rotary: node.flag("do_rotary", false)?,
        interleaved: node.flag("rotary_interleaved", false)?,
        smooth: node.int("smooth_softmax", -1)? > 0,
        scores,
        norm_epsilon: [node.float("q_norm_epsilon", epsilon)?, node.float("k_norm_epsilon", epsilon)?],
        cache,
        windowed,
    }))
}

/// The shapes and positions of one call.
struct Call {
    batch: usize,
    rows: usize,
    width: usize,
    /// Elements of a query row, of a key row and of a value row, and where key and value start.
    packed: bool,
    /// Positions that `past` and `present` have room for.
    past_room: usize,
    room: usize,
    total: usize,
    /// For each entry of the batch: positions before this call, valid new rows, valid positions after it.
    past: Vec<usize>,
    new: Vec<usize>,
    lengths: Vec<usize>,
    /// Tokens before this call; more than `past` where the cache holds a window.
    before: Vec<usize>,
    window: Option<WindowCache>,
}

impl Kernel for GroupQuery {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let call = self.call(cx)?;
        match cx.input(0)?.dtype() {
            DType::F32 => self.run_typed::<f32>(cx, &call),
            DType::F16 => self.run_typed::<f16>(cx, &call),
            DType::BF16 => self.run_typed::<bf16>(cx, &call),
            other => Err(OpError::unsupported(format!("GroupQueryAttention has no kernel for {other}"))),
        }
    }
}

impl GroupQuery {
    fn call(&self, cx: &Context<'_>) -> Result<Call> {
        let query = cx.input(0)?.dims();
        let &[batch, rows, hidden] = query else {
            return Err(OpError::invalid(format!("the query has three axes, got shape {query:?}")));
        };
        let packed = cx.optional(1).is_none();
        let heads = if packed { self.heads + 2 * self.kv_heads } else { self.heads };
        let width = hidden / heads;
        if hidden % heads != 0 {
            return Err(OpError::invalid(format!(
                "query shape {query:?} does not divide into {heads} heads"
            )));
        }
        if !packed {
            for index in [1, 2] {
                let dims = cx.input(index)?.dims();
                if dims != [batch, rows, self.kv_heads * width] {
                    return Err(OpError::invalid(format!(
                        "key or value of shape {dims:?} does not fit the query {query:?}"
                    )));
                }
            }
        }
        let total = match cx.input(6)?.to_i64s()?[..] {
            [total] if total >= 0 => total as usize,
            ref other => return Err(OpError::invalid(format!("total_sequence_length is {other:?}"))),
        };
        let mut past_room = 0;
        for index in [3, 4] {
            let Some(past) = cx.optional(index) else { continue };
            match *past.dims() {
                [b, heads, room, _] if b == batch && heads == self.kv_heads => past_room = room,
                _ => return Err(OpError::invalid(format!("past key or value has shape {:?}", past.dims()))),
            }
        }
        let counts = |index: usize| -> Result<Option<Vec<i64>>> {
            let Some(values) = cx.optional(index) else { return Ok(None) };
            let values = values.to_i64s()?;
            if values.len() == batch {
                return Ok(Some(values.to_vec()));
            }
            Err(OpError::invalid(format!("input {index} has {} values for a batch of {batch}", values.len())))
        };
        let last = counts(5)?.ok_or_else(|| OpError::invalid("seqlens_k is missing"))?;
        let queries = counts(16)?;
        let room = past_room.max(total);
        let (mut past, mut new, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (b, &last) in last.iter().enumerate() {
            let length = usize::try_from(last + 1).unwrap_or(usize::MAX);
            let count = match &queries {
                Some(queries) => usize::try_from(queries[b]).unwrap_or(usize::MAX),
                None => rows.min(length),
            };
            // A first prompt has no past whatever its padding.
            let count = if queries.is_none() && rows == total { length.min(rows) } else { count };
            let fits = self.windowed || length <= room && length - count <= past_room.max(room - count);
            if !fits || count > rows.min(length) {
                return Err(OpError::invalid(format!(
                    "entry {b}: {length} positions with {count} new of {rows} rows do not fit a cache of {room}"
                )));
            }
            past.push(length - count);
            new.push(count);
            lengths.push(length);
        }
        let before = past.clone();
        let (mut room, mut window) = (room, None);
        if self.windowed {
            let cache = WindowCache::new(past_room, self.window.map_or(0, |before| before + 1))?;
            past.iter_mut().for_each(|past| *past = cache.resident(*past));
            lengths = past.iter().zip(&new).map(|(past, new)| past + new).collect();
            room = lengths.iter().copied().fold(past_room, usize::max);
            window = Some(cache);
        }
        if past.iter().any(|&past| past > past_room) {
            return Err(OpError::invalid(format!(
                "a past of {past:?} positions is longer than the cache of {past_room}"
            )));
        }
        Ok(Call { batch, rows, width, packed, past_room, room, total, past, new, lengths, before, window })
    }

    /// Strides of the rows of query (0), key (1) or value (2) as they come in, and where they start.
    fn strides(&self, call: &Call, part: usize) -> (usize, HeadStrides) {
        let heads = if part == 0 { self.heads } else { self.kv_heads };
        if !call.packed {
            return (0, HeadStrides::rows_first(heads, call.rows, call.width));
        }
        let row = (self.heads + 2 * self.kv_heads) * call.width;
        let start = [0, self.heads, self.heads + self.kv_heads][part] * call.width;
        (start, HeadStrides { batch: call.rows * row, head: call.width, row })
    }

    /// Copies the valid rows of query, key or value, normalised and rotated, each to where `store` says.
    fn take<T: Element + Float>(
        &self,
        cx: &Context<'_>,
        call: &Call,
        part: usize,
        store: &(dyn Fn(usize, usize, usize, &[f32]) + Sync),
    ) -> Result<()> {
        let heads = if part == 0 { self.heads } else { self.kv_heads };
        let (start, strides) = self.strides(call, part);
        let data = cx.input(if call.packed { 0 } else { part })?.as_slice::<T>()?.get(start..).unwrap_or(&[]);
        let norm = if part < 2 { real::load_optional::<f32>(cx, 14 + part)? } else { None };
        let norm = norm.as_ref().map(|norm| norm.as_slice::<f32>()).transpose()?;
        if norm.is_some_and(|norm| norm.len() != call.width) {
            return Err(OpError::invalid(format!("the norm weights are not of {} elements", call.width)));
        }
        let rotary = if part < 2 && self.rotary { Some(self.angles(cx, call)?) } else { None };
        let tables = match &rotary {
            Some((cos, sin, ids)) => Some((cos.as_slice::<f32>()?, sin.as_slice::<f32>()?, ids)),
            None => None,
        };
        let half = rotary.as_ref().map_or(0, |(cos, _, _)| cos.dims()[1]);
        let epsilon = self.norm_epsilon[part.min(1)];
        for_ranges(cx.parallel(), call.batch * call.rows * heads, call.width * 4, &|range| {
            let mut head = vec![0.0f32; call.width];
            for index in range {
                let (b, row, h) = (index / (call.rows * heads), index / heads % call.rows, index % heads);
                if row >= call.new[b] {
                    continue;
                }
                let from = &data[b * strides.batch + h * strides.head + row * strides.row..][..call.width];
                head.iter_mut().zip(from).for_each(|(head, &value)| *head = value.to_f32());
                if let Some(norm) = norm {
                    let square = head.iter().map(|x| x * x).sum::<f32>() / call.width as f32;
                    let inverse = 1.0 / (square + epsilon).sqrt();
                    head.iter_mut().zip(norm).for_each(|(x, &weight)| *x *= inverse * weight);
                }
                if let Some((cos, sin, ids)) = tables {
                    let position = ids[b * call.rows + row] * half;
                    rotate(&mut head, &cos[position..][..half], &sin[position..][..half], self.interleaved);
                }
                store(b, h, row, &head);
            }
        });
        Ok(())
    }

    /// Cosines, sines and the position of every token.
    fn angles(&self, cx: &Context<'_>, call: &Call) -> Result<(Tensor, Tensor, Vec<usize>)> {
        let (cos, sin) = (real::load_input::<f32>(cx, 7)?, real::load_input::<f32>(cx, 8)?);
        if cos.rank() != 2 || cos.dims() != sin.dims() || 2 * cos.dims()[1] > call.width {
            return Err(OpError::invalid(format!(
                "cos {:?} and sin {:?} do not fit",
                cos.dims(),
                sin.dims()
            )));
        }
        let tokens = call.batch * call.rows;
        let mut ids: Vec<usize> =
            (0..tokens).map(|token| call.before[token / call.rows] + token % call.rows).collect();
        if let Some(given) = cx.optional(9) {
            let given = given.to_i64s()?;
            if given.len() == tokens {
                ids = given.iter().map(|&id| usize::try_from(id).unwrap_or(usize::MAX)).collect();
            } else if let [first] = given[..] {
                ids = (0..tokens).map(|token| first.max(0) as usize + token % call.rows).collect();
            }
        }
        let rows = cos.dims()[0];
        for (token, id) in ids.iter().enumerate() {
            if *id >= rows && token % call.rows < call.new[token / call.rows] {
                return Err(OpError::invalid(format!("position {id} is outside the cache of {rows} angles")));
            }
        }
        Ok((cos, sin, ids))
    }

    /// The cache with the new rows of part 1 (keys) or 2 (values) added.
    fn extend<T: Element + Float>(&self, cx: &mut Context<'_>, call: &Call, part: usize) -> Result<Tensor> {
        let dims = [call.batch, self.kv_heads, call.room, call.width];
        let line = call.room * call.width;
        let in_place = call.past_room == call.room && call.window.is_none();
        let mut present = if in_place && cx.optional(2 + part).is_some() {
            take_over(cx, 2 + part, part)?
        } else {
            let mut present = match call.window {
                None => cx.output(part, T::DTYPE, &dims)?,
                Some(_) => cx.scratch(T::DTYPE, &dims)?,
            };
            let past = cx.optional(2 + part).map(|past| past.as_slice::<T>()).transpose()?;
            let kept = call.past_room * call.width;
            for (index, out) in present.as_mut_slice::<T>()?.chunks_exact_mut(line.max(1)).enumerate() {
                if let Some(past) = past {
                    out[..kept].copy_from_slice(&past[index * kept..][..kept]);
                }
                out[kept..].fill(T::from_f32(0.0));
            }
            present
        };
        let rows = Rows::new(present.as_mut_slice::<T>()?, call.width);
        self.take::<T>(cx, call, part, &|b, h, row, head| {
            // SAFETY: every new row has its own place.
            let out = unsafe { rows.row((b * self.kv_heads + h) * call.room + call.past[b] + row) };
            out.iter_mut().zip(head).for_each(|(out, &value)| *out = T::from_f32(value));
        })?;
        Ok(present)
    }

    fn run_typed<T: Element + Float>(&self, cx: &mut Context<'_>, call: &Call) -> Result<()> {
        let AttentionShapeParts { shape, q_strides } = self.shape(call);
        // Queries that need no work are read where they are.
        let plain_query = !self.rotary && cx.optional(14).is_none();
        let query = if plain_query { None } else { Some(self.queries::<T>(cx, call)?) };
        if self.cache.iter().any(|kind| kind.bits > 0) {
            return self.run_quantized::<T>(cx, call, query);
        }
        let key = self.extend::<T>(cx, call, 1)?;
        let value = self.extend::<T>(cx, call, 2)?;
        let mask = self.bias(cx, call)?;
        let sinks = self.sinks(cx)?;
        let (q_data, q_strides) = match &query {
            Some(query) => (query.as_slice::<T>()?, q_strides),
            None => (cx.input(0)?.as_slice::<T>()?, self.strides(call, 0).1),
        };
        let cache_strides = HeadStrides::heads_first(self.kv_heads, call.room, call.width);
        let mut y = cx.output(0, T::DTYPE, &[call.batch, call.rows, self.heads * call.width])?;
        let offsets: Vec<isize> = call.past.iter().map(|&past| past as isize).collect();
        let (k, v) = (key.as_slice::<T>()?, value.as_slice::<T>()?);
        let options = kernel::Options {
            scale: self.scale(call),
            causal: self.causal,
            q_offsets: Some(&offsets),
            kv_lengths: Some(&call.lengths),
            window: (self.window, None),
            softcap: self.softcap,
            mask: match &mask {
                Some((mask, strides, columns)) => Some(kernel::Mask {
                    data: kernel::MaskData::Additive(mask.as_slice::<f32>()?),
                    strides: *strides,
                    columns: *columns,
                }),
                None => None,
            },
            sinks: sinks.as_deref(),
        };
        let out = (y.as_mut_slice::<T>()?, HeadStrides::rows_first(self.heads, call.rows, call.width));
        let cpu = cx.cpu();
        attention(cpu, &shape, (q_data, q_strides), (k, cache_strides), (v, cache_strides), &options, out)?;
        if let Some(scores) = self.scores.filter(|_| cx.wants(3)) {
            let wide = |data: &[T]| data.iter().map(|value| value.to_f32()).collect::<Vec<f32>>();
            let (q, k, v) = (wide(q_data), wide(k), wide(v));
            let operands = [(&q[..], q_strides), (&k[..], cache_strides), (&v[..], cache_strides)];
            self.hand_out_scores::<T>(cx, call, scores, operands, &mask, sinks.as_deref())?;
        }
        cx.set(0, y);
        for (part, staged) in [(1, key), (2, value)] {
            if cx.wants(part) {
                let present = match call.window {
                    None => staged,
                    Some(window) => {
                        let totals: Vec<usize> =
                            call.before.iter().zip(&call.new).map(|(b, n)| b + n).collect();
                        window.keep::<T>(cx, part, &staged, &call.lengths, &totals)?
                    }
                };
                cx.set(part, present);
            }
        }
        Ok(())
    }

    /// Attention over a quantised cache: dequantised for the products, the new rows quantised into the cache.
    fn run_quantized<T: Element + Float>(
        &self,
        cx: &mut Context<'_>,
        call: &Call,
        query: Option<Tensor>,
    ) -> Result<()> {
        let AttentionShapeParts { shape, q_strides } = self.shape(call);
        let mut wide = Vec::with_capacity(2);
        for part in [1, 2] {
            let kind = self.cache[part - 1];
            let scale = real::load_input::<f32>(cx, 11 + part)?;
            let past = cx.optional(2 + part).cloned();
            let dtype =
                past.as_ref().map_or(if kind.bits == 4 { DType::U8 } else { DType::I8 }, Tensor::dtype);
            let cache =
                QuantizedCache::new(kind, dtype, scale.as_slice::<f32>()?, self.kv_heads, call.width)?;
            let mut present =
                cx.zeroed_output(part, dtype, &[call.batch, self.kv_heads, call.room, cache.row_bytes()])?;
            if let Some(past) = &past {
                let (from, to) = (call.past_room * cache.row_bytes(), call.room * cache.row_bytes());
                if past.as_bytes().len() != call.batch * self.kv_heads * from {
                    return Err(OpError::invalid(format!("past key or value has shape {:?}", past.dims())));
                }
                for (index, out) in present.as_bytes_mut().chunks_exact_mut(to.max(1)).enumerate() {
                    out[..from].copy_from_slice(&past.as_bytes()[index * from..][..from]);
                }
            }
            let rows = Rows::new(present.as_bytes_mut(), cache.row_bytes());
            self.take::<T>(cx, call, part, &|b, h, row, head| {
                // SAFETY: every new row has its own place.
                let out = unsafe { rows.row((b * self.kv_heads + h) * call.room + call.past[b] + row) };
                cache.encode(h, head, out);
            })?;
            let mut values = vec![0.0f32; call.batch * self.kv_heads * call.room * call.width];
            for (index, (out, codes)) in values
                .chunks_exact_mut(call.width.max(1))
                .zip(present.as_bytes().chunks_exact(cache.row_bytes().max(1)))
                .enumerate()
            {
                cache.decode(index / call.room % self.kv_heads, codes, out);
            }
            wide.push(values);
            cx.set(part, present);
        }
        let query = match query {
            Some(query) => query,
            None => self.queries::<T>(cx, call)?,
        };
        let query: Vec<f32> = query.as_slice::<T>()?.iter().map(|value| value.to_f32()).collect();
        let (mask, sinks) = (self.bias(cx, call)?, self.sinks(cx)?);
        let cache_strides = HeadStrides::heads_first(self.kv_heads, call.room, call.width);
        let operands =
            [(&query[..], q_strides), (&wide[0][..], cache_strides), (&wide[1][..], cache_strides)];
        let offsets: Vec<isize> = call.past.iter().map(|&past| past as isize).collect();
        let options = self.plain_options(call, &offsets, &mask, sinks.as_deref(), Scores::Raw)?;
        let y_strides = HeadStrides::rows_first(self.heads, call.rows, call.width);
        let mut y = Output::new::<f32>(cx, 0, T::DTYPE, &[call.batch, call.rows, self.heads * call.width])?;
        attend(cx.parallel(), &shape, operands, &options, (y.slice::<f32>()?, y_strides), None);
        y.finish(cx)?;
        match self.scores.filter(|_| cx.wants(3)) {
            Some(scores) => self.hand_out_scores::<T>(cx, call, scores, operands, &mask, sinks.as_deref()),
            None => Ok(()),
        }
    }

    /// Normalised and rotated queries `[batch, rows, heads, width]`; padding rows are zero.
    fn queries<T: Element + Float>(&self, cx: &Context<'_>, call: &Call) -> Result<Tensor> {
        let mut query = cx.scratch(T::DTYPE, &[call.batch, call.rows, self.heads, call.width])?;
        query.as_bytes_mut().fill(0);
        let out = Rows::new(query.as_mut_slice::<T>()?, call.width);
        self.take::<T>(cx, call, 0, &|b, h, row, head| {
            // SAFETY: every head of every row has its own place.
            let out = unsafe { out.row((b * call.rows + row) * self.heads + h) };
            out.iter_mut().zip(head).for_each(|(out, &value)| *out = T::from_f32(value));
        })?;
        Ok(query)
    }

    fn shape(&self, call: &Call) -> AttentionShapeParts {
        AttentionShapeParts {
            shape: AttentionShape {
                batch: call.batch,
                q_heads: self.heads,
                kv_heads: self.kv_heads,
                q_len: call.rows,
                kv_len: call.room,
                qk_dim: call.width,
                v_dim: call.width,
            },
            q_strides: HeadStrides::rows_first(self.heads, call.rows, call.width),
        }
    }

    fn scale(&self, call: &Call) -> f32 {
        self.scale.unwrap_or(1.0 / (call.width as f32).sqrt())
    }

    /// Input `attention_bias` in f32 with its strides.
    fn bias(&self, cx: &Context<'_>, call: &Call) -> Result<Option<(Tensor, [usize; 4], usize)>> {
        let Some(bias) = real::load_optional::<f32>(cx, 10)? else { return Ok(None) };
        if call.window.is_some() {
            let first: Vec<usize> =
                call.before.iter().zip(&call.past).map(|(before, past)| before - past).collect();
            return bias_of_window(cx, &bias, [call.batch, self.heads, call.rows, call.room], &first)
                .map(Some);
        }
        let columns = bias.dims().last().copied().unwrap_or(0);
        let (strides, columns) = Mask::<f32>::fit(bias.dims(), [call.batch, self.heads, call.rows, columns])?;
        Ok(Some((bias, strides, columns)))
    }

    /// The sink of each head, where there are any.
    fn sinks(&self, cx: &Context<'_>) -> Result<Option<Vec<f32>>> {
        let Some(sinks) = cx.optional(11) else {
            return Ok(self.smooth.then(|| vec![0.0; self.heads]));
        };
        let sinks = real::to_vec::<f32>(sinks)?;
        if sinks.len() == self.heads {
            return Ok(Some(sinks));
        }
        Err(OpError::invalid(format!("head_sink has {} values for {} heads", sinks.len(), self.heads)))
    }

    fn plain_options<'a>(
        &self,
        call: &'a Call,
        q_offsets: &'a [isize],
        mask: &'a Option<(Tensor, [usize; 4], usize)>,
        sinks: Option<&'a [f32]>,
        scores: Scores,
    ) -> Result<plain::Options<'a, f32>> {
        let mask = match mask {
            Some((mask, strides, columns)) => Some(Mask {
                data: MaskData::Additive(mask.as_slice::<f32>()?),
                strides: *strides,
                columns: *columns,
            }),
            None => None,
        };
        Ok(plain::Options {
            scale: self.scale(call),
            causal: self.causal,
            q_offsets,
            kv_lengths: &call.lengths,
            window: (self.window, None),
            softcap: self.softcap,
            mask,
            sinks,
            scores,
        })
    }

    /// Output 3: the scores of all positions up to the total length.
    fn hand_out_scores<T: Element + Float>(
        &self,
        cx: &mut Context<'_>,
        call: &Call,
        scores: Scores,
        operands: [plain::Operand<'_, f32>; 3],
        mask: &Option<(Tensor, [usize; 4], usize)>,
        sinks: Option<&[f32]>,
    ) -> Result<()> {
        let mut shape = self.shape(call).shape;
        shape.kv_len = call.total;
        let offsets: Vec<isize> = call.past.iter().map(|&past| past as isize).collect();
        let options = self.plain_options(call, &offsets, mask, sinks, scores)?;
        let mut out = Output::new::<f32>(cx, 3, T::DTYPE, &[call.batch, self.heads, call.rows, call.total])?;
        let mut y = cx.scratch(DType::F32, &[call.batch, call.rows, self.heads * call.width])?;
        let strides = HeadStrides::rows_first(self.heads, call.rows, call.width);
        attend(
            cx.parallel(),
            &shape,
            operands,
            &options,
            (y.as_mut_slice()?, strides),
            Some(out.slice::<f32>()?),
        );
        // Hidden keys have no score.
        out.slice::<f32>()?
            .iter_mut()
            .filter(|score| **score == f32::NEG_INFINITY)
            .for_each(|score| *score = 0.0);
        out.finish(cx)
    }
}

/// The extents of the products and the strides of queries in working memory.
struct AttentionShapeParts {
    shape: AttentionShape,
    q_strides: HeadStrides,
}
