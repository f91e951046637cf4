//! Attention in all forms, rotary embeddings, linear attention.

use super::Rule;
use super::elementwise::same;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::site::Site;
use crate::shape::{dim, expr};

pub const RULES: &[Rule] = &[
    Rule::onnx("Attention", 3, attention),
    Rule::onnx("LinearAttention", 3, linear),
    Rule::onnx("RotaryEmbedding", 3, same),
    Rule::of("ai.onnx.preview", "FlexAttention", 3, flex),
    Rule::of("com.microsoft", "Attention", 2, merged),
    Rule::of("com.microsoft", "DecoderMaskedMultiHeadAttention", 1, multi_head),
    Rule::of("com.microsoft", "DecoderMaskedSelfAttention", 3, merged),
    Rule::of("com.microsoft", "GatedDeltaNet", 1, gated_delta),
    Rule::of("com.microsoft", "GemmaRotaryEmbedding", 5, gemma_rotary),
    Rule::of("com.microsoft", "GroupQueryAttention", 1, group_query),
    Rule::of("com.microsoft", "LinearAttention", 3, linear),
    Rule::of("com.microsoft", "LongformerAttention", 1, same),
    Rule::of("com.microsoft", "MRotaryEmbedding", 4, same),
    Rule::of("com.microsoft", "MultiHeadAttention", 1, multi_head),
    Rule::of("com.microsoft", "PackedAttention", 2, packed),
    Rule::of("com.microsoft", "PackedMultiHeadAttention", 1, packed_heads),
    Rule::of("com.microsoft", "PagedAttention", 1, paged),
    Rule::of("com.microsoft", "QAttention", 3, quantized),
    Rule::of("com.microsoft", "RotaryEmbedding", 4, same),
    Rule::of("com.microsoft", "SparseAttention", 1, sparse),
];

/// The sizes of one operand: batch, heads, length, head size.
struct Heads {
    batch: Dim,
    count: Dim,
    length: Dim,
    size: Dim,
}

/// Operand `i` as `[batch, heads, length, size]`, or `[batch, length, heads * size]` with `heads` known.
fn heads(s: &Site<'_>, i: usize, heads: Option<i64>) -> Option<Heads> {
    let shape = s.shape(i)?;
    match shape.dims() {
        [batch, count, length, size] => Some(Heads {
            batch: batch.clone(),
            count: count.clone(),
            length: length.clone(),
            size: size.clone(),
        }),
        [batch, length, width] => {
            let n = heads.filter(|n| *n > 0);
            Some(Heads {
                batch: batch.clone(),
                count: n.map_or(Dim::Unknown, |n| Dim::Known(n as usize)),
                length: length.clone(),
                size: n.map_or(Dim::Unknown, |n| dim::over(width, n)),
            })
        }
        _ => None,
    }
}

fn attention(s: &mut Site<'_>) -> Result<()> {
    for i in 0..3 {
        if s.rank(i).is_some_and(|r| r != 3 && r != 4) {
            return Err(Error::invalid_model(format!("{} must have rank 3 or 4", s.describe(i))));
        }
    }
    let (q_heads, kv_heads) = (s.node.attributes.int("q_num_heads")?, s.node.attributes.int("kv_num_heads")?);
    let (query, key, value) = (heads(s, 0, q_heads), heads(s, 1, kv_heads), heads(s, 2, kv_heads));
    let past = |i: usize| if s.has(i) { s.dim(i, 2) } else { Dim::Known(0) };
    let dtype = s.dtype(0);
    let output: Option<Shape> = match (&query, &value) {
        (Some(q), Some(v)) if s.rank(0) == Some(4) => {
            Some([q.batch.clone(), q.count.clone(), q.length.clone(), v.size.clone()].into_iter().collect())
        }
        (Some(q), Some(v)) => {
            Some([q.batch.clone(), q.length.clone(), dim::mul(&q.count, &v.size)].into_iter().collect())
        }
        _ => None,
    };
    let state = |h: &Option<Heads>, i: usize| -> Option<Shape> {
        let h = h.as_ref()?;
        let length = dim::add(&past(i), &h.length);
        Some([h.batch.clone(), h.count.clone(), length, h.size.clone()].into_iter().collect())
    };
    let (present_key, present_value) = (state(&key, 4), state(&value, 5));
    let scores: Option<Shape> = match (&query, &present_key) {
        (Some(q), Some(k)) => {
            Some([q.batch.clone(), q.count.clone(), q.length.clone(), k[2].clone()].into_iter().collect())
        }
        _ => None,
    };
    s.set_tensor(0, dtype, output);
    s.set_tensor(1, s.dtype(1), present_key);
    s.set_tensor(2, s.dtype(2), present_value);
    s.set_tensor(3, dtype, scores);
    Ok(())
}

fn flex(s: &mut Site<'_>) -> Result<()> {
    let shape = match (heads(s, 0, None), heads(s, 2, None)) {
        (Some(q), Some(v)) => Some([q.batch, q.count, q.length, v.size].into_iter().collect()),
        _ => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

/// Query, key and value packed as `[batch, length, heads * size]`; the state `[batch, kv_heads, key size, value size]`.
fn linear(s: &mut Site<'_>) -> Result<()> {
    let (q_heads, kv_heads) = (s.required_int("q_num_heads")?, s.required_int("kv_num_heads")?);
    if q_heads < 1 || kv_heads < 1 {
        return Err(Error::invalid_model("q_num_heads and kv_num_heads must be positive"));
    }
    let key_size = dim::over(&s.dim(0, 2), q_heads);
    let value_size = dim::over(&s.dim(2, 2), kv_heads);
    let dtype = s.dtype(0);
    let output = [s.dim(0, 0), s.dim(0, 1), dim::times(&value_size, q_heads)];
    s.set_tensor(0, dtype, Some(output.into_iter().collect()));
    if s.has(3) {
        s.copy(3, 1);
    } else {
        let state = [s.dim(0, 0), Dim::Known(kv_heads as usize), key_size, value_size];
        s.set_tensor(1, dtype, Some(state.into_iter().collect()));
    }
    Ok(())
}

fn max(a: &Dim, b: &Dim) -> Dim {
    match (a.to_expr(), b.to_expr()) {
        (Some(a), Some(b)) => expr::max(&a, &b).map_or(Dim::Unknown, Dim::from_expr),
        _ => Dim::Unknown,
    }
}

/// `past` (`[batch, heads, length, size]`) with another length.
fn grown(s: &Site<'_>, past: usize, length: Dim) -> Option<Shape> {
    let mut dims = s.shape(past)?.clone();
    *dims.0.get_mut(2)? = length;
    Some(dims)
}

fn group_query(s: &mut Site<'_>) -> Result<()> {
    let (n, g) = (s.required_int("num_heads")?, s.required_int("kv_num_heads")?);
    if n < 1 || g < 1 {
        return Err(Error::invalid_model("num_heads and kv_num_heads must be positive"));
    }
    let dtype = s.dtype(0);
    let width = s.dim(0, 2);
    let packed = !s.has(1);
    let size = if packed { dim::over(&width, n + 2 * g) } else { dim::over(&width, n) };
    let output = [s.dim(0, 0), s.dim(0, 1), if packed { dim::times(&size, n) } else { width }];
    s.set_tensor(0, dtype, Some(output.into_iter().collect()));
    // The present state reuses a past buffer that is long enough; otherwise it is as long as the whole sequence. A model
    // that declares both of one length says that the buffer is.
    let total = s.size_of(6);
    for (output, past) in [(1, 3), (2, 4)] {
        let shape = if s.has(past) {
            let declared = s.node.output(output).and_then(|value| s.graph.value(value).ty());
            let declared = declared.and_then(|ty| ty.shape()).and_then(|shape| shape.get(2));
            let length = if s.flag("sliding_window_cache", false)? {
                Dim::Unknown
            } else if total == Dim::Unknown && declared == Some(&s.dim(past, 2)) {
                s.dim(past, 2)
            } else {
                max(&s.dim(past, 2), &total)
            };
            grown(s, past, length)
        } else {
            let state = [s.dim(0, 0), Dim::Known(g as usize), total.clone(), size.clone()];
            Some(state.into_iter().collect())
        };
        let dtype = if s.has(past) { s.dtype(past) } else { dtype };
        s.set_tensor(output, dtype, shape);
    }
    let scores = [s.dim(0, 0), Dim::Known(n as usize), s.dim(0, 1), total];
    s.set_tensor(3, dtype, Some(scores.into_iter().collect()));
    Ok(())
}

fn multi_head(s: &mut Site<'_>) -> Result<()> {
    let n = s.required_int("num_heads")?;
    if n < 1 {
        return Err(Error::invalid_model(format!("num_heads is {n}; it must be positive")));
    }
    let dtype = s.dtype(0);
    let width = match (s.rank(0), s.rank(2)) {
        (Some(5), _) => dim::mul(&s.dim(0, 2), &s.dim(0, 4)),
        (_, Some(3)) => s.dim(2, 2),
        (_, Some(4)) => dim::times(&s.dim(2, 3), n),
        _ if s.rank(1) == Some(5) => dim::mul(&s.dim(1, 2), &s.dim(1, 4)),
        _ => Dim::Unknown,
    };
    s.set_tensor(0, dtype, Some([s.dim(0, 0), s.dim(0, 1), width.clone()].into_iter().collect()));
    let past_key = if *s.node.op_type == *"MultiHeadAttention" { 6 } else { 5 };
    let shared = s.has(past_key + 2);
    let added = match s.rank(1) {
        Some(3 | 5) => s.dim(1, 1),
        Some(4) => s.dim(1, 2),
        _ => s.dim(0, 1),
    };
    for (output, past) in [(1, past_key), (2, past_key + 1)] {
        let shape = if s.has(past) {
            grown(s, past, if shared { s.dim(past, 2) } else { dim::add(&s.dim(past, 2), &added) })
        } else {
            let size = dim::over(&if output == 1 { s.dim(0, 2) } else { width.clone() }, n);
            let size = if s.rank(0) == Some(3) { size } else { Dim::Unknown };
            Some([s.dim(0, 0), Dim::Known(n as usize), added.clone(), size].into_iter().collect())
        };
        s.set_tensor(output, dtype, shape);
    }
    let scores = [s.dim(0, 0), Dim::Known(n as usize), s.dim(0, 1), Dim::Unknown];
    s.set_tensor(3, dtype, Some(scores.into_iter().collect()));
    Ok(())
}

/// The width of the value part of merged weights `[in, 3 * hidden]`.
fn value_width(s: &Site<'_>) -> Result<Dim> {
    Ok(match s.ints("qkv_hidden_sizes")? {
        Some([_, _, v]) => usize::try_from(*v).map_or(Dim::Unknown, Dim::Known),
        _ => dim::over(&s.dim(1, 1), 3),
    })
}

fn merged_with(s: &mut Site<'_>, past: usize, dtype: crate::dtype::DType) -> Result<()> {
    let n = s.required_int("num_heads")?.max(1);
    let width = value_width(s)?;
    s.set_tensor(0, dtype, Some([s.dim(0, 0), s.dim(0, 1), width.clone()].into_iter().collect()));
    let length = match (s.has(past), s.flag("past_present_share_buffer", false)?) {
        (true, true) => s.dim(past, 3),
        (true, false) => dim::add(&s.dim(past, 3), &s.dim(0, 1)),
        (false, _) => s.dim(0, 1),
    };
    let state = [Dim::Known(2), s.dim(0, 0), Dim::Known(n as usize), length, dim::over(&width, n)];
    s.set_tensor(1, dtype, Some(state.into_iter().collect()));
    Ok(())
}

fn merged(s: &mut Site<'_>) -> Result<()> {
    merged_with(s, 4, s.dtype(0))
}

fn quantized(s: &mut Site<'_>) -> Result<()> {
    merged_with(s, 8, s.dtype(3))
}

fn packed(s: &mut Site<'_>) -> Result<()> {
    let width = value_width(s)?;
    s.set_tensor(0, s.dtype(0), Some([s.dim(0, 0), width].into_iter().collect()));
    Ok(())
}

fn packed_heads(s: &mut Site<'_>) -> Result<()> {
    let width = match s.rank(0) {
        Some(4) => dim::mul(&s.dim(0, 1), &s.dim(0, 3)),
        _ => s.dim(2, 1),
    };
    s.set_tensor(0, s.dtype(0), Some([s.dim(0, 0), width].into_iter().collect()));
    Ok(())
}

/// Packed tokens; the caches are updated in place.
fn paged(s: &mut Site<'_>) -> Result<()> {
    let (n, g) = (s.required_int("num_heads")?, s.required_int("kv_num_heads")?);
    let width = s.dim(0, 1);
    let width = if s.has(1) || n < 1 || g < 1 { width } else { dim::times(&dim::over(&width, n + 2 * g), n) };
    s.set_tensor(0, s.dtype(0), Some([s.dim(0, 0), width].into_iter().collect()));
    s.copy(3, 1);
    s.copy(4, 2);
    Ok(())
}

fn sparse(s: &mut Site<'_>) -> Result<()> {
    let (n, g) = (s.required_int("num_heads")?, s.required_int("kv_num_heads")?);
    let width = s.dim(0, 2);
    let width = if s.has(1) || n < 1 || g < 1 { width } else { dim::times(&dim::over(&width, n + 2 * g), n) };
    s.set_tensor(0, s.dtype(0), Some([s.dim(0, 0), s.dim(0, 1), width].into_iter().collect()));
    s.copy(3, 1);
    s.copy(4, 2);
    Ok(())
}

fn gated_delta(s: &mut Site<'_>) -> Result<()> {
    let shape = match (s.shape(0), s.shape(2)) {
        (Some(q), Some(v)) if q.rank() == v.rank() => Some(v.clone()),
        (Some(q), _) => Some(dim::unknown(q.rank())),
        _ => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    for output in 1..s.node.outputs().len() {
        s.set_tensor(output, crate::dtype::DType::F32, None);
    }
    Ok(())
}

fn gemma_rotary(s: &mut Site<'_>) -> Result<()> {
    s.copy(1, 0);
    s.copy(3, 1);
    Ok(())
}
