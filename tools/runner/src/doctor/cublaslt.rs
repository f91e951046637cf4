//! cuBLASLt, timed by events of NVIDIA's driver.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};
use libloading::Library;

use super::blaslt::{Clock, Dialect, Peer, open};

/// From `cublasLt.h` and `cublas_api.h` of CUDA 12 and 13.
const DIALECT: Dialect = Dialect {
    prefix: "cublasLt",
    // CUBLAS_COMPUTE_32F.
    compute_f32: 68,
    // CUBLASLT_MATMUL_DESC_TRANSA is CUBLAS_OP_T, CUBLASLT_MATMUL_DESC_TRANSB is CUBLAS_OP_N.
    transpose: [(3, 1), (4, 0)],
    algorithm_bytes: 64,
};

/// The library on device `ordinal`.
pub fn peer(ordinal: u32) -> Result<Peer> {
    let library = open(&["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"])?;
    Ok(Peer { name: "cuBLASLt", dialect: DIALECT, library, clock: Box::new(Cuda::open(ordinal)?) })
}

/// NVIDIA's driver.
struct Cuda {
    driver: Library,
    marks: [*mut c_void; 2],
}

macro_rules! call {
    ($library:expr, $name:literal, $($argument:expr => $kind:ty),* $(,)?) => {{
        // SAFETY: the types are those of `cuda.h`.
        let function = unsafe {
            $library.get::<unsafe extern "C" fn($($kind),*) -> c_int>(concat!($name, "\0").as_bytes())
        };
        let function = function.context(concat!("libcuda has no ", $name))?;
        // SAFETY: the arguments are what the header asks for.
        let status = unsafe { function($($argument),*) };
        ensure!(status == 0, concat!($name, ": error {}"), status);
    }};
}

impl Cuda {
    fn open(ordinal: u32) -> Result<Cuda> {
        let driver = open(&["libcuda.so.1", "libcuda.so"])?;
        let (mut device, mut context, mut marks) = (0, null_mut(), [null_mut(); 2]);
        call!(driver, "cuInit", 0 => c_uint);
        call!(driver, "cuDeviceGet", &mut device => *mut c_int, ordinal as c_int => c_int);
        call!(driver, "cuDevicePrimaryCtxRetain", &mut context => *mut *mut c_void, device => c_int);
        call!(driver, "cuCtxSetCurrent", context => *mut c_void);
        for mark in &mut marks {
            call!(driver, "cuEventCreate", mark => *mut *mut c_void, 0 => c_uint);
        }
        Ok(Cuda { driver, marks })
    }
}

impl Clock for Cuda {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        call!(self.driver, "cuMemAlloc_v2", &mut address => *mut u64, bytes => usize);
        Ok(address)
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        call!(self.driver, "cuMemcpyHtoD_v2", to => u64, bytes.as_ptr().cast() => *const c_void, bytes.len() => usize);
        Ok(())
    }

    fn microseconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let [start, stop] = self.marks;
        call!(self.driver, "cuEventRecord", start => *mut c_void, null_mut() => *mut c_void);
        work()?;
        call!(self.driver, "cuEventRecord", stop => *mut c_void, null_mut() => *mut c_void);
        call!(self.driver, "cuEventSynchronize", stop => *mut c_void);
        let mut milliseconds = 0f32;
        call!(
            self.driver, "cuEventElapsedTime",
            &mut milliseconds => *mut f32, start => *mut c_void, stop => *mut c_void
        );
        Ok(f64::from(milliseconds) * 1e3)
    }
}
