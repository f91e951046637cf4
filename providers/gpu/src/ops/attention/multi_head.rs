//! MultiHeadAttention and DecoderMaskedMultiHeadAttention of com.microsoft: separate or packed queries, keys and values,
//! biases, paddings and a cache that is handed out anew.

use tenon_kernels::gpu::attention::append::{self, Append, Part, Past, Target};
use tenon_kernels::gpu::attention::plain::{PaddingKind, PaddingOperand, Scores, Stage};
use tenon_kernels::gpu::attention::{Causal, Keys, Problem, Queries, Strides};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::Family;
use super::onnx::mask_of;
use super::{Operands, attend, cache, element_of, extent, hand_out};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in crate::ops) const FAMILIES: &[Family] = &[
    Family { domain: "com.microsoft", op_types: &["MultiHeadAttention"], lower: multi_head },
    Family { domain: "com.microsoft", op_types: &["DecoderMaskedMultiHeadAttention"], lower: decoder },
];

/// Attributes that the operators share.
pub(super) struct Heads {
    pub heads: usize,
    pub scale: Option<f32>,
    /// Added to the scores of paddings.
    pub filter: f32,
    pub is_causal: bool,
}

impl Heads {
    pub fn of(l: &Lowering<'_>) -> std::result::Result<Heads, Decline> {
        let heads = l.node.int_or("num_heads", 0)?;
        let scale = l.node.float_or("scale", 0.0)?;
        Ok(Heads {
            heads: usize::try_from(heads)
                .ok()
                .filter(|&heads| heads > 0)
                .ok_or_else(|| Decline(format!("attribute 'num_heads' is {heads}")))?,
            scale: (scale != 0.0).then_some(scale),
            filter: l.node.float_or("mask_filter_value", -10000.0)?,
            is_causal: l.node.int_or("unidirectional", 0)? != 0,
        })
    }
}

/// Heads of queries, keys or values: rows of `width` columns by strides from element `offset` on.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub value: ValueId,
    pub offset: usize,
    pub strides: Strides,
    pub rows: usize,
    pub width: usize,
    /// Where in the bias that of the first head is.
    pub bias: Option<usize>,
}

/// A place for keys or values behind their past: `[batch, heads, past + rows, width]` from element `offset` on.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub value: ValueId,
    pub offset: usize,
}

/// What comes with the heads.
#[derive(Clone, Copy, Default)]
pub(super) struct Surroundings {
    pub bias: Option<ValueId>,
    /// Keys and values are put there, behind `past` rows.
    pub places: Option<[Place; 2]>,
    pub past: usize,
    pub padding: Option<ValueId>,
    pub attention_bias: Option<ValueId>,
    /// The output that scores are handed out in.
    pub scores: Option<usize>,
}

impl Heads {
    /// Attention with the result `[batch, rows, heads * width]` in output 0.
    pub fn run(
        &self,
        cx: &mut Expansion<'_, '_>,
        scalar: Scalar,
        batch: usize,
        mut sides: [Rows; 3],
        around: &Surroundings,
    ) -> Result<()> {
        let [q, k, v] = &sides;
        if k.rows != v.rows || q.width != k.width {
            return Err(Error::invalid(format!(
                "heads of {} and {} columns, {} keys and {} values do not fit each other",
                q.width, k.width, k.rows, v.rows
            )));
        }
        let (rows, total, v_width) = (q.rows, around.past + k.rows, v.width);
        self.settle(cx, scalar, batch, &mut sides, around)?;
        let [q, k, v] = &sides;
        let out = cx.output(0, scalar, &[batch, rows, self.heads * v_width])?;
        let mask = match around.attention_bias {
            Some(bias) => Some(mask_of(cx, bias, scalar, [batch, self.heads, rows])?),
            None => None,
        };
        let (heads, q_len) = (extent(self.heads)?, extent(rows)?);
        let problem = Problem {
            element: element_of(scalar),
            batch: extent(batch)?,
            heads,
            kv_heads: heads,
            q_len,
            kv_len: extent(total)?,
            head_qk: extent(q.width)?,
            head_v: extent(v_width)?,
            scale: self.scale.unwrap_or(1.0 / (q.width as f32).sqrt()),
            causal: match self.is_causal {
                true => Some(Causal::Past(extent(around.past)? as i32)),
                false => None,
            },
            window_left: None,
            soft_cap: None,
            codes: None,
            has_sinks: false,
            mask: mask.map(|(_, mask)| mask),
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: None,
            q: q.strides,
            k: k.strides,
            v: v.strides,
            out: Strides::rows_first(q_len, heads, extent(v_width)?),
        };
        let shape = [batch, rows, total, around.past];
        let padding = match around.padding {
            Some(mask) => {
                let kind = padding_of(cx.builder.dims(mask), shape)?;
                Some((mask, PaddingOperand { kind, filter: self.filter }))
            }
            None => None,
        };
        let bytes = |side: &Rows| (side.offset * scalar.bytes()) as u64;
        let operands = Operands {
            offsets: [bytes(q), bytes(k), bytes(v)],
            mask: mask.map(|(value, _)| value),
            padding,
            ..Operands::new(out, [q.value, k.value, v.value])
        };
        attend(cx, scalar, &problem, &operands)?;
        if let Some(index) = around.scores {
            let out = cx.output(index, scalar, &[batch, self.heads, rows, total])?;
            let scores = Scores { stage: Stage::Masked, keys: extent(total)?, hidden: f32::MIN };
            hand_out(cx, scalar, &problem, &Operands { out, ..operands }, &scores)?;
        }
        Ok(())
    }

    /// Adds biases and puts keys and values into their places; afterwards the sides are where attention reads them.
    fn settle(
        &self,
        cx: &mut Expansion<'_, '_>,
        scalar: Scalar,
        batch: usize,
        sides: &mut [Rows; 3],
        around: &Surroundings,
    ) -> Result<()> {
        let heads = extent(self.heads)?;
        let mut parts = [Part::default(); 3];
        let mut operands: Vec<Option<ValueId>> = vec![None; 18];
        operands[append::operand::BIAS] = around.bias;
        let given = *sides;
        for (index, side) in sides.iter_mut().enumerate() {
            let place = around.places.and_then(|places| Some(places[index.checked_sub(1)?]));
            let bias = side.bias.filter(|_| around.bias.is_some());
            if place.is_none() && bias.is_none() {
                continue;
            }
            let width = extent(side.width)?;
            let (target, to, to_value, to_offset, rows) = match place {
                Some(place) => {
                    let rows = around.past + side.rows;
                    let strides = Strides::heads_first(extent(rows)?, heads, width);
                    (Target::Cache, strides, place.value, place.offset, rows)
                }
                None => {
                    let value = cx.scratch(scalar, &[batch, side.rows, self.heads, side.width])?;
                    let strides = Strides::rows_first(extent(side.rows)?, heads, width);
                    (Target::Rows, strides, value, 0, side.rows)
                }
            };
            parts[index] = Part {
                heads,
                from_offset: side.offset as u64,
                from: side.strides,
                to_offset: to_offset as u64,
                to,
                target,
                bias_offset: bias.map(|offset| offset as u64),
                ..Part::default()
            };
            operands[append::operand::Q_OUT + index] = Some(to_value);
            operands[append::operand::Q + index] = Some(side.value);
            *side = Rows { value: to_value, offset: to_offset, strides: to, rows, bias: None, ..*side };
        }
        // One launch for all parts of the same rows and columns.
        let mut is_left = parts.map(|part| part.heads > 0);
        for first in 0..3 {
            if !is_left[first] {
                continue;
            }
            let alike = |index: usize| {
                is_left[index]
                    && (given[index].rows, given[index].width) == (given[first].rows, given[first].width)
            };
            let chosen = [0, 1, 2].map(alike);
            let room = around.past + given[first].rows;
            let problem = Append {
                scalar,
                batch: extent(batch)?,
                rows: extent(given[first].rows)?,
                is_ragged: false,
                columns: extent(given[first].width)?,
                turn: None,
                past: Past::Fixed(extent(around.past)?),
                room: extent(room)?,
                pages: None,
                parts: [0, 1, 2].map(|index| if chosen[index] { parts[index] } else { Part::default() }),
            };
            cx.run(append::plan(&problem), &operands)?;
            is_left.iter_mut().zip(chosen).for_each(|(left, chosen)| *left &= !chosen);
        }
        Ok(())
    }
}

/// How a padding mask of shape `dims` is read for `[batch, query rows, keys, past keys]`: valid lengths `[batch]`, ends
/// and starts `[2 * batch]`, lengths with offsets `[3 * batch + 2]`, `[batch, keys]`, `[batch, rows, keys]`,
/// `[batch, 1, max, max]`.
fn padding_of(dims: &[usize], [batch, rows, keys, past]: [usize; 4]) -> Result<PaddingKind> {
    let of_rows = |batch: usize, row: usize, past: usize, offset: usize| {
        let strides = Strides { batch: batch as u64, row: row as u64, head: 0 };
        Ok(PaddingKind::Rows { strides, past: extent(past)?, offset: offset as u64 })
    };
    match *dims {
        [len] if len == batch => Ok(PaddingKind::Ends),
        [len] if len == 2 * batch => Ok(PaddingKind::Ranges),
        [len] if len == 3 * batch + 2 => Ok(PaddingKind::Ends),
        [b, k] if b == batch && k == keys => of_rows(k, 0, 0, 0),
        [b, k] if b == batch && k + past == keys => of_rows(k, 0, past, 0),
        [b, r, k] if b == batch && r == rows && k == keys => of_rows(r * k, k, 0, 0),
        [b, 1, r, k] if b == batch && r >= past + rows && k >= keys => of_rows(r * k, k, 0, past * k),
        _ => Err(Error::invalid(format!(
            "a padding mask of shape {dims:?} for a batch of {batch}, {rows} queries and {keys} keys"
        ))),
    }
}

/// Positions of inputs.
#[derive(Clone, Copy)]
struct Inputs {
    bias: usize,
    mask: usize,
    attention_bias: usize,
    past: usize,
}

struct MultiHead {
    heads: Heads,
    inputs: Inputs,
}

impl Operator for MultiHead {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let scalar = cx.scalar(0)?;
        let batch = cx.dims(0)?.first().copied().unwrap_or(0);
        let mut sides = self.sides(cx)?;
        self.place_biases(cx, &mut sides)?;
        let past = cx.optional(self.inputs.past).zip(cx.optional(self.inputs.past + 1));
        let past_len = past.map_or(0, |(key, _)| cx.builder.dims(key).get(2).copied().unwrap_or(0));
        let places = if past.is_some() || cx.has_output(1) || cx.has_output(2) {
            let mut place = |output: usize| -> Result<Place> {
                let side = &sides[output];
                let past = past.map(|(key, value)| if output == 1 { key } else { value });
                let shape = [batch, self.heads.heads, past_len + side.rows, side.width];
                Ok(Place { value: cache::take_over(cx, output, past, scalar, shape)?, offset: 0 })
            };
            Some([place(1)?, place(2)?])
        } else {
            None
        };
        let around = Surroundings {
            bias: cx.optional(self.inputs.bias),
            places,
            past: past_len,
            padding: cx.optional(self.inputs.mask),
            attention_bias: cx.optional(self.inputs.attention_bias),
            scores: cx.has_output(3).then_some(3),
        };
        self.heads.run(cx, scalar, batch, sides, &around)
    }
}

impl MultiHead {
    /// Queries, keys and values, from whichever inputs hold them.
    fn sides(&self, cx: &Expansion<'_, '_>) -> Result<[Rows; 3]> {
        let heads = self.heads.heads;
        let query = cx.dims(0)?;
        let shaped = |what: &str, dims: &[usize]| Error::invalid(format!("{what} has shape {dims:?}"));
        let packed = |value, rows: usize, width: usize, parts: usize, part: usize| {
            let [rows_size, heads_size, width_size] = [rows, heads, width].map(|size| size as u64);
            let row = heads_size * parts as u64 * width_size;
            let strides = Strides { batch: rows_size * row, row, head: parts as u64 * width_size };
            Rows { value, offset: part * width, strides, rows, width, bias: None }
        };
        if let [_, rows, h, 3, width] = query[..] {
            if h != heads {
                return Err(shaped("the packed query", &query));
            }
            let value = cx.input(0)?;
            return Ok([0, 1, 2].map(|part| packed(value, rows, width, 3, part)));
        }
        let [batch, rows, hidden] = query[..] else { return Err(shaped("the query", &query)) };
        if !hidden.is_multiple_of(heads) {
            return Err(shaped("the query", &query));
        }
        let flat = |value, rows: usize, hidden: usize| -> Result<Rows> {
            let width = hidden / heads;
            let strides = Strides::rows_first(extent(rows)?, extent(heads)?, extent(width)?);
            Ok(Rows { value, offset: 0, strides, rows, width, bias: None })
        };
        let q = flat(cx.input(0)?, rows, hidden)?;
        let key = cx.dims(1)?;
        if let [b, rows, h, 2, width] = key[..] {
            if h != heads || b != batch {
                return Err(shaped("the packed key", &key));
            }
            let value = cx.input(1)?;
            return Ok([q, packed(value, rows, width, 2, 0), packed(value, rows, width, 2, 1)]);
        }
        let part = |index: usize, what: &str| -> Result<Rows> {
            let dims = cx.dims(index)?;
            match dims[..] {
                [b, rows, hidden] if b == batch && hidden.is_multiple_of(heads) => {
                    flat(cx.input(index)?, rows, hidden)
                }
                [b, h, rows, width] if b == batch && h == heads => {
                    let strides = Strides::heads_first(extent(rows)?, extent(heads)?, extent(width)?);
                    Ok(Rows { value: cx.input(index)?, offset: 0, strides, rows, width, bias: None })
                }
                _ => Err(shaped(what, &dims)),
            }
        };
        Ok([q, part(1, "the key")?, part(2, "the value")?])
    }

    /// Where in the bias each side's is. Keys and values that are given as a cache have theirs already.
    fn place_biases(&self, cx: &Expansion<'_, '_>, sides: &mut [Rows; 3]) -> Result<()> {
        let Some(bias) = cx.optional(self.inputs.bias) else { return Ok(()) };
        let found: usize = cx.builder.dims(bias).iter().product();
        let expected: usize = sides.iter().map(|side| self.heads.heads * side.width).sum();
        if found != expected {
            return Err(Error::invalid(format!("the bias has {found} values, expected {expected}")));
        }
        let mut start = 0;
        for (index, side) in sides.iter_mut().enumerate() {
            let is_cache = index > 0 && cx.builder.dims(side.value).len() == 4;
            side.bias = (!is_cache).then_some(start);
            start += self.heads.heads * side.width;
        }
        Ok(())
    }
}

fn multi_head(l: &Lowering<'_>) -> Lowered {
    if l.has_input(8) || l.has_input(9) {
        return Err(Decline::new("MultiHeadAttention with shared cache buffers or beams has no GPU kernel"));
    }
    lower(l, Inputs { bias: 3, mask: 4, attention_bias: 5, past: 6 })
}

fn decoder(l: &Lowering<'_>) -> Lowered {
    if l.node.int_or("past_present_share_buffer", 0)? != 0 || (7..10).any(|index| l.has_input(index)) {
        return Err(Decline::new(
            "DecoderMaskedMultiHeadAttention with shared cache buffers or beams has no GPU kernel",
        ));
    }
    lower(l, Inputs { bias: 10, mask: 3, attention_bias: 4, past: 5 })
}

fn lower(l: &Lowering<'_>, inputs: Inputs) -> Lowered {
    let scalar = l.half_or_single(0)?;
    if !l.has_input(1) && l.rank(0)? != 5 {
        return Err(Decline::new("queries alone that are not packed with keys and values"));
    }
    for index in [1, 2, inputs.bias, inputs.past, inputs.past + 1] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    if l.has_input(inputs.past) != l.has_input(inputs.past + 1) {
        return Err(Decline::new("a past of keys or values alone"));
    }
    refuse_masks(l, scalar, inputs.mask, inputs.attention_bias)?;
    Ok(Box::new(MultiHead { heads: Heads::of(l)?, inputs }))
}

/// Declines masks of types that no kernel reads.
pub(super) fn refuse_masks(
    l: &Lowering<'_>,
    scalar: Scalar,
    padding: usize,
    bias: usize,
) -> std::result::Result<(), Decline> {
    if l.has_input(padding) && l.scalar(padding)? != Scalar::I32 {
        return Err(Decline::new("a padding mask that is not of i32"));
    }
    if l.has_input(bias) && ![scalar, Scalar::F32].contains(&l.scalar(bias)?) {
        return Err(Decline(format!("an attention bias of {} has no GPU kernel", l.scalar(bias)?.suffix())));
    }
    Ok(())
}
