//! What the providers of GPUs share: capability, compile, kernel choice, memory, graph capture and launch, over one
//! [`Driver`] trait. A provider adds a [`Vendor`]: a driver with its device list, and the compiled kernels.

mod compile;
mod compiler;
mod constant;
mod device;
pub mod driver;
mod embedded;
mod executable;
mod fixed;
mod fusion;
mod gate;
mod kernels;
mod library;
mod map;
mod memory;
mod opened;
mod operator;
mod ops;
pub mod pack;
mod page;
mod provider;
pub mod recording;
mod sample;
mod schedule;
mod stream;
mod symbol;
mod timeline;

pub use compiler::Compiler;
pub use device::{FEATURES, GpuDevice};
pub use driver::Driver;
pub use embedded::Packs;
pub use executable::GpuExecutable;
pub use library::{CompilerLibrary, LibraryNames};
pub use opened::{DeviceOptions, Setup, check_options};
pub use pack::Images;
pub use provider::{Installation, Vendor};
pub use stream::{GpuEvent, GpuRecording, GpuStream};

/// The contract, for [`gpu_provider!`].
pub use tenon_plugin_api as plugin_api;
