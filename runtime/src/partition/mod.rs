//! Decides which device runs which node: gathers claims, chooses by cost, and cuts the graph into convex clusters.

mod assign;
mod claims;

use std::fmt::Write as _;

pub use assign::{Chooser, DeviceCost, assign};
pub use claims::{Claims, Decline, Offer, gather};

use crate::graph::{Graph, NodeId};

/// Where a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In the runtime itself: control flow, sequences, optionals and maps.
    Host,
    /// On the device with this number in the session's list.
    Device(usize),
}

/// Nodes that run together at one place. No path between two of them leaves the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub place: Place,
    /// In topological order.
    pub nodes: Vec<NodeId>,
}

/// A graph cut into clusters.
#[derive(Clone, Debug, Default)]
pub struct Partitions {
    /// In an order in which they can run one after the other.
    pub clusters: Vec<Cluster>,
    /// Why devices declined nodes.
    pub declines: Vec<Decline>,
}

impl Partitions {
    /// The text form: one block a cluster, one line a node, then the reasons of declines.
    pub fn to_text(&self, graph: &Graph, devices: &[String]) -> String {
        let mut text = String::new();
        for (number, cluster) in self.clusters.iter().enumerate() {
            let place = place_name(cluster.place, devices);
            let _ = writeln!(text, "partition {number} on {place}: {} nodes", cluster.nodes.len());
            for &id in &cluster.nodes {
                let node = graph.node(id);
                let _ = writeln!(text, "  {} ({})", node.label(graph), node.operator());
            }
        }
        for decline in &self.declines {
            let node = graph.node(decline.node).label(graph);
            let device = devices.get(decline.device).map_or("?", String::as_str);
            let _ = writeln!(text, "declined by {device}: {node}: {}", decline.reason);
        }
        text
    }
}

/// The name of a place for people.
pub fn place_name(place: Place, devices: &[String]) -> &str {
    match place {
        Place::Host => "host",
        Place::Device(index) => devices.get(index).map_or("?", String::as_str),
    }
}
