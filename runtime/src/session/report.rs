//! What opening a session found out, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::graph::{Graph, NodeId};
use crate::optimize::FusionReport;
use crate::partition::{Partitions, Place, place_name};

/// A stage of the pipeline that has a text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The graph as the file has it.
    Graph,
    /// With inferred types.
    Shape,
    /// After the rewrites.
    Optimized,
    /// Cut into clusters.
    Partitions,
    /// Steps and slots.
    Plan,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Graph => "graph",
            Stage::Shape => "shape",
            Stage::Optimized => "optimized",
            Stage::Partitions => "partitions",
            Stage::Plan => "plan",
        })
    }
}

/// How much of the model one place runs; nested graphs counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderShare {
    /// The device's name, or "host" for control flow and sequences.
    pub name: String,
    /// What the device calls itself; empty for the host.
    pub device: String,
    pub nodes: usize,
    pub partitions: usize,
}

/// Where one node runs and who declined it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: String,
    pub op: String,
    pub provider: String,
    pub partition: usize,
    /// Device name and reason.
    pub declines: Vec<(String, String)>,
    /// The node in [`crate::session::Session::optimized_graph`]; `None` inside nested graphs.
    pub id: Option<NodeId>,
}

/// What opening a session found out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Name and duration of each stage, in order.
    pub stages: Vec<(&'static str, Duration)>,
    pub providers: Vec<ProviderShare>,
    pub placements: Vec<Placement>,
    pub fusions: Vec<FusionReport>,
    /// Nodes that were replaced by the body of their function because no provider took them.
    pub expanded: usize,
}

impl Report {
    /// Adds the clusters of one graph; `top` for the model's own graph.
    pub(super) fn add(
        &mut self,
        graph: &Graph,
        partitions: &Partitions,
        names: &[String],
        devices: &[String],
        top: bool,
    ) {
        let mut declines: BTreeMap<NodeId, Vec<(String, String)>> = BTreeMap::new();
        for decline in &partitions.declines {
            let name = names.get(decline.device).cloned().unwrap_or_default();
            declines.entry(decline.node).or_default().push((name, decline.reason.clone()));
        }
        for (partition, cluster) in partitions.clusters.iter().enumerate() {
            let provider = place_name(cluster.place, names).to_string();
            let device = match cluster.place {
                Place::Host => String::new(),
                Place::Device(index) => devices.get(index).cloned().unwrap_or_default(),
            };
            let share = match self.providers.iter_mut().find(|share| share.name == provider) {
                Some(share) => share,
                None => {
                    self.providers.push(ProviderShare {
                        name: provider.clone(),
                        device,
                        nodes: 0,
                        partitions: 0,
                    });
                    self.providers.last_mut().expect("one was just added")
                }
            };
            share.nodes += cluster.nodes.len();
            share.partitions += 1;
            for &id in &cluster.nodes {
                let node = graph.node(id);
                self.placements.push(Placement {
                    node: node.label(graph),
                    op: node.operator(),
                    provider: provider.clone(),
                    partition,
                    declines: declines.remove(&id).unwrap_or_default(),
                    id: top.then_some(id),
                });
            }
        }
    }
}

/// The partition in the DOT language: one box a cluster, one node a node.
pub(super) fn dot(graph: &Graph, report: &Report) -> String {
    let mut text = String::from("digraph partition {\n  rankdir=TB;\n  node [shape=box, style=rounded];\n");
    let mut clusters: BTreeMap<usize, Vec<&Placement>> = BTreeMap::new();
    for placement in report.placements.iter().filter(|placement| placement.id.is_some()) {
        clusters.entry(placement.partition).or_default().push(placement);
    }
    for (number, placements) in &clusters {
        let provider = placements.first().map_or("", |placement| placement.provider.as_str());
        let _ =
            writeln!(text, "  subgraph cluster_{number} {{\n    label=\"{number}: {}\";", escape(provider));
        for placement in placements {
            let Some(id) = placement.id else { continue };
            let reasons: Vec<String> =
                placement.declines.iter().map(|(device, reason)| format!("{device}: {reason}")).collect();
            let (label, tooltip) = (escape(&placement.op), escape(&reasons.join("; ")));
            let _ = writeln!(text, "    n{} [label=\"{label}\", tooltip=\"{tooltip}\"];", id.index());
        }
        text.push_str("  }\n");
    }
    for id in graph.node_ids() {
        for value in graph.node(id).reads() {
            if let Some((producer, _)) = graph.producer(value) {
                let label = graph.value(value).ty().map(|ty| escape(&ty.to_string())).unwrap_or_default();
                let _ = writeln!(text, "  n{} -> n{} [label=\"{label}\"];", producer.index(), id.index());
            }
        }
    }
    text.push_str("}\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}
