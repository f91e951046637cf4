//! Why a kernel could not be built or could not run.

use std::fmt;

/// Result of a kernel.
pub type Result<T, E = OpError> = std::result::Result<T, E>;

/// What kind of failure an [`OpError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpErrorKind {
    /// The inputs or attributes break the operator's contract.
    Invalid,
    /// The combination is legal in ONNX but has no kernel here.
    Unsupported,
}

/// A failure with a sentence for the user. The executor adds the node's name and operator.
#[derive(Clone, Debug)]
pub struct OpError {
    kind: OpErrorKind,
    message: String,
}

impl OpError {
    /// The inputs or attributes break the operator's contract; say what was got and what was expected.
    pub fn invalid(message: impl Into<String>) -> OpError {
        OpError { kind: OpErrorKind::Invalid, message: message.into() }
    }

    /// There is no kernel for this legal combination; say which.
    pub fn unsupported(message: impl Into<String>) -> OpError {
        OpError { kind: OpErrorKind::Unsupported, message: message.into() }
    }

    pub fn kind(&self) -> OpErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<tenon_kernels::KernelError> for OpError {
    fn from(error: tenon_kernels::KernelError) -> OpError {
        OpError::invalid(error.to_string())
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpError {}
