//! The log of the runtime and its providers, sent to a function of the host application.

use std::ffi::c_void;
use std::fmt::{self, Write as _};
use std::sync::{Once, PoisonError, RwLock};

use tenon_plugin_api::ffi::{self, Str};
use tenon_runtime::error::{Error, Result};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber, set_global_default};
use tracing::{Event, Level, Metadata};

use crate::error::{CError, guard, shielded};

type Callback = unsafe extern "C" fn(*mut c_void, u32, Str, Str);

#[derive(Clone, Copy)]
struct Sink {
    callback: Callback,
    user: *mut c_void,
    level: u32,
}

// SAFETY: the header tells callers that the callback is called from any thread, several at once.
unsafe impl Send for Sink {}
// SAFETY: as for `Send`.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

fn sink() -> Option<Sink> {
    *SINK.read().unwrap_or_else(PoisonError::into_inner)
}

/// Passes every event on to [`SINK`]; spans are not kept.
struct Forwarder;

impl Subscriber for Forwarder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && sink().is_some_and(|sink| number(*metadata.level()) <= sink.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = number(*event.metadata().level());
        let Some(sink) = sink().filter(|sink| level <= sink.level) else { return };
        let mut line = Line::default();
        event.record(&mut line);
        let message = line.message + &line.fields;
        // SAFETY: the caller of `tenon_set_log` gave a function of this type; the strings outlive the call.
        unsafe { (sink.callback)(sink.user, level, Str::new(event.metadata().target()), Str::new(&message)) };
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The text of an event: its message, then its other fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String fails only when the value's own formatting does; the rest of the line is still of use.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => ffi::LOG_ERROR,
        Level::WARN => ffi::LOG_WARN,
        Level::INFO => ffi::LOG_INFO,
        Level::DEBUG => ffi::LOG_DEBUG,
        Level::TRACE => ffi::LOG_TRACE,
    }
}

fn install() -> Result<()> {
    static INSTALL: Once = Once::new();
    let mut outcome = Ok(());
    INSTALL.call_once(|| {
        outcome = set_global_default(Forwarder)
            .map_err(|_| Error::unsupported("this process already sends Tenon's log somewhere else"));
    });
    outcome
}

/// See `tenon.h`.
///
/// # Safety
/// `callback` may be called with `user` from any thread until it is replaced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_set_log(
    callback: Option<Callback>,
    user: *mut c_void,
    level: u32,
) -> *mut CError {
    guard(|| {
        if callback.is_some() && !(ffi::LOG_ERROR..=ffi::LOG_TRACE).contains(&level) {
            return Err(Error::invalid_input(format!(
                "log level {level} is not one of TENON_LOG_ERROR (1) to TENON_LOG_TRACE (5)"
            )));
        }
        install()?;
        *SINK.write().unwrap_or_else(PoisonError::into_inner) =
            callback.map(|callback| Sink { callback, user, level });
        shielded((), tracing::callsite::rebuild_interest_cache);
        Ok(())
    })
}
