//! LinearAttention: a matrix state a head, updated token by token (linear, gated, delta and gated-delta rules).

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::ops::rows::{Rows, for_ranges};

struct LinearAttention {
    q_heads: usize,
    kv_heads: usize,
    scale: f32,
    gated: bool,
    delta: bool,
    /// Trailing states kept, 0 for the last one without an axis of its own.
    window: usize,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let heads = |name: &str| match node.required_int(name)? {
        heads if heads > 0 => Ok(heads as usize),
        heads => Err(OpError::invalid(format!("attribute '{name}' is {heads}, expected at least 1"))),
    };
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
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
    if q_heads % kv_heads != 0 && kv_heads % q_heads != 0 {
        return Err(OpError::invalid(format!(
            "{q_heads} query heads and {kv_heads} key heads do not divide"
        )));
    }
    let window = node.int("state_window", 0)?;
    if !(0..=8).contains(&window) {
        return Err(OpError::invalid(format!("state_window is {window}, expected 0 to 8")));
    }
    Ok(Box::new(LinearAttention {
        q_heads,
        kv_heads,
        scale: node.float("scale", 0.0)?,
        gated,
        delta,
        window: window as usize,
    }))
}

impl Kernel for LinearAttention {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let (q, k, v) = (cx.input(0)?.dims(), cx.input(1)?.dims(), cx.input(2)?.dims());
        let (&[batch, steps, q_hidden], &[kb, kt, k_hidden], &[vb, vt, v_hidden]) = (q, k, v) else {
            return Err(OpError::invalid(format!("expected three axes each, got {q:?}, {k:?}, {v:?}")));
        };
        let (q_heads, kv_heads) = (self.q_heads, self.kv_heads);
        let dk = q_hidden / q_heads;
        let dv = v_hidden / kv_heads;
        if q_hidden % q_heads != 0
            || v_hidden % kv_heads != 0
            || [kb, vb] != [batch; 2]
            || [kt, vt] != [steps; 2]
        {
            return Err(OpError::invalid(format!(
                "query {q:?}, key {k:?} and value {v:?} do not fit each other"
            )));
        }
        // With fewer query heads than value heads the keys have as many heads as the queries.
        let k_heads = if k_hidden == dk * kv_heads {
            kv_heads
        } else if dk > 0 && k_hidden % dk == 0 && kv_heads.is_multiple_of((k_hidden / dk).max(1)) {
            k_hidden / dk
        } else {
            return Err(OpError::invalid(format!(
                "query {q:?}, key {k:?} and value {v:?} do not fit each other"
            )));
        };
        let out_heads = q_heads.max(kv_heads);
        let state_dims: Vec<usize> = [batch, kv_heads, dk, dv].to_vec();
        let state_len = dk * dv;
        let all_states = batch * kv_heads * state_len;
        let past = real::load_optional::<f32>(cx, 3)?;
        let decay = real::load_optional::<f32>(cx, 4)?;
        let beta = real::load_optional::<f32>(cx, 5)?;
        let state_type = cx.optional(3).map_or(dtype, |past| past.dtype());
        if decay.is_some() != self.gated || beta.is_some() != self.delta {
            return Err(OpError::invalid(
                "decay goes with the gated rules and beta with the delta rules, and only with them",
            ));
        }
        let slots = self.window.max(1);
        if past.as_ref().is_some_and(|past| past.len() != all_states * slots) {
            return Err(OpError::invalid(format!("past_state does not have shape {state_dims:?}")));
        }
        let width_of = |tensor: &Option<crate::tensor::Tensor>| {
            tensor.as_ref().map_or(1, |t| t.len() / (batch * steps).max(1))
        };
        let (decay_width, beta_width) = (width_of(&decay), width_of(&beta));
        if self.gated && decay_width != kv_heads && decay_width != kv_heads * dk
            || self.delta && beta_width != kv_heads && beta_width != 1
        {
            return Err(OpError::invalid(format!(
                "decay of {decay_width} or beta of {beta_width} values a token do not fit"
            )));
        }
        let scale = if self.scale == 0.0 { 1.0 / (dk as f32).sqrt() } else { self.scale };
        let (q, k, v) = (
            real::load_input::<f32>(cx, 0)?,
            real::load_input::<f32>(cx, 1)?,
            real::load_input::<f32>(cx, 2)?,
        );
        let mut y = Output::new::<f32>(cx, 0, dtype, &[batch, steps, out_heads * dv])?;
        let present_dims: Vec<usize> =
            if self.window > 0 { [self.window].into_iter().chain(state_dims).collect() } else { state_dims };
        let mut present = Output::new::<f32>(cx, 1, state_type, &present_dims)?;
        let (q, k, v) = (q.as_slice::<f32>()?, k.as_slice::<f32>()?, v.as_slice::<f32>()?);
        let past = past.as_ref().map(|t| t.as_slice::<f32>()).transpose()?;
        let decay = decay.as_ref().map(|t| t.as_slice::<f32>()).transpose()?;
        let beta = beta.as_ref().map(|t| t.as_slice::<f32>()).transpose()?;
        let out = Rows::new(y.slice::<f32>()?, dv);
        let present_slice = present.slice::<f32>()?;
        present_slice.fill(0.0);
        let states = Rows::new(present_slice, state_len);
        for_ranges(cx.parallel(), batch * kv_heads, steps * state_len * 4, &|range| {
            let mut state = vec![0.0f32; state_len];
            let mut value = vec![0.0f32; dv];
            for index in range {
                let (b, h) = (index / kv_heads, index % kv_heads);
                match past {
                    Some(past) => state
                        .copy_from_slice(&past[(slots - 1) * all_states + index * state_len..][..state_len]),
                    None => state.fill(0.0),
                }
                for t in 0..steps {
                    let token = b * steps + t;
                    let key = &k[token * k_hidden + h / (kv_heads / k_heads) * dk..][..dk];
                    value.copy_from_slice(&v[token * v_hidden + h * dv..][..dv]);
                    if let Some(decay) = decay {
                        let gates = &decay[token * decay_width..][..decay_width];
                        for (d, row) in state.chunks_exact_mut(dv.max(1)).enumerate() {
                            let gate =
                                if decay_width == kv_heads { gates[h] } else { gates[h * dk + d] }.exp();
                            row.iter_mut().for_each(|s| *s *= gate);
                        }
                    }
                    if let Some(beta) = beta {
                        let rate = beta[token * beta_width + if beta_width == 1 { 0 } else { h }];
                        for (row, &key) in state.chunks_exact(dv.max(1)).zip(key) {
                            value.iter_mut().zip(row).for_each(|(v, &s)| *v -= s * key);
                        }
                        value.iter_mut().for_each(|v| *v *= rate);
                    }
                    for (row, &key) in state.chunks_exact_mut(dv.max(1)).zip(key) {
                        row.iter_mut().zip(&value).for_each(|(s, &v)| *s += key * v);
                    }
                    let first = h * out_heads / kv_heads;
                    for reader in first..first + out_heads / kv_heads {
                        let query = &q[token * q_hidden + reader * q_heads / out_heads * dk..][..dk];
                        // SAFETY: each reader's row belongs to one key head, which one task works on.
                        let row = unsafe { out.row(token * out_heads + reader) };
                        row.fill(0.0);
                        for (line, &query) in state.chunks_exact(dv.max(1)).zip(query) {
                            row.iter_mut().zip(line).for_each(|(y, &s)| *y += query * s);
                        }
                        row.iter_mut().for_each(|y| *y *= scale);
                    }
                    if let Some(slot) = (t + slots).checked_sub(steps) {
                        // SAFETY: each state belongs to one task.
                        unsafe { states.row(slot * batch * kv_heads + index) }.copy_from_slice(&state);
                    }
                }
                if steps == 0 {
                    // SAFETY: as above.
                    unsafe { states.row((slots - 1) * batch * kv_heads + index) }.copy_from_slice(&state);
                }
            }
        });
        y.finish(cx)?;
        present.finish(cx)
    }
}
