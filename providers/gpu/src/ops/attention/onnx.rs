//! Attention of ai.onnx, and MultiHeadAttention of com.microsoft where it is the same thing.

use tenon_kernels::gpu::attention::plain::{MaskKind, MaskOperand};
use tenon_kernels::gpu::attention::{Causal, Keys, Lengths, Problem, Queries, Strides};
use tenon_kernels::gpu::layout::{self, StridedCopy};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::Family;
use super::{Operands, attend, cache, element_of, extent};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in crate::ops) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Attention"], lower: onnx },
    Family { domain: "com.microsoft", op_types: &["MultiHeadAttention"], lower: multi_head },
];

struct Attention {
    /// Of queries and of keys, for inputs of three axes.
    heads: Option<[usize; 2]>,
    scale: Option<f32>,
    soft_cap: Option<f32>,
    is_causal: bool,
    window_left: Option<u32>,
    /// Positions of the inputs: mask, past keys (values follow), valid keys of each sequence.
    mask: usize,
    past: usize,
    lengths: usize,
}

/// Extents of one call.
struct Call {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize,
    new: usize,
    past: usize,
    head_qk: usize,
    head_v: usize,
    /// Queries and the result are `[batch, rows, heads * columns]`, and so are new keys, and new values.
    is_flat: [bool; 3],
}

impl Operator for Attention {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let call = self.call(cx)?;
        let scalar = cx.scalar(0)?;
        let (key, k) = self.keys(cx, &call, 1, call.head_qk)?;
        let (value, v) = self.keys(cx, &call, 2, call.head_v)?;
        let (query, rows) = (cx.input(0)?, extent(call.rows)?);
        let heads = extent(call.heads)?;
        let (head_qk, head_v) = (extent(call.head_qk)?, extent(call.head_v)?);
        let shape = match call.is_flat[0] {
            true => vec![call.batch, call.rows, call.heads * call.head_v],
            false => vec![call.batch, call.heads, call.rows, call.head_v],
        };
        let out = cx.output(0, scalar, &shape)?;
        let lengths = cx.optional(self.lengths);
        let mask = cx.optional(self.mask).map(|mask| mask_of(cx, mask, &call)).transpose()?;
        let causal = match (self.is_causal, lengths, call.past) {
            (false, ..) => None,
            (true, Some(_), 0) => Some(Causal::BottomRight),
            (true, _, past) => Some(Causal::Past(extent(past)? as i32)),
        };
        let problem = Problem {
            element: element_of(scalar),
            batch: extent(call.batch)?,
            heads,
            kv_heads: extent(call.kv_heads)?,
            q_len: rows,
            kv_len: extent(call.past + call.new)?,
            head_qk,
            head_v,
            scale: self.scale.unwrap_or(1.0 / (call.head_qk as f32).sqrt()),
            causal,
            window_left: self.window_left,
            soft_cap: self.soft_cap,
            has_sinks: false,
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: lengths.map(|_| Lengths { is_i64: true, bias: 0, adds_queries: false }),
            q: strides(call.is_flat[0], rows, heads, head_qk),
            k,
            v,
            out: strides(call.is_flat[0], rows, heads, head_v),
        };
        let operands = Operands {
            out,
            q: query,
            k: key,
            v: value,
            lengths,
            q_offsets: None,
            page_table: None,
            sinks: None,
            mask,
        };
        attend(cx, scalar, &problem, &operands)
    }
}

fn strides(is_flat: bool, rows: u32, heads: u32, columns: u32) -> Strides {
    match is_flat {
        true => Strides::rows_first(rows, heads, columns),
        false => Strides::heads_first(rows, heads, columns),
    }
}

impl Attention {
    fn call(&self, cx: &Expansion<'_, '_>) -> Result<Call> {
        let dims = [cx.dims(0)?, cx.dims(1)?, cx.dims(2)?];
        let fail = |what: &str| {
            let [q, k, v] = &dims;
            Err(Error::invalid(format!("{what}: query {q:?}, key {k:?}, value {v:?}")))
        };
        let split = |dims: &[usize], heads: Option<usize>| match (dims, heads) {
            (&[batch, heads, rows, columns], _) => Some([batch, heads, rows, columns]),
            (&[batch, rows, hidden], Some(heads)) if hidden.is_multiple_of(heads) => {
                Some([batch, heads, rows, hidden / heads])
            }
            _ => None,
        };
        let (q_heads, kv_heads) = (self.heads.map(|heads| heads[0]), self.heads.map(|heads| heads[1]));
        let (q, k, v) = (split(&dims[0], q_heads), split(&dims[1], kv_heads), split(&dims[2], kv_heads));
        let (Some([batch, heads, rows, head_qk]), Some(k), Some([vb, vh, vl, head_v])) = (q, k, v) else {
            return fail("three or four axes each, the former with numbers of heads");
        };
        let [kb, kv_heads, new, kd] = k;
        if [kb, vb] != [batch; 2] || kd != head_qk || vh != kv_heads || vl != new {
            return fail("queries, keys and values do not fit each other");
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return fail("query heads do not divide over key heads");
        }
        let past =
            cx.optional(self.past).map_or(0, |past| cx.builder.dims(past).get(2).copied().unwrap_or(0));
        let is_flat = dims.each_ref().map(|dims| dims.len() == 3);
        Ok(Call { batch, heads, kv_heads, rows, new, past, head_qk, head_v, is_flat })
    }

    /// Keys (part 1) or values (part 2) behind their past, and their strides.
    fn keys(
        &self,
        cx: &mut Expansion<'_, '_>,
        call: &Call,
        part: usize,
        columns: usize,
    ) -> Result<(ValueId, Strides)> {
        let (new, heads, width) = (extent(call.new)?, extent(call.kv_heads)?, extent(columns)?);
        let from = strides(call.is_flat[part], new, heads, width);
        let past = cx.optional(self.past + part - 1);
        if past.is_none() && !cx.has_output(part) {
            return Ok((cx.input(part)?, from));
        }
        let room = call.past + call.new;
        let present = cache::take_over(cx, part, past, [call.batch, call.kv_heads, room, columns])?;
        let to = Strides::heads_first(extent(room)?, heads, width);
        let signed = |s: Strides| vec![s.batch as i64, s.head as i64, s.row as i64, 1];
        let copy = StridedCopy {
            element_bytes: cx.builder.scalar(present).bytes(),
            dims: vec![call.batch, call.kv_heads, call.new, columns],
            from_strides: signed(from),
            from_offset: 0,
            to_strides: signed(to),
            to_offset: (call.past * columns) as i64,
        };
        let source = cx.input(part)?;
        cx.run(layout::strided_copy(&copy), &[Some(present), Some(source)])?;
        Ok((present, to))
    }
}

/// A mask, right-aligned to `[batch, heads, rows, keys]`.
fn mask_of(cx: &Expansion<'_, '_>, mask: ValueId, call: &Call) -> Result<(ValueId, MaskOperand)> {
    let dims = cx.builder.dims(mask);
    let wanted = [call.batch, call.heads, call.rows];
    let Some((&columns, outer)) = dims.split_last().filter(|(_, outer)| outer.len() <= 3) else {
        return Err(Error::invalid(format!("a mask of shape {dims:?}")));
    };
    let mut found = [0u64; 3];
    let mut step = columns;
    for (index, &dim) in outer.iter().rev().enumerate() {
        let axis = 2 - index;
        if dim != 1 && dim != wanted[axis] {
            return Err(Error::invalid(format!("a mask of shape {dims:?} for {wanted:?}")));
        }
        found[axis] = if dim == 1 { 0 } else { step as u64 };
        step *= dim;
    }
    let kind = match cx.builder.scalar(mask) {
        Scalar::Bool => MaskKind::Bool,
        scalar if scalar == cx.scalar(0)? => MaskKind::Element,
        _ => MaskKind::F32,
    };
    let [batch, head, row] = found;
    Ok((mask, MaskOperand { kind, strides: Strides { batch, row, head }, columns: extent(columns)? }))
}

fn onnx(l: &Lowering<'_>) -> Lowered {
    let heads = match (l.node.int_or("q_num_heads", 0)?, l.node.int_or("kv_num_heads", 0)?) {
        (q, kv) if q > 0 && kv > 0 => Some([q as usize, kv as usize]),
        _ => None,
    };
    if l.has_output(3) {
        return Err(Decline::new("attention with its scores as an output has no GPU kernel"));
    }
    if l.has_input(6) && l.scalar(6)? != Scalar::I64 {
        return Err(Decline::new("lengths that are not i64"));
    }
    let is_causal = l.node.int_or("is_causal", 0)? != 0;
    let (left, right) = (l.node.int_or("left_window_size", -1)?, l.node.int_or("right_window_size", -1)?);
    if !is_causal && (left >= 0 || right >= 0) {
        return Err(Decline::new("a window without the causal rule has no GPU kernel"));
    }
    let soft_cap = l.node.float_or("softcap", 0.0)?;
    let scale = match l.node.attribute("scale") {
        Some(_) => Some(l.node.float_or("scale", 1.0)?),
        None => None,
    };
    same_types(l, 3, 4)?;
    Ok(Box::new(Attention {
        heads,
        scale,
        soft_cap: (soft_cap != 0.0).then_some(soft_cap),
        is_causal,
        window_left: u32::try_from(left).ok(),
        mask: 3,
        past: 4,
        lengths: 6,
    }))
}

fn multi_head(l: &Lowering<'_>) -> Lowered {
    let no = |what: &str| Err(Decline(format!("MultiHeadAttention with {what} has no GPU kernel")));
    let heads = usize::try_from(l.node.int_or("num_heads", 0)?).ok().filter(|&heads| heads > 0);
    let heads = heads.ok_or_else(|| Decline::new("num_heads must be positive"))?;
    if !l.has_input(1) || !l.has_input(2) || l.rank(0)? != 3 {
        return no("packed queries, keys and values");
    }
    if l.has_input(3) {
        return no("a bias");
    }
    if l.has_input(4) {
        return no("a padding mask");
    }
    if l.has_input(8) || l.has_input(9) || l.has_output(3) {
        return no("shared cache buffers, beams or its scores as an output");
    }
    let scale = l.node.float_or("scale", 0.0)?;
    same_types(l, 5, 6)?;
    Ok(Box::new(Attention {
        heads: Some([heads, heads]),
        scale: (scale != 0.0).then_some(scale),
        soft_cap: None,
        is_causal: l.node.int_or("unidirectional", 0)? != 0,
        window_left: None,
        mask: 5,
        past: 6,
        lengths: usize::MAX,
    }))
}

/// Declines operands of different types; `mask` and `past` are positions of inputs.
fn same_types(l: &Lowering<'_>, mask: usize, past: usize) -> std::result::Result<(), Decline> {
    let scalar = l.half_or_single(0)?;
    for index in [1, 2, past, past + 1] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    if l.has_input(past) != l.has_input(past + 1) {
        return Err(Decline::new("a past of keys or values alone"));
    }
    if l.has_input(mask) && ![scalar, Scalar::Bool, Scalar::F32].contains(&l.scalar(mask)?) {
        return Err(Decline(format!("a mask of {} has no GPU kernel", l.scalar(mask)?.suffix())));
    }
    Ok(())
}
