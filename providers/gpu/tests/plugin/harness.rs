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
}

/// What the allocation callback fills.
struct Allocation<'a> {
    device: &'a Arc<host::Device>,
    outputs: &'a mut Vec<Option<host::Memory>>,
    dims: Vec<Vec<i64>>,
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
        }
    }

    /// Runs with f32 inputs; gives f32 outputs.
    pub fn run(&mut self, inputs: &[Array]) -> Vec<Array> {
        let copies: Vec<Vec<u8>> = inputs.iter().map(Array::bytes).collect();
        self.inputs
            .resize_with(inputs.len(), || self.device.allocate(ffi::MEMORY_DEVICE, 1 << 20).expect("memory"));
        let mut tensors = Vec::new();
        for ((array, bytes), memory) in inputs.iter().zip(&copies).zip(&self.inputs) {
            upload(&self.stream, memory.as_ptr(), bytes);
            tensors.push(ffi::Tensor {
                data: memory.as_ptr(),
                bytes: bytes.len(),
                dims: array.dims.as_ptr(),
                rank: array.dims.len() as u32,
                dtype: DType::F32 as u32,
                memory: ffi::MEMORY_DEVICE,
                reserved: 0,
            });
        }
        let count = self.outputs.len();
        let mut allocation =
            Allocation { device: &self.device, outputs: &mut self.outputs, dims: vec![Vec::new(); count] };
        let context = (&raw mut allocation).cast::<c_void>();
        // SAFETY: inputs live until the stream is synchronised, and `allocate` gets the context it expects.
        let ran = unsafe {
            self.executable.run(Some(&self.stream), &tensors, (std::ptr::null_mut(), 0), context, allocate)
        };
        ran.expect("it runs");
        let dims = allocation.dims;
        let mut results = Vec::new();
        for (memory, dims) in self.outputs.iter().flatten().zip(dims) {
            let bytes = dims.iter().product::<i64>() as usize * 4;
            let data = download(&self.stream, memory.as_ptr(), bytes);
            let values = data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            results.push(Array { dims, values });
        }
        results
    }
}

/// Gives an output memory that later runs get again.
unsafe extern "C" fn allocate(
    context: *mut c_void,
    index: u32,
    _dtype: u32,
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
