//! DFT: the discrete Fourier transform along one axis.

use rustfft::num_complex::Complex;
use tenon_kernels::parallel::SharedMut;

use super::fourier::{Plans, complex_lines, real_lines};
use super::optional_int;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::Dims;

pub const OPERATORS: &[Operator] =
    &[Operator::onnx("DFT", 17, 19, dft_17), Operator::onnx("DFT", 20, NEWEST, dft_20)];

struct Dft {
    /// The attribute of opset 17; later the axis is input 2.
    axis: Option<i64>,
    inverse: bool,
    onesided: bool,
    plans: Plans,
}

fn dft_17(node: &Node) -> Result<Box<dyn Kernel>> {
    dft(node, Some(node.int("axis", 1)?))
}

fn dft_20(node: &Node) -> Result<Box<dyn Kernel>> {
    dft(node, None)
}

fn dft(node: &Node, axis: Option<i64>) -> Result<Box<dyn Kernel>> {
    let (inverse, onesided) = (node.int("inverse", 0)? != 0, node.int("onesided", 0)? != 0);
    Ok(Box::new(Dft { axis, inverse, onesided, plans: Plans::new() }))
}

impl Kernel for Dft {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.compute::<T>(cx))
    }
}

/// Where the elements of the lines of a tensor `[outer, len, inner, parts]` are.
#[derive(Clone, Copy)]
struct Lines {
    len: usize,
    inner: usize,
    /// 1 for real elements, 2 for complex ones.
    parts: usize,
}

impl Lines {
    /// The first part of element `at` of line `line`.
    fn offset(self, line: usize, at: usize) -> usize {
        ((line / self.inner * self.len + at) * self.inner + line % self.inner) * self.parts
    }
}

impl Dft {
    fn compute<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let mut dims: Dims = input.dims().into();
        let rank = dims.len();
        let axis = match self.axis {
            Some(axis) => axis,
            None => optional_int(cx, 2)?.unwrap_or(-2),
        };
        let axis = shape::axis(axis, rank)?;
        let parts = dims[rank - 1];
        if axis == rank - 1 || !matches!(parts, 1 | 2) {
            return Err(OpError::invalid(format!(
                "DFT expects [.., 1] or [.., 2] and an axis before the last, got shape {dims:?} and axis {axis}"
            )));
        }
        let to_real = self.inverse && self.onesided;
        let default = if to_real { 2 * (dims[axis] as i64 - 1) } else { dims[axis] as i64 };
        let wanted = optional_int(cx, 1)?.unwrap_or(default);
        let len = usize::try_from(wanted).ok().filter(|&len| len > 0);
        let len =
            len.ok_or_else(|| OpError::invalid(format!("dft_length must be positive, got {wanted}")))?;
        let from = Lines { len: dims[axis], inner: dims[axis + 1..rank - 1].iter().product(), parts };
        dims[axis] = if self.onesided && !self.inverse { len / 2 + 1 } else { len };
        dims[rank - 1] = if to_real { 1 } else { 2 };
        let to = Lines { len: dims[axis], parts: dims[rank - 1], ..from };
        let loaded = real::load_input::<T>(cx, 0)?;
        let mut output = Output::new::<T>(cx, 0, cx.input(0)?.dtype(), &dims)?;
        if !cx.input(0)?.is_empty() || output.slice::<T>()?.is_empty() {
            self.transform(cx, loaded.as_slice::<T>()?, output.slice::<T>()?, len, from, to);
        } else {
            output.slice::<T>()?.fill(T::ZERO);
        }
        output.finish(cx)
    }

    fn transform<T: Real>(&self, cx: &Context<'_>, x: &[T], y: &mut [T], len: usize, from: Lines, to: Lines) {
        if y.is_empty() {
            return;
        }
        let lines = y.len() / (to.len * to.parts);
        let plan = self.plans.get(len, self.inverse);
        let scale = if self.inverse { 1.0 / len as f64 } else { 1.0 };
        let used = from.len.min(len);
        let shared = SharedMut::new(y);
        let put = |line: usize, at: usize, value: Complex<f64>| {
            let start = to.offset(line, at);
            // SAFETY: every element of every line is written by the one task that has the line.
            let element = unsafe { shared.slice(start..start + to.parts) };
            element[0] = T::from_f64(value.re * scale);
            if let Some(imaginary) = element.get_mut(1) {
                *imaginary = T::from_f64(value.im * scale);
            }
        };
        if from.parts == 1 && !self.inverse {
            let read = |line: usize, set: &mut dyn FnMut(usize, f64)| {
                (0..used).for_each(|at| set(at, x[from.offset(line, at)].to_f64()));
            };
            let write = |line: usize, half: &[Complex<f64>]| {
                half.iter().enumerate().for_each(|(at, &value)| put(line, at, value));
                (half.len()..to.len).for_each(|at| put(line, at, half[len - at].conj()));
            };
            return real_lines(cx.parallel(), &*plan, lines, &read, &write);
        }
        let mirrored = self.inverse && self.onesided;
        let read = |line: usize, buffer: &mut [Complex<f64>]| {
            let given = if mirrored { used.min(len / 2 + 1) } else { used };
            for (at, value) in buffer[..given].iter_mut().enumerate() {
                let start = from.offset(line, at);
                value.re = x[start].to_f64();
                value.im = if from.parts == 2 { x[start + 1].to_f64() } else { 0.0 };
            }
            if mirrored {
                complete_spectrum(buffer);
            }
        };
        let write = |line: usize, result: &[Complex<f64>]| {
            result[..to.len].iter().enumerate().for_each(|(at, &value)| put(line, at, value));
        };
        complex_lines(cx.parallel(), &*plan, lines, &read, &write);
    }
}

/// Fills the second half of the spectrum of a real signal from its first half.
fn complete_spectrum(spectrum: &mut [Complex<f64>]) {
    let len = spectrum.len();
    spectrum[0].im = 0.0;
    if len.is_multiple_of(2) {
        spectrum[len / 2].im = 0.0;
    }
    for k in 1..len.div_ceil(2) {
        spectrum[len - k] = spectrum[k].conj();
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use crate::node::Attribute;
    use crate::tensor::Tensor;
    use crate::testing::{node, random, run, tensor};

    fn flags(inverse: i64, onesided: i64) -> [(&'static str, Attribute); 2] {
        [("inverse", Attribute::Int(inverse)), ("onesided", Attribute::Int(onesided))]
    }

    fn transformed(x: &Tensor, len: Option<i64>, axis: i64, inverse: i64, onesided: i64) -> Tensor {
        let inputs = [Some(x.clone()), len.map(|len| tensor(&[], &[len])), Some(tensor(&[], &[axis]))];
        run(&node("", "DFT", 20, &flags(inverse, onesided), 1), &inputs).unwrap().remove(0)
    }

    #[test]
    fn any_length_and_axis_matches_the_defining_sum() {
        for (n, len, parts) in [(7usize, 7usize, 1usize), (8, 8, 2), (6, 11, 1), (12, 5, 2), (1, 1, 1)] {
            let x = random(&[3, n, 2, parts]);
            let y = transformed(&x, Some(len as i64), 1, 0, 0);
            assert_eq!(y.dims(), [3, len, 2, 2]);
            let (x, y) = (x.as_slice::<f32>().unwrap(), y.as_slice::<f32>().unwrap());
            for (index, got) in y.chunks_exact(2).enumerate() {
                let (outer, k, inner) = (index / (2 * len), index / 2 % len, index % 2);
                let (mut re, mut im) = (0.0, 0.0);
                for t in 0..n.min(len) {
                    let at = ((outer * n + t) * 2 + inner) * parts;
                    let (a, b) = (f64::from(x[at]), if parts == 2 { f64::from(x[at + 1]) } else { 0.0 });
                    let (sin, cos) = (-TAU * (k * t) as f64 / len as f64).sin_cos();
                    re += a * cos - b * sin;
                    im += a * sin + b * cos;
                }
                assert!((f64::from(got[0]) - re).abs() < 1e-5 && (f64::from(got[1]) - im).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_onesided_inverse_restores_a_real_signal() {
        for len in [8usize, 9] {
            let x = random(&[2, len, 1]);
            let spectrum = transformed(&x, None, 1, 0, 1);
            assert_eq!(spectrum.dims(), [2, len / 2 + 1, 2]);
            let back = transformed(&spectrum, Some(len as i64), 1, 1, 1);
            assert_eq!(back.dims(), [2, len, 1]);
            let pairs = back.as_slice::<f32>().unwrap().iter().zip(x.as_slice::<f32>().unwrap());
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn the_last_axis_and_an_empty_length_are_refused() {
        let run_with = |len: i64, axis: i64| {
            let inputs = [Some(random(&[1, 4, 1])), Some(tensor(&[], &[len])), Some(tensor(&[], &[axis]))];
            run(&node("", "DFT", 20, &[], 1), &inputs)
        };
        assert!(run_with(4, -1).is_err());
        assert!(run_with(0, 1).is_err());
        assert!(run_with(-1, 1).is_err());
    }
}
