//! Runs compiled clusters on their devices and copies values between memories.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;
use tenon_plugin_api::{ffi, host};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::execute::device_tensor::DeviceTensor;
use crate::execute::frame::{Binding, Frame, Held, too_small};
use crate::partition::Place;
use crate::plan::{CopyStep, Plan, RunStep, Slot, SlotInfo};
use crate::plugin::provider_error;
use crate::tensor::{Buffer, Dims, Tensor, Value};

/// The inputs of a cluster as its provider reads them; their dimensions stay in the frame's slots.
pub(super) fn describe_inputs(
    plan: &Plan,
    step: &RunStep,
    frame: &Frame,
) -> Result<SmallVec<[ffi::Tensor; 8]>> {
    let mut inputs = SmallVec::with_capacity(step.inputs.len());
    for &slot in &step.inputs {
        inputs.push(match &frame.slots[slot as usize] {
            Held::Host(Value::Tensor(tensor)) => describe(tensor),
            Held::Device(tensor) => describe_device(tensor),
            Held::Host(other) => return Err(not_a_tensor(&plan.slots[slot as usize], other)),
            Held::Nothing => {
                return Err(Error::internal(format!(
                    "'{}' was not computed",
                    plan.slots[slot as usize].name
                )));
            }
        });
    }
    Ok(inputs)
}

/// Runs one cluster: its inputs, those that [`describe_inputs`] gives, are in its device's memory; its outputs are
/// allocated as their shapes become known.
pub(super) fn run(
    plan: &Plan,
    step: &RunStep,
    inputs: &[ffi::Tensor],
    frame: &mut Frame,
    bindings: &[Option<Binding>],
) -> Result<()> {
    let shares_memory = plan.devices[step.device].cost.shares_host_memory;
    if !shares_memory {
        frame.stream(plan, step.device)?;
    }
    // SAFETY: the dims of each input live in the frame.
    let needed =
        unsafe { step.executable.workspace_bytes(inputs) }.map_err(|error| provider_error(&error))?;
    let workspace = if needed == 0 { None } else { Some(workspace(plan, step.device, needed)?) };
    let asked = SmallVec::from_elem(0, step.outputs.len().div_ceil(64));
    let mut allocation = Allocation { plan, step, frame, bindings, asked, strings: Vec::new(), error: None };
    let workspace_address = workspace.as_ref().map_or(std::ptr::null_mut(), Workspace::address);
    let stream = allocation.frame.streams[step.device].as_ref().map(std::ptr::from_ref);
    // SAFETY: the stream lives in the frame, which allocating outputs does not touch there.
    let stream = stream.map(|stream| unsafe { &*stream });
    let context = (&raw mut allocation).cast::<c_void>();
    // SAFETY: inputs and workspace are valid until the stream is synchronised (they are kept in flight below), and
    // `allocate` gets the context it expects.
    let result =
        unsafe { step.executable.run(stream, inputs, (workspace_address, needed), context, allocate) };
    let Allocation { asked, strings, error, .. } = allocation;
    if let Some(error) = error {
        return Err(error);
    }
    result.map_err(|error| provider_error(&error))?;
    for (slot, dims, buffer) in strings {
        let tensor = Tensor::from_buffer(DType::String, &dims, buffer)?;
        frame.slots[slot as usize] = Held::Host(Value::Tensor(tensor));
    }
    if asked.iter().map(|word| word.count_ones() as usize).sum::<usize>() != step.outputs.len() {
        return Err(not_computed(plan, step, &asked));
    }
    if let Some(Workspace::Device(memory)) = workspace {
        let bytes = needed;
        frame.in_flight.push(Held::Device(DeviceTensor {
            dtype: DType::U8,
            dims: Dims::new(),
            bytes,
            memory,
            offset: 0,
        }));
    }
    release_constants(step);
    Ok(())
}

/// Lets go of the constants that the executable has packed for itself.
fn release_constants(step: &RunStep) {
    let Ok(mut constants) = step.constants.try_lock() else { return };
    if constants.is_empty() {
        return;
    }
    constants.retain(|(value, _)| !step.executable.released(*value));
    constants.shrink_to_fit();
}

enum Workspace {
    Host(Buffer),
    Device(Arc<host::Memory>),
}

impl Workspace {
    fn address(&self) -> *mut c_void {
        match self {
            Workspace::Host(buffer) => buffer.as_bytes().as_ptr().cast_mut().cast(),
            Workspace::Device(memory) => memory.as_ptr(),
        }
    }
}

fn workspace(plan: &Plan, device: usize, bytes: usize) -> Result<Workspace> {
    if plan.devices[device].cost.shares_host_memory {
        return Ok(Workspace::Host(Buffer::zeroed(bytes)));
    }
    Ok(Workspace::Device(allocate_device(plan, device, bytes)?))
}

/// Memory of a device.
pub(super) fn allocate_device(plan: &Plan, device: usize, bytes: usize) -> Result<Arc<host::Memory>> {
    let memory = plan.devices[device].handle.allocate(ffi::MEMORY_DEVICE, bytes.max(1));
    memory.map(Arc::new).map_err(|error| provider_error(&error))
}

fn describe(tensor: &Tensor) -> ffi::Tensor {
    ffi::Tensor {
        data: tensor.as_ptr().cast_mut().cast(),
        bytes: tensor.byte_len(),
        dims: as_i64(tensor.dims()),
        rank: tensor.rank() as u32,
        dtype: tensor.dtype() as u32,
        memory: ffi::MEMORY_HOST,
        reserved: 0,
    }
}

fn describe_device(tensor: &DeviceTensor) -> ffi::Tensor {
    ffi::Tensor {
        data: tensor.address().cast(),
        bytes: tensor.bytes,
        dims: as_i64(&tensor.dims),
        rank: tensor.dims.len() as u32,
        dtype: tensor.dtype as u32,
        memory: ffi::MEMORY_DEVICE,
        reserved: 0,
    }
}

/// Dimensions in the ABI's type: sizes are below 2^63, so both have one representation.
fn as_i64(dims: &[usize]) -> *const i64 {
    const { assert!(size_of::<usize>() == size_of::<i64>(), "64-bit targets only") };
    dims.as_ptr().cast()
}

fn not_a_tensor(info: &SlotInfo, value: &Value) -> Error {
    Error::invalid_input(format!("'{}' must be a tensor, got {}", info.name, value.description()))
}

/// What the allocation callback works on.
struct Allocation<'a> {
    plan: &'a Plan,
    step: &'a RunStep,
    frame: &'a mut Frame,
    bindings: &'a [Option<Binding>],
    /// A bit for each output: set when its memory was asked for.
    asked: SmallVec<[u64; 2]>,
    /// Strings, which become tensors once they are written and can be checked.
    strings: Vec<(Slot, Dims, Buffer)>,
    error: Option<Error>,
}

/// The `tenon_allocate_output` of the runtime.
unsafe extern "C" fn allocate(
    context: *mut c_void,
    index: u32,
    dtype: u32,
    dims: *const i64,
    rank: u32,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: `run` passes its `Allocation` and is not using it during the call.
    let allocation = unsafe { &mut *context.cast::<Allocation<'_>>() };
    let dims = if rank == 0 {
        &[]
    } else {
        // SAFETY: the provider passes `rank` dimensions, valid for the call.
        unsafe { std::slice::from_raw_parts(dims, rank as usize) }
    };
    match allocation.allocate(index, dtype, dims, bytes) {
        Ok(address) => {
            // SAFETY: `data` is the provider's out argument.
            unsafe { *data = address.cast() };
            std::ptr::null_mut()
        }
        Err(error) => {
            let status = host::status(ffi::CODE_INVALID_ARGUMENT, &error.to_string());
            allocation.error = Some(error);
            status
        }
    }
}

impl Allocation<'_> {
    fn allocate(&mut self, index: u32, dtype: u32, dims: &[i64], bytes: usize) -> Result<*mut u8> {
        let bad =
            |what: String| Error::provider(format!("a provider asked for memory of output {index} {what}"));
        let slot =
            *self.step.outputs.get(index as usize).ok_or_else(|| bad("which does not exist".into()))?;
        let (word, bit) = (index as usize / 64, 1u64 << (index % 64));
        if self.asked[word] & bit != 0 {
            return Err(bad("twice".into()));
        }
        let dtype = i32::try_from(dtype)
            .ok()
            .and_then(DType::from_onnx)
            .ok_or_else(|| bad("of no known type".into()))?;
        if let Some(dim) = dims.iter().find(|dim| **dim < 0) {
            return Err(bad(format!("with the dimension {dim}")));
        }
        self.asked[word] |= bit;
        if let Some(address) = self.given_before(slot, dtype, dims, bytes) {
            return Ok(address);
        }
        let mut sizes = Dims::new();
        dims.iter().for_each(|&dim| sizes.push(dim as usize));
        let info = &self.plan.slots[slot as usize];
        if dtype == DType::String && info.memory == Place::Host {
            // SAFETY: the provider fills every byte before its run is done, which is when the tensor is made.
            let mut buffer = unsafe { Buffer::uninit(bytes) };
            let address = writable(&mut buffer)?;
            self.strings.push((slot, sizes, buffer));
            return Ok(address);
        }
        let (held, address) = match info.memory {
            Place::Host => self.on_host(info, dtype, &sizes, bytes)?,
            Place::Device(device) => match self.frame.fixed.output(slot) {
                Some(given) => given_memory(info, given, dtype, sizes, bytes)?,
                None => self.on_device(info, device, dtype, sizes, bytes)?,
            },
        };
        self.frame.slots[slot as usize] = held;
        Ok(address)
    }

    /// The caller's memory for an output that the run before filled with a tensor of the same type and shape.
    fn given_before(&self, slot: Slot, dtype: DType, dims: &[i64], bytes: usize) -> Option<*mut u8> {
        self.frame.fixed.output(slot)?;
        let Held::Device(held) = &self.frame.slots[slot as usize] else { return None };
        let is_same = held.dtype == dtype
            && held.bytes == bytes
            && held.dims.len() == dims.len()
            && held.dims.iter().zip(dims).all(|(&held, &dim)| held as i64 == dim);
        is_same.then(|| held.address())
    }

    fn on_host(&self, info: &SlotInfo, dtype: DType, dims: &Dims, bytes: usize) -> Result<(Held, *mut u8)> {
        let binding =
            info.output.and_then(|number| Some((number, self.bindings.get(number as usize).copied()??)));
        if let Some((number, binding)) = binding {
            if bytes > binding.capacity {
                return Err(too_small(number as usize, bytes, binding.capacity));
            }
            let data = binding.data;
            return Ok((Held::Host(Value::Tensor(borrowed(dtype, dims, data, bytes)?)), data.as_ptr()));
        }
        if let Some((buffer, offset)) = info.arena.and_then(|arena| self.frame.arena_host(arena, bytes)) {
            let address = buffer.as_bytes().as_ptr().cast_mut().wrapping_add(offset);
            let data = NonNull::new(address).ok_or_else(|| Error::internal("an arena has an address"))?;
            // The frame keeps the arena's block for longer than any slot of this run.
            return Ok((Held::Host(Value::Tensor(borrowed(dtype, dims, data, bytes)?)), address));
        }
        host_memory(dtype, dims, bytes)
    }

    fn on_device(
        &self,
        info: &SlotInfo,
        device: usize,
        dtype: DType,
        dims: Dims,
        bytes: usize,
    ) -> Result<(Held, *mut u8)> {
        let planned = info.arena.and_then(|arena| self.frame.arena_device(arena, device, bytes));
        let (memory, offset) = match planned {
            Some(planned) => planned,
            None => (allocate_device(self.plan, device, bytes)?, 0),
        };
        let tensor = DeviceTensor { dtype, dims, bytes, memory, offset };
        let address = tensor.address();
        Ok((Held::Device(tensor), address))
    }
}

/// The caller's device memory for an output.
fn given_memory(
    info: &SlotInfo,
    given: &DeviceTensor,
    dtype: DType,
    dims: Dims,
    bytes: usize,
) -> Result<(Held, *mut u8)> {
    if bytes > given.bytes {
        return Err(Error::invalid_input(format!(
            "'{}' needs {bytes} bytes, but the device tensor bound to it has {}; bind a larger one",
            info.name, given.bytes
        )));
    }
    let tensor = DeviceTensor { dtype, dims, bytes, ..given.clone() };
    let address = tensor.address();
    Ok((Held::Device(tensor), address))
}

/// A tensor over memory that outlives this run's use of it.
fn borrowed(dtype: DType, dims: &Dims, data: NonNull<u8>, bytes: usize) -> Result<Tensor> {
    // SAFETY: callers pass memory of the frame's arena or of an output binding, valid for `bytes` bytes while the slot is.
    unsafe { Tensor::from_borrowed(dtype, dims, data, bytes) }
}

/// New host memory for a value of a type with a fixed size.
fn host_memory(dtype: DType, dims: &Dims, bytes: usize) -> Result<(Held, *mut u8)> {
    // SAFETY: whoever asked fills every byte before the step is done, which is when the tensor is first read.
    let mut buffer = unsafe { Buffer::uninit(bytes) };
    let address = writable(&mut buffer)?;
    let tensor = Tensor::from_buffer(dtype, dims, buffer)?;
    Ok((Held::Host(Value::Tensor(tensor)), address))
}

fn writable(buffer: &mut Buffer) -> Result<*mut u8> {
    buffer.as_mut_ptr().ok_or_else(|| Error::internal("a new buffer has one owner"))
}

/// The error for an executable that left an output out.
#[cold]
fn not_computed(plan: &Plan, step: &RunStep, asked: &[u64]) -> Error {
    let is_missing = |(index, _): &(usize, &Slot)| asked[index / 64] >> (index % 64) & 1 == 0;
    let (device, first) =
        (&plan.devices[step.device].cost.name, step.outputs.iter().enumerate().find(is_missing));
    let (index, name) = first.map_or((0, ""), |(i, slot)| (i, plan.slots[*slot as usize].name.as_str()));
    Error::provider(format!("{device} did not compute output {index} ('{name}')"))
}

/// Copies a value to the memory of another slot.
pub(super) fn copy(
    plan: &Plan,
    step: CopyStep,
    frame: &mut Frame,
    bindings: &[Option<Binding>],
) -> Result<()> {
    if frame.fixed.skips(step.to) {
        return Ok(());
    }
    let source = frame.slots[step.from as usize].clone();
    let target = &plan.slots[step.to as usize];
    let copied = match (source, target.memory) {
        (Held::Host(Value::Tensor(tensor)), Place::Device(device)) => {
            to_device(plan, frame, target, device, &tensor)?
        }
        (Held::Host(other), _) => return Err(not_a_tensor(target, &other)),
        (Held::Device(tensor), Place::Host) => from_device(plan, frame, step, &tensor, bindings)?,
        (Held::Device(tensor), Place::Device(device)) => peer(plan, frame, step, device, &tensor)?,
        (Held::Nothing, _) => return Err(Error::internal(format!("'{}' was not computed", target.name))),
    };
    frame.slots[step.to as usize] = copied;
    Ok(())
}

fn device_memory(
    plan: &Plan,
    frame: &Frame,
    target: &SlotInfo,
    device: usize,
    bytes: usize,
) -> Result<(Arc<host::Memory>, usize)> {
    match target.arena.and_then(|arena| frame.arena_device(arena, device, bytes)) {
        Some(planned) => Ok(planned),
        None => Ok((allocate_device(plan, device, bytes)?, 0)),
    }
}

fn to_device(
    plan: &Plan,
    frame: &mut Frame,
    target: &SlotInfo,
    device: usize,
    tensor: &Tensor,
) -> Result<Held> {
    let bytes = tensor.byte_len();
    let (memory, offset) = device_memory(plan, frame, target, device, bytes)?;
    let copied = DeviceTensor { dtype: tensor.dtype(), dims: tensor.dims().into(), bytes, memory, offset };
    let handle = &plan.devices[device].handle;
    let copy = host::Copy {
        dst: copied.address().cast(),
        src: tensor.as_ptr().cast(),
        bytes,
        dst_memory: ffi::MEMORY_DEVICE,
        src_memory: ffi::MEMORY_HOST,
        dst_device: Some(handle),
        src_device: None,
    };
    submit(frame.stream(plan, device)?, &copy)?;
    Ok(Held::Device(copied))
}

fn from_device(
    plan: &Plan,
    frame: &mut Frame,
    step: CopyStep,
    tensor: &DeviceTensor,
    bindings: &[Option<Binding>],
) -> Result<Held> {
    let Place::Device(device) = plan.slots[step.from as usize].memory else {
        return Err(Error::internal("a device value sits in a host slot"));
    };
    let target = &plan.slots[step.to as usize];
    let number = target.output.filter(|_| tensor.dtype != DType::String);
    let binding = number.and_then(|number| Some((number, bindings.get(number as usize).copied()??)));
    let (held, address) = match binding {
        Some((number, binding)) if tensor.bytes > binding.capacity => {
            return Err(too_small(number as usize, tensor.bytes, binding.capacity));
        }
        Some((_, binding)) => {
            let host = borrowed(tensor.dtype, &tensor.dims, binding.data, tensor.bytes)?;
            (Held::Host(Value::Tensor(host)), binding.data.as_ptr())
        }
        None => host_memory(tensor.dtype, &tensor.dims, tensor.bytes)?,
    };
    let copy = host::Copy {
        dst: address.cast(),
        src: tensor.address().cast(),
        bytes: tensor.bytes,
        dst_memory: ffi::MEMORY_HOST,
        src_memory: ffi::MEMORY_DEVICE,
        dst_device: None,
        src_device: Some(&plan.devices[device].handle),
    };
    let stream = frame.stream(plan, device)?;
    submit(stream, &copy)?;
    stream.synchronize().map_err(|error| provider_error(&error))?;
    Ok(held)
}

/// Copies between two devices of one provider, on the target's stream: it waits until the source's stream has made the
/// value, and the source's stream waits for the copy before later work may reuse the memory.
fn peer(
    plan: &Plan,
    frame: &mut Frame,
    step: CopyStep,
    device: usize,
    tensor: &DeviceTensor,
) -> Result<Held> {
    let Place::Device(from) = plan.slots[step.from as usize].memory else {
        return Err(Error::internal("a device value sits in a host slot"));
    };
    follow(plan, frame, from, device)?;
    let target = &plan.slots[step.to as usize];
    let (memory, offset) = device_memory(plan, frame, target, device, tensor.bytes)?;
    let copied = DeviceTensor { memory, offset, ..tensor.clone() };
    let copy = host::Copy {
        dst: copied.address().cast(),
        src: tensor.address().cast(),
        bytes: tensor.bytes,
        dst_memory: ffi::MEMORY_DEVICE,
        src_memory: ffi::MEMORY_DEVICE,
        dst_device: Some(&plan.devices[device].handle),
        src_device: Some(&plan.devices[from].handle),
    };
    submit(frame.stream(plan, device)?, &copy)?;
    follow(plan, frame, device, from)?;
    Ok(Held::Device(copied))
}

/// Makes the stream of device `behind` wait for what the stream of device `ahead` was given so far.
fn follow(plan: &Plan, frame: &mut Frame, ahead: usize, behind: usize) -> Result<()> {
    let event = plan.devices[ahead].handle.event().map_err(|error| provider_error(&error))?;
    frame.stream(plan, ahead)?.record(&event).map_err(|error| provider_error(&error))?;
    frame.stream(plan, behind)?.wait(&event).map_err(|error| provider_error(&error))
}

fn submit(stream: &host::Stream, copy: &host::Copy<'_>) -> Result<()> {
    // SAFETY: both sides are valid for the bytes: host memory is kept by its slot or was just allocated, device memory by
    // its slot or the frame's in-flight list, until the stream is synchronised.
    unsafe { stream.copy(std::slice::from_ref(copy)) }.map_err(|error| provider_error(&error))
}
