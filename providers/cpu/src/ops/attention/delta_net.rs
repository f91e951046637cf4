//! GatedDeltaNet and LinearAttentionGate: packed gated delta networks with a float state, and their gates.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::epilogue::softplus;
use crate::ops::real::{self, Output, Real};
use crate::ops::rows::{Rows, for_ranges};
use crate::tensor::{DType, Tensor};

/// How the decay is made from its input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// It is the logarithm of the decay.
    Plain,
    Softplus,
    Sigmoid,
}

struct DeltaNet {
    gated: bool,
    delta: bool,
    gate: Gate,
    lower_bound: f32,
    beta_sigmoid: bool,
    normalize: bool,
    scale: f32,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("GatedDeltaNet has no kernel for double")),
        other => real::check(other)?,
    }
    if node.int("state_update_capacity", 0)? != 0 {
        return Err(OpError::unsupported("GatedDeltaNet has no kernel for compact state updates"));
    }
    let (gated, delta) = match node.string("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => {
            return Err(OpError::invalid(format!(
                "update_rule '{other}' is none of linear, gated, delta, gated_delta"
            )));
        }
    };
    let gate = match node.string("gate_activation", "none")? {
        "none" => Gate::Plain,
        "softplus" | "qwen" => Gate::Softplus,
        "sigmoid" | "kda" => Gate::Sigmoid,
        other => {
            return Err(OpError::invalid(format!(
                "gate_activation '{other}' is none of none, softplus, sigmoid"
            )));
        }
    };
    let beta_sigmoid = match node.string("beta_activation", "none")? {
        "none" => false,
        "sigmoid" => true,
        other => return Err(OpError::invalid(format!("beta_activation '{other}' is none of none, sigmoid"))),
    };
    Ok(Box::new(DeltaNet {
        gated,
        delta,
        gate,
        lower_bound: node.float("gate_lower_bound", -5.0)?,
        beta_sigmoid,
        normalize: node.flag("qk_l2_norm", false)?,
        scale: node.float("scale", 0.0)?,
    }))
}

/// Query, key or value: rows of `row` elements a token, heads of `width` elements from `start` on.
struct Part<'a> {
    data: &'a [f32],
    start: usize,
    row: usize,
    heads: usize,
    width: usize,
}

impl Part<'_> {
    fn head(&self, token: usize, head: usize) -> &[f32] {
        &self.data[token * self.row + self.start + head * self.width..][..self.width]
    }
}

/// Divides a head by its length where `normalize`.
fn normalized(head: &[f32], normalize: bool, out: &mut [f32]) {
    out.copy_from_slice(head);
    if normalize {
        let length = head.iter().map(|x| x * x).sum::<f32>();
        let inverse = 1.0 / (length + 1e-6).sqrt();
        out.iter_mut().for_each(|x| *x *= inverse);
    }
}

impl DeltaNet {
    /// The logarithm of the decay of `heads` heads (`width` values each) of every token.
    fn decay(
        &self,
        cx: &Context<'_>,
        tokens: usize,
        heads: usize,
        dk: usize,
    ) -> Result<Option<(Vec<f32>, usize)>> {
        if !self.gated {
            return Ok(None);
        }
        let mut decay = real::to_vec::<f32>(cx.input(4)?)?;
        let width = decay.len() / (tokens * heads).max(1);
        if decay.len() != tokens * heads * width || width != 1 && width != dk {
            return Err(OpError::invalid(format!(
                "decay has shape {:?} for {tokens} tokens of {heads} heads",
                cx.input(4)?.dims()
            )));
        }
        if self.gate != Gate::Plain {
            let rate = real::to_vec::<f32>(cx.input(7)?)?;
            let bias = cx.optional(8).map(real::to_vec::<f32>).transpose()?.unwrap_or(vec![0.0; heads]);
            if rate.len() != heads || bias.len() != heads && bias.len() != heads * width {
                return Err(OpError::invalid(format!("a_log or dt_bias do not fit {heads} heads")));
            }
            for (index, value) in decay.iter_mut().enumerate() {
                let (head, channel) = (index / width % heads, index % (heads * width));
                let rate = rate[head].exp();
                let shifted = *value + if bias.len() == heads { bias[head] } else { bias[channel] };
                *value = match self.gate {
                    Gate::Sigmoid => self.lower_bound * (rate * shifted).sigmoid(),
                    _ => -rate * softplus(shifted),
                };
            }
        }
        Ok(Some((decay, width)))
    }

    fn beta(&self, cx: &Context<'_>, tokens: usize, heads: usize) -> Result<Option<Vec<f32>>> {
        if !self.delta {
            return Ok(None);
        }
        let mut beta = real::to_vec::<f32>(cx.input(5)?)?;
        if beta.len() != tokens * heads {
            return Err(OpError::invalid(format!(
                "beta has shape {:?} for {tokens} tokens of {heads} heads",
                cx.input(5)?.dims()
            )));
        }
        if self.beta_sigmoid {
            beta.iter_mut().for_each(|beta| *beta = beta.sigmoid());
        }
        Ok(Some(beta))
    }

    /// First token of each request and the end of the last.
    fn bounds(
        cx: &Context<'_>,
        query: &[usize],
        tokens: usize,
        state: Option<&[usize]>,
    ) -> Result<Vec<usize>> {
        if let Some(bounds) = cx.optional(3) {
            let bounds: Vec<usize> = bounds.to_i64s()?.iter().map(|&bound| bound.max(0) as usize).collect();
            if bounds.first() == Some(&0) && bounds.last() == Some(&tokens) && bounds.is_sorted() {
                return Ok(bounds);
            }
            return Err(OpError::invalid(format!("cu_seqlens {bounds:?} does not cover {tokens} tokens")));
        }
        let batch = match (query, state) {
            (&[batch, _, _, _], _) => batch,
            (_, Some(state)) => state[0],
            _ => 1,
        };
        if batch == 0 || !tokens.is_multiple_of(batch) {
            return Err(OpError::invalid(format!("{tokens} tokens do not divide into {batch} requests")));
        }
        Ok((0..=batch).map(|request| request * (tokens / batch)).collect())
    }
}

impl Kernel for DeltaNet {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let query = real::load_input::<f32>(cx, 0)?;
        let (key, value) = (real::load_optional::<f32>(cx, 1)?, real::load_optional::<f32>(cx, 2)?);
        let past = real::load_optional::<f32>(cx, 6)?;
        let state_dims = past.as_ref().map(|past| past.dims().to_vec());
        let heads_of = |tensor: &Tensor| match *tensor.dims() {
            [tokens, heads, width] => Some((tokens, heads, width)),
            [batch, rows, heads, width] => Some((batch * rows, heads, width)),
            _ => None,
        };
        let fail = || {
            OpError::invalid(format!("query {:?}, key, value or state do not fit each other", query.dims()))
        };
        let (tokens, parts);
        match (&key, &value) {
            (Some(key), Some(value)) => {
                let (q, k, v) = (heads_of(&query), heads_of(key), heads_of(value));
                let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Err(fail()) };
                if q != k || v.0 != q.0 {
                    return Err(fail());
                }
                tokens = q.0;
                parts = [q, k, v].map(|(_, heads, width)| (0, heads * width, heads, width));
            }
            _ => {
                let (Some(state), Some(&row)) = (&state_dims, query.dims().last()) else {
                    return Err(fail());
                };
                let &[_, v_heads, dv, dk] = &state[..] else { return Err(fail()) };
                let rest = row.checked_sub(v_heads * dv).ok_or_else(fail)?;
                if dk == 0 || rest % (2 * dk) != 0 {
                    return Err(fail());
                }
                let q_heads = rest / (2 * dk);
                tokens = query.len() / row.max(1);
                parts = [
                    (0, row, q_heads, dk),
                    (q_heads * dk, row, q_heads, dk),
                    (2 * q_heads * dk, row, v_heads, dv),
                ];
            }
        }
        let sources = [&query, key.as_ref().unwrap_or(&query), value.as_ref().unwrap_or(&query)];
        let part = |index: usize| -> Result<Part<'_>> {
            let (start, row, heads, width) = parts[index];
            Ok(Part { data: sources[index].as_slice::<f32>()?, start, row, heads, width })
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let (dk, dv) = (q.width, v.width);
        if q.heads == 0 || v.heads % q.heads != 0 {
            return Err(fail());
        }
        let bounds = Self::bounds(cx, query.dims(), tokens, state_dims.as_deref())?;
        let batch = bounds.len() - 1;
        if past.as_ref().is_some_and(|past| past.dims() != [batch, v.heads, dv, dk]) {
            return Err(fail());
        }
        let decay = self.decay(cx, tokens, v.heads, dk)?;
        let beta = self.beta(cx, tokens, v.heads)?;
        let scale = if self.scale == 0.0 { 1.0 / (dk as f32).sqrt() } else { self.scale };
        let mut y_dims: Vec<usize> =
            query.dims()[..query.rank() - if key.is_some() { 2 } else { 1 }].to_vec();
        y_dims.extend([v.heads, dv]);
        let mut y = Output::new::<f32>(cx, 0, dtype, &y_dims)?;
        let mut last = Output::new::<f32>(cx, 1, DType::F32, &[batch, v.heads, dv, dk])?;
        let out = Rows::new(y.slice::<f32>()?, dv);
        let states = Rows::new(last.slice::<f32>()?, dv * dk);
        let past = past.as_ref().map(|past| past.as_slice::<f32>()).transpose()?;
        for_ranges(cx.parallel(), batch * v.heads, tokens * dk * dv / batch.max(1), &|range| {
            let (mut query, mut key, mut value) = (vec![0.0f32; dk], vec![0.0f32; dk], vec![0.0f32; dv]);
            for index in range {
                let (request, h) = (index / v.heads, index % v.heads);
                // SAFETY: each state belongs to one task.
                let state = unsafe { states.row(index) };
                match past {
                    Some(past) => state.copy_from_slice(&past[index * dv * dk..][..dv * dk]),
                    None => state.fill(0.0),
                }
                for token in bounds[request]..bounds[request + 1] {
                    let shared = h / (v.heads / q.heads);
                    normalized(q.head(token, shared), self.normalize, &mut query);
                    normalized(k.head(token, shared), self.normalize, &mut key);
                    value.copy_from_slice(v.head(token, h));
                    if let Some((decay, width)) = &decay {
                        let gates = &decay[(token * v.heads + h) * width..][..*width];
                        for row in state.chunks_exact_mut(dk.max(1)) {
                            for (channel, s) in row.iter_mut().enumerate() {
                                *s *= gates[if *width == 1 { 0 } else { channel }].exp();
                            }
                        }
                    }
                    for (row, value) in state.chunks_exact(dk.max(1)).zip(&mut value) {
                        if let Some(beta) = &beta {
                            let held: f32 = row.iter().zip(&key).map(|(s, k)| s * k).sum();
                            *value = beta[token * v.heads + h] * (*value - held);
                        }
                    }
                    // SAFETY: each row belongs to one token and head.
                    let y = unsafe { out.row(token * v.heads + h) };
                    for ((row, &value), y) in state.chunks_exact_mut(dk.max(1)).zip(&value).zip(y) {
                        row.iter_mut().zip(&key).for_each(|(s, k)| *s += k * value);
                        *y = scale * row.iter().zip(&query).map(|(s, q)| s * q).sum::<f32>();
                    }
                }
            }
        });
        y.finish(cx)?;
        if cx.wants(1) { last.finish(cx) } else { Ok(()) }
    }
}

/// LinearAttentionGate: `decay = decay_scale * softplus(a + dt_bias)` and `beta = sigmoid(b)`.
struct LinearGate;

pub fn build_gate(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(LinearGate))
}

impl Kernel for LinearGate {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let a = real::load_input::<f32>(cx, 0)?;
        let (bias, scale) = (real::load_input::<f32>(cx, 1)?, real::load_input::<f32>(cx, 2)?);
        let heads = a.dims().last().copied().unwrap_or(0);
        if bias.len() != heads || scale.len() != heads {
            return Err(OpError::invalid(format!("dt_bias or decay_scale do not have {heads} values")));
        }
        let mut decay = Output::new::<f32>(cx, 0, dtype, a.dims())?;
        let (bias, scale) = (bias.as_slice::<f32>()?, scale.as_slice::<f32>()?);
        for (index, (out, &a)) in decay.slice::<f32>()?.iter_mut().zip(a.as_slice::<f32>()?).enumerate() {
            *out = scale[index % heads] * softplus(a + bias[index % heads]);
        }
        decay.finish(cx)?;
        if cx.wants(1) {
            let b = real::load_input::<f32>(cx, 3)?;
            let mut beta = Output::new::<f32>(cx, 1, dtype, b.dims())?;
            for (out, &b) in beta.slice::<f32>()?.iter_mut().zip(b.as_slice::<f32>()?) {
                *out = b.sigmoid();
            }
            beta.finish(cx)?;
        }
        Ok(())
    }
}
