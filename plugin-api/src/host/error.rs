//! A provider's failure with the provider's name.

use crate::ffi;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;

/// Result of a call of a provider.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// A failure of a provider, or of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    provider: Arc<str>,
    error: crate::Error,
}

impl Error {
    pub(super) fn new(provider: &Arc<str>, error: crate::Error) -> Error {
        Error { provider: provider.clone(), error }
    }

    /// The provider that failed; empty when it did not even say its name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// One of the `CODE_` constants.
    pub fn code(&self) -> ffi::Code {
        self.error.code as u32
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> crate::Code {
        self.error.code
    }

    /// The driver's own error number, 0 when there is none.
    pub fn provider_code(&self) -> i32 {
        self.error.provider_code
    }

    /// The provider's sentence, without its name.
    pub fn message(&self) -> &str {
        &self.error.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.provider.is_empty() {
            write!(f, "provider '{}': ", self.provider)?;
        }
        self.error.fmt(f)
    }
}

impl core::error::Error for Error {}

/// A status of the host's own, for its callbacks to return; the provider releases it.
pub fn status(code: ffi::Code, message: &str) -> *mut ffi::Status {
    crate::Error::new(crate::Code::from_number(code), message.to_string()).into_status()
}

/// A failure without a provider's name.
pub(super) fn unnamed(message: String) -> Error {
    Error { provider: "".into(), error: crate::Error::invalid(message) }
}
