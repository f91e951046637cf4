//! Cast, CastLike, BitCast and Identity: every element type to every other.

pub mod convert;
pub mod minifloat;
pub mod packed;
mod text;

use convert::{Conversion, Options};
use minifloat::RoundMode;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::{Attribute, Node};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Tensor};

/// Converts input 0 to a type given by an attribute, or to that of input 1.
struct Cast {
    /// `None`: the type of input 1.
    to: Option<DType>,
    options: Options,
}

impl Kernel for Cast {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let to = match self.to {
            Some(to) => to,
            None => cx.input(1)?.dtype(),
        };
        let input = cx.input(0)?;
        let from = input.dtype();
        if from == to {
            let dims = crate::tensor::Dims::from_slice(input.dims());
            return cx.forward(0, 0, &dims);
        }
        let out = match (from, to) {
            (DType::String, _) => text::from_strings(cx, to, self.options)?,
            (_, DType::String) => text::to_strings(cx)?,
            _ => {
                let conversion = Conversion::new(from, to, self.options)?;
                let mut out = cx.output(0, to, input.dims())?;
                conversion.run(input, &mut out, machine(cx))?;
                out
            }
        };
        cx.set(0, out);
        Ok(())
    }
}

/// Threads and instructions of this run as kernels take them.
pub fn machine<'a>(cx: &Context<'a>) -> tenon_kernels::cpu::Context<'a> {
    tenon_kernels::cpu::Context::new(cx.features(), cx.parallel())
}

/// A copy of `tensor` in another numeric type, in memory of this run.
pub fn converted(cx: &Context<'_>, tensor: &Tensor, to: DType) -> Result<Tensor> {
    if tensor.dtype() == to {
        return Ok(tensor.clone());
    }
    let mut out = cx.scratch(to, tensor.dims())?;
    Conversion::new(tensor.dtype(), to, Options::default())?.run(tensor, &mut out, machine(cx))?;
    Ok(out)
}

/// Hands in `tensor` as output `index` in type `to`.
pub fn set_converted(cx: &mut Context<'_>, index: usize, tensor: Tensor, to: DType) -> Result<()> {
    let mut out = cx.output(index, to, tensor.dims())?;
    if tensor.dtype() == to {
        out.as_bytes_mut().copy_from_slice(tensor.as_bytes());
    } else {
        Conversion::new(tensor.dtype(), to, Options::default())?.run(&tensor, &mut out, machine(cx))?;
    }
    cx.set(index, out);
    Ok(())
}

/// The element type that attribute `name` names, by number or (before opset 6) by name; `None` when absent.
pub fn dtype_attribute(node: &Node, name: &str) -> Result<Option<DType>> {
    let dtype = match node.attributes.get(name) {
        None => return Ok(None),
        Some(Attribute::Int(number)) => i32::try_from(*number).ok().and_then(DType::from_onnx),
        Some(Attribute::String(text)) => {
            let lower = text.to_ascii_lowercase();
            DType::ALL.into_iter().find(|dtype| dtype.name() == lower)
        }
        Some(_) => None,
    };
    dtype
        .filter(|&dtype| dtype != DType::Undefined)
        .map(Some)
        .ok_or_else(|| OpError::invalid(format!("attribute '{name}' does not name an element type")))
}

fn options(node: &Node) -> Result<Options> {
    let round_mode = match node.string("round_mode", "up")? {
        "up" => RoundMode::Up,
        "down" => RoundMode::Down,
        "nearest" => RoundMode::Nearest,
        other => {
            return Err(OpError::invalid(format!(
                "attribute 'round_mode' must be up, down or nearest, got '{other}'"
            )));
        }
    };
    Ok(Options { saturate: node.flag("saturate", true)?, round_mode })
}

fn check(from: DType, to: DType) -> Result<()> {
    let text = |dtype| matches!(dtype, DType::Undefined | DType::String);
    if from == to || text(from) || text(to) {
        return Ok(());
    }
    Conversion::new(from, to, Options::default()).map(|_| ())
}

fn build_cast(node: &Node) -> Result<Box<dyn Kernel>> {
    let to = dtype_attribute(node, "to")?.ok_or_else(|| OpError::invalid("attribute 'to' is missing"))?;
    check(node.input_dtype(0), to)?;
    Ok(Box::new(Cast { to: Some(to), options: options(node)? }))
}

fn build_cast_like(node: &Node) -> Result<Box<dyn Kernel>> {
    check(node.input_dtype(0), node.input_dtype(1))?;
    Ok(Box::new(Cast { to: None, options: options(node)? }))
}

/// The same bits under another element type.
struct BitCast {
    to: DType,
}

impl Kernel for BitCast {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let tensor = cx.input(0)?.clone().retyped(self.to)?;
        cx.set(0, tensor);
        Ok(())
    }
}

fn build_bit_cast(node: &Node) -> Result<Box<dyn Kernel>> {
    let to = dtype_attribute(node, "to")?.ok_or_else(|| OpError::invalid("attribute 'to' is missing"))?;
    if to == DType::String {
        return Err(OpError::unsupported("strings have no bit pattern to reinterpret"));
    }
    Ok(Box::new(BitCast { to }))
}

struct Identity;

impl Kernel for Identity {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let tensor = cx.input(0)?.clone();
        cx.set(0, tensor);
        Ok(())
    }
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Cast", 1, NEWEST, build_cast),
    Operator::onnx("CastLike", 15, NEWEST, build_cast_like),
    Operator::onnx("BitCast", 26, NEWEST, build_bit_cast),
    Operator::onnx("Identity", 1, NEWEST, |_| Ok(Box::new(Identity))),
];

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::tensor::Bool;
    use crate::testing::{blank, node, run, strings, tensor};

    fn cast(input: &Tensor, to: DType) -> Tensor {
        let attributes = [("to", Attribute::Int(i64::from(to.onnx())))];
        run(&node("", "Cast", 25, &attributes, 1), &[Some(input.clone())]).unwrap().remove(0)
    }

    #[test]
    fn every_numeric_pair_keeps_small_values() {
        // 1 and 0 are in the range of every type; 1000 elements cross the chunk size and leave a part of a byte.
        let source: Vec<f32> = (0..1001).map(|i| (i * 7 % 3 % 2) as f32).collect();
        let source = tensor(&[1001], &source);
        let numeric = |dtype: &DType| {
            !matches!(dtype, DType::String | DType::Complex64 | DType::Complex128 | DType::F8E8M0)
        };
        for from in DType::ALL.into_iter().filter(numeric) {
            let a = cast(&source, from);
            for to in DType::ALL.into_iter().filter(numeric) {
                let back = cast(&cast(&a, to), DType::F32);
                assert_eq!(
                    back.as_slice::<f32>().unwrap(),
                    source.as_slice::<f32>().unwrap(),
                    "{from} to {to}"
                );
            }
        }
    }

    #[test]
    fn integers_wrap_and_floats_round_once() {
        assert_eq!(cast(&tensor(&[2], &[200i16, -1]), DType::I8).as_slice::<i8>().unwrap(), [-56, -1]);
        assert_eq!(cast(&tensor(&[1], &[-1i32]), DType::U4).as_bytes(), [0x0F]);
        assert_eq!(
            cast(&tensor(&[3], &[-7.9f32, 2.5, f32::NAN]), DType::I64).as_slice::<i64>().unwrap(),
            [-7, 2, 0]
        );
        // Between two f16 values, just above the middle: rounding through f32 would land on the tie and go down.
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let half = cast(&tensor(&[1], &[above]), DType::F16);
        assert_eq!(half.as_slice::<f16>().unwrap(), [f16::from_f32(1.0 + 2f32.powi(-10))]);
        assert_eq!(
            cast(&tensor(&[2], &[f32::NAN, 0.0]), DType::Bool).as_slice::<Bool>().unwrap(),
            [Bool(1), Bool(0)]
        );
    }

    #[test]
    fn strings_become_numbers_or_errors() {
        let numbers = cast(&strings(&[4], &["1.5", "-INF", " 3e2", "0"]), DType::F32);
        assert_eq!(numbers.as_slice::<f32>().unwrap(), [1.5, f32::NEG_INFINITY, 300.0, 0.0]);
        assert_eq!(
            cast(&tensor(&[2], &[-3i64, 40]), DType::String).as_bytes(),
            strings(&[2], &["-3", "40"]).as_bytes()
        );
        let bad = node("", "Cast", 13, &[("to", Attribute::Int(1))], 1);
        assert!(run(&bad, &[Some(strings(&[1], &["ten"]))]).is_err());
        assert!(run(&bad, &[Some(blank(DType::Complex64, &[1]))]).is_err());
    }
}
