//! What the build compiles for an arch: texts, definitions, and what the machine code must and must not contain.

/// A translation unit: its texts in order, as one file.
#[derive(Clone, Debug)]
pub struct Unit {
    /// File name of the result without extension; unique in its arch.
    pub name: String,
    /// Paths from `kernels/` and texts, concatenated in order by the build.
    pub texts: Vec<Text>,
    /// Macros defined before the first text.
    pub defines: Vec<(String, String)>,
    /// The kernels that the unit defines.
    pub kernels: Vec<Kernel>,
}

/// A file that is part of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// From `kernels/`, for messages of the compiler.
    pub path: &'static str,
    pub text: &'static str,
}

/// A kernel and the facts that its machine code is held to.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub symbol: String,
    /// Threads of a block at most.
    pub threads: u32,
    /// Dynamic shared memory that the planner asks for at most.
    pub shared_bytes: u32,
    /// Mnemonics, or starts of mnemonics, that must occur.
    pub required: Vec<&'static str>,
    /// Mnemonics, or starts of mnemonics, that must not occur.
    pub forbidden: Vec<&'static str>,
}
