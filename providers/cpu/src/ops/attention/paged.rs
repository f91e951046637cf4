//! PagedAttention: packed tokens of several sequences over key and value caches cut into blocks.

use half::{bf16, f16};
use tenon_kernels::cpu::Float;
use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides, Options, attention};

use super::cache::take_over;
use super::quantized_cache::{CacheKind, QuantizedCache};
use super::rotary::rotate;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::ops::rows::{Rows, for_ranges};
use crate::tensor::{DType, Element, Tensor};

struct Paged {
    heads: usize,
    kv_heads: usize,
    scale: Option<f32>,
    softcap: f32,
    /// Positions before its own that a query sees.
    window: Option<usize>,
    causal: bool,
    rotary: bool,
    interleaved: bool,
    rotary_offset: usize,
    norm_epsilon: f32,
    /// One cache holds keys, whose leading channels are the values.
    latent: bool,
    v_width: Option<usize>,
    cache: [CacheKind; 2],
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("PagedAttention has no kernel for double")),
        other => real::check(other)?,
    }
    let positive = |name: &str| match node.required_int(name)? {
        value if value > 0 => Ok(value as usize),
        value => Err(OpError::invalid(format!("attribute '{name}' is {value}, expected at least 1"))),
    };
    let (heads, kv_heads) = (positive("num_heads")?, positive("kv_num_heads")?);
    if heads % kv_heads != 0 {
        return Err(OpError::invalid(format!("{heads} query heads do not divide over {kv_heads} key heads")));
    }
    let latent = match node.string("kv_cache_layout", "SEPARATE")? {
        "SEPARATE" => false,
        "LATENT" => true,
        other => {
            return Err(OpError::invalid(format!("kv_cache_layout '{other}' is none of SEPARATE, LATENT")));
        }
    };
    let kind = |quant: &str, dtype: &str| -> Result<CacheKind> {
        let bits = match node.string(dtype, "")? {
            "int4" => 4,
            "float4e2m1" => return Err(OpError::unsupported("there is no kernel for a float4e2m1 cache")),
            _ => 8,
        };
        CacheKind::of(node.string(quant, "NONE")?, bits)
    };
    let offset = node.int("rotary_offset", 0)?;
    Ok(Box::new(Paged {
        heads,
        kv_heads,
        scale: node.optional_float("scale")?.filter(|&scale| scale != 0.0),
        softcap: node.float("softcap", 0.0)?,
        window: usize::try_from(node.int("local_window_size", -1)? - 1).ok(),
        causal: node.flag("is_causal", true)?,
        rotary: node.flag("do_rotary", false)?,
        interleaved: node.flag("rotary_interleaved", false)?,
        rotary_offset: usize::try_from(offset)
            .map_err(|_| OpError::invalid(format!("rotary_offset is {offset}")))?,
        norm_epsilon: node.float("qk_norm_epsilon", 1e-6)?,
        latent,
        v_width: usize::try_from(node.int("v_head_size", 0)?).ok().filter(|&width| width > 0),
        cache: [kind("k_quant_type", "k_cache_dtype")?, kind("v_quant_type", "v_cache_dtype")?],
    }))
}

/// The shapes of one call, and where its tokens and pages are.
struct Call {
    width: usize,
    v_width: usize,
    /// Elements of a row of the query input, and where keys and values start in it when they are packed.
    packed: bool,
    block: usize,
    blocks: usize,
    pages: usize,
    /// First token of each sequence, and the end of the last.
    starts: Vec<usize>,
    past: Vec<usize>,
    table: Vec<i64>,
    /// For each token, the cache row it is stored in.
    slots: Vec<Option<usize>>,
    /// For each token, its position in its sequence.
    positions: Vec<usize>,
}

impl Call {
    fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// The cache row of a position of a sequence; `None` when its page is not mapped.
    fn row(&self, sequence: usize, position: usize) -> Option<usize> {
        let page = *self.table[sequence * self.pages..][..self.pages].get(position / self.block)?;
        let page = usize::try_from(page).ok().filter(|&page| page < self.blocks)?;
        Some(page * self.block + position % self.block)
    }
}

impl Kernel for Paged {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let call = self.call(cx)?;
        match cx.input(0)?.dtype() {
            DType::F32 => self.run_typed::<f32>(cx, &call),
            DType::F16 => self.run_typed::<f16>(cx, &call),
            DType::BF16 => self.run_typed::<bf16>(cx, &call),
            other => Err(OpError::unsupported(format!("PagedAttention has no kernel for {other}"))),
        }
    }
}

/// A cache during a call: in the type of the operands, or quantised.
enum Cache<'a> {
    Plain,
    Quantized(QuantizedCache<'a>),
}

impl Paged {
    fn call(&self, cx: &Context<'_>) -> Result<Call> {
        let query = cx.input(0)?.dims();
        let &[tokens, hidden] = query else {
            return Err(OpError::invalid(format!("the query has two axes, got shape {query:?}")));
        };
        let packed = cx.optional(1).is_none();
        let heads = if packed { self.heads + 2 * self.kv_heads } else { self.heads };
        if hidden % heads != 0 {
            return Err(OpError::invalid(format!(
                "query shape {query:?} does not divide into {heads} heads"
            )));
        }
        let width = hidden / heads;
        let v_width = if self.latent { self.v_width.unwrap_or(width) } else { width };
        let fits = |index: usize, width: usize| {
            cx.optional(index).is_none_or(|input| input.dims() == [tokens, self.kv_heads * width])
        };
        if !fits(1, width) || !fits(2, width) || v_width > width || self.latent && packed {
            return Err(OpError::invalid(format!("key or value do not fit a query of shape {query:?}")));
        }
        let cache = cx.input(3)?.dims();
        let &[blocks, block, cache_heads, _] = cache else {
            return Err(OpError::invalid(format!("key_cache has four axes, got shape {cache:?}")));
        };
        if cache_heads != self.kv_heads || block == 0 {
            return Err(OpError::invalid(format!(
                "key_cache of shape {cache:?} does not hold {} heads",
                self.kv_heads
            )));
        }
        let whole = |values: &[i64], what: &str| -> Result<Vec<usize>> {
            let read = |&value: &i64| {
                usize::try_from(value).map_err(|_| OpError::invalid(format!("{what} holds {value}")))
            };
            values.iter().map(read).collect()
        };
        let starts = whole(&cx.input(5)?.to_i64s()?, "cumulative_sequence_length")?;
        let past = whole(&cx.input(6)?.to_i64s()?, "past_seqlens")?;
        let (table_dims, table) = (cx.input(7)?.dims(), cx.input(7)?.to_i64s()?.to_vec());
        let sequences = past.len();
        let ordered = starts.first() == Some(&0) && starts.last() == Some(&tokens) && starts.is_sorted();
        if starts.len() != sequences + 1 || !ordered || table_dims.len() != 2 || table_dims[0] != sequences {
            return Err(OpError::invalid(format!(
                "sequence bounds {starts:?}, {sequences} pasts and a block table of shape {table_dims:?} do not fit {tokens} tokens"
            )));
        }
        let mut call = Call {
            width,
            v_width,
            packed,
            block,
            blocks,
            pages: table_dims[1],
            starts,
            past,
            table,
            slots: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
        };
        for sequence in 0..sequences {
            for token in call.starts[sequence]..call.starts[sequence + 1] {
                let position = call.past[sequence] + token - call.starts[sequence];
                call.positions.push(position);
                call.slots.push(call.row(sequence, position));
            }
        }
        if let Some(slots) = cx.optional(10) {
            let slots = slots.to_i64s()?;
            if slots.len() != tokens {
                return Err(OpError::invalid(format!("{} slots for {tokens} tokens", slots.len())));
            }
            let inside = |&slot: &i64| usize::try_from(slot).ok().filter(|&slot| slot < blocks * block);
            call.slots = slots.iter().map(inside).collect();
        }
        Ok(call)
    }

    /// Normalises and rotates every head of query (0), key (1) or value (2) and hands it to `store(token, head, values)`.
    fn take<T: Element + Float>(
        &self,
        cx: &Context<'_>,
        call: &Call,
        part: usize,
        store: &(dyn Fn(usize, usize, &[f32]) + Sync),
    ) -> Result<()> {
        let heads = if part == 0 { self.heads } else { self.kv_heads };
        let (row, start) = if call.packed {
            let first = [0, self.heads, self.heads + self.kv_heads][part];
            ((self.heads + 2 * self.kv_heads) * call.width, first * call.width)
        } else {
            (heads * call.width, 0)
        };
        let data = cx.input(if call.packed { 0 } else { part })?.as_slice::<T>()?;
        let norm = if part < 2 { real::load_optional::<f32>(cx, 12 + part)? } else { None };
        let norm = norm.as_ref().map(|norm| norm.as_slice::<f32>()).transpose()?;
        if norm.is_some_and(|norm| norm.len() != call.width) {
            return Err(OpError::invalid(format!("the norm weights are not of {} elements", call.width)));
        }
        let rotary = if part < 2 && self.rotary { Some(self.angles(cx, call)?) } else { None };
        let tables = match &rotary {
            Some((cos, sin)) => Some((cos.as_slice::<f32>()?, sin.as_slice::<f32>()?, cos.dims()[1])),
            None => None,
        };
        for_ranges(cx.parallel(), call.tokens() * heads, call.width * 4, &|range| {
            let mut head = vec![0.0f32; call.width];
            for index in range {
                let (token, h) = (index / heads, index % heads);
                let from = &data[token * row + start + h * call.width..][..call.width];
                head.iter_mut().zip(from).for_each(|(head, &value)| *head = value.to_f32());
                if let Some(norm) = norm {
                    let square = head.iter().map(|x| x * x).sum::<f32>() / call.width as f32;
                    let inverse = 1.0 / (square + self.norm_epsilon).sqrt();
                    head.iter_mut().zip(norm).for_each(|(x, &weight)| *x *= inverse * weight);
                }
                if let Some((cos, sin, half)) = tables {
                    let at = call.positions[token] * half;
                    let turned = &mut head[self.rotary_offset..];
                    rotate(turned, &cos[at..][..half], &sin[at..][..half], self.interleaved);
                }
                store(token, h, &head);
            }
        });
        Ok(())
    }

    fn angles(&self, cx: &Context<'_>, call: &Call) -> Result<(Tensor, Tensor)> {
        let (cos, sin) = (real::load_input::<f32>(cx, 8)?, real::load_input::<f32>(cx, 9)?);
        if cos.rank() != 2 || cos.dims() != sin.dims() || 2 * cos.dims()[1] + self.rotary_offset > call.width
        {
            return Err(OpError::invalid(format!(
                "cos {:?} and sin {:?} do not fit",
                cos.dims(),
                sin.dims()
            )));
        }
        match call.positions.iter().find(|&&position| position >= cos.dims()[0]) {
            Some(position) => {
                Err(OpError::invalid(format!("position {position} is outside the table of angles")))
            }
            None => Ok((cos, sin)),
        }
    }

    /// Stores the new keys (part 1) or values (part 2) and returns the cache.
    fn store<T: Element + Float>(
        &self,
        cx: &mut Context<'_>,
        call: &Call,
        part: usize,
        kind: &Cache<'_>,
    ) -> Result<Tensor> {
        let mut cache = take_over(cx, 2 + part, part)?;
        let rows_expected = call.blocks * call.block * self.kv_heads;
        match kind {
            Cache::Plain => {
                if cache.len() != rows_expected * call.width {
                    return Err(OpError::invalid(format!("a cache has shape {:?}", cache.dims())));
                }
                let rows = Rows::new(cache.as_mut_slice::<T>()?, call.width);
                self.take::<T>(cx, call, part, &|token, head, values| {
                    if let Some(slot) = call.slots[token] {
                        // SAFETY: tokens have slots of their own.
                        let out = unsafe { rows.row(slot * self.kv_heads + head) };
                        out.iter_mut().zip(values).for_each(|(out, &value)| *out = T::from_f32(value));
                    }
                })?;
            }
            Cache::Quantized(codec) => {
                if cache.as_bytes().len() != rows_expected * codec.row_bytes() {
                    return Err(OpError::invalid(format!("a cache has shape {:?}", cache.dims())));
                }
                let rows = Rows::new(cache.as_bytes_mut(), codec.row_bytes());
                self.take::<T>(cx, call, part, &|token, head, values| {
                    if let Some(slot) = call.slots[token] {
                        // SAFETY: as above.
                        codec.encode(head, values, unsafe { rows.row(slot * self.kv_heads + head) });
                    }
                })?;
            }
        }
        Ok(cache)
    }

    fn run_typed<T: Element + Float>(&self, cx: &mut Context<'_>, call: &Call) -> Result<()> {
        let scales = [real::load_optional::<f32>(cx, 14)?, real::load_optional::<f32>(cx, 15)?];
        let mut kinds = Vec::with_capacity(2);
        for (part, scale) in scales.iter().enumerate() {
            let kind = self.cache[part];
            kinds.push(match (kind.bits, scale, cx.optional(3 + part)) {
                (0, _, _) | (_, _, None) => Cache::Plain,
                (_, Some(scale), Some(cache)) => {
                    let scale = scale.as_slice::<f32>()?;
                    Cache::Quantized(QuantizedCache::new(
                        kind,
                        cache.dtype(),
                        scale,
                        self.kv_heads,
                        call.width,
                    )?)
                }
                (_, None, _) => return Err(OpError::invalid("a quantised cache needs its scale")),
            });
        }
        let mut query = cx.scratch(T::DTYPE, &[call.tokens(), self.heads, call.width])?;
        let rows = Rows::new(query.as_mut_slice::<T>()?, call.width);
        self.take::<T>(cx, call, 0, &|token, head, values| {
            // SAFETY: every head of every token has its own row.
            let out = unsafe { rows.row(token * self.heads + head) };
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = T::from_f32(value));
        })?;
        let key = self.store::<T>(cx, call, 1, &kinds[0])?;
        let value = if self.latent { None } else { Some(self.store::<T>(cx, call, 2, &kinds[1])?) };
        let sinks = cx.optional(11).map(real::to_vec::<f32>).transpose()?;
        let y_dims = [call.tokens(), self.heads * call.v_width];
        let plain = kinds.iter().all(|kind| matches!(kind, Cache::Plain));
        let mut y = Output::new::<f32>(cx, 0, T::DTYPE, &y_dims)?;
        for sequence in 0..call.past.len() {
            let (first, end) = (call.starts[sequence], call.starts[sequence + 1]);
            if first == end {
                continue;
            }
            let length = call.past[sequence] + end - first;
            let out = &mut y.slice::<f32>()?[first * y_dims[1]..end * y_dims[1]];
            let queries =
                &query.as_slice::<T>()?[first * self.heads * call.width..end * self.heads * call.width];
            let v_cache = value.as_ref().unwrap_or(&key);
            if plain && let Some(start) = contiguous(call, sequence, length) {
                let (from, to) =
                    (start * self.kv_heads * call.width, (start + length) * self.kv_heads * call.width);
                let (k, v) = (&key.as_slice::<T>()?[from..to], &v_cache.as_slice::<T>()?[from..to]);
                self.attend(cx, call, [end - first, length], queries, [k, v], sinks.as_deref(), out)?;
            } else if plain {
                let k = gather_plain::<T>(call, sequence, length, self.kv_heads, &key)?;
                let v = gather_plain::<T>(call, sequence, length, self.kv_heads, v_cache)?;
                self.attend(cx, call, [end - first, length], queries, [&k, &v], sinks.as_deref(), out)?;
            } else {
                let k = self.gather::<T>(call, sequence, length, &key, &kinds[0])?;
                let v = match &value {
                    Some(value) => self.gather::<T>(call, sequence, length, value, &kinds[1])?,
                    None => k.clone(),
                };
                let queries: Vec<f32> = queries.iter().map(|value| value.to_f32()).collect();
                self.attend(cx, call, [end - first, length], &queries, [&k, &v], sinks.as_deref(), out)?;
            }
        }
        y.finish(cx)?;
        if cx.wants(1) {
            cx.set(1, key);
        }
        if let Some(value) = value.filter(|_| cx.wants(2)) {
            cx.set(2, value);
        }
        Ok(())
    }

    /// Attention of one sequence over keys and values `[length, heads, width]`.
    fn attend<T: Float>(
        &self,
        cx: &Context<'_>,
        call: &Call,
        [rows, length]: [usize; 2],
        queries: &[T],
        [k, v]: [&[T]; 2],
        sinks: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<()> {
        let shape = AttentionShape {
            batch: 1,
            q_heads: self.heads,
            kv_heads: self.kv_heads,
            q_len: rows,
            kv_len: length,
            qk_dim: call.width,
            v_dim: call.v_width,
        };
        let options = Options {
            scale: self.scale.unwrap_or(1.0 / (call.width as f32).sqrt()),
            causal: self.causal,
            window: (self.window, None),
            softcap: self.softcap,
            sinks,
            ..Options::default()
        };
        let cached = HeadStrides::rows_first(self.kv_heads, length, call.width);
        let q = (queries, HeadStrides::rows_first(self.heads, rows, call.width));
        let y = (out, HeadStrides::rows_first(self.heads, rows, call.v_width));
        let cpu = cx.cpu();
        Ok(attention(cpu, &shape, q, (k, cached), (v, cached), &options, y)?)
    }

    /// The rows of a sequence in f32; rows of unmapped pages are zero.
    fn gather<T: Element + Float>(
        &self,
        call: &Call,
        sequence: usize,
        length: usize,
        cache: &Tensor,
        kind: &Cache<'_>,
    ) -> Result<Vec<f32>> {
        let Cache::Quantized(codec) = kind else {
            let rows = gather_plain::<T>(call, sequence, length, self.kv_heads, cache)?;
            return Ok(rows.iter().map(|value| value.to_f32()).collect());
        };
        let mut rows = vec![0.0f32; length * self.kv_heads * call.width];
        for (index, out) in rows.chunks_exact_mut(call.width).enumerate() {
            if let Some(row) = call.row(sequence, index / self.kv_heads) {
                let at = (row * self.kv_heads + index % self.kv_heads) * codec.row_bytes();
                codec.decode(index % self.kv_heads, &cache.as_bytes()[at..][..codec.row_bytes()], out);
            }
        }
        Ok(rows)
    }
}

/// The first cache row of a sequence whose pages follow each other.
fn contiguous(call: &Call, sequence: usize, length: usize) -> Option<usize> {
    let first = call.row(sequence, 0)?;
    let follows = |page: usize| call.row(sequence, page * call.block) == Some(first + page * call.block);
    (0..length.div_ceil(call.block)).all(follows).then_some(first)
}

/// The rows of a sequence in their own type; rows of unmapped pages are zero.
fn gather_plain<T: Element + Float>(
    call: &Call,
    sequence: usize,
    length: usize,
    heads: usize,
    cache: &Tensor,
) -> Result<Vec<T>> {
    let line = heads * call.width;
    let cache = cache.as_slice::<T>()?;
    let mut rows = Vec::with_capacity(length * line);
    for position in 0..length {
        match call.row(sequence, position) {
            Some(row) => rows.extend_from_slice(&cache[row * line..][..line]),
            None => rows.resize(rows.len() + line, T::from_f32(0.0)),
        }
    }
    Ok(rows)
}
