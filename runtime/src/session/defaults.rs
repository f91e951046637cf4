//! Inputs with defaults: a session takes them for constants, so that they fold and pack like any weight, and plans the
//! model a second time when a run first comes with a value for one of them.

use std::sync::OnceLock;

use crate::error::{Result, Stage as ErrorStage};
use crate::execute::Runner;
use crate::graph::Graph;
use crate::optimize;
use crate::plan::Compiler;
use crate::session::evaluate::DeviceEvaluator;
use crate::session::{SessionOptions, resolve};
use crate::shape;

/// The model with every input open.
pub(super) struct Overridable {
    /// Types inferred, not optimised.
    graph: Graph,
    compiler: Compiler,
    options: SessionOptions,
    runner: OnceLock<Runner>,
}

impl Overridable {
    pub fn new(graph: Graph, compiler: Compiler, options: SessionOptions) -> Overridable {
        Overridable { graph, compiler, options, runner: OnceLock::new() }
    }

    /// What runs the model with values for its defaults; planned when it is first asked for.
    pub fn runner(&self) -> Result<&Runner> {
        if let Some(runner) = self.runner.get() {
            return Ok(runner);
        }
        tracing::info!("an input with a default is given: the model is planned once more");
        let planned = self.plan()?;
        // Another thread may have been faster.
        Ok(self.runner.get_or_init(|| planned))
    }

    fn plan(&self) -> Result<Runner> {
        let mut graph = self.graph.clone();
        if self.options.optimize {
            optimize_graph(&mut graph, &self.compiler, &self.options)?;
        }
        resolve::run(&mut graph, &self.compiler).map_err(|error| error.at_stage(ErrorStage::Partition))?;
        Ok(Runner::new(self.compiler.plan(&graph)?.plan))
    }
}

/// Rewrites `graph` as the options ask.
pub(super) fn optimize_graph(
    graph: &mut Graph,
    compiler: &Compiler,
    options: &SessionOptions,
) -> Result<Vec<optimize::FusionReport>> {
    let evaluator = DeviceEvaluator { compiler };
    let context = optimize::Context {
        evaluator: Some(&evaluator),
        dims: shape::Options { dims: options.dims.clone() },
        fuse: options.fuse,
        ..optimize::Context::default()
    };
    optimize::run(graph, &context).map_err(|error| error.at_stage(ErrorStage::Optimize))
}

/// Infers types and shapes and gives every node its present form.
pub(super) fn prepare(graph: &mut Graph, options: &SessionOptions) -> Result<()> {
    let dims = shape::Options { dims: options.dims.clone() };
    shape::infer(graph, &dims).map_err(|error| error.at_stage(ErrorStage::Shape))?;
    optimize::lower(graph).map_err(|error| error.at_stage(ErrorStage::Graph))?;
    Ok(())
}

/// For each input its number where every input counts and where only those without a default do.
pub(super) fn places(graph: &Graph) -> Vec<Option<usize>> {
    let mut next = 0;
    let place = |&value| {
        graph.value(value).default().is_none().then(|| {
            next += 1;
            next - 1
        })
    };
    graph.inputs().iter().map(place).collect()
}
