//! One pass over a graph that crossed the boundary, so that views of it need no checks of their own.

use super::slice_at;
use crate::{DType, Error, Result, ffi};
use alloc::format;
use alloc::string::String;

/// Checks sizes, numbers, texts and indices of everything in `graph`.
///
/// # Safety
/// Every pointer in `graph` is NULL or points at what the header says.
pub(super) unsafe fn graph(graph: &ffi::Graph) -> Result<()> {
    covers::<ffi::Graph>(graph.struct_size, "graph")?;
    // SAFETY: the caller vouches for the pointers; each pointee is checked before it is used.
    unsafe {
        for &value in array(graph.values, graph.value_count, "the graph's values")? {
            self::value(value.as_ref().ok_or_else(|| Error::invalid("a value of the graph is NULL"))?)?;
        }
        for &node in array(graph.nodes, graph.node_count, "the graph's nodes")? {
            self::node(node.as_ref().ok_or_else(|| Error::invalid("a node of the graph is NULL"))?, graph)?;
        }
        for (what, data, len) in [
            ("the graph's inputs", graph.inputs, graph.input_count),
            ("the graph's outputs", graph.outputs, graph.output_count),
        ] {
            let indices = array(data, len, what)?;
            if let Some(index) = indices.iter().find(|&&index| index as usize >= graph.value_count) {
                return Err(Error::invalid(format!("{what}: value {index} of {}", graph.value_count)));
            }
        }
    }
    Ok(())
}

unsafe fn value(value: &ffi::Value) -> Result<()> {
    covers::<ffi::Value>(value.struct_size, "value")?;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let name = text(value.name, "a value's name")?;
        dtype(value.dtype, || format!("value '{name}'"))?;
        if value.rank < -1 {
            return Err(Error::invalid(format!("value '{name}': rank {}", value.rank)));
        }
        let rank = usize::try_from(value.rank).unwrap_or(0);
        let dims = array(value.dims, rank, "a value's dims")?;
        if let Some(dim) = dims.iter().find(|&&dim| dim < -1) {
            return Err(Error::invalid(format!("value '{name}': dimension {dim}")));
        }
        for &symbol in slice_at(value.dim_symbols, rank) {
            text(symbol, "the name of a dimension")?;
        }
        if let Some(constant) = value.constant.as_ref() {
            tensor(constant, &|| format!("constant '{name}'"))?;
        }
    }
    Ok(())
}

unsafe fn node(node: &ffi::Node, graph: &ffi::Graph) -> Result<()> {
    covers::<ffi::Node>(node.struct_size, "node")?;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let name = text(node.name, "a node's name")?;
        text(node.domain, "a node's domain")?;
        text(node.op_type, "a node's operator")?;
        for (what, data, len) in
            [("inputs", node.inputs, node.input_count), ("outputs", node.outputs, node.output_count)]
        {
            for &index in array(data, len as usize, "the values of a node")? {
                if index != ffi::NO_VALUE && index as usize >= graph.value_count {
                    return Err(Error::invalid(format!(
                        "node '{name}': {what} name value {index} of {}",
                        graph.value_count
                    )));
                }
            }
        }
        for &attribute in array(node.attributes, node.attribute_count as usize, "a node's attributes")? {
            let attribute = attribute
                .as_ref()
                .ok_or_else(|| Error::invalid(format!("node '{name}': an attribute is NULL")))?;
            self::attribute(attribute, name)?;
        }
    }
    Ok(())
}

unsafe fn attribute(attribute: &ffi::Attribute, node: &str) -> Result<()> {
    covers::<ffi::Attribute>(attribute.struct_size, "attribute")?;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let name = text(attribute.name, "an attribute's name")?;
        match attribute.kind {
            ffi::ATTRIBUTE_INT | ffi::ATTRIBUTE_FLOAT => {}
            ffi::ATTRIBUTE_STRING => {
                array(attribute.s.data, attribute.s.len, "a string attribute")?;
            }
            ffi::ATTRIBUTE_TENSOR => match attribute.tensor.as_ref() {
                Some(value) => tensor(value, &|| format!("node '{node}': attribute '{name}'"))?,
                None => return Err(Error::invalid(format!("node '{node}': attribute '{name}' is NULL"))),
            },
            ffi::ATTRIBUTE_INTS => {
                array(attribute.ints, attribute.count, "an attribute's ints")?;
            }
            ffi::ATTRIBUTE_FLOATS => {
                array(attribute.floats, attribute.count, "an attribute's floats")?;
            }
            ffi::ATTRIBUTE_STRINGS => {
                for text in array(attribute.strings, attribute.count, "an attribute's strings")? {
                    array(text.data, text.len, "a string of an attribute")?;
                }
            }
            kind => {
                return Err(Error::invalid(format!(
                    "node '{node}': attribute '{name}' is of unknown kind {kind}"
                )));
            }
        }
    }
    Ok(())
}

/// A constant: in host memory, of known size.
unsafe fn tensor(tensor: &ffi::Tensor, what: &dyn Fn() -> String) -> Result<()> {
    let dtype = dtype(tensor.dtype, what)?;
    if tensor.memory != ffi::MEMORY_HOST && tensor.memory != ffi::MEMORY_PINNED {
        return Err(Error::invalid(format!("{}: a constant must be in host memory", what())));
    }
    // SAFETY: the caller vouches for the pointers.
    let dims = unsafe { array(tensor.dims, tensor.rank as usize, "a constant's dims")? };
    let elements = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?));
    let elements = elements.ok_or_else(|| Error::invalid(format!("{}: dims {dims:?}", what())))?;
    // Strings have no fixed size; their offsets are checked by whoever reads them.
    if let Some(expected) = dtype.byte_len(elements)
        && tensor.bytes < expected
    {
        return Err(Error::invalid(format!(
            "{}: {} bytes for {dtype}{dims:?}, expected {expected}",
            what(),
            tensor.bytes
        )));
    }
    if tensor.data.is_null() && tensor.bytes != 0 {
        return Err(Error::invalid(format!("{}: its data is NULL", what())));
    }
    Ok(())
}

fn dtype(number: u32, what: impl FnOnce() -> String) -> Result<DType> {
    i32::try_from(number).ok().and_then(DType::from_onnx).ok_or_else(|| {
        Error::invalid(format!("{}: element type {number} is not known to this provider", what()))
    })
}

unsafe fn text<'a>(text: ffi::Str, what: &str) -> Result<&'a str> {
    // SAFETY: the caller vouches for the bytes.
    unsafe {
        array(text.data, text.len, what)?;
        text.as_str().ok_or_else(|| Error::invalid(format!("{what} is not UTF-8")))
    }
}

unsafe fn array<'a, T>(data: *const T, len: usize, what: &str) -> Result<&'a [T]> {
    if data.is_null() && len != 0 {
        return Err(Error::invalid(format!("{what}: NULL with {len} entries")));
    }
    // SAFETY: the caller vouches for the elements.
    Ok(unsafe { slice_at(data, len) })
}

/// Fails when `struct_size` is smaller than version 1.0 of `T`.
pub(crate) fn covers<T>(struct_size: usize, what: &str) -> Result<()> {
    if struct_size >= size_of::<T>() {
        return Ok(());
    }
    Err(Error::invalid(format!("{what}: struct_size {struct_size}, expected at least {}", size_of::<T>())))
}
