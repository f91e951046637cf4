//! Element-wise operators with broadcasting: arithmetic, comparison, logic, casts, selection.

use tenon_kernels::gpu::elementwise::{Class, MapOp};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::Family;
use crate::map::{Expr, Leaf, Map, MapInput, broadcast_strides, class_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Add", "Sub", "Mul", "Div", "Pow", "Mod"], lower: arithmetic },
    Family { domain: "", op_types: &["Sum", "Mean", "Max", "Min"], lower: variadic },
    Family {
        domain: "",
        op_types: &["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"],
        lower: comparison,
    },
    Family { domain: "", op_types: &["And", "Or", "Xor", "Not"], lower: logic },
    Family {
        domain: "",
        op_types: &["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"],
        lower: bits,
    },
    Family {
        domain: "",
        op_types: &[
            "Neg",
            "Abs",
            "Sign",
            "Reciprocal",
            "Sqrt",
            "Exp",
            "Log",
            "Floor",
            "Ceil",
            "Round",
            "Sin",
            "Cos",
            "Tan",
            "Asin",
            "Acos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Acosh",
            "Atanh",
            "Erf",
        ],
        lower: unary,
    },
    Family { domain: "", op_types: &["IsNaN", "IsInf"], lower: classify },
    Family { domain: "", op_types: &["Where"], lower: select },
    Family { domain: "", op_types: &["Cast", "CastLike"], lower: cast },
];

/// Expressions over inputs of a node, broadcast against each other.
pub(super) struct Elementwise {
    pub class: Class,
    pub output: Scalar,
    /// Positions of the node's inputs that the operands are.
    pub operands: Vec<usize>,
    pub exprs: Vec<Expr>,
}

impl Operator for Elementwise {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let mut dims: Vec<usize> = Vec::new();
        for &operand in &self.operands {
            dims = broadcast(&dims, &cx.dims(operand)?)?;
        }
        let mut inputs = Vec::with_capacity(self.operands.len());
        for &operand in &self.operands {
            let value = cx.input(operand)?;
            let strides = broadcast_strides(cx.builder.dims(value), &dims);
            inputs.push(MapInput { value, scalar: cx.builder.scalar(value), strides, offset: 0 });
        }
        let output = cx.output(0, self.output, &dims)?;
        let exprs = self.exprs.clone();
        cx.map(Map { class: self.class, output, scalar: self.output, dims, inputs, exprs });
        Ok(())
    }
}

/// The shape of the broadcast of two, by ONNX's multidirectional rule.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim =
        |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::invalid(format!("shapes {a:?} and {b:?} cannot be broadcast"))),
        })
        .collect()
}

/// Collects operands and expressions of a node.
pub(super) struct Formula<'l, 'a> {
    pub lowering: &'l Lowering<'a>,
    pub class: Class,
    operands: Vec<usize>,
    exprs: Vec<Expr>,
}

impl<'l, 'a> Formula<'l, 'a> {
    pub fn new(lowering: &'l Lowering<'a>, class: Class) -> Formula<'l, 'a> {
        Formula { lowering, class, operands: Vec::new(), exprs: Vec::new() }
    }

    /// A formula in the class of input 0, which must be of real numbers.
    pub fn real(lowering: &'l Lowering<'a>) -> std::result::Result<Formula<'l, 'a>, Decline> {
        Ok(Formula::new(lowering, class_of(lowering.float(0)?)))
    }

    /// Input `index`: a number where it is a constant of one element, else an operand.
    pub fn input(&mut self, index: usize) -> std::result::Result<Leaf, Decline> {
        let value = self.lowering.input(index)?;
        let is_scalar = value.known_dims().is_some_and(<[i64]>::is_empty);
        if is_scalar
            && index > 0
            && let Some(number) = self.lowering.numbers(index, 1).and_then(|numbers| numbers.first().copied())
            && (self.class != Class::I64 || number.abs() < 9e15)
        {
            return Ok(Leaf::Number(number));
        }
        self.lowering.scalar(index)?;
        let known = self.operands.iter().position(|&operand| operand == index);
        Ok(Leaf::Operand(known.unwrap_or_else(|| {
            self.operands.push(index);
            self.operands.len() - 1
        })))
    }

    pub fn unary(&mut self, op: MapOp, a: Leaf) -> Leaf {
        self.push(Expr::unary(op, a))
    }

    pub fn binary(&mut self, op: MapOp, a: Leaf, b: Leaf) -> Leaf {
        self.push(Expr::binary(op, a, b))
    }

    pub fn select(&mut self, condition: Leaf, yes: Leaf, no: Leaf) -> Leaf {
        self.push(Expr::select(condition, yes, no))
    }

    fn push(&mut self, expr: Expr) -> Leaf {
        self.exprs.push(expr);
        Leaf::Node(self.exprs.len() - 1)
    }

    /// The operator whose result is the last expression, stored as the type of output 0.
    pub fn finish(self) -> Lowered {
        let output = self.lowering.output_scalar(0)?;
        self.finish_as(output)
    }

    pub fn finish_as(self, output: Scalar) -> Lowered {
        if self.operands.is_empty() {
            return Err(Decline::new("all inputs are constants"));
        }
        if self.operands.len() > tenon_kernels::gpu::elementwise::OPERANDS {
            return Err(Decline(format!("{} operands are too many for one kernel", self.operands.len())));
        }
        let Formula { class, operands, exprs, .. } = self;
        Ok(Box::new(Elementwise { class, output, operands, exprs }))
    }
}

/// Declines unsigned 64-bit integers where their order or division matters: they are computed as signed.
fn no_u64(lowering: &Lowering<'_>, index: usize) -> std::result::Result<(), Decline> {
    match lowering.scalar(index)? {
        Scalar::U64 => Err(Decline::new("unsigned 64-bit integers have no GPU kernel for this operator")),
        _ => Ok(()),
    }
}

fn arithmetic(l: &Lowering<'_>) -> Lowered {
    let class = class_of(l.scalar(0)?);
    let op = match l.node.op_type() {
        "Add" => MapOp::Add,
        "Sub" => MapOp::Subtract,
        "Mul" => MapOp::Multiply,
        "Div" => MapOp::Divide,
        "Pow" => MapOp::Power,
        _ if l.node.int_or("fmod", 0)? != 0 => MapOp::Fmod,
        _ => MapOp::Mod,
    };
    if matches!(op, MapOp::Divide | MapOp::Power | MapOp::Fmod | MapOp::Mod) {
        no_u64(l, 0)?;
    }
    if op == MapOp::Power && class != Class::F64 && class_of(l.scalar(1)?) != class && class != Class::F32 {
        return Err(Decline::new("integers to a power of another kind have no GPU kernel"));
    }
    let mut formula = Formula::new(l, class);
    let (a, b) = (formula.input(0)?, formula.input(1)?);
    // Small integer exponents are products: exact, and far quicker than the general power.
    match (op, b) {
        (MapOp::Power, Leaf::Number(2.0)) => formula.binary(MapOp::Multiply, a, a),
        (MapOp::Power, Leaf::Number(3.0)) => {
            let square = formula.binary(MapOp::Multiply, a, a);
            formula.binary(MapOp::Multiply, square, a)
        }
        (MapOp::Power, Leaf::Number(0.5)) if class != Class::I64 => formula.unary(MapOp::Sqrt, a),
        _ => formula.binary(op, a, b),
    };
    formula.finish()
}

fn variadic(l: &Lowering<'_>) -> Lowered {
    let op = match l.node.op_type() {
        "Max" => MapOp::Max,
        "Min" => MapOp::Min,
        _ => MapOp::Add,
    };
    if op != MapOp::Add {
        no_u64(l, 0)?;
    }
    let mut formula = Formula::new(l, class_of(l.scalar(0)?));
    let mut result = formula.input(0)?;
    let count = l.node.inputs().len();
    for index in 1..count {
        let next = formula.input(index)?;
        result = formula.binary(op, result, next);
    }
    if l.node.op_type() == "Mean" && count > 1 {
        formula.binary(MapOp::Divide, result, Leaf::Number(count as f64));
    } else if count == 1 {
        formula.unary(MapOp::Move, result);
    }
    formula.finish()
}

fn comparison(l: &Lowering<'_>) -> Lowered {
    let op = match l.node.op_type() {
        "Equal" => MapOp::Equal,
        "Less" => MapOp::Less,
        "LessOrEqual" => MapOp::LessOrEqual,
        "Greater" => MapOp::Greater,
        _ => MapOp::GreaterOrEqual,
    };
    if op != MapOp::Equal {
        no_u64(l, 0)?;
    }
    let mut formula = Formula::new(l, class_of(l.scalar(0)?));
    let (a, b) = (formula.input(0)?, formula.input(1)?);
    formula.binary(op, a, b);
    formula.finish_as(Scalar::Bool)
}

fn logic(l: &Lowering<'_>) -> Lowered {
    let mut formula = Formula::new(l, Class::I64);
    let a = formula.input(0)?;
    let op = match l.node.op_type() {
        "Not" => {
            formula.unary(MapOp::Not, a);
            return formula.finish_as(Scalar::Bool);
        }
        "And" => MapOp::And,
        "Or" => MapOp::Or,
        _ => MapOp::Xor,
    };
    let b = formula.input(1)?;
    formula.binary(op, a, b);
    formula.finish_as(Scalar::Bool)
}

fn bits(l: &Lowering<'_>) -> Lowered {
    let is_signed = matches!(l.scalar(0)?, Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64);
    if is_signed && l.node.op_type() == "BitShift" {
        return signed_shift(l);
    }
    let mut formula = Formula::new(l, Class::I64);
    let a = formula.input(0)?;
    let op = match l.node.op_type() {
        "BitwiseNot" => {
            formula.unary(MapOp::BitNot, a);
            return formula.finish();
        }
        "BitwiseAnd" => MapOp::BitAnd,
        "BitwiseOr" => MapOp::BitOr,
        "BitwiseXor" => MapOp::BitXor,
        _ if l.node.text_or("direction", "")? == "LEFT" => MapOp::ShiftLeft,
        _ => MapOp::ShiftRight,
    };
    let b = formula.input(1)?;
    formula.binary(op, a, b);
    formula.finish()
}

/// Bits shifted out are gone, the sign fills in from the left, and an amount below 0 shifts everything out.
fn signed_shift(l: &Lowering<'_>) -> Lowered {
    let mut f = Formula::new(l, Class::I64);
    let (x, given) = (f.input(0)?, f.input(1)?);
    let is_negative = f.binary(MapOp::Less, given, Leaf::Number(0.0));
    let amount = f.select(is_negative, Leaf::Number(64.0), given);
    if l.node.text_or("direction", "")? == "LEFT" {
        f.binary(MapOp::ShiftLeft, x, amount);
        return f.finish();
    }
    // What is below 0 is shifted as its complement.
    let is_below = f.binary(MapOp::Less, x, Leaf::Number(0.0));
    let sign = f.unary(MapOp::Negate, is_below);
    let bits = f.binary(MapOp::BitXor, x, sign);
    let shifted = f.binary(MapOp::ShiftRight, bits, amount);
    f.binary(MapOp::BitXor, shifted, sign);
    f.finish()
}

fn unary(l: &Lowering<'_>) -> Lowered {
    let op_type = l.node.op_type();
    if matches!(op_type, "Neg" | "Abs" | "Sign") {
        no_u64(l, 0)?;
        let mut formula = Formula::new(l, class_of(l.scalar(0)?));
        let x = formula.input(0)?;
        let op = match op_type {
            "Neg" => MapOp::Negate,
            "Abs" => MapOp::Absolute,
            _ => MapOp::Sign,
        };
        formula.unary(op, x);
        return formula.finish();
    }
    let op = match op_type {
        "Reciprocal" => MapOp::Reciprocal,
        "Sqrt" => MapOp::Sqrt,
        "Exp" => MapOp::Exp,
        "Log" => MapOp::Log,
        "Floor" => MapOp::Floor,
        "Ceil" => MapOp::Ceil,
        "Round" => MapOp::Round,
        "Sin" => MapOp::Sin,
        "Cos" => MapOp::Cos,
        "Tan" => MapOp::Tan,
        "Asin" => MapOp::Asin,
        "Acos" => MapOp::Acos,
        "Atan" => MapOp::Atan,
        "Sinh" => MapOp::Sinh,
        "Cosh" => MapOp::Cosh,
        "Asinh" => MapOp::Asinh,
        "Acosh" => MapOp::Acosh,
        "Atanh" => MapOp::Atanh,
        _ => MapOp::Erf,
    };
    let mut formula = Formula::real(l)?;
    let x = formula.input(0)?;
    formula.unary(op, x);
    formula.finish()
}

fn classify(l: &Lowering<'_>) -> Lowered {
    let mut formula = Formula::real(l)?;
    let x = formula.input(0)?;
    if l.node.op_type() == "IsNaN" {
        formula.unary(MapOp::IsNan, x);
        return formula.finish_as(Scalar::Bool);
    }
    let wants = |name| Ok::<bool, Decline>(l.node.int_or(name, 1)? != 0);
    match (wants("detect_positive")?, wants("detect_negative")?) {
        (true, false) => formula.unary(MapOp::IsPositiveInfinity, x),
        (false, true) => formula.unary(MapOp::IsNegativeInfinity, x),
        (false, false) => formula.binary(MapOp::Multiply, x, Leaf::Number(0.0)),
        (true, true) => {
            let high = formula.unary(MapOp::IsPositiveInfinity, x);
            let low = formula.unary(MapOp::IsNegativeInfinity, x);
            formula.binary(MapOp::Or, high, low)
        }
    };
    formula.finish_as(Scalar::Bool)
}

fn select(l: &Lowering<'_>) -> Lowered {
    let mut formula = Formula::new(l, class_of(l.scalar(1)?));
    let (condition, yes, no) = (formula.input(0)?, formula.input(1)?, formula.input(2)?);
    formula.select(condition, yes, no);
    let output = l.scalar(1)?;
    formula.finish_as(output)
}

fn cast(l: &Lowering<'_>) -> Lowered {
    let output = l.output_scalar(0)?;
    let class = class_of(l.scalar(0)?);
    let mut formula = Formula::new(l, class);
    let x = formula.input(0)?;
    // Rounded here, so that the value is the same when the store is fused away.
    let op = match output {
        Scalar::F16 if class != Class::I64 => MapOp::ToF16,
        Scalar::BF16 if class != Class::I64 => MapOp::ToBf16,
        _ => MapOp::Move,
    };
    formula.unary(op, x);
    formula.finish_as(output)
}
