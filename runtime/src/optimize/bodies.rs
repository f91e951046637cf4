//! What crosses the border of nested graphs: constants go in, captures that nothing reads go.

use std::collections::HashMap;

use super::pattern::copy_of;
use crate::error::Result;
use crate::graph::{Body, Graph, NodeId, ValueId};

/// Every body of the graph, by node and number.
pub fn all(graph: &Graph) -> Vec<(NodeId, usize)> {
    graph.node_ids().flat_map(|id| (0..graph.node(id).bodies().len()).map(move |b| (id, b))).collect()
}

/// Makes captured constants constants of the body.
pub fn sink_constants(graph: &mut Graph, node: NodeId, body: usize) {
    for k in (0..graph.node(node).bodies()[body].captures().len()).rev() {
        let captured = graph.node(node).bodies()[body].captures()[k];
        if let Some(tensor) = graph.constant(captured).cloned() {
            graph.capture_to_constant(node, body, k, tensor);
        }
    }
}

/// Removes captures that the body does not read.
pub fn prune_captures(graph: &mut Graph, node: NodeId, body: usize) -> Result<()> {
    for k in (0..graph.node(node).bodies()[body].captures().len()).rev() {
        let b = &graph.node(node).bodies()[body];
        if b.graph().is_unused(b.capture_inputs()[k]) {
            graph.remove_capture(node, body, k)?;
        }
    }
    Ok(())
}

/// Copies the nodes of `inner` into `graph`, with `inputs` for its inputs; node names get `prefix`. Returns the values
/// that its outputs have become.
pub fn splice(graph: &mut Graph, inner: &Graph, inputs: &[ValueId], prefix: &str) -> Result<Vec<ValueId>> {
    let mut map: HashMap<ValueId, ValueId> =
        inner.inputs().iter().copied().zip(inputs.iter().copied()).collect();
    for id in inner.topological_order()? {
        let node = inner.node(*id);
        let mut each = |slots: &[Option<ValueId>]| -> Vec<Option<ValueId>> {
            slots.iter().map(|v| v.map(|v| mapped(graph, inner, v, &mut map))).collect()
        };
        let (inputs, outputs) = (each(node.inputs()), each(node.outputs()));
        let mut copy = copy_of(node);
        copy.name = match (prefix, node.name.as_str()) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}/{name}"),
        };
        for body in node.bodies() {
            let captures = body.captures().iter().map(|v| mapped(graph, inner, *v, &mut map)).collect();
            copy = copy.with_body(Body::new(body.attribute(), body.graph().clone(), captures));
        }
        graph.add_node(copy, &inputs, &outputs)?;
    }
    Ok(inner.output_values().map(|v| mapped(graph, inner, v, &mut map)).collect())
}

/// The value of `graph` that stands for `value` of `inner`, made when there is none.
fn mapped(graph: &mut Graph, inner: &Graph, value: ValueId, map: &mut HashMap<ValueId, ValueId>) -> ValueId {
    *map.entry(value).or_insert_with(|| {
        let v = inner.value(value);
        match v.constant() {
            Some(tensor) => graph.add_constant(v.name(), tensor.clone()),
            None => graph.add_value(v.name(), v.ty().cloned()),
        }
    })
}
