//! Operators of `com.microsoft` that belong to no other family.

use super::Rule;
use super::elementwise::{binary, same};
use super::index;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

const MS: &str = "com.microsoft";

pub const RULES: &[Rule] = &[
    Rule::of(MS, "BiasAdd", 3, same),
    Rule::of(MS, "BiasGelu", 2, binary),
    Rule::of(MS, "BiasSoftmax", 2, same),
    Rule::of(MS, "BiasSplitGelu", 2, halved),
    Rule::of(MS, "BifurcationDetector", 3, bifurcation),
    Rule::of(MS, "CDist", 2, distances),
    Rule::of(MS, "DynamicTimeWarping", 1, time_warping),
    Rule::of(MS, "EngramGate", 5, engram),
    Rule::of(MS, "ExpandDims", 2, expand_dims),
    Rule::of(MS, "FastGelu", 1, same),
    Rule::of(MS, "GatedAdd", 3, same),
    Rule::of(MS, "Gelu", 1, same),
    Rule::of(MS, "GemmFastGelu", 2, gemm_gelu),
    Rule::of(MS, "HyperConnectionPostMix", 3, same),
    Rule::of(MS, "HyperConnectionPreMix", 2, mixed_streams),
    Rule::of(MS, "Inverse", 1, same),
    Rule::of(MS, "IsAllFinite", 1, all_finite),
    Rule::of(MS, "MatMulFpQ4", 3, product_of_blob),
    Rule::of(MS, "MoE", 2, same),
    Rule::of(MS, "MoEGroupRouter", 2, group_router),
    Rule::of(MS, "NGramRepeatBlock", 2, repeat_block),
    Rule::of(MS, "Pad", 2, pad),
    Rule::of(MS, "QMoE", 2, same),
    Rule::of(MS, "QuickGelu", 1, same),
    Rule::of(MS, "ScaledSiLU", 1, same),
    Rule::of(MS, "SwiGLU", 1, swiglu),
    Rule::of(MS, "TorchEmbedding", 2, embedding),
    Rule::of(MS, "UnfoldTensor", 1, unfold),
    Rule::of(MS, "Unique", 1, unique),
];

fn half_width(s: &Site<'_>) -> Option<Shape> {
    let mut dims = s.shape(0)?.clone();
    let last = dims.0.last_mut()?;
    *last = dim::over(last, 2);
    Some(dims)
}

fn halved(s: &mut Site<'_>) -> Result<()> {
    let shape = half_width(s);
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn swiglu(s: &mut Site<'_>) -> Result<()> {
    if s.has(1) { same(s) } else { halved(s) }
}

fn bifurcation(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::I64, Some(dim::unknown(1)));
    s.set_tensor(1, DType::I64, Some(Shape::scalar()));
    Ok(())
}

fn distances(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, s.dtype(0), Some([s.dim(0, 0), s.dim(1, 0)].into_iter().collect()));
    Ok(())
}

fn time_warping(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::I32, Some([Dim::Known(2), Dim::Unknown].into_iter().collect()));
    Ok(())
}

fn expand_dims(s: &mut Site<'_>) -> Result<()> {
    let shape = match (s.shape(0), s.int_of(1)) {
        (Some(shape), Some(axis)) => {
            let mut dims = shape.clone();
            dims.0.insert(dim::axis(axis, shape.rank() + 1)?, Dim::Known(1));
            Some(dims)
        }
        (Some(shape), None) => Some(dim::unknown(shape.rank() + 1)),
        _ => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn gemm_gelu(s: &mut Site<'_>) -> Result<()> {
    let shape = s.shape(0).and_then(|x| {
        let mut dims = x.clone();
        *dims.0.last_mut()? = s.dim(1, 1);
        Some(dims)
    });
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn all_finite(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::Bool, Some(Shape::scalar()));
    Ok(())
}

fn repeat_block(s: &mut Site<'_>) -> Result<()> {
    s.copy(1, 0);
    Ok(())
}

fn pad(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, s.dtype(0), s.rank(0).map(dim::unknown));
    Ok(())
}

fn embedding(s: &mut Site<'_>) -> Result<()> {
    let shape = index::rows(s, 0, 1);
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn unique(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, s.dtype(0), Some(dim::unknown(1)));
    s.set_tensor(1, DType::I64, s.shape(0).cloned());
    s.set_tensor(2, DType::I64, Some(dim::unknown(1)));
    Ok(())
}

fn engram(s: &mut Site<'_>) -> Result<()> {
    s.copy(0, 0);
    s.copy(0, 1);
    Ok(())
}

/// Streams `[.., branches, width]`, or `[.., branches * width]` where an attribute gives the number of branches.
fn mixed_streams(s: &mut Site<'_>) -> Result<()> {
    let branches = s.int("num_branches", 0)?;
    let shape = s.shape(0).and_then(|x| {
        let mut dims = x.clone();
        let width = dims.0.pop()?;
        if branches > 0 {
            dims.0.push(dim::over(&width, branches));
        } else {
            *dims.0.last_mut()? = width;
        }
        Some(dims)
    });
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn product_of_blob(s: &mut Site<'_>) -> Result<()> {
    let columns = match s.ints_of(2).as_deref() {
        Some([_, columns]) => usize::try_from(*columns).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    };
    let shape = s.shape(0).and_then(|x| {
        let mut dims = x.clone();
        *dims.0.last_mut()? = columns;
        Some(dims)
    });
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn group_router(s: &mut Site<'_>) -> Result<()> {
    let shape: Option<Shape> = s.shape(0).and_then(|x| {
        let (experts, tokens) = x.split_last()?;
        Some([dim::product(tokens), experts.clone()].into_iter().collect())
    });
    s.set_tensor(0, s.dtype(0), shape.clone());
    s.set_tensor(1, DType::F32, shape.clone());
    s.set_tensor(2, DType::F32, shape);
    Ok(())
}

fn unfold(s: &mut Site<'_>) -> Result<()> {
    let (axis, size, step) = (s.int("dim", -1)?, s.required_int("size")?, s.int("step", 1)?);
    let shape = match s.shape(0) {
        Some(x) if size > 0 && step > 0 => {
            let mut dims = x.clone();
            let at = dim::axis(axis, x.rank())?;
            dims.0[at] = match dims[at].known() {
                Some(n) if n as i64 >= size => Dim::Known((n - size as usize) / step as usize + 1),
                _ => Dim::Unknown,
            };
            dims.0.push(Dim::Known(size as usize));
            Some(dims)
        }
        _ => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}
