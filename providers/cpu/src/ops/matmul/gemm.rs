//! Gemm: `y = activation(alpha * a' · b' + beta * c)` over float and integer types.

use half::{bf16, f16};

use super::float::{Weights, check_type};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::Activation;
use crate::ops::gemm::{self, Addend, After, Matrix, Number, multiply_plain};
use crate::ops::real::{self, Real};
use crate::ops::spread::Spread;
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Element, Tensor};

struct Gemm {
    alpha: f32,
    beta: f32,
    a_transposed: bool,
    b_transposed: bool,
    activation: Activation,
    packed: Prepacked<Weights>,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    check_type(node.input_dtype(0))?;
    Ok(Box::new(Gemm {
        alpha: node.float("alpha", 1.0)?,
        beta: node.float("beta", 1.0)?,
        a_transposed: node.flag("transA", false)?,
        b_transposed: node.flag("transB", false)?,
        activation: Activation::of(node)?,
        packed: Prepacked::default(),
    }))
}

impl Kernel for Gemm {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let Some(b) = constants.input(1) else { return Ok(Released::NONE) };
        match Weights::pack(constants, b, self.b_transposed)? {
            Some(weights) => {
                self.packed.keep(weights);
                Ok(Released::NONE.with(1))
            }
            None => Ok(Released::NONE),
        }
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::I32 => self.run_integer::<i32>(cx, f64::from, |v| v as i32),
            DType::U32 => self.run_integer::<u32>(cx, f64::from, |v| v as u32),
            DType::I64 => self.run_integer::<i64>(cx, |v| v as f64, |v| v as i64),
            DType::U64 => self.run_integer::<u64>(cx, |v| v as f64, |v| v as u64),
            DType::F32 => self.run_float::<f32>(cx),
            DType::F16 => self.run_float::<f16>(cx),
            DType::BF16 => self.run_float::<bf16>(cx),
            DType::F64 => self.run_float::<f64>(cx),
            other => Err(OpError::unsupported(format!("Gemm has no kernel for {other}"))),
        }
    }
}

impl Gemm {
    /// The operand dimensions `m, n, k` and whether they agree.
    fn extents(&self, a: &[usize], b: &[usize]) -> Result<(usize, usize, usize)> {
        let (&[a0, a1], &[b0, b1]) = (a, b) else {
            return Err(OpError::invalid(format!("Gemm takes matrices, got shapes {a:?} and {b:?}")));
        };
        let (m, k) = if self.a_transposed { (a1, a0) } else { (a0, a1) };
        let (b_k, n) = if self.b_transposed { (b1, b0) } else { (b0, b1) };
        if k != b_k {
            return Err(OpError::invalid(format!(
                "shapes {a:?} and {b:?} do not multiply (transA {}, transB {}): inner dimensions {k} and {b_k}",
                self.a_transposed, self.b_transposed
            )));
        }
        Ok((m, n, k))
    }

    fn run_float<T: gemm::Gemm>(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let a = cx.input(0)?;
        let weights = self.packed.get();
        let b = if weights.is_none() { Some(cx.input(1)?) } else { None };
        let b_dims = match (&b, weights) {
            (Some(b), _) => b.dims(),
            (None, Some(weights)) => weights.dims.as_slice(),
            (None, None) => return Err(OpError::invalid("input 1 is missing")),
        };
        let (m, n, _) = self.extents(a.dims(), b_dims)?;
        let mut y = cx.output(0, T::DTYPE, &[m, n])?;
        let c = if self.beta == 0.0 { None } else { real::load_optional::<T::Sum>(cx, 2)? };
        let mut after =
            After { alpha: T::Sum::from_f32(self.alpha), activation: self.activation, ..After::default() };
        if let Some(c) = &c {
            let strides = crate::shape::broadcast_strides(checked_addend(c.dims(), m, n)?, &[m, n]);
            let scale = T::Sum::from_f32(self.beta);
            let (row_stride, column_stride) = (strides[0], strides[1]);
            after.addends[0] =
                Some(Addend { data: c.as_slice::<T::Sum>()?, row_stride, column_stride, scale });
        }
        if m * n > 0 {
            let out = y.as_mut_slice::<T>()?;
            let left = matrix::<T>(a)?.transposed_if(self.a_transposed);
            match (weights.and_then(Weights::of::<T>), b) {
                (Some(packed), _) => T::multiply_packed(&cpu, left, packed, out, n, &after)?,
                (None, Some(b)) => {
                    let right = matrix::<T>(b)?.transposed_if(self.b_transposed);
                    T::multiply(&cpu, left, right, out, n, &after)?;
                }
                (None, None) => {
                    return Err(OpError::invalid(format!("the constant matrix is not of type {}", T::DTYPE)));
                }
            }
        }
        cx.set(0, y);
        Ok(())
    }

    fn run_integer<T: Number + Element>(
        &self,
        cx: &mut Context<'_>,
        widen: impl Fn(T) -> f64,
        narrow: impl Fn(f64) -> T,
    ) -> Result<()> {
        let cpu = cx.cpu();
        let (a, b, c) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        let (m, n, _) = self.extents(a.dims(), b.dims())?;
        let mut y = cx.output(0, T::DTYPE, &[m, n])?;
        let out = y.as_mut_slice::<T>()?;
        let left = Matrix::new(a.as_slice::<T>()?, a.dims()[0], a.dims()[1]).transposed_if(self.a_transposed);
        let right =
            Matrix::new(b.as_slice::<T>()?, b.dims()[0], b.dims()[1]).transposed_if(self.b_transposed);
        let exact = self.alpha == 1.0 && self.beta == 1.0;
        let c = c.map(|c| Spread::new(c.as_slice::<T>()?, c.dims(), &[m, n])).transpose()?;
        multiply_plain(&cpu, left, right, out, n, false);
        let one = T::one();
        for (index, row) in out.chunks_exact_mut(n.max(1)).enumerate() {
            match &c {
                Some(c) if exact => {
                    c.zip(index, row, |value, addend| *value = value.add_product(addend, one))
                }
                Some(c) => c.zip(index, row, |value, addend| {
                    *value =
                        narrow(widen(*value) * f64::from(self.alpha) + widen(addend) * f64::from(self.beta));
                }),
                None if self.alpha != 1.0 => {
                    row.iter_mut().for_each(|value| *value = narrow(widen(*value) * f64::from(self.alpha)));
                }
                None => {}
            }
        }
        cx.set(0, y);
        Ok(())
    }
}

/// The shape of `c`, which must broadcast to `m × n`.
fn checked_addend(dims: &[usize], m: usize, n: usize) -> Result<&[usize]> {
    if dims.len() <= 2 && crate::shape::broadcast(dims, &[m, n])?.as_slice() == [m, n] {
        return Ok(dims);
    }
    Err(OpError::invalid(format!("input C of shape {dims:?} does not broadcast to [{m}, {n}]")))
}

fn matrix<T: Element>(tensor: &Tensor) -> Result<Matrix<'_, T>> {
    Ok(Matrix::new(tensor.as_slice::<T>()?, tensor.dims()[0], tensor.dims()[1]))
}
