//! Operators of one operand of any numeric type: Abs, Neg, Sign, Relu, Shrink, BitwiseNot and Not.

use tenon_kernels::cpu::elementwise::Unary;

use super::row::{Params, UnaryLoop, UnaryOp, UnaryRow, run_unary, unary_row};
use super::unary;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Bool, DType};

/// An operator whose loop follows from the element type alone; the result has the operand's type.
struct Numeric {
    op_type: &'static str,
    select: fn(DType) -> Option<UnaryLoop>,
    params: Params,
}

impl Numeric {
    fn build(self, node: &Node) -> Result<Box<dyn Kernel>> {
        let dtype = node.input_dtype(0);
        if dtype != DType::Undefined && (self.select)(dtype).is_none() {
            return Err(self.refuse(dtype));
        }
        Ok(Box::new(self))
    }

    fn refuse(&self, dtype: DType) -> OpError {
        OpError::unsupported(format!("{} is not defined for element type {dtype}", self.op_type))
    }
}

impl Kernel for Numeric {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let body = (self.select)(dtype).ok_or_else(|| self.refuse(dtype))?;
        run_unary(cx, body, self.params, dtype)
    }
}

/// Defines integer forms of functions: for signed types, then for unsigned ones.
macro_rules! integer_functions {
    ($($name:ty => |$x:ident| $signed:expr, $unsigned:expr;)*) => {
        $(
            integer_functions!(@ $name, $x, $signed, i8 i16 i32 i64);
            integer_functions!(@ $name, $x, $unsigned, u8 u16 u32 u64);
        )*
    };
    (@ $name:ty, $x:ident, $body:expr, $($t:ident)*) => {
        $(
            impl UnaryOp<$t> for $name {
                #[inline(always)]
                fn apply(_: &Params, $x: $t) -> $t {
                    $body
                }
            }
        )*
    };
}

struct BitwiseNot;

integer_functions! {
    unary::Abs => |x| x.wrapping_abs(), x;
    unary::Neg => |x| x.wrapping_neg(), x.wrapping_neg();
    unary::Sign => |x| x.signum(), x.min(1);
    unary::Relu => |x| x.max(0), x;
    BitwiseNot => |x| !x, !x;
}

fn signed<P>(dtype: DType) -> Option<UnaryRow>
where
    P: UnaryOp<i8> + UnaryOp<i16> + UnaryOp<i32> + UnaryOp<i64>,
{
    Some(match dtype {
        DType::I8 => unary_row::<i8, P>,
        DType::I16 => unary_row::<i16, P>,
        DType::I32 => unary_row::<i32, P>,
        DType::I64 => unary_row::<i64, P>,
        _ => return None,
    })
}

fn unsigned<P>(dtype: DType) -> Option<UnaryRow>
where
    P: UnaryOp<u8> + UnaryOp<u16> + UnaryOp<u32> + UnaryOp<u64>,
{
    Some(match dtype {
        DType::U8 => unary_row::<u8, P>,
        DType::U16 => unary_row::<u16, P>,
        DType::U32 => unary_row::<u32, P>,
        DType::U64 => unary_row::<u64, P>,
        _ => return None,
    })
}

fn abs(dtype: DType) -> Option<UnaryLoop> {
    let float = unary::FloatFunction::vector::<unary::Abs>(Unary::Abs, [0.0; 2]).select(dtype);
    let integer = || signed::<unary::Abs>(dtype).or_else(|| unsigned::<unary::Abs>(dtype));
    float.or_else(|| integer().map(UnaryLoop::Typed))
}

fn neg(dtype: DType) -> Option<UnaryLoop> {
    let float = unary::FloatFunction::vector::<unary::Neg>(Unary::Neg, [0.0; 2]).select(dtype);
    float.or_else(|| signed::<unary::Neg>(dtype).map(UnaryLoop::Typed))
}

fn sign(dtype: DType) -> Option<UnaryLoop> {
    let float = unary::FloatFunction::scalar::<unary::Sign>([0.0; 2]).select(dtype);
    let integer = || signed::<unary::Sign>(dtype).or_else(|| unsigned::<unary::Sign>(dtype));
    float.or_else(|| integer().map(UnaryLoop::Typed))
}

fn relu(dtype: DType) -> Option<UnaryLoop> {
    let float = unary::FloatFunction::vector::<unary::Relu>(Unary::Relu, [0.0; 2]).select(dtype);
    float.or_else(|| signed::<unary::Relu>(dtype).map(UnaryLoop::Typed))
}

fn bitwise_not(dtype: DType) -> Option<UnaryLoop> {
    signed::<BitwiseNot>(dtype).or_else(|| unsigned::<BitwiseNot>(dtype)).map(UnaryLoop::Typed)
}

struct Not;

impl UnaryOp<Bool> for Not {
    #[inline(always)]
    fn apply(_: &Params, x: Bool) -> Bool {
        Bool(u8::from(x.0 == 0))
    }
}

fn not(dtype: DType) -> Option<UnaryLoop> {
    (dtype == DType::Bool).then_some(UnaryLoop::Typed(unary_row::<Bool, Not>))
}

/// `lambd = p[0]`, `bias = p[1]`.
struct Shrink;

macro_rules! shrink {
    ($($t:ident computed as $wide:ident;)*) => {
        $(
            impl UnaryOp<$t> for Shrink {
                #[inline(always)]
                fn apply(params: &Params, x: $t) -> $t {
                    let [lambd, bias] = [$wide::from(params[0]), $wide::from(params[1])];
                    let wide = x as $wide;
                    if wide < -lambd {
                        (wide + bias) as $t
                    } else if wide > lambd {
                        (wide - bias) as $t
                    } else {
                        0 as $t
                    }
                }
            }
        )*
    };
}

shrink! {
    f32 computed as f32;
    f64 computed as f64;
    i8 computed as f64;
    i16 computed as f64;
    i32 computed as f64;
    i64 computed as f64;
    u8 computed as f64;
    u16 computed as f64;
    u32 computed as f64;
    u64 computed as f64;
}

fn shrink(dtype: DType) -> Option<UnaryLoop> {
    let float = unary::FloatFunction::scalar::<Shrink>([0.0; 2]).select(dtype);
    let integer = || signed::<Shrink>(dtype).or_else(|| unsigned::<Shrink>(dtype));
    float.or_else(|| integer().map(UnaryLoop::Typed))
}

/// Defines builders of operators without attributes.
macro_rules! builders {
    ($($op_type:literal $builder:ident => $select:ident;)*) => {
        $(
            fn $builder(node: &Node) -> Result<Box<dyn Kernel>> {
                Numeric { op_type: $op_type, select: $select, params: [0.0; 2] }.build(node)
            }
        )*
    };
}

builders! {
    "Abs" build_abs => abs;
    "Neg" build_neg => neg;
    "Sign" build_sign => sign;
    "Relu" build_relu => relu;
    "BitwiseNot" build_bitwise_not => bitwise_not;
    "Not" build_not => not;
}

fn build_shrink(node: &Node) -> Result<Box<dyn Kernel>> {
    let params = [node.float("lambd", 0.5)?, node.float("bias", 0.0)?];
    Numeric { op_type: "Shrink", select: shrink, params }.build(node)
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Abs", 1, NEWEST, build_abs),
    Operator::onnx("Neg", 1, NEWEST, build_neg),
    Operator::onnx("Sign", 9, NEWEST, build_sign),
    Operator::onnx("Relu", 1, NEWEST, build_relu),
    Operator::onnx("BitwiseNot", 18, NEWEST, build_bitwise_not),
    Operator::onnx("Not", 1, NEWEST, build_not),
    Operator::onnx("Shrink", 9, NEWEST, build_shrink),
];
