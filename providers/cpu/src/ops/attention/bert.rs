//! Attention of com.microsoft (BERT, GPT-2): input projection, attention, and a joined key and value cache.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides};
use tenon_kernels::cpu::gemm::PackedB;

use super::cache::{NewRows, join};
use super::padding::{PaddingMask, Product, attend_masked};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::gemm::{Addend, After, Gemm, Matrix};
use crate::ops::quantized::{self, Bytes, PackedBytes, ZeroPoints, is_signed, multiply};
use crate::ops::real::{self, Output};
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Dims, Tensor};

/// The attributes of the attention after the projection.
struct Form {
    heads: usize,
    scale: Option<f32>,
    filter: f32,
    causal: bool,
    /// Hidden sizes of query, key and value; `None` is a third of the weights each.
    sizes: Option<[usize; 3]>,
}

struct Attention {
    form: Form,
    packed: Prepacked<(PackedB<f32>, Dims)>,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("Attention has no kernel for double")),
        other => real::check(other)?,
    }
    Ok(Box::new(Attention { form: Form::of(node)?, packed: Prepacked::default() }))
}

fn pack(cpu: &Cpu<'_>, weights: &Tensor) -> Result<PackedB<f32>> {
    let &[rows, columns] = weights.dims() else {
        return Err(OpError::invalid(format!("the weights have two axes, got shape {:?}", weights.dims())));
    };
    f32::pack(cpu, Matrix::new(&real::to_vec::<f32>(weights)?, rows, columns))
}

impl Kernel for Attention {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let Some(weights) = constants.input(1) else { return Ok(Released::NONE) };
        let cpu = constants.cpu();
        self.packed.keep((pack(&cpu, weights)?, weights.dims().into()));
        Ok(Released::NONE.with(1))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<f32>(cx, 0)?;
        let &[batch, rows, hidden] = x.dims() else {
            return Err(OpError::invalid(format!("the input has three axes, got shape {:?}", x.dims())));
        };
        let weights = self.packed.get_or_pack(|| {
            let weights = cx.input(1)?;
            Ok((pack(&cpu, weights)?, weights.dims().into()))
        })?;
        let (packed, dims) = &*weights;
        let columns = dims[1];
        self.form.check(dims, hidden)?;
        let mut projected = cx.scratch(DType::F32, &[batch * rows, columns])?;
        let bias = real::load_optional::<f32>(cx, 2)?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>()).transpose()?;
        let addend = bias.map(|data| Addend { data, row_stride: 0, column_stride: 1, scale: 1.0 });
        let after = After { addends: [addend, None], ..After::default() };
        let left = Matrix::new(x.as_slice::<f32>()?, batch * rows, hidden);
        f32::multiply_packed(&cpu, left, packed, projected.as_mut_slice()?, columns, &after)?;
        let inputs = Rest { mask: 3, past: 4, bias: Some(5) };
        self.form.attend(cx, dtype, projected.as_slice()?, [batch, rows, columns], inputs)
    }
}

/// Input positions of what comes after the projection.
struct Rest {
    mask: usize,
    past: usize,
    bias: Option<usize>,
}

impl Form {
    fn of(node: &Node) -> Result<Form> {
        for name in ["do_rotary", "past_present_share_buffer"] {
            if node.flag(name, false)? {
                return Err(OpError::unsupported(format!("there is no kernel for {name} = 1")));
            }
        }
        let sizes = match node.ints("qkv_hidden_sizes")? {
            None | Some([]) => None,
            Some(&[q, k, v]) if q > 0 && k > 0 && v > 0 => Some([q as usize, k as usize, v as usize]),
            Some(other) => return Err(OpError::invalid(format!("qkv_hidden_sizes is {other:?}"))),
        };
        let heads = node.required_int("num_heads")?;
        if heads < 1 {
            return Err(OpError::invalid(format!("num_heads is {heads}, expected at least 1")));
        }
        Ok(Form {
            heads: heads as usize,
            scale: node.optional_float("scale")?.filter(|&scale| scale != 0.0),
            filter: node.float("mask_filter_value", -10000.0)?,
            causal: node.flag("unidirectional", false)?,
            sizes,
        })
    }

    /// Hidden sizes of query, key and value for weights of `columns` columns.
    fn sizes(&self, columns: usize) -> [usize; 3] {
        self.sizes.unwrap_or([columns / 3; 3])
    }

    /// Errors unless weights of shape `dims` project rows of `hidden` elements to the heads.
    fn check(&self, dims: &[usize], hidden: usize) -> Result<()> {
        if let &[rows, columns] = dims {
            let [q, k, v] = self.sizes(columns);
            if rows == hidden && q + k + v == columns && q == k && q % self.heads == 0 && v % self.heads == 0
            {
                return Ok(());
            }
        }
        Err(OpError::invalid(format!(
            "weights of shape {dims:?} do not project {hidden} elements to {} heads of query, key and value",
            self.heads
        )))
    }

    /// Attention over projected rows `[batch, rows, query | key | value]`.
    fn attend(
        &self,
        cx: &mut Context<'_>,
        dtype: DType,
        projected: &[f32],
        [batch, rows, columns]: [usize; 3],
        inputs: Rest,
    ) -> Result<()> {
        let [q_size, k_size, v_size] = self.sizes(columns);
        let heads = self.heads;
        let (width, v_width) = (q_size / heads, v_size / heads);
        let strides = |width| HeadStrides { batch: rows * columns, head: width, row: columns };
        let past = real::load_optional::<f32>(cx, inputs.past)?;
        let past_len = past.as_ref().map_or(0, |past| past.dims().get(3).copied().unwrap_or(0));
        if let Some(past) = &past
            && (past.dims() != [2, batch, heads, past_len, width] || v_width != width)
        {
            return Err(OpError::invalid(format!("past has shape {:?}", past.dims())));
        }
        let total = past_len + rows;
        let (k_len, v_len) = (batch * heads * total * width, batch * heads * total * v_width);
        let present_dims =
            if width == v_width { vec![2, batch, heads, total, width] } else { vec![k_len + v_len] };
        let mut present = Output::new::<f32>(cx, 1, dtype, &present_dims)?;
        let (key, value) = present.slice::<f32>()?.split_at_mut(k_len);
        let past = past.as_ref().map(|past| past.as_slice::<f32>()).transpose()?;
        let half = batch * heads * past_len * width;
        let new = |start: usize, width: usize| NewRows {
            data: projected.get(start..).unwrap_or(&[]),
            strides: strides(width),
            count: rows,
        };
        join(past.map(|past| (&past[..half], past_len)), new(q_size, width), [batch, heads, width], key);
        join(
            past.map(|past| (&past[half..], past_len)),
            new(q_size + k_size, v_width),
            [batch, heads, v_width],
            value,
        );

        let padding = cx
            .optional(inputs.mask)
            .map(|mask| PaddingMask::read(mask, [batch, rows, total, past_len]))
            .transpose()?;
        let bias = inputs.bias.map(|index| real::load_optional::<f32>(cx, index)).transpose()?.flatten();
        let product = Product {
            shape: AttentionShape {
                batch,
                q_heads: heads,
                kv_heads: heads,
                q_len: rows,
                kv_len: total,
                qk_dim: width,
                v_dim: v_width,
            },
            scale: self.scale.unwrap_or(1.0 / (width as f32).sqrt()),
            causal: self.causal,
            past_len,
            padding,
            filter: self.filter,
            bias: bias.as_ref(),
        };
        let cached = |width| HeadStrides::heads_first(heads, total, width);
        let operands = [(projected, strides(width)), (&*key, cached(width)), (&*value, cached(v_width))];
        let mut y = Output::new::<f32>(cx, 0, dtype, &[batch, rows, v_size])?;
        attend_masked(cx, &product, operands, &mut y, None)?;
        y.finish(cx)?;
        if cx.wants(1) { present.finish(cx) } else { Ok(()) }
    }
}

// ---- QAttention ----

/// Attention whose projection multiplies 8-bit inputs with 8-bit weights.
struct QuantizedAttention {
    form: Form,
    packed: Prepacked<(PackedBytes, Dims)>,
}

pub fn build_quantized(node: &Node) -> Result<Box<dyn Kernel>> {
    quantized::check(node.input_dtype(0))?;
    quantized::check(node.input_dtype(1))?;
    Ok(Box::new(QuantizedAttention { form: Form::of(node)?, packed: Prepacked::default() }))
}

fn pack_bytes(cpu: &Cpu<'_>, weights: &Tensor) -> Result<PackedBytes> {
    let &[rows, columns] = weights.dims() else {
        return Err(OpError::invalid(format!("the weights have two axes, got shape {:?}", weights.dims())));
    };
    PackedBytes::new(cpu, weights.as_bytes(), is_signed(weights.dtype())?, rows, columns, false)
}

impl Kernel for QuantizedAttention {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let Some(weights) = constants.input(1) else { return Ok(Released::NONE) };
        let cpu = constants.cpu();
        self.packed.keep((pack_bytes(&cpu, weights)?, weights.dims().into()));
        Ok(Released::NONE.with(1))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let x = cx.input(0)?.clone();
        let &[batch, rows, hidden] = x.dims() else {
            return Err(OpError::invalid(format!("the input has three axes, got shape {:?}", x.dims())));
        };
        let weights = self.packed.get_or_pack(|| {
            let weights = cx.input(1)?;
            Ok((pack_bytes(&cpu, weights)?, weights.dims().into()))
        })?;
        let (packed, dims) = &*weights;
        self.form.check(dims, hidden)?;
        let columns = dims[1];
        let (x_zero, w_zero) = (ZeroPoints::read(cx.optional(6))?, ZeroPoints::read(cx.optional(7))?);
        let mut sums = cx.scratch(DType::I32, &[batch * rows, columns])?;
        let bytes = Bytes { data: x.as_bytes(), signed: is_signed(x.dtype())?, m: batch * rows };
        if batch * rows > 0 {
            multiply(&cpu, bytes, &x_zero, packed, &w_zero, (0, 0), sums.as_mut_slice()?)?;
        }
        let x_scale = real::load_input::<f32>(cx, 3)?.to_scalar::<f32>()?;
        let (w_scale, bias) = (real::load_input::<f32>(cx, 4)?, real::load_input::<f32>(cx, 2)?);
        let (w_scale, bias) = (w_scale.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        if w_scale.len() != 1 && w_scale.len() != columns || bias.len() != columns {
            return Err(OpError::invalid(format!("weight scale or bias do not have {columns} values")));
        }
        let mut projected = cx.scratch(DType::F32, &[batch * rows, columns])?;
        let out = projected.as_mut_slice::<f32>()?.iter_mut().zip(sums.as_slice::<i32>()?).enumerate();
        for (index, (out, &sum)) in out {
            let column = index % columns;
            *out =
                sum as f32 * (x_scale * w_scale[if w_scale.len() == 1 { 0 } else { column }]) + bias[column];
        }
        let inputs = Rest { mask: 5, past: 8, bias: None };
        self.form.attend(cx, DType::F32, projected.as_slice()?, [batch, rows, columns], inputs)
    }
}
