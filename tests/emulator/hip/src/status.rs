//! Status codes with the numbers of `hipError_t`, and their names.

use std::ffi::{CStr, c_char, c_int};
use tenon_emulator::{Error, Kind};

/// A `hipError_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub c_int);

/// Makes the constants and the table of names.
macro_rules! statuses {
    ($($constant:ident = $code:literal, $name:literal, $text:literal;)*) => {
        impl Status {
            $(pub const $constant: Status = Status($code);)*
        }

        fn describe(code: c_int) -> (&'static CStr, &'static CStr) {
            match code {
                $($code => ($name, $text),)*
                _ => (c"hipErrorUnknown", c"unknown error"),
            }
        }
    };
}

statuses! {
    SUCCESS = 0, c"hipSuccess", c"no error";
    INVALID_VALUE = 1, c"hipErrorInvalidValue", c"invalid argument";
    OUT_OF_MEMORY = 2, c"hipErrorOutOfMemory", c"out of memory";
    INVALID_CONFIGURATION = 9, c"hipErrorInvalidConfiguration", c"invalid configuration argument";
    NO_DEVICE = 100, c"hipErrorNoDevice", c"no ROCm-capable device is detected";
    INVALID_DEVICE = 101, c"hipErrorInvalidDevice", c"invalid device ordinal";
    INVALID_IMAGE = 200, c"hipErrorInvalidImage", c"device kernel image is invalid";
    NO_BINARY_FOR_GPU = 209, c"hipErrorNoBinaryForGpu", c"no kernel image is available for execution on the device";
    FILE_NOT_FOUND = 301, c"hipErrorFileNotFound", c"file not found";
    INVALID_HANDLE = 400, c"hipErrorInvalidHandle", c"invalid resource handle";
    ILLEGAL_STATE = 401, c"hipErrorIllegalState", c"the operation cannot be performed in the present state";
    NOT_FOUND = 500, c"hipErrorNotFound", c"named symbol not found";
    NOT_READY = 600, c"hipErrorNotReady", c"device not ready";
    ILLEGAL_ADDRESS = 700, c"hipErrorIllegalAddress", c"an illegal memory access was encountered";
    PEER_ALREADY_ENABLED = 704, c"hipErrorPeerAccessAlreadyEnabled", c"peer access is already enabled";
    LAUNCH_FAILURE = 719, c"hipErrorLaunchFailure", c"unspecified launch failure";
    NOT_SUPPORTED = 801, c"hipErrorNotSupported", c"operation not supported";
    CAPTURE_UNSUPPORTED = 900, c"hipErrorStreamCaptureUnsupported", c"operation not permitted when stream is capturing";
    CAPTURE_INVALIDATED = 901, c"hipErrorStreamCaptureInvalidated", c"operation failed due to a previous error during capture";
    CAPTURE_UNMATCHED = 903, c"hipErrorStreamCaptureUnmatched", c"capture was not ended in the same stream as it began";
    CAPTURE_UNJOINED = 904, c"hipErrorStreamCaptureUnjoined", c"capturing stream has unjoined work";
    UNKNOWN = 999, c"hipErrorUnknown", c"unknown error";
}

impl Status {
    /// The status of an error of the emulator, as the driver reports its cause.
    pub(crate) fn of(error: &Error) -> Status {
        match error.kind() {
            Kind::OutOfMemory => Status::OUT_OF_MEMORY,
            Kind::OutOfBounds => Status::ILLEGAL_ADDRESS,
            Kind::Launch => Status::INVALID_CONFIGURATION,
            Kind::Object => Status::INVALID_IMAGE,
            Kind::Target => Status::NO_BINARY_FOR_GPU,
            Kind::Disassembler => Status::NOT_SUPPORTED,
            Kind::Unsupported | Kind::Poison | Kind::Race | Kind::Runaway => Status::LAUNCH_FAILURE,
        }
    }
}

/// The result of a function before it becomes a status.
pub(crate) type Result<T> = std::result::Result<T, Status>;

/// Turns a result into a status; a panic must not reach the caller's frames.
pub(crate) fn answer(function: impl FnOnce() -> Result<()>) -> Status {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(function)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::UNKNOWN,
    }
}

/// Writes a result that the caller asked for.
pub(crate) fn put<T>(target: Option<&mut T>, value: T) -> Result<()> {
    *target.ok_or(Status::INVALID_VALUE)? = value;
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorName(code: c_int) -> *const c_char {
    describe(code).0.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorString(code: c_int) -> *const c_char {
    describe(code).1.as_ptr()
}
