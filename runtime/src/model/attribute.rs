//! Conversion between attribute messages and attributes. Graph attributes are handled by the builder of graphs.

use super::Limits;
use super::proto::AttributeProto;
use super::sparse::densify;
use super::tensor::{tensor_from_proto, tensor_to_proto};
use super::types::{type_from_proto, type_to_proto};
use crate::error::{Error, Result};
use crate::graph::Attribute;

/// The numbers of `AttributeProto.type`.
pub(crate) mod kind {
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const TENSOR: i32 = 4;
    pub const GRAPH: i32 = 5;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
    pub const STRINGS: i32 = 8;
    pub const TENSORS: i32 = 9;
    pub const GRAPHS: i32 = 10;
    pub const SPARSE_TENSOR: i32 = 11;
    pub const TYPE: i32 = 13;
    pub const TYPES: i32 = 14;
}

/// The kind of an attribute message; where the file does not say, the field that is present decides.
pub(crate) fn kind_of(proto: &AttributeProto) -> i32 {
    let present = [
        (proto.t.is_some(), kind::TENSOR),
        (proto.g.is_some(), kind::GRAPH),
        (proto.tp.is_some(), kind::TYPE),
        (proto.sparse_tensor.is_some(), kind::SPARSE_TENSOR),
        (!proto.ints.is_empty(), kind::INTS),
        (!proto.floats.is_empty(), kind::FLOATS),
        (!proto.strings.is_empty(), kind::STRINGS),
        (!proto.tensors.is_empty(), kind::TENSORS),
        (!proto.graphs.is_empty(), kind::GRAPHS),
        (!proto.type_protos.is_empty(), kind::TYPES),
        (proto.s.is_some(), kind::STRING),
        (proto.i.is_some(), kind::INT),
        (proto.f.is_some(), kind::FLOAT),
    ];
    match proto.r#type {
        0 => present.iter().find(|(is, _)| *is).map_or(kind::INTS, |(_, kind)| *kind),
        known => known,
    }
}

/// The attribute of a message that holds no graph.
pub(crate) fn attribute_from_proto(proto: &AttributeProto, limits: &Limits) -> Result<Attribute> {
    let absent = |what: &str| Error::invalid_model(format!("attribute '{}' has no {what}", proto.name));
    let text = |bytes: &Vec<u8>| match String::from_utf8(bytes.clone()) {
        Ok(text) => Attribute::String(text),
        Err(error) => Attribute::Bytes(error.into_bytes()),
    };
    let the_type = |t| type_from_proto(t)?.ok_or_else(|| absent("type"));
    Ok(match kind_of(proto) {
        kind::FLOAT => Attribute::Float(proto.f.unwrap_or_default()),
        kind::INT => Attribute::Int(proto.i.unwrap_or_default()),
        kind::STRING => text(proto.s.as_ref().unwrap_or(&Vec::new())),
        kind::TENSOR => {
            Attribute::Tensor(tensor_from_proto(proto.t.as_ref().ok_or_else(|| absent("tensor"))?)?)
        }
        kind::SPARSE_TENSOR => {
            Attribute::Tensor(densify(proto.sparse_tensor.as_ref().ok_or_else(|| absent("tensor"))?, limits)?)
        }
        kind::TYPE => Attribute::Type(the_type(proto.tp.as_ref().ok_or_else(|| absent("type"))?)?),
        kind::FLOATS => Attribute::Floats(proto.floats.clone()),
        kind::INTS => Attribute::Ints(proto.ints.clone()),
        kind::STRINGS => Attribute::Strings(
            proto
                .strings
                .iter()
                .map(|s| String::from_utf8(s.clone()))
                .collect::<Result<_, _>>()
                .map_err(|_| Error::invalid_model(format!("attribute '{}' is not UTF-8", proto.name)))?,
        ),
        kind::TENSORS => {
            Attribute::Tensors(proto.tensors.iter().map(tensor_from_proto).collect::<Result<_>>()?)
        }
        kind::TYPES => Attribute::Types(proto.type_protos.iter().map(the_type).collect::<Result<_>>()?),
        other => {
            return Err(Error::unsupported(format!(
                "attribute '{}' has kind {other}, which no operator uses",
                proto.name
            )));
        }
    })
}

/// The message of an attribute.
pub(super) fn attribute_to_proto(name: &str, attribute: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    proto.r#type = match attribute {
        Attribute::Float(v) => {
            proto.f = Some(*v);
            kind::FLOAT
        }
        Attribute::Int(v) => {
            proto.i = Some(*v);
            kind::INT
        }
        Attribute::String(v) => {
            proto.s = Some(v.clone().into_bytes());
            kind::STRING
        }
        Attribute::Bytes(v) => {
            proto.s = Some(v.clone());
            kind::STRING
        }
        Attribute::Tensor(v) => {
            proto.t = Some(Box::new(tensor_to_proto("", v)));
            kind::TENSOR
        }
        Attribute::Type(v) => {
            proto.tp = Some(Box::new(type_to_proto(v)));
            kind::TYPE
        }
        Attribute::Floats(v) => {
            proto.floats = v.clone();
            kind::FLOATS
        }
        Attribute::Ints(v) => {
            proto.ints = v.clone();
            kind::INTS
        }
        Attribute::Strings(v) => {
            proto.strings = v.iter().map(|s| s.clone().into_bytes()).collect();
            kind::STRINGS
        }
        Attribute::Tensors(v) => {
            proto.tensors = v.iter().map(|t| tensor_to_proto("", t)).collect();
            kind::TENSORS
        }
        Attribute::Types(v) => {
            proto.type_protos = v.iter().map(type_to_proto).collect();
            kind::TYPES
        }
    };
    proto
}
