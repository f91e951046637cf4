//! Padding masks of com.microsoft's attention operators, and attention under them.

use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides};

use super::plain::{Mask, MaskData, Operand, Options, Scores, attend};
use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::ops::real::Output;
use crate::tensor::Tensor;
use tenon_kernels::cpu::attention::{self as kernel, attention};

/// Which keys are padding: 1 a key to attend to, 0 a padding.
pub struct PaddingMask {
    visible: Vec<bool>,
    /// `[batch, rows or 1, keys]`.
    rows: usize,
    keys: usize,
}

impl PaddingMask {
    /// Reads an integer mask for `[batch, query rows, keys, past keys]` in any of its forms: valid lengths `[batch]`,
    /// ends and starts `[2 * batch]`, lengths with offsets `[3 * batch + 2]`, `[batch, keys]`, `[batch, rows, keys]`,
    /// `[batch, 1, max, max]`.
    pub fn read(mask: &Tensor, [batch, rows, keys, past]: [usize; 4]) -> Result<PaddingMask> {
        let values = mask.to_i64s()?;
        let by_range = |range: &dyn Fn(usize) -> (i64, i64)| {
            let inside = |index: usize| {
                let (start, end) = range(index / keys);
                (start..end).contains(&((index % keys) as i64))
            };
            PaddingMask { visible: (0..batch * keys).map(inside).collect(), rows: 1, keys }
        };
        let fail = || {
            Err(OpError::invalid(format!(
                "mask of shape {:?} for a batch of {batch}, {rows} queries and {keys} keys",
                mask.dims()
            )))
        };
        let plain =
            |rows: usize| PaddingMask { visible: values.iter().map(|&v| v != 0).collect(), rows, keys };
        match *mask.dims() {
            [len] if len == batch => Ok(by_range(&|b| (0, values[b]))),
            [len] if len == 2 * batch => Ok(by_range(&|b| (values[batch + b], values[b]))),
            [len] if len == 3 * batch + 2 => Ok(by_range(&|b| (0, values[b]))),
            [b, k] if b == batch && k == keys => Ok(plain(1)),
            [b, k] if b == batch && k + past == keys => {
                // The mask covers the new keys; the past is all valid.
                let visible = (0..batch * keys)
                    .map(|index| index % keys < past || values[index / keys * k + index % keys - past] != 0)
                    .collect();
                Ok(PaddingMask { visible, rows: 1, keys })
            }
            [b, r, k] if b == batch && r == rows && k == keys => Ok(plain(rows)),
            [b, 1, r, k] if b == batch && r >= past + rows && k >= keys => {
                let visible = (0..batch * rows * keys)
                    .map(|index| {
                        let (b, row, key) = (index / (rows * keys), index / keys % rows, index % keys);
                        values[(b * r + past + row) * k + key] != 0
                    })
                    .collect();
                Ok(PaddingMask { visible, rows, keys })
            }
            _ => fail(),
        }
    }
}

/// The extents and options of one attention.
pub struct Product<'a> {
    pub shape: AttentionShape,
    pub scale: f32,
    pub causal: bool,
    pub past_len: usize,
    pub padding: Option<PaddingMask>,
    /// Added to the scores of padding.
    pub filter: f32,
    /// Added to the scores: `[batch or 1, heads or 1, rows, keys]`.
    pub bias: Option<&'a Tensor>,
}

impl Product<'_> {
    /// Padding and bias as one additive mask.
    fn mask(&self) -> Result<Option<(Vec<f32>, [usize; 4])>> {
        let AttentionShape { batch, q_heads, q_len, kv_len, .. } = self.shape;
        let bias = match self.bias {
            Some(bias) => {
                let (strides, columns) = Mask::<f32>::fit(bias.dims(), [batch, q_heads, q_len, kv_len])?;
                if columns != kv_len {
                    return Err(OpError::invalid(format!(
                        "attention_bias has shape {:?} for {kv_len} keys",
                        bias.dims()
                    )));
                }
                Some((bias.as_slice::<f32>()?, strides))
            }
            None => None,
        };
        match (&self.padding, bias) {
            (None, None) => Ok(None),
            (None, Some((bias, strides))) => Ok(Some((bias.to_vec(), strides))),
            (Some(padding), None) => {
                let values =
                    padding.visible.iter().map(|&visible| if visible { 0.0 } else { self.filter }).collect();
                let row = if padding.rows == 1 { 0 } else { padding.keys };
                Ok(Some((values, [padding.rows * padding.keys, 0, row, 1])))
            }
            (Some(padding), Some((bias, [b, h, r, c]))) => {
                let heads = if h == 0 { 1 } else { q_heads };
                let mut values = Vec::with_capacity(batch * heads * q_len * kv_len);
                for index in 0..batch * heads * q_len {
                    let (batch, head, row) = (index / (heads * q_len), index / q_len % heads, index % q_len);
                    let row_of_mask = if padding.rows == 1 { 0 } else { row };
                    let visible = &padding.visible[(batch * padding.rows + row_of_mask) * kv_len..][..kv_len];
                    values.extend(visible.iter().enumerate().map(|(key, &visible)| {
                        bias[batch * b + head * h + row * r + key * c]
                            + if visible { 0.0 } else { self.filter }
                    }));
                }
                let head = if heads == 1 { 0 } else { q_len * kv_len };
                Ok(Some((values, [heads * q_len * kv_len, head, kv_len, 1])))
            }
        }
    }
}

/// Attention with the result `[batch, rows, heads * width]` in `y`; `scores`, where wanted, gets the scaled products
/// with their masks added.
pub fn attend_masked(
    cx: &Context<'_>,
    product: &Product<'_>,
    [q, k, v]: [Operand<'_, f32>; 3],
    y: &mut Output,
    mut scores: Option<Output>,
) -> Result<Option<Output>> {
    let shape = &product.shape;
    let mask = product.mask()?;
    let offsets = vec![product.past_len as isize; shape.batch];
    let y_strides = HeadStrides::rows_first(shape.q_heads, shape.q_len, shape.v_dim);
    if let Some(scores) = &mut scores {
        let lengths = vec![shape.kv_len; shape.batch];
        let options = Options {
            scale: product.scale,
            causal: product.causal,
            q_offsets: &offsets,
            kv_lengths: &lengths,
            window: (None, None),
            softcap: 0.0,
            mask: mask.as_ref().map(|(mask, strides)| Mask {
                data: MaskData::Additive(mask),
                strides: *strides,
                columns: shape.kv_len,
            }),
            sinks: None,
            scores: Scores::Masked,
        };
        let scores = scores.slice::<f32>()?;
        attend(cx.parallel(), shape, [q, k, v], &options, (y.slice::<f32>()?, y_strides), Some(&mut *scores));
        scores.iter_mut().for_each(|score| *score = score.max(f32::MIN));
    } else {
        let options = kernel::Options {
            scale: product.scale,
            causal: product.causal,
            q_offsets: Some(&offsets),
            mask: mask.as_ref().map(|(mask, strides)| kernel::Mask {
                data: kernel::MaskData::Additive(mask),
                strides: *strides,
                columns: shape.kv_len,
            }),
            ..kernel::Options::default()
        };
        let cpu = cx.cpu();
        attention(cpu, shape, q, k, v, &options, (y.slice::<f32>()?, y_strides))?;
    }
    Ok(scores)
}
