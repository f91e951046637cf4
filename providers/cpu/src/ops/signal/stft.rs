//! STFT: the Fourier transforms of overlapping frames of a signal.

use rustfft::num_complex::Complex;
use tenon_kernels::parallel::SharedMut;

use super::fourier::{Plans, complex_lines, real_lines};
use super::optional_int;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[Operator::onnx("STFT", 17, NEWEST, stft)];

struct Stft {
    onesided: bool,
    plans: Plans,
}

fn stft(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Stft { onesided: node.int("onesided", 1)? != 0, plans: Plans::new() }))
}

impl Kernel for Stft {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.compute::<T>(cx))
    }
}

/// How a signal is cut.
struct Frames {
    batches: usize,
    signal_len: usize,
    /// 1 for real samples, 2 for complex ones.
    parts: usize,
    step: usize,
    len: usize,
    count: usize,
}

impl Frames {
    fn of(cx: &Context<'_>) -> Result<Frames> {
        let dims = cx.input(0)?.dims();
        let &[batches, signal_len, parts @ (1 | 2)] = dims else {
            return Err(OpError::invalid(format!("expected a signal of shape [B, L, 1 or 2], got {dims:?}")));
        };
        let step = optional_int(cx, 1)?.unwrap_or(0);
        let window_len = cx.optional(2).map(|window| window.len());
        let given = optional_int(cx, 3)?;
        let len = given.unwrap_or_else(|| window_len.unwrap_or(signal_len) as i64);
        let fits =
            step > 0 && len > 0 && len <= signal_len as i64 && window_len.is_none_or(|w| w as i64 == len);
        if !fits {
            return Err(OpError::invalid(format!(
                "cannot cut a signal of {signal_len} into frames of {len} every {step} samples (window: {window_len:?})"
            )));
        }
        let (step, len) = (step as usize, len as usize);
        Ok(Frames { batches, signal_len, parts, step, len, count: (signal_len - len) / step + 1 })
    }
}

impl Stft {
    fn compute<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let frames = Frames::of(cx)?;
        let len = frames.len;
        let bins = if self.onesided { len / 2 + 1 } else { len };
        let signal = real::load_input::<T>(cx, 0)?;
        let signal = signal.as_slice::<T>()?;
        let window: Option<Vec<f64>> = cx.optional(2).map(real::to_vec::<f64>).transpose()?;
        let weight = |at: usize| window.as_ref().map_or(1.0, |window| window[at]);
        let start = |line: usize| {
            (line / frames.count * frames.signal_len + line % frames.count * frames.step) * frames.parts
        };
        let dims = [frames.batches, frames.count, bins, 2];
        let mut output = Output::new::<T>(cx, 0, cx.input(0)?.dtype(), &dims)?;
        let shared = SharedMut::new(output.slice::<T>()?);
        let write = |line: usize, result: &[Complex<f64>]| {
            // SAFETY: every frame has its own bins and is written by one task.
            let to = unsafe { shared.slice(line * bins * 2..(line + 1) * bins * 2) };
            for (at, to) in to.chunks_exact_mut(2).enumerate() {
                // A real frame comes as its first half; the rest are the conjugates.
                let value = result.get(at).copied().unwrap_or_else(|| result[len - at].conj());
                (to[0], to[1]) = (T::from_f64(value.re), T::from_f64(value.im));
            }
        };
        let (plan, lines) = (self.plans.get(len, false), frames.batches * frames.count);
        if frames.parts == 1 {
            let read = |line: usize, set: &mut dyn FnMut(usize, f64)| {
                let frame = &signal[start(line)..][..len];
                frame.iter().enumerate().for_each(|(at, value)| set(at, value.to_f64() * weight(at)));
            };
            real_lines(cx.parallel(), &*plan, lines, &read, &write);
        } else {
            let read = |line: usize, buffer: &mut [Complex<f64>]| {
                let frame = signal[start(line)..][..2 * len].chunks_exact(2);
                for (at, (value, sample)) in buffer.iter_mut().zip(frame).enumerate() {
                    *value = Complex::new(sample[0].to_f64(), sample[1].to_f64()) * weight(at);
                }
            };
            complex_lines(cx.parallel(), &*plan, lines, &read, &write);
        }
        output.finish(cx)
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, random, run, tensor};

    #[test]
    fn every_frame_is_the_transform_of_its_weighted_samples() {
        let (signal, window) = (random(&[2, 23, 1]), random(&[7]));
        let onesided = [("onesided", Attribute::Int(0))];
        let inputs = [Some(signal.clone()), Some(tensor(&[], &[3i64])), Some(window.clone()), None];
        let output = run(&node("", "STFT", 17, &onesided, 1), &inputs).unwrap().remove(0);
        assert_eq!(output.dims(), [2, 6, 7, 2]);
        let (s, w) = (signal.as_slice::<f32>().unwrap(), window.as_slice::<f32>().unwrap());
        let all = output.as_slice::<f32>().unwrap();
        for (batch, frame) in (0..2).flat_map(|b| (0..6).map(move |f| (b, f))) {
            let samples: Vec<f32> = (0..7).map(|i| s[batch * 23 + frame * 3 + i] * w[i]).collect();
            let expected =
                run(&node("", "DFT", 17, &[], 1), &[Some(tensor(&[1, 7, 1], &samples))]).unwrap().remove(0);
            let got = &all[(batch * 6 + frame) * 14..][..14];
            let pairs = got.iter().zip(expected.as_slice::<f32>().unwrap());
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn frames_that_do_not_fit_are_refused() {
        let case = |step: i64, len: i64| {
            run(
                &node("", "STFT", 17, &[], 1),
                &[Some(random(&[1, 8, 1])), Some(tensor(&[], &[step])), None, Some(tensor(&[], &[len]))],
            )
        };
        assert!(case(0, 4).is_err());
        assert!(case(1, 9).is_err());
        assert_eq!(case(1, 8).unwrap()[0].dims(), [1, 1, 5, 2]);
    }
}
