//! Which optional functions a provider implements.

/// Optional functions of the contract. A function whose feature is off is absent (NULL) from the table, so that the host
/// does not try it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `Stream::allocate` and `Stream::free`.
    pub ordered_allocation: bool,
    /// `Device::wrap_stream`.
    pub wrap_stream: bool,
    /// `Stream::capture_begin`, `capture_end` and `launch`.
    pub capture: bool,
    /// `Device::attention_caps`.
    pub attention: bool,
    /// `Executable::serialize` and `Device::deserialize`.
    pub compile_cache: bool,
    /// `Executable::released`.
    pub released: bool,
    /// `Executable::workspace_bytes`.
    pub workspace: bool,
    /// `Device::kv_pool`.
    pub kv_pool: bool,
    /// `Device::sample`.
    pub sampling: bool,
    /// `Provider::group`.
    pub collectives: bool,
    /// `Device::timeline_start` and `timeline_stop`.
    pub timeline: bool,
    /// `Provider::extension`.
    pub extension: bool,
}

impl Features {
    /// Only what every provider has.
    pub const NONE: Features = Features {
        ordered_allocation: false,
        wrap_stream: false,
        capture: false,
        attention: false,
        compile_cache: false,
        released: false,
        workspace: false,
        kv_pool: false,
        sampling: false,
        collectives: false,
        timeline: false,
        extension: false,
    };
}
