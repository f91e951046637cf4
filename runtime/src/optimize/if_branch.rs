//! An If whose condition is known becomes the nodes of its branch.

use super::{Outcome, Rewrite, State, bodies};
use crate::error::Result;
use crate::graph::{Graph, NodeId, ValueId};

pub const REWRITE: Rewrite = Rewrite { name: "constant If", operators: &["If"], apply };

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    if !node.is_onnx("If") {
        return Ok(Outcome::NoMatch);
    }
    let Some(condition) = graph.constant_input(id, 0) else { return Ok(Outcome::NoMatch) };
    let Some(&chosen) = condition.as_bytes().first() else { return Ok(Outcome::NoMatch) };
    let branch = if chosen != 0 { "then_branch" } else { "else_branch" };
    let Some(body) = node.body(branch).cloned() else { return Ok(Outcome::NoMatch) };
    let name = node.name.clone();
    let outputs: Vec<Option<ValueId>> = node.outputs().to_vec();
    let inner = body.graph();
    // A branch output that is a capture or constant could not stand behind a graph output.
    for (output, value) in outputs.iter().zip(inner.output_values()) {
        let computed = inner.producer(value).is_some();
        let repeated = inner.output_values().filter(|v| *v == value).count() > 1;
        if output.is_some_and(|o| graph.is_output(o)) && (!computed || repeated) {
            return Outcome::check_failed("its branch passes a value on to a graph output");
        }
    }
    let results = bodies::splice(graph, inner, body.captures(), &name)?;
    for (output, value) in outputs.iter().zip(results) {
        if let Some(output) = output {
            graph.replace_all_uses(*output, value);
        }
    }
    graph.remove_node(id);
    Ok(Outcome::Fired)
}
