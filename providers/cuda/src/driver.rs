//! NVIDIA's driver behind the trait that all GPU providers share: the only file that names `cudarc`.
//!
//! The library is loaded when it is first asked for. Whether it is there is checked before anything else, because a call
//! into a missing library ends in a panic.

use std::cell::Cell;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult};
use tenon_gpu::driver::{
    Arguments, Context, Driver, Facts, Function, Graph, LaunchConfig, Mark, Module, Queue, Side,
};
use tenon_kernels::gpu::TensorMap;
use tenon_kernels::gpu::launch::{Element, Swizzle};
use tenon_plugin_api::{Code, Error, Result};

use crate::device;

/// The largest number of parameters of a kernel.
const PARAMETERS: usize = 64;
/// Dynamic shared memory that needs no permission.
const FREE_SHARED_BYTES: u32 = 48 << 10;

/// The driver of the process.
pub struct Cuda;

thread_local! {
    /// The context that this thread works in.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Turns a result of the driver into ours; `what` names the call.
fn check(result: CUresult, what: &str) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the call writes the pointer it is given; names are static texts.
    let name = unsafe {
        match sys::cuGetErrorName(result, &mut text) {
            CUresult::CUDA_SUCCESS if !text.is_null() => {
                std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned()
            }
            _ => "unknown error".into(),
        }
    };
    let message = format!("{what}: {name}");
    let error = match result {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::out_of_memory(message),
        CUresult::CUDA_ERROR_NOT_SUPPORTED => Error::unsupported(message),
        _ => Error::new(Code::Internal, message),
    };
    Err(error.with_provider_code(result as i32))
}

impl Cuda {
    /// Loads and starts the driver; the error says why it cannot be used.
    pub fn load() -> std::result::Result<Cuda, String> {
        // SAFETY: the check opens the library and looks for nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err("NVIDIA's driver library (libcuda) is not installed".into());
        }
        // SAFETY: the library is there; 0 is the only flag there is.
        let started = unsafe { sys::cuInit(0) };
        check(started, "cuInit").map_err(|error| format!("NVIDIA's driver does not start: {error}"))?;
        Ok(Cuda)
    }

    /// Makes `context` this thread's.
    fn enter(context: Context) -> Result<()> {
        if CURRENT.get() == context.0 {
            return Ok(());
        }
        // SAFETY: the handle is a context that `open` retained.
        check(unsafe { sys::cuCtxSetCurrent(context.0 as sys::CUcontext) }, "cuCtxSetCurrent")?;
        CURRENT.set(context.0);
        Ok(())
    }

    fn attribute(device: c_int, attribute: sys::CUdevice_attribute) -> Result<i32> {
        let mut value = 0;
        // SAFETY: the call writes the integer it is given.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) }, "cuDeviceGetAttribute")?;
        Ok(value)
    }

    fn facts(ordinal: i32) -> Result<Facts> {
        use sys::CUdevice_attribute as Attribute;
        let (mut device, mut name, mut bytes) = (0, [0u8; 256], 0);
        let mut pci = [0u8; 32];
        // SAFETY: the calls write into what they are given, no more than its length.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal), "cuDeviceGet")?;
            check(sys::cuDeviceGetName(name.as_mut_ptr().cast(), 255, device), "cuDeviceGetName")?;
            check(sys::cuDeviceTotalMem_v2(&mut bytes, device), "cuDeviceTotalMem")?;
            check(sys::cuDeviceGetPCIBusId(pci.as_mut_ptr().cast(), 31, device), "cuDeviceGetPCIBusId")?;
        }
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let major = Cuda::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = Cuda::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let units = Cuda::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Facts {
            name: text(&name),
            arch: device::arch_of_capability(major, minor),
            compute_units: units as u32,
            memory_bytes: bytes as u64,
            pci: text(&pci).to_lowercase(),
        })
    }
}

fn queue_of(queue: Queue) -> sys::CUstream {
    queue.0 as sys::CUstream
}

fn mark_of(mark: Mark) -> sys::CUevent {
    mark.0 as sys::CUevent
}

impl Driver for Cuda {
    fn devices(&self) -> Result<Vec<Facts>> {
        let mut count = 0;
        // SAFETY: the call writes the integer it is given.
        check(unsafe { sys::cuDeviceGetCount(&mut count) }, "cuDeviceGetCount")?;
        (0..count).map(Cuda::facts).collect()
    }

    fn open(&self, ordinal: u32) -> Result<Context> {
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: the calls write the handles they are given.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal as c_int), "cuDeviceGet")?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "cuDevicePrimaryCtxRetain")?;
        }
        Ok(Context(context as u64))
    }

    /// The primary context stays for the life of the process: making it anew costs hundreds of milliseconds.
    fn close(&self, _context: Context) {}

    fn memory(&self, context: Context) -> Result<(u64, u64)> {
        Cuda::enter(context)?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the call writes the integers it is given.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "cuMemGetInfo")?;
        Ok((free as u64, total as u64))
    }

    fn allocate(&self, context: Context, bytes: usize) -> Result<u64> {
        Cuda::enter(context)?;
        let mut address = 0;
        // SAFETY: the call writes the address it is given.
        check(unsafe { sys::cuMemAlloc_v2(&mut address, bytes) }, &format!("cuMemAlloc of {bytes} bytes"))?;
        Ok(address)
    }

    unsafe fn free(&self, context: Context, address: u64) {
        if Cuda::enter(context).is_ok() {
            // SAFETY: the caller vouches for the origin.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn allocate_pinned(&self, context: Context, bytes: usize) -> Result<*mut c_void> {
        Cuda::enter(context)?;
        let mut data = null_mut();
        // SAFETY: the call writes the pointer it is given.
        let made = unsafe { sys::cuMemHostAlloc(&mut data, bytes, 0) };
        check(made, &format!("cuMemHostAlloc of {bytes} bytes"))?;
        Ok(data)
    }

    unsafe fn free_pinned(&self, context: Context, data: *mut c_void) {
        if Cuda::enter(context).is_ok() {
            // SAFETY: the caller vouches for the origin.
            let _ = unsafe { sys::cuMemFreeHost(data) };
        }
    }

    fn allocate_ordered(&self, context: Context, queue: Queue, bytes: usize) -> Result<u64> {
        Cuda::enter(context)?;
        let mut address = 0;
        // SAFETY: the queue is one of this driver; the call writes the address it is given.
        check(unsafe { sys::cuMemAllocAsync(&mut address, bytes, queue_of(queue)) }, "cuMemAllocAsync")?;
        Ok(address)
    }

    unsafe fn free_ordered(&self, context: Context, queue: Queue, address: u64) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: the caller vouches for the origin.
        check(unsafe { sys::cuMemFreeAsync(address, queue_of(queue)) }, "cuMemFreeAsync")
    }

    fn queue(&self, context: Context) -> Result<Queue> {
        Cuda::enter(context)?;
        let mut queue = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: the call writes the handle it is given.
        check(unsafe { sys::cuStreamCreate(&mut queue, flags) }, "cuStreamCreate")?;
        Ok(Queue(queue as u64))
    }

    fn destroy_queue(&self, context: Context, queue: Queue) {
        if Cuda::enter(context).is_ok() {
            // SAFETY: the queue is one of this driver and is not used again.
            unsafe {
                let _ = sys::cuStreamSynchronize(queue_of(queue));
                let _ = sys::cuStreamDestroy_v2(queue_of(queue));
            }
        }
    }

    fn synchronize(&self, context: Context, queue: Queue) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: the queue is one of this driver.
        check(unsafe { sys::cuStreamSynchronize(queue_of(queue)) }, "cuStreamSynchronize")
    }

    unsafe fn copy(&self, context: Context, queue: Queue, to: Side, from: Side, bytes: usize) -> Result<()> {
        Cuda::enter(context)?;
        let stream = queue_of(queue);
        // SAFETY: the caller vouches for both ends.
        let (result, what) = unsafe {
            match (to, from) {
                (Side::Device(_, to), Side::Host(from)) => {
                    (sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream), "cuMemcpyHtoDAsync")
                }
                (Side::Host(to), Side::Device(_, from)) => {
                    (sys::cuMemcpyDtoHAsync_v2(to, from, bytes, stream), "cuMemcpyDtoHAsync")
                }
                (Side::Device(a, to), Side::Device(b, from)) if a != b => {
                    let (a, b) = (a.0 as sys::CUcontext, b.0 as sys::CUcontext);
                    (sys::cuMemcpyPeerAsync(to, a, from, b, bytes, stream), "cuMemcpyPeerAsync")
                }
                (Side::Device(_, to), Side::Device(_, from)) => {
                    (sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream), "cuMemcpyDtoDAsync")
                }
                (Side::Host(to), Side::Host(from)) => {
                    std::ptr::copy(from.cast::<u8>(), to.cast::<u8>(), bytes);
                    return Ok(());
                }
            }
        };
        check(result, what)
    }

    unsafe fn zero(&self, context: Context, queue: Queue, address: u64, bytes: usize) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: the caller vouches for the memory.
        check(unsafe { sys::cuMemsetD8Async(address, 0, bytes, queue_of(queue)) }, "cuMemsetD8Async")
    }

    fn mark(&self, context: Context, is_timed: bool) -> Result<Mark> {
        Cuda::enter(context)?;
        let mut mark = null_mut();
        let flags = match is_timed {
            true => sys::CUevent_flags::CU_EVENT_DEFAULT,
            false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        // SAFETY: the call writes the handle it is given.
        check(unsafe { sys::cuEventCreate(&mut mark, flags as c_uint) }, "cuEventCreate")?;
        Ok(Mark(mark as u64))
    }

    fn destroy_mark(&self, context: Context, mark: Mark) {
        if Cuda::enter(context).is_ok() {
            // SAFETY: the mark is one of this driver and is not used again.
            let _ = unsafe { sys::cuEventDestroy_v2(mark_of(mark)) };
        }
    }

    fn record(&self, context: Context, queue: Queue, mark: Mark) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: both handles are of this driver.
        check(unsafe { sys::cuEventRecord(mark_of(mark), queue_of(queue)) }, "cuEventRecord")
    }

    fn wait(&self, context: Context, queue: Queue, mark: Mark) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: both handles are of this driver.
        check(unsafe { sys::cuStreamWaitEvent(queue_of(queue), mark_of(mark), 0) }, "cuStreamWaitEvent")
    }

    fn is_reached(&self, context: Context, mark: Mark) -> Result<bool> {
        Cuda::enter(context)?;
        // SAFETY: the mark is one of this driver.
        match unsafe { sys::cuEventQuery(mark_of(mark)) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check(result, "cuEventQuery").map(|()| true),
        }
    }

    fn synchronize_mark(&self, context: Context, mark: Mark) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: the mark is one of this driver.
        check(unsafe { sys::cuEventSynchronize(mark_of(mark)) }, "cuEventSynchronize")
    }

    fn elapsed_ms(&self, context: Context, from: Mark, to: Mark) -> Result<f32> {
        Cuda::enter(context)?;
        let mut milliseconds = 0.0;
        // SAFETY: the marks are of this driver; the call writes the number it is given.
        let result = unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, mark_of(from), mark_of(to)) };
        check(result, "cuEventElapsedTime")?;
        Ok(milliseconds)
    }

    fn load(&self, context: Context, image: &[u8]) -> Result<Module> {
        Cuda::enter(context)?;
        let mut module = null_mut();
        // SAFETY: the image is complete, and the driver copies it; the call writes the handle it is given.
        check(unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) }, "cuModuleLoadData")?;
        Ok(Module(module as u64))
    }

    fn unload(&self, context: Context, module: Module) {
        if Cuda::enter(context).is_ok() {
            // SAFETY: the module is one of this driver and is not used again.
            let _ = unsafe { sys::cuModuleUnload(module.0 as sys::CUmodule) };
        }
    }

    fn function(
        &self,
        context: Context,
        module: Module,
        symbol: &str,
        shared_bytes: u32,
    ) -> Result<Function> {
        Cuda::enter(context)?;
        let name = CString::new(symbol).map_err(|_| Error::invalid("a symbol holds a zero byte"))?;
        let mut function = null_mut();
        // SAFETY: the module is one of this driver and the name ends in zero.
        let found =
            unsafe { sys::cuModuleGetFunction(&mut function, module.0 as sys::CUmodule, name.as_ptr()) };
        check(found, &format!("cuModuleGetFunction of '{symbol}'"))?;
        if shared_bytes > FREE_SHARED_BYTES {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found.
            let set = unsafe { sys::cuFuncSetAttribute(function, attribute, shared_bytes as c_int) };
            check(set, &format!("{shared_bytes} bytes of shared memory for '{symbol}'"))?;
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
        Cuda::enter(context)?;
        if args.places.len() > PARAMETERS {
            return Err(Error::internal(format!("a kernel of {} parameters", args.places.len())));
        }
        let mut parameters = [null_mut::<c_void>(); PARAMETERS];
        for (parameter, &(offset, _)) in parameters.iter_mut().zip(args.places) {
            *parameter = args.bytes.as_ptr().wrapping_add(offset as usize).cast_mut().cast();
        }
        // SAFETY: the structure holds numbers, for which zero is a value.
        let mut attributes: [sys::CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        if config.cluster != [1, 1, 1] {
            attributes[count].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            let [x, y, z] = config.cluster;
            attributes[count].value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
            count += 1;
        }
        if config.is_dependent {
            let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count].id = id;
            attributes[count].value.programmaticStreamSerializationAllowed = 1;
            count += 1;
        }
        let launch = sys::CUlaunchConfig {
            gridDimX: config.grid[0],
            gridDimY: config.grid[1],
            gridDimZ: config.grid[2],
            blockDimX: config.block[0],
            blockDimY: config.block[1],
            blockDimZ: config.block[2],
            sharedMemBytes: config.shared_bytes,
            hStream: queue_of(queue),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as c_uint,
        };
        let function = function.0 as sys::CUfunction;
        // SAFETY: the caller vouches for the parameters; the driver copies them before it returns.
        let result = unsafe { sys::cuLaunchKernelEx(&launch, function, parameters.as_mut_ptr(), null_mut()) };
        check(result, "cuLaunchKernelEx")
    }

    fn capture_begin(&self, context: Context, queue: Queue) -> Result<()> {
        Cuda::enter(context)?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the queue is one of this driver.
        check(unsafe { sys::cuStreamBeginCapture_v2(queue_of(queue), mode) }, "cuStreamBeginCapture")
    }

    fn capture_end(&self, context: Context, queue: Queue) -> Result<Graph> {
        Cuda::enter(context)?;
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: the queue is capturing; the calls write the handles they are given.
        unsafe {
            check(sys::cuStreamEndCapture(queue_of(queue), &mut graph), "cuStreamEndCapture")?;
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            check(made, "cuGraphInstantiate")?;
        }
        Ok(Graph(executable as u64))
    }

    fn start(&self, context: Context, graph: Graph, queue: Queue) -> Result<()> {
        Cuda::enter(context)?;
        // SAFETY: both handles are of this driver.
        check(unsafe { sys::cuGraphLaunch(graph.0 as sys::CUgraphExec, queue_of(queue)) }, "cuGraphLaunch")
    }

    fn destroy_graph(&self, context: Context, graph: Graph) {
        if Cuda::enter(context).is_ok() {
            // SAFETY: the graph is one of this driver and is not used again.
            let _ = unsafe { sys::cuGraphExecDestroy(graph.0 as sys::CUgraphExec) };
        }
    }

    fn encode_tensor_map(&self, context: Context, map: &TensorMap, address: u64) -> Result<[u64; 16]> {
        use sys::CUtensorMapDataType as Type;
        Cuda::enter(context)?;
        let element = match map.element {
            Element::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            Element::U16 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            Element::U32 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            Element::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Element::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Element::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        };
        let swizzle = match map.swizzle {
            Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let rank = map.dims.len();
        if !(1..=5).contains(&rank) || map.box_dims.len() != rank || map.strides_bytes.len() + 1 != rank {
            return Err(Error::internal(format!("a tensor map of {rank} dimensions: {map:?}")));
        }
        let mut words = Aligned(sys::CUtensorMap { opaque: [0; 16] });
        let interleave = sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
        let promotion = sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
        let fill = sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
        let (dims, strides) = (map.dims.as_ptr(), map.strides_bytes.as_ptr());
        let address = address as *mut c_void;
        match &map.windows {
            None => {
                let (boxes, ones) = (map.box_dims.as_ptr(), [1u32; 5]);
                // SAFETY: every array holds `rank` entries (strides one fewer); the call writes the map it is given.
                let result = unsafe {
                    sys::cuTensorMapEncodeTiled(
                        &mut words.0,
                        element,
                        rank as u32,
                        address,
                        dims,
                        strides,
                        boxes,
                        ones.as_ptr(),
                        interleave,
                        swizzle,
                        promotion,
                        fill,
                    )
                };
                check(result, "cuTensorMapEncodeTiled")?;
            }
            Some(windows) if rank == 4 => {
                let steps = [1, windows.steps[0], windows.steps[1], 1];
                // SAFETY: as above; the corners have two entries for four dimensions.
                let result = unsafe {
                    sys::cuTensorMapEncodeIm2col(
                        &mut words.0,
                        element,
                        rank as u32,
                        address,
                        dims,
                        strides,
                        windows.first.as_ptr(),
                        windows.last.as_ptr(),
                        map.box_dims[0],
                        map.box_dims[1],
                        steps.as_ptr(),
                        interleave,
                        swizzle,
                        promotion,
                        fill,
                    )
                };
                check(result, "cuTensorMapEncodeIm2col")?;
            }
            Some(_) => return Err(Error::internal(format!("windows of {rank} dimensions: {map:?}"))),
        }
        Ok(words.0.opaque)
    }
}

/// The driver wants maps aligned.
#[repr(align(128))]
struct Aligned(sys::CUtensorMap);
