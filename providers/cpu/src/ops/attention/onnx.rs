//! Attention of ai.onnx.

use half::{bf16, f16};
use tenon_kernels::cpu::Float;
use tenon_kernels::cpu::attention::{self as kernel, AttentionShape, HeadStrides, attention};

use super::cache::{NewRows, join};
use super::plain::{self, Mask, MaskData, Scores, attend};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real};
use crate::tensor::{Bool, DType, Element, Tensor};

struct Attention {
    scale: Option<f32>,
    causal: bool,
    heads: Option<(usize, usize)>,
    softcap: f32,
    window: (Option<usize>, Option<usize>),
    scores: Scores,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    (0..3).try_for_each(|index| real::check(node.input_dtype(index)))?;
    if !matches!(node.input_dtype(3), DType::Undefined | DType::Bool) {
        real::check(node.input_dtype(3))?;
    }
    let heads = match (node.optional_int("q_num_heads")?, node.optional_int("kv_num_heads")?) {
        (Some(q), Some(kv)) if q > 0 && kv > 0 => Some((q as usize, kv as usize)),
        (None, None) => None,
        (q, kv) => {
            return Err(OpError::invalid(format!(
                "q_num_heads {q:?} and kv_num_heads {kv:?} must be positive"
            )));
        }
    };
    let bound = |name: &str| -> Result<Option<usize>> {
        match node.int(name, -1)? {
            -1 => Ok(None),
            size if size >= 0 => Ok(Some(size as usize)),
            size => Err(OpError::invalid(format!("attribute '{name}' is {size}, expected at least -1"))),
        }
    };
    let scores = match node.int("qk_matmul_output_mode", 0)? {
        0 => Scores::Raw,
        1 => Scores::Capped,
        2 => Scores::Masked,
        3 => Scores::Probabilities,
        mode => return Err(OpError::invalid(format!("qk_matmul_output_mode {mode} is none of 0, 1, 2, 3"))),
    };
    Ok(Box::new(Attention {
        scale: node.optional_float("scale")?,
        causal: node.flag("is_causal", false)?,
        heads,
        softcap: node.float("softcap", 0.0)?,
        window: (bound("left_window_size")?, bound("right_window_size")?),
        scores,
    }))
}

/// The operands of one call.
struct Call {
    shape: AttentionShape,
    /// Inputs are `[batch, rows, hidden]`.
    packed: bool,
    past_len: usize,
    new_len: usize,
    /// Valid keys and the key position of query row 0, one a batch.
    kv_lengths: Vec<usize>,
    q_offsets: Vec<isize>,
}

impl Call {
    fn q_strides(&self) -> HeadStrides {
        self.strides(self.shape.q_heads, self.shape.q_len, self.shape.qk_dim)
    }

    fn y_strides(&self) -> HeadStrides {
        self.strides(self.shape.q_heads, self.shape.q_len, self.shape.v_dim)
    }

    /// Strides of the new keys (values) of `width` elements.
    fn new_strides(&self, width: usize) -> HeadStrides {
        self.strides(self.shape.kv_heads, self.new_len, width)
    }

    fn strides(&self, heads: usize, rows: usize, width: usize) -> HeadStrides {
        if self.packed {
            HeadStrides::rows_first(heads, rows, width)
        } else {
            HeadStrides::heads_first(heads, rows, width)
        }
    }

    fn y_dims(&self) -> Vec<usize> {
        let AttentionShape { batch, q_heads, q_len, v_dim, .. } = self.shape;
        if self.packed { vec![batch, q_len, q_heads * v_dim] } else { vec![batch, q_heads, q_len, v_dim] }
    }
}

impl Kernel for Attention {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let call = self.call(cx)?;
        let [q, k, v] = [cx.input(0)?.dtype(), cx.input(1)?.dtype(), cx.input(2)?.dtype()];
        if cx.wants(3) || q == DType::F64 || k != q || v != q {
            return match q {
                DType::F64 => self.run_plain::<f64>(cx, &call),
                other => real::check(other).and_then(|()| self.run_plain::<f32>(cx, &call)),
            };
        }
        match q {
            DType::F32 => self.run_kernel::<f32>(cx, &call),
            DType::F16 => self.run_kernel::<f16>(cx, &call),
            DType::BF16 => self.run_kernel::<bf16>(cx, &call),
            other => Err(OpError::unsupported(format!("Attention has no kernel for {other}"))),
        }
    }
}

impl Attention {
    /// Reads the shapes.
    fn call(&self, cx: &Context<'_>) -> Result<Call> {
        let (q, k, v) = (cx.input(0)?.dims(), cx.input(1)?.dims(), cx.input(2)?.dims());
        let fail = |what: &str| Err(OpError::invalid(format!("{what}: query {q:?}, key {k:?}, value {v:?}")));
        let past = cx.optional(4).zip(cx.optional(5));
        let past_len = past.map_or(0, |(key, _)| key.dims().get(2).copied().unwrap_or(0));
        let (packed, shape, new_len) = match (q, k, v) {
            (&[batch, q_heads, q_len, qk_dim], &[kb, kv_heads, kv_len, kd], &[vb, vh, vl, v_dim]) => {
                if [kb, vb] != [batch; 2] || kd != qk_dim || vh != kv_heads || vl != kv_len {
                    return fail("Q, K and V do not fit each other");
                }
                (false, AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim }, kv_len)
            }
            (&[batch, q_len, q_hidden], &[kb, kv_len, k_hidden], &[vb, vl, v_hidden]) => {
                let Some((q_heads, kv_heads)) = self.heads else {
                    return fail("three-dimensional inputs need q_num_heads and kv_num_heads");
                };
                let qk_dim = q_hidden / q_heads;
                if [kb, vb] != [batch; 2]
                    || vl != kv_len
                    || q_hidden % q_heads != 0
                    || k_hidden != qk_dim * kv_heads
                    || v_hidden % kv_heads != 0
                {
                    return fail("Q, K and V do not fit each other");
                }
                let v_dim = v_hidden / kv_heads;
                (true, AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim }, kv_len)
            }
            _ => return fail("expected three or four axes each"),
        };
        if shape.kv_heads == 0 || shape.q_heads % shape.kv_heads != 0 {
            return fail("query heads do not divide over key heads");
        }
        if let Some((key, value)) = past {
            let expect = |width| [shape.batch, shape.kv_heads, past_len, width];
            if key.dims() != expect(shape.qk_dim) || value.dims() != expect(shape.v_dim) {
                return fail("past_key or past_value does not fit");
            }
        }
        let shape = AttentionShape { kv_len: past_len + new_len, ..shape };
        let (mut kv_lengths, mut q_offsets) =
            (vec![shape.kv_len; shape.batch], vec![past_len as isize; shape.batch]);
        if let Some(lengths) = cx.optional(6) {
            let lengths = lengths.to_i64s()?;
            if lengths.len() != shape.batch
                || lengths.iter().any(|&len| len < 0 || len as usize > shape.kv_len)
            {
                return fail("nonpad_kv_seqlen does not fit");
            }
            kv_lengths = lengths.iter().map(|&len| len as usize).collect();
            if past.is_none() {
                q_offsets = lengths.iter().map(|&len| len as isize - shape.q_len as isize).collect();
            }
        }
        Ok(Call { shape, packed, past_len, new_len, kv_lengths, q_offsets })
    }

    fn scale(&self, call: &Call) -> f32 {
        self.scale.unwrap_or(1.0 / (call.shape.qk_dim as f32).sqrt())
    }

    /// Input 3 as a mask: bytes as they are, floats in `T`.
    fn mask<T: Real>(&self, cx: &Context<'_>, call: &Call) -> Result<Option<(Tensor, [usize; 4], usize)>> {
        let Some(mask) = cx.optional(3) else { return Ok(None) };
        let AttentionShape { batch, q_heads, q_len, kv_len, .. } = call.shape;
        let (strides, columns) = Mask::<T>::fit(mask.dims(), [batch, q_heads, q_len, kv_len])?;
        let mask = if mask.dtype() == DType::Bool { mask.clone() } else { real::load::<T>(cx, mask)? };
        Ok(Some((mask, strides, columns)))
    }

    /// Hands out the present key (value) where it is wanted or needed, and returns it.
    fn present<T: Element>(
        &self,
        cx: &mut Context<'_>,
        call: &Call,
        [past, new, output]: [usize; 3],
        width: usize,
    ) -> Result<Option<Tensor>> {
        let has_past = cx.optional(past).is_some();
        if !has_past && !cx.wants(output) {
            return Ok(None);
        }
        let AttentionShape { batch, kv_heads, kv_len, .. } = call.shape;
        let dims = [batch, kv_heads, kv_len, width];
        let mut present =
            if cx.wants(output) { cx.output(output, T::DTYPE, &dims)? } else { cx.scratch(T::DTYPE, &dims)? };
        let past = cx.optional(past).map(|past| past.as_slice::<T>()).transpose()?;
        let rows = NewRows {
            data: cx.input(new)?.as_slice::<T>()?,
            strides: call.new_strides(width),
            count: call.new_len,
        };
        join(
            past.map(|past| (past, call.past_len)),
            rows,
            [batch, kv_heads, width],
            present.as_mut_slice::<T>()?,
        );
        if cx.wants(output) {
            cx.set(output, present.clone());
        }
        Ok(Some(present))
    }

    fn run_kernel<T: Element + Float>(&self, cx: &mut Context<'_>, call: &Call) -> Result<()> {
        let AttentionShape { kv_heads, kv_len, qk_dim, v_dim, .. } = call.shape;
        let present_key = self.present::<T>(cx, call, [4, 1, 1], qk_dim)?;
        let present_value = self.present::<T>(cx, call, [5, 2, 2], v_dim)?;
        let mask = self.mask::<f32>(cx, call)?;
        let bytes;
        let mask = match &mask {
            Some((mask, strides, columns)) => {
                let data = if mask.dtype() == DType::Bool {
                    bytes = mask.as_bytes();
                    kernel::MaskData::Bool(bytes)
                } else {
                    kernel::MaskData::Additive(mask.as_slice::<f32>()?)
                };
                Some(kernel::Mask { data, strides: *strides, columns: *columns })
            }
            None => None,
        };
        let options = kernel::Options {
            scale: self.scale(call),
            causal: self.causal,
            q_offsets: Some(&call.q_offsets),
            kv_lengths: Some(&call.kv_lengths),
            window: self.window,
            softcap: self.softcap,
            mask,
            sinks: None,
        };
        let mut y = cx.output(0, T::DTYPE, &call.y_dims())?;
        let operand =
            |present: &Option<Tensor>, index: usize, width: usize| -> Result<(Tensor, HeadStrides)> {
                Ok(match present {
                    Some(present) => (present.clone(), HeadStrides::heads_first(kv_heads, kv_len, width)),
                    None => (cx.input(index)?.clone(), call.new_strides(width)),
                })
            };
        let (k, k_strides) = operand(&present_key, 1, qk_dim)?;
        let (v, v_strides) = operand(&present_value, 2, v_dim)?;
        let cpu = cx.cpu();
        let q = (cx.input(0)?.as_slice::<T>()?, call.q_strides());
        let (k, v) = ((k.as_slice::<T>()?, k_strides), (v.as_slice::<T>()?, v_strides));
        attention(cpu, &call.shape, q, k, v, &options, (y.as_mut_slice::<T>()?, call.y_strides()))?;
        cx.set(0, y);
        Ok(())
    }

    fn run_plain<T: Real>(&self, cx: &mut Context<'_>, call: &Call) -> Result<()> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim } = call.shape;
        let dtypes = [cx.input(0)?.dtype(), cx.input(1)?.dtype(), cx.input(2)?.dtype()];
        let q = real::load_input::<T>(cx, 0)?;
        let mut joined = Vec::with_capacity(2);
        for (input, past, width) in [(1, 4, qk_dim), (2, 5, v_dim)] {
            let new = real::load_input::<T>(cx, input)?;
            let past = real::load_optional::<T>(cx, past)?;
            let mut present = Output::new::<T>(cx, input, dtypes[input], &[batch, kv_heads, kv_len, width])?;
            let past = past.as_ref().map(|past| past.as_slice::<T>()).transpose()?;
            let rows =
                NewRows { data: new.as_slice::<T>()?, strides: call.new_strides(width), count: call.new_len };
            join(
                past.map(|past| (past, call.past_len)),
                rows,
                [batch, kv_heads, width],
                present.slice::<T>()?,
            );
            joined.push(present);
        }
        let [key, value] = &mut joined[..] else { return Err(OpError::invalid("key and value are missing")) };
        let mask = self.mask::<T>(cx, call)?;
        let mask = match &mask {
            Some((mask, strides, columns)) => {
                let data = match mask.dtype() {
                    DType::Bool => MaskData::Bool(mask.as_bytes()),
                    _ => MaskData::Additive(mask.as_slice::<T>()?),
                };
                Some(Mask { data, strides: *strides, columns: *columns })
            }
            None => None,
        };
        let options = plain::Options {
            scale: T::from_f32(self.scale(call)),
            causal: self.causal,
            q_offsets: &call.q_offsets,
            kv_lengths: &call.kv_lengths,
            window: self.window,
            softcap: T::from_f32(self.softcap),
            mask,
            sinks: None,
            scores: self.scores,
        };
        let mut y = Output::new::<T>(cx, 0, dtypes[0], &call.y_dims())?;
        let mut scores = if cx.wants(3) {
            Some(Output::new::<T>(cx, 3, dtypes[0], &[batch, q_heads, q_len, kv_len])?)
        } else {
            None
        };
        let strides = |width| HeadStrides::heads_first(kv_heads, kv_len, width);
        let operands = [
            (q.as_slice::<T>()?, call.q_strides()),
            (&*key.slice::<T>()?, strides(qk_dim)),
            (&*value.slice::<T>()?, strides(v_dim)),
        ];
        let score_slice = scores.as_mut().map(Output::slice::<T>).transpose()?;
        attend(
            cx.parallel(),
            &call.shape,
            operands,
            &options,
            (y.slice::<T>()?, call.y_strides()),
            score_slice,
        );
        y.finish(cx)?;
        if let Some(scores) = scores {
            scores.finish(cx)?;
        }
        for (index, present) in joined.into_iter().enumerate() {
            if cx.wants(index + 1) {
                present.finish(cx)?;
            }
        }
        Ok(())
    }
}

/// Boolean masks are read as bytes.
const _: () = assert!(size_of::<Bool>() == 1);
