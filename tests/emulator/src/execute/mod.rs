//! What instructions do: a table from mnemonics to functions, one file per family.

mod atomic;
mod buffer;
mod compare;
mod convert;
mod double;
mod element;
mod flow;
mod global;
mod half;
mod lane;
mod lds;
mod lds_access;
mod packed;
pub(crate) mod scalar;
mod scaled;
mod scratch;
mod vector;

use crate::counter::Queue;
use crate::error::Outcome;
use crate::inst::{Class, Execute, Inst, Range};
use crate::launch::Context;
use crate::report::Report;
use crate::shadow::Shadow;
use crate::syntax::Text;
use crate::wave::{LANES, Register, Wave};

/// One wave about to execute one instruction.
pub(crate) struct Machine<'a> {
    pub wave: &'a mut Wave,
    pub group: &'a mut Group,
    pub context: &'a Context<'a>,
    pub report: &'a mut Report,
    /// The memory range of the previous access.
    pub hint: usize,
    /// Index of the instruction.
    pub current: u32,
}

/// What the waves of a workgroup share.
pub(crate) struct Group {
    pub lds: Vec<u8>,
    pub shadow: Shadow,
    /// The wave that runs.
    pub wave: usize,
    /// Position in the grid.
    pub id: [u32; 3],
    /// Number in launch order.
    pub linear: u64,
}

/// How an operation uses its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The first operand is written, the others are read.
    Result,
    /// The first two operands are written.
    TwoResults,
    /// The first operand is read and written.
    Update,
    /// The first two operands are read and written.
    Swap,
    /// All operands are read.
    NoResult,
}

/// What a mnemonic stands for.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub execute: Execute,
    pub class: Class,
    pub shape: Shape,
    /// Registers a lane moves, or another small number the function needs.
    pub width: u8,
    /// True when denormals of single floats are flushed as the mode says.
    pub flushes: bool,
    /// The counter that the operation's result waits in.
    pub queue: Option<Queue>,
    /// The least number of LDS bytes it writes; 4 when none.
    pub granule: u8,
}

impl Operation {
    pub fn new(class: Class, shape: Shape, execute: Execute) -> Operation {
        Operation { execute, class, shape, width: 0, flushes: false, queue: None, granule: 4 }
    }

    pub fn vector(execute: Execute) -> Operation {
        Operation::new(Class::Vector, Shape::Result, execute)
    }

    pub fn scalar(execute: Execute) -> Operation {
        Operation::new(Class::Scalar, Shape::Result, execute)
    }

    pub fn shaped(self, shape: Shape) -> Operation {
        Operation { shape, ..self }
    }

    pub fn wide(self, width: u8) -> Operation {
        Operation { width, ..self }
    }
}

/// The operation of a mnemonic without encoding suffix; `text` tells variants apart that share a mnemonic.
pub(crate) fn lookup(name: &str, text: &Text<'_>) -> Option<Operation> {
    let families: [fn(&str) -> Option<Operation>; 13] = [
        vector::lookup,
        scalar::lookup,
        flow::lookup,
        compare::lookup,
        convert::lookup,
        half::lookup,
        double::lookup,
        packed::lookup,
        lane::lookup,
        lds::lookup,
        scaled::lookup,
        scratch::lookup,
        crate::matrix::lookup,
    ];
    if name.starts_with("global_") || name.starts_with("flat_") {
        return global::lookup(name, text);
    }
    if name.starts_with("buffer_") {
        return buffer::lookup(name, text);
    }
    families.into_iter().find_map(|family| family(name))
}

/// Makes a table from names to functions over operands: `table!(name, apply; "a" | "b" => |x| ..., ...)`.
macro_rules! table {
    ($name:expr, $apply:path; $($text:pat => $function:expr,)*) => {
        match $name {
            $($text => Some((|m: &mut $crate::execute::Machine<'_>, i: &$crate::inst::Inst| {
                $apply(m, i, $function);
                Ok(())
            }) as $crate::inst::Execute),)*
            _ => None,
        }
    };
}
pub(crate) use table;

impl Machine<'_> {
    /// Lanes that execute.
    pub fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        let exec = self.wave.exec();
        (0..LANES).filter(move |lane| exec >> lane & 1 == 1)
    }

    /// Puts a load of `registers` into a queue.
    pub fn issue(&mut self, queue: Queue, registers: Option<Range>) {
        self.wave.counters.issue(queue, registers, self.current);
    }
}

/// A function of one word.
pub(crate) fn unary(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32) -> u32) {
    let mut x = [0; LANES];
    let a = m.wave.source(i, 1, 0, &mut x);
    let result: Register = std::array::from_fn(|lane| f(a[lane]));
    m.wave.write(i, 0, 0, &result);
}

/// A function of two words.
pub(crate) fn binary(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32) -> u32) {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let result: Register = std::array::from_fn(|lane| f(a[lane], b[lane]));
    m.wave.write(i, 0, 0, &result);
}

/// A function of three words.
pub(crate) fn ternary(m: &mut Machine<'_>, i: &Inst, f: impl Fn(u32, u32, u32) -> u32) {
    let (mut x, mut y, mut z) = ([0; LANES], [0; LANES], [0; LANES]);
    let a = m.wave.source(i, 1, 0, &mut x);
    let b = m.wave.source(i, 2, 0, &mut y);
    let c = m.wave.source(i, 3, 0, &mut z);
    let result: Register = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane]));
    m.wave.write(i, 0, 0, &result);
}

/// Words `part` and `part + 1` of an operand as one value of 64 bits, in all lanes.
pub(crate) fn long(m: &Machine<'_>, i: &Inst, index: usize, part: usize) -> [u64; LANES] {
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let low = m.wave.source(i, index, part, &mut x);
    let high = m.wave.source(i, index, part + 1, &mut y);
    std::array::from_fn(|lane| u64::from(low[lane]) | u64::from(high[lane]) << 32)
}

pub(crate) fn write_long(m: &mut Machine<'_>, i: &Inst, index: usize, value: &[u64; LANES]) {
    m.wave.write(i, index, 0, &value.map(|v| v as u32));
    m.wave.write(i, index, 1, &value.map(|v| (v >> 32) as u32));
}

/// Does nothing; for instructions that only matter to timing.
pub(crate) fn nothing(_: &mut Machine<'_>, _: &Inst) -> Outcome {
    Ok(())
}
