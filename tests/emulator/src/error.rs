//! What can go wrong: a code object that cannot be read, a program that does something a device would not survive.

use std::fmt;

/// The kind of an [`Error`], for callers that map it to a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are not a code object this emulator reads.
    Object,
    /// The code object is for another target.
    Target,
    /// No disassembler: libLLVM is missing or lacks the AMDGPU target.
    Disassembler,
    /// An instruction, modifier or mode that is not modelled.
    Unsupported,
    /// A launch that no device accepts: block size, LDS size, argument bytes.
    Launch,
    /// Device memory is used up.
    OutOfMemory,
    /// A memory, LDS or scratch address outside every range.
    OutOfBounds,
    /// A register or LDS byte was used before the wait that makes its loaded value visible.
    Poison,
    /// LDS was touched by two waves without a barrier between them.
    Race,
    /// The program ran past the limit of instructions, left its code, or executed a trap.
    Runaway,
}

/// An error with everything needed to find its cause: kernel, instruction, workgroup, wave, lane, address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error with `place` in front of its message.
    pub(crate) fn at(self, place: impl fmt::Display) -> Error {
        Error { kind: self.kind, message: format!("{place}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;

/// The result of executing one instruction: small, because every instruction returns one.
pub(crate) type Outcome = std::result::Result<(), Box<Error>>;

/// An error for an instruction; the caller adds where.
#[cold]
pub(crate) fn fault(kind: Kind, message: impl Into<String>) -> Box<Error> {
    Box::new(Error::new(kind, message))
}
