//! AMD's driver behind the trait that all GPU providers share: the only file that names `hip-sys`.
//!
//! `hip-sys` gives types and constants; the library is opened and all its functions are looked up when the provider
//! starts. Statuses are received as integers, because newer drivers return values that an enumeration made from an older
//! header does not have.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

use hip_sys::hiprt::{
    self, hipDeviceAttribute_t as Attribute, hipDeviceptr_t, hipError_t, hipEvent_t, hipFunction_t,
    hipGraph_t, hipGraphExec_t, hipGraphNode_t, hipModule_t, hipStream_t,
};
use libloading::Library;
use tenon_gpu::driver::{
    Arguments, Context, Driver, Facts, Function, Graph, LaunchConfig, Mark, Module, Queue, Side,
};
use tenon_kernels::gpu::TensorMap;
use tenon_plugin_api::{Code, Error, Result};

use crate::device;

/// The largest number of parameters of a kernel.
const PARAMETERS: usize = 64;

/// Makes the table of the driver's functions and the function that fills it.
macro_rules! functions {
    ($($name:ident($($argument:ty),* $(,)?) -> $result:ty;)*) => {
        #[expect(non_snake_case, reason = "the driver's own names")]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// Looks every function up; the error names the first that is missing.
            fn find(library: &Library) -> std::result::Result<Functions, String> {
                Ok(Functions {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the type is that of the function in HIP's header.
                        let found = unsafe {
                            library.get::<unsafe extern "C" fn($($argument),*) -> $result>(name)
                        };
                        *found.map_err(|_| format!("it has no {}: ROCm 6 or newer is needed", stringify!($name)))?
                    },)*
                })
            }
        }
    };
}

functions! {
    hipInit(c_uint) -> c_int;
    hipGetErrorName(c_int) -> *const c_char;
    hipGetDeviceCount(*mut c_int) -> c_int;
    hipSetDevice(c_int) -> c_int;
    hipDeviceGetAttribute(*mut c_int, c_int, c_int) -> c_int;
    hipDeviceGetName(*mut c_char, c_int, c_int) -> c_int;
    hipDeviceGetPCIBusId(*mut c_char, c_int, c_int) -> c_int;
    hipDeviceTotalMem(*mut usize, c_int) -> c_int;
    hipGetDevicePropertiesR0600(*mut c_void, c_int) -> c_int;
    hipMemGetInfo(*mut usize, *mut usize) -> c_int;
    hipMalloc(*mut hipDeviceptr_t, usize) -> c_int;
    hipFree(hipDeviceptr_t) -> c_int;
    hipHostMalloc(*mut *mut c_void, usize, c_uint) -> c_int;
    hipHostFree(*mut c_void) -> c_int;
    hipMallocAsync(*mut hipDeviceptr_t, usize, hipStream_t) -> c_int;
    hipFreeAsync(hipDeviceptr_t, hipStream_t) -> c_int;
    hipMemcpyHtoDAsync(hipDeviceptr_t, *mut c_void, usize, hipStream_t) -> c_int;
    hipMemcpyDtoHAsync(*mut c_void, hipDeviceptr_t, usize, hipStream_t) -> c_int;
    hipMemcpyDtoDAsync(hipDeviceptr_t, hipDeviceptr_t, usize, hipStream_t) -> c_int;
    hipMemcpyPeerAsync(hipDeviceptr_t, c_int, *const c_void, c_int, usize, hipStream_t) -> c_int;
    hipMemsetAsync(hipDeviceptr_t, c_int, usize, hipStream_t) -> c_int;
    hipStreamCreateWithFlags(*mut hipStream_t, c_uint) -> c_int;
    hipStreamDestroy(hipStream_t) -> c_int;
    hipStreamSynchronize(hipStream_t) -> c_int;
    hipStreamWaitEvent(hipStream_t, hipEvent_t, c_uint) -> c_int;
    hipEventCreateWithFlags(*mut hipEvent_t, c_uint) -> c_int;
    hipEventDestroy(hipEvent_t) -> c_int;
    hipEventRecord(hipEvent_t, hipStream_t) -> c_int;
    hipEventQuery(hipEvent_t) -> c_int;
    hipEventSynchronize(hipEvent_t) -> c_int;
    hipEventElapsedTime(*mut f32, hipEvent_t, hipEvent_t) -> c_int;
    hipModuleLoadData(*mut hipModule_t, *const c_void) -> c_int;
    hipModuleUnload(hipModule_t) -> c_int;
    hipModuleGetFunction(*mut hipFunction_t, hipModule_t, *const c_char) -> c_int;
    hipModuleLaunchKernel(
        hipFunction_t, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, hipStream_t,
        *mut *mut c_void, *mut *mut c_void,
    ) -> c_int;
    hipStreamBeginCapture(hipStream_t, c_int) -> c_int;
    hipStreamEndCapture(hipStream_t, *mut hipGraph_t) -> c_int;
    hipGraphInstantiate(*mut hipGraphExec_t, hipGraph_t, *mut hipGraphNode_t, *mut c_char, usize) -> c_int;
    hipGraphLaunch(hipGraphExec_t, hipStream_t) -> c_int;
    hipGraphDestroy(hipGraph_t) -> c_int;
    hipGraphExecDestroy(hipGraphExec_t) -> c_int;
}

/// The driver of the process.
pub struct Hip {
    functions: Functions,
    /// Its functions are called until the process ends.
    _library: Library,
}

/// Calls a function of the driver and turns its status into a result.
macro_rules! call {
    ($hip:expr, $name:ident($($argument:expr),* $(,)?)) => {
        call!($hip, $name($($argument),*), stringify!($name))
    };
    ($hip:expr, $name:ident($($argument:expr),* $(,)?), $what:expr) => {{
        let status = ($hip.functions.$name)($($argument),*);
        if status == 0 { Ok(()) } else { Err($hip.error(status, $what.as_ref())) }
    }};
}

/// The library's names: the one for development, then those of the releases that are known to fit.
const NAMES: [&str; 3] = ["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"];

/// What the loader says, which is the cause of the error.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Where the library may be: where the loader finds it, else in the folder of an installation.
fn places() -> impl Iterator<Item = OsString> {
    let root = std::env::var_os("ROCM_PATH").unwrap_or_else(|| OsString::from("/opt/rocm"));
    let folder = std::path::Path::new(&root).join("lib");
    let installed = NAMES.map(|name| folder.join(name).into_os_string());
    NAMES.map(OsString::from).into_iter().chain(installed)
}

/// The part of `hipDeviceProp_tR0600` that is read: where HIP's header has `gcnArchName`.
const GCN_ARCH_NAME: std::ops::Range<usize> = 1160..1416;
/// Larger than the structure of any release.
const PROPERTIES_BYTES: usize = 8192;

#[repr(align(16))]
struct Properties([u8; PROPERTIES_BYTES]);

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What the contract calls a status of the driver.
fn code_of(status: c_int) -> Code {
    const fn number(error: hipError_t) -> c_int {
        error as c_int
    }
    const OUT_OF_MEMORY: c_int = number(hipError_t::hipErrorOutOfMemory);
    const NOT_SUPPORTED: c_int = number(hipError_t::hipErrorNotSupported);
    const NO_BINARY: c_int = number(hipError_t::hipErrorNoBinaryForGpu);
    const ECC: c_int = number(hipError_t::hipErrorECCNotCorrectable);
    const ILLEGAL_ADDRESS: c_int = number(hipError_t::hipErrorIllegalAddress);
    const TIME_OUT: c_int = number(hipError_t::hipErrorLaunchTimeOut);
    const ASSERT: c_int = number(hipError_t::hipErrorAssert);
    const LAUNCH_FAILURE: c_int = number(hipError_t::hipErrorLaunchFailure);
    match status {
        OUT_OF_MEMORY => Code::OutOfMemory,
        NOT_SUPPORTED | NO_BINARY => Code::Unsupported,
        // The driver reports these for every later call too.
        ECC | ILLEGAL_ADDRESS | TIME_OUT | ASSERT | LAUNCH_FAILURE => Code::DeviceLost,
        _ => Code::Internal,
    }
}

impl Hip {
    /// Opens and starts the driver; the error says why it cannot be used.
    pub fn load() -> std::result::Result<Hip, String> {
        Hip::load_from(places())
    }

    /// The first library that starts; the reason is that of the first that is there, else of the first place.
    fn load_from(places: impl Iterator<Item = OsString>) -> std::result::Result<Hip, String> {
        let (mut missing, mut unusable) = (None, None);
        for place in places {
            // SAFETY: the driver's initialisers make no demands on who opens it.
            match unsafe { Library::new(&place) } {
                Err(error) => _ = missing.get_or_insert(cause(&error)),
                Ok(library) => match Hip::start(library) {
                    Ok(hip) => return Ok(hip),
                    Err(reason) => _ = unusable.get_or_insert(reason),
                },
            }
        }
        let library = "AMD's driver library (libamdhip64.so)";
        Err(match (unusable, missing) {
            (Some(reason), _) => format!("{library} cannot be used: {reason}"),
            (None, Some(reason)) => format!("{library} cannot be opened: {reason}"),
            (None, None) => format!("{library} has no place"),
        })
    }

    fn start(library: Library) -> std::result::Result<Hip, String> {
        let functions = Functions::find(&library)?;
        let hip = Hip { functions, _library: library };
        // SAFETY: 0 is the only flag there is.
        unsafe { call!(hip, hipInit(0)) }.map_err(|error| error.to_string())?;
        Ok(hip)
    }

    fn error(&self, status: c_int, what: &str) -> Error {
        // SAFETY: the function takes any number and returns a static text.
        let name = unsafe { (self.functions.hipGetErrorName)(status) };
        let name = match name.is_null() {
            true => "unknown error".into(),
            // SAFETY: names end in zero and are never freed.
            false => unsafe { CStr::from_ptr(name) }.to_string_lossy(),
        };
        Error::new(code_of(status), format!("{what}: {name}")).with_provider_code(status)
    }

    /// Makes the context's device this thread's. Others in the process may choose one too, so it is not remembered.
    fn enter(&self, context: Context) -> Result<()> {
        // SAFETY: the call takes any number.
        unsafe { call!(self, hipSetDevice(ordinal(context))) }
    }

    fn attribute(&self, device: c_int, attribute: Attribute) -> Result<u32> {
        let mut value = 0;
        // SAFETY: the call writes the integer it is given.
        unsafe { call!(self, hipDeviceGetAttribute(&mut value, attribute as c_int, device)) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// `gfx950:sramecc+:xnack-`.
    fn gcn_arch_name(&self, device: c_int) -> Result<String> {
        let mut properties = Box::new(Properties([0; PROPERTIES_BYTES]));
        let target = properties.0.as_mut_ptr().cast();
        // SAFETY: the structure fits into what the call is given.
        unsafe { call!(self, hipGetDevicePropertiesR0600(target, device)) }?;
        Ok(text(&properties.0[GCN_ARCH_NAME]))
    }

    fn facts(&self, device: c_int) -> Result<Facts> {
        let (mut name, mut pci, mut bytes) = ([0u8; 256], [0u8; 32], 0);
        // SAFETY: the calls write into what they are given, no more than its length.
        unsafe {
            call!(self, hipDeviceGetName(name.as_mut_ptr().cast(), 255, device))?;
            call!(self, hipDeviceGetPCIBusId(pci.as_mut_ptr().cast(), 31, device))?;
            call!(self, hipDeviceTotalMem(&mut bytes, device))?;
        }
        let gcn = self.gcn_arch_name(device)?;
        let compute_units = self.attribute(device, Attribute::hipDeviceAttributeMultiprocessorCount)?;
        let memory_bytes = bytes as u64;
        Ok(Facts {
            name: device::name(&text(&name), &gcn, compute_units, memory_bytes),
            arch: device::arch_of_name(&gcn),
            compute_units,
            memory_bytes,
            pci: text(&pci).to_lowercase(),
        })
    }
}

/// A context is the number of its device.
fn ordinal(context: Context) -> c_int {
    context.0 as c_int
}

fn pointer(address: u64) -> hipDeviceptr_t {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

fn address(pointer: hipDeviceptr_t) -> u64 {
    pointer.expose_provenance() as u64
}

fn stream(queue: Queue) -> hipStream_t {
    queue.0 as hipStream_t
}

fn event(mark: Mark) -> hipEvent_t {
    mark.0 as hipEvent_t
}

impl Driver for Hip {
    fn devices(&self) -> Result<Vec<Facts>> {
        let mut count = 0;
        // SAFETY: the call writes the integer it is given.
        unsafe { call!(self, hipGetDeviceCount(&mut count)) }?;
        (0..count).map(|device| self.facts(device)).collect()
    }

    /// A device's own context is there for the life of the process.
    fn open(&self, ordinal: u32) -> Result<Context> {
        let context = Context(u64::from(ordinal));
        self.enter(context)?;
        Ok(context)
    }

    fn close(&self, _context: Context) {}

    fn memory(&self, context: Context) -> Result<(u64, u64)> {
        self.enter(context)?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the call writes the integers it is given.
        unsafe { call!(self, hipMemGetInfo(&mut free, &mut total)) }?;
        Ok((free as u64, total as u64))
    }

    fn allocate(&self, context: Context, bytes: usize) -> Result<u64> {
        self.enter(context)?;
        let mut data = null_mut();
        // SAFETY: the call writes the address it is given.
        unsafe { call!(self, hipMalloc(&mut data, bytes), format!("hipMalloc of {bytes} bytes")) }?;
        Ok(address(data))
    }

    unsafe fn free(&self, context: Context, address: u64) {
        if self.enter(context).is_ok() {
            // SAFETY: the caller vouches for the origin.
            let _ = unsafe { (self.functions.hipFree)(pointer(address)) };
        }
    }

    fn allocate_pinned(&self, context: Context, bytes: usize) -> Result<*mut c_void> {
        self.enter(context)?;
        let mut data = null_mut();
        let flags = hiprt::hipHostMallocDefault;
        let what = format!("hipHostMalloc of {bytes} bytes");
        // SAFETY: the call writes the pointer it is given.
        unsafe { call!(self, hipHostMalloc(&mut data, bytes, flags), what) }?;
        Ok(data)
    }

    unsafe fn free_pinned(&self, context: Context, data: *mut c_void) {
        if self.enter(context).is_ok() {
            // SAFETY: the caller vouches for the origin.
            let _ = unsafe { (self.functions.hipHostFree)(data) };
        }
    }

    fn allocate_ordered(&self, context: Context, queue: Queue, bytes: usize) -> Result<u64> {
        self.enter(context)?;
        let mut data = null_mut();
        let what = format!("hipMallocAsync of {bytes} bytes");
        // SAFETY: the queue is one of this driver; the call writes the address it is given.
        unsafe { call!(self, hipMallocAsync(&mut data, bytes, stream(queue)), what) }?;
        Ok(address(data))
    }

    unsafe fn free_ordered(&self, context: Context, queue: Queue, address: u64) -> Result<()> {
        self.enter(context)?;
        // SAFETY: the caller vouches for the origin.
        unsafe { call!(self, hipFreeAsync(pointer(address), stream(queue))) }
    }

    fn queue(&self, context: Context) -> Result<Queue> {
        self.enter(context)?;
        let mut made = null_mut();
        // SAFETY: the call writes the handle it is given.
        unsafe { call!(self, hipStreamCreateWithFlags(&mut made, hiprt::hipStreamNonBlocking)) }?;
        Ok(Queue(made as u64))
    }

    fn destroy_queue(&self, context: Context, queue: Queue) {
        if self.enter(context).is_ok() {
            // SAFETY: the queue is one of this driver and is not used again.
            unsafe {
                let _ = (self.functions.hipStreamSynchronize)(stream(queue));
                let _ = (self.functions.hipStreamDestroy)(stream(queue));
            }
        }
    }

    fn synchronize(&self, context: Context, queue: Queue) -> Result<()> {
        self.enter(context)?;
        // SAFETY: the queue is one of this driver.
        unsafe { call!(self, hipStreamSynchronize(stream(queue))) }
    }

    unsafe fn copy(&self, context: Context, queue: Queue, to: Side, from: Side, bytes: usize) -> Result<()> {
        self.enter(context)?;
        let stream = stream(queue);
        // SAFETY: the caller vouches for both ends.
        unsafe {
            match (to, from) {
                (Side::Device(_, to), Side::Host(from)) => {
                    call!(self, hipMemcpyHtoDAsync(pointer(to), from, bytes, stream))
                }
                (Side::Host(to), Side::Device(_, from)) => {
                    call!(self, hipMemcpyDtoHAsync(to, pointer(from), bytes, stream))
                }
                (Side::Device(a, to), Side::Device(b, from)) if a != b => {
                    let (to, from) = (pointer(to), pointer(from).cast_const());
                    call!(self, hipMemcpyPeerAsync(to, ordinal(a), from, ordinal(b), bytes, stream))
                }
                (Side::Device(_, to), Side::Device(_, from)) => {
                    call!(self, hipMemcpyDtoDAsync(pointer(to), pointer(from), bytes, stream))
                }
                (Side::Host(to), Side::Host(from)) => {
                    std::ptr::copy(from.cast::<u8>(), to.cast::<u8>(), bytes);
                    Ok(())
                }
            }
        }
    }

    unsafe fn zero(&self, context: Context, queue: Queue, address: u64, bytes: usize) -> Result<()> {
        self.enter(context)?;
        // SAFETY: the caller vouches for the memory.
        unsafe { call!(self, hipMemsetAsync(pointer(address), 0, bytes, stream(queue))) }
    }

    fn mark(&self, context: Context, is_timed: bool) -> Result<Mark> {
        self.enter(context)?;
        let mut made = null_mut();
        let flags = if is_timed { hiprt::hipEventDefault } else { hiprt::hipEventDisableTiming };
        // SAFETY: the call writes the handle it is given.
        unsafe { call!(self, hipEventCreateWithFlags(&mut made, flags)) }?;
        Ok(Mark(made as u64))
    }

    fn destroy_mark(&self, context: Context, mark: Mark) {
        if self.enter(context).is_ok() {
            // SAFETY: the mark is one of this driver and is not used again.
            let _ = unsafe { (self.functions.hipEventDestroy)(event(mark)) };
        }
    }

    fn record(&self, context: Context, queue: Queue, mark: Mark) -> Result<()> {
        self.enter(context)?;
        // SAFETY: both handles are of this driver.
        unsafe { call!(self, hipEventRecord(event(mark), stream(queue))) }
    }

    fn wait(&self, context: Context, queue: Queue, mark: Mark) -> Result<()> {
        self.enter(context)?;
        // SAFETY: both handles are of this driver.
        unsafe { call!(self, hipStreamWaitEvent(stream(queue), event(mark), 0)) }
    }

    fn is_reached(&self, context: Context, mark: Mark) -> Result<bool> {
        const NOT_READY: c_int = hipError_t::hipErrorNotReady as c_int;
        self.enter(context)?;
        // SAFETY: the mark is one of this driver.
        match unsafe { (self.functions.hipEventQuery)(event(mark)) } {
            0 => Ok(true),
            NOT_READY => Ok(false),
            status => Err(self.error(status, "hipEventQuery")),
        }
    }

    fn synchronize_mark(&self, context: Context, mark: Mark) -> Result<()> {
        self.enter(context)?;
        // SAFETY: the mark is one of this driver.
        unsafe { call!(self, hipEventSynchronize(event(mark))) }
    }

    fn elapsed_ms(&self, context: Context, from: Mark, to: Mark) -> Result<f32> {
        self.enter(context)?;
        let mut milliseconds = 0.0;
        // SAFETY: the marks are of this driver; the call writes the number it is given.
        unsafe { call!(self, hipEventElapsedTime(&mut milliseconds, event(from), event(to))) }?;
        Ok(milliseconds)
    }

    fn load(&self, context: Context, image: &[u8]) -> Result<Module> {
        self.enter(context)?;
        let mut module = null_mut();
        // SAFETY: the image is complete, and the driver copies it; the call writes the handle it is given.
        unsafe { call!(self, hipModuleLoadData(&mut module, image.as_ptr().cast())) }?;
        Ok(Module(module as u64))
    }

    fn unload(&self, context: Context, module: Module) {
        if self.enter(context).is_ok() {
            // SAFETY: the module is one of this driver and is not used again.
            let _ = unsafe { (self.functions.hipModuleUnload)(module.0 as hipModule_t) };
        }
    }

    /// Functions of modules need no permission for dynamic LDS; what the device has is checked here, because the launch
    /// would only say that some value is invalid.
    fn function(
        &self,
        context: Context,
        module: Module,
        symbol: &str,
        shared_bytes: u32,
    ) -> Result<Function> {
        self.enter(context)?;
        let name = CString::new(symbol).map_err(|_| Error::invalid("a symbol holds a zero byte"))?;
        let mut function = null_mut();
        let what = format!("hipModuleGetFunction of '{symbol}'");
        // SAFETY: the module is one of this driver and the name ends in zero.
        unsafe {
            call!(self, hipModuleGetFunction(&mut function, module.0 as hipModule_t, name.as_ptr()), what)
        }?;
        if shared_bytes > 0 {
            let attribute = Attribute::hipDeviceAttributeMaxSharedMemoryPerBlock;
            let limit = self.attribute(ordinal(context), attribute)?;
            if shared_bytes > limit {
                return Err(Error::unsupported(format!(
                    "kernel '{symbol}' wants {shared_bytes} bytes of LDS; a workgroup has {limit}"
                )));
            }
        }
        Ok(Function(function as u64))
    }

    unsafe fn launch(
        &self,
        context: Context,
        function: Function,
        config: &LaunchConfig,
        args: Arguments<'_>,
        queue: Queue,
    ) -> Result<()> {
        self.enter(context)?;
        if args.places.len() > PARAMETERS {
            return Err(Error::internal(format!("a kernel of {} parameters", args.places.len())));
        }
        if config.cluster != [1, 1, 1] {
            return Err(Error::unsupported("AMD's GPUs have no clusters of workgroups"));
        }
        let mut parameters = [null_mut::<c_void>(); PARAMETERS];
        for (parameter, &(offset, _)) in parameters.iter_mut().zip(args.places) {
            *parameter = args.bytes.as_ptr().wrapping_add(offset as usize).cast_mut().cast();
        }
        let ([gx, gy, gz], [bx, by, bz]) = (config.grid, config.block);
        let (function, shared) = (function.0 as hipFunction_t, config.shared_bytes);
        let (stream, list) = (stream(queue), parameters.as_mut_ptr());
        // SAFETY: the caller vouches for the parameters; the driver copies them before it returns.
        unsafe {
            call!(
                self,
                hipModuleLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, list, null_mut())
            )
        }
    }

    fn capture_begin(&self, context: Context, queue: Queue) -> Result<()> {
        self.enter(context)?;
        let mode = hiprt::hipStreamCaptureMode::hipStreamCaptureModeThreadLocal as c_int;
        // SAFETY: the queue is one of this driver.
        unsafe { call!(self, hipStreamBeginCapture(stream(queue), mode)) }
    }

    fn capture_end(&self, context: Context, queue: Queue) -> Result<Graph> {
        self.enter(context)?;
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: the queue is capturing; the calls write the handles they are given.
        unsafe {
            call!(self, hipStreamEndCapture(stream(queue), &mut graph))?;
            let made = call!(self, hipGraphInstantiate(&mut executable, graph, null_mut(), null_mut(), 0));
            let _ = (self.functions.hipGraphDestroy)(graph);
            made?;
        }
        Ok(Graph(executable as u64))
    }

    fn start(&self, context: Context, graph: Graph, queue: Queue) -> Result<()> {
        self.enter(context)?;
        // SAFETY: both handles are of this driver.
        unsafe { call!(self, hipGraphLaunch(graph.0 as hipGraphExec_t, stream(queue))) }
    }

    fn destroy_graph(&self, context: Context, graph: Graph) {
        if self.enter(context).is_ok() {
            // SAFETY: the graph is one of this driver and is not used again.
            let _ = unsafe { (self.functions.hipGraphExecDestroy)(graph.0 as hipGraphExec_t) };
        }
    }

    fn encode_tensor_map(&self, _context: Context, _map: &TensorMap, _address: u64) -> Result<[u64; 16]> {
        Err(Error::unsupported("AMD's GPUs have no tensor maps"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_foreign_library_is_a_reason() {
        let reason = Hip::load_from(["libno-such-driver.so".into()].into_iter()).err().unwrap();
        assert!(reason.contains("libamdhip64") && reason.contains("libno-such-driver.so"), "{reason}");
        let reason = Hip::load_from(["libno.so".into(), "libc.so.6".into()].into_iter()).err().unwrap();
        assert!(reason.contains("it has no hipInit"), "{reason}");
    }

    #[test]
    fn statuses_keep_their_meaning() {
        let codes = [2, 209, 700, 719, 801, 1, 123_456].map(code_of);
        let (lost, unsupported) = (Code::DeviceLost, Code::Unsupported);
        assert_eq!(
            codes,
            [Code::OutOfMemory, unsupported, lost, lost, unsupported, Code::Internal, Code::Internal]
        );
    }
}
