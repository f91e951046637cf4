//! CausalConvWithState: a depthwise convolution over the present and the past, with the past carried from call to call.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::{Rows, for_ranges};

struct CausalConv {
    silu: bool,
    dilation: usize,
    channels_last: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let silu = match node.string("activation", "none")? {
        "none" | "" => false,
        "silu" | "swish" => true,
        other => return Err(OpError::invalid(format!("activation '{other}' is none of none, silu, swish"))),
    };
    for (name, usual) in [
        ("ndim", 1),
        ("state_window", 0),
        ("state_update_capacity", 0),
        ("state_channels_last", -1),
        ("state_length", 0),
        ("input_channel_offset", 0),
        ("input_channels", 0),
    ] {
        let value = node.int(name, usual)?;
        if value != usual {
            return Err(OpError::unsupported(format!(
                "attribute '{name}' is {value}; there is a kernel for {usual} only"
            )));
        }
    }
    let dilation = node.int("dilation", 1)?;
    if dilation < 1 {
        return Err(OpError::invalid(format!("attribute 'dilation' is {dilation}, expected at least 1")));
    }
    Ok(Box::new(CausalConv {
        silu,
        dilation: dilation as usize,
        channels_last: node.flag("channels_last", false)?,
    }))
}

impl Kernel for CausalConv {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl CausalConv {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let w = real::load_input::<T>(cx, 1)?;
        let bias = real::load_optional::<T>(cx, 2)?;
        let past = real::load_optional::<T>(cx, 3)?;
        let dims = x.dims();
        if dims.len() < 3 {
            return Err(OpError::invalid(format!(
                "CausalConvWithState takes three axes, got shape {dims:?}"
            )));
        }
        let (batch, channels, length) = if self.channels_last {
            (dims[0], dims[2..].iter().product::<usize>(), dims[1])
        } else {
            (dims[0], dims[1], dims[2..].iter().product::<usize>())
        };
        if w.rank() != 3 || w.dims()[0] != channels || w.dims()[1] != 1 || w.dims()[2] == 0 {
            return Err(OpError::invalid(format!(
                "weight shape {:?} does not fit {channels} channels, expected [{channels}, 1, k]",
                w.dims()
            )));
        }
        let taps = w.dims()[2];
        let history = (taps - 1) * self.dilation;
        let mut state_dims: crate::tensor::Dims = dims.into();
        state_dims[if self.channels_last { 1 } else { 2 }] = history;
        if past.as_ref().is_some_and(|past| past.len() != batch * channels * history) {
            return Err(OpError::invalid(format!("past_state does not have shape {state_dims:?}")));
        }
        if bias.as_ref().is_some_and(|bias| bias.len() != channels) {
            return Err(OpError::invalid(format!("the bias does not have {channels} values")));
        }
        let mut y = Output::new::<T>(cx, 0, dtype, dims)?;
        let mut present = Output::new::<T>(cx, 1, dtype, &state_dims)?;
        let (x, w) = (x.as_slice::<T>()?, w.as_slice::<T>()?);
        let bias = bias.as_ref().map(|bias| bias.as_slice::<T>()).transpose()?;
        let past = past.as_ref().map(|past| past.as_slice::<T>()).transpose()?;
        let (out, state) = (Rows::new(y.slice::<T>()?, 1), Rows::new(present.slice::<T>()?, 1));
        let index = |line: usize, position: usize, length: usize| {
            if self.channels_last {
                (line / channels * length + position) * channels + line % channels
            } else {
                line * length + position
            }
        };
        for_ranges(cx.parallel(), batch * channels, length * taps, &|range| {
            let mut sequence = Vec::with_capacity(history + length);
            for line in range {
                sequence.clear();
                sequence
                    .extend((0..history).map(|i| past.map_or(T::ZERO, |past| past[index(line, i, history)])));
                sequence.extend((0..length).map(|i| x[index(line, i, length)]));
                let weights = &w[line % channels * taps..][..taps];
                for position in 0..length {
                    let mut sum = bias.map_or(T::ZERO, |bias| bias[line % channels]);
                    for (tap, &weight) in weights.iter().enumerate() {
                        sum += weight * sequence[position + tap * self.dilation];
                    }
                    let value = if self.silu { sum * sum.sigmoid() } else { sum };
                    // SAFETY: each line is computed by one task, which writes its own positions.
                    unsafe { out.row(index(line, position, length))[0] = value };
                }
                for (i, &value) in sequence[length..].iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { state.row(index(line, i, history))[0] = value };
                }
            }
        });
        y.finish(cx)?;
        present.finish(cx)
    }
}
