//! The one error type of the kernels: what was asked and why it cannot be done.

use std::fmt;

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, KernelError>;

/// The class of a [`KernelError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Extents, strides or buffer lengths do not agree.
    Shape,
    /// A parameter is outside the range the kernel is defined for.
    Parameter,
    /// A tuning table could not be read.
    Table,
}

/// Why a kernel refused its arguments. Nothing has been written when it is returned.
#[derive(Clone, Debug)]
pub struct KernelError {
    kind: ErrorKind,
    message: String,
}

impl KernelError {
    /// Extents, strides or lengths that do not agree.
    pub fn shape(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Shape, message: message.into() }
    }

    /// A parameter outside its range.
    pub fn parameter(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Parameter, message: message.into() }
    }

    /// A malformed tuning table.
    pub fn table(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Table, message: message.into() }
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KernelError {}

/// Checks that a buffer has exactly the expected number of elements.
pub(crate) fn expect_len(what: &str, actual: usize, expected: usize) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(KernelError::shape(format!("{what} has {actual} elements, expected {expected}")))
}

/// Product of extents, refusing overflow.
pub(crate) fn checked_product(what: &str, extents: &[usize]) -> Result<usize> {
    extents
        .iter()
        .try_fold(1usize, |acc, &d| acc.checked_mul(d))
        .ok_or_else(|| KernelError::shape(format!("{what} {extents:?} has too many elements")))
}
