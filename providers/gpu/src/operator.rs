//! What an operator is: lowered once from a node, then expanded into work for each set of input shapes.

use std::cell::Cell;

use tenon_kernels::KernelError;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::{Chip, Plan};
use tenon_plugin_api::{DType, Error, NodeView, Result, ValueView};

use crate::map::Map;
use crate::schedule::{Builder, Target, ValueId};

/// Why a node is not run: a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decline(pub String);

impl Decline {
    pub fn new(reason: impl Into<String>) -> Decline {
        Decline(reason.into())
    }
}

impl From<Error> for Decline {
    fn from(error: Error) -> Decline {
        Decline(error.message)
    }
}

/// The result of lowering a node.
pub(crate) type Lowered = std::result::Result<Box<dyn Operator>, Decline>;

/// An operator with its attributes and constant parameters resolved.
pub(crate) trait Operator: Send + Sync {
    /// Says what a run with inputs of these shapes does, and the shapes of the outputs.
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()>;

    /// Refuses devices whose kernels cannot do it for any shape.
    fn supports(&self, _target: Target<'_>) -> Result<()> {
        Ok(())
    }

    /// Constants of its own, made from the node's when the graph is compiled for `arch`; [`Expansion::derived`] finds them.
    fn derived<'a>(&self, _node: NodeView<'a>, _arch: &'a str) -> Vec<Derived<'a>> {
        Vec::new()
    }
}

/// A constant that an operator makes from others when the graph is compiled.
pub(crate) struct Derived<'a> {
    pub bytes: usize,
    /// Writes all bytes.
    pub fill: Box<dyn FnOnce(&mut [u8]) -> Result<()> + 'a>,
}

/// A node on its way to an [`Operator`].
pub(crate) struct Lowering<'a> {
    pub node: NodeView<'a>,
    /// Inputs whose contents were read here: they need not be on the device.
    host_inputs: Cell<u64>,
}

impl<'a> Lowering<'a> {
    pub fn new(node: NodeView<'a>) -> Lowering<'a> {
        Lowering { node, host_inputs: Cell::new(0) }
    }

    /// True when input `index` was read as a constant.
    pub fn is_host_input(&self, index: usize) -> bool {
        index < 64 && self.host_inputs.get() >> index & 1 == 1
    }

    /// Input `index`, a constant, is not needed on the device.
    pub fn leave_on_host(&self, index: usize) {
        self.read_on_host(index);
    }

    fn read_on_host(&self, index: usize) {
        if index < 64 {
            self.host_inputs.set(self.host_inputs.get() | 1 << index);
        }
    }

    pub fn has_input(&self, index: usize) -> bool {
        self.node.input(index).is_some()
    }

    pub fn has_output(&self, index: usize) -> bool {
        self.node.output(index).is_some()
    }

    pub fn input(&self, index: usize) -> std::result::Result<ValueView<'a>, Decline> {
        self.node.input(index).ok_or_else(|| Decline(format!("input {index} is missing")))
    }

    /// The element type of input `index`.
    pub fn scalar(&self, index: usize) -> std::result::Result<Scalar, Decline> {
        scalar_of(self.input(index)?.dtype())
    }

    /// The element type of output `index`; that of input 0 when nobody asks for the output.
    pub fn output_scalar(&self, index: usize) -> std::result::Result<Scalar, Decline> {
        match self.node.output(index) {
            Some(value) => scalar_of(value.dtype()),
            None => self.scalar(0),
        }
    }

    pub fn rank(&self, index: usize) -> std::result::Result<usize, Decline> {
        let dims = self.input(index)?.dims();
        Ok(dims.ok_or_else(|| Decline(format!("the rank of input {index} is not known")))?.len())
    }

    /// The integers of constant input `index`; `None` when it is omitted.
    pub fn optional_ints(&self, index: usize) -> std::result::Result<Option<Vec<i64>>, Decline> {
        if !self.has_input(index) {
            return Ok(None);
        }
        self.ints(index).map(Some)
    }

    /// The integers of constant input `index`.
    pub fn ints(&self, index: usize) -> std::result::Result<Vec<i64>, Decline> {
        let constant = self.input(index)?.constant().and_then(|tensor| tensor.to_i64s());
        let ints = constant.ok_or_else(|| Decline(format!("input {index} is not a constant of integers")))?;
        self.read_on_host(index);
        Ok(ints)
    }

    /// The numbers of constant input `index`, at most `limit` of them.
    pub fn numbers(&self, index: usize, limit: usize) -> Option<Vec<f64>> {
        let tensor = self.node.input(index)?.constant()?;
        if tensor.element_count()? > limit {
            return None;
        }
        let numbers = numbers(tensor.dtype(), tensor.host_bytes()?)?;
        self.read_on_host(index);
        Some(numbers)
    }

    /// How many dimensions of output 0 are neither numbers nor named by a dimension of input `index`.
    pub fn unknown_dims(&self, index: usize) -> std::result::Result<usize, Decline> {
        let output = self.node.output(0).ok_or_else(|| Decline::new("nobody reads the result"))?;
        let input = self.input(index)?;
        let names: Vec<&str> = (0..self.rank(index)?).filter_map(|axis| input.dim_symbol(axis)).collect();
        let dims = output.dims().ok_or_else(|| Decline::new("the rank of the result is not known"))?;
        let is_unknown = |&(axis, &dim): &(usize, &i64)| {
            dim < 0 && output.dim_symbol(axis).is_none_or(|name| !names.contains(&name))
        };
        Ok(dims.iter().enumerate().filter(is_unknown).count())
    }

    /// Declines unless the element type of input `index` is one of the floats computed in f32, or f64.
    pub fn float(&self, index: usize) -> std::result::Result<Scalar, Decline> {
        let scalar = self.scalar(index)?;
        if scalar.is_float() || scalar == Scalar::F64 {
            return Ok(scalar);
        }
        Err(Decline(format!("there is no GPU kernel for elements of type {}", scalar.suffix())))
    }

    /// Declines unless the element type of input `index` is f32, f16 or bf16.
    pub fn half_or_single(&self, index: usize) -> std::result::Result<Scalar, Decline> {
        match self.scalar(index)? {
            scalar if scalar.is_float() => Ok(scalar),
            scalar => {
                Err(Decline(format!("there is no GPU kernel for elements of type {}", scalar.suffix())))
            }
        }
    }
}

/// The device's element type for `dtype`.
pub(crate) fn scalar_of(dtype: DType) -> std::result::Result<Scalar, Decline> {
    Scalar::from_onnx(dtype as u32)
        .ok_or_else(|| Decline(format!("elements of type {dtype} have no GPU kernels")))
}

/// Little-endian elements as numbers.
fn numbers(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    macro_rules! read {
        ($ty:ty) => {
            bytes.as_chunks().0.iter().map(|&b| <$ty>::from_le_bytes(b) as f64).collect()
        };
    }
    Some(match dtype {
        DType::F32 => read!(f32),
        DType::F64 => read!(f64),
        DType::I64 => read!(i64),
        DType::I32 => read!(i32),
        DType::U8 | DType::Bool => bytes.iter().map(|&b| f64::from(b)).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f64()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
        _ => return None,
    })
}

/// An error of a planner, for a node whose shapes it refuses.
pub(crate) fn refused(error: KernelError) -> Error {
    Error::unsupported(error.to_string())
}

/// One node while it is expanded: the shapes of its inputs, and where its work goes.
pub(crate) struct Expansion<'a, 'b> {
    pub builder: &'a mut Builder<'b>,
    pub inputs: &'a [Option<ValueId>],
    pub outputs: &'a [Option<ValueId>],
    /// Where the operator's own constants are; empty while costs are estimated.
    pub derived: &'a [ValueId],
    /// The node's position in the graph, for the timeline.
    pub node: u32,
}

impl<'b> Expansion<'_, 'b> {
    pub fn chip(&self) -> &'b Chip {
        self.builder.target.chip
    }

    /// Which kernels there are.
    pub fn has(&self) -> &'b dyn Fn(&str) -> bool {
        self.builder.target.has
    }

    pub fn input(&self, index: usize) -> Result<ValueId> {
        let value = self.inputs.get(index).copied().flatten();
        value.ok_or_else(|| Error::invalid(format!("input {index} is missing")))
    }

    /// The operator's own constant `index`, which has `bytes`.
    pub fn derived(&mut self, index: usize, bytes: usize) -> Result<ValueId> {
        match self.derived.get(index) {
            Some(&value) => Ok(value),
            None => self.scratch(Scalar::U8, &[bytes]),
        }
    }

    pub fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The dimensions of input `index`.
    pub fn dims(&self, index: usize) -> Result<Vec<usize>> {
        Ok(self.builder.dims(self.input(index)?).to_vec())
    }

    pub fn scalar(&self, index: usize) -> Result<Scalar> {
        Ok(self.builder.scalar(self.input(index)?))
    }

    pub fn has_output(&self, index: usize) -> bool {
        self.outputs.get(index).is_some_and(Option::is_some)
    }

    /// Where output `index` is computed; scratch memory when nobody asks for it.
    pub fn output(&mut self, index: usize, scalar: Scalar, dims: &[usize]) -> Result<ValueId> {
        match self.outputs.get(index).copied().flatten() {
            Some(value) => {
                self.builder.define(value, scalar, dims)?;
                Ok(value)
            }
            None => self.scratch(scalar, dims),
        }
    }

    /// Memory for this node alone.
    pub fn scratch(&mut self, scalar: Scalar, dims: &[usize]) -> Result<ValueId> {
        self.builder.scratch(scalar, dims)
    }

    /// Adds the launches of a plan; `operands` are what it numbers.
    pub fn run(
        &mut self,
        plan: std::result::Result<Plan, KernelError>,
        operands: &[Option<ValueId>],
    ) -> Result<()> {
        self.builder.run(self.node, plan.map_err(refused)?, operands);
        Ok(())
    }

    /// Adds an element-wise program, which may be fused with its neighbours.
    pub fn map(&mut self, map: Map) {
        self.builder.map(self.node, map);
    }

    /// Output `index` has the bytes of `value` from `offset_bytes` on, and its own dimensions.
    pub fn view(&mut self, index: usize, value: ValueId, offset_bytes: u64, dims: &[usize]) -> Result<()> {
        if !self.has_output(index) {
            return Ok(());
        }
        let output = self.output(index, self.builder.scalar(value), dims)?;
        self.builder.view(self.node, output, value, offset_bytes)
    }

    /// The declared dimensions of output `index`, with symbols replaced by what is known of them.
    pub fn declared_output(&self, index: usize) -> Option<Vec<Option<usize>>> {
        let value = self.outputs.get(index).copied().flatten()?;
        self.builder.declared(value)
    }
}
