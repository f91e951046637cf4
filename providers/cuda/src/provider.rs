//! What CUDA adds to the providers of GPUs: NVIDIA's driver and the kernels compiled for its families.

use std::sync::Arc;

use tenon_gpu::{Compiler, CompilerLibrary, LibraryNames, Vendor};
use tenon_kernels::gpu::arch;

use crate::driver::Cuda;

include!(concat!(env!("OUT_DIR"), "/packs.rs"));

tenon_gpu::gpu_provider!(
    /// The CUDA provider.
    CudaProvider,
    Nvidia
);

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

    fn compiler() -> Option<Arc<dyn Compiler>> {
        // SAFETY: the names are those of NVIDIA's library.
        let library = unsafe { CompilerLibrary::load(NVRTC) };
        library.map(|library| Arc::new(library) as Arc<dyn Compiler>)
    }
}

/// NVIDIA's run-time compiler; the build uses its version 13.
const NVRTC: LibraryNames = LibraryNames {
    files: &["libnvrtc.so.13", "libnvrtc.so", "libnvrtc.so.12"],
    prefix: "nvrtc",
    image: ["GetCUBINSize", "GetCUBIN"],
    portable: Some(["GetPTXSize", "GetPTX"]),
    options: |target| {
        vec![format!("--gpu-architecture={target}"), "-std=c++17".into(), "-default-device".into()]
    },
    is_portable: |target| target.starts_with("compute_"),
    namespace: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_compiles_and_a_mistake_is_reported_with_its_line() {
        let Some(compiler) = Nvidia::compiler() else {
            eprintln!("skipped: NVRTC is not installed");
            return;
        };
        let kernel = "extern \"C\" __global__ void k(float* x) { x[0] = VALUE; }";
        let defines = [("VALUE".to_owned(), "2.0f".to_owned())];
        let ptx = compiler.compile("u", kernel, &defines, "compute_80").unwrap();
        assert!(String::from_utf8_lossy(&ptx).contains(".entry k"));
        let error = compiler.compile("u", kernel, &[], "compute_80").unwrap_err();
        assert!(error.message.contains("u.cu(1)") && error.message.contains("VALUE"), "{error}");
    }
}
