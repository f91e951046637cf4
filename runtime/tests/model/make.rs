//! Short constructors of ONNX messages.

use prost::Message;
use tenon_runtime::error::Result;
use tenon_runtime::graph::{self, Graph};
use tenon_runtime::model::{self, Limits, proto::*};

/// A node without attributes, named after its first output.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("{op}_{}", outputs.first().unwrap_or(&"")),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: outputs.iter().map(|s| s.to_string()).collect(),
        ..Default::default()
    }
}

pub fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(value), r#type: 2, ..Default::default() }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: Some(value), r#type: 1, ..Default::default() }
}

pub fn reference(name: &str, to: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: name.into(), ref_attr_name: to.into(), r#type: kind, ..Default::default() }
}

pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: name.into(), g: Some(Box::new(graph)), r#type: 5, ..Default::default() }
}

pub fn floats(name: &str, values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: 1,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// A float tensor of shape `[N, 4]`.
pub fn info(name: &str) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = [Value::DimParam("N".into()), Value::DimValue(4)].map(|v| Dimension { value: Some(v) });
    let ty = type_proto::Tensor { elem_type: 1, shape: Some(TensorShapeProto { dim: dim.to_vec() }) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(ty)) };
    ValueInfoProto { name: name.into(), r#type: Some(Box::new(ty)) }
}

/// A graph of typed inputs and outputs.
pub fn graph(nodes: Vec<NodeProto>, inputs: &[&str], outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: "g".into(),
        node: nodes,
        input: inputs.iter().map(|n| info(n)).collect(),
        output: outputs.iter().map(|n| info(n)).collect(),
        ..Default::default()
    }
}

/// A model of IR version 10 that imports ai.onnx 17.
pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 10,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..Default::default()
    }
}

/// Encodes, loads and builds a model, as for a file.
pub fn build(model: &ModelProto) -> Result<Graph> {
    graph::build(&model::load_bytes(model.encode_to_vec(), None, &Limits::default())?)
}

/// The message of the error that loading or building `model` gives.
pub fn refusal(model: &ModelProto) -> String {
    match build(model) {
        Ok(graph) => panic!("the model was accepted:\n{graph}"),
        Err(error) => error.to_string(),
    }
}

/// Fails unless `text` contains every one of `words`.
#[track_caller]
pub fn assert_mentions(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}
