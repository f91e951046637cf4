//! Convolution and pooling in all their forms.

use super::Rule;
use super::window::{Padding, Window, kernel_attribute, list, spatial};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("AveragePool", 1, pool),
    Rule::onnx("CausalConvWithState", 2, causal_conv),
    Rule::onnx("Conv", 2, conv),
    Rule::onnx("ConvInteger", 2, conv_integer),
    Rule::onnx("ConvTranspose", 2, conv_transpose),
    Rule::onnx("DeformConv", 3, conv),
    Rule::onnx("GlobalAveragePool", 1, global_pool),
    Rule::onnx("GlobalLpPool", 1, global_pool),
    Rule::onnx("GlobalMaxPool", 1, global_pool),
    Rule::onnx("LpPool", 1, pool),
    Rule::onnx("MaxPool", 1, pool),
    Rule::onnx("MaxUnpool", 2, max_unpool),
    Rule::onnx("QLinearConv", 8, qlinear_conv),
    Rule::of("tenon", "FusedConv", 2, conv),
    Rule::of("com.microsoft", "CausalConvWithState", 2, causal_conv_contrib),
    Rule::of("com.microsoft", "ConvTransposeWithDynamicPads", 2, dynamic_pads),
    Rule::of("com.microsoft", "FusedConv", 2, conv),
    Rule::of("com.microsoft", "MaxpoolWithMask", 2, pool),
    Rule::of("com.microsoft", "NhwcConv", 2, nhwc_conv),
    Rule::of("com.microsoft", "NhwcFusedConv", 2, nhwc_conv),
    Rule::of("com.microsoft", "NhwcMaxPool", 1, nhwc_pool),
    Rule::of("com.microsoft", "QLinearAveragePool", 4, qlinear_pool),
    Rule::of("com.microsoft", "QLinearConv", 8, qlinear_conv),
    Rule::of("com.microsoft", "QLinearGlobalAveragePool", 5, qlinear_global_pool),
];

/// The windows of a convolution with weight input `w`, once the rank of input 0 or of the weight is known.
fn conv_window(s: &Site<'_>, w: usize) -> Result<Option<Window>> {
    let Some(rank) = s.rank(0).or_else(|| s.rank(w)) else { return Ok(None) };
    s.expect_rank_from(0, 3)?;
    s.expect_rank(w, rank)?;
    let n = rank - 2;
    let weight: Vec<Dim> = (0..n).map(|i| s.dim(w, i + 2)).collect();
    let kernel = match kernel_attribute(s, n)? {
        Some(kernel) => {
            if let Some(i) = (0..n).find(|i| dim::differ(&kernel[*i], &weight[*i])) {
                return Err(Error::invalid_model(format!(
                    "kernel_shape is {} along spatial axis {i}, but {} has {}",
                    kernel[i],
                    s.describe(w),
                    weight[i]
                )));
            }
            kernel
        }
        None => weight,
    };
    Window::read(s, kernel).map(Some)
}

fn check_channels(s: &Site<'_>, w: usize) -> Result<()> {
    let group = s.int("group", 1)?;
    if group < 1 {
        return Err(Error::invalid_model(format!("group is {group}; it must be positive")));
    }
    let wanted = dim::times(&s.dim(w, 1), group);
    if dim::differ(&s.dim(0, 1), &wanted) {
        return Err(Error::invalid_model(format!(
            "{} has {} channels, but {} with group {group} needs {wanted}",
            s.describe(0),
            s.dim(0, 1),
            s.describe(w)
        )));
    }
    Ok(())
}

fn conv_shape(s: &Site<'_>, w: usize) -> Result<Option<Shape>> {
    let Some(window) = conv_window(s, w)? else { return Ok(None) };
    check_channels(s, w)?;
    let sizes = match s.shape(0) {
        Some(x) => window.output(spatial(x))?,
        None => vec![Dim::Unknown; window.kernel.len()],
    };
    Ok(Some([s.dim(0, 0), s.dim(w, 0)].into_iter().chain(sizes).collect()))
}

fn conv(s: &mut Site<'_>) -> Result<()> {
    s.expect_same_dtype(0, 1)?;
    let shape = conv_shape(s, 1)?;
    s.set_tensor(0, s.first_dtype(&[0, 1]), shape);
    Ok(())
}

fn conv_integer(s: &mut Site<'_>) -> Result<()> {
    let shape = conv_shape(s, 1)?;
    s.set_tensor(0, DType::I32, shape);
    Ok(())
}

/// x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B.
fn qlinear_conv(s: &mut Site<'_>) -> Result<()> {
    let shape = if s.flag("channels_last", false)? { nhwc_conv_shape(s, 3)? } else { conv_shape(s, 3)? };
    s.set_tensor(0, s.first_dtype(&[7, 0]), shape);
    Ok(())
}

/// `shape` with its last axis, the channels, moved to the second place.
fn channels_first(shape: &Shape) -> Shape {
    let mut dims = shape.clone();
    if dims.rank() > 2
        && let Some(channels) = dims.0.pop()
    {
        dims.0.insert(1, channels);
    }
    dims
}

fn channels_last(dims: Vec<Dim>, channels: Dim, batch: Dim) -> Shape {
    [batch].into_iter().chain(dims).chain([channels]).collect()
}

/// The weight keeps its channels-first layout `[M, C / group, k...]` or is `[M, k..., C / group]`; only its rank counts.
fn nhwc_conv_shape(s: &Site<'_>, w: usize) -> Result<Option<Shape>> {
    let Some(shape) = s.shape(0) else { return Ok(None) };
    s.expect_rank_from(0, 3)?;
    let x = channels_first(shape);
    let kernel = match kernel_attribute(s, x.rank() - 2)? {
        Some(kernel) => kernel,
        None => return Ok(Some(dim::unknown(x.rank()))),
    };
    let sizes = Window::read(s, kernel)?.output(spatial(&x))?;
    Ok(Some(channels_last(sizes, s.dim(w, 0), x[0].clone())))
}

fn nhwc_conv(s: &mut Site<'_>) -> Result<()> {
    let shape = nhwc_conv_shape(s, 1)?;
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn conv_transpose(s: &mut Site<'_>) -> Result<()> {
    s.expect_same_dtype(0, 1)?;
    let shape = conv_transpose_shape(s)?;
    s.set_tensor(0, s.first_dtype(&[0, 1]), shape);
    Ok(())
}

fn conv_transpose_shape(s: &Site<'_>) -> Result<Option<Shape>> {
    let Some(window) = conv_window(s, 1)? else { return Ok(None) };
    let n = window.kernel.len();
    let group = s.int("group", 1)?;
    if dim::differ(&s.dim(0, 1), &s.dim(1, 0)) {
        return Err(Error::invalid_model(format!(
            "{} has {} channels, but {} needs {}",
            s.describe(0),
            s.dim(0, 1),
            s.describe(1),
            s.dim(1, 0)
        )));
    }
    let mut dims = vec![s.dim(0, 0), dim::times(&s.dim(1, 1), group)];
    if let Some(given) = s.ints("output_shape")?.filter(|g| !g.is_empty()) {
        let Some(given) = given.get(given.len().saturating_sub(n)..).filter(|g| g.len() == n) else {
            return Err(Error::invalid_model(format!("output_shape needs {n} sizes")));
        };
        dims.extend(given.iter().map(|d| usize::try_from(*d).map_or(Dim::Unknown, Dim::Known)));
        return Ok(Some(dims.into_iter().collect()));
    }
    let extra = list(s, "output_padding", n, 0, 0)?;
    for (i, more) in extra.into_iter().enumerate() {
        let size = s.dim(0, i + 2);
        if window.mode == Padding::Same {
            dims.push(dim::times(&size, window.strides[i]));
            continue;
        }
        let moved = dim::times(&dim::plus(&size, -1), window.strides[i]);
        let covered = dim::times(&dim::plus(&window.kernel[i], -1), window.dilations[i]);
        let rest = more.saturating_add(1).saturating_sub(window.pads[i]).saturating_sub(window.pads[i + n]);
        dims.push(dim::plus(&dim::add(&moved, &covered), rest));
    }
    Ok(Some(dims.into_iter().collect()))
}

fn dynamic_pads(s: &mut Site<'_>) -> Result<()> {
    let shape = s.rank(0).map(|rank| {
        [s.dim(0, 0), dim::times(&s.dim(1, 1), s.int("group", 1).unwrap_or(1))]
            .into_iter()
            .chain(vec![Dim::Unknown; rank.saturating_sub(2)])
            .collect()
    });
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn pool_shape(s: &Site<'_>, shape: &Shape) -> Result<Shape> {
    s.expect_rank_from(0, 3)?;
    let Some(kernel) = kernel_attribute(s, shape.rank() - 2)? else { return Err(s.missing("kernel_shape")) };
    let sizes = Window::read(s, kernel)?.output(spatial(shape))?;
    Ok([shape[0].clone(), shape[1].clone()].into_iter().chain(sizes).collect())
}

fn pool(s: &mut Site<'_>) -> Result<()> {
    let shape = match s.shape(0) {
        Some(shape) => Some(pool_shape(s, shape)?),
        None => None,
    };
    s.set_tensor(0, s.dtype(0), shape.clone());
    s.set_tensor(1, DType::I64, shape);
    Ok(())
}

fn nhwc(s: &Site<'_>) -> Result<Option<Shape>> {
    let Some(shape) = s.shape(0) else { return Ok(None) };
    let pooled = pool_shape(s, &channels_first(shape))?;
    Ok(Some(channels_last(spatial(&pooled).to_vec(), pooled[1].clone(), pooled[0].clone())))
}

fn nhwc_pool(s: &mut Site<'_>) -> Result<()> {
    let shape = nhwc(s)?;
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn qlinear_pool(s: &mut Site<'_>) -> Result<()> {
    let shape = match s.shape(0) {
        Some(_) if s.flag("channels_last", false)? => nhwc(s)?,
        Some(shape) => Some(pool_shape(s, shape)?),
        None => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn ones_after(shape: &Shape, kept: &[usize]) -> Shape {
    let one = |(i, d): (usize, &Dim)| if kept.contains(&i) { d.clone() } else { Dim::Known(1) };
    shape.iter().enumerate().map(one).collect()
}

fn global_pool(s: &mut Site<'_>) -> Result<()> {
    s.expect_rank_from(0, 2)?;
    let shape = s.shape(0).map(|shape| ones_after(shape, &[0, 1]));
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn qlinear_global_pool(s: &mut Site<'_>) -> Result<()> {
    s.expect_rank_from(0, 2)?;
    let last = s.flag("channels_last", false)?;
    let shape = s.shape(0).map(|shape| ones_after(shape, &[0, if last { shape.rank() - 1 } else { 1 }]));
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn max_unpool(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let Some(shape) = s.shape(0) else {
        s.set_tensor(0, dtype, None);
        return Ok(());
    };
    s.expect_rank_from(0, 3)?;
    let n = shape.rank() - 2;
    if s.has(2) {
        let sizes = match s.contents_of(2) {
            Some(c) => c.elements.iter().map(|e| e.to_dim()).collect(),
            None => dim::unknown(shape.rank()),
        };
        s.set_tensor(0, dtype, Some(sizes));
        return Ok(());
    }
    let Some(kernel) = kernel_attribute(s, n)? else { return Err(s.missing("kernel_shape")) };
    let window = Window::read(s, kernel)?;
    let sizes = (0..n).map(|i| {
        let moved = dim::times(&dim::plus(&shape[i + 2], -1), window.strides[i]);
        let pads = window.pads[i].saturating_add(window.pads[i + n]);
        dim::plus(&dim::add(&moved, &window.kernel[i]), pads.saturating_neg())
    });
    s.set_tensor(0, dtype, Some([shape[0].clone(), shape[1].clone()].into_iter().chain(sizes).collect()));
    Ok(())
}

/// The output like input 0; the state `[batch, channels, kernel - 1]`.
fn causal_conv(s: &mut Site<'_>) -> Result<()> {
    s.copy(0, 0);
    let state = [s.dim(0, 0), s.dim(0, 1), dim::plus(&s.dim(1, 2), -1)];
    s.set_tensor(1, s.dtype(0), Some(state.into_iter().collect()));
    Ok(())
}

fn causal_conv_contrib(s: &mut Site<'_>) -> Result<()> {
    s.copy(0, 0);
    if s.has(3) {
        s.copy(3, 1);
    } else {
        s.set_tensor(1, s.dtype(0), s.rank(0).map(dim::unknown));
    }
    for output in 2..s.node.outputs().len() {
        s.set_tensor(output, s.dtype(0), None);
    }
    Ok(())
}
