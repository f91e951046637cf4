//! Chooses a device for each node and cuts the graph into convex clusters.
//!
//! Sets are handed out in the order of the devices; then whole clusters move to a cheaper device while the estimated time,
//! transfers included, goes down. A cluster is all nodes of one place and one stage, where the stage of a node counts the
//! changes of place on the longest path that leads to it. A path that leaves a place and comes back raises the stage
//! twice, so clusters are convex.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, Result, Stage};
use crate::graph::host_op;
use crate::graph::{Graph, NodeId, ValueId};
use crate::partition::{Claims, Cluster, Offer, Partitions, Place};

/// What the chooser knows about a device.
#[derive(Clone, Debug)]
pub struct DeviceCost {
    pub name: String,
    /// False when values must be copied to and from host memory.
    pub shares_host_memory: bool,
    /// Bytes a nanosecond between host and device.
    pub transfer_bytes_per_ns: f64,
    /// Nanoseconds a transfer takes however small it is.
    pub transfer_latency_ns: f64,
}

/// Time of a node whose provider gives no estimate.
const UNKNOWN_NODE_NS: f64 = 2_000.0;
/// Elements assumed along a dimension that is not known.
const UNKNOWN_DIM: usize = 64;
/// Rounds of moving clusters; each is one pass over all.
const ROUNDS: usize = 8;

/// The inputs of the decision.
pub struct Chooser<'a> {
    pub graph: &'a Graph,
    pub claims: &'a Claims,
    pub devices: &'a [DeviceCost],
    /// Move clusters to the cheaper device; off: each node stays with the first device that offers to run it.
    pub balance: bool,
}

/// Places every node and cuts the graph into clusters. A node that no device takes is an error with every reason.
pub fn assign(chooser: &Chooser<'_>) -> Result<Partitions> {
    let order = chooser.graph.topological_order()?.to_vec();
    let mut places = chooser.first_places(&order)?;
    if chooser.balance && chooser.devices.len() > 1 {
        for _ in 0..ROUNDS {
            if !chooser.improve(&order, &mut places) {
                break;
            }
        }
    }
    Ok(Partitions { clusters: chooser.clusters(&order, &places), declines: chooser.claims.declines.clone() })
}

type Places = Vec<Option<Place>>;

impl Chooser<'_> {
    fn first_places(&self, order: &[NodeId]) -> Result<Places> {
        let mut places: Places = vec![None; self.graph.node_bound()];
        for &id in order {
            if host_op::is_host(self.graph, id) {
                places[id.index()] = Some(Place::Host);
            }
        }
        for device in 0..self.devices.len() {
            for offer in self.claims.offers.iter().filter(|offer| offer.device == device) {
                if offer.nodes.iter().all(|node| places[node.index()].is_none()) {
                    offer.nodes.iter().for_each(|node| places[node.index()] = Some(Place::Device(device)));
                }
            }
        }
        match order.iter().find(|id| places[id.index()].is_none()) {
            None => Ok(places),
            Some(&id) => Err(self.unplaced(id)),
        }
    }

    fn unplaced(&self, id: NodeId) -> Error {
        let node = self.graph.node(id);
        let mut message = format!("no provider runs operator {} (opset {})", node.operator(), node.version);
        for (device, reason) in self.claims.reasons(id) {
            message.push_str(&format!("; {}: {reason}", self.devices[device].name));
        }
        if self.devices.is_empty() {
            message.push_str("; no provider is loaded");
        }
        Error::unsupported(message).in_node(node.label(self.graph)).at_stage(Stage::Partition)
    }

    /// Moves each cluster to the device where the whole is estimated fastest. True when anything moved.
    fn improve(&self, order: &[NodeId], places: &mut Places) -> bool {
        let mut clusters = self.clusters(order, places);
        clusters.sort_by_key(|cluster| cluster.nodes.len());
        let mut moved = false;
        for cluster in clusters {
            let Place::Device(current) = cluster.place else { continue };
            // Earlier moves of this round may have taken part of the cluster along.
            if cluster.nodes.iter().any(|node| places[node.index()] != Some(cluster.place)) {
                continue;
            }
            let members: HashSet<NodeId> = cluster.nodes.iter().copied().collect();
            let mut best = (current, self.cost(&cluster.nodes, &members, current, places));
            for device in (0..self.devices.len()).filter(|&device| device != current) {
                if self.runs_all(&members, device) {
                    let cost = self.cost(&cluster.nodes, &members, device, places);
                    if cost < best.1 {
                        best = (device, cost);
                    }
                }
            }
            if best.0 != current {
                cluster.nodes.iter().for_each(|node| places[node.index()] = Some(Place::Device(best.0)));
                moved = true;
            }
        }
        moved
    }

    /// True when `device` offers sets that make up exactly these nodes.
    fn runs_all(&self, members: &HashSet<NodeId>, device: usize) -> bool {
        let offers = self.offers_within(members, device);
        let covered: HashSet<NodeId> = offers.flat_map(|offer| offer.nodes.iter().copied()).collect();
        covered.len() == members.len()
    }

    fn offers_within(&self, members: &HashSet<NodeId>, device: usize) -> impl Iterator<Item = &Offer> {
        let inside = move |offer: &&Offer| {
            offer.device == device && offer.nodes.iter().all(|node| members.contains(node))
        };
        self.claims.offers.iter().filter(inside)
    }

    /// Estimated nanoseconds of running `nodes` on `device` while all others stay where they are.
    fn cost(&self, nodes: &[NodeId], members: &HashSet<NodeId>, device: usize, places: &Places) -> f64 {
        let time = |offer: &Offer| offer.time_ns.unwrap_or(UNKNOWN_NODE_NS * offer.nodes.len() as f64);
        let compute: f64 = self.offers_within(members, device).map(time).sum();
        compute + self.transfers(nodes, members, device, places)
    }

    fn transfers(&self, nodes: &[NodeId], members: &HashSet<NodeId>, device: usize, places: &Places) -> f64 {
        let mut total = 0.0;
        let mut seen: HashSet<ValueId> = HashSet::new();
        for &id in nodes {
            let node = self.graph.node(id);
            for value in node.reads().filter(|&value| self.graph.constant(value).is_none()) {
                let from = self.graph.producer(value).map(|(producer, _)| producer);
                if from.is_none_or(|producer| !members.contains(&producer)) && seen.insert(value) {
                    let source = from.and_then(|producer| places[producer.index()]).unwrap_or(Place::Host);
                    total += self.transfer(value, source, Place::Device(device));
                }
            }
            for value in node.outputs().iter().flatten() {
                let mut targets: Vec<Place> = self
                    .graph
                    .consumers(*value)
                    .filter(|consumer| !members.contains(consumer))
                    .filter_map(|consumer| places[consumer.index()])
                    .collect();
                if self.graph.is_output(*value) {
                    targets.push(Place::Host);
                }
                targets.sort_unstable();
                targets.dedup();
                total +=
                    targets.iter().map(|&to| self.transfer(*value, Place::Device(device), to)).sum::<f64>();
            }
        }
        total
    }

    fn transfer(&self, value: ValueId, from: Place, to: Place) -> f64 {
        if from == to {
            return 0.0;
        }
        [from, to].iter().map(|&place| self.crossing(value, place)).sum()
    }

    /// Nanoseconds to bring `value` over the boundary between host memory and the memory of `place`.
    fn crossing(&self, value: ValueId, place: Place) -> f64 {
        let Place::Device(device) = place else { return 0.0 };
        let device = &self.devices[device];
        if device.shares_host_memory {
            return 0.0;
        }
        device.transfer_latency_ns + self.bytes(value) / device.transfer_bytes_per_ns
    }

    fn bytes(&self, value: ValueId) -> f64 {
        let Some(ty) = self.graph.value(value).ty().and_then(|ty| ty.as_tensor()) else { return 4096.0 };
        let elements: f64 = match &ty.shape {
            None => 1024.0,
            Some(shape) => shape.iter().map(|dim| dim.known().unwrap_or(UNKNOWN_DIM) as f64).product(),
        };
        elements * (ty.dtype.bits().max(8) / 8) as f64
    }

    /// Groups nodes by stage and place.
    fn clusters(&self, order: &[NodeId], places: &Places) -> Vec<Cluster> {
        let mut stages = vec![0u32; self.graph.node_bound()];
        let mut groups: BTreeMap<(u32, Place), Vec<NodeId>> = BTreeMap::new();
        for &id in order {
            let place = places[id.index()].unwrap_or(Place::Host);
            let producers = self.graph.node(id).reads().filter_map(|value| self.graph.producer(value));
            let stage = producers
                .map(|(producer, _)| {
                    stages[producer.index()] + u32::from(places[producer.index()] != places[id.index()])
                })
                .max()
                .unwrap_or(0);
            stages[id.index()] = stage;
            groups.entry((stage, place)).or_default().push(id);
        }
        groups.into_iter().map(|((_, place), nodes)| Cluster { place, nodes }).collect()
    }
}
