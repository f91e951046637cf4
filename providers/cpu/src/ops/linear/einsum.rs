//! Einsum: operands are contracted from left to right, each step as one batch of matrix products.

use smallvec::SmallVec;
use tenon_kernels::cpu::gemm::{BatchOffsets, Epilogue, Number, gemm_batched, gemm_number};
use tenon_kernels::cpu::{Context as Cpu, Matrix};

use super::equation::{Equation, Label, Labels};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::mover::{self, Side, Strides, strides_of};
use crate::ops::real::{self, Output};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims, Element, Tensor};

pub const OPERATORS: &[Operator] = &[Operator::onnx("Einsum", 12, NEWEST, einsum)];

struct Einsum {
    equation: Equation,
}

fn einsum(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Einsum { equation: Equation::parse(node.string("equation", "")?)? }))
}

impl Kernel for Einsum {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let inputs = (0..cx.input_count()).map(|i| cx.input(i).cloned()).collect::<Result<Vec<_>>>()?;
        if let Some(other) = inputs.iter().find(|input| input.dtype() != dtype) {
            return Err(OpError::invalid(format!(
                "inputs must share one type, got {dtype} and {}",
                other.dtype()
            )));
        }
        match dtype {
            DType::F32 => self.compute::<f32>(cx, &inputs, dtype),
            DType::F16 | DType::BF16 => {
                let wide = inputs.iter().map(|x| real::load::<f32>(cx, x)).collect::<Result<Vec<_>>>()?;
                self.compute::<f32>(cx, &wide, dtype)
            }
            DType::F64 => self.compute::<f64>(cx, &inputs, dtype),
            DType::I8 => self.compute::<i8>(cx, &inputs, dtype),
            DType::I16 => self.compute::<i16>(cx, &inputs, dtype),
            DType::I32 => self.compute::<i32>(cx, &inputs, dtype),
            DType::I64 => self.compute::<i64>(cx, &inputs, dtype),
            DType::U8 => self.compute::<u8>(cx, &inputs, dtype),
            DType::U16 => self.compute::<u16>(cx, &inputs, dtype),
            DType::U32 => self.compute::<u32>(cx, &inputs, dtype),
            DType::U64 => self.compute::<u64>(cx, &inputs, dtype),
            other => Err(OpError::unsupported(format!("Einsum of {other}"))),
        }
    }
}

/// A type whose matrices can be multiplied.
trait Scalar: Element + Number {
    /// `c = a · b` for each entry of `batches`, `c` without gaps.
    fn multiply(
        cpu: Cpu<'_>,
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
        c: &mut [Self],
        batches: &[BatchOffsets],
    ) -> Result<()> {
        for batch in batches {
            let left = Matrix { data: &a.data[batch.a.min(a.data.len())..], ..a };
            let right = Matrix { data: &b.data[batch.b.min(b.data.len())..], ..b };
            gemm_number(cpu, left, right, &mut c[batch.c..][..a.rows * b.cols], b.cols.max(1))?;
        }
        Ok(())
    }
}

impl Scalar for f32 {
    fn multiply(
        cpu: Cpu<'_>,
        a: Matrix<'_, f32>,
        b: Matrix<'_, f32>,
        c: &mut [f32],
        batches: &[BatchOffsets],
    ) -> Result<()> {
        Ok(gemm_batched(cpu, a, b, c, b.cols.max(1), batches, &Epilogue::default())?)
    }
}

macro_rules! scalars {
    ($($t:ty),*) => { $(impl Scalar for $t {})* };
}
scalars!(f64, i8, i16, i32, i64, u8, u16, u32, u64);

/// A strided tensor whose dimensions are named; no name appears twice.
#[derive(Clone)]
struct Operand {
    data: Tensor,
    labels: Labels,
    dims: Dims,
    strides: Dims,
}

impl Einsum {
    fn compute<T: Scalar>(&self, cx: &mut Context<'_>, inputs: &[Tensor], dtype: DType) -> Result<()> {
        let ranks: SmallVec<[usize; 4]> = inputs.iter().map(Tensor::rank).collect();
        let (labels, result) = self.equation.resolve(&ranks)?;
        let sizes = Sizes::of(inputs, &labels)?;
        let mut operands = Vec::with_capacity(inputs.len());
        for (input, labels) in inputs.iter().zip(&labels) {
            operands.push(Operand::new(input.clone(), labels, &sizes)?);
        }
        let mut rest = operands.into_iter();
        let mut left = rest.next().ok_or_else(|| OpError::invalid("Einsum has no inputs"))?;
        let later: Vec<Operand> = rest.collect();
        for (i, right) in later.iter().enumerate() {
            let needed = |label: &Label| {
                result.contains(label) || later[i + 1..].iter().any(|o| o.labels.contains(label))
            };
            left = contract::<T>(cx, left, right.clone(), &needed)?;
        }
        left = left.summed::<T>(cx, &|label| result.contains(label))?;
        left.store::<T>(cx, &result, &sizes, dtype)
    }
}

/// The size of every label. A dimension of 1 repeats along a larger one of the same label.
struct Sizes(Vec<(Label, usize)>);

impl Sizes {
    fn of(inputs: &[Tensor], labels: &[Labels]) -> Result<Sizes> {
        let mut sizes = Sizes(Vec::new());
        for (input, labels) in inputs.iter().zip(labels) {
            for (&label, &dim) in labels.iter().zip(input.dims()) {
                match sizes.0.iter_mut().find(|(known, _)| *known == label) {
                    Some((_, size)) if *size == dim || dim == 1 => {}
                    Some((_, size)) if *size == 1 => *size = dim,
                    Some((_, size)) => {
                        return Err(OpError::invalid(format!(
                            "one label stands for dimensions of {size} and {dim}"
                        )));
                    }
                    None => sizes.0.push((label, dim)),
                }
            }
        }
        Ok(sizes)
    }

    /// Labels of an ellipsis that no operand has stand for nothing, as a dimension of 1 does.
    fn get(&self, label: Label) -> usize {
        self.0.iter().find(|(known, _)| *known == label).map_or(1, |&(_, size)| size)
    }
}

impl Operand {
    /// Repeated labels become diagonals; dimensions that repeat along a larger one are left out.
    fn new(data: Tensor, labels: &Labels, sizes: &Sizes) -> Result<Operand> {
        let strides = crate::shape::strides(data.dims());
        let dims: Dims = data.dims().into();
        let mut operand = Operand { data, labels: Labels::new(), dims: Dims::new(), strides: Dims::new() };
        for ((&label, &dim), &stride) in labels.iter().zip(&dims).zip(&strides) {
            if dim == 1 && sizes.get(label) != 1 {
                continue;
            }
            match operand.labels.iter().position(|&known| known == label) {
                Some(i) => operand.strides[i] += stride,
                None => {
                    operand.labels.push(label);
                    operand.dims.push(dim);
                    operand.strides.push(stride);
                }
            }
        }
        Ok(operand)
    }

    /// The product of the sizes of `labels`.
    fn size(&self, labels: &[Label]) -> usize {
        labels.iter().map(|&label| self.dim(label).0).product()
    }

    /// Size and stride of a label, `(1, 0)` when absent.
    fn dim(&self, label: Label) -> (usize, usize) {
        match self.labels.iter().position(|&own| own == label) {
            Some(i) => (self.dims[i], self.strides[i]),
            None => (1, 0),
        }
    }

    /// One stride that steps through all of `labels` in order, where there is one.
    fn stride(&self, labels: &[Label]) -> Option<usize> {
        let mut merged: Option<(usize, usize)> = None;
        for (dim, stride) in labels.iter().map(|&label| self.dim(label)).filter(|&(dim, _)| dim != 1) {
            merged = match merged {
                None => Some((dim, stride)),
                Some((len, step)) if step == dim * stride => Some((len * dim, stride)),
                Some(_) => return None,
            };
        }
        Some(merged.map_or(0, |(_, stride)| stride))
    }

    /// A contiguous copy with the dimensions in the order of `labels`.
    fn ordered<T: Scalar>(&self, cx: &Context<'_>, labels: &[Label]) -> Result<Operand> {
        let (dims, from): (Dims, Strides) =
            labels.iter().map(|&label| self.dim(label)).map(|(dim, stride)| (dim, stride as isize)).unzip();
        let mut data = cx.scratch(T::DTYPE, &dims)?;
        let to = strides_of(&dims);
        let (from, to_side) = (Side { start: 0, strides: &from }, Side { start: 0, strides: &to });
        mover::copy(
            cx.parallel(),
            size_of::<T>(),
            &dims,
            from,
            self.data.as_bytes(),
            to_side,
            data.as_bytes_mut(),
        )?;
        Ok(Operand { data, labels: labels.into(), strides: crate::shape::strides(&dims), dims })
    }

    /// The operand with the labels that are not kept summed over.
    fn summed<T: Scalar>(self, cx: &Context<'_>, keep: &dyn Fn(&Label) -> bool) -> Result<Operand> {
        let (kept, gone): (Labels, Labels) = self.labels.iter().copied().partition(|label| keep(label));
        if gone.is_empty() {
            return Ok(self);
        }
        let all: Labels = kept.iter().chain(&gone).copied().collect();
        let ordered = self.ordered::<T>(cx, &all)?;
        let dims: Dims = kept.iter().map(|&label| self.dim(label).0).collect();
        let mut data = cx.scratch(T::DTYPE, &dims)?;
        let width = self.size(&gone);
        let (from, to) = (ordered.data.as_slice::<T>()?, data.as_mut_slice::<T>()?);
        for (i, to) in to.iter_mut().enumerate() {
            let row = &from[i * width..][..width];
            *to = row.iter().fold(T::ZERO, |sum, &value| sum.multiply_add::<false>(value, T::ONE));
        }
        Ok(Operand { data, labels: kept, strides: crate::shape::strides(&dims), dims })
    }

    /// Sets output 0 to the operand with its dimensions in the order of `result`.
    fn store<T: Scalar>(
        &self,
        cx: &mut Context<'_>,
        result: &Labels,
        sizes: &Sizes,
        dtype: DType,
    ) -> Result<()> {
        let dims: Dims = result.iter().map(|&label| sizes.get(label)).collect();
        let from: Strides = result.iter().map(|&label| self.dim(label).1 as isize).collect();
        let to = strides_of(&dims);
        let (from, to) = (Side { start: 0, strides: &from }, Side { start: 0, strides: &to });
        let source = self.data.as_bytes();
        if dtype == T::DTYPE {
            let mut output = cx.output(0, dtype, &dims)?;
            mover::copy(cx.parallel(), size_of::<T>(), &dims, from, source, to, output.as_bytes_mut())?;
            cx.set(0, output);
            return Ok(());
        }
        let mut output = Output::new::<f32>(cx, 0, dtype, &dims)?;
        let values = output.slice::<f32>()?;
        let len = size_of_val(values);
        // SAFETY: f32 has no padding and any bytes are valid elements.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), len) };
        mover::copy(cx.parallel(), 4, &dims, from, source, to, bytes)?;
        output.finish(cx)
    }
}

/// Multiplies two operands and sums over the labels nobody needs any more.
fn contract<T: Scalar>(
    cx: &Context<'_>,
    a: Operand,
    b: Operand,
    needed: &dyn Fn(&Label) -> bool,
) -> Result<Operand> {
    let a = a.summed::<T>(cx, &|label| needed(label) || b.labels.contains(label))?;
    let b = b.summed::<T>(cx, &|label| needed(label) || a.labels.contains(label))?;
    let (shared, m): (Labels, Labels) = a.labels.iter().copied().partition(|label| b.labels.contains(label));
    let (batch, k): (Labels, Labels) = shared.into_iter().partition(needed);
    let n: Labels = b.labels.iter().copied().filter(|label| !a.labels.contains(label)).collect();
    let a = a.into_matrices::<T>(cx, &batch, &m, &k)?;
    let b = b.into_matrices::<T>(cx, &batch, &k, &n)?;
    let (rows, depth, columns) = (a.size(&m), a.size(&k), b.size(&n));
    let labels: Labels = batch.iter().chain(&m).chain(&n).copied().collect();
    let dim = |&label: &Label| if a.labels.contains(&label) { a.dim(label).0 } else { b.dim(label).0 };
    let dims: Dims = labels.iter().map(dim).collect();
    let mut data = cx.scratch(T::DTYPE, &dims)?;
    let batches: Vec<BatchOffsets> = (0..a.size(&batch))
        .map(|i| BatchOffsets {
            a: a.offset(&batch, i),
            b: b.offset(&batch, i),
            c: i * rows * columns,
            residual: 0,
        })
        .collect();
    if !data.is_empty() {
        let view = |o: &Operand, rows: &Labels, columns: &Labels| {
            (o.stride(rows).unwrap_or(0), o.stride(columns).unwrap_or(0))
        };
        let ((a_row, a_col), (b_row, b_col)) = (view(&a, &m, &k), view(&b, &k, &n));
        let left =
            Matrix { data: a.data.as_slice::<T>()?, rows, cols: depth, row_stride: a_row, col_stride: a_col };
        let right = Matrix {
            data: b.data.as_slice::<T>()?,
            rows: depth,
            cols: columns,
            row_stride: b_row,
            col_stride: b_col,
        };
        T::multiply(cx.cpu(), left, right, data.as_mut_slice::<T>()?, &batches)?;
    }
    Ok(Operand { data, labels, strides: crate::shape::strides(&dims), dims })
}

impl Operand {
    /// The operand itself where `rows` and `columns` each have one stride, else a copy in that order.
    fn into_matrices<T: Scalar>(
        self,
        cx: &Context<'_>,
        batch: &Labels,
        rows: &Labels,
        columns: &Labels,
    ) -> Result<Operand> {
        if self.stride(rows).is_some() && self.stride(columns).is_some() {
            return Ok(self);
        }
        let order: Labels = batch.iter().chain(rows).chain(columns).copied().collect();
        self.ordered::<T>(cx, &order)
    }

    /// Where position `flat` of the dimensions `labels` starts.
    fn offset(&self, labels: &[Label], mut flat: usize) -> usize {
        let mut offset = 0;
        for &label in labels.iter().rev() {
            let (dim, stride) = self.dim(label);
            offset += flat % dim * stride;
            flat /= dim;
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::tensor::Tensor;
    use crate::testing::{node, random, run, tensor};

    fn einsum(equation: &str, inputs: &[Tensor]) -> crate::error::Result<Tensor> {
        let attributes = [("equation", Attribute::String(equation.into()))];
        let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        run(&node("", "Einsum", 12, &attributes, 1), &inputs).map(|mut o| o.remove(0))
    }

    #[test]
    fn three_operands_match_the_nested_sum() {
        let (a, b, c) = (random(&[2, 3, 4]), random(&[4, 2, 5]), random(&[5, 3]));
        let output = einsum("bij,jbk,ki->kb", &[a.clone(), b.clone(), c.clone()]).unwrap();
        assert_eq!(output.dims(), [5, 2]);
        let [a, b, c] = [&a, &b, &c].map(|t| t.as_slice::<f32>().unwrap());
        for (k, batch) in (0..5).flat_map(|k| (0..2).map(move |b| (k, b))) {
            let mut sum = 0f64;
            for (i, j) in (0..3).flat_map(|i| (0..4).map(move |j| (i, j))) {
                let product = f64::from(a[(batch * 3 + i) * 4 + j]) * f64::from(b[(j * 2 + batch) * 5 + k]);
                sum += product * f64::from(c[k * 3 + i]);
            }
            assert!((f64::from(output.as_slice::<f32>().unwrap()[k * 2 + batch]) - sum).abs() < 1e-5);
        }
    }

    #[test]
    fn diagonals_sums_outer_products_and_broadcast_ellipses() {
        let x = tensor(&[2, 2], &[1i64, 2, 3, 4]);
        let value = |t: crate::error::Result<Tensor>| t.unwrap().as_slice::<i64>().unwrap().to_vec();
        assert_eq!(value(einsum("ii->i", std::slice::from_ref(&x))), [1, 4]);
        assert_eq!(value(einsum("ii", std::slice::from_ref(&x))), [5]);
        assert_eq!(value(einsum("ij->j", std::slice::from_ref(&x))), [4, 6]);
        let v = tensor(&[2], &[10i64, 100]);
        assert_eq!(value(einsum("i,j", &[v.clone(), v.clone()])), [100, 1000, 1000, 10000]);
        let batched = tensor(&[1, 2, 1], &[1i64, 2]);
        let output = einsum("...ij,...jk->...ik", &[batched, tensor(&[3, 1, 1], &[1i64, 2, 3])]).unwrap();
        assert_eq!(output.dims(), [3, 2, 1]);
        assert_eq!(output.as_slice::<i64>().unwrap(), [1, 2, 2, 4, 3, 6]);
        assert!(einsum("ij,jk", &[x.clone(), tensor(&[3, 1], &[0i64; 3])]).is_err());
    }

    #[test]
    fn an_empty_contraction_sums_to_zero() {
        let output =
            einsum("ij,jk->ik", &[tensor::<f32>(&[2, 0], &[]), tensor::<f32>(&[0, 2], &[])]).unwrap();
        assert_eq!(output.as_slice::<f32>().unwrap(), [0f32; 4]);
        assert_eq!(einsum("ij,jk->ik", &[random(&[0, 2]), random(&[2, 2])]).unwrap().dims(), [0, 2]);
    }
}
