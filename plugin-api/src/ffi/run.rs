//! Mirror of the compile, run, language-model and observation structs of the header.

use super::{Graph, KeyValue, Status, Str, Stream, Tensor, assert_last_member};
use core::ffi::c_void;
use core::mem::{offset_of, size_of};

/// Arguments of `compile`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CompileArgs {
    pub struct_size: usize,
    pub graph: *const Graph,
    pub target: Str,
    pub constants_stay: u32,
    pub specialize: u32,
    pub option_count: u32,
    pub reserved: u32,
    pub options: *const *const KeyValue,
}

/// Receives bytes of unknown length, in order, in pieces.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ByteSink {
    pub struct_size: usize,
    pub context: *mut c_void,
    pub write:
        Option<unsafe extern "C" fn(context: *mut c_void, bytes: *const c_void, len: usize) -> *mut Status>,
}

/// Gives the provider memory for an output once its shape is known.
pub type AllocateOutput = unsafe extern "C" fn(
    context: *mut c_void,
    index: u32,
    dtype: u32,
    dims: *const i64,
    rank: u32,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut Status;

/// Arguments of `run`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RunArgs {
    pub struct_size: usize,
    pub stream: *mut Stream,
    pub inputs: *const Tensor,
    pub input_count: usize,
    pub workspace: *mut c_void,
    pub workspace_bytes: usize,
    pub context: *mut c_void,
    pub allocate_output: Option<AllocateOutput>,
}

/// Arguments of `kv_pool_create`: pages of `[layers][2][kv_heads][page_tokens][head_size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KvPoolArgs {
    pub struct_size: usize,
    pub layers: u32,
    pub kv_heads: u32,
    pub head_size: u32,
    pub page_tokens: u32,
    pub pages: u64,
    pub dtype: u32,
    pub reserved: u32,
}

/// One batched sampling step over logits in device memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SampleArgs {
    pub struct_size: usize,
    pub stream: *mut Stream,
    pub logits: *const c_void,
    pub logits_dtype: u32,
    pub batch: u32,
    pub vocabulary: u32,
    pub reserved: u32,
    pub temperatures: *const f32,
    pub top_k: *const u32,
    pub top_p: *const f32,
    pub min_p: *const f32,
    pub seeds: *const u64,
    pub tokens: *mut i32,
    pub log_probs: *mut f32,
}

/// How `all_reduce` combines elements: one of the `REDUCE_` constants.
pub type Reduction = u32;
pub const REDUCE_SUM: Reduction = 1;
pub const REDUCE_MAX: Reduction = 2;
pub const REDUCE_MIN: Reduction = 3;
pub const REDUCE_AVERAGE: Reduction = 4;

/// One kernel or copy that ran.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimelineEntry {
    pub struct_size: usize,
    pub symbol: Str,
    pub node: Str,
    pub op_type: Str,
    pub parameters: Str,
    pub start_ns: u64,
    pub duration_ns: u64,
    pub stream: u64,
    pub flops: f64,
    pub bytes: f64,
}

/// Receives the timeline.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimelineSink {
    pub struct_size: usize,
    pub context: *mut c_void,
    pub entry: Option<unsafe extern "C" fn(context: *mut c_void, entry: *const TimelineEntry)>,
}

assert_last_member! {
    CompileArgs.options: *const *const KeyValue;
    ByteSink.write: Option<unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut Status>;
    RunArgs.allocate_output: Option<AllocateOutput>;
    KvPoolArgs.reserved: u32;
    SampleArgs.log_probs: *mut f32;
    TimelineEntry.bytes: f64;
    TimelineSink.entry: Option<unsafe extern "C" fn(*mut c_void, *const TimelineEntry)>;
}
