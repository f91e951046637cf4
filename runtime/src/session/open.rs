//! Opens a session: load, build, infer, optimise, resolve, partition, plan.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::{Result, Stage as ErrorStage};
use crate::execute::Runner;
use crate::graph::{self, Graph};
use crate::model::{self, Model};
use crate::plan::{Compiler, Device, Planned};
use crate::session::defaults::{self, Overridable};
use crate::session::{
    Environment, Report, Session, SessionOptions, Stage, ValueSpec, resolve, start_timelines,
};
use crate::tensor::Value;

impl Session {
    /// Opens a model file. Weights stay in the file until the first run needs them.
    pub fn open(environment: &Environment, path: &Path, options: &SessionOptions) -> Result<Session> {
        let start = Instant::now();
        let model = model::load(path).map_err(|error| error.at_stage(ErrorStage::Load))?;
        Session::from_model(environment, &model, options, start)
    }

    /// Opens a model held in memory. Its external data, if any, is not reachable.
    pub fn from_bytes(
        environment: &Environment,
        bytes: Vec<u8>,
        options: &SessionOptions,
    ) -> Result<Session> {
        let start = Instant::now();
        let model = model::load_bytes(bytes, None, &model::Limits::default())
            .map_err(|error| error.at_stage(ErrorStage::Load))?;
        Session::from_model(environment, &model, options, start)
    }

    /// Opens a graph made in memory.
    pub fn from_graph(environment: &Environment, graph: Graph, options: &SessionOptions) -> Result<Session> {
        Opening::new(environment, options)?.finish(graph)
    }

    fn from_model(
        environment: &Environment,
        model: &Model,
        options: &SessionOptions,
        start: Instant,
    ) -> Result<Session> {
        let mut opening = Opening::new(environment, options)?;
        opening.report.stages.push(("load", start.elapsed()));
        let graph =
            opening.time("build", |_| graph::build(model)).map_err(|e| e.at_stage(ErrorStage::Graph))?;
        opening.finish(graph)
    }
}

/// A session on its way through the pipeline.
struct Opening<'a> {
    options: &'a SessionOptions,
    devices: Vec<Device>,
    compiler: Compiler,
    report: Report,
    texts: BTreeMap<Stage, String>,
}

impl<'a> Opening<'a> {
    fn new(environment: &Environment, options: &'a SessionOptions) -> Result<Opening<'a>> {
        let devices = environment.open_devices(options)?;
        let compiler = Compiler::new(devices.clone().into(), options.balance);
        Ok(Opening { options, devices, compiler, report: Report::default(), texts: BTreeMap::new() })
    }

    fn time<T>(&mut self, stage: &'static str, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let result = work(self);
        let spent: Duration = start.elapsed();
        tracing::debug!(stage, ?spent);
        self.report.stages.push((stage, spent));
        result
    }

    fn keep(&mut self, stage: Stage, text: impl FnOnce() -> String) {
        if self.options.inspect {
            self.texts.insert(stage, text());
        }
    }

    fn finish(mut self, mut graph: Graph) -> Result<Session> {
        self.keep(Stage::Graph, || graph.to_string());
        let has_defaults = graph.inputs().iter().any(|&input| graph.value(input).default().is_some());
        let fixed = has_defaults.then(|| graph.clone());
        self.time("shape", |this| defaults::prepare(&mut graph, this.options))?;
        let inputs = Inputs::of(&graph);
        let mut overridable = None;
        if let Some(mut fixed) = fixed {
            fixed.freeze_defaults();
            defaults::prepare(&mut fixed, self.options)?;
            let general = std::mem::replace(&mut graph, fixed);
            overridable = Some(Overridable::new(general, self.compiler.clone(), self.options.clone()));
        }
        self.keep(Stage::Shape, || graph.to_string());
        if self.options.optimize {
            self.report.fusions = self.time("optimize", |this| {
                defaults::optimize_graph(&mut graph, &this.compiler, this.options)
            })?;
        }
        self.report.expanded = self
            .time("resolve", |this| resolve::run(&mut graph, &this.compiler))
            .map_err(|error| error.at_stage(ErrorStage::Partition))?;
        let planned = self.time("plan", |this| this.compiler.plan(&graph))?;
        let names = self.compiler.device_names();
        self.keep(Stage::Partitions, || planned.partitions.to_text(&graph, &names));
        self.report_partitions(&graph, &planned, &names);
        Ok(self.session(graph, planned, inputs, overridable))
    }

    fn report_partitions(&mut self, graph: &Graph, planned: &Planned, names: &[String]) {
        let devices: Vec<String> =
            self.devices.iter().map(|device| device.handle.info().name.clone()).collect();
        self.report.add(graph, &planned.partitions, names, &devices, true);
        for (graph, partitions) in &planned.nested {
            self.report.add(graph, partitions, names, &devices, false);
        }
    }

    fn session(
        self,
        graph: Graph,
        planned: Planned,
        inputs: Inputs,
        overridable: Option<Overridable>,
    ) -> Session {
        let outputs = graph
            .outputs()
            .iter()
            .map(|output| ValueSpec {
                name: output.name.to_string(),
                ty: graph.value(output.value).ty().or(output.declared.as_ref()).cloned(),
                optional: false,
            })
            .collect();
        let timed = self.options.profile && start_timelines(&self.devices);
        Session {
            runner: Runner::new(planned.plan),
            inputs: inputs.specs,
            outputs,
            defaults: inputs.defaults,
            places: inputs.places,
            overridable,
            metadata: graph.info.metadata.iter().cloned().collect(),
            graph,
            devices: self.devices,
            report: self.report,
            texts: self.texts,
            timed: Mutex::new(timed),
        }
    }
}

/// The inputs of a model, those with defaults among them.
struct Inputs {
    specs: Vec<ValueSpec>,
    defaults: Vec<Option<Value>>,
    places: Vec<Option<usize>>,
}

impl Inputs {
    fn of(graph: &Graph) -> Inputs {
        let default = |&value| graph.value(value).default().map(|tensor| Value::from(tensor.to_aligned()));
        let spec = |&value| {
            let value = graph.value(value);
            ValueSpec {
                name: value.name().into(),
                ty: value.ty().cloned(),
                optional: value.default().is_some(),
            }
        };
        Inputs {
            specs: graph.inputs().iter().map(spec).collect(),
            defaults: graph.inputs().iter().map(default).collect(),
            places: defaults::places(graph),
        }
    }
}
