//! Merges nodes that compute the same, and small constants with the same contents.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::constants::is_pure;
use super::pattern::forward;
use crate::error::Result;
use crate::graph::{Attribute, Graph, Node, NodeId};

/// Constants up to so many bytes are compared.
const SMALL: usize = 256;

/// Merges equal nodes of this graph. Returns how many went.
pub fn run(graph: &mut Graph) -> Result<usize> {
    merge_constants(graph);
    let mut merged = 0;
    let mut seen: HashMap<u64, Vec<NodeId>> = HashMap::new();
    for id in graph.topological_order()?.to_vec() {
        let node = graph.node(id);
        if !node.bodies().is_empty() || !is_pure(node) {
            continue;
        }
        let Some(key) = key(node) else { continue };
        let bucket = seen.entry(key).or_default();
        let Some(&twin) = bucket.iter().find(|t| equal(graph.node(**t), graph.node(id))) else {
            bucket.push(id);
            continue;
        };
        let pairs: Vec<_> =
            graph.node(id).outputs().iter().zip(graph.node(twin).outputs()).map(|(a, b)| (*a, *b)).collect();
        // An output that the first node leaves out cannot stand for one of the second.
        if pairs.iter().any(|(a, b)| a.is_some() && b.is_none()) {
            continue;
        }
        let mut all = true;
        for (old, new) in pairs {
            if let (Some(old), Some(new)) = (old, new) {
                all &= forward(graph, old, new);
            }
        }
        if all {
            graph.remove_node(id);
            merged += 1;
        }
    }
    Ok(merged)
}

fn merge_constants(graph: &mut Graph) {
    let mut seen: HashMap<(u32, Vec<usize>, Vec<u8>), crate::graph::ValueId> = HashMap::new();
    for id in graph.value_ids().collect::<Vec<_>>() {
        let Some(tensor) = graph.constant(id).filter(|t| t.byte_len() <= SMALL) else { continue };
        if graph.value(id).uses().is_empty() {
            continue;
        }
        let key = (tensor.dtype() as u32, tensor.dims().to_vec(), tensor.as_bytes().to_vec());
        match seen.get(&key) {
            Some(first) => graph.replace_node_uses(id, *first),
            None => {
                seen.insert(key, id);
            }
        }
    }
}

/// A hash of what a node computes; `None` for attributes that are expensive to compare.
fn key(node: &Node) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    (&node.domain, &node.op_type, node.version, node.inputs(), node.outputs().len()).hash(&mut hasher);
    for (name, value) in node.attributes.iter() {
        name.hash(&mut hasher);
        match value {
            Attribute::Int(v) => v.hash(&mut hasher),
            Attribute::Float(v) => v.to_bits().hash(&mut hasher),
            Attribute::String(v) => v.hash(&mut hasher),
            Attribute::Ints(v) => v.hash(&mut hasher),
            Attribute::Tensor(t) if t.byte_len() > SMALL => return None,
            _ => {}
        }
    }
    Some(hasher.finish())
}

fn equal(a: &Node, b: &Node) -> bool {
    a.op_type == b.op_type
        && a.domain == b.domain
        && a.version == b.version
        && a.inputs() == b.inputs()
        && a.outputs().len() == b.outputs().len()
        && a.attributes == b.attributes
}
