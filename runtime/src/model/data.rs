//! The standard's test data format: one value in one file, as a tensor, sequence, optional or map message.

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::Limits;
use super::proto::{MapProto, OptionalProto, SequenceProto, TensorProto};
use super::scan;
use super::sparse::densify;
use super::tensor::{tensor_from_proto, tensor_to_proto};
use super::types::dtype_from_proto;
use crate::dtype::DType;
use crate::error::{Error, Result, ResultExt, Stage};
use crate::graph::TypeInfo;
use crate::mapping::map_file;
use crate::tensor::{Map, Tensor, Value};

/// The numbers of the element types of sequences and optionals.
mod kind {
    pub const TENSOR: i32 = 1;
    pub const SPARSE_TENSOR: i32 = 2;
    pub const SEQUENCE: i32 = 3;
    pub const MAP: i32 = 4;
    pub const OPTIONAL: i32 = 5;
}

/// Reads the name and value in a `.pb` file. The file does not say which message it holds: `expected` does, the type of
/// the model's input or output; without it a tensor is expected.
pub fn read_value(path: impl AsRef<Path>, expected: Option<&TypeInfo>) -> Result<(String, Value)> {
    let path = path.as_ref();
    let read = || value_from_bytes(map_file(path)?, expected).map_err(|e| super::named(e, path));
    read().at_stage(Stage::Load)
}

/// Writes a `.pb` file.
pub fn write_value(path: impl AsRef<Path>, name: &str, value: &Value) -> Result<()> {
    let path = path.as_ref();
    let bytes = value_to_bytes(name, value)?;
    std::fs::write(path, bytes).map_err(|e| Error::io("write", path, e)).at_stage(Stage::Load)
}

/// Decodes a message of the kind that `expected` tells, a tensor without it.
pub fn value_from_bytes(bytes: impl Into<Bytes>, expected: Option<&TypeInfo>) -> Result<(String, Value)> {
    fn decode<M: Message + Default>(message: scan::Message, bytes: Bytes) -> Result<M> {
        scan::check(message, &bytes, &Limits::default())?;
        M::decode(bytes)
            .map_err(|e| Error::invalid_input(format!("the file is damaged or of another type: {e}")))
    }
    let bytes = bytes.into();
    match expected {
        None | Some(TypeInfo::Tensor(_)) => {
            let proto: TensorProto = decode(scan::Message::Tensor, bytes)?;
            Ok((proto.name.clone(), Value::Tensor(tensor_from_proto(&proto)?)))
        }
        Some(TypeInfo::Sequence(_)) => {
            let proto: SequenceProto = decode(scan::Message::Sequence, bytes)?;
            Ok((proto.name.clone(), Value::Sequence(items(&proto)?)))
        }
        Some(TypeInfo::Optional(inner)) => {
            let decoded = decode(scan::Message::Optional, bytes.clone());
            let decoded = decoded.and_then(|o: OptionalProto| Ok((o.name.clone(), optional(&o)?)));
            // Some writers store the value itself where an optional is expected.
            if !matches!(&decoded, Ok((_, Some(value))) if holds(value, inner)) {
                let direct = value_from_bytes(bytes, Some(inner));
                if let Ok((name, value)) = direct
                    && !matches!((&decoded, &value), (Ok((_, None)), Value::Sequence(_)))
                {
                    return Ok((name, Value::Optional(Some(Box::new(value)))));
                }
            }
            let (name, value) = decoded?;
            Ok((name, Value::Optional(value.map(Box::new))))
        }
        Some(TypeInfo::Map { .. }) => {
            let proto: MapProto = decode(scan::Message::Map, bytes)?;
            Ok((proto.name.clone(), map(&proto)?))
        }
    }
}

/// Encodes a value as the message of its kind.
pub fn value_to_bytes(name: &str, value: &Value) -> Result<Vec<u8>> {
    Ok(match value {
        Value::Tensor(t) => tensor_to_proto(name, t).encode_to_vec(),
        Value::Sequence(items) => sequence_to_proto(name, items)?.encode_to_vec(),
        Value::Optional(item) => optional_to_proto(name, item.as_deref())?.encode_to_vec(),
        Value::Map(map) => map_to_proto(name, map)?.encode_to_vec(),
    })
}

/// True when `value` is of the kind that `ty` is.
fn holds(value: &Value, ty: &TypeInfo) -> bool {
    matches!(
        (value, ty),
        (Value::Tensor(_), TypeInfo::Tensor(_))
            | (Value::Sequence(_), TypeInfo::Sequence(_))
            | (Value::Optional(_), TypeInfo::Optional(_))
            | (Value::Map(_), TypeInfo::Map { .. })
    )
}

fn items(proto: &SequenceProto) -> Result<Vec<Value>> {
    let tensor = |t| Ok(Value::Tensor(tensor_from_proto(t)?));
    match proto.elem_type {
        kind::TENSOR => proto.tensor_values.iter().map(tensor).collect(),
        kind::SPARSE_TENSOR => {
            let dense = |t| Ok(Value::Tensor(densify(t, &Limits::default())?));
            proto.sparse_tensor_values.iter().map(dense).collect()
        }
        kind::SEQUENCE => proto.sequence_values.iter().map(|s| Ok(Value::Sequence(items(s)?))).collect(),
        kind::MAP => proto.map_values.iter().map(map).collect(),
        kind::OPTIONAL => {
            let value = |o| Ok(Value::Optional(optional(o)?.map(Box::new)));
            proto.optional_values.iter().map(value).collect()
        }
        0 => Ok(Vec::new()),
        other => Err(Error::invalid_input(format!(
            "a sequence has element type {other}, which ONNX does not define"
        ))),
    }
}

fn optional(proto: &OptionalProto) -> Result<Option<Value>> {
    Ok(match proto.elem_type {
        0 => None,
        kind::TENSOR => match &proto.tensor_value {
            Some(t) => Some(Value::Tensor(tensor_from_proto(t)?)),
            None => None,
        },
        kind::SPARSE_TENSOR => match &proto.sparse_tensor_value {
            Some(t) => Some(Value::Tensor(densify(t, &Limits::default())?)),
            None => None,
        },
        kind::SEQUENCE => match &proto.sequence_value {
            Some(s) => Some(Value::Sequence(items(s)?)),
            None => None,
        },
        kind::MAP => proto.map_value.as_ref().map(map).transpose()?,
        kind::OPTIONAL => match &proto.optional_value {
            Some(o) => Some(Value::Optional(optional(o)?.map(Box::new))),
            None => None,
        },
        other => {
            return Err(Error::invalid_input(format!(
                "an optional has element type {other}, which ONNX does not define"
            )));
        }
    })
}

fn map(proto: &MapProto) -> Result<Value> {
    let keys = match dtype_from_proto(proto.key_type)? {
        DType::String => {
            let text = |s: &Vec<u8>| String::from_utf8(s.clone());
            let keys: Vec<String> = proto
                .string_keys
                .iter()
                .map(text)
                .collect::<Result<_, _>>()
                .map_err(|_| Error::invalid_input("a key of a map is not UTF-8"))?;
            Tensor::from_strings(&[keys.len()], &keys)?
        }
        _ => Tensor::from_slice(&[proto.keys.len()], &proto.keys)?,
    };
    let values = proto.values.as_ref().map(items).transpose()?.unwrap_or_default();
    let values: Vec<Tensor> = values.into_iter().map(Value::into_tensor).collect::<Result<_>>()?;
    Ok(Value::Map(Box::new(Map { values: stack(&values, keys.len())?, keys })))
}

/// Tensors of one type and shape, one for each of `count` keys, along a new first axis; one tensor of `count` elements
/// stays as it is.
fn stack(tensors: &[Tensor], count: usize) -> Result<Tensor> {
    let mismatch = || Error::invalid_input(format!("a map of {count} keys has {} values", tensors.len()));
    let Some(first) = tensors.first() else {
        return if count == 0 { Tensor::zeros(DType::F32, &[0]) } else { Err(mismatch()) };
    };
    if tensors.len() == 1 && first.dims().first() == Some(&count) {
        return Ok(first.clone());
    }
    if tensors.len() != count {
        return Err(mismatch());
    }
    if tensors.iter().any(|t| t.dtype() != first.dtype() || t.dims() != first.dims()) {
        return Err(Error::unsupported("the values of a map differ in type or shape"));
    }
    let dims: Vec<usize> = [count].iter().chain(first.dims()).copied().collect();
    if first.dtype() == DType::String {
        let mut strings = Vec::new();
        for t in tensors {
            strings.extend(t.strings()?);
        }
        return Tensor::from_strings(&dims, &strings);
    }
    if first.dtype().bits() < 8 {
        return Err(Error::unsupported(format!("the values of a map cannot be {}", first.dtype())));
    }
    let bytes: Vec<u8> = tensors.iter().flat_map(|t| t.as_bytes()).copied().collect();
    Tensor::copy_from_bytes(first.dtype(), &dims, &bytes)
}

fn kind_of(value: &Value) -> i32 {
    match value {
        Value::Tensor(_) => kind::TENSOR,
        Value::Sequence(_) => kind::SEQUENCE,
        Value::Optional(_) => kind::OPTIONAL,
        Value::Map(_) => kind::MAP,
    }
}

fn sequence_to_proto(name: &str, items: &[Value]) -> Result<SequenceProto> {
    let elem_type = items.first().map_or(kind::TENSOR, kind_of);
    let mut proto = SequenceProto { name: name.to_owned(), elem_type, ..SequenceProto::default() };
    if items.iter().any(|i| kind_of(i) != elem_type) {
        return Err(Error::invalid_input("the items of a sequence are of different kinds"));
    }
    for item in items {
        match item {
            Value::Tensor(t) => proto.tensor_values.push(tensor_to_proto("", t)),
            Value::Sequence(s) => proto.sequence_values.push(sequence_to_proto("", s)?),
            Value::Optional(o) => proto.optional_values.push(optional_to_proto("", o.as_deref())?),
            Value::Map(map) => proto.map_values.push(map_to_proto("", map)?),
        }
    }
    Ok(proto)
}

fn optional_to_proto(name: &str, item: Option<&Value>) -> Result<OptionalProto> {
    let elem_type = item.map_or(0, kind_of);
    let mut proto = OptionalProto { name: name.to_owned(), elem_type, ..OptionalProto::default() };
    match item {
        None => {}
        Some(Value::Tensor(t)) => proto.tensor_value = Some(tensor_to_proto("", t)),
        Some(Value::Sequence(s)) => proto.sequence_value = Some(sequence_to_proto("", s)?),
        Some(Value::Optional(o)) => {
            proto.optional_value = Some(Box::new(optional_to_proto("", o.as_deref())?));
        }
        Some(Value::Map(map)) => proto.map_value = Some(map_to_proto("", map)?),
    }
    Ok(proto)
}

fn map_to_proto(name: &str, Map { keys, values }: &Map) -> Result<MapProto> {
    let mut proto = MapProto { name: name.to_owned(), key_type: keys.dtype().onnx(), ..MapProto::default() };
    match keys.strings() {
        Ok(strings) => proto.string_keys = strings.map(|s| s.as_bytes().to_vec()).collect(),
        Err(_) => proto.keys = keys.to_i64_vec()?,
    }
    proto.values = Some(SequenceProto {
        elem_type: kind::TENSOR,
        tensor_values: vec![tensor_to_proto("", values)],
        ..SequenceProto::default()
    });
    Ok(proto)
}
