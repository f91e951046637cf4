//! The CUDA provider: NVIDIA's driver behind [`tenon_gpu::Driver`], the devices it finds, and the compiled kernels.

mod device;
mod driver;
mod provider;

pub use provider::{CudaProvider, Nvidia, table};
