//! Checking a probe against the CPU provider, and timing its kernels by the device's own clock.

use anyhow::{Context, Result, ensure};
use tenon_plugin_api::{DeviceInfo, TimelineEntry};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::Graph;
use tenon_runtime::session::{Environment, ProviderRequest, Session, SessionOptions};
use tenon_runtime::tensor::Value;

use super::probe::{Probe, pick_rows};
use crate::compare::{self, Comparison};

/// Runs whose times are dropped.
const WARMUP: usize = 3;
/// Runs whose times count.
const RUNS: usize = 20;

/// How a probe's results compare.
pub enum Verdict {
    Agrees(Comparison),
    Differs(Comparison),
    /// The provider leaves the node to the next one, with its reason.
    Declined(String),
    /// The provider took the node and failed.
    Failed(String),
}

/// The device time of a probe.
pub struct Timing {
    /// Median over the runs of the sum over a run's kernels.
    pub microseconds: f64,
    /// Slowest and fastest run.
    pub spread: (f64, f64),
    /// Kernels of a run by symbol, in order.
    pub symbols: Vec<String>,
    /// The least time that the chip's rates allow; 0 where they are not known.
    pub bound_microseconds: f64,
}

/// The provider under test.
pub struct Patient<'a> {
    pub environment: &'a Environment,
    pub provider: ProviderRequest,
    pub device: DeviceInfo,
}

impl Patient<'_> {
    /// A session with every node on the provider.
    fn open(&self, graph: &Graph, is_timed: bool) -> Result<Session> {
        let options = SessionOptions {
            providers: vec![self.provider.clone()],
            strict: true,
            balance: false,
            fuse: false,
            optimize: false,
            profile: is_timed,
            ..SessionOptions::default()
        };
        Ok(Session::from_graph(self.environment, graph.clone(), &options)?)
    }

    /// Runs the probe here and on the CPU. Here it runs three times, because later runs may replay a captured graph.
    pub fn check(&self, probe: &Probe) -> Result<Verdict> {
        let session = match self.open(&probe.graph, false) {
            Ok(session) => session,
            Err(error) => {
                let reason = first_line(&error);
                // The session's error lists every provider's reason; the one that was asked comes last.
                let own =
                    reason.rsplit_once(&format!("{}: ", self.provider.name)).map(|(_, own)| own.to_owned());
                return Ok(Verdict::Declined(own.unwrap_or(reason)));
            }
        };
        let expected = self.expected(probe)?;
        let mut verdict = None;
        for _ in 0..3 {
            let outputs = match session.run(&fed(&probe.inputs)) {
                Ok(outputs) => outputs,
                Err(error) => return Ok(Verdict::Failed(first_line(&error.into()))),
            };
            let output = outputs.into_iter().next().context("a probe has an output")?;
            let output = match &probe.sample {
                Some(sample) => Value::Tensor(pick_rows(&output.into_tensor()?, &sample.rows)?),
                None => output,
            };
            let comparison = compare::values(&output, &expected, probe.tolerance);
            if !comparison.agrees() {
                return Ok(Verdict::Differs(comparison));
            }
            verdict = Some(Verdict::Agrees(comparison));
        }
        verdict.context("a probe runs")
    }

    /// What the CPU provider makes of the probe, or of the rows that stand for it.
    fn expected(&self, probe: &Probe) -> Result<Value> {
        let (graph, inputs) = match &probe.sample {
            Some(sample) => (&sample.graph, &sample.inputs),
            None => (&probe.graph, &probe.inputs),
        };
        let providers = vec!["cpu".parse()?];
        let options = SessionOptions { providers, ..SessionOptions::default() };
        let session = Session::from_graph(self.environment, graph.clone(), &options)?;
        session.run(&fed(inputs))?.into_iter().next().context("a probe has an output")
    }

    /// Times the probe's kernels. Operands that fit into caches are found there: every run has the same ones.
    pub fn time(&self, probe: &Probe) -> Result<Timing> {
        let session = self.open(&probe.graph, true)?;
        let inputs = fed(&probe.inputs);
        for _ in 0..WARMUP + RUNS {
            session.run(&inputs)?;
        }
        let timeline: Vec<TimelineEntry> =
            session.take_timeline().into_iter().map(|(_, entry)| entry).collect();
        let count = timeline.len() / (WARMUP + RUNS);
        ensure!(count > 0 && timeline.len() == count * (WARMUP + RUNS), "the provider keeps no timeline");
        let runs = timeline.chunks_exact(count).skip(WARMUP);
        let mut times: Vec<f64> =
            runs.map(|run| run.iter().map(|entry| entry.duration_ns as f64 / 1e3).sum()).collect();
        times.sort_by(f64::total_cmp);
        let first = &timeline[..count];
        let dtype = probe.product.map(|(_, dtype)| dtype);
        Ok(Timing {
            microseconds: times[times.len() / 2],
            spread: (times[0], times[times.len() - 1]),
            symbols: first.iter().map(|entry| entry.symbol.clone()).collect(),
            bound_microseconds: first.iter().map(|entry| self.bound(entry, dtype)).sum(),
        })
    }

    /// The least microseconds of a kernel: its bytes at the memory's rate or its operations at the matrix units'.
    fn bound(&self, entry: &TimelineEntry, dtype: Option<DType>) -> f64 {
        let per_microsecond = |value: f64, rate: f64| if rate > 0.0 { value.max(0.0) / rate } else { 0.0 };
        let bytes = per_microsecond(entry.bytes, self.device.memory_gb_per_s * 1e3);
        let is_half = matches!(dtype, Some(DType::BF16 | DType::F16));
        let flops = per_microsecond(entry.flops, self.device.peak_bf16_tflops * 1e6);
        if is_half { bytes.max(flops) } else { bytes }
    }
}

fn fed(inputs: &[(String, Value)]) -> Vec<(&str, Value)> {
    inputs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
}

/// The reason itself: an error that lists several has each on a line.
fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
