//! Walks the wire format of a model before it is decoded: finds where a broken file breaks and adds up the memory that
//! decoding needs, so that a small hostile file cannot ask for much of it.

use std::fmt::Write;

use super::Limits;
use super::proto::*;
use crate::error::{Error, ErrorKind, Result};

/// Message types as far as the walk tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Model,
    Graph,
    Node,
    Function,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TypeBox,
    Shape,
    Dim,
    Pair,
    Sequence,
    Map,
    Optional,
}

/// What a field holds and what an element of it takes in memory.
enum Field {
    Message(Message),
    /// A string or bytes that decoding copies.
    Text,
    /// Bytes that stay in the file's memory.
    Shared,
    /// Variable-length numbers, packed or not, of this many bytes each in memory.
    Numbers(usize),
    /// Numbers of fixed width, packed or not, of this many bytes each.
    Fixed(usize),
    Other,
}

fn field(message: Message, number: u32) -> (&'static str, Field) {
    use Field::{Fixed, Message as M, Numbers, Other, Shared, Text};
    use Message::*;
    match (message, number) {
        (Model, 2 | 3 | 4 | 6) => ("text", Text),
        (Model, 7) => ("graph", M(Graph)),
        (Model, 8) => ("opset_import", M(Pair)),
        (Model, 14) => ("metadata_props", M(Pair)),
        (Model, 20) => ("training_info", Shared),
        (Model, 25) => ("functions", M(Function)),
        (Graph, 1) => ("node", M(Node)),
        (Graph, 2 | 10) => ("text", Text),
        (Graph, 5) => ("initializer", M(Tensor)),
        (Graph, 11) => ("input", M(ValueInfo)),
        (Graph, 12) => ("output", M(ValueInfo)),
        (Graph, 13) => ("value_info", M(ValueInfo)),
        (Graph, 15) => ("sparse_initializer", M(Sparse)),
        (Node, 1) => ("input", Text),
        (Node, 2) => ("output", Text),
        (Node, 3 | 4 | 7 | 8) => ("text", Text),
        (Node, 5) => ("attribute", M(Attribute)),
        (Function, 4) => ("input", Text),
        (Function, 5) => ("output", Text),
        (Function, 1 | 6 | 10 | 13) => ("text", Text),
        (Function, 7) => ("node", M(Node)),
        (Function, 9) => ("opset_import", M(Pair)),
        (Function, 11) => ("attribute_proto", M(Attribute)),
        (Attribute, 1 | 4 | 9 | 21) => ("text", Text),
        (Attribute, 5) => ("t", M(Tensor)),
        (Attribute, 6) => ("g", M(Graph)),
        (Attribute, 7) => ("floats", Fixed(4)),
        (Attribute, 8) => ("ints", Numbers(8)),
        (Attribute, 10) => ("tensors", M(Tensor)),
        (Attribute, 11) => ("graphs", M(Graph)),
        (Attribute, 14) => ("tp", M(Type)),
        (Attribute, 15) => ("type_protos", M(Type)),
        (Attribute, 22) => ("sparse_tensor", M(Sparse)),
        (Attribute, 23) => ("sparse_tensors", M(Sparse)),
        (Tensor, 1) => ("dims", Numbers(8)),
        (Tensor, 4) => ("float_data", Fixed(4)),
        (Tensor, 5) => ("int32_data", Numbers(4)),
        (Tensor, 6) => ("string_data", Text),
        (Tensor, 7) => ("int64_data", Numbers(8)),
        (Tensor, 8) => ("name", Text),
        (Tensor, 9) => ("raw_data", Shared),
        (Tensor, 10) => ("double_data", Fixed(8)),
        (Tensor, 11) => ("uint64_data", Numbers(8)),
        (Tensor, 13) => ("external_data", M(Pair)),
        (Sparse, 1) => ("values", M(Tensor)),
        (Sparse, 2) => ("indices", M(Tensor)),
        (Sparse, 3) => ("dims", Numbers(8)),
        (ValueInfo, 1) => ("name", Text),
        (ValueInfo, 2) => ("type", M(Type)),
        (Type, 1 | 4 | 5 | 7 | 8 | 9) => ("value", M(TypeBox)),
        (TypeBox, 1) => ("elem_type", M(Type)),
        (TypeBox, 2) => ("shape", M(Shape)),
        (Shape, 1) => ("dim", M(Dim)),
        (Dim, 2) => ("dim_param", Text),
        (Pair, 1 | 2) => ("text", Text),
        (Sequence | Optional, 1) => ("name", Text),
        (Sequence | Optional, 3) => ("tensor", M(Tensor)),
        (Sequence | Optional, 4) => ("sparse_tensor", M(Sparse)),
        (Sequence | Optional, 5) => ("sequence", M(Sequence)),
        (Sequence | Optional, 6) => ("map", M(Map)),
        (Sequence | Optional, 7) => ("optional", M(Optional)),
        (Map, 1 | 4) => ("text", Text),
        (Map, 3) => ("keys", Numbers(8)),
        (Map, 5) => ("values", M(Sequence)),
        _ => ("field", Other),
    }
}

fn decoded_size(message: Message) -> usize {
    match message {
        Message::Model => size_of::<ModelProto>(),
        Message::Graph => size_of::<GraphProto>(),
        Message::Node => size_of::<NodeProto>(),
        Message::Function => size_of::<FunctionProto>(),
        Message::Attribute => size_of::<AttributeProto>(),
        Message::Tensor => size_of::<TensorProto>(),
        Message::Sparse => size_of::<SparseTensorProto>(),
        Message::ValueInfo => size_of::<ValueInfoProto>(),
        Message::Type | Message::TypeBox => size_of::<TypeProto>(),
        Message::Shape => size_of::<TensorShapeProto>(),
        Message::Dim => size_of::<tensor_shape_proto::Dimension>(),
        Message::Pair => size_of::<StringStringEntryProto>(),
        Message::Sequence => size_of::<SequenceProto>(),
        Message::Map => size_of::<MapProto>(),
        Message::Optional => size_of::<OptionalProto>(),
    }
}

/// Checks the wire format of `bytes` as a `message` against `limits`; an error names the field and the byte.
pub(super) fn check(message: Message, bytes: &[u8], limits: &Limits) -> Result<()> {
    let mut scan = Scan { limits, base: bytes.as_ptr().addr(), nodes: 0, memory: 0 };
    scan.message(message, bytes, 0).map_err(Fault::into_error)
}

struct Scan<'a> {
    limits: &'a Limits,
    base: usize,
    nodes: usize,
    memory: usize,
}

struct Fault {
    kind: ErrorKind,
    message: String,
    /// Field names and indices, innermost first.
    path: Vec<(&'static str, usize)>,
}

impl Fault {
    fn into_error(self) -> Error {
        let mut place = String::new();
        for (name, index) in self.path.iter().rev() {
            let separator = if place.is_empty() { "" } else { "." };
            write!(place, "{separator}{name}[{index}]").expect("writing to a string does not fail");
        }
        let place = if place.is_empty() { String::new() } else { format!(" (in {place})") };
        Error::new(self.kind, format!("{}{place}", self.message))
    }
}

impl Scan<'_> {
    fn message(&mut self, message: Message, mut bytes: &[u8], depth: usize) -> Result<(), Fault> {
        if depth > self.limits.max_depth {
            return Err(limit(format!(
                "messages are nested deeper than the limit of {}",
                self.limits.max_depth
            )));
        }
        if message == Message::Node {
            self.nodes += 1;
            if self.nodes > self.limits.max_nodes {
                return Err(limit(format!(
                    "the model has more nodes than the limit of {}",
                    self.limits.max_nodes
                )));
            }
        }
        self.take(decoded_size(message))?;
        let mut index_of = (0, 0);
        while !bytes.is_empty() {
            let at = bytes.as_ptr().addr() - self.base;
            let key = varint(&mut bytes).ok_or_else(|| broken(at))?;
            let (number, wire) = ((key >> 3) as u32, key & 7);
            index_of = if index_of.0 == number { (number, index_of.1 + 1) } else { (number, 0) };
            let (name, kind) = field(message, number);
            self.field(kind, wire, &mut bytes, at, depth).map_err(|mut fault| {
                fault.path.push((name, index_of.1));
                fault
            })?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        kind: Field,
        wire: u64,
        bytes: &mut &[u8],
        at: usize,
        depth: usize,
    ) -> Result<(), Fault> {
        let fixed = match wire {
            0 => {
                varint(bytes).ok_or_else(|| broken(at))?;
                return self.number(&kind);
            }
            1 => 8,
            5 => 4,
            2 => {
                let length = varint(bytes).ok_or_else(|| broken(at))?;
                let Some(length) = usize::try_from(length).ok().filter(|n| *n <= bytes.len()) else {
                    return Err(truncated(length, bytes.len(), at));
                };
                let (contents, rest) = bytes.split_at(length);
                *bytes = rest;
                return self.delimited(kind, contents, depth);
            }
            _ => return Err(broken(at)),
        };
        *bytes = bytes.get(fixed..).ok_or_else(|| truncated(fixed as u64, bytes.len(), at))?;
        self.number(&kind)
    }

    fn number(&mut self, kind: &Field) -> Result<(), Fault> {
        match kind {
            Field::Numbers(size) | Field::Fixed(size) => self.take(*size),
            _ => Ok(()),
        }
    }

    fn delimited(&mut self, kind: Field, contents: &[u8], depth: usize) -> Result<(), Fault> {
        match kind {
            Field::Message(inner) => self.message(inner, contents, depth + 1),
            Field::Text => self.take(size_of::<String>() + contents.len()),
            // A packed list has at most one number a byte; counting them exactly matters only for long lists.
            Field::Numbers(size) if contents.len() < 4096 => self.take(contents.len() * size),
            Field::Numbers(size) => self.take(contents.iter().filter(|b| **b < 0x80).count() * size),
            Field::Fixed(_) => self.take(contents.len()),
            Field::Shared | Field::Other => Ok(()),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.max_decoded_bytes {
            return Err(limit(format!(
                "decoding the model needs more memory than the limit of {} bytes",
                self.limits.max_decoded_bytes
            )));
        }
        Ok(())
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, b) in bytes.iter().take(10).enumerate() {
        value |= u64::from(b & 0x7f) << (7 * i);
        if *b < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

fn limit(message: String) -> Fault {
    Fault { kind: ErrorKind::Limit, message, path: Vec::new() }
}

fn broken(at: usize) -> Fault {
    let message = format!("the file is damaged or not an ONNX model: no valid field at byte {at}");
    Fault { kind: ErrorKind::InvalidModel, message, path: Vec::new() }
}

fn truncated(wanted: u64, available: usize, at: usize) -> Fault {
    let message = format!(
        "the file is truncated or damaged: the field at byte {at} has {wanted} bytes, of which {available} are there"
    );
    Fault { kind: ErrorKind::InvalidModel, message, path: Vec::new() }
}
