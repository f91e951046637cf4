//! One node of a claimed subgraph as kernel builders see it: operator, version, attributes and what is known of its inputs.

use std::collections::BTreeMap;

use crate::error::{OpError, Result};
use crate::tensor::{DType, Tensor};

/// A node to build a kernel for.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    /// `""` is `ai.onnx`.
    pub domain: String,
    pub op_type: String,
    /// The opset version that the model imports for the node's domain.
    pub version: u32,
    /// `None` is an omitted optional input.
    pub inputs: Vec<Option<ValueInfo>>,
    /// `None` is an output nobody asked for.
    pub outputs: Vec<Option<ValueInfo>>,
    pub attributes: BTreeMap<String, Attribute>,
}

/// What is known about a value before the run.
#[derive(Clone, Debug, Default)]
pub struct ValueInfo {
    pub name: String,
    /// `Undefined` when not known.
    pub dtype: DType,
    /// `None` when the rank is not known; `None` inside when a dimension is not.
    pub dims: Option<Vec<Option<usize>>>,
    /// The value itself when it is a constant. Small constants (axes, shapes, scalars) may be read while building;
    /// reading large ones is left to [`crate::kernel::Kernel::pack`] so that opening a model touches no weights.
    pub constant: Option<Tensor>,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    Tensor(Tensor),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
}

impl Node {
    /// True when input `index` is present.
    pub fn has_input(&self, index: usize) -> bool {
        matches!(self.inputs.get(index), Some(Some(_)))
    }

    /// True when output `index` is wanted.
    pub fn has_output(&self, index: usize) -> bool {
        matches!(self.outputs.get(index), Some(Some(_)))
    }

    /// The element type of input `index`; `Undefined` when absent or not known.
    pub fn input_dtype(&self, index: usize) -> DType {
        self.inputs.get(index).and_then(Option::as_ref).map_or(DType::Undefined, |value| value.dtype)
    }

    /// The element type of output `index`; `Undefined` when absent or not known.
    pub fn output_dtype(&self, index: usize) -> DType {
        self.outputs.get(index).and_then(Option::as_ref).map_or(DType::Undefined, |value| value.dtype)
    }

    /// The known dimensions of input `index`.
    pub fn input_dims(&self, index: usize) -> Option<&[Option<usize>]> {
        self.inputs.get(index)?.as_ref()?.dims.as_deref()
    }

    /// The rank of input `index`, where known.
    pub fn input_rank(&self, index: usize) -> Option<usize> {
        self.input_dims(index).map(<[_]>::len)
    }

    /// The constant behind input `index`.
    pub fn constant(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index)?.as_ref()?.constant.as_ref()
    }

    /// An integer attribute, or `default` when absent. Errors on another kind.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(self.wrong_kind(name, "an int")),
        }
    }

    /// An integer attribute read as a flag.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// An integer attribute that may be absent.
    pub fn optional_int(&self, name: &str) -> Result<Option<i64>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong_kind(name, "an int")),
        }
    }

    /// An integer attribute that must be there.
    pub fn required_int(&self, name: &str) -> Result<i64> {
        self.optional_int(name)?.ok_or_else(|| OpError::invalid(format!("attribute '{name}' is missing")))
    }

    /// A float attribute, or `default` when absent.
    pub fn float(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    /// A float attribute that may be absent.
    pub fn optional_float(&self, name: &str) -> Result<Option<f32>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong_kind(name, "a float")),
        }
    }

    /// A string attribute, or `default` when absent.
    pub fn string<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::String(value)) => Ok(value),
            Some(_) => Err(self.wrong_kind(name, "a string")),
        }
    }

    /// A list of integers that may be absent.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(self.wrong_kind(name, "a list of ints")),
        }
    }

    /// A list of floats that may be absent.
    pub fn floats(&self, name: &str) -> Result<Option<&[f32]>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => Ok(Some(values)),
            Some(_) => Err(self.wrong_kind(name, "a list of floats")),
        }
    }

    /// A list of strings that may be absent.
    pub fn strings(&self, name: &str) -> Result<Option<&[String]>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Strings(values)) => Ok(Some(values)),
            Some(_) => Err(self.wrong_kind(name, "a list of strings")),
        }
    }

    /// A tensor attribute that may be absent.
    pub fn tensor(&self, name: &str) -> Result<Option<&Tensor>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Tensor(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong_kind(name, "a tensor")),
        }
    }

    fn wrong_kind(&self, name: &str, expected: &str) -> OpError {
        OpError::invalid(format!(
            "attribute '{name}' must be {expected}, got {:?}",
            self.attributes.get(name)
        ))
    }
}
