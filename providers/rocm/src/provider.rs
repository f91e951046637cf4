//! What ROCm adds to the providers of GPUs: AMD's driver and the kernels compiled for its families.

use std::sync::Arc;

use tenon_gpu::{Compiler, CompilerLibrary, LibraryNames, Vendor};
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

    fn compiler() -> Option<Arc<dyn Compiler>> {
        // SAFETY: the names are those of AMD's library.
        let library = unsafe { CompilerLibrary::load(HIPRTC) };
        library.map(|library| Arc::new(library) as Arc<dyn Compiler>)
    }
}

/// AMD's run-time compiler. It reads its own declarations of the language ahead of every text, and texts have theirs.
const HIPRTC: LibraryNames = LibraryNames {
    files: &["libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so"],
    prefix: "hiprtc",
    image: ["GetCodeSize", "GetCode"],
    portable: None,
    options: |target| vec![format!("--offload-arch={target}"), "-std=c++20".into(), "-O3".into()],
    is_portable: |_| false,
    namespace: Some("tenon"),
};
