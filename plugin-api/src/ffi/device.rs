//! Mirror of the device part of the header: facts, opening, memory figures, copies.

use super::{Device, KeyValue, Memory, Str, assert_last_member};
use core::ffi::c_void;
use core::mem::{offset_of, size_of};

/// What a device is: one of the `DEVICE_` constants.
pub type DeviceKind = u32;
pub const DEVICE_CPU: DeviceKind = 1;
pub const DEVICE_GPU: DeviceKind = 2;
pub const DEVICE_NPU: DeviceKind = 3;
pub const DEVICE_OTHER: DeviceKind = 4;

/// Facts about a device that can be opened.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceInfo {
    pub struct_size: usize,
    pub index: u32,
    pub kind: DeviceKind,
    pub name: Str,
    pub arch: Str,
    pub chip: Str,
    pub pci: Str,
    pub memory_bytes: u64,
    /// Peak bandwidth in 1e9 bytes a second, 0 when unknown, like the peaks below.
    pub memory_gb_per_s: f64,
    pub peak_f32_tflops: f64,
    pub peak_bf16_tflops: f64,
    pub peak_int8_tops: f64,
    pub shares_host_memory: u32,
    pub compute_units: u32,
}

/// Arguments of `open_device`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OpenArgs {
    pub struct_size: usize,
    pub index: u32,
    pub option_count: u32,
    pub options: *const *const KeyValue,
}

/// Memory figures of an opened device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemoryInfo {
    pub struct_size: usize,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub used_bytes: u64,
    pub peak_bytes: u64,
}

/// One copy of bytes. Frozen: it carries no size, so that arrays of it keep their stride.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Copy {
    pub dst: *mut c_void,
    pub src: *const c_void,
    pub bytes: usize,
    pub dst_memory: Memory,
    pub src_memory: Memory,
    pub dst_device: *mut Device,
    pub src_device: *mut Device,
}

assert_last_member! {
    DeviceInfo.compute_units: u32;
    OpenArgs.options: *const *const KeyValue;
    MemoryInfo.peak_bytes: u64;
    Copy.src_device: *mut Device;
}
