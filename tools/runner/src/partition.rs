//! The partition of a model as a picture or as JSON: what runs where, what flows between, and why nodes were declined.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value as Json, json};
use tenon_runtime::graph::NodeId;
use tenon_runtime::session::{Placement, Session};

use crate::drawing::{Arrow, Block, Drawing};

/// Fill colours of providers, in the order in which they first appear.
const COLOURS: [&str; 6] = ["#dbe9ff", "#dcf5dc", "#ffe6cc", "#f3dcff", "#fff6c2", "#e6e6e6"];
/// Operators named in a box.
const OPERATORS_SHOWN: usize = 6;

/// One partition with its nodes.
struct Part<'a> {
    provider: &'a str,
    nodes: Vec<&'a Placement>,
}

/// Partitions by number, and how many values go from one to another.
struct Parts<'a> {
    parts: BTreeMap<usize, Part<'a>>,
    flows: BTreeMap<(usize, usize), usize>,
}

impl<'a> Parts<'a> {
    fn of(session: &'a Session) -> Self {
        let mut parts: BTreeMap<usize, Part<'a>> = BTreeMap::new();
        // Nested graphs are cut on their own; the picture is of the model's own graph.
        for placement in session.report().placements.iter().filter(|p| p.id.is_some()) {
            let part = parts.entry(placement.partition);
            part.or_insert_with(|| Part { provider: &placement.provider, nodes: Vec::new() })
                .nodes
                .push(placement);
        }
        Parts { parts, flows: flows(session) }
    }
}

/// Values between partitions, counted once for each partition that reads them.
fn flows(session: &Session) -> BTreeMap<(usize, usize), usize> {
    let graph = session.optimized_graph();
    let placements = &session.report().placements;
    let partition: HashMap<NodeId, usize> =
        placements.iter().filter_map(|p| Some((p.id?, p.partition))).collect();
    let place = |id| partition.get(&id).copied();
    let mut read: BTreeMap<(usize, usize), std::collections::BTreeSet<usize>> = BTreeMap::new();
    for id in graph.node_ids() {
        let Some(to) = place(id) else { continue };
        for value in graph.node(id).reads() {
            let from = graph.producer(value).and_then(|(id, _)| place(id));
            if let Some(from) = from.filter(|from| *from != to) {
                read.entry((from, to)).or_default().insert(value.index());
            }
        }
    }
    read.into_iter().map(|(ends, values)| (ends, values.len())).collect()
}

/// The partition as a drawing.
pub fn svg(session: &Session) -> String {
    let parts = Parts::of(session);
    let mut providers: Vec<&str> = Vec::new();
    let mut drawing = Drawing::default();
    let mut index = HashMap::new();
    for (number, part) in &parts.parts {
        if !providers.contains(&part.provider) {
            providers.push(part.provider);
        }
        let colour = providers.iter().position(|p| *p == part.provider).unwrap_or(0) % COLOURS.len();
        index.insert(*number, drawing.blocks.len());
        drawing.blocks.push(Block { lines: describe(*number, part), colour: COLOURS[colour] });
    }
    for ((from, to), values) in &parts.flows {
        let label = format!("{values} value{}", if *values == 1 { "" } else { "s" });
        drawing.arrows.push(Arrow { from: index[from], to: index[to], label });
    }
    drawing.to_svg()
}

fn describe(number: usize, part: &Part<'_>) -> Vec<String> {
    let nodes = part.nodes.len();
    let plural = if nodes == 1 { "" } else { "s" };
    let mut lines = vec![format!("{number}: {} · {nodes} node{plural}", part.provider)];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    part.nodes.iter().for_each(|n| *counts.entry(n.op.as_str()).or_default() += 1);
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(op, n)| (std::cmp::Reverse(*n), *op));
    lines.extend(counts.iter().take(OPERATORS_SHOWN).map(|(op, n)| format!("{n} x {op}")));
    if counts.len() > OPERATORS_SHOWN {
        lines.push(format!(".. and {} more operators", counts.len() - OPERATORS_SHOWN));
    }
    lines
}

/// The partition as JSON.
pub fn json(session: &Session) -> Json {
    let parts = Parts::of(session);
    let node = |p: &&Placement| {
        let declines: Vec<Json> = p
            .declines
            .iter()
            .map(|(provider, reason)| json!({ "provider": provider, "reason": reason }))
            .collect();
        json!({ "node": p.node, "op": p.op, "declines": declines })
    };
    let partitions: Vec<Json> = parts
        .parts
        .iter()
        .map(|(number, part)| {
            let nodes: Vec<Json> = part.nodes.iter().map(node).collect();
            json!({ "partition": number, "provider": part.provider, "nodes": nodes })
        })
        .collect();
    let flows: Vec<Json> =
        parts.flows.iter().map(|((f, t), n)| json!({ "from": f, "to": t, "values": n })).collect();
    json!({ "partitions": partitions, "flows": flows })
}
