//! Mirror of `tenon_provider_api`, the table that a provider is.

use super::*;
use core::ffi::c_void;

/// What a provider is. Members that the header calls optional may be `None`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[rustfmt::skip]
pub struct ProviderApi {
    pub struct_size: usize,
    pub abi_major: u32,
    pub abi_minor: u32,

    // Identity.
    pub name: Str,
    pub vendor: Str,
    pub version: Str,
    pub build_info: Str,
    pub initialize: Option<unsafe extern "C" fn(host: *const HostApi) -> *mut Status>,
    pub score: Option<unsafe extern "C" fn(reason: *mut Str) -> u32>,

    // Devices.
    pub enumerate_devices: Option<unsafe extern "C" fn(infos: *mut *const *const DeviceInfo, count: *mut usize) -> *mut Status>,
    pub open_device: Option<unsafe extern "C" fn(args: *const OpenArgs, device: *mut *mut Device) -> *mut Status>,
    pub close_device: Option<unsafe extern "C" fn(device: *mut Device)>,
    pub memory_info: Option<unsafe extern "C" fn(device: *mut Device, info: *mut MemoryInfo) -> *mut Status>,

    // Memory.
    pub allocate: Option<unsafe extern "C" fn(device: *mut Device, memory: Memory, bytes: usize, data: *mut *mut c_void) -> *mut Status>,
    pub free: Option<unsafe extern "C" fn(device: *mut Device, memory: Memory, data: *mut c_void)>,
    pub allocate_ordered: Option<unsafe extern "C" fn(stream: *mut Stream, bytes: usize, data: *mut *mut c_void) -> *mut Status>,
    pub free_ordered: Option<unsafe extern "C" fn(stream: *mut Stream, data: *mut c_void) -> *mut Status>,
    pub copy: Option<unsafe extern "C" fn(stream: *mut Stream, copies: *const Copy, count: usize) -> *mut Status>,

    // Streams.
    pub stream_create: Option<unsafe extern "C" fn(device: *mut Device, stream: *mut *mut Stream) -> *mut Status>,
    pub stream_wrap: Option<unsafe extern "C" fn(device: *mut Device, native: *mut c_void, stream: *mut *mut Stream) -> *mut Status>,
    pub stream_destroy: Option<unsafe extern "C" fn(stream: *mut Stream)>,
    pub stream_synchronize: Option<unsafe extern "C" fn(stream: *mut Stream) -> *mut Status>,
    pub event_create: Option<unsafe extern "C" fn(device: *mut Device, event: *mut *mut Event) -> *mut Status>,
    pub event_destroy: Option<unsafe extern "C" fn(event: *mut Event)>,
    pub event_record: Option<unsafe extern "C" fn(event: *mut Event, stream: *mut Stream) -> *mut Status>,
    pub event_wait: Option<unsafe extern "C" fn(event: *mut Event, stream: *mut Stream) -> *mut Status>,
    pub event_query: Option<unsafe extern "C" fn(event: *mut Event) -> *mut Status>,
    pub event_synchronize: Option<unsafe extern "C" fn(event: *mut Event) -> *mut Status>,
    pub capture_begin: Option<unsafe extern "C" fn(stream: *mut Stream) -> *mut Status>,
    pub capture_end: Option<unsafe extern "C" fn(stream: *mut Stream, recording: *mut *mut Recording) -> *mut Status>,
    pub recording_launch: Option<unsafe extern "C" fn(recording: *mut Recording, stream: *mut Stream) -> *mut Status>,
    pub recording_destroy: Option<unsafe extern "C" fn(recording: *mut Recording)>,

    // Capability.
    pub claim: Option<unsafe extern "C" fn(device: *mut Device, target: Str, graph: *const Graph, sink: *const ClaimSink) -> *mut Status>,
    pub attention_caps: Option<unsafe extern "C" fn(device: *mut Device, caps: *mut AttentionCaps) -> *mut Status>,

    // Compile.
    pub compile: Option<unsafe extern "C" fn(device: *mut Device, args: *const CompileArgs, executable: *mut *mut Executable) -> *mut Status>,
    pub executable_destroy: Option<unsafe extern "C" fn(executable: *mut Executable)>,
    pub executable_serialize: Option<unsafe extern "C" fn(executable: *mut Executable, sink: *const ByteSink) -> *mut Status>,
    pub executable_deserialize: Option<unsafe extern "C" fn(device: *mut Device, args: *const CompileArgs, bytes: *const c_void, len: usize, executable: *mut *mut Executable) -> *mut Status>,
    pub executable_released: Option<unsafe extern "C" fn(executable: *mut Executable, value: u32) -> u32>,

    // Run.
    pub workspace_bytes: Option<unsafe extern "C" fn(executable: *mut Executable, inputs: *const Tensor, input_count: usize, bytes: *mut usize) -> *mut Status>,
    pub run: Option<unsafe extern "C" fn(executable: *mut Executable, args: *const RunArgs) -> *mut Status>,

    // Language models.
    pub kv_pool_create: Option<unsafe extern "C" fn(device: *mut Device, args: *const KvPoolArgs, pool: *mut *mut KvPool) -> *mut Status>,
    pub kv_pool_destroy: Option<unsafe extern "C" fn(pool: *mut KvPool)>,
    pub kv_pool_data: Option<unsafe extern "C" fn(pool: *mut KvPool, data: *mut *mut c_void, bytes: *mut usize) -> *mut Status>,
    pub kv_pool_copy_pages: Option<unsafe extern "C" fn(pool: *mut KvPool, stream: *mut Stream, pairs: *const u64, count: usize) -> *mut Status>,
    pub sample: Option<unsafe extern "C" fn(device: *mut Device, args: *const SampleArgs) -> *mut Status>,
    pub group_create: Option<unsafe extern "C" fn(devices: *const *mut Device, count: usize, group: *mut *mut Group) -> *mut Status>,
    pub group_destroy: Option<unsafe extern "C" fn(group: *mut Group)>,
    pub all_reduce: Option<unsafe extern "C" fn(group: *mut Group, rank: u32, stream: *mut Stream, src: *const c_void, dst: *mut c_void, count: usize, dtype: u32, reduction: Reduction) -> *mut Status>,
    pub all_gather: Option<unsafe extern "C" fn(group: *mut Group, rank: u32, stream: *mut Stream, src: *const c_void, dst: *mut c_void, count: usize, dtype: u32) -> *mut Status>,

    // Observation.
    pub timeline_start: Option<unsafe extern "C" fn(device: *mut Device) -> *mut Status>,
    pub timeline_stop: Option<unsafe extern "C" fn(device: *mut Device, sink: *const TimelineSink) -> *mut Status>,
    pub extension: Option<unsafe extern "C" fn(name: Str) -> *const c_void>,
}

assert_last_member! {
    ProviderApi.extension: Option<unsafe extern "C" fn(Str) -> *const c_void>;
}
