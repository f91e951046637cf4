//! Topological order of a graph and the naming of cycles.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::Direction;
use petgraph::algo::tarjan_scc;

use super::{Graph, NodeId};
use crate::error::{Error, Result};

impl Graph {
    /// Every node after the nodes it depends on, otherwise in insertion order. Computed once after an edit.
    ///
    /// Bodies are not entered: a node stands after whatever its bodies capture. An error names the nodes of a cycle.
    pub fn topological_order(&self) -> Result<&[NodeId]> {
        if let Some(order) = self.order.get() {
            return Ok(order);
        }
        let order = self.sort()?;
        Ok(self.order.get_or_init(|| order))
    }

    fn sort(&self) -> Result<Vec<NodeId>> {
        let in_order: Vec<NodeId> = self.node_ids().collect();
        let sorted = |n: &NodeId| self.dag.neighbors_directed(n.0, Direction::Incoming).all(|p| p < n.0);
        if in_order.iter().all(sorted) {
            return Ok(in_order);
        }
        let mut waiting = vec![0usize; self.node_bound()];
        for n in &in_order {
            waiting[n.index()] = self.dag.edges_directed(n.0, Direction::Incoming).count();
        }
        let mut ready: BinaryHeap<_> =
            in_order.iter().filter(|n| waiting[n.index()] == 0).copied().map(Reverse).collect();
        let mut order = Vec::with_capacity(in_order.len());
        while let Some(Reverse(n)) = ready.pop() {
            order.push(n);
            for next in self.dag.neighbors_directed(n.0, Direction::Outgoing) {
                waiting[next.index()] -= 1;
                if waiting[next.index()] == 0 {
                    ready.push(Reverse(NodeId(next)));
                }
            }
        }
        if order.len() == in_order.len() { Ok(order) } else { Err(self.cycle_error()) }
    }

    fn cycle_error(&self) -> Error {
        const SHOWN: usize = 8;
        let mut nodes = tarjan_scc(&self.dag)
            .into_iter()
            .filter(|c| c.len() > 1 || c.iter().any(|n| self.dag.contains_edge(*n, *n)))
            .min_by_key(Vec::len)
            .unwrap_or_default();
        nodes.sort();
        let labels: Vec<String> =
            nodes.iter().take(SHOWN).map(|n| format!("'{}'", self.node(NodeId(*n)).label(self))).collect();
        let more =
            if nodes.len() > SHOWN { format!(" and {} more", nodes.len() - SHOWN) } else { String::new() };
        Error::invalid_model(format!(
            "the graph has a cycle through nodes {}{more}; every input of a node must be computable before the node",
            labels.join(", ")
        ))
    }
}
