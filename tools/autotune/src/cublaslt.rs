//! The vendor's library on NVIDIA GPUs, reached by dlopen: times of its own choice for a product.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result, bail, ensure};
use libloading::Library as Shared;

type Pointer = *mut c_void;

/// Functions of a shared library that return a status.
macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $symbol:literal ($($argument:ty),*);)* }) => {
        $(#[$doc])*
        struct $name { $($field: unsafe extern "C" fn($($argument),*) -> c_int,)* _library: Shared }

        impl $name {
            fn load(library: Shared) -> Result<Self> {
                // SAFETY: the types are those of the library's header.
                unsafe {
                    Ok(Self {
                        $($field: *library.get(concat!($symbol, "\0").as_bytes()).with_context(|| format!("no function {}", $symbol))?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}

functions! {
    /// The driver (cuda.h).
    Driver {
        init = "cuInit"(u32);
        device = "cuDeviceGet"(*mut c_int, c_int);
        retain = "cuDevicePrimaryCtxRetain"(*mut Pointer, c_int);
        set_current = "cuCtxSetCurrent"(Pointer);
        allocate = "cuMemAlloc_v2"(*mut u64, usize);
        free = "cuMemFree_v2"(u64);
        upload = "cuMemcpyHtoD_v2"(u64, *const c_void, usize);
        create_event = "cuEventCreate"(*mut Pointer, u32);
        destroy_event = "cuEventDestroy_v2"(Pointer);
        record = "cuEventRecord"(Pointer, Pointer);
        synchronize = "cuEventSynchronize"(Pointer);
        elapsed = "cuEventElapsedTime"(*mut f32, Pointer, Pointer);
    }
}

functions! {
    /// cuBLASLt (cublasLt.h).
    Lt {
        create = "cublasLtCreate"(*mut Pointer);
        destroy = "cublasLtDestroy"(Pointer);
        create_operation = "cublasLtMatmulDescCreate"(*mut Pointer, c_int, c_int);
        set_operation = "cublasLtMatmulDescSetAttribute"(Pointer, c_int, *const c_void, usize);
        destroy_operation = "cublasLtMatmulDescDestroy"(Pointer);
        create_layout = "cublasLtMatrixLayoutCreate"(*mut Pointer, c_int, u64, u64, i64);
        destroy_layout = "cublasLtMatrixLayoutDestroy"(Pointer);
        create_preference = "cublasLtMatmulPreferenceCreate"(*mut Pointer);
        set_preference = "cublasLtMatmulPreferenceSetAttribute"(Pointer, c_int, *const c_void, usize);
        destroy_preference = "cublasLtMatmulPreferenceDestroy"(Pointer);
        heuristic = "cublasLtMatmulAlgoGetHeuristic"(Pointer, Pointer, Pointer, Pointer, Pointer, Pointer, Pointer, c_int, *mut Heuristic, *mut c_int);
        matmul = "cublasLtMatmul"(Pointer, Pointer, *const c_void, u64, Pointer, u64, Pointer, *const c_void, u64, Pointer, u64, Pointer, *const c_void, u64, usize, Pointer);
    }
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

const COMPUTE_F32: c_int = 68;
const TYPE_F32: c_int = 0;
const TYPE_F16: c_int = 2;
const TYPE_BF16: c_int = 14;
const ATTRIBUTE_TRANSPOSE_A: c_int = 3;
const PREFERENCE_WORKSPACE: c_int = 1;
const WORKSPACE_BYTES: usize = 64 << 20;

/// cuBLASLt on a device.
pub struct Library {
    driver: Driver,
    lt: Lt,
    ordinal: c_int,
}

impl Library {
    /// Loads the library from `path`, or by the names of its recent versions.
    pub fn open(path: Option<&Path>, ordinal: u32) -> Result<Self> {
        let names = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];
        let shared = match path {
            Some(path) => open(path.as_os_str()).with_context(|| format!("--peer {}", path.display()))?,
            None => {
                names.iter().find_map(|name| open(name.as_ref()).ok()).context("no libcublasLt was found")?
            }
        };
        let driver = Driver::load(open("libcuda.so.1".as_ref())?)?;
        // SAFETY: any thread may call it.
        check("cuInit", unsafe { (driver.init)(0) })?;
        Ok(Self { driver, lt: Lt::load(shared)?, ordinal: c_int::try_from(ordinal)? })
    }

    /// Seconds of each product `rows [m, k] x weights`, `[k, n]` or, transposed, `[n, k]`, every weight in turn, `runs` times.
    pub fn time(
        &self,
        extents: [usize; 3],
        (is_f16, is_transposed): (bool, bool),
        rows: &[u8],
        weights: &[&[u8]],
        runs: usize,
    ) -> Result<Vec<f64>> {
        // A thread of its own, whose current context nobody else relies on.
        std::thread::scope(|scope| {
            let worker =
                scope.spawn(|| self.time_here(extents, (is_f16, is_transposed), rows, weights, runs));
            worker.join().unwrap_or_else(|_| bail!("the thread that calls cuBLASLt panicked"))
        })
    }

    fn time_here(
        &self,
        [m, n, k]: [usize; 3],
        (is_f16, is_transposed): (bool, bool),
        rows: &[u8],
        weights: &[&[u8]],
        runs: usize,
    ) -> Result<Vec<f64>> {
        ensure!(
            rows.len() == 2 * m * k && weights.iter().all(|w| w.len() == 2 * n * k),
            "operands of other sizes"
        );
        self.make_current()?;
        let rows = self.upload(rows)?;
        let weights = weights.iter().map(|bytes| self.upload(bytes)).collect::<Result<Vec<_>>>()?;
        let result = Memory::new(&self.driver, 2 * m * n)?;
        let workspace = Memory::new(&self.driver, WORKSPACE_BYTES)?;
        let product =
            Product::new(&self.lt, [m, n, k], if is_f16 { TYPE_F16 } else { TYPE_BF16 }, is_transposed)?;
        let (start, end) = (Event::new(&self.driver)?, Event::new(&self.driver)?);
        let mut times = Vec::new();
        for _ in 0..runs {
            for weights in &weights {
                start.record()?;
                product.run([weights.address, rows.address, result.address], workspace.address)?;
                end.record()?;
                times.push(end.seconds_since(&start)?);
            }
        }
        Ok(times)
    }

    fn make_current(&self) -> Result<()> {
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: both results are written before they are used; the context lives as long as the process.
        unsafe {
            check("cuDeviceGet", (self.driver.device)(&raw mut device, self.ordinal))?;
            check("cuDevicePrimaryCtxRetain", (self.driver.retain)(&raw mut context, device))?;
            check("cuCtxSetCurrent", (self.driver.set_current)(context))
        }
    }

    fn upload(&self, bytes: &[u8]) -> Result<Memory<'_>> {
        let memory = Memory::new(&self.driver, bytes.len())?;
        // SAFETY: the memory has that many bytes.
        check("cuMemcpyHtoD", unsafe {
            (self.driver.upload)(memory.address, bytes.as_ptr().cast(), bytes.len())
        })?;
        Ok(memory)
    }
}

fn open(name: &std::ffi::OsStr) -> Result<Shared> {
    // SAFETY: the vendor's libraries may be loaded at any time.
    unsafe { Shared::new(name) }.with_context(|| format!("cannot load {}", name.to_string_lossy()))
}

fn check(what: &str, status: c_int) -> Result<()> {
    ensure!(status == 0, "{what} gives {status}");
    Ok(())
}

/// Device memory.
struct Memory<'a> {
    driver: &'a Driver,
    address: u64,
}

impl<'a> Memory<'a> {
    fn new(driver: &'a Driver, bytes: usize) -> Result<Self> {
        let mut address = 0;
        // SAFETY: a context is current.
        check("cuMemAlloc", unsafe { (driver.allocate)(&raw mut address, bytes) })
            .with_context(|| format!("{bytes} bytes of device memory"))?;
        Ok(Self { driver, address })
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: the driver gave the address, and waits for what uses it. A failure leaves nothing to do.
        let _status = unsafe { (self.driver.free)(self.address) };
    }
}

/// A point in the default stream.
struct Event<'a> {
    driver: &'a Driver,
    event: Pointer,
}

impl<'a> Event<'a> {
    fn new(driver: &'a Driver) -> Result<Self> {
        let mut event = ptr::null_mut();
        // SAFETY: a context is current.
        check("cuEventCreate", unsafe { (driver.create_event)(&raw mut event, 0) })?;
        Ok(Self { driver, event })
    }

    fn record(&self) -> Result<()> {
        // SAFETY: the event is alive; NULL is the default stream.
        check("cuEventRecord", unsafe { (self.driver.record)(self.event, ptr::null_mut()) })
    }

    fn seconds_since(&self, start: &Event<'_>) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: both events were recorded.
        unsafe {
            check("cuEventSynchronize", (self.driver.synchronize)(self.event))?;
            check(
                "cuEventElapsedTime",
                (self.driver.elapsed)(&raw mut milliseconds, start.event, self.event),
            )?;
        }
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: the driver gave the event. A failure leaves nothing to do.
        let _status = unsafe { (self.driver.destroy_event)(self.event) };
    }
}

/// What the library needs for one shape. To it, which counts columns first, `D = A B^T` is `D^T = B A^T`.
struct Product<'a> {
    lt: &'a Lt,
    handle: Pointer,
    operation: Pointer,
    /// Of the weights, the rows, and the result.
    layouts: [Pointer; 3],
    preference: Pointer,
    algorithm: [u64; 8],
}

impl<'a> Product<'a> {
    fn new(lt: &'a Lt, [m, n, k]: [usize; 3], element: c_int, is_transposed: bool) -> Result<Self> {
        let null = ptr::null_mut();
        let mut product = Self {
            lt,
            handle: null,
            operation: null,
            layouts: [null; 3],
            preference: null,
            algorithm: [0; 8],
        };
        let extents = [if is_transposed { [k, n] } else { [n, k] }, [k, m], [n, m]];
        let mut found = [Heuristic::default(); 1];
        let mut count = 0;
        let (transposed, workspace_bytes) = (c_int::from(is_transposed), WORKSPACE_BYTES);
        // SAFETY: every object is made before it is used, and every pointer leads to a value of the size given.
        unsafe {
            check("cublasLtCreate", (lt.create)(&raw mut product.handle))?;
            check(
                "cublasLtMatmulDescCreate",
                (lt.create_operation)(&raw mut product.operation, COMPUTE_F32, TYPE_F32),
            )?;
            let transposed = (&raw const transposed).cast();
            check(
                "cublasLtMatmulDescSetAttribute",
                (lt.set_operation)(product.operation, ATTRIBUTE_TRANSPOSE_A, transposed, 4),
            )?;
            for (layout, [rows, columns]) in product.layouts.iter_mut().zip(extents) {
                let created =
                    (lt.create_layout)(&raw mut *layout, element, rows as u64, columns as u64, rows as i64);
                check("cublasLtMatrixLayoutCreate", created)?;
            }
            check("cublasLtMatmulPreferenceCreate", (lt.create_preference)(&raw mut product.preference))?;
            let bytes = (&raw const workspace_bytes).cast();
            check(
                "cublasLtMatmulPreferenceSetAttribute",
                (lt.set_preference)(product.preference, PREFERENCE_WORKSPACE, bytes, 8),
            )?;
            let [a, b, d] = product.layouts;
            let (handle, operation, preference) = (product.handle, product.operation, product.preference);
            let status = (lt.heuristic)(
                handle,
                operation,
                a,
                b,
                d,
                d,
                preference,
                1,
                found.as_mut_ptr(),
                &raw mut count,
            );
            check("cublasLtMatmulAlgoGetHeuristic", status)?;
        }
        ensure!(count > 0, "cuBLASLt has no kernel for {m} x {n} x {k}");
        product.algorithm = found[0].algorithm;
        Ok(product)
    }

    /// Queues the product on the default stream.
    fn run(&self, [weights, rows, result]: [u64; 3], workspace: u64) -> Result<()> {
        let (alpha, beta) = (1.0_f32, 0.0_f32);
        let [a, b, d] = self.layouts;
        // SAFETY: the memory has the extents of the layouts, and stays until the stream is synchronised.
        let status = unsafe {
            (self.lt.matmul)(
                self.handle,
                self.operation,
                (&raw const alpha).cast(),
                weights,
                a,
                rows,
                b,
                (&raw const beta).cast(),
                result,
                d,
                result,
                d,
                self.algorithm.as_ptr().cast(),
                workspace,
                WORKSPACE_BYTES,
                ptr::null_mut(),
            )
        };
        check("cublasLtMatmul", status)
    }
}

impl Drop for Product<'_> {
    fn drop(&mut self) {
        // SAFETY: the library gave what is not NULL, and no queued work is left. A failure leaves nothing to do.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _status = (self.lt.destroy_layout)(layout);
            }
            if !self.preference.is_null() {
                let _status = (self.lt.destroy_preference)(self.preference);
            }
            if !self.operation.is_null() {
                let _status = (self.lt.destroy_operation)(self.operation);
            }
            if !self.handle.is_null() {
                let _status = (self.lt.destroy)(self.handle);
            }
        }
    }
}
