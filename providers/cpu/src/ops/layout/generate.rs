//! Operators that make a tensor from little or nothing: Constant, ConstantOfShape, Range, EyeLike and Trilu.

use half::{bf16, f16};
use tenon_kernels::parallel::{SharedMut, for_each_range};

use super::cells::{cell_bytes, pack, rearrange_onto};
use super::mover::fill;
use super::text;
use super::window::sizes;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::{Attribute, Node};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims, Element, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Constant", 1, NEWEST, constant),
    Operator::onnx("ConstantOfShape", 9, NEWEST, constant_of_shape),
    Operator::onnx("Range", 11, NEWEST, range),
    Operator::onnx("EyeLike", 9, NEWEST, eye_like),
    Operator::onnx("Trilu", 14, NEWEST, trilu),
    Operator::of("com.microsoft", "Range", range),
    Operator::of("com.microsoft", "Trilu", trilu),
];

struct Constant {
    dtype: DType,
    dims: Dims,
    bytes: Vec<u8>,
}

fn constant(node: &Node) -> Result<Box<dyn Kernel>> {
    let mut values = node.attributes.iter().filter(|(name, _)| name.starts_with("value"));
    let (Some((_, value)), None) = (values.next(), values.next()) else {
        return Err(OpError::invalid("a Constant must have exactly one value attribute"));
    };
    let of = |dtype, dims: &[usize], bytes| Ok(Constant { dtype, dims: dims.into(), bytes });
    let kernel: Result<Constant> = match value {
        Attribute::Tensor(tensor) => of(tensor.dtype(), tensor.dims(), tensor.as_bytes().to_vec()),
        Attribute::Int(value) => of(DType::I64, &[], value.to_ne_bytes().to_vec()),
        Attribute::Float(value) => of(DType::F32, &[], value.to_ne_bytes().to_vec()),
        Attribute::Ints(list) => {
            of(DType::I64, &[list.len()], list.iter().flat_map(|v| v.to_ne_bytes()).collect())
        }
        Attribute::Floats(list) => {
            of(DType::F32, &[list.len()], list.iter().flat_map(|v| v.to_ne_bytes()).collect())
        }
        Attribute::String(string) => of(DType::String, &[], flat(std::slice::from_ref(string))),
        Attribute::Strings(list) => of(DType::String, &[list.len()], flat(list)),
    };
    Ok(Box::new(kernel?))
}

/// Strings as the flat buffer of a tensor.
fn flat(strings: &[String]) -> Vec<u8> {
    let mut end = 0u64;
    let mut bytes = end.to_le_bytes().to_vec();
    for string in strings {
        end += string.len() as u64;
        bytes.extend(end.to_le_bytes());
    }
    strings.iter().for_each(|string| bytes.extend(string.as_bytes()));
    bytes
}

impl Kernel for Constant {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let mut output = cx.output_of_bytes(0, self.dtype, &self.dims, self.bytes.len())?;
        output.as_bytes_mut().copy_from_slice(&self.bytes);
        cx.set(0, output);
        Ok(())
    }
}

struct ConstantOfShape {
    dtype: DType,
    /// One element as a cell, or the string's text.
    value: Vec<u8>,
}

fn constant_of_shape(node: &Node) -> Result<Box<dyn Kernel>> {
    let Some(value) = node.tensor("value")? else {
        return Ok(Box::new(ConstantOfShape { dtype: DType::F32, value: vec![0; 4] }));
    };
    if value.len() != 1 {
        return Err(OpError::invalid(format!(
            "attribute 'value' must be one element, got shape {:?}",
            value.dims()
        )));
    }
    let value_bytes = match value.dtype() {
        DType::String => text::Strings::new(value)?.get(0).to_vec(),
        _ => value.as_bytes().to_vec(),
    };
    Ok(Box::new(ConstantOfShape { dtype: value.dtype(), value: value_bytes }))
}

impl Kernel for ConstantOfShape {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims = sizes(&cx.input(0)?.to_i64s()?)?;
        if self.dtype == DType::String {
            let output = text::write(cx, 0, &dims, |_| &self.value)?;
            cx.set(0, output);
            return Ok(());
        }
        let mut output = cx.output(0, self.dtype, &dims)?;
        if self.dtype.bits() >= 8 {
            fill(output.as_bytes_mut(), &self.value);
        } else {
            let codes = vec![self.value[0]; output.len()];
            pack(self.dtype, &codes, output.as_bytes_mut());
        }
        cx.set(0, output);
        Ok(())
    }
}

struct Range {
    /// float16 and bfloat16 are computed in float; otherwise every element is rounded on its way.
    stash_float: bool,
}

fn range(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Range { stash_float: node.int("stash_type", 1)? == 1 }))
}

impl Kernel for Range {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::I16 => integers(cx, |v: i16| v.into(), |v| v as i16),
            DType::I32 => integers(cx, |v: i32| v.into(), |v| v as i32),
            DType::I64 => integers(cx, |v: i64| v.into(), |v| v as i64),
            DType::F32 => {
                floats(cx, |v: f32| v, |i, start, delta| start + i as f32 * delta, |a: f32, b| a - b)
            }
            DType::F64 => double(cx),
            DType::F16 if self.stash_float => {
                floats(cx, f16::to_f32, |i, s, d| f16::from_f32(s + i as f32 * d), |a, b| a - b)
            }
            DType::BF16 if self.stash_float => {
                floats(cx, bf16::to_f32, |i, s, d| bf16::from_f32(s + i as f32 * d), |a, b| a - b)
            }
            DType::F16 => floats(cx, f16::to_f32, step_f16, |a, b| f16::from_f32(a - b).to_f32()),
            DType::BF16 => floats(cx, bf16::to_f32, step_bf16, |a, b| bf16::from_f32(a - b).to_f32()),
            other => Err(OpError::unsupported(format!("Range of {other}"))),
        }
    }
}

fn step_f16(i: usize, start: f32, delta: f32) -> f16 {
    let index = f16::from_f32(i as f32).to_f32();
    f16::from_f32(start + f16::from_f32(index * delta).to_f32())
}

fn step_bf16(i: usize, start: f32, delta: f32) -> bf16 {
    let index = bf16::from_f32(i as f32).to_f32();
    bf16::from_f32(start + bf16::from_f32(index * delta).to_f32())
}

/// Start, limit and delta; an absent delta is `one`.
fn bounds<T: Element>(cx: &Context<'_>, one: T) -> Result<[T; 3]> {
    let delta = cx.optional(2).map_or(Ok(one), Tensor::to_scalar)?;
    Ok([cx.input(0)?.to_scalar()?, cx.input(1)?.to_scalar()?, delta])
}

fn zero_delta() -> OpError {
    OpError::invalid("the delta of Range must not be 0")
}

fn integers<T: Element + From<u8>>(
    cx: &mut Context<'_>,
    widen: fn(T) -> i128,
    narrow: fn(i128) -> T,
) -> Result<()> {
    let [start, limit, delta] = bounds(cx, T::from(1u8))?.map(widen);
    if delta == 0 {
        return Err(zero_delta());
    }
    let distance = if delta > 0 { limit - start } else { start - limit };
    let count = if distance <= 0 { 0 } else { (distance as u128).div_ceil(delta.unsigned_abs()) };
    let count = usize::try_from(count).map_err(|_| OpError::invalid("Range is too long"))?;
    let mut output = cx.output(0, T::DTYPE, &[count])?;
    let values = output.as_mut_slice::<T>()?.iter_mut();
    values.enumerate().for_each(|(i, value)| *value = narrow(start + i as i128 * delta));
    cx.set(0, output);
    Ok(())
}

fn floats<T: Element>(
    cx: &mut Context<'_>,
    widen: fn(T) -> f32,
    at: fn(usize, f32, f32) -> T,
    minus: fn(f32, f32) -> f32,
) -> Result<()> {
    let given: [T; 2] = [cx.input(0)?.to_scalar()?, cx.input(1)?.to_scalar()?];
    let [start, limit] = given.map(widen);
    let delta = cx.optional(2).map_or(Ok(1.0), |delta| delta.to_scalar().map(widen))?;
    let count = float_count(f64::from(minus(limit, start)), f64::from(delta))?;
    let mut output = cx.output(0, T::DTYPE, &[count])?;
    output.as_mut_slice::<T>()?.iter_mut().enumerate().for_each(|(i, value)| *value = at(i, start, delta));
    cx.set(0, output);
    Ok(())
}

fn double(cx: &mut Context<'_>) -> Result<()> {
    let [start, limit, delta] = bounds(cx, 1f64)?;
    let count = float_count(limit - start, delta)?;
    let mut output = cx.output(0, DType::F64, &[count])?;
    let values = output.as_mut_slice::<f64>()?.iter_mut();
    values.enumerate().for_each(|(i, value)| *value = start + i as f64 * delta);
    cx.set(0, output);
    Ok(())
}

fn float_count(distance: f64, delta: f64) -> Result<usize> {
    if delta == 0.0 {
        return Err(zero_delta());
    }
    let count = (distance / delta).ceil();
    if count.is_nan() || count >= isize::MAX as f64 {
        return Err(OpError::invalid("start, limit and delta of Range must be finite"));
    }
    Ok(count.max(0.0) as usize)
}

struct EyeLike {
    dtype: Option<DType>,
    offset: i64,
}

fn eye_like(node: &Node) -> Result<Box<dyn Kernel>> {
    let number = node.optional_int("dtype")?;
    let dtype = number.map(|number| one(dtype_of(number)?).map(|(dtype, _)| dtype)).transpose()?;
    Ok(Box::new(EyeLike { dtype, offset: node.int("k", 0)? }))
}

/// The element type that an attribute names by its ONNX number.
pub fn dtype_of(number: i64) -> Result<DType> {
    let dtype =
        i32::try_from(number).ok().and_then(DType::from_onnx).filter(|&dtype| dtype != DType::Undefined);
    dtype.ok_or_else(|| OpError::invalid(format!("{number} is not the number of an element type")))
}

/// The bytes of the value 1.
fn one(dtype: DType) -> Result<(DType, [u8; 8])> {
    let mut bytes = [0; 8];
    match dtype {
        DType::F16 => bytes[..2].copy_from_slice(&f16::ONE.to_ne_bytes()),
        DType::BF16 => bytes[..2].copy_from_slice(&bf16::ONE.to_ne_bytes()),
        DType::F32 => bytes[..4].copy_from_slice(&1f32.to_ne_bytes()),
        DType::F64 => bytes.copy_from_slice(&1f64.to_ne_bytes()),
        DType::Bool => bytes[0] = 1,
        other if other.is_integer() && other.bits() >= 8 => bytes[0] = 1,
        other => return Err(OpError::unsupported(format!("EyeLike of {other}"))),
    }
    Ok((dtype, bytes))
}

impl Kernel for EyeLike {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let &[rows, columns] = input.dims() else {
            return Err(OpError::invalid(format!(
                "EyeLike expects two dimensions, got shape {:?}",
                input.dims()
            )));
        };
        let (dtype, one) = one(self.dtype.unwrap_or(input.dtype()))?;
        let cell = cell_bytes(dtype);
        let mut output = cx.zeroed_output(0, dtype, &[rows, columns])?;
        let bytes = output.as_bytes_mut();
        for row in 0..rows {
            let column = (row as i64).saturating_add(self.offset);
            if (0..columns as i64).contains(&column) {
                bytes[(row * columns + column as usize) * cell..][..cell].copy_from_slice(&one[..cell]);
            }
        }
        cx.set(0, output);
        Ok(())
    }
}

struct Trilu {
    upper: bool,
}

fn trilu(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Trilu { upper: node.int("upper", 1)? != 0 }))
}

impl Kernel for Trilu {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims = cx.input(0)?.dims();
        let &[.., rows, columns] = dims else {
            return Err(OpError::invalid(format!(
                "Trilu expects at least two dimensions, got shape {dims:?}"
            )));
        };
        let diagonal = cx.optional(1).map_or(Ok(0), Tensor::to_scalar::<i64>)?;
        let (upper, parallel) = (self.upper, cx.parallel());
        rearrange_onto(cx, 0, &[], 0, |_, cells, cell| {
            let row_bytes = columns * cell;
            if row_bytes == 0 || cells.is_empty() {
                return Ok(());
            }
            let count = cells.len() / row_bytes;
            let shared = SharedMut::new(cells);
            for_each_range(parallel, count, 65536usize.div_ceil(row_bytes), 1, &|range| {
                for index in range {
                    // SAFETY: rows are disjoint.
                    let row = unsafe { shared.slice(index * row_bytes..(index + 1) * row_bytes) };
                    // The first column on (upper) or after (lower) the diagonal.
                    let at =
                        ((index % rows) as i64).saturating_add(diagonal).saturating_add(i64::from(!upper));
                    let at = at.clamp(0, columns as i64) as usize * cell;
                    let outside = if upper { 0..at } else { at..row_bytes };
                    row[outside].fill(0);
                }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, run, strings, tensor};

    #[test]
    fn range_counts_up_down_and_to_nothing() {
        let int = |start: i64, limit: i64, delta: i64| {
            let inputs = [start, limit, delta].map(|v| Some(tensor(&[], &[v])));
            run(&node("", "Range", 11, &[], 1), &inputs).map(|o| o[0].as_slice::<i64>().unwrap().to_vec())
        };
        assert_eq!(int(10, 4, -3).unwrap(), [10, 7]);
        assert_eq!(int(1, 0, 1).unwrap(), [0i64; 0]);
        assert_eq!(int(i64::MAX - 1, i64::MAX, 7).unwrap(), [i64::MAX - 1]);
        assert!(int(0, 1, 0).is_err());
        let float = |start: f32, limit: f32, delta: f32| {
            let inputs = [start, limit, delta].map(|v| Some(tensor(&[], &[v])));
            run(&node("", "Range", 11, &[], 1), &inputs).map(|o| o[0].as_slice::<f32>().unwrap().to_vec())
        };
        assert_eq!(float(0.0, 1.0, 0.3).unwrap().len(), 4);
        assert!(float(0.0, f32::INFINITY, 1.0).is_err());
        assert!(float(0.0, f32::NAN, 1.0).is_err());
    }

    #[test]
    fn trilu_keeps_either_triangle_of_every_matrix() {
        let x: Vec<i32> = (1..=12).collect();
        let case = |upper, k: i64| {
            let attributes = [("upper", Attribute::Int(upper))];
            let inputs = [Some(tensor(&[2, 2, 3], &x)), Some(tensor(&[], &[k]))];
            run(&node("", "Trilu", 14, &attributes, 1), &inputs).unwrap()[0]
                .as_slice::<i32>()
                .unwrap()
                .to_vec()
        };
        assert_eq!(case(1, 0), [1, 2, 3, 0, 5, 6, 7, 8, 9, 0, 11, 12]);
        assert_eq!(case(0, 0), [1, 0, 0, 4, 5, 0, 7, 0, 0, 10, 11, 0]);
        assert_eq!(case(0, -9), [0; 12]);
        assert_eq!(case(1, i64::MIN), x);
        assert_eq!(case(0, i64::MAX), x);
    }

    #[test]
    fn constants_of_shape_are_filled() {
        let shape = || Some(tensor(&[2], &[2i64, 1]));
        let of = |value| {
            run(&node("", "ConstantOfShape", 9, &[("value", Attribute::Tensor(value))], 1), &[shape()])
        };
        assert_eq!(of(tensor(&[1], &[-7i16])).unwrap()[0].as_slice::<i16>().unwrap(), [-7, -7]);
        assert_eq!(
            of(strings(&[1], &["ab"])).unwrap()[0].as_bytes(),
            strings(&[2, 1], &["ab", "ab"]).as_bytes()
        );
        assert!(of(tensor(&[2], &[1i16, 2])).is_err());
    }

    #[test]
    fn eyes_are_offset() {
        let attributes = [("k", Attribute::Int(-1)), ("dtype", Attribute::Int(1))];
        let output =
            run(&node("", "EyeLike", 9, &attributes, 1), &[Some(tensor(&[2, 2], &[0i32; 4]))]).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [0., 0., 1., 0.]);
    }
}
