//! Conversion between type messages and static types.

use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::type_proto::{self, Value};
use super::proto::{TensorShapeProto, TypeProto};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape, TensorType, TypeInfo};

/// The static type of a message; `None` when the message is empty. Sparse tensors become dense ones.
pub(crate) fn type_from_proto(proto: &TypeProto) -> Result<Option<TypeInfo>> {
    let Some(value) = &proto.value else { return Ok(None) };
    let inner = |elem: &Option<Box<TypeProto>>| match elem {
        Some(elem) => Ok(Box::new(type_from_proto(elem)?.unwrap_or(TypeInfo::unranked(DType::Undefined)))),
        None => Ok(Box::new(TypeInfo::unranked(DType::Undefined))),
    };
    Ok(Some(match value {
        Value::TensorType(t) | Value::SparseTensorType(t) => TypeInfo::Tensor(TensorType {
            dtype: dtype_from_proto(t.elem_type)?,
            shape: t.shape.as_ref().map(shape_from_proto),
        }),
        Value::SequenceType(t) => TypeInfo::Sequence(inner(&t.elem_type)?),
        Value::OptionalType(t) => TypeInfo::Optional(inner(&t.elem_type)?),
        Value::MapType(t) => {
            TypeInfo::Map { key: dtype_from_proto(t.key_type)?, value: inner(&t.value_type)? }
        }
        Value::OpaqueType(t) => {
            return Err(Error::unsupported(format!(
                "opaque type '{}' of domain '{}' cannot be used",
                t.name, t.domain
            )));
        }
    }))
}

pub(super) fn dtype_from_proto(number: i32) -> Result<DType> {
    DType::from_onnx(number).ok_or_else(|| {
        Error::unsupported(format!(
            "element type {number} is not defined by ONNX IR version 14; the model may be newer than this build"
        ))
    })
}

fn shape_from_proto(proto: &TensorShapeProto) -> Shape {
    let dim = |d: &Dimension| match &d.value {
        Some(dimension::Value::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        // Exporters write these for a size they do not know; as a symbol they would mean equal sizes.
        Some(dimension::Value::DimParam(name))
            if ["", "?", "-1", "None", "unknown"].contains(&name.as_str()) =>
        {
            Dim::Unknown
        }
        Some(dimension::Value::DimParam(name)) => Dim::symbol(name.as_str()),
        None => Dim::Unknown,
    };
    proto.dim.iter().map(dim).collect()
}

/// The message of a static type; dimensions that are expressions are written as text.
pub(super) fn type_to_proto(ty: &TypeInfo) -> TypeProto {
    let boxed = |inner: &TypeInfo| Some(Box::new(type_to_proto(inner)));
    let value = match ty {
        TypeInfo::Tensor(t) => Value::TensorType(type_proto::Tensor {
            elem_type: t.dtype.onnx(),
            shape: t.shape.as_ref().map(shape_to_proto),
        }),
        TypeInfo::Sequence(inner) => {
            Value::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed(inner) }))
        }
        TypeInfo::Optional(inner) => {
            Value::OptionalType(Box::new(type_proto::Optional { elem_type: boxed(inner) }))
        }
        TypeInfo::Map { key, value } => {
            Value::MapType(Box::new(type_proto::Map { key_type: key.onnx(), value_type: boxed(value) }))
        }
    };
    TypeProto { value: Some(value) }
}

fn shape_to_proto(shape: &Shape) -> TensorShapeProto {
    let dim = |d: &Dim| Dimension {
        value: match d {
            Dim::Known(n) => Some(dimension::Value::DimValue(*n as i64)),
            Dim::Unknown => None,
            named => Some(dimension::Value::DimParam(named.to_string())),
        },
    };
    TensorShapeProto { dim: shape.iter().map(dim).collect() }
}
