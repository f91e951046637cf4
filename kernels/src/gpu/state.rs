//! Operators that carry a state from call to call: depthwise causal convolution and linear attention. The kernels are
//! `device/state.cu`.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Rows of a state of linear attention at most.
pub const LINEAR_ROWS: usize = 256;
/// Columns of a state that a block takes.
const LINEAR_COLUMNS: usize = 32;

/// A depthwise convolution of `[batch, channels, length]` over the present and the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CausalConv {
    pub scalar: Scalar,
    pub batch: usize,
    pub channels: usize,
    pub length: usize,
    pub taps: usize,
    pub dilation: usize,
    /// `[batch, length, channels]`.
    pub is_channels_last: bool,
    pub has_silu: bool,
}

impl CausalConv {
    /// Positions of the past that a result sees.
    pub fn history(&self) -> usize {
        (self.taps - 1) * self.dilation
    }

    /// Operands: 0 the result, 1 the new state or absent, 2 the input, 3 the weights `[channels, taps]`, 4 the bias or
    /// absent, 5 the old state or absent.
    pub fn plan(&self, has_present: bool) -> Result<Plan> {
        let lines = self.batch * self.channels;
        let (total, states) = (lines * self.length, lines * self.history());
        if !self.scalar.is_float() {
            return Err(KernelError::parameter(format!("a state of type {}", self.scalar.suffix())));
        }
        if total + states >= 1 << 31 {
            return Err(KernelError::shape(format!("a causal convolution of {total} elements")));
        }
        let states = if has_present { states } else { 0 };
        if total + states == 0 {
            return Ok(Plan::default());
        }
        let sizes = [total, self.channels, self.length, self.taps, self.dilation, self.history()];
        let parameters = Structure::default()
            .u32s::<6>(sizes.map(|size| size as u32), 0)
            .u32(self.is_channels_last.into())
            .u32(self.has_silu.into())
            .finish();
        let bytes = ((2 * total + 2 * states) * self.scalar.bytes()) as f64;
        let cost = Cost { flops: 2.0 * (total * self.taps) as f64, bytes };
        let args = (0..6).map(pointer).chain([Arg::U32(states as u32), parameters]).collect();
        let symbol = format!("causal_conv_{}", self.scalar.suffix());
        Ok(overlapping(launch(symbol, [blocks(total + states), 1, 1], args, cost)))
    }
}

/// Attention whose memory is a matrix `[dk, dv]` a head, updated token by token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearAttention {
    pub scalar: Scalar,
    /// Of the state that is given and handed out.
    pub state: Scalar,
    pub batch: usize,
    pub steps: usize,
    /// Heads of the values and states, of the keys, of the queries.
    pub heads: usize,
    pub k_heads: usize,
    pub q_heads: usize,
    pub dk: usize,
    pub dv: usize,
    /// Logarithms of what remains of a state, for each head or each row of one; 0 where nothing decays.
    pub decay_width: usize,
    /// Rates of the delta rule, for each head or all; 0 without it.
    pub beta_width: usize,
    pub scale: f32,
}

impl LinearAttention {
    /// Operands: 0 the result `[batch, steps, max(heads, q_heads) * dv]`, 1 the new state or absent, 2 queries, 3 keys, 4
    /// values, 5 the old state or absent, 6 decay or absent, 7 beta or absent.
    ///
    /// # Errors
    /// States of more than 256 rows, types that do not go together, heads that do not divide.
    pub fn plan(&self) -> Result<Plan> {
        let is_known = self.scalar.is_float() && (self.state == self.scalar || self.state == Scalar::F32);
        if !is_known {
            let (scalar, state) = (self.scalar.suffix(), self.state.suffix());
            return Err(KernelError::parameter(format!(
                "linear attention of {scalar} with states of {state}"
            )));
        }
        let out_heads = self.heads.max(self.q_heads);
        let divides = |count: usize| count > 0 && out_heads.is_multiple_of(count);
        let keys = self.k_heads > 0 && self.heads.is_multiple_of(self.k_heads);
        let columns = self.batch * self.heads * self.dv;
        if self.dk > LINEAR_ROWS || !divides(self.heads) || !divides(self.q_heads) || !keys {
            return Err(KernelError::shape(format!(
                "states of {} rows: at most {LINEAR_ROWS}; {self:?}",
                self.dk
            )));
        }
        let tiles = self.dv.div_ceil(LINEAR_COLUMNS);
        let count = self.batch * self.heads * tiles;
        if count >= 1 << 31 {
            return Err(KernelError::shape(format!("states of {columns} columns together")));
        }
        if columns == 0 {
            return Ok(Plan::default());
        }
        let sizes = [self.steps, self.heads, self.k_heads, self.q_heads, out_heads, self.dk, self.dv, tiles];
        let parameters = Structure::default()
            .u32s::<8>(sizes.map(|size| size as u32), 0)
            .u32(self.decay_width as u32)
            .u32(self.beta_width as u32)
            .f32(self.scale)
            .finish();
        let work = (columns * self.dk * self.steps) as f64;
        let tokens = self.batch * self.steps * (self.q_heads + self.k_heads) * self.dk;
        let bytes = (tokens * self.scalar.bytes() + 2 * columns * self.dk * self.state.bytes()) as f64;
        let args = (0..8).map(pointer).chain([parameters]).collect();
        let symbol = format!("linear_attention_{}_{}", self.scalar.suffix(), self.state.suffix());
        let cost = Cost { flops: 6.0 * work, bytes };
        Ok(overlapping(launch(symbol, [count as u32, 1, 1], args, cost)))
    }
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/state.cu", text: include_str!("../../device/state.cu") };
    let convolutions = ["f32", "f16", "bf16"].map(|suffix| kernel(format!("causal_conv_{suffix}")));
    let attention = ["f32_f32", "f16_f16", "f16_f32", "bf16_bf16", "bf16_f32"];
    Unit {
        name: "state".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: vec![("LINEAR_ROWS".into(), LINEAR_ROWS.to_string())],
        kernels: convolutions
            .into_iter()
            .chain(attention.map(|suffix| kernel(format!("linear_attention_{suffix}"))))
            .collect(),
    }
}
