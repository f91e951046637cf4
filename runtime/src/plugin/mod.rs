//! Providers: loading their libraries, asking what they are, and showing them graphs.

mod host_api;
mod library;
mod view;

pub use host_api::host_api;
pub use library::{LoadedProvider, load_library, register};
pub use view::GraphView;

use tenon_plugin_api::{ffi, host};

use crate::error::{Error, ErrorKind};

/// A provider's failure as an error of the runtime.
pub fn provider_error(error: &host::Error) -> Error {
    let kind = match error.code() {
        ffi::CODE_INVALID_ARGUMENT => ErrorKind::InvalidInput,
        ffi::CODE_UNSUPPORTED => ErrorKind::Unsupported,
        ffi::CODE_OUT_OF_MEMORY => ErrorKind::Limit,
        ffi::CODE_CANCELLED => ErrorKind::Cancelled,
        _ => ErrorKind::Provider,
    };
    Error::new(kind, error.to_string())
}
