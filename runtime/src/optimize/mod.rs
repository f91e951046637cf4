//! Rewrites of the graph that no vendor has a part in: cleaning up, folding, fusing. Each says what it did and why not.
//!
//! Nodes keep the operator set version they came with; a node that a rewrite makes has the version that introduced its
//! operator, or the model's where that is newer. Large constants are read for work that does not make them larger, up to a
//! bound for all of them; the rest is left in the graph as ordinary nodes, which a provider computes once.

mod activation;
mod affine;
mod attention;
mod batch_norm;
mod bodies;
mod body;
mod common_nodes;
mod constants;
mod conv;
mod dead_code;
mod flex_attention;
mod gelu;
mod gradient;
mod identity;
mod if_branch;
mod layer_norm;
mod lower;
mod matmul;
mod pattern;
mod quantized;
mod reshape;
mod resize;
mod rms_norm;
mod rope;
mod sum;
mod swish;
mod transpose;
mod variance;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

pub use body::{body, expand};
pub use lower::lower;

use crate::error::{Result, ResultExt, Stage};
use crate::graph::{Graph, NodeId, ValueId};
use crate::shape;
use crate::tensor::Tensor;

/// The domain of the operators that only this runtime has. Each has a [`body`] of standard operators.
pub const DOMAIN: &str = "tenon";

/// Sweeps over the graph before a rewrite that keeps firing is stopped.
const ROUNDS: usize = 10;

/// Reasons kept for one rewrite.
const REASONS: usize = 100;

/// Computes nodes whose inputs are constant.
pub trait Evaluator {
    /// Runs a graph of one node without inputs; returns its outputs in order. An error means that the node stays.
    fn evaluate(&self, graph: &Graph) -> Result<Vec<Tensor>>;
}

/// What the rewrites may do.
pub struct Context<'a> {
    /// Computes constants; without it only what needs no arithmetic is folded.
    pub evaluator: Option<&'a dyn Evaluator>,
    /// A node is folded when its inputs together, and its outputs together, have at most so many bytes.
    pub fold_limit_bytes: usize,
    /// Bytes that work on larger constants may make in all.
    pub weight_limit_bytes: usize,
    /// Sizes of symbolic dimensions of the graph inputs; names that are fixed already are ignored.
    pub dims: shape::Options,
    /// Whether several nodes may become one of another operator.
    pub fuse: bool,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Context {
            evaluator: None,
            fold_limit_bytes: 64 << 10,
            weight_limit_bytes: 512 << 20,
            dims: shape::Options::default(),
            fuse: true,
        }
    }
}

/// What one rewrite did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FusionReport {
    pub rewrite: &'static str,
    /// How often it changed the graph.
    pub fired: usize,
    /// Nodes that it matched and left alone, each with the reason.
    pub skipped: Vec<(String, String)>,
}

impl fmt::Display for FusionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} times", self.rewrite, self.fired)?;
        for (node, reason) in &self.skipped {
            write!(f, "\n  not at '{node}': {reason}")?;
        }
        Ok(())
    }
}

/// The answer of a rewrite at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The graph was changed.
    Fired,
    /// The node is not where the pattern ends.
    NoMatch,
    /// The pattern is there, but the rewrite would not change anything.
    NoEffect,
    /// The pattern is there, but a condition does not hold.
    CheckFailed(String),
}

impl Outcome {
    fn check_failed(reason: impl Into<String>) -> Result<Outcome> {
        Ok(Outcome::CheckFailed(reason.into()))
    }
}

/// A rewrite that looks at one node at a time.
struct Rewrite {
    name: &'static str,
    /// Operators of the nodes it looks at, of any domain; every node when empty.
    operators: &'static [&'static str],
    apply: fn(&mut Graph, NodeId, &mut State<'_>) -> Result<Outcome>,
}

/// What lasts from node to node.
struct State<'a> {
    context: &'a Context<'a>,
    /// Outputs of nodes that the evaluator refused; value ids are never reused.
    refused: HashSet<ValueId>,
    /// What is left of [`Context::weight_limit_bytes`].
    weight_bytes: usize,
}

const CLEANUPS: &[Rewrite] = &[
    identity::REWRITE,
    constants::RESHAPED,
    constants::FOLDED,
    if_branch::REWRITE,
    transpose::MERGE,
    transpose::BATCHED,
    reshape::STATIC_RESHAPE,
    reshape::STATIC_EXPAND,
    reshape::MERGE,
    resize::STATIC,
    sum::REWRITE,
];

const FUSIONS: &[Rewrite] = &[
    swish::HARD_SWISH,
    swish::HARD_SWISH_QUOTIENT,
    swish::HARD_SIGMOID,
    swish::SWISH,
    gelu::ERF,
    gelu::TANH,
    layer_norm::REWRITE,
    rms_norm::REWRITE,
    rope::REWRITE,
    attention::REWRITE,
];

const EPILOGUES: &[Rewrite] = &[
    batch_norm::REWRITE,
    affine::REWRITE,
    conv::CHANNEL_BIAS,
    conv::EPILOGUE,
    matmul::TRANSPOSED,
    matmul::EPILOGUE,
];

/// Rewrites `graph` and the graphs nested in it until nothing changes, and leaves every value typed.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<Vec<FusionReport>> {
    let mut reports = Reports::default();
    let mut state = State { context, refused: HashSet::new(), weight_bytes: context.weight_limit_bytes };
    optimize(graph, &mut state, &mut reports, true).at_stage(Stage::Optimize)?;
    Ok(reports.finish())
}

fn optimize(graph: &mut Graph, state: &mut State<'_>, reports: &mut Reports, outermost: bool) -> Result<()> {
    let context = state.context;
    clean_up(graph, state, reports, outermost)?;
    if context.fuse {
        sweep_until_stable(graph, FUSIONS, state, reports)?;
        sweep_until_stable(graph, EPILOGUES, state, reports)?;
        sweep_until_stable(graph, &[quantized::REWRITE], state, reports)?;
        reports.add("duplicate nodes", common_nodes::run(graph)?);
    }
    sweep_until_stable(graph, &[constants::WEIGHTS], state, reports)?;
    for (node, body) in bodies::all(graph) {
        bodies::sink_constants(graph, node, body);
        state.refused.clear();
        optimize(graph.body_graph_mut(node, body), state, reports, false)?;
        bodies::prune_captures(graph, node, body)?;
    }
    reports.add("dead code", dead_code::run(graph)?);
    if outermost {
        shape::infer(graph, &shape::Options::default())?;
    }
    Ok(())
}

/// Folds and removes until nothing changes. Shapes of the outermost graph are inferred again after each round, because
/// what one round folds the next can see through.
fn clean_up(graph: &mut Graph, state: &mut State<'_>, reports: &mut Reports, outermost: bool) -> Result<()> {
    let mut options = state.context.dims.clone();
    if outermost {
        let symbols = shape::input_symbols(graph);
        options.dims.retain(|name, _| symbols.contains(name.as_str()));
    }
    for _ in 0..ROUNDS {
        let mut changed = false;
        if outermost {
            let analysis = shape::analyse(graph, &options)?;
            options = shape::Options::default();
            let known = constants::fold_known(graph, &analysis)?;
            changed |= reports.add("known contents", known);
        }
        reports.add("dead code", dead_code::run(graph)?);
        changed |= sweep(graph, CLEANUPS, state, reports)?;
        changed |= reports.add("duplicate nodes", common_nodes::run(graph)?);
        changed |= reports.add("dead code", dead_code::run(graph)?);
        if !changed {
            break;
        }
    }
    Ok(())
}

fn sweep_until_stable(
    graph: &mut Graph,
    rewrites: &[Rewrite],
    state: &mut State<'_>,
    reports: &mut Reports,
) -> Result<()> {
    for _ in 0..ROUNDS {
        if !sweep(graph, rewrites, state, reports)? {
            break;
        }
        reports.add("dead code", dead_code::run(graph)?);
    }
    Ok(())
}

/// Offers every node to every rewrite once. True when one fired.
fn sweep(
    graph: &mut Graph,
    rewrites: &[Rewrite],
    state: &mut State<'_>,
    reports: &mut Reports,
) -> Result<bool> {
    let mut by_operator: HashMap<&str, Vec<&Rewrite>> = HashMap::new();
    let mut for_all = Vec::new();
    for rewrite in rewrites {
        reports.start(rewrite.name);
        if rewrite.operators.is_empty() {
            for_all.push(rewrite);
        }
        for operator in rewrite.operators {
            by_operator.entry(operator).or_default().push(rewrite);
        }
    }
    let mut changed = false;
    for id in graph.topological_order()?.to_vec() {
        let Some(node) = graph.get_node(id) else { continue };
        let special = by_operator.get(&*node.op_type).map_or(&[][..], Vec::as_slice);
        for rewrite in for_all.iter().chain(special) {
            let Some(node) = graph.get_node(id) else { break };
            if !rewrite.operators.is_empty() && !rewrite.operators.contains(&&*node.op_type) {
                continue;
            }
            let outcome = (rewrite.apply)(graph, id, state);
            let outcome =
                outcome.in_node(|| graph.get_node(id).map_or("(removed)".into(), |n| n.label(graph)))?;
            match outcome {
                Outcome::Fired => {
                    changed = true;
                    reports.add(rewrite.name, 1);
                }
                Outcome::CheckFailed(reason) => reports.skip(rewrite.name, graph, id, reason),
                Outcome::NoMatch | Outcome::NoEffect => {}
            }
        }
    }
    Ok(changed)
}

/// Reports by rewrite, in the order in which they first appear.
#[derive(Default)]
struct Reports {
    order: Vec<&'static str>,
    by_name: BTreeMap<&'static str, FusionReport>,
}

impl Reports {
    fn entry(&mut self, name: &'static str) -> &mut FusionReport {
        self.by_name.entry(name).or_insert_with(|| {
            self.order.push(name);
            FusionReport { rewrite: name, ..FusionReport::default() }
        })
    }

    /// Counts `fired`; true when it is not zero.
    fn add(&mut self, name: &'static str, fired: usize) -> bool {
        self.entry(name).fired += fired;
        fired > 0
    }

    /// Forgets the reasons of an earlier sweep, of which only the last counts.
    fn start(&mut self, name: &'static str) {
        self.entry(name).skipped.clear();
    }

    fn skip(&mut self, name: &'static str, graph: &Graph, node: NodeId, reason: String) {
        let Some(node) = graph.get_node(node) else { return };
        let label = node.label(graph);
        let report = self.entry(name);
        if report.skipped.len() < REASONS {
            report.skipped.push((label, reason));
        }
    }

    fn finish(mut self) -> Vec<FusionReport> {
        self.order.iter().filter_map(|name| self.by_name.remove(name)).collect()
    }
}
