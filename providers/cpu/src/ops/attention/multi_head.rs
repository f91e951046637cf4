//! MultiHeadAttention of com.microsoft: separate or packed query, key and value, padding masks, a bias and a cache.

use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides};

use super::cache::{NewRows, join};
use super::padding::{PaddingMask, Product, attend_masked};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::tensor::{DType, Tensor};

/// Input positions that differ between the operators.
#[derive(Clone, Copy)]
struct Inputs {
    bias: usize,
    mask: usize,
    attention_bias: usize,
    past: usize,
}

struct MultiHead {
    inputs: Inputs,
    heads: usize,
    scale: Option<f32>,
    filter: f32,
    causal: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("MultiHeadAttention has no kernel for double")),
        other => real::check(other)?,
    }
    if node.has_input(8) || node.has_input(9) {
        return Err(OpError::unsupported(
            "MultiHeadAttention has no kernel for shared cache buffers or beams",
        ));
    }
    of(node, Inputs { bias: 3, mask: 4, attention_bias: 5, past: 6 })
}

/// DecoderMaskedMultiHeadAttention: one query row, the same products over other input positions.
pub fn build_decoder(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    if node.flag("past_present_share_buffer", false)? || (7..10).any(|index| node.has_input(index)) {
        return Err(OpError::unsupported(
            "DecoderMaskedMultiHeadAttention has no kernel for shared cache buffers or beams",
        ));
    }
    of(node, Inputs { bias: 10, mask: 3, attention_bias: 4, past: 5 })
}

fn of(node: &Node, inputs: Inputs) -> Result<Box<dyn Kernel>> {
    let heads = node.required_int("num_heads")?;
    if heads < 1 {
        return Err(OpError::invalid(format!("num_heads is {heads}, expected at least 1")));
    }
    Ok(Box::new(MultiHead {
        inputs,
        heads: heads as usize,
        scale: node.optional_float("scale")?.filter(|&scale| scale != 0.0),
        filter: node.float("mask_filter_value", -10000.0)?,
        causal: node.flag("unidirectional", false)?,
    }))
}

/// One of query, key and value: its data, strides, rows and width of a head.
struct Part {
    tensor: Tensor,
    start: usize,
    strides: HeadStrides,
    rows: usize,
    width: usize,
}

impl Kernel for MultiHead {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let mut parts = self.parts(cx)?;
        let batch = cx.input(0)?.dims()[0];
        self.apply_bias(cx, batch, &mut parts)?;
        let [q, k, v] = parts;
        if k.rows != v.rows || q.width != k.width {
            return Err(OpError::invalid(format!(
                "query, key and value do not fit: heads of {}, {}; {} keys, {} values",
                q.width, k.width, k.rows, v.rows
            )));
        }
        let past = cx.optional(self.inputs.past).zip(cx.optional(self.inputs.past + 1));
        let past_len = past.map_or(0, |(key, _)| key.dims().get(2).copied().unwrap_or(0));
        let total = past_len + k.rows;
        let mut joined = Vec::with_capacity(2);
        for (index, part) in [(1, &k), (2, &v)] {
            let past = real::load_optional::<f32>(cx, self.inputs.past + index - 1)?;
            if let Some(past) = &past
                && past.dims() != [batch, self.heads, past_len, part.width]
            {
                return Err(OpError::invalid(format!("past key or value has shape {:?}", past.dims())));
            }
            let mut present = Output::new::<f32>(cx, index, dtype, &[batch, self.heads, total, part.width])?;
            let past = past.as_ref().map(|past| past.as_slice::<f32>()).transpose()?;
            let data = part.tensor.as_slice::<f32>()?.get(part.start..).unwrap_or(&[]);
            let new = NewRows { data, strides: part.strides, count: part.rows };
            join(
                past.map(|past| (past, past_len)),
                new,
                [batch, self.heads, part.width],
                present.slice::<f32>()?,
            );
            joined.push(present);
        }
        let [key, value] = &mut joined[..] else { return Err(OpError::invalid("key and value are missing")) };
        let padding = cx
            .optional(self.inputs.mask)
            .map(|mask| PaddingMask::read(mask, [batch, q.rows, total, past_len]))
            .transpose()?;
        let bias = real::load_optional::<f32>(cx, self.inputs.attention_bias)?;
        let shape = AttentionShape {
            batch,
            q_heads: self.heads,
            kv_heads: self.heads,
            q_len: q.rows,
            kv_len: total,
            qk_dim: q.width,
            v_dim: v.width,
        };
        let product = Product {
            shape,
            scale: self.scale.unwrap_or(1.0 / (q.width as f32).sqrt()),
            causal: self.causal,
            past_len,
            padding,
            filter: self.filter,
            bias: bias.as_ref(),
        };
        let strides = |width| HeadStrides::heads_first(self.heads, total, width);
        let operands = [
            (q.tensor.as_slice::<f32>()?.get(q.start..).unwrap_or(&[]), q.strides),
            (&*key.slice::<f32>()?, strides(q.width)),
            (&*value.slice::<f32>()?, strides(v.width)),
        ];
        let mut y = Output::new::<f32>(cx, 0, dtype, &[batch, q.rows, self.heads * v.width])?;
        let scores = if cx.wants(3) {
            Some(Output::new::<f32>(cx, 3, dtype, &[batch, self.heads, q.rows, total])?)
        } else {
            None
        };
        let scores = attend_masked(cx, &product, operands, &mut y, scores)?;
        y.finish(cx)?;
        if let Some(scores) = scores {
            scores.finish(cx)?;
        }
        for (index, present) in joined.into_iter().enumerate() {
            if cx.wants(index + 1) {
                present.finish(cx)?;
            }
        }
        Ok(())
    }
}

impl MultiHead {
    /// Query, key and value, from whichever inputs hold them.
    fn parts(&self, cx: &Context<'_>) -> Result<[Part; 3]> {
        let query = real::load_input::<f32>(cx, 0)?;
        let heads = self.heads;
        let fail = |what: &str, dims: &[usize]| Err(OpError::invalid(format!("{what} has shape {dims:?}")));
        if let &[_, rows, h, 3, width] = query.dims() {
            if h != heads {
                return fail("the packed query", query.dims());
            }
            let strides =
                HeadStrides { batch: rows * heads * 3 * width, head: 3 * width, row: heads * 3 * width };
            return Ok([0, 1, 2].map(|part| Part {
                tensor: query.clone(),
                start: part * width,
                strides,
                rows,
                width,
            }));
        }
        let &[batch, rows, hidden] = query.dims() else { return fail("the query", query.dims()) };
        if hidden % heads != 0 {
            return fail("the query", query.dims());
        }
        let width = hidden / heads;
        let q = Part {
            tensor: query,
            start: 0,
            strides: HeadStrides::rows_first(heads, rows, width),
            rows,
            width,
        };
        let key = real::load_input::<f32>(cx, 1)?;
        if let &[b, rows, h, 2, width] = key.dims() {
            if h != heads || b != batch {
                return fail("the packed key", key.dims());
            }
            let strides =
                HeadStrides { batch: rows * heads * 2 * width, head: 2 * width, row: heads * 2 * width };
            let part =
                |index: usize| Part { tensor: key.clone(), start: index * width, strides, rows, width };
            return Ok([q, part(0), part(1)]);
        }
        let part = |tensor: Tensor, what: &str| -> Result<Part> {
            match *tensor.dims() {
                [b, rows, hidden] if b == batch && hidden % heads == 0 => {
                    let width = hidden / heads;
                    Ok(Part {
                        tensor,
                        start: 0,
                        strides: HeadStrides::rows_first(heads, rows, width),
                        rows,
                        width,
                    })
                }
                [b, h, rows, width] if b == batch && h == heads => Ok(Part {
                    tensor,
                    start: 0,
                    strides: HeadStrides::heads_first(heads, rows, width),
                    rows,
                    width,
                }),
                _ => Err(OpError::invalid(format!("{what} has shape {:?}", tensor.dims()))),
            }
        };
        Ok([q, part(key, "the key")?, part(real::load_input::<f32>(cx, 2)?, "the value")?])
    }

    /// Adds input 3 (the biases of query, key and value, one after the other). Keys and values that are given as a
    /// cache have theirs already.
    fn apply_bias(&self, cx: &Context<'_>, batch: usize, parts: &mut [Part; 3]) -> Result<()> {
        let Some(bias) = real::load_optional::<f32>(cx, self.inputs.bias)? else { return Ok(()) };
        let bias = bias.as_slice::<f32>()?;
        let expected: usize = parts.iter().map(|part| self.heads * part.width).sum();
        if bias.len() != expected {
            return Err(OpError::invalid(format!("the bias has {} values, expected {expected}", bias.len())));
        }
        let mut from = 0;
        for (index, part) in parts.iter_mut().enumerate() {
            let bias = &bias[from..from + self.heads * part.width];
            from += self.heads * part.width;
            if index > 0 && part.tensor.rank() == 4 {
                continue;
            }
            let mut sum = cx.scratch(DType::F32, &[batch, part.rows, self.heads, part.width])?;
            let source = part.tensor.as_slice::<f32>()?.get(part.start..).unwrap_or(&[]);
            for (row, out) in sum.as_mut_slice::<f32>()?.chunks_exact_mut(part.width.max(1)).enumerate() {
                let (b, r, h) =
                    (row / (part.rows * self.heads), row / self.heads % part.rows, row % self.heads);
                let at = b * part.strides.batch + r * part.strides.row + h * part.strides.head;
                let bias = &bias[h * part.width..][..part.width];
                for (channel, out) in out.iter_mut().enumerate() {
                    *out = source[at + channel] + bias[channel];
                }
            }
            part.strides = HeadStrides::rows_first(self.heads, part.rows, part.width);
            (part.tensor, part.start) = (sum, 0);
        }
        Ok(())
    }
}
