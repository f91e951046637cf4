//! What the providers of GPUs share: capability, compile, kernel choice, memory, graph capture and launch, over one
//! [`Driver`] trait. A provider adds a driver, a device list and the compiled kernels.

mod compile;
mod constant;
mod device;
pub mod driver;
mod executable;
mod fusion;
mod kernels;
mod map;
mod memory;
mod operator;
mod ops;
pub mod pack;
pub mod recording;
mod schedule;
mod stream;
mod timeline;

pub use device::{FEATURES, GpuDevice, Setup, check_options};
pub use driver::Driver;
pub use executable::GpuExecutable;
pub use pack::Images;
pub use stream::{GpuEvent, GpuRecording, GpuStream};
