//! GroupQueryAttention of com.microsoft over a cache that grows in place, with rotary embedding on the way into it.

use tenon_kernels::gpu::attention::plain::{MaskKind, MaskOperand};
use tenon_kernels::gpu::attention::{Causal, Keys, Lengths, Problem, Queries, Strides};
use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::rotary::{self, Part, Positions, Rotary};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::Family;
use super::{Operands, attend, cache, element_of, extent};
use crate::map::{Expr, Leaf, Map, MapInput, class_of};
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
}

/// Sizes of one call.
struct Call {
    batch: usize,
    rows: usize,
    columns: usize,
    is_packed: bool,
    room: usize,
}

impl Operator for GroupQuery {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let call = self.call(cx)?;
        let scalar = cx.scalar(0)?;
        let Call { batch, rows, columns, room, .. } = call;
        let shape = [batch, self.kv_heads, room, columns];
        let key = cache::take_over(cx, 1, cx.optional(3), shape)?;
        let value = cache::take_over(cx, 2, cx.optional(4), shape)?;
        let (query, q_strides) = self.append(cx, &call, [key, value])?;
        let out = cx.output(0, scalar, &[batch, rows, self.heads * columns])?;
        let sinks = cx.optional(11).map(|sinks| self.sinks(cx, sinks)).transpose()?;
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
            has_sinks: sinks.is_some(),
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: Some(Lengths { is_i64: false, bias: 1, adds_queries: false }),
            q: q_strides,
            k: caches,
            v: caches,
            out: Strides::rows_first(q_len, heads, head),
        };
        let operands = Operands {
            out,
            q: query,
            k: key,
            v: value,
            lengths: Some(cx.input(5)?),
            q_offsets: None,
            page_table: None,
            sinks,
            mask,
        };
        attend(cx, scalar, &problem, &operands)
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
        let positions = match cx.optional(9).filter(|_| self.is_rotary) {
            None => Positions::BehindPast,
            Some(ids) if cx.builder.dims(ids).iter().product::<usize>() == 1 => Positions::First,
            Some(ids) if cx.builder.dims(ids).iter().product::<usize>() == call.batch * call.rows => {
                Positions::Each
            }
            Some(ids) => {
                let found = cx.builder.dims(ids);
                return Err(Error::invalid(format!("position_ids of shape {found:?}")));
            }
        };
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

    /// The sinks in f32.
    fn sinks(&self, cx: &mut Expansion<'_, '_>, sinks: ValueId) -> Result<ValueId> {
        let (scalar, dims) = (cx.builder.scalar(sinks), cx.builder.dims(sinks).to_vec());
        if dims != [self.heads] {
            return Err(Error::invalid(format!("head_sink of shape {dims:?} for {} heads", self.heads)));
        }
        if scalar == Scalar::F32 {
            return Ok(sinks);
        }
        let output = cx.scratch(Scalar::F32, &dims)?;
        let input = MapInput { value: sinks, scalar, strides: contiguous(&dims), offset: 0 };
        let exprs = vec![Expr::unary(MapOp::Move, Leaf::Operand(0))];
        cx.map(Map {
            class: class_of(scalar),
            output,
            scalar: Scalar::F32,
            dims,
            inputs: vec![input],
            exprs,
        });
        Ok(output)
    }

    fn bias(&self, cx: &Expansion<'_, '_>, bias: ValueId, call: &Call) -> Result<(ValueId, MaskOperand)> {
        let dims = cx.builder.dims(bias);
        let [batch, heads, rows, keys] = dims[..] else {
            return Err(Error::invalid(format!("attention_bias of shape {dims:?}")));
        };
        let fits = |found: usize, wanted: usize| found == wanted || found == 1;
        if !fits(batch, call.batch) || !fits(heads, self.heads) || !fits(rows, call.rows) {
            return Err(Error::invalid(format!("attention_bias of shape {dims:?}")));
        }
        let stride = |extent: usize, size: usize| if extent == 1 { 0 } else { size as u64 };
        let strides = Strides {
            batch: stride(batch, heads * rows * keys),
            head: stride(heads, rows * keys),
            row: stride(rows, keys),
        };
        Ok((bias, MaskOperand { kind: MaskKind::Element, strides, columns: extent(keys)? }))
    }
}

fn lower(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(0)?;
    let count = |name: &str| -> std::result::Result<usize, Decline> {
        let count = l.node.int_or(name, 0)?;
        usize::try_from(count)
            .ok()
            .filter(|&count| count > 0)
            .ok_or_else(|| Decline(format!("attribute '{name}' is {count}")))
    };
    let (heads, kv_heads) = (count("num_heads")?, count("kv_num_heads")?);
    if !heads.is_multiple_of(kv_heads) {
        return Err(Decline(format!("{heads} query heads do not divide over {kv_heads} key heads")));
    }
    let is_rotary = l.node.int_or("do_rotary", 0)? != 0;
    refuse(l, scalar, is_rotary)?;
    let total = l.numbers(6, 1).and_then(|numbers| numbers.first().copied());
    if total.is_none() && l.has_input(3) {
        let present = l.node.output(1).ok_or_else(|| Decline::new("the present cache is not asked for"))?;
        let is_known = present.dims().is_some_and(|dims| dims.get(2).is_some_and(|&dim| dim >= 0))
            || present.dim_symbol(2).is_some();
        if !is_known {
            return Err(Decline::new("the length of the present cache does not follow from shapes"));
        }
    }
    let scale = l.node.float_or("scale", 0.0)?;
    let soft_cap = l.node.float_or("softcap", 0.0)?;
    let window = l.node.int_or("local_window_size", -1)?;
    Ok(Box::new(GroupQuery {
        heads,
        kv_heads,
        scale: (scale != 0.0).then_some(scale),
        soft_cap: (soft_cap != 0.0).then_some(soft_cap),
        window_left: u32::try_from(window - 1).ok(),
        is_causal: l.node.int_or("causal", 1)? != 0,
        is_rotary,
        is_interleaved: l.node.int_or("rotary_interleaved", 0)? != 0,
        total: total.map(|total| total.max(0.0) as usize),
    }))
}

/// Declines what there is no kernel for.
fn refuse(l: &Lowering<'_>, scalar: Scalar, is_rotary: bool) -> std::result::Result<(), Decline> {
    let no = |what: &str| Err(Decline(format!("GroupQueryAttention with {what} has no GPU kernel")));
    if l.has_output(3) || l.node.int_or("qk_output", 0)? != 0 {
        return no("its scores as an output");
    }
    for name in ["k_quant_type", "v_quant_type"] {
        if l.node.text_or(name, "NONE")? != "NONE" {
            return no("a quantised cache");
        }
    }
    if l.node.int_or("sliding_window_cache", 0)? != 0 {
        return no("a cache that holds a window");
    }
    if l.has_input(14) || l.has_input(15) {
        return no("norms of queries and keys");
    }
    if l.has_input(16) {
        return no("a number of queries for each sequence");
    }
    if l.node.int_or("smooth_softmax", -1)? > 0 && !l.has_input(11) {
        return no("a smooth softmax");
    }
    if l.has_input(3) != l.has_input(4) {
        return no("a past of keys or values alone");
    }
    for index in [1, 2, 3, 4, 10] {
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
