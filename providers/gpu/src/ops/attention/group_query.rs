//! GroupQueryAttention of com.microsoft over a cache that grows in place, with norms and rotary embedding on the way into
//! it, in the element type or in codes.

use tenon_kernels::gpu::attention::append::{self, Append, Past, Target, Turn};
use tenon_kernels::gpu::attention::plain::{Scores, Stage};
use tenon_kernels::gpu::attention::{Causal, Codes, Keys, Lengths, MaskOperand, Problem, Queries, Strides};
use tenon_kernels::gpu::rotary::{self, Part, Positions, Rotary};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result, ValueView};

use super::super::Family;
use super::onnx::mask_of;
use super::{Operands, attend, cache, element_of, extent, hand_out, head_counts, quantized, sinks_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in crate::ops) const FAMILIES: &[Family] =
    &[Family { domain: "com.microsoft", op_types: &["GroupQueryAttention"], lower }];

struct GroupQuery {
    heads: usize,
    kv_heads: usize,
    scale: Option<f32>,
    soft_cap: Option<f32>,
    window_left: Option<u32>,
    is_causal: bool,
    is_rotary: bool,
    is_interleaved: bool,
    /// The total length, where it is a constant.
    total: Option<usize>,
    codes: Option<Codes>,
    /// Epsilons of the norms of queries and keys.
    norm_epsilons: [f32; 2],
    /// Every row sees a key without value and with score 0.
    is_smooth: bool,
    scores: Option<Stage>,
}

/// Sizes of one call.
struct Call {
    batch: usize,
    rows: usize,
    columns: usize,
    is_packed: bool,
    room: usize,
}

/// Positions of inputs.
const SCALES: usize = 12;
const NORMS: usize = 14;

impl Operator for GroupQuery {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let call = self.call(cx)?;
        let scalar = cx.scalar(0)?;
        let Call { batch, rows, columns, room, .. } = call;
        let shape = [batch, self.kv_heads, room, quantized::row_elements(self.codes, columns)];
        let stored = match (self.codes, cx.optional(3)) {
            (None, _) => scalar,
            (Some(_), Some(past)) => cx.builder.scalar(past),
            (Some(codes), None) => quantized::scalar_of(codes.code),
        };
        let key = cache::take_over(cx, 1, cx.optional(3), stored, shape)?;
        let value = cache::take_over(cx, 2, cx.optional(4), stored, shape)?;
        let has_norms = cx.optional(NORMS).is_some() || cx.optional(NORMS + 1).is_some();
        let (query, q_strides) = match self.codes.is_some() || has_norms {
            true => self.append_prepared(cx, &call, [key, value])?,
            false => self.append(cx, &call, [key, value])?,
        };
        let out = cx.output(0, scalar, &[batch, rows, self.heads * columns])?;
        let sinks = match (cx.optional(11), self.is_smooth) {
            (None, false) => None,
            (given, _) => Some(sinks_of(cx, given, self.heads)?),
        };
        let mask = cx.optional(10).map(|bias| self.bias(cx, bias, &call)).transpose()?;
        let (heads, kv_heads) = (extent(self.heads)?, extent(self.kv_heads)?);
        let (q_len, kv_len, head) = (extent(rows)?, extent(room)?, extent(columns)?);
        let caches = Strides::heads_first(kv_len, kv_heads, head);
        let problem = Problem {
            element: element_of(scalar),
            batch: extent(batch)?,
            heads,
            kv_heads,
            q_len,
            kv_len,
            head_qk: head,
            head_v: head,
            scale: self.scale.unwrap_or(1.0 / (columns as f32).sqrt()),
            causal: self.is_causal.then_some(Causal::Appended),
            window_left: self.window_left,
            soft_cap: self.soft_cap,
            codes: self.codes,
            has_sinks: sinks.is_some(),
            mask: mask.map(|(_, mask)| mask),
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: Some(Lengths { is_i64: false, bias: 1, adds_queries: false }),
            q: q_strides,
            k: caches,
            v: caches,
            out: Strides::rows_first(q_len, heads, head),
        };
        let operands = Operands {
            lengths: Some(cx.input(5)?),
            sinks,
            mask: mask.map(|(value, _)| value),
            scales: quantized::scales(cx, self.codes, SCALES, [self.kv_heads, columns])?,
            ..Operands::new(out, [query, key, value])
        };
        attend(cx, scalar, &problem, &operands)?;
        let Some(stage) = self.scores.filter(|_| cx.has_output(3)) else { return Ok(()) };
        let declared = cx.declared_output(3).and_then(|dims| dims.get(3).copied().flatten());
        let Some(total) = self.total.or(declared) else {
            return Err(Error::unsupported("the number of scores does not follow from shapes"));
        };
        let out = cx.output(3, scalar, &[batch, self.heads, rows, total])?;
        let scores = Scores { stage, keys: extent(total)?, hidden: 0.0 };
        hand_out(cx, scalar, &problem, &Operands { out, ..operands }, &scores)
    }
}

impl GroupQuery {
    fn call(&self, cx: &Expansion<'_, '_>) -> Result<Call> {
        let dims = cx.dims(0)?;
        let [batch, rows, hidden] = dims[..] else {
            return Err(Error::invalid(format!("the query has three axes, got shape {dims:?}")));
        };
        let is_packed = cx.optional(1).is_none();
        let heads = if is_packed { self.heads + 2 * self.kv_heads } else { self.heads };
        if !hidden.is_multiple_of(heads) {
            return Err(Error::invalid(format!("query shape {dims:?} does not divide into {heads} heads")));
        }
        let columns = hidden / heads;
        for index in [1, 2].into_iter().filter(|_| !is_packed) {
            let found = cx.dims(index)?;
            if found != [batch, rows, self.kv_heads * columns] {
                return Err(Error::invalid(format!(
                    "key or value of shape {found:?} does not fit the query {dims:?}"
                )));
            }
        }
        if cx.dims(5)?.iter().product::<usize>() != batch {
            return Err(Error::invalid(format!("seqlens_k has not {batch} values")));
        }
        let past = cx.optional(3).map(|past| cx.builder.dims(past).to_vec());
        let past_room = past.as_ref().map_or(0, |dims| dims.get(2).copied().unwrap_or(0));
        let declared = cx.declared_output(1).and_then(|dims| dims.get(2).copied().flatten());
        let room = match (self.total.or(declared), past) {
            (Some(total), _) => total.max(past_room),
            (None, None) => rows,
            // Nobody sees how much of it is used.
            (None, Some(_)) if !cx.has_output(1) && !cx.has_output(2) => past_room + rows,
            (None, Some(_)) => {
                return Err(Error::unsupported(
                    "the length of the present cache does not follow from shapes",
                ));
            }
        };
        Ok(Call { batch, rows, columns, is_packed, room })
    }

    /// New keys and values into the caches, queries turned; where the queries are, and their strides.
    fn append(
        &self,
        cx: &mut Expansion<'_, '_>,
        call: &Call,
        [key, value]: [ValueId; 2],
    ) -> Result<(ValueId, Strides)> {
        let scalar = cx.scalar(0)?;
        let (rows, columns, room) = (extent(call.rows)?, extent(call.columns)?, extent(call.room)?);
        let (heads, kv_heads) = (extent(self.heads)?, extent(self.kv_heads)?);
        let packed = {
            let row = u64::from((heads + 2 * kv_heads) * columns);
            Strides { batch: u64::from(rows) * row, row, head: columns.into() }
        };
        let from = |heads| if call.is_packed { packed } else { Strides::rows_first(rows, heads, columns) };
        let start = |heads: u32| if call.is_packed { u64::from(heads) * u64::from(columns) } else { 0 };
        let q_to = Strides::rows_first(rows, heads, columns);
        let new = |first| Part {
            heads: kv_heads,
            from_offset: start(first),
            from: from(kv_heads),
            to: Strides::heads_first(room, kv_heads, columns),
            is_turned: false,
            room: Some(room),
        };
        let query = Part { heads, from: from(heads), to: q_to, is_turned: true, ..Part::default() };
        let parts = [
            if self.is_rotary { query } else { Part::default() },
            Part { is_turned: self.is_rotary, ..new(heads) },
            new(heads + kv_heads),
        ];
        let tables = if self.is_rotary { self.tables(cx, call)? } else { [call.columns, 0] };
        let positions = self.positions(cx, call)?;
        let problem = Rotary {
            scalar,
            batch: extent(call.batch)?,
            rows,
            columns,
            turned: extent(tables[0])?,
            is_interleaved: self.is_interleaved,
            angles: extent(tables[1])?,
            angle_scalar: if self.is_rotary { cx.scalar(7)? } else { scalar },
            positions,
            length_bias: Some(1),
            parts,
        };
        let turned = match self.is_rotary {
            true => Some(cx.scratch(scalar, &[call.batch, call.rows, self.heads, call.columns])?),
            false => None,
        };
        let given = |index: usize| cx.input(if call.is_packed { 0 } else { index }).map(Some);
        let ids = cx.optional(9).filter(|_| self.is_rotary);
        let (cosines, sines) = (cx.optional(7), cx.optional(8));
        let lengths = Some(cx.input(5)?);
        let operands =
            [turned, Some(key), Some(value), given(0)?, given(1)?, given(2)?, cosines, sines, ids, lengths];
        cx.run(rotary::plan(&problem), &operands)?;
        Ok(match turned {
            Some(turned) => (turned, q_to),
            None => (cx.input(0)?, from(heads)),
        })
    }

    /// Columns that are turned, and positions that the tables hold.
    fn tables(&self, cx: &Expansion<'_, '_>, call: &Call) -> Result<[usize; 2]> {
        let (cosines, sines) = (cx.dims(7)?, cx.dims(8)?);
        match cosines[..] {
            [angles, half] if cosines == sines && 2 * half <= call.columns && angles > 0 => {
                Ok([2 * half, angles])
            }
            _ => Err(Error::invalid(format!("cos {cosines:?} and sin {sines:?} do not fit"))),
        }
    }

    /// The same with norms, and with caches of codes.
    fn append_prepared(
        &self,
        cx: &mut Expansion<'_, '_>,
        call: &Call,
        [key, value]: [ValueId; 2],
    ) -> Result<(ValueId, Strides)> {
        let scalar = cx.scalar(0)?;
        let (rows, columns, room) = (extent(call.rows)?, extent(call.columns)?, extent(call.room)?);
        let (heads, kv_heads) = (extent(self.heads)?, extent(self.kv_heads)?);
        let row = u64::from(heads + 2 * kv_heads) * u64::from(columns);
        let packed = Strides { batch: u64::from(rows) * row, row, head: columns.into() };
        let from = |heads| if call.is_packed { packed } else { Strides::rows_first(rows, heads, columns) };
        let start = |heads: u32| if call.is_packed { u64::from(heads) * u64::from(columns) } else { 0 };
        let mut norms = [None; 2];
        for (part, norm) in norms.iter_mut().enumerate() {
            let Some(weights) = cx.optional(NORMS + part) else { continue };
            let found = cx.builder.dims(weights);
            if found.iter().product::<usize>() != call.columns {
                return Err(Error::invalid(format!("norm weights of shape {found:?}")));
            }
            *norm = Some(self.norm_epsilons[part]);
        }
        let q_to = Strides::rows_first(rows, heads, columns);
        let new = |before: u32| append::Part {
            heads: kv_heads,
            from_offset: start(before),
            from: from(kv_heads),
            to: Strides::heads_first(room, kv_heads, columns),
            target: Target::Cache,
            codes: self.codes,
            ..append::Part::default()
        };
        let query = append::Part {
            heads,
            from: from(heads),
            to: q_to,
            is_turned: self.is_rotary,
            norm_epsilon: norms[0],
            ..append::Part::default()
        };
        let turn = match self.is_rotary {
            true => {
                let [turned, angles] = self.tables(cx, call)?;
                Some(Turn {
                    turned: extent(turned)?,
                    offset: 0,
                    is_interleaved: self.is_interleaved,
                    angles: extent(angles)?,
                    angle_scalar: cx.scalar(7)?,
                    positions: match self.positions(cx, call)? {
                        Positions::First => append::Positions::First,
                        Positions::Each => append::Positions::Each,
                        _ => append::Positions::BehindPast,
                    },
                })
            }
            false => None,
        };
        let problem = Append {
            scalar,
            batch: extent(call.batch)?,
            rows,
            is_ragged: false,
            columns,
            turn,
            past: Past::Total { bias: 1 },
            room,
            pages: None,
            parts: [
                query,
                append::Part { is_turned: self.is_rotary, norm_epsilon: norms[1], ..new(heads) },
                new(heads + kv_heads),
            ],
        };
        let prepared = cx.scratch(scalar, &[call.batch, call.rows, self.heads, call.columns])?;
        let input = |index: usize| cx.optional(if call.is_packed { 0 } else { index });
        let scales = quantized::scales(cx, self.codes, SCALES, [self.kv_heads, call.columns])?;
        let mut operands: Vec<Option<ValueId>> =
            vec![Some(prepared), Some(key), Some(value), input(0), input(1), input(2), None];
        operands.extend([NORMS, NORMS + 1, 7, 8, 9, 5].map(|index| cx.optional(index)));
        operands.extend([None; 3]);
        operands.extend([scales.map(|[k, _]| k), scales.map(|[_, v]| v)]);
        cx.run(append::plan(&problem), &operands)?;
        Ok((prepared, q_to))
    }

    fn positions(&self, cx: &Expansion<'_, '_>, call: &Call) -> Result<Positions> {
        match cx.optional(9).filter(|_| self.is_rotary) {
            None => Ok(Positions::BehindPast),
            Some(ids) => match cx.builder.dims(ids).iter().product::<usize>() {
                1 => Ok(Positions::First),
                count if count == call.batch * call.rows => Ok(Positions::Each),
                _ => Err(Error::invalid(format!("position_ids of shape {:?}", cx.builder.dims(ids)))),
            },
        }
    }

    fn bias(&self, cx: &Expansion<'_, '_>, bias: ValueId, call: &Call) -> Result<(ValueId, MaskOperand)> {
        let dims = cx.builder.dims(bias);
        if dims.len() != 4 {
            return Err(Error::invalid(format!("attention_bias of shape {dims:?}")));
        }
        mask_of(cx, bias, cx.scalar(0)?, [call.batch, self.heads, call.rows])
    }
}

fn lower(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(0)?;
    let (heads, kv_heads) = head_counts(l)?;
    let is_rotary = l.node.int_or("do_rotary", 0)? != 0;
    refuse(l, scalar, is_rotary)?;
    let total = l.numbers(6, 1).and_then(|numbers| numbers.first().copied());
    if total.is_none() && l.has_input(3) {
        let is_known = |present: ValueView<'_>| {
            present.dims().is_some_and(|dims| dims.get(2).is_some_and(|&dim| dim >= 0))
                || present.dim_symbol(2).is_some()
        };
        let present = [1, 2].map(|index| l.node.output(index));
        if present.iter().flatten().next().is_some() && !present[0].is_some_and(is_known) {
            return Err(Decline::new("the length of the present cache does not follow from shapes"));
        }
    }
    if l.has_output(3) && total.is_none() {
        let scores = l.node.output(3).filter(|scores| {
            scores.dims().is_some_and(|dims| dims.get(3).is_some_and(|&dim| dim >= 0))
                || scores.dim_symbol(3).is_some()
        });
        scores.ok_or_else(|| Decline::new("the number of scores does not follow from shapes"))?;
    }
    let scale = l.node.float_or("scale", 0.0)?;
    let soft_cap = l.node.float_or("softcap", 0.0)?;
    let window = l.node.int_or("local_window_size", -1)?;
    let epsilon = l.node.float_or("qk_norm_epsilon", 1e-6)?;
    Ok(Box::new(GroupQuery {
        heads,
        kv_heads,
        scale: (scale != 0.0).then_some(scale),
        soft_cap: (soft_cap != 0.0).then_some(soft_cap),
        window_left: u32::try_from(window - 1).ok(),
        is_causal: l.node.int_or("causal", 1)? != 0,
        is_rotary,
        is_interleaved: l.node.int_or("rotary_interleaved", 0)? != 0,
        codes: quantized::codes_of(l, l.node.int_or("kv_cache_bit_width", 8)?, 3, true)?,
        norm_epsilons: [
            l.node.float_or("q_norm_epsilon", epsilon)?,
            l.node.float_or("k_norm_epsilon", epsilon)?,
        ],
        is_smooth: l.node.int_or("smooth_softmax", -1)? > 0,
        scores: match l.node.int_or("qk_output", 0)? {
            0 => None,
            1 => Some(Stage::Masked),
            2 => Some(Stage::Weights),
            mode => return Err(Decline(format!("qk_output {mode} is none of 0, 1, 2"))),
        },
        total: total.map(|total| total.max(0.0) as usize),
    }))
}

/// Declines what there is no kernel for.
fn refuse(l: &Lowering<'_>, scalar: Scalar, is_rotary: bool) -> std::result::Result<(), Decline> {
    let no = |what: &str| Err(Decline(format!("GroupQueryAttention with {what} has no GPU kernel")));
    if l.node.int_or("sliding_window_cache", 0)? != 0 {
        return no("a cache that holds a window");
    }
    if l.has_input(16) {
        return no("a number of queries for each sequence");
    }
    if l.has_input(3) != l.has_input(4) {
        return no("a past of keys or values alone");
    }
    for index in [1, 2, 10, 14, 15] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    if l.scalar(5)? != Scalar::I32 {
        return no("lengths that are not i32");
    }
    if is_rotary {
        l.half_or_single(7)?;
        if l.scalar(8)? != l.scalar(7)? {
            return no("cosines and sines of different types");
        }
        if l.has_input(9) && l.scalar(9)? != Scalar::I64 {
            return no("positions that are not i64");
        }
    }
    Ok(())
}
