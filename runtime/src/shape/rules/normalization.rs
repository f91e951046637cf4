//! Normalisation layers and dropout.

use super::Rule;
use super::elementwise::same;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("BatchNormalization", 5, batch),
    Rule::onnx("Dropout", 1, dropout),
    Rule::onnx("GroupNormalization", 3, same),
    Rule::onnx("InstanceNormalization", 3, same),
    Rule::onnx("LRN", 1, same),
    Rule::onnx("LayerNormalization", 2, layer),
    Rule::onnx("LpNormalization", 1, same),
    Rule::onnx("MeanVarianceNormalization", 1, same),
    Rule::onnx("RMSNormalization", 2, rms),
    Rule::onnx("SimplifiedLayerNormalization", 2, simplified),
    Rule::of("com.microsoft", "SimplifiedLayerNormalization", 2, simplified),
    Rule::of("com.microsoft", "SkipLayerNormalization", 3, skip),
    Rule::of("com.microsoft", "SkipSimplifiedLayerNormalization", 3, skip),
    Rule::of("com.microsoft", "EmbedLayerNormalization", 1, embed),
    Rule::of("com.microsoft", "QEmbedLayerNormalization", 1, quantized_embed),
    Rule::of("com.microsoft", "GroupNorm", 3, same),
    Rule::of("com.microsoft", "SkipGroupNorm", 4, skip_group),
    Rule::of("com.microsoft", "GatedRMSNorm", 3, same),
    Rule::of("com.microsoft", "BranchwiseRMSNorm", 1, same),
    Rule::of("com.microsoft", "BiasDropout", 2, dropout),
    Rule::of("com.microsoft", "RMSNormRotary", 5, same),
];

fn batch(s: &mut Site<'_>) -> Result<()> {
    for i in 1..5 {
        s.expect_rank(i, 1)?;
    }
    if s.rank(0).is_some_and(|r| r >= 2) {
        for i in 1..5 {
            s.expect_equal((0, 1), (i, 0))?;
        }
    }
    same(s)?;
    // Running mean and variance; older versions return four statistics, all by channel.
    for output in 1..s.node.outputs().len() {
        let from = if output % 2 == 1 { 3 } else { 4 };
        s.copy(from, output);
    }
    Ok(())
}

fn dropout(s: &mut Site<'_>) -> Result<()> {
    super::elementwise::identity(s)?;
    let known = s.node.domain.is_empty() && s.version() < 10;
    s.copy_shape(0, 1, if known { s.dtype(0) } else { DType::Bool });
    Ok(())
}

/// The shape of the statistics of a normalisation over `axis..`: the sizes before, then ones.
fn statistics(s: &Site<'_>, axis: i64) -> Result<Option<Shape>> {
    let Some(shape) = s.shape(0) else { return Ok(None) };
    let axis = dim::axis(axis, shape.rank())?;
    let one = |(i, d): (usize, &Dim)| if i < axis { d.clone() } else { Dim::Known(1) };
    Ok(Some(shape.iter().enumerate().map(one).collect()))
}

fn stash(s: &Site<'_>) -> Result<DType> {
    Ok(s.dtype_attribute("stash_type")?.unwrap_or(DType::F32))
}

fn layer(s: &mut Site<'_>) -> Result<()> {
    let statistics = statistics(s, s.int("axis", -1)?)?;
    let scaled = s.broadcast(&[0, 1])?;
    if let (Some(x), Some(scaled)) = (s.shape(0), &scaled)
        && x.rank() < scaled.rank()
    {
        return Err(Error::invalid_model(format!(
            "{} does not broadcast to {}",
            s.describe(1),
            s.describe(0)
        )));
    }
    same(s)?;
    let dtype = stash(s)?;
    s.set_tensor(1, dtype, statistics.clone());
    s.set_tensor(2, dtype, statistics);
    Ok(())
}

fn rms(s: &mut Site<'_>) -> Result<()> {
    statistics(s, s.int("axis", -1)?)?;
    s.copy_shape(0, 0, s.first_dtype(&[1, 0]));
    Ok(())
}

fn simplified(s: &mut Site<'_>) -> Result<()> {
    let statistics = statistics(s, s.int("axis", -1)?)?;
    s.copy_shape(0, 0, s.first_dtype(&[1, 0]));
    let dtype = stash(s)?;
    s.set_tensor(1, dtype, statistics);
    Ok(())
}

/// Output, mean, inverse deviation, and the sum that is normalised.
fn skip(s: &mut Site<'_>) -> Result<()> {
    let statistics = statistics(s, -1)?;
    same(s)?;
    s.set_tensor(1, DType::F32, statistics.clone());
    s.set_tensor(2, DType::F32, statistics);
    s.copy(0, 3);
    Ok(())
}

fn skip_group(s: &mut Site<'_>) -> Result<()> {
    same(s)?;
    s.copy(0, 1);
    Ok(())
}

fn embedded(s: &mut Site<'_>, word: usize, dtype: DType) {
    let shape = [s.dim(0, 0), s.dim(0, 1), s.dim(word, 1)];
    s.set_tensor(0, dtype, Some(shape.clone().into_iter().collect()));
    s.set_tensor(1, DType::I32, Some([s.dim(0, 0)].into_iter().collect()));
    s.set_tensor(2, dtype, Some(shape.into_iter().collect()));
}

fn embed(s: &mut Site<'_>) -> Result<()> {
    embedded(s, 2, s.dtype(2));
    Ok(())
}

fn quantized_embed(s: &mut Site<'_>) -> Result<()> {
    embedded(s, 2, s.dtype(8));
    Ok(())
}
