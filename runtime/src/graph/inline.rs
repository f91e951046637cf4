//! Replaces a node by the body of its function: the standard defines many operators as functions of simpler ones.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use prost::Message;

use super::build::{Builder, opsets_of};
use super::{Attribute, Graph, NodeId, Opsets, ValueId};
use crate::error::{Error, Result, ResultExt, Stage};
use crate::model::Limits;
use crate::model::proto::{FunctionProto, ModelProto};

/// The functions of the ONNX standard: a model whose functions are named after the operators, with the version that
/// introduced each as overload. A function without nodes marks a version that has no body or none that is static.
static STANDARD: &[u8] = include_bytes!("standard_functions.onnx");

/// The body of an operator in terms of other operators.
#[derive(Clone, Debug)]
pub struct FunctionBody {
    proto: FunctionProto,
    since: i64,
}

impl FunctionBody {
    /// A body from a function message.
    pub fn new(proto: FunctionProto) -> Self {
        FunctionBody { proto, since: 1 }
    }

    /// The operator set version that introduced this definition.
    pub fn since_version(&self) -> i64 {
        self.since
    }

    /// The operators in the body, with repetitions, bodies of control flow not included.
    pub fn operators(&self) -> impl Iterator<Item = (&str, &str)> {
        self.proto.node.iter().map(|n| (n.domain.as_str(), n.op_type.as_str()))
    }
}

type Table = HashMap<(String, String), Vec<FunctionBody>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let model = ModelProto::decode(STANDARD).expect("the committed table is a valid message");
    let mut table = Table::new();
    for proto in model.functions {
        let since = proto.overload.parse().expect("the committed table has a version for every function");
        let bodies = table.entry((proto.domain.clone(), proto.name.clone())).or_default();
        bodies.push(FunctionBody { proto, since });
    }
    for bodies in table.values_mut() {
        bodies.sort_by_key(|b| b.since);
    }
    table
});

/// The standard's body of an operator under version `version` of its domain.
///
/// `None` when it has none, or one that depends on the types and the number of inputs of the node.
pub fn standard_function(domain: &str, op_type: &str, version: i64) -> Option<&'static FunctionBody> {
    let bodies = TABLE.get(&(domain.to_owned(), op_type.to_owned()))?;
    bodies.iter().rev().find(|b| b.since <= version).filter(|b| !b.proto.node.is_empty())
}

/// Replaces node `id` by the nodes of `body` and returns them. On an error the graph is as before.
pub fn inline_node(graph: &mut Graph, id: NodeId, body: &FunctionBody) -> Result<Vec<NodeId>> {
    let node = graph.node(id);
    let label = node.label(graph);
    if !node.bodies().is_empty() {
        return Err(Error::unsupported("a node with graph attributes cannot be replaced by a function body"))
            .in_node(|| label)
            .at_stage(Stage::Graph);
    }
    let call = Call {
        inputs: node.inputs().to_vec(),
        output_count: node.outputs().len(),
        attributes: node.attributes.iter().map(|(n, a)| (n.to_owned(), a.clone())).collect(),
        prefix: if node.name.is_empty() { node.op_type.to_string() } else { node.name.clone() },
    };
    let values_before = graph.value_bound();
    let (results, added) = expand(graph, &body.proto, call).in_node(|| label).at_stage(Stage::Graph)?;
    replace(graph, id, &results, values_before);
    Ok(added)
}

struct Call {
    inputs: Vec<Option<ValueId>>,
    output_count: usize,
    attributes: Vec<(String, Attribute)>,
    prefix: String,
}

/// Adds the function's nodes and returns the values of its outputs and the nodes.
fn expand(
    graph: &mut Graph,
    function: &FunctionProto,
    call: Call,
) -> Result<(Vec<Option<ValueId>>, Vec<NodeId>)> {
    if call.output_count > function.output.len() {
        return Err(Error::invalid_model(format!(
            "the node has {} outputs, function '{}' has {}",
            call.output_count,
            function.name,
            function.output.len()
        )));
    }
    let opsets: Opsets = opsets_of(&function.opset_import, 3)?;
    let limits = Limits::default();
    let mut builder = Builder::new(&limits, HashMap::new(), 3);
    let values_before = graph.value_bound();
    builder.enter(std::mem::take(graph), Arc::new(opsets));
    let attributes = call.attributes.into_iter().collect();
    let outcome = builder.call(0, function, &call.prefix, &call.inputs, &[], attributes);
    let (built, added) = builder.leave();
    *graph = built;
    match outcome {
        Ok(results) => Ok((results, added)),
        Err(error) => {
            for id in added.iter().rev() {
                graph.remove_node(*id);
            }
            graph.drop_unused_since(values_before);
            Err(error)
        }
    }
}

/// Makes readers of the node's outputs read `results`, which take over names and types, and removes the node.
fn replace(graph: &mut Graph, id: NodeId, results: &[Option<ValueId>], values_before: usize) {
    let outputs = graph.node(id).outputs().to_vec();
    for (old, new) in outputs.iter().zip(results) {
        if let (Some(old), Some(new)) = (old, new) {
            graph.replace_all_uses(*old, *new);
            if graph.value(*new).ty().is_none() {
                let ty = graph.value(*old).ty().cloned();
                graph.set_type(*new, ty);
            }
        }
    }
    let names: Vec<_> = outputs.iter().map(|v| v.map(|v| graph.value(v).shared_name())).collect();
    graph.remove_node(id);
    for (name, new) in names.iter().zip(results) {
        if let (Some(name), Some(new)) = (name, new)
            && new.index() >= values_before
            && graph.find_value(name).is_none()
        {
            graph.rename_value(*new, name).expect("the name was just found to be free");
        }
    }
}
