//! hipBLASLt, timed by events of AMD's driver.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};
use libloading::Library;

use super::blaslt::{Clock, Dialect, Peer, open};

/// From `hipblaslt.h` and `hipblas-common.h` of ROCm 6 and 7.
const DIALECT: Dialect = Dialect {
    prefix: "hipblasLt",
    // HIPBLAS_COMPUTE_32F.
    compute_f32: 2,
    // HIPBLASLT_MATMUL_DESC_TRANSA is HIPBLAS_OP_T, HIPBLASLT_MATMUL_DESC_TRANSB is HIPBLAS_OP_N.
    transpose: [(0, 112), (1, 111)],
    algorithm_bytes: 24,
};

/// The library on device `ordinal`.
pub fn peer(ordinal: u32) -> Result<Peer> {
    let library = open(&["libhipblaslt.so", "libhipblaslt.so.1", "libhipblaslt.so.0"])?;
    Ok(Peer { name: "hipBLASLt", dialect: DIALECT, library, clock: Box::new(Hip::open(ordinal)?) })
}

/// AMD's driver.
struct Hip {
    driver: Library,
    ordinal: u32,
    marks: [*mut c_void; 2],
}

macro_rules! call {
    ($library:expr, $name:literal, $($argument:expr => $kind:ty),* $(,)?) => {{
        // SAFETY: the types are those of `hip_runtime_api.h`.
        let function = unsafe {
            $library.get::<unsafe extern "C" fn($($kind),*) -> c_int>(concat!($name, "\0").as_bytes())
        };
        let function = function.context(concat!("libamdhip64 has no ", $name))?;
        // SAFETY: the arguments are what the header asks for.
        let status = unsafe { function($($argument),*) };
        ensure!(status == 0, concat!($name, ": error {}"), status);
    }};
}

impl Hip {
    fn open(ordinal: u32) -> Result<Hip> {
        let driver = open(&["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"])?;
        let mut marks = [null_mut(); 2];
        call!(driver, "hipSetDevice", ordinal as c_int => c_int);
        for mark in &mut marks {
            call!(driver, "hipEventCreateWithFlags", mark => *mut *mut c_void, 0 => c_uint);
        }
        Ok(Hip { driver, ordinal, marks })
    }
}

impl Clock for Hip {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        call!(self.driver, "hipSetDevice", self.ordinal as c_int => c_int);
        call!(self.driver, "hipMalloc", &mut address => *mut u64, bytes => usize);
        Ok(address)
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        const HOST_TO_DEVICE: c_int = 1;
        call!(
            self.driver, "hipMemcpy",
            to => u64, bytes.as_ptr().cast() => *const c_void, bytes.len() => usize, HOST_TO_DEVICE => c_int
        );
        Ok(())
    }

    fn microseconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let [start, stop] = self.marks;
        call!(self.driver, "hipEventRecord", start => *mut c_void, null_mut() => *mut c_void);
        work()?;
        call!(self.driver, "hipEventRecord", stop => *mut c_void, null_mut() => *mut c_void);
        call!(self.driver, "hipEventSynchronize", stop => *mut c_void);
        let mut milliseconds = 0f32;
        call!(
            self.driver, "hipEventElapsedTime",
            &mut milliseconds => *mut f32, start => *mut c_void, stop => *mut c_void
        );
        Ok(f64::from(milliseconds) * 1e3)
    }
}
