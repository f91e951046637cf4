//! A driver without a GPU: host memory stands for device memory, copies are real, launches are written down as lines
//! of text, and those kernels for which there is a host function are run. For tests of everything above a driver.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tenon_kernels::gpu::{TensorMap, arch};
use tenon_plugin_api::provider::host_memory;
use tenon_plugin_api::{Error, Result};

use crate::driver::{
    Arguments, Context, Driver, Facts, Function, Graph, LaunchConfig, Mark, Module, Queue, Side,
};

/// A kernel compiled for the host: the address of each parameter, blocks along x, y, z, threads along x, y, z.
pub type HostKernel = unsafe extern "C" fn(args: *const *const c_void, grid: *const u32, block: *const u32);

/// What fresh device memory holds.
const POISON: u8 = 0xCB;

/// The recording driver.
pub struct Recording {
    facts: Facts,
    is_idle: bool,
    kernels: Box<dyn Fn(&str) -> Option<HostKernel> + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    log: Vec<String>,
    symbols: Vec<String>,
    next: u64,
    /// Where the last block of an idle driver ends.
    end: u64,
    allocated: HashMap<u64, usize>,
    /// Queues that are capturing, and what they have captured.
    capturing: HashMap<Queue, Vec<Operation>>,
    graphs: HashMap<Graph, Vec<Operation>>,
}

#[derive(Clone)]
enum Operation {
    Launch { function: Function, config: LaunchConfig, bytes: Vec<u8>, places: Vec<(u32, u32)> },
    Copy { to: u64, from: u64, bytes: usize },
    Zero { address: u64, bytes: usize },
}

impl Recording {
    /// A driver of one device of `arch`; `kernels` finds host functions by symbol.
    pub fn new(
        arch: &str,
        kernels: impl Fn(&str) -> Option<HostKernel> + Send + Sync + 'static,
    ) -> Recording {
        let facts = Facts {
            name: format!("Recorded {arch}"),
            arch: arch.into(),
            compute_units: 4,
            memory_bytes: 1 << 34,
            pci: "0000:00:00.0".into(),
        };
        Recording { facts, is_idle: false, kernels: Box::new(kernels), state: Mutex::default() }
    }

    /// A driver of one device with the size of the family's first chip, whose memory is nowhere and whose work is not
    /// done: what a run takes is what the host does. Its record holds what was captured.
    pub fn idle(arch: &str) -> Recording {
        let mut driver = Recording::new(arch, |_| None);
        (driver.is_idle, driver.facts.memory_bytes) = (true, 1 << 40);
        let chips = arch::find(arch).and_then(|arch| arch.chips()).unwrap_or_default();
        if let Some(chip) = chips.first() {
            driver.facts.compute_units = chip.compute_units;
        }
        driver
    }

    /// The lines since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Bytes of device memory that have not been freed.
    pub fn allocated_bytes(&self) -> usize {
        self.state().allocated.values().sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        let mut state = self.state();
        state.next += 1;
        state.next
    }

    /// An address that no other block has.
    fn nowhere(&self, bytes: usize) -> u64 {
        let mut state = self.state();
        let address = state.end.next_multiple_of(256) + 256;
        state.end = address + bytes as u64;
        address
    }

    /// Does an operation, or keeps it when the queue is capturing.
    fn queue_operation(&self, queue: Queue, operation: Operation) -> Result<()> {
        if let Some(captured) = self.state().capturing.get_mut(&queue) {
            captured.push(operation);
            return Ok(());
        }
        if self.is_idle { Ok(()) } else { self.perform(&operation) }
    }

    /// Writes an operation down.
    fn log(&self, operation: &Operation) -> Result<()> {
        let line = match operation {
            Operation::Copy { bytes, .. } => format!("copy {bytes} bytes"),
            Operation::Zero { bytes, .. } => format!("zero {bytes} bytes"),
            Operation::Launch { function, config, .. } => format!(
                "launch {} grid {:?} block {:?} shared {}",
                self.symbol(*function)?,
                config.grid,
                config.block,
                config.shared_bytes
            ),
        };
        self.state().log.push(line);
        Ok(())
    }

    fn perform(&self, operation: &Operation) -> Result<()> {
        self.log(operation)?;
        match operation {
            Operation::Copy { to, from, bytes } => {
                // SAFETY: whoever queued the copy vouched for both ends.
                unsafe { std::ptr::copy(pointer(*from).cast::<u8>(), pointer(*to).cast::<u8>(), *bytes) };
            }
            Operation::Zero { address, bytes } => {
                // SAFETY: whoever queued it vouched for the memory.
                unsafe { pointer(*address).cast::<u8>().write_bytes(0, *bytes) };
            }
            Operation::Launch { function, config, bytes, places } => {
                let symbol = self.symbol(*function)?;
                if let Some(kernel) = (self.kernels)(&symbol) {
                    // Parameters are read with their own alignment.
                    let mut aligned: Vec<u128> = vec![0; bytes.len().div_ceil(16)];
                    let base = aligned.as_mut_ptr().cast::<u8>();
                    // SAFETY: the buffer holds at least as many bytes.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base, bytes.len()) };
                    let args: Vec<*const c_void> = places
                        .iter()
                        .map(|&(offset, _)| base.cast_const().wrapping_add(offset as usize).cast())
                        .collect();
                    // Kernels keep shared memory in statics, whichever driver starts them.
                    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
                    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
                    // SAFETY: the launch's maker vouched for the parameters.
                    unsafe { kernel(args.as_ptr(), config.grid.as_ptr(), config.block.as_ptr()) };
                }
            }
        }
        Ok(())
    }

    fn symbol(&self, function: Function) -> Result<String> {
        let symbols = &self.state().symbols;
        let symbol = symbols.get(function.0 as usize);
        symbol.cloned().ok_or_else(|| Error::invalid("no such function").with_provider_code(-1))
    }
}

/// Device addresses of this driver are host addresses.
fn pointer(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

fn side(side: Side) -> u64 {
    match side {
        Side::Host(data) => data.expose_provenance() as u64,
        Side::Device(_, address) => address,
    }
}

impl Driver for Recording {
    fn devices(&self) -> Result<Vec<Facts>> {
        Ok(vec![self.facts.clone()])
    }

    fn open(&self, ordinal: u32) -> Result<Context> {
        match ordinal {
            0 => Ok(Context(0)),
            _ => {
                Err(Error::invalid(format!("device {ordinal}: there is only device 0"))
                    .with_provider_code(101))
            }
        }
    }

    fn close(&self, _context: Context) {}

    fn memory(&self, _context: Context) -> Result<(u64, u64)> {
        let total = self.facts.memory_bytes;
        Ok((total - self.allocated_bytes() as u64, total))
    }

    fn allocate(&self, _context: Context, bytes: usize) -> Result<u64> {
        let (free, _) = self.memory(Context(0))?;
        if bytes as u64 > free {
            return Err(Error::out_of_memory(format!("{bytes} bytes of device memory")).with_provider_code(2));
        }
        let address = if self.is_idle {
            self.nowhere(bytes)
        } else {
            let data = host_memory::allocate(bytes)?;
            // SAFETY: the block was just allocated with that many bytes.
            unsafe { data.cast::<u8>().write_bytes(POISON, bytes) };
            data.expose_provenance() as u64
        };
        self.state().allocated.insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, _context: Context, address: u64) {
        let is_known = self.state().allocated.remove(&address).is_some();
        if is_known && !self.is_idle {
            // SAFETY: `allocate` gave it.
            unsafe { host_memory::free(pointer(address)) };
        }
    }

    fn allocate_pinned(&self, _context: Context, bytes: usize) -> Result<*mut c_void> {
        host_memory::allocate(bytes)
    }

    unsafe fn free_pinned(&self, _context: Context, data: *mut c_void) {
        // SAFETY: the caller vouches for the origin.
        unsafe { host_memory::free(data) };
    }

    fn allocate_ordered(&self, context: Context, _queue: Queue, bytes: usize) -> Result<u64> {
        self.allocate(context, bytes)
    }

    unsafe fn free_ordered(&self, context: Context, _queue: Queue, address: u64) -> Result<()> {
        // SAFETY: the caller vouches for the origin; work is done when it is queued.
        unsafe { self.free(context, address) };
        Ok(())
    }

    fn queue(&self, _context: Context) -> Result<Queue> {
        Ok(Queue(self.number()))
    }

    fn destroy_queue(&self, _context: Context, _queue: Queue) {}

    fn synchronize(&self, _context: Context, _queue: Queue) -> Result<()> {
        Ok(())
    }

    unsafe fn copy(&self, _context: Context, queue: Queue, to: Side, from: Side, bytes: usize) -> Result<()> {
        self.queue_operation(queue, Operation::Copy { to: side(to), from: side(from), bytes })
    }

    unsafe fn zero(&self, _context: Context, queue: Queue, address: u64, bytes: usize) -> Result<()> {
        self.queue_operation(queue, Operation::Zero { address, bytes })
    }

    fn mark(&self, _context: Context, _is_timed: bool) -> Result<Mark> {
        Ok(Mark(self.number()))
    }

    fn destroy_mark(&self, _context: Context, _mark: Mark) {}

    fn record(&self, _context: Context, _queue: Queue, _mark: Mark) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _context: Context, _queue: Queue, _mark: Mark) -> Result<()> {
        Ok(())
    }

    fn is_reached(&self, _context: Context, _mark: Mark) -> Result<bool> {
        Ok(true)
    }

    fn synchronize_mark(&self, _context: Context, _mark: Mark) -> Result<()> {
        Ok(())
    }

    /// Marks are numbered as they are made: a later one counts as a microsecond further on.
    fn elapsed_ms(&self, _context: Context, from: Mark, to: Mark) -> Result<f32> {
        Ok((to.0 as f32 - from.0 as f32) * 1e-3)
    }

    fn load(&self, _context: Context, _image: &[u8]) -> Result<Module> {
        Ok(Module(self.number()))
    }

    fn unload(&self, _context: Context, _module: Module) {}

    fn function(
        &self,
        _context: Context,
        _module: Module,
        symbol: &str,
        _shared_bytes: u32,
    ) -> Result<Function> {
        let mut state = self.state();
        state.symbols.push(symbol.into());
        Ok(Function(state.symbols.len() as u64 - 1))
    }

    unsafe fn launch(
        &self,
        _context: Context,
        function: Function,
        config: &LaunchConfig,
        args: Arguments<'_>,
        queue: Queue,
    ) -> Result<()> {
        let (bytes, places) = (args.bytes.to_vec(), args.places.to_vec());
        self.queue_operation(queue, Operation::Launch { function, config: *config, bytes, places })
    }

    fn capture_begin(&self, _context: Context, queue: Queue) -> Result<()> {
        self.state().capturing.insert(queue, Vec::new());
        Ok(())
    }

    fn capture_end(&self, _context: Context, queue: Queue) -> Result<Graph> {
        let captured = self.state().capturing.remove(&queue);
        let operations =
            captured.ok_or_else(|| Error::invalid("the queue is not capturing").with_provider_code(901))?;
        if self.is_idle {
            self.state().log.push(format!("capture a graph of {} operations", operations.len()));
            operations.iter().try_for_each(|operation| self.log(operation))?;
        }
        let mut state = self.state();
        state.next += 1;
        let graph = Graph(state.next);
        state.graphs.insert(graph, operations);
        Ok(graph)
    }

    fn start(&self, _context: Context, graph: Graph, _queue: Queue) -> Result<()> {
        let no_graph = || Error::invalid("no such graph").with_provider_code(400);
        if self.is_idle {
            return if self.state().graphs.contains_key(&graph) { Ok(()) } else { Err(no_graph()) };
        }
        let operations = self.state().graphs.get(&graph).cloned().ok_or_else(no_graph)?;
        self.state().log.push(format!("start a graph of {} operations", operations.len()));
        operations.iter().try_for_each(|operation| self.perform(operation))
    }

    fn destroy_graph(&self, _context: Context, graph: Graph) {
        self.state().graphs.remove(&graph);
    }

    /// The address and the extents: nothing reads a map but a test.
    fn encode_tensor_map(&self, _context: Context, map: &TensorMap, address: u64) -> Result<[u64; 16]> {
        let mut words = [0; 16];
        words[0] = address;
        words[1..].iter_mut().zip(&map.dims).for_each(|(word, &dim)| *word = dim);
        Ok(words)
    }
}
