//! Operators that carry a state from call to call: CausalConvWithState and LinearAttention.

use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::state::{CausalConv, LINEAR_ROWS, LinearAttention};
use tenon_plugin_api::{Error, Result};

use super::Family;
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["CausalConvWithState"], lower: causal_conv },
    Family { domain: "com.microsoft", op_types: &["CausalConvWithState"], lower: causal_conv },
    Family { domain: "", op_types: &["LinearAttention"], lower: linear_attention },
    Family { domain: "com.microsoft", op_types: &["LinearAttention"], lower: linear_attention },
];

struct Convolution {
    dilation: usize,
    is_channels_last: bool,
    has_silu: bool,
}

impl Operator for Convolution {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, w, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let wrong = || Error::invalid(format!("weights of shape {w:?} for an input of shape {x:?}"));
        let &[batch, first, second] = x.as_slice() else { return Err(wrong()) };
        let (channels, length) = if self.is_channels_last { (second, first) } else { (first, second) };
        let &[outputs, 1, taps] = w.as_slice() else { return Err(wrong()) };
        if outputs != channels || taps == 0 {
            return Err(wrong());
        }
        let problem = CausalConv {
            scalar,
            batch,
            channels,
            length,
            taps,
            dilation: self.dilation,
            is_channels_last: self.is_channels_last,
            has_silu: self.has_silu,
        };
        let mut state = x.clone();
        state[if self.is_channels_last { 1 } else { 2 }] = problem.history();
        for (index, expected) in [(2, vec![channels]), (3, state.clone())] {
            if cx.optional(index).is_some() && cx.dims(index)? != expected {
                let given = cx.dims(index)?;
                return Err(Error::invalid(format!(
                    "input {index} of shape {given:?}, expected {expected:?}"
                )));
            }
        }
        let y = cx.output(0, scalar, &x)?;
        let present = if cx.has_output(1) { Some(cx.output(1, scalar, &state)?) } else { None };
        let (bias, past) = (cx.optional(2), cx.optional(3));
        let operands = [Some(y), present, Some(cx.input(0)?), Some(cx.input(1)?), bias, past];
        cx.run(problem.plan(present.is_some()), &operands)
    }
}

fn causal_conv(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    let has_silu = match l.node.text_or("activation", "none")? {
        "none" | "" => false,
        "silu" | "swish" => true,
        other => return Err(Decline(format!("activation '{other}' has no GPU kernel"))),
    };
    let usual = [
        ("ndim", 1),
        ("state_window", 0),
        ("state_update_capacity", 0),
        ("state_channels_last", -1),
        ("state_length", 0),
        ("input_channel_offset", 0),
        ("input_channels", 0),
    ];
    for (name, value) in usual {
        if l.node.int_or(name, value)? != value {
            return Err(Decline(format!("attribute '{name}' other than {value} has no GPU kernel")));
        }
    }
    let dilation = usize::try_from(l.node.int_or("dilation", 1)?).ok().filter(|&dilation| dilation > 0);
    Ok(Box::new(Convolution {
        dilation: dilation.ok_or_else(|| Decline::new("the dilation is not positive"))?,
        is_channels_last: l.node.int_or("channels_last", 0)? != 0,
        has_silu,
    }))
}

struct Linear {
    heads: usize,
    q_heads: usize,
    scale: f32,
}

impl Linear {
    fn problem(&self, cx: &Expansion<'_, '_>) -> Result<LinearAttention> {
        let (q, k, v, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.dims(2)?, cx.scalar(0)?);
        let wrong = || Error::invalid(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit"));
        let (&[batch, steps, q_width], &[kb, kt, k_width], &[vb, vt, v_width]) =
            (q.as_slice(), k.as_slice(), v.as_slice())
        else {
            return Err(wrong());
        };
        let (dk, dv) = (q_width / self.q_heads, v_width / self.heads);
        let fits = [kb, vb] == [batch; 2] && [kt, vt] == [steps; 2] && dk > 0 && k_width.is_multiple_of(dk);
        if !fits || dk * self.q_heads != q_width || dv * self.heads != v_width {
            return Err(wrong());
        }
        let k_heads = if k_width == dk * self.heads { self.heads } else { k_width / dk };
        let width = |index: usize| -> Result<usize> {
            let Some(value) = cx.optional(index) else { return Ok(0) };
            Ok(cx.builder.dims(value).iter().product::<usize>() / (batch * steps).max(1))
        };
        let (decay_width, beta_width) = (width(4)?, width(5)?);
        let known = [0, self.heads, self.heads * dk];
        if steps > 0 && (!known.contains(&decay_width) || ![0, 1, self.heads].contains(&beta_width)) {
            return Err(Error::invalid(format!(
                "decay of {decay_width} or beta of {beta_width} values a token do not fit"
            )));
        }
        let scale = if self.scale == 0.0 { 1.0 / (dk as f32).sqrt() } else { self.scale };
        let state = cx.optional(3).map_or(scalar, |past| cx.builder.scalar(past));
        Ok(LinearAttention {
            scalar,
            state,
            batch,
            steps,
            heads: self.heads,
            k_heads,
            q_heads: self.q_heads,
            dk,
            dv,
            decay_width,
            beta_width,
            scale,
        })
    }
}

impl Operator for Linear {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let problem = self.problem(cx)?;
        let LinearAttention { batch, steps, heads, dk, dv, .. } = problem;
        let state = [batch, heads, dk, dv];
        if let Some(past) = cx.optional(3)
            && cx.builder.dims(past) != state
        {
            let given = cx.builder.dims(past);
            return Err(Error::invalid(format!("a past state of shape {given:?}, expected {state:?}")));
        }
        let y = cx.output(0, problem.scalar, &[batch, steps, heads.max(self.q_heads) * dv])?;
        let present = if cx.has_output(1) { Some(cx.output(1, problem.state, &state)?) } else { None };
        let mut operands = vec![Some(y), present];
        operands.extend([0, 1, 2, 3, 4, 5].map(|index| cx.optional(index)));
        cx.run(problem.plan(), &operands)
    }
}

fn linear_attention(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(0)?;
    let heads = |name: &str| -> std::result::Result<usize, Decline> {
        let heads = usize::try_from(l.node.int_or(name, 0)?).ok().filter(|&heads| heads > 0);
        heads.ok_or_else(|| Decline(format!("attribute '{name}' is not positive")))
    };
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    let (gated, delta) = match l.node.text_or("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(Decline(format!("update rule '{other}' has no GPU kernel"))),
    };
    if (gated, delta) != (l.has_input(4), l.has_input(5)) {
        return Err(Decline::new("decay and beta are not those of the update rule"));
    }
    if l.node.int_or("state_window", 0)? != 0 {
        return Err(Decline::new("a window of states has no GPU kernel"));
    }
    for index in [1, 2, 4, 5] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} of another type than the queries has no GPU kernel")));
        }
    }
    if l.has_input(3) && ![scalar, Scalar::F32].contains(&l.scalar(3)?) {
        return Err(Decline::new("a state of this type has no GPU kernel"));
    }
    let width = l.input(0)?.dims().and_then(|dims| dims.last().copied()).unwrap_or(-1);
    if width > (LINEAR_ROWS * q_heads) as i64 {
        return Err(Decline(format!("states of more than {LINEAR_ROWS} rows have no GPU kernel")));
    }
    Ok(Box::new(Linear { heads: kv_heads, q_heads, scale: l.node.float_or("scale", 0.0)? }))
}
