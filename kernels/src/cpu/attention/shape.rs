//! Extents, strides and options of attention.

use crate::error::{KernelError, Result, expect_len};

/// Extents of one attention call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    pub batch: usize,
    pub q_heads: usize,
    /// Divides `q_heads`; query head h reads head `h / (q_heads / kv_heads)`.
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    /// Width of queries and keys.
    pub qk_dim: usize,
    /// Width of values and of the output.
    pub v_dim: usize,
}

/// Elements between batches, heads and positions; the last dimension is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadStrides {
    pub batch: usize,
    pub head: usize,
    pub row: usize,
}

impl HeadStrides {
    /// `[batch, heads, rows, dim]`.
    pub fn heads_first(heads: usize, rows: usize, dim: usize) -> Self {
        Self { batch: heads * rows * dim, head: rows * dim, row: dim }
    }

    /// `[batch, rows, heads, dim]`, which is `[batch, rows, hidden]`.
    pub fn rows_first(heads: usize, rows: usize, dim: usize) -> Self {
        Self { batch: heads * rows * dim, head: dim, row: heads * dim }
    }

    pub(crate) fn offset(&self, batch: usize, head: usize, row: usize) -> usize {
        batch * self.batch + head * self.head + row * self.row
    }

    fn check(&self, name: &str, len: usize, [batch, heads, rows, dim]: [usize; 4]) -> Result<()> {
        if [batch, heads, rows, dim].contains(&0) {
            return Ok(());
        }
        let span = |extent: usize, stride: usize| (extent as u128 - 1).saturating_mul(stride as u128);
        let end = [span(batch, self.batch), span(heads, self.head), span(rows, self.row), dim as u128]
            .into_iter()
            .fold(0u128, u128::saturating_add);
        if end <= len as u128 {
            return Ok(());
        }
        Err(KernelError::shape(format!(
            "{name} of {batch} x {heads} x {rows} x {dim} with {self:?} does not fit its buffer of {len} elements"
        )))
    }
}

/// Values of a mask.
#[derive(Clone, Copy, Debug)]
pub enum MaskData<'a> {
    /// Added to the scaled scores.
    Additive(&'a [f32]),
    /// Non-zero where a query may attend.
    Bool(&'a [u8]),
}

/// A mask read at `batch, head, row, column` with a stride each; 0 broadcasts.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    pub data: MaskData<'a>,
    /// Strides of batch, query head, query row and key column.
    pub strides: [usize; 4],
    /// Columns that the mask covers; keys beyond are masked out.
    pub columns: usize,
}

impl Mask<'_> {
    /// What to add to the score; -inf where the key is hidden.
    #[inline]
    pub(crate) fn value(&self, batch: usize, head: usize, row: usize, column: usize) -> f32 {
        if column >= self.columns {
            return f32::NEG_INFINITY;
        }
        let [b, h, r, c] = self.strides;
        let at = batch * b + head * h + row * r + column * c;
        match self.data {
            MaskData::Additive(data) => data[at],
            MaskData::Bool(data) => {
                if data[at] != 0 {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            }
        }
    }
}

/// Everything about the scores beside the operands.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Factor of the dot products.
    pub scale: f32,
    /// Whether query row i sees only keys up to its own position.
    pub causal: bool,
    /// Key position of query row 0, per batch: one entry for all batches, or one each. `None` aligns the last row
    /// with the last valid key (bottom right).
    pub q_offsets: Option<&'a [isize]>,
    /// Valid keys per batch; `None` means all.
    pub kv_lengths: Option<&'a [usize]>,
    /// Keys further than this before (and after) a query's position are hidden. `None` is unbounded.
    pub window: (Option<usize>, Option<usize>),
    /// Scores become `cap * tanh(score / cap)` before the mask where this is positive.
    pub softcap: f32,
    pub mask: Option<Mask<'a>>,
    /// One logit per query head that joins the softmax but adds no value.
    pub sinks: Option<&'a [f32]>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            scale: 1.0,
            causal: false,
            q_offsets: None,
            kv_lengths: None,
            window: (None, None),
            softcap: 0.0,
            mask: None,
            sinks: None,
        }
    }
}

impl Options<'_> {
    /// Valid keys of a batch.
    pub(crate) fn kv_length(&self, shape: &AttentionShape, batch: usize) -> usize {
        self.kv_lengths.map_or(shape.kv_len, |lengths| lengths[batch].min(shape.kv_len))
    }

    /// Key position of query row 0.
    pub(crate) fn q_offset(&self, shape: &AttentionShape, batch: usize) -> isize {
        match self.q_offsets {
            Some(offsets) => offsets[if offsets.len() == 1 { 0 } else { batch }],
            None => self.kv_length(shape, batch) as isize - shape.q_len as isize,
        }
    }

    /// Keys `start..end` that a query at key position `position` may see, before any mask.
    pub(crate) fn key_range(&self, position: isize, kv_length: usize) -> (usize, usize) {
        let clamp = |v: isize| v.clamp(0, kv_length as isize) as usize;
        let start = self.window.0.map_or(0, |before| clamp(position.saturating_sub_unsigned(before)));
        let mut end = kv_length;
        if self.causal {
            end = end.min(clamp(position + 1));
        }
        if let Some(after) = self.window.1 {
            end = end.min(clamp(position.saturating_add_unsigned(after).saturating_add(1)));
        }
        (start.min(end), end)
    }
}

/// Lengths and strides of the four operands, in the order q, k, v, y.
pub(crate) fn check(
    shape: &AttentionShape,
    lens: [usize; 4],
    strides: [HeadStrides; 4],
    options: &Options<'_>,
) -> Result<()> {
    let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim } = *shape;
    if kv_heads == 0 || q_heads % kv_heads != 0 {
        return Err(KernelError::shape(format!(
            "{q_heads} query heads do not divide over {kv_heads} key heads"
        )));
    }
    strides[0].check("q", lens[0], [batch, q_heads, q_len, qk_dim])?;
    strides[1].check("k", lens[1], [batch, kv_heads, kv_len, qk_dim])?;
    strides[2].check("v", lens[2], [batch, kv_heads, kv_len, v_dim])?;
    strides[3].check("y", lens[3], [batch, q_heads, q_len, v_dim])?;
    check_output_rows(shape, strides[3])?;
    if let Some(lengths) = options.kv_lengths {
        expect_len("key lengths", lengths.len(), batch)?;
    }
    if let Some(offsets) = options.q_offsets
        && offsets.len() != 1
    {
        expect_len("query offsets", offsets.len(), batch)?;
    }
    if let Some(sinks) = options.sinks {
        expect_len("sinks", sinks.len(), q_heads)?;
    }
    match &options.mask {
        Some(mask) => check_mask(mask, [batch, q_heads, q_len, mask.columns.min(kv_len)]),
        None => Ok(()),
    }
}

/// Output rows are written by different tasks: no two may share an element.
fn check_output_rows(shape: &AttentionShape, strides: HeadStrides) -> Result<()> {
    let mut levels =
        [(shape.batch, strides.batch), (shape.q_heads, strides.head), (shape.q_len, strides.row)];
    levels.sort_by_key(|level| level.1);
    let mut span = shape.v_dim;
    for (extent, stride) in levels {
        if extent <= 1 {
            continue;
        }
        if stride < span {
            return Err(KernelError::shape(format!("rows of y overlap with {strides:?}")));
        }
        span = stride.saturating_mul(extent);
    }
    Ok(())
}

fn check_mask(mask: &Mask<'_>, extents: [usize; 4]) -> Result<()> {
    if extents.contains(&0) {
        return Ok(());
    }
    let spans = extents
        .iter()
        .zip(mask.strides)
        .map(|(&extent, stride)| (extent as u128 - 1).saturating_mul(stride as u128));
    let last = spans.fold(0u128, u128::saturating_add);
    let len = match mask.data {
        MaskData::Additive(data) => data.len(),
        MaskData::Bool(data) => data.len(),
    };
    if last < len as u128 {
        return Ok(());
    }
    Err(KernelError::shape(format!(
        "mask with strides {:?} over {extents:?} does not fit its buffer of {len} elements",
        mask.strides
    )))
}
