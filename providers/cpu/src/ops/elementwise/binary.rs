//! Arithmetic operators of two operands with broadcasting: Add, Sub, Mul, Div, Mod, PRelu, SwiGLU.

use tenon_kernels::cpu::elementwise::Binary;

use super::row::{BinaryLoop, BinaryOp, BinaryRow, Params, UnaryOp, binary_row, run_binary};
use super::unary;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims};

/// An operator whose loop follows from the element type alone; operands and result have one type.
pub struct Arithmetic {
    pub op_type: &'static str,
    pub select: fn(DType) -> Option<BinaryLoop>,
    pub params: Params,
    pub legacy: Legacy,
}

/// How the second operand lines up with the first before opset 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// Multidirectional broadcasting: trailing dimensions line up.
    No,
    /// The second operand's dimensions line up with the first's from this axis on.
    Axis(i64),
}

impl Legacy {
    /// Reads the attributes `broadcast` and `axis` of a node older than opset 7.
    pub fn of(node: &Node) -> Result<Legacy> {
        if node.version >= 7 || !node.flag("broadcast", false)? {
            return Ok(Legacy::No);
        }
        Ok(node.optional_int("axis")?.map_or(Legacy::No, Legacy::Axis))
    }

    /// The shape with which the second operand is read, where it is not its own.
    pub fn align(self, a: &[usize], b: &[usize]) -> Result<Option<Dims>> {
        let Legacy::Axis(axis) = self else { return Ok(None) };
        let axis = crate::shape::axis(axis, a.len().max(1))?;
        let tail = a.len().checked_sub(axis + b.len()).ok_or_else(|| {
            OpError::invalid(format!("shape {b:?} placed at axis {axis} does not fit inside shape {a:?}"))
        })?;
        let mut dims: Dims = b.into();
        dims.resize(b.len() + tail, 1);
        Ok(Some(dims))
    }
}

impl Arithmetic {
    /// The kernel of `node`. Errors when its inputs are known to be of a type without a loop.
    pub fn build(self, node: &Node) -> Result<Box<dyn Kernel>> {
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

impl Kernel for Arithmetic {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let dtype = a.dtype();
        check_same_type(dtype, b.dtype())?;
        let body = (self.select)(dtype).ok_or_else(|| self.refuse(dtype))?;
        let dims = self.legacy.align(a.dims(), b.dims())?;
        run_binary(cx, body, self.params, dims.as_deref(), dtype)
    }
}

/// Errors when two operands differ in element type.
pub fn check_same_type(a: DType, b: DType) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(OpError::invalid(format!("operands must have one element type, got {a} and {b}")))
}

/// Defines two-operand functions for floats, then for integers.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident |$p:ident, $a:ident, $b:ident| float $float:expr, integer $integer:expr;)*) => {
        $(
            $(#[$doc])*
            pub struct $name;
            functions!(@ $name, $p, $a, $b, $float, f32 f64);
            functions!(@ $name, $p, $a, $b, $integer, i8 i16 i32 i64 u8 u16 u32 u64);
        )*
    };
    (@ $name:ident, $p:ident, $a:ident, $b:ident, $body:expr, $($t:ident)*) => {
        $(
            impl BinaryOp<$t> for $name {
                type Output = $t;
                #[inline(always)]
                fn apply($p: &Params, $a: $t, $b: $t) -> $t {
                    let _ = $p;
                    $body
                }
            }
        )*
    };
}

functions! {
    Add |p, a, b| float a + b, integer a.wrapping_add(b);
    Sub |p, a, b| float a - b, integer a.wrapping_sub(b);
    Mul |p, a, b| float a * b, integer a.wrapping_mul(b);
    /// Integers divide towards zero; division by zero gives zero.
    Div |p, a, b| float a / b, integer if b == 0 { 0 } else { a.wrapping_div(b) };
    /// The result has the divisor's sign; integers modulo zero give zero.
    FloorMod |p, a, b|
        float if a % b == 0.0 { (a % b).copysign(b) } else { towards_divisor(a % b, b) },
        integer if b == 0 { 0 } else { towards_divisor(a.wrapping_rem(b), b) };
    /// The result has the dividend's sign; integers modulo zero give zero.
    TruncMod |p, a, b| float a % b, integer if b == 0 { 0 } else { a.wrapping_rem(b) };
    /// NaN when either is.
    Min |p, a, b| float if a < b || a.is_nan() { a } else { b }, integer a.min(b);
    /// NaN when either is.
    Max |p, a, b| float if a > b || a.is_nan() { a } else { b }, integer a.max(b);
}

/// The remainder of a division that rounds down, given that of one that rounds towards zero.
#[inline(always)]
fn towards_divisor<T: Copy + Default + PartialOrd + std::ops::Add<Output = T>>(
    remainder: T,
    divisor: T,
) -> T {
    let zero = T::default();
    if remainder != zero && (remainder < zero) != (divisor < zero) { remainder + divisor } else { remainder }
}

/// The parametric rectifier: the second operand is the slope of the negative side.
struct PRelu;

/// Swish of the first operand times the second, `alpha = p[0]`.
struct SwiGlu;

macro_rules! gated {
    ($($t:ident)*) => {
        $(
            impl BinaryOp<$t> for PRelu {
                type Output = $t;
                #[inline(always)]
                fn apply(_: &Params, x: $t, slope: $t) -> $t {
                    if x < 0.0 { x * slope } else { x }
                }
            }
            impl BinaryOp<$t> for SwiGlu {
                type Output = $t;
                #[inline(always)]
                fn apply(params: &Params, gate: $t, x: $t) -> $t {
                    <unary::Swish as UnaryOp<$t>>::apply(params, gate) * x
                }
            }
        )*
    };
}
gated! { f32 f64 }

macro_rules! integer_prelu {
    ($($t:ident)*) => {
        $(
            impl BinaryOp<$t> for PRelu {
                type Output = $t;
                #[inline(always)]
                fn apply(_: &Params, x: $t, slope: $t) -> $t {
                    if x < 0 { x.wrapping_mul(slope) } else { x }
                }
            }
        )*
    };
}
integer_prelu! { i32 i64 }

/// The loop of `P` over floats.
pub fn floats<P: BinaryOp<f32> + BinaryOp<f64>>(dtype: DType) -> Option<BinaryRow> {
    Some(match dtype {
        DType::F32 | DType::F16 | DType::BF16 => binary_row::<f32, P>,
        DType::F64 => binary_row::<f64, P>,
        _ => return None,
    })
}

/// The loop of `P` over integers of at least 8 bits.
pub fn integers<P>(dtype: DType) -> Option<BinaryRow>
where
    P: BinaryOp<i8> + BinaryOp<i16> + BinaryOp<i32> + BinaryOp<i64>,
    P: BinaryOp<u8> + BinaryOp<u16> + BinaryOp<u32> + BinaryOp<u64>,
{
    Some(match dtype {
        DType::I8 => binary_row::<i8, P>,
        DType::I16 => binary_row::<i16, P>,
        DType::I32 => binary_row::<i32, P>,
        DType::I64 => binary_row::<i64, P>,
        _ => return unsigned::<P>(dtype),
    })
}

/// The loop of `P` over unsigned integers of at least 8 bits.
pub fn unsigned<P>(dtype: DType) -> Option<BinaryRow>
where
    P: BinaryOp<u8> + BinaryOp<u16> + BinaryOp<u32> + BinaryOp<u64>,
{
    Some(match dtype {
        DType::U8 => binary_row::<u8, P>,
        DType::U16 => binary_row::<u16, P>,
        DType::U32 => binary_row::<u32, P>,
        DType::U64 => binary_row::<u64, P>,
        _ => return None,
    })
}

/// The unsigned type of the width of an integer type, for operators that do not see the sign.
pub fn without_sign(dtype: DType) -> DType {
    match dtype {
        DType::I8 => DType::U8,
        DType::I16 => DType::U16,
        DType::I32 => DType::U32,
        DType::I64 => DType::U64,
        other => other,
    }
}

/// The loop of `P`, for f32 the vector kernel.
fn vector_or<P>(vector: Binary, dtype: DType, typed: fn(DType) -> Option<BinaryRow>) -> Option<BinaryLoop>
where
    P: BinaryOp<f64>,
{
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Some(BinaryLoop::Vector(vector)),
        DType::F64 => Some(BinaryLoop::Typed(binary_row::<f64, P>)),
        _ => typed(dtype).map(BinaryLoop::Typed),
    }
}

pub fn add(dtype: DType) -> Option<BinaryLoop> {
    vector_or::<Add>(Binary::Add, dtype, |dtype| unsigned::<Add>(without_sign(dtype)))
}

fn sub(dtype: DType) -> Option<BinaryLoop> {
    vector_or::<Sub>(Binary::Sub, dtype, |dtype| unsigned::<Sub>(without_sign(dtype)))
}

fn mul(dtype: DType) -> Option<BinaryLoop> {
    vector_or::<Mul>(Binary::Mul, dtype, |dtype| unsigned::<Mul>(without_sign(dtype)))
}

fn div(dtype: DType) -> Option<BinaryLoop> {
    vector_or::<Div>(Binary::Div, dtype, integers::<Div>)
}

pub fn min(dtype: DType) -> Option<BinaryLoop> {
    vector_or::<Min>(Binary::Min, dtype, integers::<Min>)
}

pub fn max(dtype: DType) -> Option<BinaryLoop> {
    vector_or::<Max>(Binary::Max, dtype, integers::<Max>)
}

fn floor_mod(dtype: DType) -> Option<BinaryLoop> {
    floats::<FloorMod>(dtype).or_else(|| integers::<FloorMod>(dtype)).map(BinaryLoop::Typed)
}

fn trunc_mod(dtype: DType) -> Option<BinaryLoop> {
    floats::<TruncMod>(dtype).or_else(|| integers::<TruncMod>(dtype)).map(BinaryLoop::Typed)
}

fn swiglu(dtype: DType) -> Option<BinaryLoop> {
    floats::<SwiGlu>(dtype).map(BinaryLoop::Typed)
}

fn prelu(dtype: DType) -> Option<BinaryLoop> {
    let integer = || match dtype {
        DType::I32 => Some(binary_row::<i32, PRelu> as BinaryRow),
        DType::I64 => Some(binary_row::<i64, PRelu> as BinaryRow),
        // Unsigned elements are never negative.
        DType::U32 | DType::U64 => unsigned::<First>(dtype),
        _ => None,
    };
    floats::<PRelu>(dtype).or_else(integer).map(BinaryLoop::Typed)
}

/// The first operand.
struct First;

macro_rules! first {
    ($($t:ident)*) => {
        $(
            impl BinaryOp<$t> for First {
                type Output = $t;
                #[inline(always)]
                fn apply(_: &Params, a: $t, _: $t) -> $t {
                    a
                }
            }
        )*
    };
}
first! { u8 u16 u32 u64 }

fn build_prelu(node: &Node) -> Result<Box<dyn Kernel>> {
    if node.version >= 7 {
        return Arithmetic { op_type: "PRelu", select: prelu, params: [0.0; 2], legacy: Legacy::No }
            .build(node);
    }
    Ok(Box::new(ChannelPRelu))
}

/// PRelu before opset 7: one slope, or one a channel (axis 1).
struct ChannelPRelu;

impl Kernel for ChannelPRelu {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, slope) = (cx.input(0)?, cx.input(1)?);
        let dtype = x.dtype();
        check_same_type(dtype, slope.dtype())?;
        let body = prelu(dtype)
            .ok_or_else(|| OpError::unsupported(format!("PRelu is not defined for element type {dtype}")))?;
        let per_channel = slope.rank() == 1 && slope.len() != 1 && x.rank() > 1;
        let legacy = if per_channel { Legacy::Axis(1) } else { Legacy::No };
        let dims = legacy.align(x.dims(), slope.dims())?;
        run_binary(cx, body, [0.0; 2], dims.as_deref(), dtype)
    }
}

/// Defines builders of operators whose only attributes are the legacy broadcasting ones.
macro_rules! builders {
    ($($op_type:literal $builder:ident => $select:ident;)*) => {
        $(
            fn $builder(node: &Node) -> Result<Box<dyn Kernel>> {
                let legacy = Legacy::of(node)?;
                Arithmetic { op_type: $op_type, select: $select, params: [0.0; 2], legacy }.build(node)
            }
        )*
    };
}

builders! {
    "Add" build_add => add;
    "Sub" build_sub => sub;
    "Mul" build_mul => mul;
    "Div" build_div => div;
}

fn build_mod(node: &Node) -> Result<Box<dyn Kernel>> {
    let select = if node.flag("fmod", false)? { trunc_mod } else { floor_mod };
    Arithmetic { op_type: "Mod", select, params: [0.0; 2], legacy: Legacy::No }.build(node)
}

fn build_swiglu(node: &Node) -> Result<Box<dyn Kernel>> {
    let params = [node.float("alpha", 1.0)?, 0.0];
    Arithmetic { op_type: "SwiGLU", select: swiglu, params, legacy: Legacy::No }.build(node)
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Add", 1, NEWEST, build_add),
    Operator::onnx("Sub", 1, NEWEST, build_sub),
    Operator::onnx("Mul", 1, NEWEST, build_mul),
    Operator::onnx("Div", 1, NEWEST, build_div),
    Operator::onnx("Mod", 10, NEWEST, build_mod),
    Operator::onnx("PRelu", 1, NEWEST, build_prelu),
    Operator::onnx("SwiGLU", 28, NEWEST, build_swiglu),
];
