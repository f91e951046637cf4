//! Checks the values a caller gives against what the model declares.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, TensorType, TypeInfo};
use crate::session::ValueSpec;
use crate::tensor::Value;

/// Checks the inputs of one run, in order. Equal symbols must have equal sizes.
#[derive(Default)]
pub(super) struct Checker<'a> {
    symbols: SmallVec<[(&'a Arc<str>, usize); 8]>,
}

impl<'a> Checker<'a> {
    /// The value of an input, or its default, after a check of presence, type and shape.
    #[inline]
    pub fn check(
        &mut self,
        spec: &'a ValueSpec,
        default: Option<&Value>,
        given: Option<Value>,
    ) -> Result<Value> {
        let Some(mut value) = given.or_else(|| default.cloned()) else {
            let ty = spec.ty.as_ref().map_or_else(String::new, |ty| format!(" ({ty})"));
            return Err(Error::invalid_input(format!("input '{}'{ty} is missing", spec.name)));
        };
        check_type(spec, &value, &mut self.symbols)?;
        align(&mut value);
        Ok(value)
    }
}

impl<'a> Checker<'a> {
    /// Checks type and shape of a tensor that is given for an input without being on the host.
    pub fn check_shape(&mut self, spec: &'a ValueSpec, dtype: DType, dims: &[usize]) -> Result<()> {
        match &spec.ty {
            None => Ok(()),
            Some(TypeInfo::Tensor(expected)) => {
                let bad = |why: String| {
                    Error::invalid_input(format!(
                        "input '{}': expected {expected:?}, got {dtype} {dims:?}{why}",
                        spec.name
                    ))
                };
                check_tensor(expected, dtype, dims, &mut self.symbols, &bad)
            }
            Some(other) => {
                Err(Error::invalid_input(format!("input '{}' is {other}, not a tensor", spec.name)))
            }
        }
    }
}

/// The error for more values than inputs.
#[cold]
pub(super) fn too_many(inputs: usize, given: usize) -> Error {
    Error::invalid_input(format!("the model has {inputs} inputs, {given} were given"))
}

/// Copies a tensor whose bytes are not aligned for its elements, such as one read in place from a file.
fn align(value: &mut Value) {
    match value {
        Value::Tensor(tensor) if !tensor.is_aligned(element_alignment(tensor.dtype())) => {
            *tensor = tensor.to_aligned()
        }
        Value::Tensor(_) => {}
        Value::Sequence(items) => items.iter_mut().for_each(align),
        Value::Optional(inner) => inner.iter_mut().for_each(|inner| align(inner)),
        Value::Map(map) => {
            map.keys = map.keys.to_aligned();
            map.values = map.values.to_aligned();
        }
    }
}

fn element_alignment(dtype: DType) -> usize {
    if dtype == DType::String { 8 } else { (dtype.bits() / 8).clamp(1, 8) }
}

fn check_type<'a>(
    spec: &'a ValueSpec,
    value: &Value,
    symbols: &mut SmallVec<[(&'a Arc<str>, usize); 8]>,
) -> Result<()> {
    let bad = |why: String| {
        let expected = spec.ty.as_ref().map_or_else(|| "anything".to_string(), TypeInfo::to_string);
        Error::invalid_input(format!(
            "input '{}': expected {expected}, got {}{why}",
            spec.name,
            value.description()
        ))
    };
    let (expected, tensor) = match (&spec.ty, value) {
        (None, _) => return Ok(()),
        (Some(TypeInfo::Tensor(expected)), Value::Tensor(tensor)) => (expected, tensor),
        (Some(TypeInfo::Sequence(_)), Value::Sequence(_))
        | (Some(TypeInfo::Optional(_)), _)
        | (Some(TypeInfo::Map { .. }), Value::Map(_)) => return Ok(()),
        _ => return Err(bad(String::new())),
    };
    check_tensor(expected, tensor.dtype(), tensor.dims(), symbols, &bad)
}

fn check_tensor<'a>(
    expected: &'a TensorType,
    dtype: DType,
    dims: &[usize],
    symbols: &mut SmallVec<[(&'a Arc<str>, usize); 8]>,
    bad: &dyn Fn(String) -> Error,
) -> Result<()> {
    if expected.dtype != DType::Undefined && expected.dtype != dtype {
        return Err(bad(String::new()));
    }
    let Some(shape) = &expected.shape else { return Ok(()) };
    if shape.rank() != dims.len() {
        return Err(bad(format!(" (rank {} instead of {})", dims.len(), shape.rank())));
    }
    for (axis, (dim, &size)) in shape.iter().zip(dims).enumerate() {
        match dim {
            Dim::Known(known) if *known != size => {
                return Err(bad(format!(" (dimension {axis} must be {known})")));
            }
            Dim::Symbol(symbol) => match symbols.iter().find(|(known, _)| *known == symbol) {
                Some(&(_, known)) if known != size => {
                    return Err(bad(format!(
                        " (dimension {axis} is '{symbol}', which is {known} in an earlier input)"
                    )));
                }
                Some(_) => {}
                None => symbols.push((symbol, size)),
            },
            _ => {}
        }
    }
    Ok(())
}

/// The error for a name that is not there, with the names that are.
pub(super) fn unknown(what: &str, name: &str, specs: &[ValueSpec]) -> Error {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    Error::invalid_input(format!("the model has no {what} '{name}'; its {what}s are: {}", names.join(", ")))
}
