//! Runs one kernel on given tensors: what the unit tests of the operator families are written with.

use std::cell::Cell;

use tenon_kernels::cpu::Features;
use tenon_kernels::parallel::Serial;

use crate::buffer::Pool;
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Machine, OutputMemory};
use crate::node::{Attribute, Node, ValueInfo};
use crate::ops;
use crate::tensor::{DType, Element, Tensor, byte_len};

/// Output memory of a test: everything in the pool.
struct Anywhere;

impl OutputMemory for Anywhere {
    fn is_external(&self, _index: usize) -> bool {
        false
    }

    fn allocate(&self, _index: usize, _dtype: DType, _dims: &[usize], _bytes: usize) -> Result<*mut u8> {
        Err(OpError::invalid("no output is external"))
    }
}

thread_local! {
    static POOL: Pool = Pool::new();
    static SEED: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) };
}

/// A tensor with these elements.
pub fn tensor<T: Element>(dims: &[usize], elements: &[T]) -> Tensor {
    let mut tensor = blank(T::DTYPE, dims);
    tensor.as_mut_slice().expect("the type is T's").copy_from_slice(elements);
    tensor
}

/// An f32 tensor of values drawn evenly from `-1 .. 1`, others at each call.
pub fn random(dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| random_f32()).collect();
    tensor(dims, &values)
}

/// A value drawn evenly from `-1 .. 1`.
pub fn random_f32() -> f32 {
    SEED.with(|seed| {
        let mut x = seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        seed.set(x);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// A string tensor.
pub fn strings(dims: &[usize], elements: &[&str]) -> Tensor {
    let mut bytes: Vec<u8> = Vec::new();
    let mut end = 0u64;
    bytes.extend(end.to_le_bytes());
    for element in elements {
        end += element.len() as u64;
        bytes.extend(end.to_le_bytes());
    }
    elements.iter().for_each(|element| bytes.extend(element.as_bytes()));
    let block = POOL.with(|pool| pool.allocate(bytes.len()));
    let mut tensor = Tensor::pooled(DType::String, dims.into(), bytes.len(), block);
    tensor.as_bytes_mut().copy_from_slice(&bytes);
    tensor
}

/// A zero-filled tensor.
pub fn blank(dtype: DType, dims: &[usize]) -> Tensor {
    let bytes = byte_len(dtype, dims).expect("tests use small shapes");
    let mut tensor = Tensor::pooled(dtype, dims.into(), bytes, POOL.with(|pool| pool.allocate(bytes)));
    tensor.as_bytes_mut().fill(0);
    tensor
}

/// A node of `op_type` at `version` with `outputs` outputs, all wanted; inputs are described when it is run.
pub fn node(
    domain: &str,
    op_type: &str,
    version: u32,
    attributes: &[(&str, Attribute)],
    outputs: usize,
) -> Node {
    Node {
        name: "test".into(),
        domain: domain.into(),
        op_type: op_type.into(),
        version,
        inputs: Vec::new(),
        outputs: vec![Some(ValueInfo::default()); outputs],
        attributes: attributes.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
    }
}

/// Builds and runs the kernel of `node`. `constant` says which inputs the builder and `pack` see as constants.
pub fn run_with(node: &Node, inputs: &[Option<Tensor>], constant: &[bool]) -> Result<Vec<Tensor>> {
    let is_constant = |i: usize| constant.get(i).copied().unwrap_or(false);
    let describe = |(i, input): (usize, &Option<Tensor>)| {
        input.as_ref().map(|tensor| ValueInfo {
            name: format!("input{i}"),
            dtype: tensor.dtype(),
            dims: Some(tensor.dims().iter().copied().map(Some).collect()),
            constant: is_constant(i).then(|| tensor.clone()),
        })
    };
    let node = Node { inputs: inputs.iter().enumerate().map(describe).collect(), ..node.clone() };
    let kernel = ops::build(&node)?;
    let machine = Machine { parallel: &Serial, features: Features::detect() };
    let constants: Vec<Option<Tensor>> = inputs
        .iter()
        .enumerate()
        .map(|(i, input)| if is_constant(i) { input.clone() } else { None })
        .collect();
    let released = kernel.pack(&Constants { inputs: &constants, machine: &machine })?;
    let mut present: Vec<Option<Tensor>> = inputs
        .iter()
        .enumerate()
        .map(|(i, input)| if released.contains(i) { None } else { input.clone() })
        .collect();
    let pool = POOL.with(Pool::clone);
    let wanted =
        node.outputs.iter().enumerate().filter(|(_, o)| o.is_some()).fold(0, |set, (i, _)| set | 1 << i);
    let mut outputs = Vec::new();
    let mut cx = Context {
        inputs: &mut present,
        outputs: &mut outputs,
        wanted,
        pool: &pool,
        machine: &machine,
        memory: &Anywhere,
    };
    kernel.run(&mut cx)?;
    Ok(outputs.into_iter().flatten().collect())
}

/// Builds and runs the kernel of `node` with no constant inputs.
pub fn run(node: &Node, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    run_with(node, inputs, &[])
}
