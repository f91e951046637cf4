//! Activation functions as element-wise expressions, and as what follows a product.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::product::Activation;
use tenon_plugin_api::AttributeView;

use super::Family;
use super::elementwise::Formula;
use crate::map::Leaf::{self, Number};
use crate::operator::{Decline, Lowered, Lowering};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        domain: "",
        op_types: &[
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Elu",
            "Celu",
            "Selu",
            "ThresholdedRelu",
            "HardSigmoid",
            "HardSwish",
            "Sigmoid",
            "Tanh",
            "Softplus",
            "Softsign",
            "Mish",
            "Gelu",
            "Swish",
            "Shrink",
        ],
        lower: activation,
    },
    Family { domain: "", op_types: &["Clip"], lower: clip },
    Family {
        domain: "com.microsoft",
        op_types: &["Gelu", "QuickGelu", "BiasGelu", "FastGelu"],
        lower: biased,
    },
];

fn activation(l: &Lowering<'_>) -> Lowered {
    let mut f = Formula::real(l)?;
    let x = f.input(0)?;
    let number = |name: &str, default: f32| -> Result<Leaf, Decline> {
        Ok(Number(f64::from(l.node.float_or(name, default)?)))
    };
    match l.node.op_type() {
        "Relu" => f.binary(MapOp::Max, x, Number(0.0)),
        "LeakyRelu" => {
            let scaled = f.binary(MapOp::Multiply, x, number("alpha", 0.01)?);
            below_zero(&mut f, x, scaled)
        }
        "PRelu" => {
            let slope = f.input(1)?;
            let scaled = f.binary(MapOp::Multiply, x, slope);
            below_zero(&mut f, x, scaled)
        }
        "Elu" => {
            let curve = f.unary(MapOp::Expm1, x);
            let scaled = f.binary(MapOp::Multiply, curve, number("alpha", 1.0)?);
            below_zero(&mut f, x, scaled)
        }
        "Celu" => {
            let alpha = number("alpha", 1.0)?;
            let inner = f.binary(MapOp::Divide, x, alpha);
            let curve = f.unary(MapOp::Expm1, inner);
            let scaled = f.binary(MapOp::Multiply, curve, alpha);
            below_zero(&mut f, x, scaled)
        }
        "Selu" => {
            let curve = f.unary(MapOp::Expm1, x);
            let scaled = f.binary(MapOp::Multiply, curve, number("alpha", 1.673_263_2)?);
            let both = below_zero(&mut f, x, scaled);
            f.binary(MapOp::Multiply, both, number("gamma", 1.050_701)?)
        }
        "ThresholdedRelu" => {
            let is_above = f.binary(MapOp::Greater, x, number("alpha", 1.0)?);
            f.select(is_above, x, Number(0.0))
        }
        "HardSigmoid" => {
            let scaled = f.binary(MapOp::Multiply, x, number("alpha", 0.2)?);
            let shifted = f.binary(MapOp::Add, scaled, number("beta", 0.5)?);
            unit_interval(&mut f, shifted)
        }
        "HardSwish" => {
            let scaled = f.binary(MapOp::Multiply, x, Number(1.0 / 6.0));
            let shifted = f.binary(MapOp::Add, scaled, Number(0.5));
            let gate = unit_interval(&mut f, shifted);
            f.binary(MapOp::Multiply, gate, x)
        }
        "Sigmoid" => f.unary(MapOp::Sigmoid, x),
        "Tanh" => f.unary(MapOp::Tanh, x),
        "Softplus" => f.unary(MapOp::Softplus, x),
        "Softsign" => {
            let size = f.unary(MapOp::Absolute, x);
            let divisor = f.binary(MapOp::Add, size, Number(1.0));
            f.binary(MapOp::Divide, x, divisor)
        }
        "Mish" => {
            let plus = f.unary(MapOp::Softplus, x);
            let gate = f.unary(MapOp::Tanh, plus);
            f.binary(MapOp::Multiply, gate, x)
        }
        "Gelu" if l.node.text_or("approximate", "none")? == "tanh" => f.unary(MapOp::GeluTanh, x),
        "Gelu" => f.unary(MapOp::Gelu, x),
        "Swish" => f.binary(MapOp::Silu, x, number("alpha", 1.0)?),
        _ => {
            let (lambda, bias) = (l.node.float_or("lambd", 0.5)?, number("bias", 0.0)?);
            let is_high = f.binary(MapOp::Greater, x, Number(f64::from(lambda)));
            let is_low = f.binary(MapOp::Less, x, Number(f64::from(-lambda)));
            let lifted = f.binary(MapOp::Add, x, bias);
            let lowered = f.binary(MapOp::Subtract, x, bias);
            let rest = f.select(is_low, lifted, Number(0.0));
            f.select(is_high, lowered, rest)
        }
    };
    f.finish()
}

/// `scaled` where x is below 0, else x.
fn below_zero(f: &mut Formula<'_, '_>, x: Leaf, scaled: Leaf) -> Leaf {
    let is_below = f.binary(MapOp::Less, x, Number(0.0));
    f.select(is_below, scaled, x)
}

fn unit_interval(f: &mut Formula<'_, '_>, x: Leaf) -> Leaf {
    let above = f.binary(MapOp::Max, x, Number(0.0));
    f.binary(MapOp::Min, above, Number(1.0))
}

fn clip(l: &Lowering<'_>) -> Lowered {
    if l.scalar(0)? == tenon_kernels::gpu::scalar::Scalar::U64 {
        return Err(Decline::new("unsigned 64-bit integers have no GPU kernel for this operator"));
    }
    let mut f = Formula::new(l, crate::map::class_of(l.scalar(0)?));
    let x = f.input(0)?;
    let attribute = |name| match l.node.attribute(name) {
        Some(AttributeView::Float(value)) => Some(Number(f64::from(value))),
        _ => None,
    };
    let low = if l.has_input(1) { Some(f.input(1)?) } else { attribute("min") };
    let high = if l.has_input(2) { Some(f.input(2)?) } else { attribute("max") };
    let mut result = x;
    if let Some(low) = low {
        result = f.binary(MapOp::Max, result, low);
    }
    if let Some(high) = high {
        result = f.binary(MapOp::Min, result, high);
    }
    if result == x {
        f.unary(MapOp::Move, x);
    }
    f.finish()
}

fn biased(l: &Lowering<'_>) -> Lowered {
    let mut f = Formula::real(l)?;
    let mut x = f.input(0)?;
    if l.has_input(1) {
        let bias = f.input(1)?;
        x = f.binary(MapOp::Add, x, bias);
    }
    match l.node.op_type() {
        "QuickGelu" => f.binary(MapOp::Silu, x, Number(f64::from(l.node.float_or("alpha", 1.702)?))),
        "FastGelu" => f.unary(MapOp::GeluTanh, x),
        _ => f.unary(MapOp::Gelu, x),
    };
    f.finish()
}

/// The activation that attributes of a fused product or convolution name.
pub(super) fn fused(l: &Lowering<'_>) -> Result<Activation, Decline> {
    let parameters = match l.node.attribute("activation_params") {
        Some(AttributeView::Floats(values)) => values,
        _ => &[],
    };
    let first = |default: f32| parameters.first().copied().unwrap_or(default);
    let second = |default: f32| parameters.get(1).copied().unwrap_or(default);
    Ok(match l.node.text_or("activation", "")? {
        "" => Activation::None,
        "Relu" => Activation::Relu,
        "LeakyRelu" => Activation::LeakyRelu(first(0.01)),
        "Clip" => Activation::Clip(first(f32::MIN), second(f32::MAX)),
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "Silu" => Activation::Silu,
        "Gelu" => Activation::Gelu,
        "HardSigmoid" => Activation::HardSigmoid(first(0.2), second(0.5)),
        "HardSwish" => Activation::HardSwish,
        "Elu" => Activation::Elu(first(1.0)),
        other => return Err(Decline(format!("activation '{other}' has no GPU kernel"))),
    })
}
