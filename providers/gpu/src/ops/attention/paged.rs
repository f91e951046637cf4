//! PagedAttention of com.microsoft: packed tokens of several sequences over key and value caches cut into pages.

use tenon_kernels::gpu::attention::append::{self, Append, Pages, Part, Past, Positions, Target, Turn};
use tenon_kernels::gpu::attention::{Causal, Codes, Keys, Lengths, Problem, Queries, Strides};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::Family;
use super::{Operands, attend, element_of, extent, head_counts, quantized, sinks_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in crate::ops) const FAMILIES: &[Family] =
    &[Family { domain: "com.microsoft", op_types: &["PagedAttention"], lower }];

/// Positions of inputs.
const CACHES: usize = 3;
const STARTS: usize = 5;
const PAST: usize = 6;
const TABLE: usize = 7;
const COSINES: usize = 8;
const SLOTS: usize = 10;
const SINKS: usize = 11;
const NORMS: usize = 12;
const SCALES: usize = 14;

struct Paged {
    heads: usize,
    kv_heads: usize,
    scale: Option<f32>,
    soft_cap: Option<f32>,
    window_left: Option<u32>,
    is_causal: bool,
    is_rotary: bool,
    is_interleaved: bool,
    rotary_offset: usize,
    norm_epsilon: f32,
    /// One cache holds keys, whose leading columns are the values.
    is_latent: bool,
    v_width: Option<usize>,
    codes: Option<Codes>,
}

/// Sizes of one call.
struct Call {
    tokens: usize,
    batch: usize,
    width: usize,
    v_width: usize,
    is_packed: bool,
    pages: usize,
    page_rows: usize,
    table_columns: usize,
}

impl Operator for Paged {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let call = self.call(cx)?;
        let scalar = cx.scalar(0)?;
        let (query, q_strides, key, value) = self.store(cx, &call, scalar)?;
        let out = cx.output(0, scalar, &[call.tokens, self.heads * call.v_width])?;
        let sinks = match cx.optional(SINKS) {
            Some(sinks) => Some(sinks_of(cx, Some(sinks), self.heads)?),
            None => None,
        };
        let (heads, kv_heads) = (extent(self.heads)?, extent(self.kv_heads)?);
        let (tokens, page_rows) = (extent(call.tokens)?, extent(call.page_rows)?);
        let caches = Strides::rows_first(page_rows, kv_heads, extent(call.width)?);
        let kv_len = call.table_columns * call.page_rows;
        let problem = Problem {
            element: element_of(scalar),
            batch: extent(call.batch)?,
            heads,
            kv_heads,
            q_len: tokens,
            kv_len: extent(kv_len)?,
            head_qk: extent(call.width)?,
            head_v: extent(call.v_width)?,
            scale: self.scale.unwrap_or(1.0 / (call.width as f32).sqrt()),
            causal: self.is_causal.then_some(Causal::BottomRight),
            window_left: self.window_left,
            soft_cap: self.soft_cap,
            codes: self.codes,
            has_sinks: sinks.is_some(),
            mask: None,
            queries: Queries::Ragged { rows: tokens },
            keys: Keys::Paged { pages: extent(call.pages)?, page_rows, columns: extent(call.table_columns)? },
            lengths: Some(Lengths { is_i64: false, bias: 0, adds_queries: true }),
            q: q_strides,
            k: caches,
            v: caches,
            out: Strides::rows_first(tokens, heads, extent(call.v_width)?),
        };
        let operands = Operands {
            lengths: Some(cx.input(PAST)?),
            q_offsets: Some(cx.input(STARTS)?),
            page_table: Some(cx.input(TABLE)?),
            sinks,
            scales: quantized::scales(cx, self.codes, SCALES, [self.kv_heads, call.width])?,
            ..Operands::new(out, [query, key, value])
        };
        attend(cx, scalar, &problem, &operands)
    }
}

impl Paged {
    fn call(&self, cx: &Expansion<'_, '_>) -> Result<Call> {
        let query = cx.dims(0)?;
        let [tokens, hidden] = query[..] else {
            return Err(Error::invalid(format!("the query has two axes, got shape {query:?}")));
        };
        let is_packed = cx.optional(1).is_none();
        let heads = if is_packed { self.heads + 2 * self.kv_heads } else { self.heads };
        if !hidden.is_multiple_of(heads) || self.is_latent && is_packed {
            return Err(Error::invalid(format!("query shape {query:?} does not divide into {heads} heads")));
        }
        let width = hidden / heads;
        let v_width = match self.is_latent {
            true => self.v_width.unwrap_or(width),
            false => width,
        };
        for index in (1..3).filter(|&index| cx.optional(index).is_some()) {
            let found = cx.dims(index)?;
            if found != [tokens, self.kv_heads * width] {
                return Err(Error::invalid(format!(
                    "key or value of shape {found:?} does not fit the query {query:?}"
                )));
            }
        }
        let cache = cx.dims(CACHES)?;
        let row = quantized::row_elements(self.codes, width);
        let [pages, page_rows, cache_heads, cache_row] = cache[..] else {
            return Err(Error::invalid(format!("key_cache of shape {cache:?}: four axes")));
        };
        if cache_heads != self.kv_heads || cache_row != row || v_width > width {
            return Err(Error::invalid(format!(
                "key_cache of shape {cache:?} does not hold {} heads of {width} columns",
                self.kv_heads
            )));
        }
        let (table, starts) = (cx.dims(TABLE)?, cx.dims(STARTS)?);
        let batch = cx.dims(PAST)?.iter().product::<usize>();
        let [table_rows, table_columns] = table[..] else {
            return Err(Error::invalid(format!("block_table of shape {table:?}: two axes")));
        };
        if table_rows != batch || starts.iter().product::<usize>() != batch + 1 {
            return Err(Error::invalid(format!(
                "{batch} pasts, bounds of shape {starts:?} and a block_table of shape {table:?}"
            )));
        }
        Ok(Call { tokens, batch, width, v_width, is_packed, pages, page_rows, table_columns })
    }

    /// New keys and values into the pages; the queries as attention reads them, their strides, and the caches.
    fn store(
        &self,
        cx: &mut Expansion<'_, '_>,
        call: &Call,
        scalar: Scalar,
    ) -> Result<(ValueId, Strides, ValueId, ValueId)> {
        let (tokens, width) = (extent(call.tokens)?, extent(call.width)?);
        let (heads, kv_heads) = (extent(self.heads)?, extent(self.kv_heads)?);
        let packed = {
            let row = u64::from(heads + 2 * kv_heads) * u64::from(width);
            Strides { batch: u64::from(tokens) * row, row, head: width.into() }
        };
        let from = |heads| if call.is_packed { packed } else { Strides::rows_first(tokens, heads, width) };
        let start = |heads: u32| if call.is_packed { u64::from(heads) * u64::from(width) } else { 0 };
        let norm = |cx: &Expansion<'_, '_>, part: usize| -> Result<Option<f32>> {
            let Some(weights) = cx.optional(NORMS + part) else { return Ok(None) };
            let found = cx.builder.dims(weights);
            if found.iter().product::<usize>() != call.width {
                return Err(Error::invalid(format!("norm weights of shape {found:?}")));
            }
            Ok(Some(self.norm_epsilon))
        };
        let mut cache = |part: usize| -> Result<ValueId> {
            let past = cx.input(CACHES + part)?;
            let (stored, dims) = (cx.builder.scalar(past), cx.builder.dims(past).to_vec());
            let present = cx.output(1 + part, stored, &dims)?;
            cx.builder.copy(cx.node, present, past);
            Ok(present)
        };
        let key = cache(0)?;
        let value = if self.is_latent { key } else { cache(1)? };
        let new = |heads_before: u32| Part {
            heads: kv_heads,
            from_offset: start(heads_before),
            from: from(kv_heads),
            to: Strides::rows_first(call.page_rows as u32, kv_heads, width),
            target: Target::Pages,
            codes: self.codes,
            ..Part::default()
        };
        let [q_norm, k_norm] = [norm(cx, 0)?, norm(cx, 1)?];
        let must_turn = self.is_rotary || q_norm.is_some();
        let query = Part {
            heads,
            from: from(heads),
            to: Strides::rows_first(tokens, heads, width),
            is_turned: self.is_rotary,
            norm_epsilon: q_norm,
            ..Part::default()
        };
        let problem = Append {
            scalar,
            batch: extent(call.batch)?,
            rows: tokens,
            is_ragged: true,
            columns: width,
            turn: if self.is_rotary { Some(self.turn(cx, call)?) } else { None },
            past: Past::Before,
            room: 0,
            pages: Some(Pages {
                pages: extent(call.pages)?,
                page_rows: extent(call.page_rows)?,
                table_columns: extent(call.table_columns)?,
                has_slots: cx.optional(SLOTS).is_some(),
            }),
            parts: [
                if must_turn { query } else { Part::default() },
                Part { is_turned: self.is_rotary, norm_epsilon: k_norm, ..new(heads) },
                if self.is_latent { Part::default() } else { new(heads + kv_heads) },
            ],
        };
        let turned = match must_turn {
            true => Some(cx.scratch(scalar, &[call.tokens, self.heads, call.width])?),
            false => None,
        };
        let input = |index: usize| cx.optional(if call.is_packed { 0 } else { index });
        let scales = quantized::scales(cx, self.codes, SCALES, [self.kv_heads, call.width])?;
        let mut operands: Vec<Option<ValueId>> = vec![None; 18];
        operands[append::operand::Q_OUT] = turned;
        operands[append::operand::K_OUT] = Some(key);
        operands[append::operand::V_OUT] = Some(value);
        for part in 0..3 {
            operands[append::operand::Q + part] = input(part);
        }
        operands[append::operand::Q_NORM] = cx.optional(NORMS);
        operands[append::operand::K_NORM] = cx.optional(NORMS + 1);
        operands[append::operand::COSINES] = cx.optional(COSINES);
        operands[append::operand::SINES] = cx.optional(COSINES + 1);
        operands[append::operand::LENGTHS] = Some(cx.input(PAST)?);
        operands[append::operand::OFFSETS] = Some(cx.input(STARTS)?);
        operands[append::operand::TABLE] = Some(cx.input(TABLE)?);
        operands[append::operand::SLOTS] = cx.optional(SLOTS);
        operands[append::operand::K_SCALES] = scales.map(|[k, _]| k);
        operands[append::operand::V_SCALES] = scales.map(|[_, v]| v);
        cx.run(append::plan(&problem), &operands)?;
        Ok(match turned {
            Some(turned) => (turned, Strides::rows_first(tokens, heads, width), key, value),
            None => (cx.input(0)?, from(heads), key, value),
        })
    }

    fn turn(&self, cx: &Expansion<'_, '_>, call: &Call) -> Result<Turn> {
        let (cosines, sines) = (cx.dims(COSINES)?, cx.dims(COSINES + 1)?);
        let [angles, half] = cosines[..] else {
            return Err(Error::invalid(format!("cos of shape {cosines:?}: two axes")));
        };
        if cosines != sines || 2 * half + self.rotary_offset > call.width || angles == 0 {
            return Err(Error::invalid(format!("cos {cosines:?} and sin {sines:?} do not fit")));
        }
        Ok(Turn {
            turned: extent(2 * half)?,
            offset: extent(self.rotary_offset)?,
            is_interleaved: self.is_interleaved,
            angles: extent(angles)?,
            angle_scalar: cx.scalar(COSINES)?,
            positions: Positions::BehindPast,
        })
    }
}

fn lower(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(0)?;
    let no = |what: &str| Err(Decline(format!("PagedAttention with {what} has no GPU kernel")));
    let (heads, kv_heads) = head_counts(l)?;
    let is_latent = match l.node.text_or("kv_cache_layout", "SEPARATE")? {
        "SEPARATE" => false,
        "LATENT" => true,
        other => return Err(Decline(format!("kv_cache_layout '{other}' is none of SEPARATE, LATENT"))),
    };
    if l.node.text_or("k_cache_dtype", "")? == "float4e2m1" {
        return no("a cache of float4e2m1");
    }
    let bits = if l.node.text_or("k_cache_dtype", "")? == "int4" { 4 } else { 8 };
    let codes = quantized::codes_of(l, bits, CACHES, !is_latent)?;
    let is_rotary = l.node.int_or("do_rotary", 0)? != 0;
    for index in [1, 2, NORMS, NORMS + 1] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    for index in [STARTS, PAST, TABLE, SLOTS].into_iter().filter(|&index| l.has_input(index)) {
        if l.scalar(index)? != Scalar::I32 {
            return no("numbers that are not i32");
        }
    }
    if is_rotary {
        l.half_or_single(COSINES)?;
        if l.scalar(COSINES + 1)? != l.scalar(COSINES)? {
            return no("cosines and sines of different types");
        }
    }
    // Bounds of lengths for hosts that need them before the launch.
    if l.has_input(16) {
        l.leave_on_host(16);
    }
    let scale = l.node.float_or("scale", 0.0)?;
    let soft_cap = l.node.float_or("softcap", 0.0)?;
    Ok(Box::new(Paged {
        heads,
        kv_heads,
        scale: (scale != 0.0).then_some(scale),
        soft_cap: (soft_cap != 0.0).then_some(soft_cap),
        window_left: u32::try_from(l.node.int_or("local_window_size", -1)? - 1).ok(),
        is_causal: l.node.int_or("is_causal", 1)? != 0,
        is_rotary,
        is_interleaved: l.node.int_or("rotary_interleaved", 0)? != 0,
        rotary_offset: usize::try_from(l.node.int_or("rotary_offset", 0)?)
            .map_err(|_| Decline::new("rotary_offset is negative"))?,
        norm_epsilon: l.node.float_or("qk_norm_epsilon", 1e-6)?,
        is_latent,
        v_width: usize::try_from(l.node.int_or("v_head_size", 0)?).ok().filter(|&width| width > 0),
        codes,
    }))
}
