//! Opens the host-compiled provider as a host does, and runs graphs on it.

use std::ffi::c_void;
use std::sync::Arc;

use tenon_plugin_api::host::{self, CompileArgs, Copy};
use tenon_plugin_api::{DType, ffi};

use crate::host::HostProvider;

tenon_plugin_api::export_provider!(HostProvider, no_symbol);

static HOST: ffi::HostApi = ffi::HostApi {
    struct_size: size_of::<ffi::HostApi>(),
    abi_major: ffi::ABI_MAJOR,
    abi_minor: ffi::ABI_MINOR,
    name: ffi::Str::new("tests"),
    version: ffi::Str::new("1"),
    log_enabled: None,
    log: None,
};

/// What a host tells its providers.
pub fn host_api() -> &'static ffi::HostApi {
    &HOST
}

/// An opened device and its provider.
pub fn open(options: &[(&str, &str)]) -> Arc<host::Device> {
    // SAFETY: the table is the provider's own.
    let provider = unsafe { host::Provider::new(table()) }.expect("the table is whole");
    provider.initialize(&HOST).expect("it starts");
    provider.open(0, options).expect("the device opens")
}

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub dims: Vec<i64>,
    pub values: Vec<f32>,
}

impl Array {
    pub fn new(dims: &[i64], value: impl FnMut(usize) -> f32) -> Array {
        let count = dims.iter().product::<i64>() as usize;
        Array { dims: dims.to_vec(), values: (0..count).map(value).collect() }
    }

    pub fn random(dims: &[i64], random: &mut fastrand::Rng) -> Array {
        Array::new(dims, |_| random.f32() * 2.0 - 1.0)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// A compiled graph with device memory for its inputs, so that runs come with the same addresses.
pub struct Session {
    pub device: Arc<host::Device>,
    pub stream: host::Stream,
    executable: host::Executable,
    inputs: Vec<host::Memory>,
    outputs: Vec<Option<host::Memory>>,
    /// Inputs whose memory outputs are given, by number of the output.
    pub in_place: Vec<Option<usize>>,
}

/// A tensor of any type on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub dtype: DType,
    pub dims: Vec<i64>,
    pub bytes: Vec<u8>,
}

impl Raw {
    pub fn i32s(dims: &[i64], values: &[i32]) -> Raw {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Raw { dtype: DType::I32, dims: dims.to_vec(), bytes }
    }

    pub fn f32s(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    pub fn as_i64s(&self) -> Vec<i64> {
        self.bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()
    }
}

impl From<&Array> for Raw {
    fn from(array: &Array) -> Raw {
        Raw { dtype: DType::F32, dims: array.dims.clone(), bytes: array.bytes() }
    }
}

/// What the allocation callback fills.
struct Allocation<'a> {
    device: &'a Arc<host::Device>,
    outputs: &'a mut Vec<Option<host::Memory>>,
    /// Memory of inputs that outputs are given instead.
    shared: Vec<Option<*mut c_void>>,
    dims: Vec<Vec<i64>>,
    dtypes: Vec<u32>,
}

impl Session {
    /// Compiles `graph`, every node of which must be claimed.
    pub fn new(device: &Arc<host::Device>, graph: &host::OwnedGraph, outputs: usize) -> Session {
        let claims = device.claim(graph.graph(), "").expect("claims are valid");
        assert!(claims.declines.is_empty(), "{:?}", claims.declines);
        let executable = device.compile(&CompileArgs::new(graph.graph())).expect("it compiles");
        Session {
            device: device.clone(),
            stream: device.stream().expect("a stream"),
            executable,
            inputs: Vec::new(),
            outputs: (0..outputs).map(|_| None).collect(),
            in_place: vec![None; outputs],
        }
    }

    /// Runs with f32 inputs; gives f32 outputs.
    pub fn run(&mut self, inputs: &[Array]) -> Vec<Array> {
        let raw: Vec<Raw> = inputs.iter().map(Raw::from).collect();
        let outputs = self.run_raw(&raw).into_iter();
        outputs.map(|output| Array { values: output.f32s(), dims: output.dims }).collect()
    }

    /// Runs with inputs and outputs of any type.
    pub fn run_raw(&mut self, inputs: &[Raw]) -> Vec<Raw> {
        self.inputs
            .resize_with(inputs.len(), || self.device.allocate(ffi::MEMORY_DEVICE, 1 << 20).expect("memory"));
        let mut tensors = Vec::new();
        for (input, memory) in inputs.iter().zip(&self.inputs) {
            upload(&self.stream, memory.as_ptr(), &input.bytes);
            tensors.push(ffi::Tensor {
                data: memory.as_ptr(),
                bytes: input.bytes.len(),
                dims: input.dims.as_ptr(),
                rank: input.dims.len() as u32,
                dtype: input.dtype as u32,
                memory: ffi::MEMORY_DEVICE,
                reserved: 0,
            });
        }
        let count = self.outputs.len();
        let shared =
            self.in_place.iter().map(|input| input.map(|input| self.inputs[input].as_ptr())).collect();
        let mut allocation = Allocation {
            device: &self.device,
            outputs: &mut self.outputs,
            shared,
            dims: vec![Vec::new(); count],
            dtypes: vec![0; count],
        };
        let context = (&raw mut allocation).cast::<c_void>();
        // SAFETY: inputs live until the stream is synchronised, and `allocate` gets the context it expects.
        let ran = unsafe {
            self.executable.run(Some(&self.stream), &tensors, (std::ptr::null_mut(), 0), context, allocate)
        };
        ran.expect("it runs");
        let Allocation { dims, dtypes, shared, .. } = allocation;
        let mut results = Vec::new();
        for (number, (dims, dtype)) in dims.into_iter().zip(dtypes).enumerate() {
            let dtype = DType::from_onnx(dtype as i32).expect("a known type");
            let bytes = dtype.byte_len(dims.iter().product::<i64>() as usize).expect("a size in bytes");
            let own = self.outputs[number].as_ref().map(host::Memory::as_ptr);
            let memory = shared[number].or(own).expect("every output was asked for");
            results.push(Raw { dtype, dims, bytes: download(&self.stream, memory, bytes) });
        }
        results
    }
}

/// Gives an output memory that later runs get again.
unsafe extern "C" fn allocate(
    context: *mut c_void,
    index: u32,
    dtype: u32,
    dims: *const i64,
    rank: u32,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: `run` passes its allocation and does not use it meanwhile; the provider passes valid dims.
    let (allocation, dims) = unsafe {
        let dims = if rank == 0 { &[] } else { std::slice::from_raw_parts(dims, rank as usize) };
        (&mut *context.cast::<Allocation<'_>>(), dims)
    };
    allocation.dims[index as usize] = dims.to_vec();
    allocation.dtypes[index as usize] = dtype;
    if let Some(memory) = allocation.shared[index as usize] {
        // SAFETY: `data` is the provider's out argument.
        unsafe { *data = memory };
        return std::ptr::null_mut();
    }
    let slot = &mut allocation.outputs[index as usize];
    if slot.as_ref().is_none_or(|memory| memory.len() < bytes) {
        *slot = Some(allocation.device.allocate(ffi::MEMORY_DEVICE, bytes.max(1)).expect("memory"));
    }
    // SAFETY: `data` is the provider's out argument.
    unsafe { *data = slot.as_ref().expect("it was just filled").as_ptr() };
    std::ptr::null_mut()
}

/// Copies bytes to the device and waits.
pub fn upload(stream: &host::Stream, to: *mut c_void, bytes: &[u8]) {
    let copy = Copy {
        dst: to,
        src: bytes.as_ptr().cast(),
        bytes: bytes.len(),
        dst_memory: ffi::MEMORY_DEVICE,
        src_memory: ffi::MEMORY_HOST,
        dst_device: None,
        src_device: None,
    };
    // SAFETY: both sides hold the bytes until the stream is synchronised.
    unsafe { stream.copy(&[copy]) }.expect("the copy is queued");
    stream.synchronize().expect("the copy is done");
}

/// Copies bytes from the device.
pub fn download(stream: &host::Stream, from: *const c_void, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    let copy = Copy {
        dst: data.as_mut_ptr().cast(),
        src: from,
        bytes,
        dst_memory: ffi::MEMORY_HOST,
        src_memory: ffi::MEMORY_DEVICE,
        dst_device: None,
        src_device: None,
    };
    // SAFETY: both sides hold the bytes until the stream is synchronised.
    unsafe { stream.copy(&[copy]) }.expect("the copy is queued");
    stream.synchronize().expect("the copy is done");
    data
}
