//! Converts tensors of any numeric type to the float type an operator computes in and back.

use half::{bf16, f16};

use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::ops::real::Real;
use crate::tensor::{Bool, DType, Tensor};

/// The elements of a tensor of numbers or booleans.
pub fn to_vec<T: Real>(tensor: &Tensor) -> Result<Vec<T>> {
    Ok(match tensor.dtype() {
        DType::F32 => map(tensor.as_slice::<f32>()?, T::from_f32),
        DType::F64 => map(tensor.as_slice::<f64>()?, T::from_f64),
        DType::F16 => map(tensor.as_slice::<f16>()?, |v| T::from_f32(v.to_f32())),
        DType::BF16 => map(tensor.as_slice::<bf16>()?, |v| T::from_f32(v.to_f32())),
        DType::I8 => map(tensor.as_slice::<i8>()?, |v| T::from_f64(v.into())),
        DType::I16 => map(tensor.as_slice::<i16>()?, |v| T::from_f64(v.into())),
        DType::I32 => map(tensor.as_slice::<i32>()?, |v| T::from_f64(v.into())),
        DType::I64 => map(tensor.as_slice::<i64>()?, |v| T::from_f64(v as f64)),
        DType::U8 => map(tensor.as_slice::<u8>()?, |v| T::from_f64(v.into())),
        DType::U16 => map(tensor.as_slice::<u16>()?, |v| T::from_f64(v.into())),
        DType::U32 => map(tensor.as_slice::<u32>()?, |v| T::from_f64(v.into())),
        DType::U64 => map(tensor.as_slice::<u64>()?, |v| T::from_f64(v as f64)),
        DType::Bool => map(tensor.as_slice::<Bool>()?, |v| T::from_f64(f64::from(v.0 != 0))),
        other => return Err(OpError::unsupported(format!("expected a tensor of numbers, got {other}"))),
    })
}

/// The values as output `index` of type `dtype`, converted like [`write_into`].
pub fn store<T: Real>(
    cx: &Context<'_>,
    index: usize,
    dtype: DType,
    dims: &[usize],
    values: &[T],
) -> Result<Tensor> {
    let mut output = cx.output(index, dtype, dims)?;
    write_into(values, &mut output)?;
    Ok(output)
}

/// Writes the values to a tensor of as many elements: rounded to floats, cut towards zero and saturated to integers.
pub fn write_into<T: Real>(values: &[T], output: &mut Tensor) -> Result<()> {
    match output.dtype() {
        DType::F32 => each(values, output.as_mut_slice::<f32>()?, T::to_f32),
        DType::F64 => each(values, output.as_mut_slice::<f64>()?, T::to_f64),
        DType::F16 => each(values, output.as_mut_slice::<f16>()?, |v| f16::from_f64(v.to_f64())),
        DType::BF16 => each(values, output.as_mut_slice::<bf16>()?, |v| bf16::from_f64(v.to_f64())),
        DType::I8 => each(values, output.as_mut_slice::<i8>()?, |v| v.to_f64() as i8),
        DType::I16 => each(values, output.as_mut_slice::<i16>()?, |v| v.to_f64() as i16),
        DType::I32 => each(values, output.as_mut_slice::<i32>()?, |v| v.to_f64() as i32),
        DType::I64 => each(values, output.as_mut_slice::<i64>()?, |v| v.to_f64() as i64),
        DType::U8 => each(values, output.as_mut_slice::<u8>()?, |v| v.to_f64() as u8),
        DType::U16 => each(values, output.as_mut_slice::<u16>()?, |v| v.to_f64() as u16),
        DType::U32 => each(values, output.as_mut_slice::<u32>()?, |v| v.to_f64() as u32),
        DType::U64 => each(values, output.as_mut_slice::<u64>()?, |v| v.to_f64() as u64),
        DType::Bool => each(values, output.as_mut_slice::<Bool>()?, |v| Bool(u8::from(v != T::ZERO))),
        other => return Err(OpError::unsupported(format!("expected a type of numbers, got {other}"))),
    }
    Ok(())
}

fn map<S: Copy, T>(values: &[S], convert: impl Fn(S) -> T) -> Vec<T> {
    values.iter().map(|&value| convert(value)).collect()
}

fn each<T: Copy, D>(values: &[T], output: &mut [D], convert: impl Fn(T) -> D) {
    output.iter_mut().zip(values).for_each(|(output, &value)| *output = convert(value));
}
