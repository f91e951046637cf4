//! What a kernel is: built once from a node, given its constants once, then run many times.

use tenon_kernels::cpu::{Context as Cpu, Features};
use tenon_kernels::parallel::Parallel;

use crate::buffer::Pool;
use crate::error::{OpError, Result};
use crate::tensor::{DType, Dims, Tensor, byte_len};

/// An operator with its attributes resolved. `run` may be called from several threads at once.
pub trait Kernel: Send + Sync {
    /// Sees the constant inputs once before the first run, to pack weights into the layout `run` wants (kept in
    /// a [`Prepacked`](crate::prepacked::Prepacked)). Returns which inputs `run` will never read again; the provider may then let go of them.
    fn pack(&self, _constants: &Constants<'_>) -> Result<Released> {
        Ok(Released::NONE)
    }

    /// Computes the outputs: allocate each with [`Context::output`] (or take an input over with [`Context::reuse`]),
    /// fill it, hand it in with [`Context::set`].
    fn run(&self, cx: &mut Context<'_>) -> Result<()>;
}

/// A set of input positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released(u64);

impl Released {
    pub const NONE: Released = Released(0);

    /// The set that holds `index` (under 64) beside what it held.
    pub const fn with(self, index: usize) -> Released {
        Released(self.0 | 1 << index)
    }

    pub const fn contains(self, index: usize) -> bool {
        index < 64 && self.0 >> index & 1 == 1
    }
}

/// The constant inputs of a node and the means to pack them.
pub struct Constants<'a> {
    pub(crate) inputs: &'a [Option<Tensor>],
    pub(crate) machine: &'a Machine<'a>,
}

impl<'a> Constants<'a> {
    /// Input `index` when it is a constant.
    pub fn input(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index)?.as_ref()
    }

    pub fn parallel(&self) -> &'a dyn Parallel {
        self.machine.parallel
    }

    pub fn features(&self) -> Features {
        self.machine.features
    }

    /// Instruction sets and threads, as kernels take them.
    pub fn cpu(&self) -> Cpu<'a> {
        Cpu::new(self.machine.features, self.machine.parallel)
    }
}

/// What kernels compute with: threads and instruction sets.
pub struct Machine<'a> {
    pub parallel: &'a dyn Parallel,
    pub features: Features,
}

/// Where the tensor of a node's output is to live.
pub(crate) trait OutputMemory {
    /// True when output `index` must end up in memory the caller provides.
    fn is_external(&self, index: usize) -> bool;

    /// The caller's memory for output `index`.
    fn allocate(&self, index: usize, dtype: DType, dims: &[usize], bytes: usize) -> Result<*mut u8>;
}

/// One run of one kernel: its inputs, its outputs, memory and threads.
pub struct Context<'a> {
    pub(crate) inputs: &'a mut [Option<Tensor>],
    pub(crate) outputs: &'a mut Vec<Option<Tensor>>,
    pub(crate) wanted: u64,
    pub(crate) pool: &'a Pool,
    pub(crate) machine: &'a Machine<'a>,
    pub(crate) memory: &'a dyn OutputMemory,
}

impl<'a> Context<'a> {
    /// Number of input slots, omitted ones counted.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Input `index`. Errors when it is omitted or was taken by [`Context::reuse`].
    pub fn input(&self, index: usize) -> Result<&Tensor> {
        self.optional(index).ok_or_else(|| OpError::invalid(format!("input {index} is missing")))
    }

    /// Input `index`, or `None` when it is omitted.
    pub fn optional(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index)?.as_ref()
    }

    /// True when the model uses output `index`.
    pub fn wants(&self, index: usize) -> bool {
        index < 64 && self.wanted >> index & 1 == 1
    }

    /// A new tensor for output `index`. Its content is unspecified: write every element. The handle does not borrow
    /// the context, so inputs can be read while it is written.
    pub fn output(&self, index: usize, dtype: DType, dims: &[usize]) -> Result<Tensor> {
        self.output_of_bytes(index, dtype, dims, byte_len(dtype, dims)?)
    }

    /// Like [`Context::output`] for strings, whose size in bytes the shape does not tell.
    pub fn output_of_bytes(
        &self,
        index: usize,
        dtype: DType,
        dims: &[usize],
        bytes: usize,
    ) -> Result<Tensor> {
        if self.memory.is_external(index) {
            let data = self.memory.allocate(index, dtype, dims, bytes)?;
            // SAFETY: the caller promises that memory for this output alone, until the run ends.
            return Ok(unsafe { Tensor::output(dtype, dims.into(), data, bytes) });
        }
        Ok(Tensor::pooled(dtype, dims.into(), bytes, self.pool.allocate(bytes)))
    }

    /// A zero-filled tensor for output `index`.
    pub fn zeroed_output(&self, index: usize, dtype: DType, dims: &[usize]) -> Result<Tensor> {
        let mut tensor = self.output(index, dtype, dims)?;
        tensor.as_bytes_mut().fill(0);
        Ok(tensor)
    }

    /// A tensor for the kernel's own use during this run.
    pub fn scratch(&self, dtype: DType, dims: &[usize]) -> Result<Tensor> {
        let bytes = byte_len(dtype, dims)?;
        Ok(Tensor::pooled(dtype, dims.into(), bytes, self.pool.allocate(bytes)))
    }

    /// True when [`Context::reuse`] would take input `input` over.
    pub fn is_reusable(&self, input: usize, output: usize) -> bool {
        !self.memory.is_external(output) && self.optional(input).is_some_and(Tensor::is_reusable)
    }

    /// Takes input `input` over as the memory of output `output` when nobody needs it afterwards, so that a kernel can
    /// compute in place; the tensor keeps the input's type and shape. `None`: allocate instead.
    pub fn reuse(&mut self, input: usize, output: usize) -> Option<Tensor> {
        if self.is_reusable(input, output) { self.inputs[input].take() } else { None }
    }

    /// Hands input `input` on as an output with the same bytes, without a copy where possible (Reshape, Identity).
    pub fn forward(&mut self, input: usize, output: usize, dims: &[usize]) -> Result<()> {
        let tensor = self.input(input)?.clone().reshaped(dims)?;
        self.set(output, tensor);
        Ok(())
    }

    /// Hands in output `index`.
    pub fn set(&mut self, index: usize, tensor: Tensor) {
        if self.outputs.len() <= index {
            self.outputs.resize(index + 1, None);
        }
        self.outputs[index] = Some(tensor);
    }

    pub fn parallel(&self) -> &'a dyn Parallel {
        self.machine.parallel
    }

    pub fn features(&self) -> Features {
        self.machine.features
    }

    /// Instruction sets and threads, as kernels take them.
    pub fn cpu(&self) -> Cpu<'a> {
        Cpu::new(self.machine.features, self.machine.parallel)
    }

    /// Shape of the broadcast of two inputs, by ONNX's multidirectional rule.
    pub fn broadcast(&self, a: usize, b: usize) -> Result<Dims> {
        crate::shape::broadcast(self.input(a)?.dims(), self.input(b)?.dims())
    }
}
