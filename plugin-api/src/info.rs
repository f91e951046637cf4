//! Facts that both sides hand around by value: devices, memory figures, timeline entries.

use crate::ffi;
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;

/// What a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DeviceKind {
    Cpu = ffi::DEVICE_CPU,
    Gpu = ffi::DEVICE_GPU,
    Npu = ffi::DEVICE_NPU,
    #[default]
    Other = ffi::DEVICE_OTHER,
}

impl DeviceKind {
    /// The kind with the header's number `number`; an unknown number is [`DeviceKind::Other`].
    pub const fn from_number(number: u32) -> DeviceKind {
        match number {
            ffi::DEVICE_CPU => DeviceKind::Cpu,
            ffi::DEVICE_GPU => DeviceKind::Gpu,
            ffi::DEVICE_NPU => DeviceKind::Npu,
            _ => DeviceKind::Other,
        }
    }
}

/// What kind of memory a pointer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MemoryKind {
    /// Ordinary host memory.
    Host = ffi::MEMORY_HOST,
    /// Host memory the device can copy from and to without staging.
    Pinned = ffi::MEMORY_PINNED,
    /// The device's own memory.
    Device = ffi::MEMORY_DEVICE,
}

impl MemoryKind {
    /// The kind with the header's number `number`.
    pub fn from_number(number: u32) -> Result<MemoryKind> {
        match number {
            ffi::MEMORY_HOST => Ok(MemoryKind::Host),
            ffi::MEMORY_PINNED => Ok(MemoryKind::Pinned),
            ffi::MEMORY_DEVICE => Ok(MemoryKind::Device),
            _ => Err(Error::invalid(format!(
                "memory kind {number}: expected 0 (host), 1 (pinned) or 2 (device)"
            ))),
        }
    }
}

/// Facts about a device that can be opened. Figures that are not known are 0, texts empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceInfo {
    /// What `open` takes.
    pub index: u32,
    pub kind: DeviceKind,
    /// As the vendor prints it.
    pub name: String,
    /// The target that compile takes: `x86_64`, `sm90`, `gfx950`.
    pub arch: String,
    /// The chip's row in the provider's tables: `h100-sxm`, `mi355x`.
    pub chip: String,
    /// `0000:3b:00.0`.
    pub pci: String,
    pub memory_bytes: u64,
    /// Peak bandwidth of its memory in 1e9 bytes a second.
    pub memory_gb_per_s: f64,
    pub peak_f32_tflops: f64,
    pub peak_bf16_tflops: f64,
    pub peak_int8_tops: f64,
    /// Tensors in host memory need no copy.
    pub shares_host_memory: bool,
    pub compute_units: u32,
}

impl DeviceInfo {
    /// Points at the texts of `self`, which must outlive the result.
    pub(crate) fn to_ffi(&self) -> ffi::DeviceInfo {
        ffi::DeviceInfo {
            struct_size: size_of::<ffi::DeviceInfo>(),
            index: self.index,
            kind: self.kind as u32,
            name: ffi::Str::new(&self.name),
            arch: ffi::Str::new(&self.arch),
            chip: ffi::Str::new(&self.chip),
            pci: ffi::Str::new(&self.pci),
            memory_bytes: self.memory_bytes,
            memory_gb_per_s: self.memory_gb_per_s,
            peak_f32_tflops: self.peak_f32_tflops,
            peak_bf16_tflops: self.peak_bf16_tflops,
            peak_int8_tops: self.peak_int8_tops,
            shares_host_memory: self.shares_host_memory.into(),
            compute_units: self.compute_units,
        }
    }

    /// Copies what a provider said.
    ///
    /// # Safety
    /// `info` points at a device info whose `struct_size` covers version 1.0 and whose texts are readable.
    pub(crate) unsafe fn from_ffi(info: &ffi::DeviceInfo) -> DeviceInfo {
        // SAFETY: the caller vouches for the texts.
        let text = |s: ffi::Str| String::from_utf8_lossy(unsafe { s.as_bytes() }).into_owned();
        DeviceInfo {
            index: info.index,
            kind: DeviceKind::from_number(info.kind),
            name: text(info.name),
            arch: text(info.arch),
            chip: text(info.chip),
            pci: text(info.pci),
            memory_bytes: info.memory_bytes,
            memory_gb_per_s: info.memory_gb_per_s,
            peak_f32_tflops: info.peak_f32_tflops,
            peak_bf16_tflops: info.peak_bf16_tflops,
            peak_int8_tops: info.peak_int8_tops,
            shares_host_memory: info.shares_host_memory != 0,
            compute_units: info.compute_units,
        }
    }
}

/// Memory figures of an opened device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    pub total_bytes: u64,
    /// Right now, for everybody on the machine.
    pub free_bytes: u64,
    /// By this open device.
    pub used_bytes: u64,
    /// The most that `used_bytes` has been.
    pub peak_bytes: u64,
}

/// One kernel or copy that ran while the timeline was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineEntry {
    /// The kernel's symbol, which names its parameters.
    pub symbol: String,
    /// The node it ran for; nodes fused together are joined by `+`.
    pub node: String,
    pub op_type: String,
    /// Shapes and the chosen row, as readable text.
    pub parameters: String,
    /// On the host's monotonic clock.
    pub start_ns: u64,
    pub duration_ns: u64,
    /// Equal for entries of one stream.
    pub stream: u64,
    /// Negative when unknown.
    pub flops: f64,
    /// Negative when unknown.
    pub bytes: f64,
}

impl TimelineEntry {
    /// Points at the texts of `self`, which must outlive the result.
    pub(crate) fn to_ffi(&self) -> ffi::TimelineEntry {
        ffi::TimelineEntry {
            struct_size: size_of::<ffi::TimelineEntry>(),
            symbol: ffi::Str::new(&self.symbol),
            node: ffi::Str::new(&self.node),
            op_type: ffi::Str::new(&self.op_type),
            parameters: ffi::Str::new(&self.parameters),
            start_ns: self.start_ns,
            duration_ns: self.duration_ns,
            stream: self.stream,
            flops: self.flops,
            bytes: self.bytes,
        }
    }

    /// Copies what a provider handed over.
    ///
    /// # Safety
    /// `entry` covers version 1.0 and its texts are readable.
    pub(crate) unsafe fn from_ffi(entry: &ffi::TimelineEntry) -> TimelineEntry {
        // SAFETY: the caller vouches for the texts.
        let text = |s: ffi::Str| String::from_utf8_lossy(unsafe { s.as_bytes() }).into_owned();
        TimelineEntry {
            symbol: text(entry.symbol),
            node: text(entry.node),
            op_type: text(entry.op_type),
            parameters: text(entry.parameters),
            start_ns: entry.start_ns,
            duration_ns: entry.duration_ns,
            stream: entry.stream,
            flops: entry.flops,
            bytes: entry.bytes,
        }
    }
}
