//! SparseAttention: grouped heads over a cache, each head attending to the blocks of its own sparse layout.

use half::f16;
use tenon_kernels::cpu::Float;
use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides, Mask, MaskData, Options, attention};

use super::cache::take_over;
use super::rotary::rotate;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real;
use crate::tensor::{DType, Element, Tensor};

struct Sparse {
    heads: usize,
    kv_heads: usize,
    block: usize,
    scale: Option<f32>,
    rotary: bool,
    interleaved: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    let positive = |name: &str| match node.required_int(name)? {
        value if value > 0 => Ok(value as usize),
        value => Err(OpError::invalid(format!("attribute '{name}' is {value}, expected at least 1"))),
    };
    let (heads, kv_heads) = (positive("num_heads")?, positive("kv_num_heads")?);
    if heads % kv_heads != 0 {
        return Err(OpError::invalid(format!("{heads} query heads do not divide over {kv_heads} key heads")));
    }
    Ok(Box::new(Sparse {
        heads,
        kv_heads,
        block: positive("sparse_block_size")?,
        scale: node.optional_float("scale")?.filter(|&scale| scale != 0.0),
        rotary: node.flag("do_rotary", false)?,
        interleaved: node.flag("rotary_interleaved", false)?,
    }))
}

impl Kernel for Sparse {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F32 => self.run_typed::<f32>(cx),
            DType::F16 => self.run_typed::<f16>(cx),
            other => Err(OpError::unsupported(format!("SparseAttention has no kernel for {other}"))),
        }
    }
}

impl Sparse {
    fn run_typed<T: Element + Float>(&self, cx: &mut Context<'_>) -> Result<()> {
        let query = cx.input(0)?.clone();
        let packed = cx.optional(1).is_none();
        let parts = if packed { self.heads + 2 * self.kv_heads } else { self.heads };
        let &[batch, rows, hidden] = query.dims() else {
            return Err(OpError::invalid(format!("the query has three axes, got shape {:?}", query.dims())));
        };
        let width = hidden / parts;
        let &[cb, ch, room, cw] = cx.input(3)?.dims() else {
            return Err(OpError::invalid(format!("past_key has shape {:?}", cx.input(3)?.dims())));
        };
        let fits = |index: usize| {
            cx.optional(index).is_none_or(|input| input.dims() == [batch, rows, self.kv_heads * width])
        };
        if hidden % parts != 0 || [cb, ch, cw] != [batch, self.kv_heads, width] || !fits(1) || !fits(2) {
            return Err(OpError::invalid(format!(
                "the cache or key and value do not fit a query {:?}",
                query.dims()
            )));
        }
        let lengths = cx.input(8)?.to_i64s()?;
        let total = cx.input(7)?.to_i64s()?.first().copied().unwrap_or(0).max(0) as usize;
        if lengths.len() != batch || total > room || total < rows {
            return Err(OpError::invalid(format!(
                "{total} positions of {rows} new rows do not fit a cache of {room}"
            )));
        }
        let lengths: Vec<usize> = lengths.iter().map(|&length| (length.max(0) as usize).min(room)).collect();
        // A prompt may be padded at its end; later calls add to what each entry holds.
        let past: Vec<usize> = lengths
            .iter()
            .map(|&length| if total == rows { 0 } else { length.saturating_sub(rows) })
            .collect();
        let angles = if self.rotary {
            Some((real::load_input::<f32>(cx, 9)?, real::load_input::<f32>(cx, 10)?))
        } else {
            None
        };
        if let Some((cos, sin)) = &angles {
            let last = past.iter().max().map_or(0, |past| past + rows);
            if cos.rank() != 2
                || cos.dims() != sin.dims()
                || 2 * cos.dims()[1] > width
                || cos.dims()[0] < last
            {
                return Err(OpError::invalid(format!(
                    "cos {:?} and sin {:?} do not fit",
                    cos.dims(),
                    sin.dims()
                )));
            }
        }
        let turned = |b: usize, row: usize, from: &[T]| -> Result<Vec<f32>> {
            let mut head: Vec<f32> = from.iter().map(|value| value.to_f32()).collect();
            if let Some((cos, sin)) = &angles {
                let half = cos.dims()[1];
                let at = (past[b] + row) * half;
                let (cos, sin) =
                    (&cos.as_slice::<f32>()?[at..][..half], &sin.as_slice::<f32>()?[at..][..half]);
                rotate(&mut head, cos, sin, self.interleaved);
            }
            Ok(head)
        };
        let mut caches = Vec::with_capacity(2);
        for part in [1, 2] {
            let mut cache = take_over(cx, 2 + part, part)?;
            let (source, first, heads) = if packed {
                (query.clone(), self.heads + (part - 1) * self.kv_heads, parts)
            } else {
                (cx.input(part)?.clone(), 0, self.kv_heads)
            };
            let source = source.as_slice::<T>()?;
            let out = cache.as_mut_slice::<T>()?;
            for index in 0..batch * rows * self.kv_heads {
                let (b, row, h) =
                    (index / (rows * self.kv_heads), index / self.kv_heads % rows, index % self.kv_heads);
                let from = &source[((b * rows + row) * heads + first + h) * width..][..width];
                let to = &mut out[((b * self.kv_heads + h) * room + past[b] + row) * width..][..width];
                if part == 1 {
                    to.iter_mut().zip(turned(b, row, from)?).for_each(|(to, value)| *to = T::from_f32(value));
                } else {
                    to.copy_from_slice(from);
                }
            }
            caches.push(cache);
        }
        let mut queries = cx.scratch(T::DTYPE, &[batch, rows, self.heads, width])?;
        let source = query.as_slice::<T>()?;
        for (index, out) in queries.as_mut_slice::<T>()?.chunks_exact_mut(width.max(1)).enumerate() {
            let (token, h) = (index / self.heads, index % self.heads);
            let head = turned(token / rows, token % rows, &source[(token * parts + h) * width..][..width])?;
            out.iter_mut().zip(head).for_each(|(out, value)| *out = T::from_f32(value));
        }
        let mask = self.mask(cx.input(5)?, cx.input(6)?, [batch, rows, total], &past)?;
        let offsets: Vec<isize> = past.iter().map(|&past| past as isize).collect();
        let kv_lengths: Vec<usize> = past.iter().map(|&past| (past + rows).min(total)).collect();
        let options = Options {
            scale: self.scale.unwrap_or(1.0 / (width as f32).sqrt()),
            causal: true,
            q_offsets: Some(&offsets),
            kv_lengths: Some(&kv_lengths),
            mask: Some(Mask {
                data: MaskData::Bool(&mask),
                strides: [self.heads * rows * total, rows * total, total, 1],
                columns: total,
            }),
            ..Options::default()
        };
        let shape = AttentionShape {
            batch,
            q_heads: self.heads,
            kv_heads: self.kv_heads,
            q_len: rows,
            kv_len: total,
            qk_dim: width,
            v_dim: width,
        };
        let mut y = cx.output(0, T::DTYPE, &[batch, rows, self.heads * width])?;
        let strides = HeadStrides::rows_first(self.heads, rows, width);
        let cached = HeadStrides::heads_first(self.kv_heads, room, width);
        let (k, v) = (caches[0].as_slice::<T>()?, caches[1].as_slice::<T>()?);
        let cpu = cx.cpu();
        let (q, y_out) = ((queries.as_slice::<T>()?, strides), (y.as_mut_slice::<T>()?, strides));
        attention(cpu, &shape, q, (k, cached), (v, cached), &options, y_out)?;
        cx.set(0, y);
        for (index, cache) in caches.into_iter().enumerate() {
            cx.set(index + 1, cache);
        }
        Ok(())
    }

    /// The layouts (rows of `[layouts, blocks + 1]` and columns of non-zero blocks) as a mask
    /// `[batch, heads, rows, keys]`.
    fn mask(
        &self,
        row_indices: &Tensor,
        column_indices: &Tensor,
        [batch, rows, keys]: [usize; 3],
        past: &[usize],
    ) -> Result<Vec<u8>> {
        let (row_starts, columns) = (row_indices.to_i64s()?, column_indices.to_i64s()?);
        let (&[layouts, starts], &[column_layouts, per_layout]) = (row_indices.dims(), column_indices.dims())
        else {
            return Err(OpError::invalid("the block indices have two axes each"));
        };
        let blocks = starts.saturating_sub(1);
        if layouts == 0 || layouts != column_layouts || keys > blocks * self.block {
            return Err(OpError::invalid(format!(
                "{layouts} layouts of {blocks} blocks do not cover {keys} keys"
            )));
        }
        let mut mask = vec![0u8; batch * self.heads * rows * keys];
        for (index, line) in mask.chunks_exact_mut(keys.max(1)).enumerate() {
            let (b, h, row) = (index / (self.heads * rows), index / rows % self.heads, index % rows);
            let (layout, position) = (h % layouts, past[b] + row);
            let block = (position / self.block).min(blocks - 1);
            let bounds = [row_starts[layout * starts + block], row_starts[layout * starts + block + 1]];
            for at in bounds[0].max(0)..bounds[1].min(per_layout as i64) {
                let column = columns[layout * per_layout + at as usize];
                if let Ok(column) = usize::try_from(column) {
                    let first = (column * self.block).min(keys);
                    line[first..(first + self.block).min(keys)].fill(1);
                }
            }
        }
        Ok(mask)
    }
}
