//! Attention of ai.onnx.

use tenon_kernels::gpu::attention::plain::{Scores, Stage};
use tenon_kernels::gpu::attention::{
    Causal, Keys, Lengths, MaskKind, MaskOperand, Problem, Queries, Strides,
};
use tenon_kernels::gpu::layout::{self, StridedCopy};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::Family;
use super::{Operands, attend, cache, element_of, extent, hand_out};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in crate::ops) const FAMILIES: &[Family] =
    &[Family { domain: "", op_types: &["Attention"], lower: onnx }];

struct Attention {
    /// Of queries and of keys, for inputs of three axes.
    heads: Option<[usize; 2]>,
    scale: Option<f32>,
    soft_cap: Option<f32>,
    is_causal: bool,
    /// Keys before and behind its own position that a row sees.
    window: [Option<u32>; 2],
    scores: Stage,
}

/// Positions of inputs: values follow past keys; valid keys of each sequence.
const MASK: usize = 3;
const PAST: usize = 4;
const LENGTHS: usize = 6;

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
        let lengths = cx.optional(LENGTHS);
        let mask = cx
            .optional(MASK)
            .map(|mask| mask_of(cx, mask, scalar, [call.batch, call.heads, call.rows]))
            .transpose()?;
        let (causal, window_left) = self.limits(&call, lengths.is_some())?;
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
            window_left,
            soft_cap: self.soft_cap,
            codes: None,
            has_sinks: false,
            mask: mask.map(|(_, mask)| mask),
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: lengths.map(|_| Lengths { is_i64: true, bias: 0, adds_queries: false }),
            q: strides(call.is_flat[0], rows, heads, head_qk),
            k,
            v,
            out: strides(call.is_flat[0], rows, heads, head_v),
        };
        let operands = Operands {
            lengths,
            mask: mask.map(|(value, _)| value),
            ..Operands::new(out, [query, key, value])
        };
        attend(cx, scalar, &problem, &operands)?;
        if !cx.has_output(3) {
            return Ok(());
        }
        let keys = call.past + call.new;
        let out = cx.output(3, scalar, &[call.batch, call.heads, call.rows, keys])?;
        let scores = Scores { stage: self.scores, keys: extent(keys)?, hidden: f32::NEG_INFINITY };
        hand_out(cx, scalar, &problem, &Operands { out, ..operands }, &scores)
    }
}

fn strides(is_flat: bool, rows: u32, heads: u32, columns: u32) -> Strides {
    match is_flat {
        true => Strides::rows_first(rows, heads, columns),
        false => Strides::heads_first(rows, heads, columns),
    }
}

impl Attention {
    /// The causal rule and the window that say which keys a row sees: a window that reaches behind a row is a causal rule
    /// that much later and a window that much longer.
    fn limits(&self, call: &Call, has_lengths: bool) -> Result<(Option<Causal>, Option<u32>)> {
        let past = extent(call.past)?;
        let rule = |further: u32| match (has_lengths, call.past) {
            (true, 0) if further == 0 => Ok(Causal::BottomRight),
            (true, 0) => Err(Error::unsupported("a window behind rows of sequences of different lengths")),
            _ => Ok(Causal::Past((past + further).min(1 << 30) as i32)),
        };
        let [left, right] = self.window;
        match (self.is_causal, left, right) {
            (true, left, _) => Ok((Some(rule(0)?), left)),
            (false, None, None) => Ok((None, None)),
            (false, left, right) => {
                let further = right.unwrap_or(extent(call.past + call.new)?).min(1 << 28);
                Ok((Some(rule(further)?), left.map(|left| left.min(1 << 28) + further)))
            }
        }
    }

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
        let past = cx.optional(PAST).map_or(0, |past| cx.builder.dims(past).get(2).copied().unwrap_or(0));
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
        let past = cx.optional(PAST + part - 1);
        if past.is_none() && !cx.has_output(part) {
            return Ok((cx.input(part)?, from));
        }
        let room = call.past + call.new;
        let present =
            cache::take_over(cx, part, past, cx.scalar(part)?, [call.batch, call.kv_heads, room, columns])?;
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

/// A mask over `[batch, heads, rows]` and keys, right-aligned, for elements of type `scalar`.
pub(super) fn mask_of(
    cx: &Expansion<'_, '_>,
    mask: ValueId,
    scalar: Scalar,
    wanted: [usize; 3],
) -> Result<(ValueId, MaskOperand)> {
    let dims = cx.builder.dims(mask);
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
        own if own == scalar => MaskKind::Element,
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
    if l.has_input(6) && l.scalar(6)? != Scalar::I64 {
        return Err(Decline::new("lengths that are not i64"));
    }
    let is_causal = l.node.int_or("is_causal", 0)? != 0;
    let (left, right) = (l.node.int_or("left_window_size", -1)?, l.node.int_or("right_window_size", -1)?);
    if !is_causal && (left >= 0 || right >= 0) && l.has_input(LENGTHS) && !l.has_input(PAST) {
        return Err(Decline::new("a window without the causal rule over lengths has no GPU kernel"));
    }
    let scores = match l.node.int_or("qk_matmul_output_mode", 0)? {
        0 => Stage::Raw,
        1 => Stage::Capped,
        2 => Stage::Masked,
        3 => Stage::Weights,
        mode => return Err(Decline(format!("qk_matmul_output_mode {mode} is none of 0, 1, 2, 3"))),
    };
    let soft_cap = l.node.float_or("softcap", 0.0)?;
    let scale = match l.node.attribute("scale") {
        Some(_) => Some(l.node.float_or("scale", 1.0)?),
        None => None,
    };
    same_types(l)?;
    Ok(Box::new(Attention {
        heads,
        scale,
        soft_cap: (soft_cap != 0.0).then_some(soft_cap),
        is_causal,
        window: [u32::try_from(left).ok(), u32::try_from(right).ok()],
        scores,
    }))
}

/// Declines operands of different types.
fn same_types(l: &Lowering<'_>) -> std::result::Result<(), Decline> {
    let scalar = l.half_or_single(0)?;
    for index in [1, 2, PAST, PAST + 1] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    if l.has_input(PAST) != l.has_input(PAST + 1) {
        return Err(Decline::new("a past of keys or values alone"));
    }
    if l.has_input(MASK) && ![scalar, Scalar::Bool, Scalar::F32].contains(&l.scalar(MASK)?) {
        return Err(Decline(format!("a mask of {} has no GPU kernel", l.scalar(MASK)?.suffix())));
    }
    Ok(())
}
