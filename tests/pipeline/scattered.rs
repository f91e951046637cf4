//! A provider for tests: runs an arbitrary half of the nodes, in a memory of its own, on streams that run late.
//!
//! Its device addresses have a bit that makes following them on the host fault. Copies and results are applied by a
//! worker thread some time after they were queued, so a missing wait shows as poisoned data.

use std::ffi::c_void;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenon_plugin_api::provider::{
    ClaimSink, CompileRequest, Device, Event, Executable, Host, NoRecording, Provider, RunRequest, Stream,
    host_memory,
};
use tenon_plugin_api::{
    DType, DeviceInfo, DeviceKind, Error, GraphView, MemoryInfo, MemoryKind, Options, Result, TensorView,
    ffi, host,
};

/// Set in every device address: no host memory lies there.
const FOREIGN: usize = 1 << 62;
/// What fresh device memory holds.
const POISON: u8 = 0xCB;
/// How late queued work runs.
const DELAY: Duration = Duration::from_micros(200);

fn foreign(data: *mut c_void) -> *mut c_void {
    data.map_addr(|address| address | FOREIGN)
}

fn real(data: *mut c_void) -> *mut c_void {
    assert!(data.addr() & FOREIGN != 0, "a host address was given for device memory");
    data.map_addr(|address| address & !FOREIGN)
}

/// The provider; option `seed` chooses which nodes it claims.
pub struct Scattered;

impl Provider for Scattered {
    const NAME: &'static str = "scattered";
    const VENDOR: &'static str = "tests";
    const VERSION: &'static str = "1";
    const BUILD_INFO: &'static str = "test provider";
    type Device = ScatteredDevice;

    fn initialize(_host: Host) -> Result<Scattered> {
        Ok(Scattered)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo { kind: DeviceKind::Other, name: "Scattered".into(), ..DeviceInfo::default() }])
    }

    fn open(&self, _index: u32, options: &Options<'_>) -> Result<ScatteredDevice> {
        options.check_keys(&["seed"])?;
        let seed = options
            .get("seed")
            .unwrap_or("0")
            .parse()
            .map_err(|_| Error::invalid("seed must be a number"))?;
        // SAFETY: the table is the CPU provider's own.
        let cpu = unsafe { host::Provider::new(tenon_provider_cpu::table()) };
        let cpu = cpu.and_then(|cpu| cpu.open(0, &[("threads", "1")])).map_err(as_error)?;
        Ok(ScatteredDevice { seed, cpu })
    }
}

tenon_plugin_api::export_provider!(Scattered, no_symbol);

fn as_error(error: host::Error) -> Error {
    Error::internal(error.to_string())
}

/// The device: the CPU behind a memory of its own.
pub struct ScatteredDevice {
    seed: u64,
    cpu: Arc<host::Device>,
}

impl ScatteredDevice {
    /// A coin for each node, from the seed and the node's position.
    fn takes(&self, node: u32) -> bool {
        let mut x = (u64::from(node) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ self.seed.wrapping_mul(0xD134_2543_DE82_EF95);
        x ^= x >> 29;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (x >> 40) & 1 == 1
    }
}

impl Device for ScatteredDevice {
    type Stream = LateStream;
    type Executable = Wrapped;

    fn claim(&self, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        // SAFETY: the view is of a graph that is valid for the call.
        let claims = self.cpu.claim(unsafe { host::Graph::new(graph.raw()) }, "").map_err(as_error)?;
        for (set, cost) in claims.sets {
            match self.takes(set[0]) && is_copyable(graph, set[0]) {
                true => sink.claim(&set, ffi::Cost { time_ns: 0.0, ..cost }),
                false => sink.decline(set[0], "not by this seed"),
            }
        }
        Ok(())
    }

    fn compile(&self, request: &CompileRequest<'_>) -> Result<Wrapped> {
        // SAFETY: as for claim.
        let graph = unsafe { host::Graph::new(request.graph.raw()) };
        let args =
            host::CompileArgs { constants_stay: request.constants_stay, ..host::CompileArgs::new(graph) };
        Ok(Wrapped(self.cpu.compile(&args).map_err(as_error)?))
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo::default())
    }

    fn allocate(&self, memory: MemoryKind, bytes: usize) -> Result<*mut c_void> {
        let data = host_memory::allocate(bytes)?;
        // SAFETY: the block was just allocated with that many bytes.
        unsafe { data.cast::<u8>().write_bytes(POISON, bytes) };
        Ok(if memory == MemoryKind::Device { foreign(data) } else { data })
    }

    unsafe fn free(&self, memory: MemoryKind, data: *mut c_void) {
        let data = if memory == MemoryKind::Device { real(data) } else { data };
        // SAFETY: the caller vouches that `allocate` gave it.
        unsafe { host_memory::free(data) }
    }

    fn stream(&self) -> Result<LateStream> {
        Ok(LateStream::start())
    }

    fn event(&self) -> Result<Reached> {
        Ok(Reached)
    }
}

/// Strings have no place in a device's memory.
fn is_copyable(graph: GraphView<'_>, node: u32) -> bool {
    let Some(node) = graph.nodes().find(|candidate| candidate.index() == node) else { return false };
    let inputs = (0..node.inputs().len()).filter_map(|i| node.input(i));
    let outputs = (0..node.outputs().len()).filter_map(|i| node.output(i));
    inputs.chain(outputs).all(|value| !matches!(value.dtype(), DType::String | DType::Undefined))
}

type Work = Box<dyn FnOnce() + Send>;

/// A queue whose work runs on a thread of its own, a little late.
pub struct LateStream {
    queue: Mutex<Sender<Work>>,
}

impl LateStream {
    fn start() -> LateStream {
        let (sender, receiver) = channel::<Work>();
        std::thread::spawn(move || {
            for work in receiver {
                std::thread::sleep(DELAY);
                work();
            }
        });
        LateStream { queue: Mutex::new(sender) }
    }

    fn push(&self, work: impl FnOnce() + Send + 'static) {
        let queue = self.queue.lock().expect("no thread panics while it queues");
        queue.send(Box::new(work)).expect("the worker lives as long as the stream");
    }
}

/// An address that a queued closure may use.
struct Address(*mut u8);
// SAFETY: the host keeps the memory alive until the stream is synchronised.
unsafe impl Send for Address {}

impl Stream for LateStream {
    type Event = Reached;
    type Recording = NoRecording;

    fn synchronize(&self) -> Result<()> {
        let (done, wait) = channel();
        self.push(move || done.send(()).expect("the waiting side waits"));
        wait.recv().map_err(|_| Error::internal("the stream's worker is gone"))
    }

    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()> {
        for copy in copies {
            let bytes = copy.bytes;
            let on_device = |memory| memory == ffi::MEMORY_DEVICE;
            let dst = if on_device(copy.dst_memory) { real(copy.dst) } else { copy.dst };
            let dst = Address(dst.cast());
            if on_device(copy.src_memory) {
                let src = Address(real(copy.src.cast_mut()).cast());
                self.push(move || {
                    let (dst, src) = (dst, src);
                    // SAFETY: both sides stay valid until the stream is synchronised.
                    unsafe { std::ptr::copy(src.0, dst.0, bytes) };
                });
            } else {
                // Host memory is pageable: it is read before the call returns.
                // SAFETY: the caller vouches for the source.
                let staged = unsafe { std::slice::from_raw_parts(copy.src.cast::<u8>(), bytes) }.to_vec();
                self.push(move || {
                    let dst = dst;
                    // SAFETY: as above.
                    unsafe { std::ptr::copy(staged.as_ptr(), dst.0, bytes) };
                });
            }
        }
        Ok(())
    }

    fn record(&self, _event: &Reached) -> Result<()> {
        self.synchronize()
    }

    fn wait(&self, _event: &Reached) -> Result<()> {
        Ok(())
    }
}

/// An event that is reached when it is recorded.
pub struct Reached;

impl Event for Reached {
    fn query(&self) -> Result<bool> {
        Ok(true)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// A CPU executable whose results reach the device's memory late.
pub struct Wrapped(host::Executable);

/// An output while it waits for its place on the device.
struct Late {
    index: u32,
    dtype: u32,
    dims: Vec<i64>,
    bytes: Vec<u64>,
    len: usize,
}

impl Executable for Wrapped {
    type Stream = LateStream;

    fn run(&self, request: &RunRequest<'_, LateStream>) -> Result<()> {
        let stream = request.stream.ok_or_else(|| Error::invalid("this device needs a stream"))?;
        // Shapes are known only after the work is done, so the inputs must be there.
        stream.synchronize()?;
        let inputs: Vec<ffi::Tensor> = request.inputs.iter().map(on_host).collect();
        let mut results: Vec<Late> = Vec::new();
        // SAFETY: the inputs are in host memory and stay there; `keep` gets the list it expects.
        let ran =
            unsafe { self.0.run(None, &inputs, (std::ptr::null_mut(), 0), (&raw mut results).cast(), keep) };
        ran.map_err(as_error)?;
        for result in results {
            let dtype =
                DType::from_onnx(result.dtype as i32).ok_or_else(|| Error::internal("an unknown type"))?;
            let target = request.allocate_output(result.index, dtype, &result.dims, result.len)?;
            if result.len == 0 {
                continue;
            }
            let target = Address(real(target).cast());
            stream.push(move || {
                let target = target;
                // SAFETY: the host keeps the output until the stream is synchronised.
                unsafe { std::ptr::copy(result.bytes.as_ptr().cast(), target.0, result.len) };
            });
        }
        Ok(())
    }
}

fn on_host(view: &TensorView<'_>) -> ffi::Tensor {
    let mut tensor = *view.raw();
    assert_eq!(tensor.memory, ffi::MEMORY_DEVICE, "inputs are in the device's memory");
    tensor.data = real(tensor.data);
    tensor.memory = ffi::MEMORY_HOST;
    tensor
}

/// Gives the CPU executable memory and remembers it.
unsafe extern "C" fn keep(
    context: *mut c_void,
    index: u32,
    dtype: u32,
    dims: *const i64,
    rank: u32,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: `run` passes its list and does not use it meanwhile; the provider passes valid dims.
    let (results, dims) = unsafe {
        let dims = if rank == 0 { &[] } else { std::slice::from_raw_parts(dims, rank as usize) };
        (&mut *context.cast::<Vec<Late>>(), dims.to_vec())
    };
    // 64-byte alignment is a matter of speed here: u64 is what the elements need.
    let mut result = Late { index, dtype, dims, bytes: vec![0; bytes.div_ceil(8).max(1)], len: bytes };
    // SAFETY: `data` is the provider's out argument.
    unsafe { *data = result.bytes.as_mut_ptr().cast() };
    results.push(result);
    std::ptr::null_mut()
}
