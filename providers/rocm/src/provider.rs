//! What ROCm adds to the providers of GPUs: AMD's driver and the kernels compiled for its families.

use tenon_gpu::Vendor;
use tenon_kernels::gpu::arch;

use crate::driver::Hip;

include!(concat!(env!("OUT_DIR"), "/packs.rs"));

tenon_gpu::gpu_provider!(
    /// The ROCm provider.
    RocmProvider,
    Amd
);

/// AMD's part of it.
pub struct Amd;

impl Vendor for Amd {
    const NAME: &'static str = "rocm";
    const BUILD_INFO: &'static str =
        concat!("tenon-provider-rocm ", env!("CARGO_PKG_VERSION"), "; HIP 6 and 7 driver interface");
    const VENDOR: arch::Vendor = arch::Vendor::Amd;
    const PACKS: tenon_gpu::Packs = PACKS;

    type Driver = Hip;

    fn load() -> Result<Hip, String> {
        Hip::load()
    }
}
