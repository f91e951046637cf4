//! Operators of one float operand: mathematical functions and activations, with their parameters.

use tenon_kernels::cpu::elementwise::Unary;

use super::row::{Params, UnaryLoop, UnaryOp, UnaryRow, run_unary, unary_row};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::DType;

/// Defines float functions once for f32 and f64; `p` is the operator's two numbers.
macro_rules! float_functions {
    ($($(#[$doc:meta])* $name:ident |$x:ident, $p:ident| $body:expr;)*) => {
        $(
            $(#[$doc])*
            pub struct $name;
            impl UnaryOp<f32> for $name {
                #[inline(always)]
                fn apply($p: &Params, $x: f32) -> f32 {
                    let _ = $p;
                    $body
                }
            }
            impl UnaryOp<f64> for $name {
                #[inline(always)]
                fn apply(params: &Params, $x: f64) -> f64 {
                    let $p = &[f64::from(params[0]), f64::from(params[1])];
                    let _ = $p;
                    $body
                }
            }
        )*
    };
}

/// The functions whose f32 and f64 forms are not both in the standard library.
pub trait Special: Sized {
    fn error_function(self) -> Self;
    /// `ln(1 + exp(x))` without overflow.
    fn softplus(self) -> Self;
    /// `1 / (1 + exp(-x))` without overflow.
    fn sigmoid(self) -> Self;
    /// `-1`, `0` or `1`; NaN stays NaN.
    fn sign(self) -> Self;
    /// `x Φ(x)`.
    fn gelu(self) -> Self;
    /// Gelu with Φ approximated by tanh.
    fn gelu_tanh(self) -> Self;
    /// The larger value; NaN when `self` is.
    fn at_least(self, low: Self) -> Self;
    /// The smaller value; NaN when `self` is.
    fn at_most(self, high: Self) -> Self;
}

macro_rules! special {
    ($t:ident, $erf:path) => {
        impl Special for $t {
            #[inline(always)]
            fn error_function(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn softplus(self) -> Self {
                let tail = (-self.abs()).exp().ln_1p();
                if self > 0.0 { self + tail } else { tail }
            }
            #[inline(always)]
            fn sigmoid(self) -> Self {
                let e = (-self.abs()).exp();
                let numerator = if self >= 0.0 { 1.0 } else { e };
                numerator / (1.0 + e)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else if self == 0.0 {
                    0.0
                } else {
                    self
                }
            }
            #[inline(always)]
            fn gelu(self) -> Self {
                0.5 * self * (1.0 + (self * std::$t::consts::FRAC_1_SQRT_2).error_function())
            }
            #[inline(always)]
            fn gelu_tanh(self) -> Self {
                let root = std::$t::consts::FRAC_2_SQRT_PI * std::$t::consts::FRAC_1_SQRT_2;
                0.5 * self * (1.0 + (root * (self + 0.044715 * self * self * self)).tanh())
            }
            #[inline(always)]
            fn at_least(self, low: Self) -> Self {
                if self < low { low } else { self }
            }
            #[inline(always)]
            fn at_most(self, high: Self) -> Self {
                if self > high { high } else { self }
            }
        }
    };
}
special!(f32, libm::erff);
special!(f64, libm::erf);

float_functions! {
    Acos |x, p| x.acos();
    Acosh |x, p| x.acosh();
    Asin |x, p| x.asin();
    Asinh |x, p| x.asinh();
    Atan |x, p| x.atan();
    /// Odd, so that arguments near -1 are as exact as those near 1.
    Atanh |x, p| x.abs().atanh().copysign(x);
    Cos |x, p| x.cos();
    Cosh |x, p| x.cosh();
    Sin |x, p| x.sin();
    Sinh |x, p| x.sinh();
    Tan |x, p| x.tan();
    Tanh |x, p| x.tanh();
    Ceil |x, p| x.ceil();
    Floor |x, p| x.floor();
    Round |x, p| x.round_ties_even();
    Reciprocal |x, p| 1.0 / x;
    Sqrt |x, p| x.sqrt();
    Exp |x, p| x.exp();
    Log |x, p| x.ln();
    Erf |x, p| x.error_function();
    Sigmoid |x, p| x.sigmoid();
    Softplus |x, p| x.softplus();
    Softsign |x, p| x / (1.0 + x.abs());
    HardSwish |x, p| x * (x / 6.0 + 0.5).at_least(0.0).at_most(1.0);
    Mish |x, p| x * x.softplus().tanh();
    Abs |x, p| x.abs();
    Neg |x, p| -x;
    Sign |x, p| x.sign();
    Relu |x, p| x.at_least(0.0);
    /// `alpha = p[0]`.
    LeakyRelu |x, p| if x < 0.0 { x * p[0] } else { x };
    /// `alpha = p[0]`.
    Elu |x, p| if x < 0.0 { p[0] * x.exp_m1() } else { x };
    /// `alpha = p[0]`.
    Celu |x, p| x.at_least(0.0) + (p[0] * (x / p[0]).exp_m1()).at_most(0.0);
    /// `alpha = p[0]`, `gamma = p[1]`.
    Selu |x, p| p[1] * (if x > 0.0 { x } else { p[0] * x.exp_m1() });
    /// `alpha = p[0]`.
    ThresholdedRelu |x, p| if x > p[0] { x } else { 0.0 };
    /// `alpha = p[0]`, `beta = p[1]`.
    HardSigmoid |x, p| (x * p[0] + p[1]).at_least(0.0).at_most(1.0);
    /// `alpha = p[0]`.
    Swish |x, p| x * (x * p[0]).sigmoid();
    Gelu |x, p| x.gelu();
    GeluTanh |x, p| x.gelu_tanh();
    /// `alpha = p[0]`, `beta = p[1]`.
    ScaledTanh |x, p| p[0] * (p[1] * x).tanh();
    /// `alpha = p[0]`, `beta = p[1]`.
    ParametricSoftplus |x, p| p[0] * (p[1] * x).softplus();
    /// `alpha = p[0]`, `beta = p[1]`.
    Affine |x, p| p[0] * x + p[1];
}

/// A function of one float: its f32 and f64 forms and, where there is one, its vector kernel.
#[derive(Clone, Copy)]
pub struct FloatFunction {
    f32: UnaryLoop,
    f64: UnaryRow,
    params: Params,
}

impl FloatFunction {
    /// The function with numbers `params`.
    pub fn scalar<P: UnaryOp<f32> + UnaryOp<f64>>(params: Params) -> Self {
        Self { f32: UnaryLoop::Typed(unary_row::<f32, P>), f64: unary_row::<f64, P>, params }
    }

    /// The function with numbers `params` and a vector kernel for f32.
    pub fn vector<P: UnaryOp<f64>>(vector: Unary, params: Params) -> Self {
        Self { f32: UnaryLoop::Vector(vector), f64: unary_row::<f64, P>, params }
    }

    /// The loop for tensors of `dtype`.
    pub fn select(&self, dtype: DType) -> Option<UnaryLoop> {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Some(self.f32),
            DType::F64 => Some(UnaryLoop::Typed(self.f64)),
            _ => None,
        }
    }

    /// Input 0 to output 0.
    pub fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let body = self.select(dtype).ok_or_else(|| not_a_float(dtype))?;
        run_unary(cx, body, self.params, dtype)
    }

    /// The kernel of `node`. Errors when its input is known not to be of a float type.
    pub fn build(self, node: &Node) -> Result<Box<dyn Kernel>> {
        let dtype = node.input_dtype(0);
        if dtype != DType::Undefined && self.select(dtype).is_none() {
            return Err(not_a_float(dtype));
        }
        Ok(Box::new(self))
    }
}

impl Kernel for FloatFunction {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        FloatFunction::run(self, cx)
    }
}

fn not_a_float(dtype: DType) -> OpError {
    OpError::unsupported(format!(
        "element type {dtype} is not a float type (float, float16, bfloat16, double)"
    ))
}

fn plain<P: UnaryOp<f32> + UnaryOp<f64>>(node: &Node) -> Result<Box<dyn Kernel>> {
    FloatFunction::scalar::<P>([0.0; 2]).build(node)
}

/// The function `P` with attribute `first` and, where named, `second` as its numbers.
fn with_numbers<P: UnaryOp<f64>>(
    node: &Node,
    first: (&str, f32),
    second: Option<(&str, f32)>,
    vector: fn(f32, f32) -> Unary,
) -> Result<Box<dyn Kernel>> {
    let alpha = node.float(first.0, first.1)?;
    let beta = second.map_or(Ok(0.0), |(name, default)| node.float(name, default))?;
    FloatFunction::vector::<P>(vector(alpha, beta), [alpha, beta]).build(node)
}

fn scaled<P: UnaryOp<f32> + UnaryOp<f64>>(node: &Node) -> Result<Box<dyn Kernel>> {
    let params =
        [node.float("alpha", 1.0)?, node.float("beta", if node.op_type == "Affine" { 0.0 } else { 1.0 })?];
    FloatFunction::scalar::<P>(params).build(node)
}

fn selu(node: &Node) -> Result<Box<dyn Kernel>> {
    let (alpha, gamma) = if node.version < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
    with_numbers::<Selu>(node, ("alpha", alpha), Some(("gamma", gamma)), |alpha, gamma| Unary::Selu {
        alpha,
        gamma,
    })
}

fn gelu(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.string("approximate", "none")? {
        "none" => FloatFunction::vector::<Gelu>(Unary::Gelu, [0.0; 2]).build(node),
        "tanh" => FloatFunction::vector::<GeluTanh>(Unary::GeluTanh, [0.0; 2]).build(node),
        other => {
            Err(OpError::invalid(format!("attribute 'approximate' must be 'none' or 'tanh', got '{other}'")))
        }
    }
}

fn scale(node: &Node) -> Result<Box<dyn Kernel>> {
    let factor = node.float("scale", 1.0)?;
    FloatFunction::vector::<Affine>(Unary::Affine { scale: factor, shift: 0.0 }, [factor, 0.0]).build(node)
}

/// Defines builders of functions that have a vector kernel and no numbers.
macro_rules! vector_builders {
    ($($builder:ident => $function:ident;)*) => {
        $(
            fn $builder(node: &Node) -> Result<Box<dyn Kernel>> {
                FloatFunction::vector::<$function>(Unary::$function, [0.0; 2]).build(node)
            }
        )*
    };
}

vector_builders! {
    ceil => Ceil;
    floor => Floor;
    round => Round;
    reciprocal => Reciprocal;
    sqrt => Sqrt;
    exp => Exp;
    log => Log;
    erf => Erf;
    tanh => Tanh;
    sigmoid => Sigmoid;
    softplus => Softplus;
    softsign => Softsign;
    hard_swish => HardSwish;
    mish => Mish;
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Acos", 7, NEWEST, plain::<Acos>),
    Operator::onnx("Acosh", 9, NEWEST, plain::<Acosh>),
    Operator::onnx("Asin", 7, NEWEST, plain::<Asin>),
    Operator::onnx("Asinh", 9, NEWEST, plain::<Asinh>),
    Operator::onnx("Atan", 7, NEWEST, plain::<Atan>),
    Operator::onnx("Atanh", 9, NEWEST, plain::<Atanh>),
    Operator::onnx("Cos", 7, NEWEST, plain::<Cos>),
    Operator::onnx("Cosh", 9, NEWEST, plain::<Cosh>),
    Operator::onnx("Sin", 7, NEWEST, plain::<Sin>),
    Operator::onnx("Sinh", 9, NEWEST, plain::<Sinh>),
    Operator::onnx("Tan", 7, NEWEST, plain::<Tan>),
    Operator::onnx("Tanh", 1, NEWEST, tanh),
    Operator::onnx("Ceil", 1, NEWEST, ceil),
    Operator::onnx("Floor", 1, NEWEST, floor),
    Operator::onnx("Round", 11, NEWEST, round),
    Operator::onnx("Reciprocal", 1, NEWEST, reciprocal),
    Operator::onnx("Sqrt", 1, NEWEST, sqrt),
    Operator::onnx("Exp", 1, NEWEST, exp),
    Operator::onnx("Log", 1, NEWEST, log),
    Operator::onnx("Erf", 9, NEWEST, erf),
    Operator::onnx("Sigmoid", 1, NEWEST, sigmoid),
    Operator::onnx("Softplus", 1, NEWEST, softplus),
    Operator::onnx("Softsign", 1, NEWEST, softsign),
    Operator::onnx("HardSwish", 14, NEWEST, hard_swish),
    Operator::onnx("Mish", 18, NEWEST, mish),
    Operator::onnx("Gelu", 20, NEWEST, gelu),
    Operator::of("com.microsoft", "Gelu", gelu),
    Operator::onnx("LeakyRelu", 1, NEWEST, |node| {
        with_numbers::<LeakyRelu>(node, ("alpha", 0.01), None, |alpha, _| Unary::LeakyRelu { alpha })
    }),
    Operator::onnx("Elu", 1, NEWEST, |node| {
        with_numbers::<Elu>(node, ("alpha", 1.0), None, |alpha, _| Unary::Elu { alpha })
    }),
    Operator::onnx("Celu", 12, NEWEST, |node| {
        with_numbers::<Celu>(node, ("alpha", 1.0), None, |alpha, _| Unary::Celu { alpha })
    }),
    Operator::onnx("Selu", 1, NEWEST, selu),
    Operator::onnx("ThresholdedRelu", 1, NEWEST, |node| {
        FloatFunction::scalar::<ThresholdedRelu>([node.float("alpha", 1.0)?, 0.0]).build(node)
    }),
    Operator::onnx("HardSigmoid", 1, NEWEST, |node| {
        with_numbers::<HardSigmoid>(node, ("alpha", 0.2), Some(("beta", 0.5)), |alpha, beta| {
            Unary::HardSigmoid { alpha, beta }
        })
    }),
    Operator::onnx("Swish", 24, NEWEST, |node| {
        with_numbers::<Swish>(node, ("alpha", 1.0), None, |alpha, _| Unary::Swish { alpha })
    }),
    Operator::of("com.microsoft", "QuickGelu", |node| {
        with_numbers::<Swish>(node, ("alpha", 1.702), None, |alpha, _| Unary::Swish { alpha })
    }),
    Operator::onnx("ScaledTanh", 1, NEWEST, scaled::<ScaledTanh>),
    Operator::onnx("ParametricSoftplus", 1, NEWEST, scaled::<ParametricSoftplus>),
    Operator::onnx("Affine", 1, NEWEST, scaled::<Affine>),
    Operator::onnx("Scale", 1, NEWEST, scale),
];
