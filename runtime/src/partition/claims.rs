//! What each device offers to run and why it declines the rest.

use tenon_plugin_api::host;

use crate::error::{Error, Result, Stage};
use crate::graph::host_op;
use crate::graph::{Graph, NodeId};
use crate::plugin::{GraphView, provider_error};

/// Nodes that one device would run together, with the expected time.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub device: usize,
    pub nodes: Vec<NodeId>,
    /// Expected nanoseconds for one run, transfers excluded; `None` when the provider cannot tell.
    pub time_ns: Option<f64>,
}

/// One device's refusal of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decline {
    pub device: usize,
    pub node: NodeId,
    pub reason: String,
}

/// The answers of all devices about one graph.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    pub offers: Vec<Offer>,
    pub declines: Vec<Decline>,
}

impl Claims {
    /// For each node (by index) whether any device offers to run it.
    pub fn covered(&self, graph: &Graph) -> Vec<bool> {
        let mut covered = vec![false; graph.node_bound()];
        self.offers.iter().flat_map(|offer| &offer.nodes).for_each(|node| covered[node.index()] = true);
        covered
    }

    /// The sentences with which devices declined `node`.
    pub fn reasons(&self, node: NodeId) -> impl Iterator<Item = (usize, &str)> {
        self.declines.iter().filter(move |d| d.node == node).map(|d| (d.device, d.reason.as_str()))
    }
}

/// Why every provider declines a node with nested graphs.
const NESTED: &str = "the node has graph attributes, which only operators of the runtime itself can have";

/// Asks every device about the nodes of `graph` that the host does not run itself.
pub fn gather(graph: &Graph, devices: &[std::sync::Arc<host::Device>]) -> Result<Claims> {
    let foreign = graph.topological_order()?.iter().copied().filter(|&id| !host_op::is_host(graph, id));
    let (nodes, nested): (Vec<NodeId>, Vec<NodeId>) =
        foreign.partition(|&id| graph.node(id).bodies().is_empty());
    let mut claims = Claims::default();
    for (device, node) in (0..devices.len()).flat_map(|device| nested.iter().map(move |&node| (device, node)))
    {
        claims.declines.push(Decline { device, node, reason: NESTED.to_owned() });
    }
    if nodes.is_empty() {
        return Ok(claims);
    }
    let outputs: Vec<_> = graph.output_values().collect();
    let view = GraphView::new(graph, &nodes, graph.inputs(), &outputs);
    for (device, handle) in devices.iter().enumerate() {
        let answer = handle
            .claim(view.as_ffi(), "")
            .map_err(|error| provider_error(&error).at_stage(Stage::Partition))?;
        for (set, cost) in answer.sets {
            let nodes = set.iter().map(|&index| node_at(&nodes, index)).collect::<Result<_>>()?;
            claims.offers.push(Offer {
                device,
                nodes,
                time_ns: (cost.time_ns >= 0.0).then_some(cost.time_ns),
            });
        }
        for (index, reason) in answer.declines {
            claims.declines.push(Decline { device, node: node_at(&nodes, index)?, reason });
        }
    }
    Ok(claims)
}

fn node_at(nodes: &[NodeId], index: u32) -> Result<NodeId> {
    nodes.get(index as usize).copied().ok_or_else(|| {
        Error::provider(format!("a provider named node {index} of a graph of {} nodes", nodes.len()))
            .at_stage(Stage::Partition)
    })
}
