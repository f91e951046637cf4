//! The table the runtime hands to providers: its log.

use tenon_plugin_api::ffi;
use tracing::{Level, enabled, event};

/// The runtime's table, valid for the life of the process.
pub fn host_api() -> &'static ffi::HostApi {
    static TABLE: ffi::HostApi = ffi::HostApi {
        struct_size: size_of::<ffi::HostApi>(),
        abi_major: ffi::ABI_MAJOR,
        abi_minor: ffi::ABI_MINOR,
        name: ffi::Str::new("tenon"),
        version: ffi::Str::new(env!("CARGO_PKG_VERSION")),
        log: Some(log),
        log_enabled: Some(log_enabled),
    };
    &TABLE
}

unsafe extern "C" fn log(level: ffi::LogLevel, target: ffi::Str, message: ffi::Str) {
    // SAFETY: the provider passes strings that are valid for the call.
    let (target, message) = unsafe { (target.as_str(), message.as_str()) };
    let (provider, message) =
        (target.unwrap_or("provider"), message.unwrap_or("(a message that is not UTF-8)"));
    match level {
        ffi::LOG_ERROR => event!(target: "tenon::provider", Level::ERROR, provider, "{message}"),
        ffi::LOG_WARN => event!(target: "tenon::provider", Level::WARN, provider, "{message}"),
        ffi::LOG_INFO => event!(target: "tenon::provider", Level::INFO, provider, "{message}"),
        ffi::LOG_DEBUG => event!(target: "tenon::provider", Level::DEBUG, provider, "{message}"),
        _ => event!(target: "tenon::provider", Level::TRACE, provider, "{message}"),
    }
}

unsafe extern "C" fn log_enabled(level: ffi::LogLevel) -> u32 {
    u32::from(match level {
        ffi::LOG_ERROR => enabled!(target: "tenon::provider", Level::ERROR),
        ffi::LOG_WARN => enabled!(target: "tenon::provider", Level::WARN),
        ffi::LOG_INFO => enabled!(target: "tenon::provider", Level::INFO),
        ffi::LOG_DEBUG => enabled!(target: "tenon::provider", Level::DEBUG),
        _ => enabled!(target: "tenon::provider", Level::TRACE),
    })
}
