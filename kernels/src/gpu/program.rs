//! The language of element-wise programs: one accumulator, a few temporaries, operands with strides.

use super::scalar::Scalar;

macro_rules! operators {
    ($($name:ident $text:literal),* $(,)?) => {
        /// What an instruction does to the accumulator `a`, given a source `b`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum MapOp { $($name),* }

        impl MapOp {
            pub(super) const NAMES: &[(&str, MapOp)] = &[$(($text, MapOp::$name)),*];
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
    pub(super) const fn suffix(self) -> &'static str {
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
