//! Removes what no output depends on: nodes, optional outputs, constants.

use crate::error::Result;
use crate::graph::{Graph, ValueId};

/// Operators that may leave out an output after the first.
const WITH_OPTIONAL_OUTPUTS: &[&str] = &[
    "Attention",
    "BatchNormalization",
    "Dropout",
    "GRU",
    "GroupQueryAttention",
    "LSTM",
    "LayerNormalization",
    "MaxPool",
    "RNN",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Removes dead nodes and unused constants of this graph. Returns the number of nodes that went.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let before = graph.node_count();
    for id in graph.topological_order()?.iter().rev().copied().collect::<Vec<_>>() {
        let outputs: Vec<Option<ValueId>> = graph.node(id).outputs().to_vec();
        let unused = |v: &Option<ValueId>| v.is_none_or(|v| graph.is_unused(v));
        if outputs.iter().all(unused) {
            graph.remove_node(id);
            continue;
        }
        if outputs.len() < 2 || !WITH_OPTIONAL_OUTPUTS.contains(&&*graph.node(id).op_type) {
            continue;
        }
        for (i, value) in outputs.into_iter().enumerate().skip(1) {
            if let Some(value) = value.filter(|v| graph.is_unused(*v)) {
                graph.set_output(id, i, None)?;
                graph.remove_value(value)?;
            }
        }
    }
    for value in graph.value_ids().collect::<Vec<_>>() {
        let v = graph.value(value);
        if !v.is_input() && v.producer().is_none() && graph.is_unused(value) {
            graph.remove_value(value)?;
        }
    }
    Ok(before - graph.node_count())
}
