//! The exact `repr(C)` mirror of `include/tenon_plugin.h`: value types, status, host table and opaque objects.
//!
//! Names drop the `tenon_` prefix; enumerations are `u32` constants because the other side may be newer; every
//! function pointer is an `Option`, `None` being C's NULL. The header documents lifetimes, threads and versions.

mod device;
mod graph;
mod run;
mod table;

pub use device::*;
pub use graph::*;
pub use run::*;
pub use table::*;

use core::ffi::{c_char, c_void};
use core::marker::{PhantomData, PhantomPinned};
use core::mem::{offset_of, size_of};

/// The major version of the contract: a provider of another major version is refused.
pub const ABI_MAJOR: u32 = 1;
/// The minor version of the contract: members are only appended.
pub const ABI_MINOR: u32 = 0;

/// The symbol that a provider exports, with a final NUL.
pub const PROVIDER_ENTRY: &core::ffi::CStr = c"tenon_provider_entry";
/// The signature of the exported symbol. The table is valid for the life of the process.
pub type ProviderEntry = unsafe extern "C" fn() -> *const ProviderApi;

/// True when a struct whose creator set `struct_size` to `$s.struct_size` has the member `$member`.
///
/// `$s` is a place of type `$type`, reached through a raw pointer; only `struct_size` is read.
#[macro_export]
macro_rules! has_member {
    ($s:expr, $type:ty, $member:ident) => {{
        const END: usize = ::core::mem::offset_of!($type, $member)
            + $crate::ffi::member_size(|s: &$type| &raw const s.$member);
        $s.struct_size >= END
    }};
}

/// Size of the member that `project` points at.
#[doc(hidden)]
pub const fn member_size<S, M>(_project: fn(&S) -> *const M) -> usize {
    size_of::<M>()
}

/// UTF-8 text or bytes that belong to somebody else. `data` may be NULL when `len` is 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Str {
    pub data: *const c_char,
    pub len: usize,
}

impl Str {
    /// No text.
    pub const EMPTY: Str = Str { data: core::ptr::null(), len: 0 };

    /// Points at `text`, which must outlive every use of the result.
    pub const fn new(text: &str) -> Str {
        Str { data: text.as_ptr().cast(), len: text.len() }
    }

    /// The bytes pointed at.
    ///
    /// # Safety
    /// `data` points at `len` readable bytes that stay unchanged for `'a`, or `len` is 0.
    pub const unsafe fn as_bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 || self.data.is_null() {
            return &[];
        }
        // SAFETY: the caller vouches for the bytes; the pointer was just checked.
        unsafe { core::slice::from_raw_parts(self.data.cast(), self.len) }
    }

    /// The text pointed at, or `None` when it is not UTF-8.
    ///
    /// # Safety
    /// As [`Str::as_bytes`].
    pub const unsafe fn as_str<'a>(self) -> Option<&'a str> {
        // SAFETY: the caller vouches for the bytes.
        match core::str::from_utf8(unsafe { self.as_bytes() }) {
            Ok(text) => Some(text),
            Err(_) => None,
        }
    }
}

// SAFETY: a Str is an address and a length; following it is an unsafe act of whoever does it.
unsafe impl Send for Str {}
// SAFETY: as for Send.
unsafe impl Sync for Str {}

/// What kind of memory a pointer names: one of the `MEMORY_` constants.
pub type Memory = u32;
/// Ordinary host memory.
pub const MEMORY_HOST: Memory = 0;
/// Host memory the device can copy from and to without staging.
pub const MEMORY_PINNED: Memory = 1;
/// The device's own memory.
pub const MEMORY_DEVICE: Memory = 2;

/// A contiguous row-major tensor whose bytes belong to somebody else.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tensor {
    pub data: *mut c_void,
    pub bytes: usize,
    pub dims: *const i64,
    pub rank: u32,
    /// A number of [`crate::DType`].
    pub dtype: u32,
    pub memory: Memory,
    pub reserved: u32,
}

/// Estimated cost of running a set of nodes once; negative members are unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Cost {
    /// Expected nanoseconds on the device, launches included, transfers excluded.
    pub time_ns: f64,
    pub flops: f64,
    /// Bytes of device memory moved.
    pub bytes: f64,
}

impl Cost {
    /// Nothing is known.
    pub const UNKNOWN: Cost = Cost { time_ns: -1.0, flops: -1.0, bytes: -1.0 };
}

/// A key and a value, as text.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KeyValue {
    pub struct_size: usize,
    pub key: Str,
    pub value: Str,
}

/// What kind of failure a status reports: one of the `CODE_` constants.
pub type Code = u32;
pub const CODE_INVALID_ARGUMENT: Code = 1;
pub const CODE_UNSUPPORTED: Code = 2;
pub const CODE_OUT_OF_MEMORY: Code = 3;
pub const CODE_DEVICE_LOST: Code = 4;
pub const CODE_NOT_FOUND: Code = 5;
pub const CODE_CANCELLED: Code = 6;
pub const CODE_INTERNAL: Code = 7;
pub const CODE_NOT_READY: Code = 8;

/// A failure; NULL is success. Whoever receives it calls `release`.
#[derive(Debug)]
#[repr(C)]
pub struct Status {
    pub struct_size: usize,
    pub code: Code,
    pub provider_code: i32,
    pub message: Str,
    pub release: Option<unsafe extern "C" fn(this: *mut Status)>,
}

/// How important a log line is: one of the `LOG_` constants.
pub type LogLevel = u32;
pub const LOG_ERROR: LogLevel = 1;
pub const LOG_WARN: LogLevel = 2;
pub const LOG_INFO: LogLevel = 3;
pub const LOG_DEBUG: LogLevel = 4;
pub const LOG_TRACE: LogLevel = 5;

/// What the host offers to a provider.
#[derive(Debug)]
#[repr(C)]
pub struct HostApi {
    pub struct_size: usize,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub name: Str,
    pub version: Str,
    pub log: Option<unsafe extern "C" fn(level: LogLevel, target: Str, message: Str)>,
    pub log_enabled: Option<unsafe extern "C" fn(level: LogLevel) -> u32>,
}

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _bytes: [u8; 0],
            _not_send_nor_movable: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque! {
    /// An opened device.
    Device;
    /// An in-order queue of work on one device.
    Stream;
    /// A point in a stream.
    Event;
    /// A captured sequence of work, launched as one.
    Recording;
    /// A compiled subgraph.
    Executable;
    /// Pages of a key-value cache.
    KvPool;
    /// Devices that run collectives together.
    Group;
}

/// Asserts that `$member` is the last member of `$type`, so that its end is the struct's size.
macro_rules! assert_last_member {
    ($($type:ident . $member:ident : $of:ty;)*) => {$(
        const _: () = {
            let end = offset_of!($type, $member) + size_of::<$of>();
            let align = align_of::<$type>();
            assert!(size_of::<$type>() == end.next_multiple_of(align), concat!(stringify!($type), " has a later member"));
        };
    )*};
}
pub(crate) use assert_last_member;

assert_last_member! {
    Str.len: usize;
    Tensor.reserved: u32;
    Cost.bytes: f64;
    KeyValue.value: Str;
    Status.release: Option<unsafe extern "C" fn(*mut Status)>;
    HostApi.log_enabled: Option<unsafe extern "C" fn(LogLevel) -> u32>;
}
