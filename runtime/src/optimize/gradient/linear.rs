//! Derivatives of matrix products and convolutions.

use super::rules::{Parts, Rule, Site};
use crate::error::{Error, Result};
use crate::graph::{Attribute, ValueId};

pub const RULES: &[(&str, Rule)] = &[("MatMul", matmul), ("Gemm", gemm), ("Conv", conv)];

impl Site<'_, '_> {
    /// The last two axes swapped.
    fn swapped(&mut self, value: ValueId) -> Result<ValueId> {
        let rank = self.emitter.rank(value)?;
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 1, rank - 2);
        self.emitter.op_with("Transpose", 13, &[value], &[("perm", perm.into())])
    }

    fn unsqueezed(&mut self, value: ValueId, axis: i64) -> Result<ValueId> {
        let axes = self.emitter.ints(&[axis])?;
        self.emitter.op("Unsqueeze", 13, &[value, axes])
    }

    fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.emitter.op("MatMul", 13, &[a, b])
    }
}

/// Vectors are rows on the left and columns on the right, as MatMul takes them.
fn matmul(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (a, b, mut g) = (s.input(0)?, s.input(1)?, s.by_output()?);
    let (mut left, mut right) = (a, b);
    // The column goes first: -1 is behind the rows that are still there.
    if s.emitter.rank(b)? == 1 {
        right = s.unsqueezed(b, -1)?;
        g = s.unsqueezed(g, -1)?;
    }
    if s.emitter.rank(a)? == 1 {
        left = s.unsqueezed(a, 0)?;
        g = s.unsqueezed(g, -2)?;
    }
    let mut parts = vec![None, None];
    if s.wants(0) {
        let right = s.swapped(right)?;
        let product = s.matmul(g, right)?;
        let part = s.emitter.sum_to(product, left)?;
        parts[0] = Some(s.emitter.reshaped_like(part, a)?);
    }
    if s.wants(1) {
        let left = s.swapped(left)?;
        let product = s.matmul(left, g)?;
        let part = s.emitter.sum_to(product, right)?;
        parts[1] = Some(s.emitter.reshaped_like(part, b)?);
    }
    Ok(parts)
}

fn gemm(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (a, b, g) = (s.input(0)?, s.input(1)?, s.by_output()?);
    let (alpha, beta) = (s.node.float_or("alpha", 1.0)?, s.node.float_or("beta", 1.0)?);
    let (flip_a, flip_b) =
        (s.node.attributes.flag("transA", false)?, s.node.attributes.flag("transB", false)?);
    let scaled = s.emitter.times(g, f64::from(alpha))?;
    let mut parts = vec![None; s.node.inputs().len()];
    if s.wants(0) {
        let right = if flip_b { b } else { s.swapped(b)? };
        let part = s.matmul(scaled, right)?;
        parts[0] = Some(if flip_a { s.swapped(part)? } else { part });
    }
    if s.wants(1) {
        let left = if flip_a { a } else { s.swapped(a)? };
        let part = s.matmul(left, scaled)?;
        parts[1] = Some(if flip_b { s.swapped(part)? } else { part });
    }
    if s.wants(2) {
        let c = s.input(2)?;
        let part = s.emitter.times(g, f64::from(beta))?;
        parts[2] = Some(s.emitter.sum_to(part, c)?);
    }
    Ok(parts)
}

/// The window of a convolution, one number for each spatial axis.
struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Begins, then ends.
    pads: Vec<i64>,
    groups: i64,
}

impl Window {
    fn of(s: &Site<'_, '_>, filter: &[usize]) -> Result<Window> {
        let attributes = &s.node.attributes;
        let auto = attributes.string("auto_pad")?.unwrap_or("NOTSET");
        if !matches!(auto, "NOTSET" | "VALID") {
            return Err(Error::unsupported(format!("Conv with auto_pad {auto} cannot be differentiated")));
        }
        let axes = filter.len().saturating_sub(2);
        let list = |name: &str, count: usize, default: i64| -> Result<Vec<i64>> {
            let given = attributes.ints(name)?.map(<[i64]>::to_vec).unwrap_or_else(|| vec![default; count]);
            if given.len() == count {
                return Ok(given);
            }
            Err(Error::invalid_model(format!("{name} needs {count} numbers, it has {}", given.len())))
        };
        Ok(Window {
            kernel: filter[filter.len() - axes..].iter().map(|k| *k as i64).collect(),
            strides: list("strides", axes, 1)?,
            dilations: list("dilations", axes, 1)?,
            pads: list("pads", 2 * axes, 0)?,
            groups: s.node.int_or("group", 1)?,
        })
    }
}

fn conv(s: &mut Site<'_, '_>) -> Result<Parts> {
    let (x, filter, g) = (s.input(0)?, s.input(1)?, s.by_output()?);
    let window = Window::of(s, &s.emitter.sizes(filter)?)?;
    let mut parts = vec![None; s.node.inputs().len()];
    if s.wants(0) {
        parts[0] = Some(by_signal(s, &window, x, filter, g)?);
    }
    if s.wants(1) {
        parts[1] = Some(by_filter(s, &window, x, filter, g)?);
    }
    if s.wants(2) {
        let rank = s.emitter.rank(g)? as i64;
        let axes: Vec<i64> = (0..rank).filter(|axis| *axis != 1).collect();
        let axes = s.emitter.ints(&axes)?;
        parts[2] = Some(s.emitter.op_with("ReduceSum", 13, &[g, axes], &[("keepdims", 0i64.into())])?);
    }
    Ok(parts)
}

/// The transposed convolution, with what the strides left over at the end put back.
fn by_signal(s: &mut Site<'_, '_>, w: &Window, x: ValueId, filter: ValueId, g: ValueId) -> Result<ValueId> {
    let (from, to) = (s.emitter.sizes(g)?, s.emitter.sizes(x)?);
    let axes = w.kernel.len();
    let left_over: Vec<i64> = (0..axes)
        .map(|i| {
            let reach = (from[i + 2] as i64 - 1) * w.strides[i] + (w.kernel[i] - 1) * w.dilations[i] + 1;
            to[i + 2] as i64 + w.pads[i] + w.pads[i + axes] - reach
        })
        .collect();
    // A transposed convolution may add less than a stride; the rest of the signal has no part in the result.
    let padding: Vec<i64> =
        left_over.iter().zip(&w.strides).map(|(rest, stride)| (*rest).min(stride - 1)).collect();
    if padding != left_over {
        return Err(Error::unsupported(
            "Conv whose strides skip the end of its input cannot be differentiated",
        ));
    }
    let attributes: [(&str, Attribute); 5] = [
        ("group", w.groups.into()),
        ("strides", w.strides.clone().into()),
        ("dilations", w.dilations.clone().into()),
        ("pads", w.pads.clone().into()),
        ("output_padding", padding.into()),
    ];
    s.emitter.op_with("ConvTranspose", 11, &[g, filter], &attributes)
}

/// For each group the convolution of the signal with the derivative, batch and channels exchanged, where strides and
/// dilations have exchanged their parts.
fn by_filter(s: &mut Site<'_, '_>, w: &Window, x: ValueId, filter: ValueId, g: ValueId) -> Result<ValueId> {
    let axes = w.kernel.len();
    let mut perm: Vec<i64> = (0..axes as i64 + 2).collect();
    perm.swap(0, 1);
    let exchanged = |s: &mut Site<'_, '_>, value| {
        s.emitter.op_with("Transpose", 13, &[value], &[("perm", perm.clone().into())])
    };
    let (signal, derivative) = (exchanged(s, x)?, exchanged(s, g)?);
    let (channels, filters) = (s.emitter.sizes(signal)?[0] as i64, s.emitter.sizes(derivative)?[0] as i64);
    let attributes: [(&str, Attribute); 3] = [
        ("strides", w.dilations.clone().into()),
        ("dilations", w.strides.clone().into()),
        ("pads", w.pads.clone().into()),
    ];
    let spatial: Vec<i64> = (2..axes as i64 + 2).collect();
    let mut groups = Vec::new();
    for group in 0..w.groups {
        let part = |s: &mut Site<'_, '_>, value, all: i64| {
            let size = all / w.groups;
            let (start, end) = (s.emitter.ints(&[group * size])?, s.emitter.ints(&[(group + 1) * size])?);
            let axis = s.emitter.ints(&[0])?;
            s.emitter.op("Slice", 13, &[value, start, end, axis])
        };
        let (signal, derivative) = (part(s, signal, channels)?, part(s, derivative, filters)?);
        let whole = s.emitter.op_with("Conv", 11, &[signal, derivative], &attributes)?;
        let (zeros, ends) = (s.emitter.ints(&vec![0; axes])?, s.emitter.ints(&w.kernel)?);
        let axis = s.emitter.ints(&spatial)?;
        let cut = s.emitter.op("Slice", 13, &[whole, zeros, ends, axis])?;
        groups.push(exchanged(s, cut)?);
    }
    let joined = match groups.as_slice() {
        [one] => *one,
        many => s.emitter.op_with("Concat", 13, many, &[("axis", 0i64.into())])?,
    };
    s.emitter.reshaped_like(joined, filter)
}
