//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear, for one tensor, an axis or blocks.

pub mod activation;
pub mod arithmetic;
mod granularity;
pub mod pool;
pub mod value;

use half::{bf16, f16};
use tenon_kernels::cpu::quantize::{self, Quantized, Scales};

use self::granularity::Granularity;
use super::cast::convert::{Conversion, Options};
use super::cast::{converted, dtype_attribute, machine, minifloat, packed, set_converted};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Element, Tensor};

/// The format quotients are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precision {
    F64,
    F32,
    F16,
    BF16,
}

impl Precision {
    fn of(dtype: DType) -> Precision {
        match dtype {
            DType::F16 => Precision::F16,
            DType::BF16 => Precision::BF16,
            DType::F32 => Precision::F32,
            _ => Precision::F64,
        }
    }

    /// The format that holds quotients of `x` by `scale`.
    fn between(x: DType, scale: DType) -> Precision {
        match (x, scale) {
            (DType::F64 | DType::I32, _) => Precision::F64,
            (x, DType::F8E8M0) => Precision::of(x),
            (x, scale) if x == scale => Precision::of(x),
            (_, DType::I32) => Precision::F64,
            _ => Precision::F32,
        }
    }

    fn round(self, value: f64) -> f64 {
        match self {
            Precision::F64 => value,
            Precision::F32 => f64::from(value as f32),
            Precision::F16 => f16::from_f32(value as f32).to_f64(),
            Precision::BF16 => bf16::from_f32(value as f32).to_f64(),
        }
    }
}

struct Quantize {
    axis: i64,
    block_size: i64,
    saturate: bool,
    output: Option<DType>,
    precision: Option<DType>,
}

impl Kernel for Quantize {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        let to = match (zero.map(Tensor::dtype), self.output) {
            (Some(zero), Some(output)) if zero != output => {
                return Err(OpError::invalid(format!(
                    "output_dtype is {output} but the zero point is {zero}"
                )));
            }
            (zero, output) => zero.or(output).unwrap_or(DType::U8),
        };
        let granularity = Granularity::of(x.dims(), scale.dims(), self.axis, self.block_size)?;
        check_zero(scale, zero)?;
        let plain = x.dtype() == DType::F32
            && scale.dtype() == DType::F32
            && matches!(self.precision, None | Some(DType::F32));
        if plain && let Some(extents) = granularity.as_axis() {
            let done = match to {
                DType::U8 => quantize_vector::<u8>(cx, extents),
                DType::I8 => quantize_vector::<i8>(cx, extents),
                DType::U16 => quantize_vector::<u16>(cx, extents),
                DType::I16 => quantize_vector::<i16>(cx, extents),
                _ => Ok(None),
            }?;
            if let Some(out) = done {
                cx.set(0, out);
                return Ok(());
            }
        }
        self.quantize_each(cx, granularity, to)
    }
}

fn check_zero(scale: &Tensor, zero: Option<&Tensor>) -> Result<()> {
    match zero {
        Some(zero) if zero.len() != scale.len() => Err(OpError::invalid(format!(
            "zero points of shape {:?} do not match scales of shape {:?}",
            zero.dims(),
            scale.dims()
        ))),
        _ => Ok(()),
    }
}

fn quantize_vector<T: Quantized + Element>(cx: &Context<'_>, extents: [usize; 3]) -> Result<Option<Tensor>> {
    let x = cx.input(0)?;
    let zero_point = cx.optional(2).map(Tensor::as_slice::<T>).transpose()?;
    let scales = Scales { extents, scale: cx.input(1)?.as_slice()?, zero_point };
    let mut out = cx.output(0, T::DTYPE, x.dims())?;
    quantize::quantize(cx.cpu(), x.as_slice()?, scales, out.as_mut_slice()?)?;
    Ok(Some(out))
}

impl Quantize {
    fn quantize_each(&self, cx: &mut Context<'_>, granularity: Granularity, to: DType) -> Result<()> {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        let precision = match self.precision {
            Some(dtype) => Precision::of(dtype),
            None => Precision::between(x.dtype(), scale.dtype()),
        };
        let x = converted(cx, x, DType::F64)?;
        let scale = converted(cx, scale, DType::F64)?;
        let zero = cx.optional(2).map(|zero| converted(cx, zero, DType::F64)).transpose()?;
        let (values, scales) = (x.as_slice::<f64>()?, scale.as_slice::<f64>()?);
        let zeros = zero.as_ref().map(Tensor::as_slice::<f64>).transpose()?;
        let mut out = cx.output(0, to, x.dims())?;
        if let Some((low, high)) = integer_range(to) {
            let mut codes = cx.scratch(DType::I32, x.dims())?;
            let codes_out = codes.as_mut_slice::<i32>()?;
            granularity.for_each_run(|run, first, step| {
                for (k, i) in run.enumerate() {
                    let at = first + k * step;
                    let quotient = precision.round(values[i] / scales[at]).round_ties_even();
                    let shifted = quotient + zeros.map_or(0.0, |zeros| zeros[at]);
                    codes_out[i] = shifted.clamp(low, high) as i32;
                }
            });
            Conversion::new(DType::I32, to, Options::default())?.run(&codes, &mut out, machine(cx))?;
            cx.set(0, out);
            return Ok(());
        }
        let format = minifloat::format(to)
            .filter(|_| to.bits() <= 8)
            .ok_or_else(|| OpError::unsupported(format!("QuantizeLinear has no quantised type {to}")))?;
        let mut codes = cx.scratch(DType::U8, x.dims())?;
        let codes_out = codes.as_mut_slice::<u8>()?;
        granularity.for_each_run(|run, first, step| {
            for (k, i) in run.enumerate() {
                let at = first + k * step;
                let shifted = precision.round(values[i] / scales[at]) + zeros.map_or(0.0, |zeros| zeros[at]);
                codes_out[i] = format.encode(shifted, self.saturate) as u8;
            }
        });
        if to.bits() == 8 {
            out.as_bytes_mut().copy_from_slice(codes.as_bytes());
        } else {
            packed::pack(codes.as_bytes(), to.bits(), out.as_bytes_mut());
        }
        cx.set(0, out);
        Ok(())
    }
}

/// Smallest and largest value of an integer type of at most 16 bits.
fn integer_range(dtype: DType) -> Option<(f64, f64)> {
    let bits = dtype.bits();
    let span = (1u32 << bits.min(16)) as f64;
    match dtype {
        DType::U8 | DType::U16 | DType::U4 | DType::U2 => Some((0.0, span - 1.0)),
        DType::I8 | DType::I16 | DType::I4 | DType::I2 => Some((-span / 2.0, span / 2.0 - 1.0)),
        _ => None,
    }
}

struct Dequantize {
    axis: i64,
    block_size: i64,
    output: Option<DType>,
}

impl Kernel for Dequantize {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        if let Some(zero) = zero.filter(|zero| zero.dtype() != x.dtype()) {
            return Err(OpError::invalid(format!(
                "x is {} but its zero point is {}",
                x.dtype(),
                zero.dtype()
            )));
        }
        check_zero(scale, zero)?;
        let granularity = Granularity::of(x.dims(), scale.dims(), self.axis, self.block_size)?;
        let to = self.output.unwrap_or(scale.dtype());
        if to == DType::F32
            && scale.dtype() == DType::F32
            && let Some(extents) = granularity.as_axis()
        {
            let done = match x.dtype() {
                DType::U8 => dequantize_vector::<u8>(cx, extents),
                DType::I8 => dequantize_vector::<i8>(cx, extents),
                DType::U16 => dequantize_vector::<u16>(cx, extents),
                DType::I16 => dequantize_vector::<i16>(cx, extents),
                _ => Ok(None),
            }?;
            if let Some(out) = done {
                cx.set(0, out);
                return Ok(());
            }
        }
        dequantize_each(cx, granularity, to)
    }
}

fn dequantize_vector<T: Quantized + Element>(
    cx: &Context<'_>,
    extents: [usize; 3],
) -> Result<Option<Tensor>> {
    let x = cx.input(0)?;
    let zero_point = cx.optional(2).map(Tensor::as_slice::<T>).transpose()?;
    let scales = Scales { extents, scale: cx.input(1)?.as_slice()?, zero_point };
    let mut out = cx.output(0, DType::F32, x.dims())?;
    quantize::dequantize(cx.cpu(), x.as_slice()?, scales, out.as_mut_slice()?)?;
    Ok(Some(out))
}

fn dequantize_each(cx: &mut Context<'_>, granularity: Granularity, to: DType) -> Result<()> {
    if !to.is_float() {
        return Err(OpError::unsupported(format!("DequantizeLinear has no result type {to}")));
    }
    let x = converted(cx, cx.input(0)?, DType::F64)?;
    let scale = converted(cx, cx.input(1)?, DType::F64)?;
    let zero = cx.optional(2).map(|zero| converted(cx, zero, DType::F64)).transpose()?;
    let (values, scales) = (x.as_slice::<f64>()?, scale.as_slice::<f64>()?);
    let zeros = zero.as_ref().map(Tensor::as_slice::<f64>).transpose()?;
    let mut products = cx.scratch(DType::F64, x.dims())?;
    let y = products.as_mut_slice::<f64>()?;
    granularity.for_each_run(|run, first, step| {
        for (k, i) in run.enumerate() {
            let at = first + k * step;
            y[i] = (values[i] - zeros.map_or(0.0, |zeros| zeros[at])) * scales[at];
        }
    });
    set_converted(cx, 0, products, to)
}

/// Quantisation to u8 with a scale and zero point found from the values.
struct DynamicQuantize;

impl Kernel for DynamicQuantize {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let values = x.as_slice::<f32>()?;
        let machine = cx.cpu();
        let (scale, zero) = quantize::dynamic_parameters(machine, values);
        let mut out = cx.output(0, DType::U8, x.dims())?;
        let scales =
            Scales::tensor(values.len(), std::slice::from_ref(&scale), Some(std::slice::from_ref(&zero)));
        quantize::quantize(machine, values, scales, out.as_mut_slice::<u8>()?)?;
        let mut scale_out = cx.output(1, DType::F32, &[])?;
        scale_out.as_mut_slice::<f32>()?[0] = scale;
        let mut zero_out = cx.output(2, DType::U8, &[])?;
        zero_out.as_mut_slice::<u8>()?[0] = zero;
        cx.set(0, out);
        cx.set(1, scale_out);
        cx.set(2, zero_out);
        Ok(())
    }
}

fn build_quantize(node: &Node) -> Result<Box<dyn Kernel>> {
    let x = node.input_dtype(0);
    if !matches!(x, DType::Undefined | DType::I32) && !x.is_float() {
        return Err(OpError::unsupported(format!("QuantizeLinear is not defined for element type {x}")));
    }
    // 0 stands for "not given" in these attributes.
    let given = |name: &str| if node.int(name, 0)? == 0 { Ok(None) } else { dtype_attribute(node, name) };
    Ok(Box::new(Quantize {
        axis: node.int("axis", 1)?,
        block_size: node.int("block_size", 0)?,
        saturate: node.flag("saturate", true)?,
        output: given("output_dtype")?,
        precision: given("precision")?,
    }))
}

fn build_dequantize(node: &Node) -> Result<Box<dyn Kernel>> {
    let x = node.input_dtype(0);
    if x != DType::Undefined && x != DType::I32 && integer_range(x).is_none() && minifloat::table(x).is_none()
    {
        return Err(OpError::unsupported(format!("DequantizeLinear is not defined for element type {x}")));
    }
    let output =
        if node.int("output_dtype", 0)? == 0 { None } else { dtype_attribute(node, "output_dtype")? };
    Ok(Box::new(Dequantize { axis: node.int("axis", 1)?, block_size: node.int("block_size", 0)?, output }))
}

fn build_dynamic(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::Undefined | DType::F32 => Ok(Box::new(DynamicQuantize)),
        other => Err(OpError::unsupported(format!(
            "DynamicQuantizeLinear is not defined for element type {other}"
        ))),
    }
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("QuantizeLinear", 10, NEWEST, build_quantize),
    Operator::onnx("DequantizeLinear", 10, NEWEST, build_dequantize),
    Operator::onnx("DynamicQuantizeLinear", 11, NEWEST, build_dynamic),
    Operator::of("com.microsoft", "QuantizeLinear", build_quantize),
    Operator::of("com.microsoft", "DequantizeLinear", build_dequantize),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    fn run_one(
        op_type: &str,
        version: u32,
        attributes: &[(&str, Attribute)],
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        run(&node("", op_type, version, attributes, 1), &inputs).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn packed_blocks_round_trip() {
        let x: Vec<f32> = (0..15).map(|i| (i % 7) as f32 - 3.0).collect();
        let attributes = [
            ("axis", Attribute::Int(1)),
            ("block_size", Attribute::Int(2)),
            ("output_dtype", Attribute::Int(i64::from(DType::I4.onnx()))),
        ];
        let scale = tensor(&[3, 3], &[1f32, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0]);
        let q = run_one("QuantizeLinear", 21, &attributes, &[tensor(&[3, 5], &x), scale.clone()]).unwrap();
        assert_eq!((q.dtype(), q.as_bytes().len()), (DType::I4, 8));
        let y = run_one("DequantizeLinear", 21, &attributes[..2], &[q, scale]).unwrap();
        assert_eq!(y.as_slice::<f32>().unwrap(), x);
    }

    #[test]
    fn zero_points_give_the_type_of_the_result() {
        let half = |value: f32| f16::from_f32(value);
        let x = tensor(&[1], &[half(1.0)]);
        let q =
            run_one("QuantizeLinear", 19, &[], &[x, tensor(&[], &[half(1.0 / 3.0)]), tensor(&[], &[128u8])]);
        assert_eq!(q.unwrap().as_slice::<u8>().unwrap(), [131]);
    }

    #[test]
    fn scales_that_do_not_fit_are_errors() {
        let x = tensor(&[2, 3], &[0f32; 6]);
        for scale in [tensor(&[2], &[1f32; 2]), tensor(&[1, 2], &[1f32; 2])] {
            assert!(
                run_one("QuantizeLinear", 21, &[("axis", Attribute::Int(1))], &[x.clone(), scale]).is_err()
            );
        }
        let zeros = [x, tensor(&[3], &[1f32; 3]), tensor(&[2], &[0u8; 2])];
        assert!(run_one("QuantizeLinear", 13, &[], &zeros).is_err());
    }
}
