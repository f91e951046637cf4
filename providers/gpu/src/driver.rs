//! What a GPU driver offers, in plain handles: the one interface between this crate and a vendor.
//!
//! Errors carry the driver's own number. Every function may be called from any thread; a stream is used by one thread at
//! a time, except that it may be synchronised from any.

use std::ffi::c_void;

use tenon_kernels::gpu::TensorMap;
use tenon_plugin_api::Result;

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)] pub struct $name(pub u64);)*
    };
}

handles! {
    /// A device opened by this process.
    Context,
    /// An in-order queue.
    Queue,
    /// A point in a queue.
    Mark,
    /// A loaded image of kernels.
    Module,
    /// An entry point of a module.
    Function,
    /// Captured work that can be started.
    Graph,
}

/// What the driver tells about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// As the vendor prints it.
    pub name: String,
    /// The kernels' folder for it: `sm90`. Empty when there is none.
    pub arch: String,
    pub compute_units: u32,
    pub memory_bytes: u64,
    /// `0000:3b:00.0`.
    pub pci: String,
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Host(*mut c_void),
    /// Memory of the context, or of another one of this driver.
    Device(Context, u64),
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared_bytes: u32,
    /// May start before the launch in front of it has ended.
    pub is_dependent: bool,
}

/// The parameters of a kernel: their bytes, and where each lies in them.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    pub bytes: &'a [u8],
    /// Offset and size of each parameter, aligned as the device wants it.
    pub places: &'a [(u32, u32)],
}

/// A GPU driver.
pub trait Driver: Send + Sync + 'static {
    /// The devices present, in the driver's order.
    fn devices(&self) -> Result<Vec<Facts>>;

    /// Opens device `ordinal`.
    fn open(&self, ordinal: u32) -> Result<Context>;

    /// Closes a context; everything made from it has been ended.
    fn close(&self, context: Context);

    /// Free and total bytes of device memory.
    fn memory(&self, context: Context) -> Result<(u64, u64)>;

    /// Device memory aligned to 256.
    fn allocate(&self, context: Context, bytes: usize) -> Result<u64>;

    /// # Safety
    /// `address` came from [`Driver::allocate`] and no queued work uses it.
    unsafe fn free(&self, context: Context, address: u64);

    /// Host memory that the device copies from and to without staging.
    fn allocate_pinned(&self, context: Context, bytes: usize) -> Result<*mut c_void>;

    /// # Safety
    /// `data` came from [`Driver::allocate_pinned`] and no queued work uses it.
    unsafe fn free_pinned(&self, context: Context, data: *mut c_void);

    /// Device memory that is valid for work queued from now on.
    fn allocate_ordered(&self, context: Context, queue: Queue, bytes: usize) -> Result<u64>;

    /// # Safety
    /// `address` came from [`Driver::allocate_ordered`] of this context.
    unsafe fn free_ordered(&self, context: Context, queue: Queue, address: u64) -> Result<()>;

    fn queue(&self, context: Context) -> Result<Queue>;

    /// Waits for the queue's work and ends it.
    fn destroy_queue(&self, context: Context, queue: Queue);

    /// Returns when all queued work is done, with its first failure.
    fn synchronize(&self, context: Context, queue: Queue) -> Result<()>;

    /// Queues a copy of `bytes` bytes. Pageable host memory is read before the return, or written before
    /// [`Driver::synchronize`] returns.
    ///
    /// # Safety
    /// Both ends hold `bytes` bytes until the copy is done.
    unsafe fn copy(&self, context: Context, queue: Queue, to: Side, from: Side, bytes: usize) -> Result<()>;

    /// Queues zeroing `bytes` bytes.
    ///
    /// # Safety
    /// `address` is device memory of that size.
    unsafe fn zero(&self, context: Context, queue: Queue, address: u64, bytes: usize) -> Result<()>;

    /// A mark; one that was never recorded counts as reached. `is_timed`: [`Driver::elapsed_ms`] takes it.
    fn mark(&self, context: Context, is_timed: bool) -> Result<Mark>;

    fn destroy_mark(&self, context: Context, mark: Mark);

    fn record(&self, context: Context, queue: Queue, mark: Mark) -> Result<()>;

    /// Work queued from now on waits for the mark, which may be another context's.
    fn wait(&self, context: Context, queue: Queue, mark: Mark) -> Result<()>;

    fn is_reached(&self, context: Context, mark: Mark) -> Result<bool>;

    fn synchronize_mark(&self, context: Context, mark: Mark) -> Result<()>;

    /// Device time between two timed marks that have been reached.
    fn elapsed_ms(&self, context: Context, from: Mark, to: Mark) -> Result<f32>;

    /// Loads an image of kernels.
    fn load(&self, context: Context, image: &[u8]) -> Result<Module>;

    fn unload(&self, context: Context, module: Module);

    /// An entry point, allowed to use `shared_bytes` of dynamic shared memory.
    fn function(&self, context: Context, module: Module, symbol: &str, shared_bytes: u32)
    -> Result<Function>;

    /// Queues a launch.
    ///
    /// # Safety
    /// The parameters are what the kernel declares, and the memory they lead to is valid until it has run.
    unsafe fn launch(
        &self,
        context: Context,
        function: Function,
        config: &LaunchConfig,
        args: Arguments<'_>,
        queue: Queue,
    ) -> Result<()>;

    /// From here to [`Driver::capture_end`] work on the queue is recorded and not run.
    fn capture_begin(&self, context: Context, queue: Queue) -> Result<()>;

    fn capture_end(&self, context: Context, queue: Queue) -> Result<Graph>;

    fn start(&self, context: Context, graph: Graph, queue: Queue) -> Result<()>;

    fn destroy_graph(&self, context: Context, graph: Graph);

    /// The bytes of a tensor map over memory at `address`. `Unsupported` where the hardware has none.
    fn encode_tensor_map(&self, context: Context, map: &TensorMap, address: u64) -> Result<[u64; 16]>;
}
