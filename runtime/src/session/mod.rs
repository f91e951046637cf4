//! Sessions: a model opened on some providers, ready to run from any thread.

mod bound;
mod defaults;
mod environment;
mod evaluate;
mod open;
mod options;
mod report;
mod resolve;
mod values;

use std::collections::BTreeMap;
use std::sync::Mutex;

use tenon_plugin_api::TimelineEntry;

pub use environment::{Environment, ProviderInfo};
pub use options::{ProviderRequest, SessionOptions};
pub use report::{Placement, ProviderShare, Report, Stage};

use crate::error::{Error, Result};
use crate::execute::{Binding, Outputs, Runner};
pub use crate::execute::{BoundRun, DeviceTensor, Given};
use crate::graph::{Graph, TypeInfo};
use crate::plan::Device;
use crate::tensor::Value;

/// What the caller sees of an input or an output.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueSpec {
    pub name: String,
    /// `None` when the model says nothing and nothing could be inferred.
    pub ty: Option<TypeInfo>,
    /// True for an input with a default value.
    pub optional: bool,
}

/// An opened model. Runs may overlap.
pub struct Session {
    runner: Runner,
    graph: Graph,
    inputs: Vec<ValueSpec>,
    outputs: Vec<ValueSpec>,
    defaults: Vec<Option<Value>>,
    /// For each input its number in the runner; `None` for one whose default the runner has for a constant.
    places: Vec<Option<usize>>,
    /// The model with every input open, where there are defaults.
    overridable: Option<defaults::Overridable>,
    metadata: BTreeMap<String, String>,
    devices: Vec<Device>,
    report: Report,
    /// The text forms of the stages before the last, made when the session was opened for inspection.
    texts: BTreeMap<Stage, String>,
    timed: Mutex<bool>,
}

impl Session {
    /// The inputs in the model's order.
    pub fn inputs(&self) -> &[ValueSpec] {
        &self.inputs
    }

    /// The outputs in the model's order.
    pub fn outputs(&self) -> &[ValueSpec] {
        &self.outputs
    }

    /// The model's free key-value pairs.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What opening the session found out: times of the stages, placements, fusions.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The graph as it is run, before it was cut.
    pub fn optimized_graph(&self) -> &Graph {
        &self.graph
    }

    /// Runs with inputs by name and returns all outputs in order.
    pub fn run(&self, inputs: &[(&str, Value)]) -> Result<Vec<Value>> {
        let mut ordered: Vec<Option<Value>> = vec![None; self.inputs.len()];
        for (name, value) in inputs {
            let index = self.inputs.iter().position(|spec| spec.name == *name);
            let index = index.ok_or_else(|| values::unknown("input", name, &self.inputs))?;
            if ordered[index].replace(value.clone()).is_some() {
                return Err(Error::invalid_input(format!("input '{name}' is given twice")));
            }
        }
        Ok(self.run_ordered(ordered, &[])?.into_vec())
    }

    /// Runs with inputs by name and returns the outputs asked for, in the order asked.
    pub fn run_outputs(&self, inputs: &[(&str, Value)], outputs: &[&str]) -> Result<Vec<Value>> {
        let indices = outputs
            .iter()
            .map(|name| {
                let index = self.outputs.iter().position(|spec| spec.name == *name);
                index.ok_or_else(|| values::unknown("output", name, &self.outputs))
            })
            .collect::<Result<Vec<_>>>()?;
        let all = self.run(inputs)?;
        Ok(indices.into_iter().map(|index| all[index].clone()).collect())
    }

    /// Runs with inputs in the model's order; `None` takes an input's default. `bindings` gives the caller's memory for
    /// outputs, by number, and may be shorter than the outputs.
    pub fn run_ordered(
        &self,
        inputs: impl IntoIterator<Item = Option<Value>>,
        bindings: &[Option<Binding>],
    ) -> Result<Outputs> {
        self.run_fallible(inputs.into_iter().map(Ok), bindings)
    }

    /// As [`Session::run_ordered`], with inputs that may turn out not to be readable; nothing runs then.
    pub fn run_fallible(
        &self,
        inputs: impl IntoIterator<Item = Result<Option<Value>>>,
        bindings: &[Option<Binding>],
    ) -> Result<Outputs> {
        if let Some(overridable) = &self.overridable {
            return self.run_with_defaults(overridable, inputs.into_iter(), bindings);
        }
        let mut run = self.runner.start();
        let mut inputs = inputs.into_iter();
        let mut checker = values::Checker::default();
        for (index, (spec, default)) in self.inputs.iter().zip(&self.defaults).enumerate() {
            let given = inputs.next().transpose()?.flatten();
            run.input(index, checker.check(spec, default.as_ref(), given)?);
        }
        let extra = inputs.count();
        if extra > 0 {
            return Err(values::too_many(self.inputs.len(), self.inputs.len() + extra));
        }
        run.finish(bindings)
    }

    /// A run of a model some of whose inputs have defaults: without a value for any of those, of the plan that has them for
    /// constants.
    fn run_with_defaults(
        &self,
        overridable: &defaults::Overridable,
        inputs: impl Iterator<Item = Result<Option<Value>>>,
        bindings: &[Option<Binding>],
    ) -> Result<Outputs> {
        let mut given = inputs.collect::<Result<Vec<_>>>()?;
        if given.len() > self.inputs.len() {
            return Err(values::too_many(self.inputs.len(), given.len()));
        }
        given.resize(self.inputs.len(), None);
        let is_overridden =
            self.places.iter().zip(&given).any(|(place, given)| place.is_none() && given.is_some());
        let runner = if is_overridden { overridable.runner()? } else { &self.runner };
        let mut run = runner.start();
        let mut checker = values::Checker::default();
        let specs = self.inputs.iter().zip(&self.defaults).zip(&self.places);
        for (index, (((spec, default), place), given)) in specs.zip(given).enumerate() {
            match place {
                _ if is_overridden => run.input(index, checker.check(spec, default.as_ref(), given)?),
                Some(place) => run.input(*place, checker.check(spec, None, given)?),
                None => {}
            }
        }
        run.finish(bindings)
    }

    /// The text form of a stage. Stages before the plan are kept only by sessions opened with `inspect`.
    pub fn inspect(&self, stage: Stage) -> Result<String> {
        match stage {
            Stage::Optimized => Ok(self.graph.to_string()),
            Stage::Plan => Ok(self.runner.plan().to_string()),
            stage => self.texts.get(&stage).cloned().ok_or_else(|| {
                Error::invalid_input(format!(
                    "stage '{stage}' was not kept; open the session with the inspect option"
                ))
            }),
        }
    }

    /// The partition as a graph in the DOT language.
    pub fn partition_dot(&self) -> String {
        report::dot(&self.graph, &self.report)
    }

    /// The kernels that ran since the last call, in order of start; empty unless the session was opened with `profile`.
    pub fn take_timeline(&self) -> Vec<(String, TimelineEntry)> {
        let mut timed = self.timed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*timed {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for device in &self.devices {
            match device.handle.timeline_stop() {
                Ok(list) => entries.extend(list.into_iter().map(|entry| (device.cost.name.clone(), entry))),
                Err(error) => tracing::warn!("no timeline of {}: {error}", device.cost.name),
            }
        }
        entries.sort_by_key(|(_, entry)| entry.start_ns);
        *timed = start_timelines(&self.devices);
        entries
    }
}

/// Switches the timelines of devices on; true when any device keeps one.
fn start_timelines(devices: &[Device]) -> bool {
    let start = |device: &Device| device.handle.timeline_start().is_ok();
    devices.iter().map(start).fold(false, |any, started| any | started)
}
