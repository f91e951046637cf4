//! `--verify`: compares a session with the same model on the CPU, unoptimised; `--bisect` finds the first node that differs.

use std::collections::HashMap;
use std::path::Path;

use anstream::println;
use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use tenon_roofline::table::Table;
use tenon_runtime::graph::Graph;
use tenon_runtime::session::{Environment, ProviderRequest, Session, SessionOptions};
use tenon_runtime::tensor::Value;

use crate::compare::{self, Comparison, Tolerance};
use crate::inputs::Feeds;

/// A value that was compared, and the operator that made it.
struct Compared {
    value: String,
    made_by: String,
    comparison: Comparison,
}

/// What was compared, in topological order when bisecting.
pub struct Verdict {
    compared: Vec<Compared>,
    bisected: bool,
}

/// The model to compare with, and how.
pub struct Reference<'a> {
    pub environment: &'a Environment,
    pub model: &'a Path,
    /// The options of the session under test.
    pub options: &'a SessionOptions,
    pub tolerance: Tolerance,
}

impl Reference<'_> {
    /// The plain CPU without optimisation.
    fn options(&self) -> Result<SessionOptions> {
        let cpu: ProviderRequest = "cpu".parse().context("the name of the CPU provider")?;
        Ok(SessionOptions { providers: vec![cpu], optimize: false, ..self.options.clone() })
    }

    /// Compares every output of `session`.
    pub fn outputs(&self, session: &Session, feeds: &Feeds) -> Result<Verdict> {
        let reference =
            Session::open(self.environment, self.model, &self.options()?).context("the reference")?;
        let inputs = feeds.as_run_inputs();
        let expected = reference.run(&inputs).context("running the reference")?;
        let got = session.run(&inputs)?;
        let compared =
            session.outputs().iter().zip(got.iter().zip(&expected)).map(|(spec, (g, e))| Compared {
                value: spec.name.clone(),
                made_by: "output".to_owned(),
                comparison: compare::values(g, e, self.tolerance),
            });
        Ok(Verdict { compared: compared.collect(), bisected: false })
    }

    /// Compares every value that the optimised graph of `session` shares by name with the model, in topological order.
    pub fn intermediates(&self, session: &Session, feeds: &Feeds) -> Result<Verdict> {
        let plain = Session::open(self.environment, self.model, &self.options()?).context("the reference")?;
        let (tested_graph, tested_names) = with_all_outputs(session.optimized_graph())?;
        let (plain_graph, plain_names) = with_all_outputs(plain.optimized_graph())?;
        let as_it_is = SessionOptions { optimize: false, ..self.options.clone() };
        let tested = Session::from_graph(self.environment, tested_graph, &as_it_is)?;
        let plain = Session::from_graph(self.environment, plain_graph, &self.options()?)?;
        let inputs = feeds.as_run_inputs();
        let got = tested.run(&inputs).context("running with every value as an output")?;
        let expected = plain.run(&inputs).context("running the reference with every value as an output")?;
        let expected: HashMap<&str, &Value> =
            plain_names.iter().map(|(n, _)| n.as_str()).zip(&expected).collect();
        let mut compared = Vec::new();
        for ((name, made_by), value) in tested_names.iter().zip(&got) {
            if let Some(expected) = expected.get(name.as_str()) {
                let comparison = compare::values(value, expected, self.tolerance);
                compared.push(Compared { value: name.clone(), made_by: made_by.clone(), comparison });
            }
        }
        Ok(Verdict { compared, bisected: true })
    }
}

/// `graph` with every value that a node makes as an output, and the names of those with their nodes, in topological order.
fn with_all_outputs(graph: &Graph) -> Result<(Graph, Vec<(String, String)>)> {
    let mut graph = graph.clone();
    let mut values = Vec::new();
    for id in graph.topological_order()?.to_vec() {
        let node = graph.node(id);
        let label = format!("{} ({})", node.label(&graph), node.operator());
        values.extend(node.outputs().iter().flatten().map(|v| (*v, label.clone())));
    }
    let mut names = Vec::with_capacity(values.len());
    let mut outputs = Vec::with_capacity(values.len());
    for (value, label) in values {
        let name = graph.value(value).name().to_owned();
        outputs.push(tenon_runtime::graph::Output { name: name.as_str().into(), value, declared: None });
        names.push((name, label));
    }
    graph.set_outputs(outputs);
    Ok((graph, names))
}

impl Verdict {
    /// True when every compared value agrees.
    pub fn agrees(&self) -> bool {
        self.compared.iter().all(|c| c.comparison.agrees())
    }

    /// When bisecting the first value that differs, otherwise the worst.
    fn culprit(&self) -> Option<&Compared> {
        if self.bisected && !self.agrees() {
            return self.compared.iter().find(|c| !c.comparison.agrees());
        }
        self.compared.iter().max_by(|a, b| a.comparison.badness().total_cmp(&b.comparison.badness()))
    }

    fn last_line(&self) -> String {
        let Some(c) = self.culprit() else { return "agrees: no values to compare".to_owned() };
        let detail = &c.comparison;
        match (self.agrees(), self.bisected) {
            (true, _) => format!("agrees: {} values, worst '{}', {detail}", self.compared.len(), c.value),
            (false, true) => format!("DISAGREES: first at node {}, value '{}', {detail}", c.made_by, c.value),
            (false, false) => format!("DISAGREES: worst output '{}', {detail}", c.value),
        }
    }

    /// Prints a row for each output, or for the values that differ when bisecting, and the verdict last.
    pub fn print(&self, quiet: bool) {
        let mut table =
            Table::new(&["value", "made by", "verdict", ">elements", ">outside", ">of tolerance"]);
        for c in self.compared.iter().filter(|c| !self.bisected || !c.comparison.agrees()) {
            table.row([
                c.value.clone(),
                c.made_by.clone(),
                if c.comparison.agrees() { "agrees".into() } else { "DISAGREES".to_owned() },
                c.comparison.elements.to_string(),
                c.comparison.outside.to_string(),
                format!("{:.3}", c.comparison.badness()),
            ]);
        }
        if !quiet && !table.is_empty() {
            println!("{table}");
        }
        println!("{}", self.last_line());
    }

    /// The verdict as JSON.
    pub fn to_json(&self) -> Json {
        let differing: Vec<Json> = self
            .compared
            .iter()
            .filter(|c| !c.comparison.agrees())
            .map(|c| json!({ "value": c.value, "made_by": c.made_by, "detail": c.comparison.to_string() }))
            .collect();
        json!({ "agrees": self.agrees(), "compared": self.compared.len(), "differing": differing,
                "summary": self.last_line() })
    }
}
