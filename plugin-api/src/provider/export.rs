//! From a [`Provider`] to the C table: the export macro, the state behind a table, and the table itself.

use super::once::Once;
use super::{Host, Provider, Score, thunk};
use crate::{DeviceInfo, Error, Result, ffi};
use alloc::vec::Vec;

/// Glue that [`export_provider!`](crate::export_provider) writes.
///
/// # Safety
/// `state` always returns the same state, and `guard` lets no panic out.
#[doc(hidden)]
pub unsafe trait Export: Provider {
    /// The state of this provider: one in a process.
    fn state() -> &'static State<Self>;

    /// Runs `body`; a panic becomes an error.
    fn guard<R>(body: impl FnOnce() -> R) -> Result<R>;
}

/// What lives behind a provider's table for the life of the process.
#[doc(hidden)]
pub struct State<P> {
    provider: Once<P>,
    score: Once<Score>,
    devices: Once<DeviceTable>,
}

/// Device facts as the table hands them out: an array of pointers into owned structs.
struct DeviceTable {
    pointers: Vec<*const ffi::DeviceInfo>,
    _infos: Vec<ffi::DeviceInfo>,
    _texts: Vec<DeviceInfo>,
}

// SAFETY: the pointers lead into the vectors beside them, which nobody changes.
unsafe impl Send for DeviceTable {}
// SAFETY: as for Send.
unsafe impl Sync for DeviceTable {}

impl<P: Provider> State<P> {
    #[expect(clippy::new_without_default, reason = "made in a static by the export macro only")]
    pub const fn new() -> State<P> {
        State { provider: Once::new(), score: Once::new(), devices: Once::new() }
    }

    /// Makes the provider, unless an earlier call did.
    ///
    /// # Safety
    /// `host` is as the header says, for the life of the process.
    pub(super) unsafe fn initialize(&self, host: *const ffi::HostApi) -> Result<()> {
        if self.provider.get().is_none() {
            // SAFETY: the caller vouches for the table.
            let host = unsafe { Host::new(host)? };
            self.provider.get_or_set(P::initialize(host)?);
        }
        Ok(())
    }

    pub(super) fn provider(&self) -> Result<&P> {
        self.provider.get().ok_or_else(|| Error::invalid("initialize must be called before anything else"))
    }

    pub(super) fn score(&self) -> Result<&Score> {
        match self.score.get() {
            Some(score) => Ok(score),
            None => Ok(self.score.get_or_set(self.provider()?.score())),
        }
    }

    pub(super) fn devices(&self) -> Result<&[*const ffi::DeviceInfo]> {
        if let Some(devices) = self.devices.get() {
            return Ok(&devices.pointers);
        }
        let texts = self.provider()?.devices()?;
        let infos: Vec<ffi::DeviceInfo> = texts.iter().map(DeviceInfo::to_ffi).collect();
        let pointers = infos.iter().map(|info| info as *const ffi::DeviceInfo).collect();
        Ok(&self.devices.get_or_set(DeviceTable { pointers, _infos: infos, _texts: texts }).pointers)
    }
}

/// `Some(function)` when `present`; const, unlike `bool::then_some`.
macro_rules! when {
    ($present:expr, $function:expr) => {
        if $present { Some($function) } else { None }
    };
}

/// The C table of `P`. [`export_provider!`](crate::export_provider) puts it into a `static`.
pub const fn table<P: Export>() -> ffi::ProviderApi {
    let has = P::FEATURES;
    ffi::ProviderApi {
        struct_size: size_of::<ffi::ProviderApi>(),
        abi_major: ffi::ABI_MAJOR,
        abi_minor: ffi::ABI_MINOR,
        name: ffi::Str::new(P::NAME),
        vendor: ffi::Str::new(P::VENDOR),
        version: ffi::Str::new(P::VERSION),
        build_info: ffi::Str::new(P::BUILD_INFO),
        initialize: Some(thunk::initialize::<P>),
        score: Some(thunk::score::<P>),
        enumerate_devices: Some(thunk::enumerate_devices::<P>),
        open_device: Some(thunk::open_device::<P>),
        close_device: Some(thunk::close_device::<P>),
        memory_info: Some(thunk::memory_info::<P>),
        allocate: Some(thunk::allocate::<P>),
        free: Some(thunk::free::<P>),
        allocate_ordered: when!(has.ordered_allocation, thunk::allocate_ordered::<P>),
        free_ordered: when!(has.ordered_allocation, thunk::free_ordered::<P>),
        copy: Some(thunk::copy::<P>),
        stream_create: Some(thunk::stream_create::<P>),
        stream_wrap: when!(has.wrap_stream, thunk::stream_wrap::<P>),
        stream_destroy: Some(thunk::stream_destroy::<P>),
        stream_synchronize: Some(thunk::stream_synchronize::<P>),
        event_create: Some(thunk::event_create::<P>),
        event_destroy: Some(thunk::event_destroy::<P>),
        event_record: Some(thunk::event_record::<P>),
        event_wait: Some(thunk::event_wait::<P>),
        event_query: Some(thunk::event_query::<P>),
        event_synchronize: Some(thunk::event_synchronize::<P>),
        capture_begin: when!(has.capture, thunk::capture_begin::<P>),
        capture_end: when!(has.capture, thunk::capture_end::<P>),
        recording_launch: when!(has.capture, thunk::recording_launch::<P>),
        recording_destroy: when!(has.capture, thunk::recording_destroy::<P>),
        claim: Some(thunk::claim::<P>),
        attention_caps: when!(has.attention, thunk::attention_caps::<P>),
        compile: Some(thunk::compile::<P>),
        executable_destroy: Some(thunk::executable_destroy::<P>),
        executable_serialize: when!(has.compile_cache, thunk::executable_serialize::<P>),
        executable_deserialize: when!(has.compile_cache, thunk::executable_deserialize::<P>),
        executable_released: when!(has.released, thunk::executable_released::<P>),
        workspace_bytes: when!(has.workspace, thunk::workspace_bytes::<P>),
        run: Some(thunk::run::<P>),
        kv_pool_create: when!(has.kv_pool, thunk::kv_pool_create::<P>),
        kv_pool_destroy: when!(has.kv_pool, thunk::kv_pool_destroy::<P>),
        kv_pool_data: when!(has.kv_pool, thunk::kv_pool_data::<P>),
        kv_pool_copy_pages: when!(has.kv_pool, thunk::kv_pool_copy_pages::<P>),
        sample: when!(has.sampling, thunk::sample::<P>),
        group_create: when!(has.collectives, thunk::group_create::<P>),
        group_destroy: when!(has.collectives, thunk::group_destroy::<P>),
        all_reduce: when!(has.collectives, thunk::all_reduce::<P>),
        all_gather: when!(has.collectives, thunk::all_gather::<P>),
        timeline_start: when!(has.timeline, thunk::timeline_start::<P>),
        timeline_stop: when!(has.timeline, thunk::timeline_stop::<P>),
        extension: when!(has.extension, thunk::extension::<P>),
    }
}

/// Makes a plugin of a [`Provider`]: a function `table()` that returns the C table, and the exported symbol
/// `tenon_provider_entry` that returns the same.
///
/// Write it once, in the root of a crate with `crate-type = ["cdylib", "rlib"]`. The shared library exports the symbol;
/// a program that links the rlib calls `table()`. Cargo builds both forms at once, so the rlib holds the symbol too: a
/// program that links the rlibs of several providers passes `-z muldefs` to its linker, which is right because nothing
/// inside a provider refers to the symbol. `export_provider!(Type, no_symbol)` leaves the symbol out, for providers that
/// live inside a test.
#[macro_export]
macro_rules! export_provider {
    ($provider:ty) => {
        $crate::export_provider!($provider, no_symbol);

        /// The symbol that a host looks up in the shared library.
        #[unsafe(no_mangle)]
        pub extern "C" fn tenon_provider_entry() -> *const $crate::ffi::ProviderApi {
            table()
        }
    };
    ($provider:ty, no_symbol) => {
        // SAFETY: there is one static state, and `catch_unwind` stops panics.
        unsafe impl $crate::provider::Export for $provider {
            fn state() -> &'static $crate::provider::State<Self> {
                static STATE: $crate::provider::State<$provider> = $crate::provider::State::new();
                &STATE
            }

            #[inline]
            fn guard<R>(body: impl FnOnce() -> R) -> $crate::Result<R> {
                ::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(body)).map_err(|payload| {
                    let text = payload.downcast_ref::<&str>().copied().or_else(|| {
                        payload.downcast_ref::<::std::string::String>().map(|text| text.as_str())
                    });
                    let error = $crate::Error::internal(::std::format!(
                        "provider '{}' panicked: {}",
                        <$provider as $crate::provider::Provider>::NAME,
                        text.unwrap_or("no message"),
                    ));
                    // Dropping a payload may panic again.
                    let dropped =
                        ::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(|| drop(payload)));
                    dropped.unwrap_or_else(::std::mem::forget);
                    error
                })
            }
        }

        /// The provider's C table, valid for the life of the process.
        pub fn table() -> &'static $crate::ffi::ProviderApi {
            static TABLE: $crate::ffi::ProviderApi = $crate::provider::table::<$provider>();
            &TABLE
        }
    };
}
