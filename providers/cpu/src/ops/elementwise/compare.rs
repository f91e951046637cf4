//! Comparisons, logic and bit operations of two operands with broadcasting.

use super::binary::{Arithmetic, Legacy, check_same_type, floats, integers, unsigned, without_sign};
use super::broadcast::{Broadcast, shape_of};
use super::row::{BinaryLoop, BinaryOp, BinaryRow, Params, binary_row, run_binary};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::text::Strings;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Bool, DType};

/// Defines comparisons of two elements of one type.
macro_rules! comparisons {
    ($($name:ident |$a:ident, $b:ident| $body:expr;)*) => {
        $(
            struct $name;
            comparisons!(@ $name, $a, $b, $body, f32 f64 i8 i16 i32 i64 u8 u16 u32 u64);
        )*
    };
    (@ $name:ident, $a:ident, $b:ident, $body:expr, $($t:ident)*) => {
        $(
            impl BinaryOp<$t> for $name {
                type Output = Bool;
                #[inline(always)]
                fn apply(_: &Params, $a: $t, $b: $t) -> Bool {
                    Bool(u8::from($body))
                }
            }
        )*
    };
}

comparisons! {
    Equal |a, b| a == b;
    Less |a, b| a < b;
    LessOrEqual |a, b| a <= b;
}

/// Defines functions of two truth values.
macro_rules! truth_functions {
    ($($name:ident |$a:ident, $b:ident| $body:expr;)*) => {
        $(
            struct $name;
            impl BinaryOp<Bool> for $name {
                type Output = Bool;
                #[inline(always)]
                fn apply(_: &Params, a: Bool, b: Bool) -> Bool {
                    let ($a, $b) = (a.0 != 0, b.0 != 0);
                    Bool(u8::from($body))
                }
            }
        )*
    };
}

truth_functions! {
    And |a, b| a & b;
    Or |a, b| a | b;
    Xor |a, b| a ^ b;
    Same |a, b| a == b;
}

/// Defines functions of two bit patterns.
macro_rules! bit_functions {
    ($($name:ident |$a:ident, $b:ident| $body:expr;)*) => {
        $(
            struct $name;
            bit_functions!(@ $name, $a, $b, $body, u8 u16 u32 u64);
        )*
    };
    (@ $name:ident, $a:ident, $b:ident, $body:expr, $($t:ident)*) => {
        $(
            impl BinaryOp<$t> for $name {
                type Output = $t;
                #[inline(always)]
                fn apply(_: &Params, $a: $t, $b: $t) -> $t {
                    $body
                }
            }
        )*
    };
}

bit_functions! {
    BitAnd |a, b| a & b;
    BitOr |a, b| a | b;
    BitXor |a, b| a ^ b;
}

/// Shifts whose amount leaves the width: bits shifted out are gone, the sign fills in from the left.
struct ShiftLeft;
struct ShiftRight;

macro_rules! shifts {
    ($($t:ident)*) => {
        $(
            impl BinaryOp<$t> for ShiftLeft {
                type Output = $t;
                #[inline(always)]
                fn apply(_: &Params, x: $t, amount: $t) -> $t {
                    let amount = amount as i64;
                    if (0..i64::from($t::BITS)).contains(&amount) { x << amount } else { 0 }
                }
            }
            impl BinaryOp<$t> for ShiftRight {
                type Output = $t;
                #[inline(always)]
                fn apply(_: &Params, x: $t, amount: $t) -> $t {
                    let amount = amount as i64;
                    let inside = (0..i64::from($t::BITS)).contains(&amount);
                    if inside { x >> amount } else { x >> ($t::BITS - 1) >> ($t::BITS / 2) }
                }
            }
        )*
    };
}
shifts! { i8 i16 i32 i64 u8 u16 u32 u64 }

/// A comparison or a function of truth values: two operands of one type, a bool result.
struct Predicate {
    op_type: &'static str,
    select: fn(DType) -> Option<BinaryRow>,
    legacy: Legacy,
    /// The relation is that of the operands in reverse.
    swap: bool,
}

impl Predicate {
    fn refuse(&self, dtype: DType) -> OpError {
        OpError::unsupported(format!("{} is not defined for element type {dtype}", self.op_type))
    }

    fn build(self, node: &Node) -> Result<Box<dyn Kernel>> {
        let dtype = node.input_dtype(0);
        if dtype != DType::Undefined && dtype != DType::String && (self.select)(dtype).is_none() {
            return Err(self.refuse(dtype));
        }
        Ok(Box::new(self))
    }
}

impl Kernel for Predicate {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let dtype = a.dtype();
        check_same_type(dtype, b.dtype())?;
        if dtype == DType::String && self.op_type == "Equal" {
            return equal_strings(cx);
        }
        let row = (self.select)(dtype).ok_or_else(|| self.refuse(dtype))?;
        let dims = self.legacy.align(a.dims(), b.dims())?;
        if !self.swap {
            return run_binary(cx, BinaryLoop::Typed(row), [0.0; 2], dims.as_deref(), DType::Bool);
        }
        let dims = dims.unwrap_or_else(|| b.dims().into());
        let shape = shape_of(&[a.dims(), &dims])?;
        let mut out = cx.output(0, DType::Bool, &shape)?;
        super::row::fill_binary(cx, BinaryLoop::Typed(row), [0.0; 2], [b, a], [&dims, a.dims()], &mut out)?;
        cx.set(0, out);
        Ok(())
    }
}

fn equal_strings(cx: &mut Context<'_>) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let dims = cx.broadcast(0, 1)?;
    let plan = Broadcast::new([a.dims(), b.dims()], &dims)?;
    let (a, b) = (Strings::new(a)?, Strings::new(b)?);
    let mut out = cx.output(0, DType::Bool, &dims)?;
    let flags = out.as_mut_slice::<Bool>()?;
    plan.for_each_row(0..plan.len(), |at, len, [from_a, from_b]| {
        for (k, flag) in flags[at..at + len].iter_mut().enumerate() {
            let a = a.get(from_a + if plan.repeats(0) { 0 } else { k });
            let b = b.get(from_b + if plan.repeats(1) { 0 } else { k });
            *flag = Bool(u8::from(a == b));
        }
    });
    cx.set(0, out);
    Ok(())
}

fn equal(dtype: DType) -> Option<BinaryRow> {
    if dtype == DType::Bool {
        return Some(binary_row::<Bool, Same>);
    }
    floats::<Equal>(dtype).or_else(|| unsigned::<Equal>(without_sign(dtype)))
}

fn less(dtype: DType) -> Option<BinaryRow> {
    floats::<Less>(dtype).or_else(|| integers::<Less>(dtype))
}

fn less_or_equal(dtype: DType) -> Option<BinaryRow> {
    floats::<LessOrEqual>(dtype).or_else(|| integers::<LessOrEqual>(dtype))
}

fn truth<P: BinaryOp<Bool>>(dtype: DType) -> Option<BinaryRow> {
    (dtype == DType::Bool).then_some(binary_row::<Bool, P> as BinaryRow)
}

/// Defines builders of predicates: their loop and whether the operands are swapped.
macro_rules! predicates {
    ($($op_type:literal $builder:ident => $select:expr, $swap:literal;)*) => {
        $(
            fn $builder(node: &Node) -> Result<Box<dyn Kernel>> {
                let legacy = Legacy::of(node)?;
                Predicate { op_type: $op_type, select: $select, legacy, swap: $swap }.build(node)
            }
        )*
    };
}

predicates! {
    "Equal" build_equal => equal, false;
    "Less" build_less => less, false;
    "LessOrEqual" build_less_or_equal => less_or_equal, false;
    "Greater" build_greater => less, true;
    "GreaterOrEqual" build_greater_or_equal => less_or_equal, true;
    "And" build_and => truth::<And>, false;
    "Or" build_or => truth::<Or>, false;
    "Xor" build_xor => truth::<Xor>, false;
}

fn bits<P>(dtype: DType) -> Option<BinaryLoop>
where
    P: BinaryOp<u8> + BinaryOp<u16> + BinaryOp<u32> + BinaryOp<u64>,
{
    unsigned::<P>(without_sign(dtype)).map(BinaryLoop::Typed)
}

/// Defines builders of bit operators.
macro_rules! bit_builders {
    ($($op_type:literal $builder:ident => $function:ident;)*) => {
        $(
            fn $builder(node: &Node) -> Result<Box<dyn Kernel>> {
                let select = bits::<$function>;
                Arithmetic { op_type: $op_type, select, params: [0.0; 2], legacy: Legacy::No }.build(node)
            }
        )*
    };
}

bit_builders! {
    "BitwiseAnd" build_bit_and => BitAnd;
    "BitwiseOr" build_bit_or => BitOr;
    "BitwiseXor" build_bit_xor => BitXor;
}

fn build_shift(node: &Node) -> Result<Box<dyn Kernel>> {
    let select: fn(DType) -> Option<BinaryLoop> = match node.string("direction", "")? {
        "LEFT" => |dtype| integers::<ShiftLeft>(dtype).map(BinaryLoop::Typed),
        "RIGHT" => |dtype| integers::<ShiftRight>(dtype).map(BinaryLoop::Typed),
        other => {
            return Err(OpError::invalid(format!(
                "attribute 'direction' must be LEFT or RIGHT, got '{other}'"
            )));
        }
    };
    Arithmetic { op_type: "BitShift", select, params: [0.0; 2], legacy: Legacy::No }.build(node)
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Equal", 1, NEWEST, build_equal),
    Operator::onnx("Less", 1, NEWEST, build_less),
    Operator::onnx("LessOrEqual", 12, NEWEST, build_less_or_equal),
    Operator::onnx("Greater", 1, NEWEST, build_greater),
    Operator::onnx("GreaterOrEqual", 12, NEWEST, build_greater_or_equal),
    Operator::onnx("And", 1, NEWEST, build_and),
    Operator::onnx("Or", 1, NEWEST, build_or),
    Operator::onnx("Xor", 1, NEWEST, build_xor),
    Operator::onnx("BitwiseAnd", 18, NEWEST, build_bit_and),
    Operator::onnx("BitwiseOr", 18, NEWEST, build_bit_or),
    Operator::onnx("BitwiseXor", 18, NEWEST, build_bit_xor),
    Operator::onnx("BitShift", 11, NEWEST, build_shift),
];
