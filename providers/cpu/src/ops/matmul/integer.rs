//! Quantised matrix products: MatMulInteger, QLinearMatMul, DynamicQuantizeMatMul, MatMulIntegerToFloat, QGemm.

use super::geometry::{Order, Product};
use tenon_kernels::cpu::Context as Cpu;

use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::gemm::{Matrix, multiply_plain};
use crate::ops::quantized::{
    Bytes, PackedBytes, ZeroPoints, check, dynamic_range, is_signed, multiply, quantize_into, saturate,
};
use crate::ops::real::{self, Output};
use crate::ops::rows::for_rows;
use crate::ops::spread::Spread;
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Dims, Tensor};

/// A packed right-hand matrix and its shape as stored.
struct Weights {
    packed: PackedBytes,
    dims: [usize; 2],
}

impl Weights {
    /// Packs `b`, a matrix of bytes of shape `dims`, stored transposed when `transposed`.
    fn pack(cpu: &Cpu<'_>, b: &Tensor, dims: [usize; 2], transposed: bool) -> Result<Weights> {
        let (k, n) = if transposed { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
        let packed = PackedBytes::new(cpu, b.as_bytes(), is_signed(b.dtype())?, k, n, transposed)?;
        Ok(Weights { packed, dims })
    }
}

/// Packs constant input `index` (a matrix of bytes, stored transposed when `transposed`) for [`product`].
fn pack(
    constants: &Constants<'_>,
    index: usize,
    transposed: bool,
    slot: &Prepacked<Weights>,
) -> Result<Released> {
    let Some(b) = constants.input(index).filter(|b| b.rank() == 2 && check(b.dtype()).is_ok()) else {
        return Ok(Released::NONE);
    };
    slot.keep(Weights::pack(&constants.cpu(), b, [b.dims()[0], b.dims()[1]], transposed)?);
    Ok(Released::NONE.with(index))
}

/// The operands of an integer product.
struct Operands<'a> {
    a: &'a Tensor,
    b: Option<&'a Tensor>,
    a_zero: ZeroPoints,
    b_zero: ZeroPoints,
}

/// `(a - a_zero) · (b - b_zero)` by numpy's rules; hands over the shape and the i32 sums.
fn product(
    cx: &Context<'_>,
    operands: &Operands<'_>,
    weights: Option<&Weights>,
) -> Result<(Product, Tensor)> {
    let Operands { a, b, a_zero, b_zero } = operands;
    let b_dims = match (b, weights) {
        (_, Some(weights)) => &weights.dims[..],
        (Some(b), None) => b.dims(),
        (None, None) => return Err(OpError::invalid("the right-hand matrix is missing")),
    };
    let geometry = Product::new(a.dims(), b_dims, Order::default(), Order::default())?;
    let mut sums = cx.scratch(DType::I32, &geometry.dims)?;
    let out = sums.as_mut_slice::<i32>()?;
    let cpu = cx.cpu();
    let signed = is_signed(a.dtype())?;
    let (m, n, k) = (geometry.m, geometry.n, geometry.k);
    for index in 0..if m * n == 0 { 0 } else { geometry.batches() } {
        let (a_start, b_start) = geometry.offsets(index);
        let bytes = Bytes { data: &a.as_bytes()[a_start..], signed, m };
        let batch = (a_start / (m * k).max(1), b_start / (n * k).max(1));
        let c = &mut out[index * m * n..][..m * n];
        match (weights, b) {
            (Some(weights), _) => multiply(&cpu, bytes, a_zero, &weights.packed, b_zero, batch, c)?,
            (None, Some(b)) => {
                let packed =
                    PackedBytes::new(&cpu, &b.as_bytes()[b_start..], is_signed(b.dtype())?, k, n, false)?;
                multiply(&cpu, bytes, a_zero, &packed, b_zero, batch, c)?;
            }
            (None, None) => {}
        }
    }
    Ok((geometry, sums))
}

/// A scale tensor that is one value, one a row, or one a column, seen over the whole result.
fn scale_dims(tensor: &Tensor, dims: &[usize], per_row: bool) -> Dims {
    if tensor.rank() == 1 && per_row && tensor.len() > 1 && dims.len() > 1 {
        return Dims::from_slice(&[tensor.len(), 1]);
    }
    tensor.dims().into()
}

// ---- MatMulInteger ----

struct MatMulInteger {
    weights: Prepacked<Weights>,
}

pub fn build_integer(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(0))?;
    check(node.input_dtype(1))?;
    Ok(Box::new(MatMulInteger { weights: Prepacked::default() }))
}

impl Kernel for MatMulInteger {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        pack(constants, 1, false, &self.weights)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let operands = Operands {
            a: cx.input(0)?,
            b: cx.optional(1),
            a_zero: ZeroPoints::read(cx.optional(2))?,
            b_zero: ZeroPoints::read(cx.optional(3))?,
        };
        let (geometry, sums) = product(cx, &operands, self.weights.get())?;
        // The sums are copied where the output must be in the caller's memory.
        let mut y = cx.output(0, DType::I32, &geometry.dims)?;
        y.as_bytes_mut().copy_from_slice(sums.as_bytes());
        cx.set(0, y);
        Ok(())
    }
}

// ---- MatMulInteger16 ----

/// `y = a · b` over int16 with wrapping int32 sums.
struct MatMulInteger16;

pub fn build_integer16(node: &Node) -> Result<Box<dyn Kernel>> {
    match (node.input_dtype(0), node.input_dtype(1)) {
        (DType::I16 | DType::Undefined, DType::I16 | DType::Undefined) => Ok(Box::new(MatMulInteger16)),
        (a, b) => Err(OpError::unsupported(format!("MatMulInteger16 takes int16, got {a} and {b}"))),
    }
}

impl Kernel for MatMulInteger16 {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let geometry = Product::new(a.dims(), b.dims(), Order::default(), Order::default())?;
        let (m, n, k) = (geometry.m, geometry.n, geometry.k);
        let mut y = cx.output(0, DType::I32, &geometry.dims)?;
        let widen = |tensor: &Tensor| -> Result<Vec<i32>> {
            Ok(tensor.as_slice::<i16>()?.iter().map(|&value| i32::from(value)).collect())
        };
        let (a, b) = (widen(a)?, widen(b)?);
        for (index, c) in y.as_mut_slice::<i32>()?.chunks_exact_mut((m * n).max(1)).enumerate() {
            let (a_start, b_start) = geometry.offsets(index);
            let left = Matrix::new(a.get(a_start..).unwrap_or(&[]), m, k);
            let right = Matrix::new(b.get(b_start..).unwrap_or(&[]), k, n);
            multiply_plain(&cpu, left, right, c, n, false);
        }
        cx.set(0, y);
        Ok(())
    }
}

// ---- QLinearMatMul ----

struct QLinearMatMul {
    weights: Prepacked<Weights>,
}

pub fn build_qlinear(node: &Node) -> Result<Box<dyn Kernel>> {
    for index in [0, 3, 7] {
        check(node.input_dtype(index))?;
    }
    Ok(Box::new(QLinearMatMul { weights: Prepacked::default() }))
}

impl Kernel for QLinearMatMul {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        pack(constants, 3, false, &self.weights)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let operands = Operands {
            a: cx.input(0)?,
            b: cx.optional(3),
            a_zero: ZeroPoints::read(cx.optional(2))?,
            b_zero: ZeroPoints::read(cx.optional(5))?,
        };
        let (geometry, sums) = product(cx, &operands, self.weights.get())?;
        let dims: Dims =
            if geometry.dims.is_empty() { Dims::from_slice(&[1]) } else { geometry.dims.clone() };
        let zero = cx.input(7)?;
        let dtype = zero.dtype();
        let zero = ZeroPoints::read(Some(zero))?.of(0, 1)?[0];
        let signed = is_signed(dtype)?;
        let (a_scale, b_scale) = (real::load_input::<f32>(cx, 1)?, real::load_input::<f32>(cx, 4)?);
        let y_scale = real::load_input::<f32>(cx, 6)?.to_scalar::<f32>()?;
        let a_scales = Spread::new(a_scale.as_slice::<f32>()?, &scale_dims(&a_scale, &dims, true), &dims)?;
        let b_scales = Spread::new(b_scale.as_slice::<f32>()?, &scale_dims(&b_scale, &dims, false), &dims)?;
        let mut y = cx.output(0, dtype, &geometry.dims)?;
        let columns = dims[dims.len() - 1];
        let sums = sums.as_slice::<i32>()?;
        for_rows(cx.parallel(), y.as_bytes_mut(), columns, columns * 4, &|index, row| {
            let sums = &sums[index * columns..];
            for (j, out) in row.iter_mut().enumerate() {
                let scale = a_scales.at(index, j) * b_scales.at(index, j) / y_scale;
                *out = saturate(sums[j] as f32 * scale, zero, signed);
            }
        });
        cx.set(0, y);
        Ok(())
    }
}

// ---- DynamicQuantizeMatMul and MatMulIntegerToFloat ----

/// `y = a_scale * b_scale * (a · b) + bias`, where `a` is given in integers or quantised to uint8 here.
struct ToFloat {
    /// `a` is a float tensor.
    dynamic: bool,
    weights: Prepacked<Weights>,
}

pub fn build_dynamic(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(1))?;
    Ok(Box::new(ToFloat { dynamic: true, weights: Prepacked::default() }))
}

pub fn build_to_float(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(0))?;
    check(node.input_dtype(1))?;
    Ok(Box::new(ToFloat { dynamic: false, weights: Prepacked::default() }))
}

impl Kernel for ToFloat {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        pack(constants, 1, false, &self.weights)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (b_scale, b_zero, bias, dtype, a, a_zero, a_scale);
        if self.dynamic {
            let x = real::load_input::<f32>(cx, 0)?;
            dtype = cx.input(0)?.dtype();
            let (scale, zero) = dynamic_range(x.as_slice()?);
            let mut bytes = cx.scratch(DType::U8, x.dims())?;
            quantize_into(x.as_slice()?, scale, zero, bytes.as_mut_slice()?);
            let mut scales = cx.scratch(DType::F32, &[])?;
            scales.as_mut_slice::<f32>()?[0] = scale;
            let mut zeros = cx.scratch(DType::U8, &[])?;
            zeros.as_mut_slice::<u8>()?[0] = zero;
            (a, a_scale, a_zero) = (bytes, scales, Some(zeros));
            (b_scale, b_zero, bias) = (2, 3, 4);
        } else {
            dtype = cx.input(2)?.dtype();
            a = cx.input(0)?.clone();
            a_scale = real::load_input::<f32>(cx, 2)?;
            a_zero = cx.optional(4).cloned();
            (b_scale, b_zero, bias) = (3, 5, 6);
        }
        let operands = Operands {
            a: &a,
            b: cx.optional(1),
            a_zero: ZeroPoints::read(a_zero.as_ref())?,
            b_zero: ZeroPoints::read(cx.optional(b_zero))?,
        };
        let (geometry, sums) = product(cx, &operands, self.weights.get())?;
        let mut y = Output::new::<f32>(cx, 0, dtype, &geometry.dims)?;
        let dims: Dims = if geometry.dims.is_empty() { Dims::from_slice(&[1]) } else { geometry.dims };
        let b_scale = real::load_input::<f32>(cx, b_scale)?;
        let bias = real::load_optional::<f32>(cx, bias)?;
        let a_scales = Spread::new(a_scale.as_slice::<f32>()?, a_scale.dims(), &dims)?;
        let b_scales = Spread::new(b_scale.as_slice::<f32>()?, b_scale.dims(), &dims)?;
        let bias = bias.as_ref().map(|t| Spread::new(t.as_slice::<f32>()?, t.dims(), &dims)).transpose()?;
        let columns = dims[dims.len() - 1];
        let sums = sums.as_slice::<i32>()?;
        for_rows(cx.parallel(), y.slice::<f32>()?, columns, columns * 4, &|index, row| {
            row.iter_mut().zip(&sums[index * columns..]).for_each(|(out, &sum)| *out = sum as f32);
            a_scales.zip(index, row, |out, scale| *out *= scale);
            b_scales.zip(index, row, |out, scale| *out *= scale);
            if let Some(bias) = &bias {
                bias.zip(index, row, |out, bias| *out += bias);
            }
        });
        y.finish(cx)
    }
}

// ---- QGemm ----

struct QGemm {
    alpha: f32,
    a_transposed: bool,
    b_transposed: bool,
    weights: Prepacked<Weights>,
}

pub fn build_qgemm(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(0))?;
    check(node.input_dtype(3))?;
    Ok(Box::new(QGemm {
        alpha: node.float("alpha", 1.0)?,
        a_transposed: node.flag("transA", false)?,
        b_transposed: node.flag("transB", false)?,
        weights: Prepacked::default(),
    }))
}

impl QGemm {
    /// Input `a` as `m × k` bytes.
    fn left(&self, cx: &Context<'_>) -> Result<Tensor> {
        let a = cx.input(0)?;
        let &[rows, columns] = a.dims() else {
            return Err(OpError::invalid(format!("QGemm takes matrices, got shape {:?}", a.dims())));
        };
        if !self.a_transposed {
            return Ok(a.clone());
        }
        let mut turned = cx.scratch(a.dtype(), &[columns, rows])?;
        let (from, to) = (a.as_bytes(), turned.as_bytes_mut());
        for (index, byte) in to.iter_mut().enumerate() {
            *byte = from[index % rows * columns + index / rows];
        }
        Ok(turned)
    }
}

impl Kernel for QGemm {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        pack(constants, 3, self.b_transposed, &self.weights)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let a = self.left(cx)?;
        let (m, k) = (a.dims()[0], a.dims()[1]);
        let weights = self.weights.get_or_pack(|| {
            let b = cx.input(3)?;
            let &[rows, columns] = b.dims() else {
                return Err(OpError::invalid(format!("QGemm takes matrices, got shape {:?}", b.dims())));
            };
            Weights::pack(&cpu, b, [rows, columns], self.b_transposed)
        })?;
        let packed = &weights.packed;
        if packed.rows() != k {
            return Err(OpError::invalid(format!("inner dimensions {k} and {} differ", packed.rows())));
        }
        let n = packed.columns();
        let mut sums = cx.scratch(DType::I32, &[m, n])?;
        let (a_zero, b_zero) = (ZeroPoints::read(cx.optional(2))?, ZeroPoints::read(cx.optional(5))?);
        let bytes = Bytes { data: a.as_bytes(), signed: is_signed(a.dtype())?, m };
        let out = sums.as_mut_slice::<i32>()?;
        multiply(&cpu, bytes, &a_zero, packed, &b_zero, (0, 0), out)?;
        if let Some(c) = cx.optional(6) {
            let c = Spread::new(c.as_slice::<i32>()?, c.dims(), &[m, n])?;
            for (index, row) in out.chunks_exact_mut(n.max(1)).enumerate() {
                c.zip(index, row, |sum, c| *sum = sum.wrapping_add(c));
            }
        }
        let a_scale = cx.input(1)?.to_scalar::<f32>()? * self.alpha;
        let b_scale = cx.input(4)?.as_slice::<f32>()?;
        if b_scale.len() != 1 && b_scale.len() != n {
            return Err(OpError::invalid(format!("{} scales for {n} columns", b_scale.len())));
        }
        let scale = |j: usize| a_scale * b_scale[if b_scale.len() == 1 { 0 } else { j }];
        let Some(y_scale) = cx.optional(7) else {
            let mut y = cx.output(0, DType::F32, &[m, n])?;
            for (index, (y, &sum)) in y.as_mut_slice::<f32>()?.iter_mut().zip(&*out).enumerate() {
                *y = sum as f32 * scale(index % n);
            }
            cx.set(0, y);
            return Ok(());
        };
        let y_scale = y_scale.to_scalar::<f32>()?;
        let dtype = cx.optional(8).map_or(a.dtype(), Tensor::dtype);
        let zero = ZeroPoints::read(cx.optional(8))?.of(0, 1)?[0];
        let signed = is_signed(dtype)?;
        let mut y = cx.output(0, dtype, &[m, n])?;
        for (index, (y, &sum)) in y.as_bytes_mut().iter_mut().zip(&*out).enumerate() {
            *y = saturate(sum as f32 * (scale(index % n) / y_scale), zero, signed);
        }
        cx.set(0, y);
        Ok(())
    }
}
