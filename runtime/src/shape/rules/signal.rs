//! Fourier transforms and window functions.

use super::Rule;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, DimExpr};
use crate::shape::site::Site;
use crate::shape::{dim, expr};

pub const RULES: &[Rule] = &[
    Rule::onnx("BlackmanWindow", 1, window),
    Rule::onnx("DFT", 1, dft),
    Rule::onnx("HammingWindow", 1, window),
    Rule::onnx("HannWindow", 1, window),
    Rule::onnx("MelWeightMatrix", 5, mel),
    Rule::onnx("STFT", 2, stft),
    Rule::of("com.microsoft", "Irfft", 1, irfft),
    Rule::of("com.microsoft", "Rfft", 1, rfft),
];

fn window(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    s.set_tensor(0, dtype, Some([s.size_of(0)].into_iter().collect()));
    Ok(())
}

/// `floor(n / 2) + 1`, the bins of a one-sided transform.
fn one_sided(n: &Dim) -> Dim {
    dim::plus(&dim::over(n, 2), 1)
}

fn dft(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    let rank = shape.rank();
    let axis = if s.version() < 20 {
        Some(s.int("axis", 1)?)
    } else if s.has(2) {
        s.int_of(2)
    } else {
        Some(-2)
    };
    let Some(axis) = axis else {
        s.set_tensor(0, dtype, Some(dim::unknown(rank)));
        return Ok(());
    };
    let axis = dim::axis(axis, rank)?;
    let (one, inverse) = (s.flag("onesided", false)?, s.flag("inverse", false)?);
    let length = if s.has(1) { s.size_of(1) } else { shape[axis].clone() };
    let mut dims = shape.clone();
    let mut parts = 2;
    dims.0[axis] = match (one, inverse) {
        (true, false) => one_sided(&length),
        (true, true) => {
            parts = 1;
            if s.has(1) { length } else { dim::times(&dim::plus(&shape[axis], -1), 2) }
        }
        (false, _) => length,
    };
    dims.0[rank - 1] = Dim::Known(parts);
    s.set_tensor(0, dtype, Some(dims));
    Ok(())
}

fn stft(s: &mut Site<'_>) -> Result<()> {
    s.expect_rank_from(0, 2)?;
    let length = if s.has(3) { s.size_of(3) } else { s.dim(2, 0) };
    let bins = if s.flag("onesided", true)? { one_sided(&length) } else { length.clone() };
    let step = s.size_of(1);
    let room = dim::sub(&s.dim(0, 1), &length);
    let frames = dim::plus(&dim::floor_div(&room, &step), 1);
    s.set_tensor(0, s.dtype(0), Some([s.dim(0, 0), frames, bins, Dim::Known(2)].into_iter().collect()));
    Ok(())
}

fn mel(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    s.set_tensor(0, dtype, Some([one_sided(&s.size_of(1)), s.size_of(0)].into_iter().collect()));
    Ok(())
}

/// The last `signal_ndim` axes are transformed; a last axis of two holds the parts of complex numbers.
fn rfft(s: &mut Site<'_>) -> Result<()> {
    let shape = s.shape(0).and_then(|shape| {
        let mut dims = shape.clone();
        let last = dims.0.last_mut()?;
        *last = one_sided(last);
        dims.0.push(Dim::Known(2));
        Some(dims)
    });
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn irfft(s: &mut Site<'_>) -> Result<()> {
    let shape = s.shape(0).and_then(|shape| {
        let mut dims = shape.clone();
        dims.0.pop()?;
        let last = dims.0.last_mut()?;
        let bins = last.to_expr()?;
        let size = expr::mul(&expr::sub(&bins, &DimExpr::Const(1))?, &DimExpr::Const(2));
        *last = size.map_or(Dim::Unknown, Dim::from_expr);
        Some(dims)
    });
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}
