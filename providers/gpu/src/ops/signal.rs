//! Fourier transforms: DFT, STFT, and Rfft and Irfft of ONNX Runtime's domain.

use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::signal::{Place, Transform};
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["DFT"], lower: dft },
    Family { domain: "", op_types: &["STFT"], lower: stft },
    Family { domain: "com.microsoft", op_types: &["Rfft", "Irfft"], lower: real_transform },
];

/// Transforms along one axis of `[.., parts]`.
struct Dft {
    axis: usize,
    /// `None`: as long as the axis, or as long as half a spectrum tells.
    len: Option<usize>,
    is_inverse: bool,
    is_onesided: bool,
    /// Real numbers have no last dimension of their own.
    is_flat: bool,
}

impl Operator for Dft {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, mut dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let to_real = self.is_inverse && self.is_onesided;
        let has_parts = !self.is_flat || self.is_inverse;
        let parts = if has_parts { dims.pop() } else { Some(1) };
        let (Some(parts @ (1 | 2)), true) = (parts, self.axis < dims.len()) else {
            return Err(Error::invalid(format!("transforms along axis {} of {:?}", self.axis, cx.dims(0)?)));
        };
        let given = dims[self.axis];
        let size = self.len.unwrap_or(if to_real { (2 * given).saturating_sub(2) } else { given });
        if size == 0 {
            return Err(Error::invalid("a transform of no samples"));
        }
        let inner: usize = dims[self.axis + 1..].iter().product();
        let bins = if self.is_onesided && !self.is_inverse { size / 2 + 1 } else { size };
        let place = |count: usize, is_complex: bool| Place {
            outer: count * inner,
            inner: 1,
            group: inner,
            step: inner,
            count,
            is_complex,
        };
        let mut from = place(given, parts == 2);
        let signals = dims[..self.axis].iter().product::<usize>() * inner;
        dims[self.axis] = bins;
        if !to_real || !self.is_flat {
            dims.push(if to_real { 1 } else { 2 });
        }
        from.count = given.min(if to_real { size / 2 + 1 } else { size });
        let transform = Transform {
            scalar,
            signals,
            size,
            from,
            to: place(bins, !to_real),
            is_inverse: self.is_inverse,
            mirrors: to_real,
            has_window: false,
        };
        let output = cx.output(0, scalar, &dims)?;
        cx.run(transform.plan(), &[Some(output), Some(input), None, None])
    }
}

/// A constant length above 0; `None` when input `index` is omitted.
fn length(l: &Lowering<'_>, index: usize) -> std::result::Result<Option<usize>, Decline> {
    let Some(values) = l.optional_ints(index)? else { return Ok(None) };
    match values[..] {
        [len] if len > 0 => Ok(Some(len as usize)),
        _ => Err(Decline(format!("input {index} is {values:?}, expected one positive number"))),
    }
}

fn dft(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    let axis = match l.node.version() < 20 {
        true => l.node.int_or("axis", 1)?,
        false => match l.optional_ints(2)?.as_deref() {
            None => -2,
            Some(&[axis]) => axis,
            Some(other) => return Err(Decline(format!("{} axes instead of one", other.len()))),
        },
    };
    let rank = l.rank(0)?;
    let axis = axis_of(axis, rank)?;
    if axis + 1 >= rank {
        return Err(Decline::new("the last axis holds the parts of numbers"));
    }
    Ok(Box::new(Dft {
        axis,
        len: length(l, 1)?,
        is_inverse: l.node.int_or("inverse", 0)? != 0,
        is_onesided: l.node.int_or("onesided", 0)? != 0,
        is_flat: false,
    }))
}

fn real_transform(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    let (axes, is_onesided) = (l.node.int_or("signal_ndim", 1)?, l.node.int_or("onesided", 1)?);
    if axes != 1 || is_onesided != 1 || l.node.int_or("normalized", 0)? != 0 {
        return Err(Decline::new(
            "transforms of several axes, of all bins or with a norm have no GPU kernel",
        ));
    }
    let is_inverse = l.node.op_type() == "Irfft";
    let axis = l.rank(0)?.checked_sub(1 + usize::from(is_inverse));
    let axis = axis.ok_or_else(|| Decline::new("the input has too few dimensions"))?;
    Ok(Box::new(Dft { axis, len: None, is_inverse, is_onesided: true, is_flat: true }))
}

/// Transforms of frames `[signals, frames, bins, 2]` of a signal `[signals, samples, parts]`.
struct Frames {
    step: usize,
    /// `None`: as long as the window, or the signal where there is none.
    len: Option<usize>,
    is_onesided: bool,
}

impl Operator for Frames {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let &[signals, samples, parts @ (1 | 2)] = dims.as_slice() else {
            return Err(Error::invalid(format!("a signal of shape {dims:?}, expected [B, L, 1 or 2]")));
        };
        let window = cx.optional(2);
        let weights = window.map(|window| cx.builder.dims(window).iter().product::<usize>());
        let size = self.len.or(weights).unwrap_or(samples);
        if size == 0 || size > samples || weights.is_some_and(|count| count != size) {
            return Err(Error::invalid(format!(
                "frames of {size} samples of a signal of {samples} with a window of {weights:?}"
            )));
        }
        let frames = (samples - size) / self.step + 1;
        let bins = if self.is_onesided { size / 2 + 1 } else { size };
        let place = |outer, inner, count, is_complex| Place {
            outer,
            inner,
            group: frames,
            step: 1,
            count,
            is_complex,
        };
        let transform = Transform {
            scalar,
            signals: signals * frames,
            size,
            from: place(samples, self.step, size, parts == 2),
            to: place(frames * bins, bins, bins, true),
            is_inverse: false,
            mirrors: false,
            has_window: window.is_some(),
        };
        let output = cx.output(0, scalar, &[signals, frames, bins, 2])?;
        cx.run(transform.plan(), &[Some(output), Some(input), window, None])
    }
}

fn stft(l: &Lowering<'_>) -> Lowered {
    let scalar: Scalar = l.float(0)?;
    if l.has_input(2) && l.scalar(2)? != scalar {
        return Err(Decline::new("a window of another type than the signal has no GPU kernel"));
    }
    let step = length(l, 1)?.ok_or_else(|| Decline::new("the step of frames is missing"))?;
    Ok(Box::new(Frames { step, len: length(l, 3)?, is_onesided: l.node.int_or("onesided", 1)? != 0 }))
}
