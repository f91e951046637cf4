//! The ROCm provider: AMD's driver behind [`tenon_gpu::Driver`], the devices it finds, and the compiled kernels.

mod device;
mod driver;
mod provider;

pub use driver::Hip;
pub use provider::{Amd, RocmProvider, table};
