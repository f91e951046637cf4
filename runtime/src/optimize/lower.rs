//! Replaces the nodes whose meaning lies in other parts of the graph: FlexAttention, whose scores may be changed by nested
//! graphs, and Gradient, which names the values between which it differentiates.

use super::{flex_attention, gradient};
use crate::error::{Result, ResultExt};
use crate::graph::{Graph, NodeId};
use crate::shape;

/// The domain of FlexAttention.
const PREVIEW: &str = "ai.onnx.preview";
/// The domain of Gradient.
const TRAINING: &str = "ai.onnx.preview.training";

/// Replaces every FlexAttention and Gradient node of `graph` and of the graphs nested in it by standard operators.
/// Returns how many there were.
///
/// It needs the inferred types and the names of the model, so it comes after shape inference and before every rewrite.
/// A node that cannot be replaced is an error that says why.
pub fn lower(graph: &mut Graph) -> Result<usize> {
    let mut count = 0;
    for id in graph.topological_order()?.to_vec() {
        let node = graph.node(id);
        let expand: fn(&mut Graph, NodeId) -> Result<()> = if node.is(PREVIEW, "FlexAttention") {
            flex_attention::expand
        } else if node.is(TRAINING, "Gradient") {
            gradient::expand
        } else {
            for body in 0..graph.node(id).bodies().len() {
                let label = graph.node(id).label(graph);
                count += lower(graph.body_graph_mut(id, body)).in_node(|| label)?;
            }
            continue;
        };
        let label = graph.node(id).label(graph);
        expand(graph, id).in_node(|| label)?;
        count += 1;
    }
    if count > 0 {
        shape::infer(graph, &shape::Options::default())?;
    }
    Ok(count)
}
