//! Element-wise programs: what the interpreter in `device/elementwise.cu` runs, and how it is started.
//!
//! Operands of a plan: 0 is the output, `1 + k` the program's operand `k`.

use super::launch::{Arg, Launch, Plan};
use super::scalar::{self, Scalar, Structure, blocks, division, kernel};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions after neighbours have been joined.
pub const RANK: usize = 6;
pub const OPERANDS: usize = 8;
pub const CONSTANTS: usize = 12;
/// Instructions of a program.
pub const LENGTH: usize = 40;
/// Temporaries.
pub const TEMPS: usize = 4;
/// Operands that a light program reads before it starts.
const AHEAD: usize = 3;
/// Elements from which threads compute eight at a time.
const WIDE_TOTAL: usize = 1 << 20;

macro_rules! operators {
    ($($name:ident $text:literal),* $(,)?) => {
        /// What an instruction does to the accumulator `a`, given a source `b`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum MapOp { $($name),* }

        impl MapOp {
            const NAMES: &[(&str, MapOp)] = &[$(($text, MapOp::$name)),*];
        }
    };
}

operators! {
    Move "MOVE", Add "ADD", Subtract "SUBTRACT", ReverseSubtract "REVERSE_SUBTRACT", Multiply "MULTIPLY",
    Divide "DIVIDE", ReverseDivide "REVERSE_DIVIDE", Max "MAX", Min "MIN", Power "POWER",
    ReversePower "REVERSE_POWER", Fmod "FMOD", ReverseFmod "REVERSE_FMOD", Mod "MOD", ReverseMod "REVERSE_MOD",
    Equal "EQUAL", Less "LESS", LessOrEqual "LESS_OR_EQUAL", Greater "GREATER",
    GreaterOrEqual "GREATER_OR_EQUAL", And "AND", Or "OR", Xor "XOR", Not "NOT", Negate "NEGATE",
    Absolute "ABSOLUTE", Sign "SIGN", Select "SELECT", Store "STORE", Reciprocal "RECIPROCAL", Sqrt "SQRT",
    Exp "EXP", Log "LOG", Log1p "LOG1P", Expm1 "EXPM1", Tanh "TANH", Sigmoid "SIGMOID", Silu "SILU", Erf "ERF",
    Gelu "GELU", GeluTanh "GELU_TANH", Softplus "SOFTPLUS", Floor "FLOOR", Ceil "CEIL", Round "ROUND", Sin "SIN",
    Cos "COS", Tan "TAN", Asin "ASIN", Acos "ACOS", Atan "ATAN", Sinh "SINH", Cosh "COSH", Asinh "ASINH",
    Acosh "ACOSH", Atanh "ATANH", IsNan "IS_NAN", IsPositiveInfinity "IS_POSITIVE_INFINITY",
    IsNegativeInfinity "IS_NEGATIVE_INFINITY", ToF16 "TO_F16", ToBf16 "TO_BF16", ToF32 "TO_F32",
    Truncate "TRUNCATE", BitAnd "BIT_AND", BitOr "BIT_OR", BitXor "BIT_XOR", BitNot "BIT_NOT",
    ShiftLeft "SHIFT_LEFT", ShiftRight "SHIFT_RIGHT",
}

/// The type that a program computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    F32,
    F64,
    I64,
}

impl Class {
    const fn suffix(self) -> &'static str {
        match self {
            Class::F32 => "f32",
            Class::F64 => "f64",
            Class::I64 => "i64",
        }
    }

    /// The bits of a constant in this type.
    pub fn bits(self, value: f64) -> u64 {
        match self {
            Class::F32 => u64::from((value as f32).to_bits()),
            Class::F64 => value.to_bits(),
            Class::I64 => value as i64 as u64,
        }
    }
}

/// The second argument of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    None,
    Operand(u8),
    Temp(u8),
    Constant(u8),
}

/// One instruction. `temp` is what [`MapOp::Store`] writes, and what [`MapOp::Select`] takes where `a` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub op: MapOp,
    pub source: Source,
    pub temp: u8,
}

/// An operand: its type and, for each dimension of the output (outermost first), its stride in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapOperand {
    pub scalar: Scalar,
    pub strides: Vec<i64>,
    /// Elements before the first one; vectors need it to be a multiple of 4.
    pub offset: i64,
}

/// A program over the elements of a contiguous output.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub class: Class,
    /// Outermost first.
    pub dims: Vec<usize>,
    pub output: Scalar,
    pub operands: Vec<MapOperand>,
    /// Bits in the type of `class`.
    pub constants: Vec<u64>,
    pub code: Vec<Instruction>,
}

/// How the program is started.
///
/// # Errors
/// Limits of the interpreter, by name: the caller splits the program or moves its operands.
pub fn plan(program: &Program) -> Result<Plan> {
    check(program)?;
    let total: usize = program.dims.iter().product();
    if total == 0 {
        return Ok(Plan::default());
    }
    if total >= 1 << 31 {
        return Err(KernelError::shape(format!("{total} elements: at most 2^31 - 1")));
    }
    let (dims, strides) = collapse(&program.dims, &program.operands);
    if dims.len() > RANK {
        return Err(KernelError::shape(format!(
            "{} dimensions that cannot be joined: at most {RANK}",
            dims.len()
        )));
    }
    if let Some(plan) = super::pointwise::plan(program, &dims, &strides, cost(program, total)) {
        return Ok(plan);
    }
    let kernel = Interpreter::new(program, dims[0], total);
    let lanes = kernel.lanes;
    let is_vector = |k: usize| {
        let (own, operand, lanes) = (&strides[k], &program.operands[k], lanes as i64);
        lanes > 1
            && own[0] == 1
            && operand.offset % lanes == 0
            && own[1..].iter().all(|stride| stride % lanes == 0)
    };
    let mut args = vec![Arg::Pointer { operand: 0, offset_bytes: 0 }];
    for k in 0..OPERANDS {
        args.push(match program.operands.get(k) {
            Some(operand) => Arg::Pointer {
                operand: 1 + k,
                offset_bytes: operand.offset as u64 * operand.scalar.bytes() as u64,
            },
            None => Arg::I64(0),
        });
    }
    args.push(parameters(program, total, &dims, &strides, is_vector));
    Ok(Plan {
        launches: vec![Launch {
            symbol: format!("elementwise_{}_v{lanes}", kernel.name),
            grid: [blocks((total / lanes).div_ceil(kernel.packs)), 1, 1],
            block: [scalar::THREADS, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            args,
            is_dependent_launch: true,
            cost: cost(program, total),
        }],
        ..Plan::default()
    })
}

/// True when the kernels for light programs take it: floats, no temporary, and the operators that they know.
fn is_light(program: &Program) -> bool {
    let mut scalars = program.operands.iter().map(|operand| operand.scalar).chain([program.output]);
    program.class == Class::F32
        && scalars.all(Scalar::is_float)
        && program
            .code
            .iter()
            .all(|code| (is_quick(code.op) || is_slow(code.op)) && !matches!(code.source, Source::Temp(_)))
}

/// Operators of light programs.
fn is_quick(op: MapOp) -> bool {
    use MapOp::*;
    matches!(op, Move | Add | Subtract | ReverseSubtract | Multiply | Max | Min | Negate | Absolute)
        || matches!(op, Exp | Sigmoid | Silu | Gelu | GeluTanh | ToF16 | ToBf16 | ToF32)
}

/// Those that need more registers.
fn is_slow(op: MapOp) -> bool {
    use MapOp::*;
    matches!(op, Divide | ReverseDivide | Reciprocal | Sqrt | Log | Tanh | Erf)
}

/// The kernel that runs a program.
struct Interpreter {
    name: &'static str,
    /// Neighbours that a thread computes at a time, and how many such packs it does.
    lanes: usize,
    packs: usize,
}

impl Interpreter {
    /// Packs of eight where 16 bytes hold them, once that leaves threads enough to hide the reads.
    fn new(program: &Program, inner: usize, total: usize) -> Interpreter {
        let scalars = || program.operands.iter().map(|operand| operand.scalar).chain([program.output]);
        let is_light = is_light(program) && inner.is_multiple_of(4);
        let is_wide = is_light && total >= WIDE_TOTAL && inner.is_multiple_of(8);
        let is_short = scalars().all(|scalar| scalar.bytes() == 2);
        if is_wide && is_short && program.code.iter().all(|code| is_quick(code.op)) {
            return Interpreter { name: "light_short", lanes: 8, packs: 2 };
        }
        if is_wide && scalars().any(|scalar| scalar.bytes() == 2) {
            return Interpreter { name: "light", lanes: 8, packs: 1 };
        }
        if is_light {
            return Interpreter { name: "light", lanes: 4, packs: 1 };
        }
        let lanes = if program.class != Class::F64 && inner.is_multiple_of(4) { 4 } else { 1 };
        Interpreter { name: program.class.suffix(), lanes, packs: 1 }
    }
}

fn check(program: &Program) -> Result<()> {
    let limits = [
        ("operands", program.operands.len(), OPERANDS),
        ("constants", program.constants.len(), CONSTANTS),
        ("instructions", program.code.len(), LENGTH),
    ];
    for (what, count, limit) in limits {
        if count > limit {
            return Err(KernelError::parameter(format!("{count} {what}: at most {limit}")));
        }
    }
    for operand in &program.operands {
        if operand.strides.len() != program.dims.len() {
            return Err(KernelError::shape("an operand has not one stride for each dimension"));
        }
        if operand.strides.iter().any(|&stride| i32::try_from(stride).is_err()) {
            return Err(KernelError::shape("a stride is beyond 2^31 elements"));
        }
    }
    Ok(())
}

/// How an operand is found; the numbers of the device text.
const PLACE_STRIDED: u8 = 0;
const PLACE_DENSE: u8 = 1;
const PLACE_FRONT: u8 = 2;
const PLACE_ROW: u8 = 3;
const PLACE_COLUMN: u8 = 4;

fn parameters(
    program: &Program,
    total: usize,
    dims: &[usize],
    strides: &[Vec<i64>],
    is_vector: impl Fn(usize) -> bool,
) -> Arg {
    let divisions: Vec<(u32, u32)> = dims.iter().map(|&dim| division(dim as u32)).collect();
    let mut structure = Structure::default()
        .u32(total as u32)
        .u32(dims.len() as u32)
        .u32s::<RANK>(dims.iter().map(|&dim| dim as u32), 1)
        .u32s::<RANK>(divisions.iter().map(|division| division.0), 0)
        .u32s::<RANK>(divisions.iter().map(|division| division.1), 0);
    for k in 0..OPERANDS {
        let own = strides.get(k).map_or(&[][..], Vec::as_slice);
        structure = structure.i32s::<RANK>(own.iter().map(|&stride| stride as i32));
    }
    structure = structure.i64s::<CONSTANTS>(program.constants.iter().map(|&bits| bits as i64));
    for k in 0..OPERANDS {
        structure = structure.u8(program.operands.get(k).map_or(0, |operand| operand.scalar as u8));
    }
    for k in 0..OPERANDS {
        structure = structure.u8((k < program.operands.len() && is_vector(k)).into());
    }
    let place = |k: usize| match strides.get(k) {
        Some(own) if *own == super::layout::contiguous_inner_first(dims) => PLACE_DENSE,
        Some(own) if own.iter().all(|&stride| stride == 0) => PLACE_FRONT,
        Some(own) if own[0] == 1 && own[1..].iter().all(|&stride| stride == 0) => PLACE_ROW,
        Some(own) if matches!(own[..], [0, 1] | [0, 1, 0]) => PLACE_COLUMN,
        Some(_) => PLACE_STRIDED,
        None => PLACE_FRONT,
    };
    for k in 0..OPERANDS {
        structure = structure.u8(place(k));
    }
    let is_ahead = |k: &usize| {
        let is_float = program.operands.get(*k).is_some_and(|operand| operand.scalar.is_float());
        is_float && (is_vector(*k) || strides[*k][0] == 0)
    };
    let ahead = (0..AHEAD).take_while(is_ahead).count();
    let places = || (0..OPERANDS).map(place);
    let positions = match () {
        () if places().any(|place| place == PLACE_STRIDED) => 2,
        () => u8::from(places().any(|place| !matches!(place, PLACE_DENSE | PLACE_FRONT))),
    };
    structure = structure.u8(program.output as u8).u8(program.code.len() as u8).u8(positions).u8(ahead as u8);
    for code in &program.code {
        let (kind, index) = match code.source {
            Source::None => (0, 0),
            Source::Operand(index) => (1, index),
            Source::Temp(index) => (2, index),
            Source::Constant(index) => (3, index),
        };
        let has_temp = matches!(code.op, MapOp::Store | MapOp::Select);
        structure = structure.u8(code.op as u8).u8(kind).u8(index).u8(if has_temp { code.temp } else { 0 });
    }
    for _ in program.code.len()..LENGTH {
        structure = structure.u8(0).u8(0).u8(0).u8(0);
    }
    structure.finish()
}

fn cost(program: &Program, total: usize) -> Cost {
    let operands = program.operands.iter().map(|operand| {
        let touched: f64 = program
            .dims
            .iter()
            .zip(&operand.strides)
            .map(|(&dim, &stride)| if stride == 0 { 1.0 } else { dim as f64 })
            .product();
        touched * operand.scalar.bytes() as f64
    });
    Cost {
        flops: total as f64 * program.code.len() as f64,
        bytes: operands.sum::<f64>() + total as f64 * program.output.bytes() as f64,
    }
}

/// Dimensions and strides with 1s dropped and neighbours joined where every operand allows it; innermost first, at least
/// one dimension.
fn collapse(dims: &[usize], operands: &[MapOperand]) -> (Vec<usize>, Vec<Vec<i64>>) {
    let mut joined: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<i64>> = vec![Vec::new(); operands.len()];
    for axis in (0..dims.len()).rev().filter(|&axis| dims[axis] != 1) {
        let own: Vec<i64> = operands.iter().map(|operand| operand.strides[axis]).collect();
        let joins = joined.last().is_some_and(|&inner| {
            own.iter().zip(&strides).all(|(&stride, inner_strides)| {
                stride == inner_strides.last().copied().unwrap_or(0) * inner as i64
            })
        });
        if joins {
            if let Some(inner) = joined.last_mut() {
                *inner *= dims[axis];
            }
            continue;
        }
        joined.push(dims[axis]);
        own.iter().zip(&mut strides).for_each(|(&stride, list)| list.push(stride));
    }
    if joined.is_empty() {
        joined.push(1);
        strides.iter_mut().for_each(|list| list.push(0));
    }
    (joined, strides)
}

/// What the build compiles: the interpreter, and the commonest programs.
pub fn units(arch: Text) -> [Unit; 2] {
    let math = Text { path: "device/math.cu", text: include_str!("../../device/math.cu") };
    let mut defines: Vec<(String, String)> =
        MapOp::NAMES.iter().map(|(name, op)| (format!("MAP_{name}"), (*op as u8).to_string())).collect();
    let compiled = super::pointwise::unit(arch, math, defines.clone());
    for (name, value) in
        [("RANK", RANK), ("OPERANDS", OPERANDS), ("CONSTANTS", CONSTANTS), ("LENGTH", LENGTH)]
    {
        defines.push((format!("MAP_{name}"), value.to_string()));
    }
    let own = Text { path: "device/elementwise.cu", text: include_str!("../../device/elementwise.cu") };
    let interpreter = Unit {
        name: "elementwise".into(),
        texts: vec![arch, scalar::TEXT, math, own],
        defines,
        kernels: ["f32_v1", "f32_v4", "f64_v1", "i64_v1", "i64_v4", "light_v4", "light_v8", "light_short_v8"]
            .map(|suffix| kernel(format!("elementwise_{suffix}")))
            .into(),
    };
    [interpreter, compiled]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(strides: &[i64]) -> MapOperand {
        MapOperand { scalar: Scalar::F32, strides: strides.into(), offset: 0 }
    }

    #[test]
    fn contiguous_dimensions_are_joined() {
        let (dims, strides) = collapse(&[2, 3, 4], &[operand(&[12, 4, 1]), operand(&[0, 0, 1])]);
        assert_eq!(dims, [4, 6]);
        assert_eq!(strides, [vec![1, 4], vec![1, 0]]);
        let (dims, _) = collapse(&[2, 1, 4], &[operand(&[4, 9, 1])]);
        assert_eq!(dims, [8]);
    }

    #[test]
    fn limits_are_errors() {
        let program = Program {
            class: Class::F32,
            dims: vec![2; 9],
            output: Scalar::F32,
            operands: vec![operand(&[3, 5, 7, 11, 13, 17, 19, 23, 29])],
            constants: Vec::new(),
            code: vec![Instruction { op: MapOp::Move, source: Source::Operand(0), temp: 0 }],
        };
        assert!(plan(&program).unwrap_err().to_string().contains("dimensions"));
    }
}
