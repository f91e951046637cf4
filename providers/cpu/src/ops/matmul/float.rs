//! MatMul over float and integer types, and its fused forms with a factor, transposes, bias, residual and activation.

use std::any::Any;

use half::{bf16, f16};
use smallvec::SmallVec;

use super::geometry::{Order, Product};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::Activation;
use crate::ops::gemm::{Addend, After, BatchOffsets, Gemm, Matrix, Number, multiply_plain};
use crate::ops::real::{self, Real};
use crate::ops::rows::for_rows;
use crate::ops::spread::Spread;
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Element, Tensor};

/// `y = activation(alpha * a · b + bias + residual)`.
struct MatMul {
    alpha: f32,
    a_order: Order,
    b_order: Order,
    activation: Activation,
    /// Inputs 2 and 3 are added to the product.
    has_addends: bool,
    packed: Prepacked<Weights>,
}

/// A constant right-hand matrix, packed in its own type.
pub struct Weights {
    /// A [`Gemm::Packed`] of the type.
    packed: Box<dyn Any + Send + Sync>,
    pub dims: [usize; 2],
}

impl Weights {
    /// The packed matrix, when it is of type `T`.
    pub fn of<T: Gemm>(&self) -> Option<&T::Packed> {
        self.packed.downcast_ref()
    }

    /// Packs a constant float matrix, read transposed when `transposed`; `None` for other types and empty matrices.
    pub fn pack(constants: &Constants<'_>, b: &Tensor, transposed: bool) -> Result<Option<Weights>> {
        fn typed<T: Gemm>(
            constants: &Constants<'_>,
            b: &Tensor,
            transposed: bool,
        ) -> Result<Box<dyn Any + Send + Sync>> {
            let cpu = constants.cpu();
            let matrix = Matrix::new(b.as_slice::<T>()?, b.dims()[0], b.dims()[1]).transposed_if(transposed);
            Ok(Box::new(T::pack(&cpu, matrix)?))
        }
        if b.rank() != 2 || b.is_empty() {
            return Ok(None);
        }
        let packed = match b.dtype() {
            DType::F32 => typed::<f32>(constants, b, transposed)?,
            DType::F64 => typed::<f64>(constants, b, transposed)?,
            DType::F16 => typed::<f16>(constants, b, transposed)?,
            DType::BF16 => typed::<bf16>(constants, b, transposed)?,
            _ => return Ok(None),
        };
        Ok(Some(Weights { packed, dims: [b.dims()[0], b.dims()[1]] }))
    }
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    check_type(node.input_dtype(0))?;
    Ok(Box::new(MatMul {
        alpha: 1.0,
        a_order: Order::default(),
        b_order: Order::default(),
        activation: Activation::None,
        has_addends: false,
        packed: Prepacked::default(),
    }))
}

pub fn build_fused(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(MatMul {
        alpha: node.float("alpha", 1.0)?,
        a_order: order(node, "transA", "transBatchA")?,
        b_order: order(node, "transB", "transBatchB")?,
        activation: Activation::of(node)?,
        has_addends: node.has_input(2) || node.has_input(3),
        packed: Prepacked::default(),
    }))
}

fn order(node: &Node, transpose: &str, batch: &str) -> Result<Order> {
    Ok(Order { transpose: node.flag(transpose, false)?, transpose_batch: node.flag(batch, false)? })
}

/// Errors unless MatMul and Gemm have a kernel for the type.
pub fn check_type(dtype: DType) -> Result<()> {
    match dtype {
        DType::I32 | DType::U32 | DType::I64 | DType::U64 => Ok(()),
        other => real::check(other),
    }
}

impl Kernel for MatMul {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let Some(b) = constants.input(1) else { return Ok(Released::NONE) };
        match Weights::pack(constants, b, self.b_order.transpose)? {
            Some(weights) => {
                self.packed.keep(weights);
                Ok(Released::NONE.with(1))
            }
            None => Ok(Released::NONE),
        }
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F32 => self.run_float::<f32>(cx),
            DType::F16 => self.run_float::<f16>(cx),
            DType::BF16 => self.run_float::<bf16>(cx),
            DType::F64 => self.run_float::<f64>(cx),
            DType::I32 => self.run_integer::<i32>(cx),
            DType::U32 => self.run_integer::<u32>(cx),
            DType::I64 => self.run_integer::<i64>(cx),
            DType::U64 => self.run_integer::<u64>(cx),
            other => Err(OpError::unsupported(format!("MatMul has no kernel for {other}"))),
        }
    }
}

impl MatMul {
    fn run_float<T: Gemm>(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let a = cx.input(0)?;
        let weights = self.packed.get();
        let b = if weights.is_none() { Some(cx.input(1)?) } else { None };
        let b_dims = match (&b, weights) {
            (Some(b), _) => b.dims(),
            (None, Some(weights)) => weights.dims.as_slice(),
            (None, None) => return Err(OpError::invalid("input 1 is missing")),
        };
        let product = Product::new(a.dims(), b_dims, self.a_order, self.b_order)?;
        let mut y = cx.output(0, T::DTYPE, &product.dims)?;
        let out = y.as_mut_slice::<T>()?;
        let addends = self.addends::<T::Sum>(cx)?;
        let (after, rest) = self.after(&addends, &product)?;
        let (m, n, k) = (product.m, product.n, product.k);
        let left = Matrix {
            data: a.as_slice::<T>()?,
            rows: m,
            columns: k,
            row_stride: product.a.row_stride,
            column_stride: product.a.column_stride,
        };
        let batches: SmallVec<[BatchOffsets; 4]> = if m * n == 0 {
            SmallVec::new()
        } else {
            (0..product.batches())
                .map(|index| {
                    let (a, b) = product.offsets(index);
                    BatchOffsets { a, b, c: index * m * n, residual: index * m * n }
                })
                .collect()
        };
        if let Some(packed) = weights.and_then(Weights::of::<T>) {
            for batch in batches {
                let left = Matrix { data: left.data.get(batch.a..).unwrap_or(&[]), ..left };
                let after = after.starting_at(batch.residual);
                T::multiply_packed(&cpu, left, packed, &mut out[batch.c..batch.c + m * n], n, &after)?;
            }
        } else if let Some(b) = b {
            let right = Matrix {
                data: b.as_slice::<T>()?,
                rows: k,
                columns: n,
                row_stride: product.b.row_stride,
                column_stride: product.b.column_stride,
            };
            T::multiply_batch(&cpu, left, right, out, n, &batches, &after)?;
        } else {
            return Err(OpError::invalid(format!("the constant matrix is not of type {}", T::DTYPE)));
        }
        if rest {
            self.add_rest::<T::Sum>(cx, &addends, &product.dims, &mut y)?;
        }
        cx.set(0, y);
        Ok(())
    }

    /// Inputs 2 and 3 in the type sums are kept in.
    fn addends<T: Real>(&self, cx: &Context<'_>) -> Result<[Option<Tensor>; 2]> {
        if !self.has_addends {
            return Ok([None, None]);
        }
        Ok([real::load_optional::<T>(cx, 2)?, real::load_optional::<T>(cx, 3)?])
    }

    /// What the product itself can do, and whether addends of other shapes (and the activation after them) remain.
    fn after<'a, T: Real>(
        &self,
        addends: &'a [Option<Tensor>; 2],
        product: &Product,
    ) -> Result<(After<'a, T>, bool)> {
        let mut after = After { alpha: T::from_f32(self.alpha), ..After::default() };
        if let Some(bias) = &addends[0] {
            let (data, len) = (bias.as_slice::<T>()?, bias.len());
            let last = bias.dims().last().copied().unwrap_or(1);
            if len == product.n && last == len {
                after.addends[0] = Some(Addend { data, row_stride: 0, column_stride: 1, scale: T::ONE });
            } else if len == 1 && bias.rank() <= product.dims.len() {
                after.addends[0] = Some(Addend { data, row_stride: 0, column_stride: 0, scale: T::ONE });
            } else {
                return Ok((after, true));
            }
        }
        if let Some(residual) = &addends[1] {
            if residual.dims() != &product.dims[..] {
                return Ok((After { addends: [None, None], ..after }, true));
            }
            let data = residual.as_slice::<T>()?;
            after.addends[1] = Some(Addend { data, row_stride: product.n, column_stride: 1, scale: T::ONE });
        }
        after.activation = self.activation;
        Ok((after, false))
    }

    /// Adds addends that broadcast in some other way, then applies the activation.
    fn add_rest<T: Real>(
        &self,
        cx: &Context<'_>,
        addends: &[Option<Tensor>; 2],
        dims: &[usize],
        y: &mut Tensor,
    ) -> Result<()> {
        // A product of two vectors is a scalar: one row of one element.
        let dims = if dims.is_empty() { &[1] } else { dims };
        let mut wide = cx.scratch(T::DTYPE, dims)?;
        real::convert_into(y, wide.as_mut_slice::<T>()?)?;
        let columns = dims[dims.len() - 1];
        for addend in addends.iter().flatten() {
            let spread = Spread::new(addend.as_slice::<T>()?, addend.dims(), dims)?;
            for_rows(cx.parallel(), wide.as_mut_slice::<T>()?, columns, columns, &|index, row| {
                spread.zip(index, row, |value, addend| *value += addend);
            });
        }
        self.activation.apply(wide.as_mut_slice::<T>()?);
        real::round_into(&wide, y)
    }

    fn run_integer<T: Number + Element>(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let product = Product::new(a.dims(), b.dims(), self.a_order, self.b_order)?;
        let (m, n, k) = (product.m, product.n, product.k);
        let mut y = cx.output(0, T::DTYPE, &product.dims)?;
        let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
        for (index, c) in y.as_mut_slice::<T>()?.chunks_exact_mut((m * n).max(1)).enumerate() {
            let (a_start, b_start) = product.offsets(index);
            let left = Matrix::new(a.get(a_start..).unwrap_or(&[]), m, k);
            let right = Matrix::new(b.get(b_start..).unwrap_or(&[]), k, n);
            multiply_plain(&cpu, left, right, c, n, false);
        }
        cx.set(0, y);
        Ok(())
    }
}
