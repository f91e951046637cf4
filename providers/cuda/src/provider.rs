//! What CUDA adds to the providers of GPUs: NVIDIA's driver and the kernels compiled for its families.

use tenon_gpu::{GpuProvider, Vendor};
use tenon_kernels::gpu::arch;

use crate::driver::Cuda;

include!(concat!(env!("OUT_DIR"), "/packs.rs"));

/// The CUDA provider.
pub type CudaProvider = GpuProvider<Nvidia>;

/// NVIDIA's part of it.
pub struct Nvidia;

impl Vendor for Nvidia {
    const NAME: &'static str = "cuda";
    const BUILD_INFO: &'static str =
        concat!("tenon-provider-cuda ", env!("CARGO_PKG_VERSION"), "; CUDA 13 driver interface");
    const VENDOR: arch::Vendor = arch::Vendor::Nvidia;
    const PACKS: tenon_gpu::Packs = PACKS;

    type Driver = Cuda;

    fn load() -> Result<Cuda, String> {
        Cuda::load()
    }
}
