//! An opened GPU behind the plugin contract: memory, copies, streams, claims and compilation.

use std::ffi::c_void;
use std::sync::Arc;

use tenon_kernels::gpu::{Chip, arch};
use tenon_plugin_api::provider::{ClaimSink, CompileRequest, Device, Features, KvPool};
use tenon_plugin_api::{
    DeviceInfo, DeviceKind, Error, GraphView, MemoryInfo, MemoryKind, Result, TimelineEntry, ffi,
};

use crate::compile;
use crate::constant::Constants;
use crate::driver::Facts;
use crate::executable::GpuExecutable;
use crate::fixed;
use crate::opened::{Opened, Setup, chip};
use crate::pack::Images;
use crate::page::PagePool;
use crate::sample;
use crate::schedule::Target;
use crate::stream::{GpuEvent, GpuStream, queue_copies};

/// The optional functions of every provider over this crate.
pub const FEATURES: Features = Features {
    ordered_allocation: true,
    capture: true,
    released: true,
    kv_pool: true,
    sampling: true,
    timeline: true,
    ..Features::NONE
};

/// An opened GPU.
pub struct GpuDevice {
    pub(crate) opened: Arc<Opened>,
}

impl GpuDevice {
    /// Opens a device.
    pub fn open(setup: Setup) -> Result<GpuDevice> {
        Ok(GpuDevice { opened: Arc::new(Opened::new(setup)?) })
    }

    /// What the contract tells about a device.
    pub fn info(index: u32, facts: &Facts) -> DeviceInfo {
        let chip = chip(facts).ok().map(|(_, chip)| chip);
        let peak = |rate: fn(&Chip) -> f64| chip.as_ref().map_or(0.0, |chip| rate(chip) / 1e12);
        DeviceInfo {
            index,
            kind: DeviceKind::Gpu,
            name: facts.name.clone(),
            arch: facts.arch.clone(),
            chip: chip.as_ref().map_or_else(String::new, |chip| chip.name.clone()),
            pci: facts.pci.clone(),
            memory_bytes: facts.memory_bytes,
            memory_gb_per_s: chip.as_ref().map_or(0.0, |chip| chip.bytes_per_second / 1e9),
            peak_f32_tflops: 0.0,
            peak_bf16_tflops: peak(|chip| chip.bf16_flops_per_second),
            peak_int8_tops: peak(|chip| chip.fp8_flops_per_second),
            shares_host_memory: false,
            compute_units: facts.compute_units,
        }
    }

    /// What a device of `target` (an arch or a chip) would claim, given its kernels.
    pub fn claim_for(
        target: &str,
        images: &Images,
        graph: GraphView<'_>,
        sink: &mut ClaimSink<'_>,
    ) -> Result<()> {
        let (arch, chip) = target_chip(target)?;
        let has = |symbol: &str| images.find(symbol).is_some();
        compile::claim(
            Target { arch, chip: &chip, matmul: None, allows_tf32: false, has: &has },
            graph,
            sink,
        );
        Ok(())
    }
}

/// The chip that `target` names, or the first of the arch that it names.
fn target_chip(target: &str) -> Result<(&'static str, Chip)> {
    for arch in arch::all() {
        let chips = arch.chips().map_err(|error| Error::internal(error.to_string()))?;
        let named = chips.iter().find(|chip| chip.name == target);
        if let Some(chip) = named.or((arch.name == target).then_some(chips.first()).flatten()) {
            return Ok((arch.name, chip.clone()));
        }
    }
    Err(Error::unsupported(format!("there are no kernels for the target '{target}'")))
}

impl Device for GpuDevice {
    type Stream = GpuStream;
    type Executable = GpuExecutable;

    fn claim(&self, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        let has = |symbol: &str| self.opened.kernels.has(symbol);
        compile::claim(self.opened.target(&has), graph, sink);
        Ok(())
    }

    fn compile(&self, request: &CompileRequest<'_>) -> Result<GpuExecutable> {
        let (mut compilation, mut derived) = compile::compile(request.graph, self.opened.arch)?;
        let results = fixed::compute(&self.opened, request.graph, &mut compilation, &mut derived)?;
        let has = |symbol: &str| self.opened.kernels.has(symbol);
        if !derived.is_empty()
            && let Some(read) = compilation.constants_read(self.opened.target(&has))
        {
            compilation.device_constants.retain(|&value| read.contains(&(value as usize)));
            derived.retain(|(value, _)| read.contains(&(*value as usize)));
        }
        let values = &compilation.device_constants;
        let mut constants = Constants::upload(&self.opened, request.graph, values, derived)?;
        results.into_iter().for_each(|results| constants.adopt(results));
        Ok(GpuExecutable::new(self.opened.clone(), compilation, constants))
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        let (free_bytes, total_bytes) = self.opened.driver.memory(self.opened.context)?;
        let (used_bytes, peak_bytes) = self.opened.pool.usage();
        Ok(MemoryInfo { total_bytes, free_bytes, used_bytes, peak_bytes })
    }

    fn allocate(&self, memory: MemoryKind, bytes: usize) -> Result<*mut c_void> {
        match memory {
            MemoryKind::Device => {
                let address = self.opened.pool.allocate(bytes)?;
                Ok(std::ptr::with_exposed_provenance_mut(address as usize))
            }
            MemoryKind::Pinned => self.opened.driver.allocate_pinned(self.opened.context, bytes.max(1)),
            MemoryKind::Host => tenon_plugin_api::provider::host_memory::allocate(bytes),
        }
    }

    unsafe fn free(&self, memory: MemoryKind, data: *mut c_void) {
        if data.is_null() {
            return;
        }
        // SAFETY: the caller vouches that `allocate` gave it with this kind, and that nobody uses it.
        unsafe {
            match memory {
                MemoryKind::Device => self.opened.pool.free(data.addr() as u64),
                MemoryKind::Pinned => self.opened.driver.free_pinned(self.opened.context, data),
                MemoryKind::Host => tenon_plugin_api::provider::host_memory::free(data),
            }
        }
    }

    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()> {
        let (driver, context) = (&self.opened.driver, self.opened.context);
        let queue = driver.queue(context)?;
        // SAFETY: the caller vouches for the addresses.
        let queued = unsafe { queue_copies(&self.opened, queue, copies) };
        let done = driver.synchronize(context, queue);
        driver.destroy_queue(context, queue);
        queued.and(done)
    }

    fn stream(&self) -> Result<GpuStream> {
        GpuStream::new(self.opened.clone())
    }

    fn event(&self) -> Result<GpuEvent> {
        GpuEvent::new(self.opened.clone())
    }

    fn kv_pool(&self, args: &ffi::KvPoolArgs) -> Result<Box<dyn KvPool<GpuStream>>> {
        Ok(Box::new(PagePool::new(self.opened.clone(), args)?))
    }

    unsafe fn sample(&self, stream: Option<&GpuStream>, args: &ffi::SampleArgs) -> Result<()> {
        match stream {
            // SAFETY: the caller vouches for the addresses.
            Some(stream) => unsafe { sample::queue(&self.opened, stream, args) },
            None => {
                let stream = self.stream()?;
                // SAFETY: as above.
                unsafe { sample::queue(&self.opened, &stream, args)? };
                tenon_plugin_api::provider::Stream::synchronize(&stream)
            }
        }
    }

    fn timeline_start(&self) -> Result<()> {
        self.opened.timeline.start(&self.opened)
    }

    fn timeline_stop(&self) -> Result<Vec<TimelineEntry>> {
        self.opened.timeline.stop(&self.opened)
    }
}
