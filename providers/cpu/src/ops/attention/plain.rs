//! Attention by plain loops over any float type: for f64, and where a model asks for the scores themselves.

use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides};
use tenon_kernels::parallel::Parallel;

use crate::error::{OpError, Result};
use crate::ops::real::Real;
use crate::ops::rows::{Rows, for_ranges};

/// Values of a mask.
#[derive(Clone, Copy)]
pub enum MaskData<'a, T> {
    /// Added to the scaled scores.
    Additive(&'a [T]),
    /// Non-zero where a query may attend.
    Bool(&'a [u8]),
}

/// A mask read at batch, query head, query row and key column with a stride each.
#[derive(Clone, Copy)]
pub struct Mask<'a, T> {
    pub data: MaskData<'a, T>,
    pub strides: [usize; 4],
    /// Columns that the mask covers; keys beyond are hidden.
    pub columns: usize,
}

impl<T: Real> Mask<'_, T> {
    /// What to add to a score; `None` where the key is hidden.
    fn value(&self, [batch, head, row, column]: [usize; 4]) -> Option<T> {
        if column >= self.columns {
            return None;
        }
        let [b, h, r, c] = self.strides;
        let at = batch * b + head * h + row * r + column * c;
        match self.data {
            MaskData::Additive(data) => Some(data[at]).filter(|&value| value != -T::INFINITY),
            MaskData::Bool(data) => (data[at] != 0).then_some(T::ZERO),
        }
    }

    /// The strides of a mask of shape `dims`, right-aligned to `[batch, heads, rows, columns]`. The last dimension may be
    /// shorter than the keys.
    pub fn fit(dims: &[usize], [batch, heads, rows, columns]: [usize; 4]) -> Result<([usize; 4], usize)> {
        let fail = || {
            OpError::invalid(format!(
                "mask shape {dims:?} does not broadcast to [{batch}, {heads}, {rows}, {columns}]"
            ))
        };
        if dims.is_empty() || dims.len() > 4 || dims[dims.len() - 1] > columns {
            return Err(fail());
        }
        let mut strides = [0; 4];
        let mut step = 1;
        for (index, &dim) in dims.iter().rev().enumerate() {
            let axis = 3 - index;
            let wanted = [batch, heads, rows, columns][axis];
            if axis < 3 && dim != 1 && dim != wanted {
                return Err(fail());
            }
            strides[axis] = if dim == 1 && axis < 3 { 0 } else { step };
            step *= dim;
        }
        Ok((strides, dims[dims.len() - 1]))
    }
}

/// Which scores to hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// The scaled products.
    Raw,
    /// After the soft cap.
    Capped,
    /// With the mask added; hidden keys are -inf.
    Masked,
    /// After the softmax.
    Probabilities,
}

/// Everything about the scores beside the operands.
pub struct Options<'a, T> {
    pub scale: T,
    pub causal: bool,
    /// Key position of query row 0, one a batch.
    pub q_offsets: &'a [isize],
    /// Valid keys, one a batch.
    pub kv_lengths: &'a [usize],
    /// How far before and after its own position a query sees.
    pub window: (Option<usize>, Option<usize>),
    pub softcap: T,
    pub mask: Option<Mask<'a, T>>,
    /// One logit a query head that joins the softmax but adds no value.
    pub sinks: Option<&'a [T]>,
    /// Scores to write to the last argument of [`attend`].
    pub scores: Scores,
}

impl<T: Real> Options<'_, T> {
    /// Is key `column` inside the lengths, the causal frontier and the window of query `row`?
    fn sees(&self, batch: usize, row: usize, column: usize) -> bool {
        let position = self.q_offsets[batch] + row as isize;
        let distance = column as isize - position;
        column < self.kv_lengths[batch]
            && !(self.causal && distance > 0)
            && self.window.0.is_none_or(|before| -distance <= before as isize)
            && self.window.1.is_none_or(|after| distance <= after as isize)
    }
}

/// One operand and its strides.
pub type Operand<'a, T> = (&'a [T], HeadStrides);

/// `y = softmax(scale * q · kᵀ + mask) · v`. Rows that see no key are zero. `scores` is `[batch, heads, rows, keys]`.
pub fn attend<T: Real>(
    parallel: &dyn Parallel,
    shape: &AttentionShape,
    [q, k, v]: [Operand<'_, T>; 3],
    options: &Options<'_, T>,
    (y, y_strides): (&mut [T], HeadStrides),
    scores: Option<&mut [T]>,
) {
    let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim } = *shape;
    let at = |strides: HeadStrides, batch: usize, head: usize, row: usize| {
        batch * strides.batch + head * strides.head + row * strides.row
    };
    let out = Rows::new(y, 1);
    let scores_out = scores.map(|scores| Rows::new(scores, kv_len));
    let work = kv_len * (qk_dim + v_dim + 8);
    for_ranges(parallel, batch * q_heads * q_len, work, &|range| {
        let mut row = vec![T::ZERO; kv_len];
        let mut biases: Vec<Option<T>> = vec![None; kv_len];
        let mut handed = vec![T::ZERO; kv_len];
        for index in range {
            let (b, h, i) = (index / (q_heads * q_len), index / q_len % q_heads, index % q_len);
            let kv_head = h / (q_heads / kv_heads);
            let query = &q.0[at(q.1, b, h, i)..][..qk_dim];
            for (j, bias) in biases.iter_mut().enumerate() {
                *bias = match &options.mask {
                    _ if !options.sees(b, i, j) => None,
                    Some(mask) => mask.value([b, h, i, j]),
                    None => Some(T::ZERO),
                };
            }
            let all = scores_out.is_some();
            for (j, score) in row.iter_mut().enumerate() {
                *score = T::ZERO;
                if all || biases[j].is_some() {
                    let key = &k.0[at(k.1, b, kv_head, j)..][..qk_dim];
                    *score = query.iter().zip(key).map(|(&q, &k)| q * k).sum::<T>() * options.scale;
                }
            }
            if all && options.scores == Scores::Raw {
                handed.copy_from_slice(&row);
            }
            if options.softcap > T::ZERO {
                row.iter_mut().for_each(|score| *score = (*score / options.softcap).tanh() * options.softcap);
            }
            if all && options.scores == Scores::Capped {
                handed.copy_from_slice(&row);
            }
            for (score, bias) in row.iter_mut().zip(&biases) {
                *score = bias.map_or(-T::INFINITY, |bias| *score + bias);
            }
            if all && options.scores == Scores::Masked {
                handed.copy_from_slice(&row);
            }
            softmax(&mut row, options.sinks.map(|sinks| sinks[h]));
            if all && options.scores == Scores::Probabilities {
                handed.copy_from_slice(&row);
            }
            if let Some(scores) = &scores_out {
                // SAFETY: each row of the scores is written by one task.
                unsafe { scores.row(index) }.copy_from_slice(&handed);
            }
            // SAFETY: output rows of different indices do not overlap.
            let y = unsafe { out.span(at(y_strides, b, h, i), v_dim) };
            y.fill(T::ZERO);
            for (j, (&weight, bias)) in row.iter().zip(&biases).enumerate() {
                if bias.is_some() && weight != T::ZERO {
                    let value = &v.0[at(v.1, b, kv_head, j)..][..v_dim];
                    y.iter_mut().zip(value).for_each(|(y, &v)| *y += weight * v);
                }
            }
        }
    });
}

/// Softmax in place, with a further logit in the denominator where `sink` is given. A row of -inf becomes zero.
fn softmax<T: Real>(row: &mut [T], sink: Option<T>) {
    let start = sink.unwrap_or(-T::INFINITY);
    let largest = row.iter().fold(start, |best, &score| if score > best { score } else { best });
    if largest == -T::INFINITY {
        row.fill(T::ZERO);
        return;
    }
    let mut sum = sink.map_or(T::ZERO, |sink| (sink - largest).exp());
    for score in row.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    row.iter_mut().for_each(|score| *score = *score / sum);
}
