//! Replaces nodes that no provider takes by the bodies of their functions, until every node is taken or has no body.

use crate::error::{Result, ResultExt};
use crate::graph::host_op;
use crate::graph::{Graph, NodeId, inline};
use crate::optimize;
use crate::plan::Compiler;
use crate::shape;

/// Functions inside functions are replaced this many levels deep.
const ROUNDS: usize = 8;

/// Replaces what must be replaced in `graph` and the graphs nested in it. Returns how many nodes were replaced.
pub(super) fn run(graph: &mut Graph, compiler: &Compiler) -> Result<usize> {
    let mut replaced = 0;
    for _ in 0..ROUNDS {
        let round = replace_declined(graph, compiler)?;
        if round == 0 {
            break;
        }
        replaced += round;
        shape::infer(graph, &shape::Options::default())?;
    }
    for id in graph.node_ids().collect::<Vec<_>>() {
        for body in 0..graph.node(id).bodies().len() {
            let label = graph.node(id).label(graph);
            replaced += run(graph.body_graph_mut(id, body), compiler).in_node(|| label)?;
        }
    }
    Ok(replaced)
}

fn replace_declined(graph: &mut Graph, compiler: &Compiler) -> Result<usize> {
    let candidates: Vec<NodeId> =
        graph.node_ids().filter(|&id| !host_op::is_host(graph, id) && has_body(graph, id)).collect();
    if candidates.is_empty() {
        return Ok(0);
    }
    let covered = compiler.claims(graph)?.covered(graph);
    let mut replaced = 0;
    for id in candidates.into_iter().filter(|id| !covered[id.index()]) {
        let label = graph.node(id).label(graph);
        let node = graph.node(id);
        let (domain, op_type, version) = (node.domain.clone(), node.op_type.clone(), node.version);
        let done = match inline::standard_function(&domain, &op_type, version) {
            Some(body) => inline::inline_node(graph, id, body).map(|_| true),
            None => optimize::expand(graph, id),
        };
        replaced += usize::from(done.in_node(|| label)?);
    }
    Ok(replaced)
}

fn has_body(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    &*node.domain == optimize::DOMAIN
        || inline::standard_function(&node.domain, &node.op_type, node.version).is_some()
}
