//! A decoded instruction: everything execution needs, found once.

use crate::counter::Queue;
use crate::error::Outcome;
use crate::execute::Machine;
use crate::matrix::Matrix;
use crate::syntax::Float;

/// Executes one instruction on one wave.
pub(crate) type Execute = fn(&mut Machine<'_>, &Inst) -> Outcome;

/// Where an operand's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Source {
    #[default]
    None,
    /// Architectural registers are 0 to 255, accumulation registers 256 to 511.
    Vector(u16),
    /// The hardware's numbers: 106 is VCC, 124 is M0, 126 is EXEC.
    Scalar(u8),
    Constant(u64),
    Scc,
    Vccz,
    Execz,
}

/// An operand with its input modifiers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operand {
    pub source: Source,
    /// Registers it spans; 1 for constants.
    pub count: u8,
    pub negate: bool,
    pub absolute: bool,
    pub sign_extend: bool,
}

/// A range of registers, vector registers first and scalar registers after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub first: u16,
    pub count: u8,
}

/// The first scalar register in the numbers of [`Range`].
pub(crate) const FIRST_SCALAR: u16 = 512;

impl Operand {
    /// The registers the operand spans.
    pub fn range(&self) -> Option<Range> {
        match self.source {
            Source::Vector(first) => Some(Range { first, count: self.count }),
            Source::Scalar(first) => {
                Some(Range { first: FIRST_SCALAR + u16::from(first), count: self.count })
            }
            _ => None,
        }
    }

    pub fn is_some(&self) -> bool {
        self.source != Source::None
    }
}

/// Which lane each lane reads, for data-parallel primitives (DPP).
#[derive(Clone, Debug)]
pub(crate) struct Dpp {
    /// The source lane of each lane; 255 where there is none.
    pub source: [u8; 64],
    /// Lanes that the row and bank masks enable.
    pub enabled: u64,
    /// True when a lane without a source reads zero instead of keeping its old value.
    pub bound_zero: bool,
}

/// The part of a register that a sub-dword operand (SDWA) reads or writes: shift and width in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub shift: u8,
    pub width: u8,
}

/// What happens to the bits of a destination outside its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unused {
    Zero,
    SignExtend,
    Preserve,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sdwa {
    pub sources: [Part; 2],
    pub destination: Part,
    pub unused: Unused,
}

/// How an instruction selects lanes or parts of registers.
#[derive(Clone, Debug)]
pub(crate) enum Select {
    Dpp(Box<Dpp>),
    Sdwa(Sdwa),
}

/// The modifiers of an instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Modifiers {
    pub clamp: bool,
    /// Output multiplier: 0 none, 1 times two, 2 times four, 3 divided by two.
    pub output: u8,
    pub op_sel: u8,
    pub op_sel_hi: u8,
    pub neg_lo: u8,
    pub neg_hi: u8,
    /// `sc0`: an atomic returns the value before the operation.
    pub returns: bool,
    pub offen: bool,
    pub idxen: bool,
    pub bitop3: u8,
}

/// The kinds of instructions that a report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    Scalar,
    Vector,
    Transcendental,
    Matrix,
    Lds,
    GlobalLoad,
    GlobalStore,
    Atomic,
    DirectToLds,
    Scratch,
    ScalarLoad,
    Wait,
    Barrier,
    Branch,
}

impl Inst {
    /// The instruction with the vector registers of the operands in `mode` moved by an index: bits 0 to 2 of the mode
    /// are the sources, bit 3 is the destination.
    pub fn indexed(&self, mode: u32, index: u16) -> Inst {
        let mut inst = self.clone();
        for (at, operand) in inst.operands.iter_mut().enumerate() {
            let bit = if at == 0 { 3 } else { at as u32 - 1 };
            if let Source::Vector(register) = &mut operand.source
                && mode >> bit & 1 == 1
            {
                *register = (*register + index) & 511;
            }
        }
        inst
    }
}

impl Class {
    pub const COUNT: usize = 14;
    pub const ALL: [Class; Class::COUNT] = [
        Class::Scalar,
        Class::Vector,
        Class::Transcendental,
        Class::Matrix,
        Class::Lds,
        Class::GlobalLoad,
        Class::GlobalStore,
        Class::Atomic,
        Class::DirectToLds,
        Class::Scratch,
        Class::ScalarLoad,
        Class::Wait,
        Class::Barrier,
        Class::Branch,
    ];
}

/// Counter values a wait asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub vector: u8,
    pub lgkm: u8,
}

/// A decoded instruction.
#[derive(Clone)]
pub(crate) struct Inst {
    pub execute: Execute,
    /// As the text lists them: destinations first, except for stores.
    pub operands: [Operand; 6],
    pub modifiers: Modifiers,
    /// Byte offsets of memory instructions; the second one of LDS pairs.
    pub offsets: [i32; 2],
    /// A small integer the operation needs: branch target (instruction index), immediate, pattern.
    pub immediate: u32,
    /// Registers that one lane moves in memory instructions.
    pub width: u8,
    pub float: Float,
    pub class: Class,
    /// True for operations on single floats, whose denormals the mode may flush.
    pub flushes: bool,
    /// The counter that the result waits in.
    pub queue: Option<Queue>,
    /// The first operand that is a source of lane or part selection.
    pub first_source: u8,
    pub wait: Wait,
    pub select: Option<Select>,
    pub matrix: Option<Box<Matrix>>,
    pub reads: Vec<Range>,
    pub writes: Vec<Range>,
    pub address: u64,
    pub next: u64,
    pub text: Box<str>,
}
