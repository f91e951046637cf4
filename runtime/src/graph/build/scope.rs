//! Name scopes while a graph is built: finding a value by name, and capturing it where it belongs to an outer graph.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::{Builder, canonical_domain};
use crate::error::{Error, Result};
use crate::graph::{Attribute, Graph, Opsets, ValueId};

/// A graph under construction.
pub(super) struct Building {
    pub graph: Graph,
    /// Values of the enclosing graph; the last inputs of `graph` receive them.
    pub captures: Vec<ValueId>,
}

/// The values of the attributes of a function call; what is not here was left out.
pub(super) type Arguments<'a> = Rc<HashMap<&'a str, Attribute>>;

/// One scope of names: a graph or body, or the inside of a function call.
pub(super) struct Frame<'a> {
    /// Index of the graph that nodes of this scope go into.
    pub graph: usize,
    /// `None` for the name of a function input that the call leaves out.
    pub names: HashMap<&'a str, Option<ValueId>>,
    /// The scope whose names are visible here; functions see none.
    pub outer: Option<usize>,
    /// Outputs of the enclosing function call that no node of this scope computes yet.
    pub awaited: HashSet<ValueId>,
    pub arguments: Option<Arguments<'a>>,
    pub opsets: Arc<Opsets>,
    /// Put before the names of nodes and values of a function call.
    pub prefix: String,
}

impl Frame<'_> {
    /// A scope without names whose nodes go into graph number `graph`.
    pub fn closed(graph: usize, opsets: Arc<Opsets>) -> Self {
        let (names, awaited) = (HashMap::new(), HashSet::new());
        Frame { graph, names, outer: None, awaited, arguments: None, opsets, prefix: String::new() }
    }
}

impl<'a> Builder<'a> {
    /// The graph that scope `frame` builds.
    pub(super) fn graph_of(&mut self, frame: usize) -> &mut Graph {
        let index = self.frames[frame].graph;
        &mut self.graphs[index].graph
    }

    /// The value that `name` means in scope `frame`, captured from outer graphs as needed.
    ///
    /// `Some(None)` is a function input that the call leaves out; `None` an unknown name.
    pub(super) fn resolve(&mut self, frame: usize, name: &'a str) -> Option<Option<ValueId>> {
        let mut path = Vec::new();
        let mut at = frame;
        let mut found = loop {
            if let Some(id) = self.frames[at].names.get(name) {
                break *id;
            }
            path.push(at);
            at = self.frames[at].outer?;
        };
        for inner in path.into_iter().rev() {
            found = found.map(|id| self.carry(at, inner, id));
            self.frames[inner].names.insert(name, found);
            at = inner;
        }
        Some(found)
    }

    /// Makes value `id` of scope `outer`'s graph known in scope `inner`'s graph: constants are shared, others captured.
    fn carry(&mut self, outer: usize, inner: usize, id: ValueId) -> ValueId {
        let (from, to) = (self.frames[outer].graph, self.frames[inner].graph);
        if from == to {
            return id;
        }
        let value = self.graphs[from].graph.value(id).clone();
        let building = &mut self.graphs[to];
        if let Some(tensor) = value.constant {
            return building.graph.add_constant(&value.name, tensor);
        }
        let inner = building.graph.add_value(&value.name, value.ty);
        building.graph.adopt_input(inner);
        building.captures.push(id);
        inner
    }

    /// The version of `domain` in scope `frame`.
    pub(super) fn version_of(&self, frame: usize, domain: &str) -> Result<i64> {
        let domain = canonical_domain(domain);
        match self.frames[frame].opsets.get(domain) {
            Some(version) => Ok(*version),
            None if domain.is_empty() || domain.starts_with("ai.onnx") => {
                let shown = if domain.is_empty() { "ai.onnx" } else { domain };
                Err(Error::invalid_model(format!(
                    "the model does not import operator set {shown}, which the node needs"
                )))
            }
            None => Ok(1),
        }
    }

    /// The error for a name that no scope knows, with the names that are most like it.
    pub(super) fn unknown_name(&self, frame: usize, what: &str, name: &str) -> Error {
        let mut near: Vec<(usize, &str)> = Vec::new();
        let mut at = Some(frame);
        while let Some(index) = at {
            let frame = &self.frames[index];
            let candidates = frame.names.keys().take(MAX_COMPARED);
            near.extend(candidates.filter_map(|n| Some((distance(n, name)?, *n))));
            at = frame.outer;
        }
        near.sort();
        near.dedup();
        let near: Vec<String> = near.iter().take(3).map(|(_, n)| format!("'{n}'")).collect();
        let hint =
            if near.is_empty() { String::new() } else { format!(" (similar names: {})", near.join(", ")) };
        Error::invalid_model(format!(
            "{what} '{name}' is neither computed by a node nor a graph input nor an initializer{hint}"
        ))
    }
}

/// How many names of a scope an unknown one is compared with.
const MAX_COMPARED: usize = 20_000;

/// The number of insertions, deletions and substitutions between two names, when it is small for their length.
fn distance(a: &str, b: &str) -> Option<usize> {
    const MAX_LENGTH: usize = 200;
    let allowed = 1 + b.len() / 6;
    if a.len().abs_diff(b.len()) > allowed || a.len().max(b.len()) > MAX_LENGTH {
        return None;
    }
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    Some(row[b.len()]).filter(|d| *d <= allowed)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn only_similar_names_have_a_distance() {
        assert_eq!(distance("weight", "weigth"), Some(2));
        assert_eq!(distance("w1", "w2"), Some(1));
        assert_eq!(distance("bias", "kernel"), None);
        assert_eq!(distance("x", "x"), Some(0));
    }
}
