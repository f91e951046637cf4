//! libtenon: the C ABI of Tenon for host applications. `include/tenon.h` is normative; every function here is documented
//! there.

mod argument;
mod environment;
mod error;
mod log;
mod run;
mod session;
mod view;

use tenon_plugin_api::ffi::Str;

/// See `tenon.h`.
#[unsafe(no_mangle)]
pub extern "C" fn tenon_version() -> Str {
    Str::new(env!("CARGO_PKG_VERSION"))
}
