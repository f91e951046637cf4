//! A Sum of two is an Add, which later rewrites and fused kernels know.

use super::pattern::{replace, version};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId};

pub const REWRITE: Rewrite = Rewrite { name: "Sum of two", operators: &["Sum"], apply };

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    let [Some(a), Some(b)] = *node.inputs() else { return Ok(Outcome::NoMatch) };
    if !node.domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let add = Node::new("", "Add", version(graph, 7)).with_name(node.name.clone());
    replace(graph, id, add, &[Some(a), Some(b)])?;
    Ok(Outcome::Fired)
}
