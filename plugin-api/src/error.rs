//! Failures as both sides see them, and their way through the C status object.

use crate::ffi;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum Code {
    /// The caller broke the contract, or the model is not valid.
    InvalidArgument = ffi::CODE_INVALID_ARGUMENT,
    /// Legal, but this provider cannot do it.
    Unsupported = ffi::CODE_UNSUPPORTED,
    OutOfMemory = ffi::CODE_OUT_OF_MEMORY,
    /// Nothing on this device will work again in this process.
    DeviceLost = ffi::CODE_DEVICE_LOST,
    NotFound = ffi::CODE_NOT_FOUND,
    Cancelled = ffi::CODE_CANCELLED,
    /// A defect of the provider or its driver; also what an unknown code is read as.
    Internal = ffi::CODE_INTERNAL,
    /// The work asked about has not finished.
    NotReady = ffi::CODE_NOT_READY,
}

impl Code {
    /// The code with the header's number `number`; a number of a newer minor version is [`Code::Internal`].
    pub const fn from_number(number: u32) -> Code {
        match number {
            ffi::CODE_INVALID_ARGUMENT => Code::InvalidArgument,
            ffi::CODE_UNSUPPORTED => Code::Unsupported,
            ffi::CODE_OUT_OF_MEMORY => Code::OutOfMemory,
            ffi::CODE_DEVICE_LOST => Code::DeviceLost,
            ffi::CODE_NOT_FOUND => Code::NotFound,
            ffi::CODE_CANCELLED => Code::Cancelled,
            ffi::CODE_NOT_READY => Code::NotReady,
            _ => Code::Internal,
        }
    }
}

/// Result of a function of the contract.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// A failure: its kind, the driver's own number, and one sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure it is.
    pub code: Code,
    /// The driver's own error number, 0 when there is none.
    pub provider_code: i32,
    /// What, where, what was expected, what to do.
    pub message: String,
}

impl Error {
    /// A failure of kind `code` with a sentence for the user.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, provider_code: 0, message: message.into() }
    }

    /// The caller broke the contract, or the model is not valid.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Code::InvalidArgument, message)
    }

    /// Legal, but this provider cannot do it.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(Code::Unsupported, message)
    }

    /// There was not enough memory.
    pub fn out_of_memory(message: impl Into<String>) -> Error {
        Error::new(Code::OutOfMemory, message)
    }

    /// A defect of the provider or its driver.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Code::Internal, message)
    }

    /// Adds the driver's own error number.
    pub fn with_provider_code(mut self, provider_code: i32) -> Error {
        self.provider_code = provider_code;
        self
    }

    /// Turns the failure into a status that its receiver releases.
    pub fn into_status(self) -> *mut ffi::Status {
        let owner = Box::new(StatusOwner {
            status: ffi::Status {
                struct_size: size_of::<ffi::Status>(),
                code: self.code as u32,
                provider_code: self.provider_code,
                message: ffi::Str::new(&self.message),
                release: Some(release_status),
            },
            _message: self.message,
        });
        Box::into_raw(owner).cast()
    }

    /// Reads a status and releases it; `Ok` when it is NULL.
    ///
    /// # Safety
    /// `status` is NULL or a status that the caller owns; it must not be used afterwards.
    #[inline]
    pub unsafe fn check(status: *mut ffi::Status) -> Result<()> {
        if status.is_null() {
            return Ok(());
        }
        // SAFETY: not NULL, and the caller owns it.
        Err(unsafe { Error::from_status(status) })
    }

    /// Reads a status and releases it.
    ///
    /// # Safety
    /// `status` is a status that the caller owns; it must not be used afterwards.
    #[cold]
    unsafe fn from_status(status: *mut ffi::Status) -> Error {
        // SAFETY: the caller owns a readable status; every member is of version 1.0.
        let (code, provider_code, message, release) =
            unsafe { ((*status).code, (*status).provider_code, (*status).message, (*status).release) };
        // SAFETY: the message is borrowed from the status, which is alive until it is released below.
        let message = String::from_utf8_lossy(unsafe { message.as_bytes() }).into_owned();
        if let Some(release) = release {
            // SAFETY: the caller owns the status and gives it up.
            unsafe { release(status) };
        }
        Error { code: Code::from_number(code), provider_code, message }
    }
}

/// A status with the message that it points at. The status comes first, so that its address is the owner's.
#[repr(C)]
struct StatusOwner {
    status: ffi::Status,
    _message: String,
}

unsafe extern "C" fn release_status(status: *mut ffi::Status) {
    // SAFETY: only `into_status` installs this function, on the first member of a boxed `StatusOwner`.
    drop(unsafe { Box::from_raw(status.cast::<StatusOwner>()) });
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.provider_code != 0 {
            write!(f, " (driver error {})", self.provider_code)?;
        }
        Ok(())
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_a_status() {
        let error = Error::unsupported("Conv of rank 7: at most 5").with_provider_code(-12);
        // SAFETY: the status was just made and is given up.
        let back = unsafe { Error::check(error.clone().into_status()) };
        assert_eq!(back, Err(error));
    }

    #[test]
    fn null_is_success() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { Error::check(core::ptr::null_mut()) }, Ok(()));
    }

    #[test]
    fn an_unknown_code_is_read_as_internal() {
        assert_eq!(Code::from_number(4711), Code::Internal);
        for number in 1..=8 {
            assert_eq!(Code::from_number(number) as u32, number);
        }
    }
}
