//! IsInf and IsNaN: one float operand, a bool result.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::cast::minifloat;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Bool, DType, Tensor};

/// Which values are looked for.
#[derive(Clone, Copy)]
enum Classify {
    Nan,
    Infinite { negative: bool, positive: bool },
}

impl Classify {
    fn holds(self, value: f64) -> bool {
        match self {
            Classify::Nan => value.is_nan(),
            Classify::Infinite { negative, positive } => {
                positive && value == f64::INFINITY || negative && value == f64::NEG_INFINITY
            }
        }
    }

    fn mark(self, input: &Tensor, out: &mut [Bool]) -> Result<()> {
        match input.dtype() {
            DType::F32 => each(input.as_slice::<f32>()?, out, |x| self.holds(f64::from(x))),
            DType::F64 => each(input.as_slice::<f64>()?, out, |x| self.holds(x)),
            DType::F16 => each(input.as_slice::<half::f16>()?, out, |x| self.holds(x.to_f64())),
            DType::BF16 => each(input.as_slice::<half::bf16>()?, out, |x| self.holds(x.to_f64())),
            other => {
                let table =
                    minifloat::table(other).filter(|_| other.bits() == 8).ok_or_else(|| refuse(other))?;
                each(input.as_bytes(), out, |code| self.holds(f64::from(table[usize::from(code)])));
            }
        }
        Ok(())
    }
}

fn each<T: Copy>(input: &[T], out: &mut [Bool], test: impl Fn(T) -> bool) {
    for (out, &x) in out.iter_mut().zip(input) {
        *out = Bool(u8::from(test(x)));
    }
}

fn refuse(dtype: DType) -> OpError {
    OpError::unsupported(format!("element type {dtype} has no infinity or NaN to look for"))
}

impl Kernel for Classify {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let mut out = cx.output(0, DType::Bool, input.dims())?;
        self.mark(input, out.as_mut_slice()?)?;
        cx.set(0, out);
        Ok(())
    }
}

fn build(node: &Node, kernel: Classify) -> Result<Box<dyn Kernel>> {
    let dtype = node.input_dtype(0);
    let small = minifloat::table(dtype).is_some() && dtype.bits() == 8;
    if dtype != DType::Undefined && !dtype.is_float() && !small {
        return Err(refuse(dtype));
    }
    Ok(Box::new(kernel))
}

fn build_is_inf(node: &Node) -> Result<Box<dyn Kernel>> {
    let negative = node.flag("detect_negative", true)?;
    let positive = node.flag("detect_positive", true)?;
    build(node, Classify::Infinite { negative, positive })
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("IsInf", 10, NEWEST, build_is_inf),
    Operator::onnx("IsNaN", 9, NEWEST, |node| build(node, Classify::Nan)),
];
