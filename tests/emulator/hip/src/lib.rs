//! A stand-in for AMD's `libamdhip64.so`: the functions a provider uses, over emulated devices.
//!
//! | variable | meaning |
//! |---|---|
//! | `TENON_HIP_DEVICES` | the devices, by name and separated by commas: `MI300X`, `MI325X`, `MI355X`; none otherwise |
//! | `TENON_HIP_MEMORY` | bytes of memory of each device, instead of the chip's |
//! | `TENON_HIP_LOSE_AFTER` | the device is lost after that many launches |
//!
//! Without the first variable there is no device: a build folder that is on the library path must not change what a
//! program runs on.
//!
//! Work runs when it is submitted and streams keep an emulated clock, which events read: times are estimates and never
//! measurements. A fault on a device is reported as the driver does it: the launch succeeds, and the next call that
//! looks at the device fails, as do all after it. Its text goes to standard error and to [`tenonHipLastFault`].

mod chip;
mod device;
mod event;
mod fault;
mod graph;
mod memory;
mod module;
mod state;
mod status;
mod stream;
mod work;

pub use device::*;
pub use event::*;
pub use fault::*;
pub use graph::*;
pub use memory::*;
pub use module::*;
pub use status::{Status, hipGetErrorName, hipGetErrorString};
pub use stream::*;
