//! Candidates of a product timed on a device through its provider's plugin, each checked first: what `autotune` and
//! `runner doctor` share.

use anyhow::{Context, Result, anyhow, bail, ensure};
use half::{bf16, f16};
use tenon_kernels::gpu::matmul::Layout;
use tenon_kernels::gpu::pipeline::{Choice, Machine, matmul_choices};
use tenon_roofline::problem::{Dtype, Problem};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Graph, Node, Shape, TypeInfo};
use tenon_runtime::session::{Environment, ProviderInfo, ProviderRequest, Session, SessionOptions};
use tenon_runtime::tensor::{Tensor, Value};

use crate::rows::{Evidence, Row};

/// Elements of a result that are computed again in float64.
const CHECKED: usize = 96;

/// Random elements that operands repeat: a prime, so that rows differ.
const PERIOD: usize = 1_048_573;

/// Runs before those that count.
pub const WARM_RUNS: usize = 3;

/// What became of a candidate.
pub struct Outcome {
    pub choice: Choice,
    /// Median seconds, or why there are none.
    pub seconds: Result<f64>,
}

/// The device that measures.
pub struct Device<'a> {
    pub environment: &'a Environment,
    pub provider: ProviderRequest,
    pub machine: Machine,
}

impl Device<'_> {
    /// The `top` candidates of least estimated time and the planner's choice, each timed over `runs` runs.
    pub fn tune(
        &self,
        problem: &Problem,
        operands: &Operands,
        top: usize,
        runs: usize,
    ) -> Result<Vec<Outcome>> {
        let choices = candidates(problem, operands.layout(), &self.machine, top)?;
        let timed = choices.into_iter().map(|choice| {
            let seconds = self.time(&choice, operands, runs);
            Outcome { choice, seconds }
        });
        Ok(timed.collect())
    }

    /// Median seconds of one candidate's kernel.
    fn time(&self, choice: &Choice, operands: &Operands, runs: usize) -> Result<f64> {
        let mut request = self.provider.clone();
        request.options.push(("graphs".to_owned(), "0".to_owned()));
        request.options.push(("matmul".to_owned(), choice.symbol.clone()));
        let options = SessionOptions {
            providers: vec![request],
            strict: true,
            profile: true,
            ..SessionOptions::default()
        };
        let session = Session::from_graph(self.environment, operands.graph()?, &options)?;
        let inputs = [("rows", Value::from(operands.rows.clone()))];
        operands.check(&session.run(&inputs)?)?;
        for _ in 1..WARM_RUNS {
            session.run(&inputs)?;
        }
        let _warm = session.take_timeline();
        for _ in 0..runs {
            session.run(&inputs)?;
        }
        let timeline = session.take_timeline();
        let times: Vec<f64> = timeline
            .iter()
            .filter(|(_, entry)| entry.symbol == choice.symbol)
            .map(|(_, entry)| entry.duration_ns as f64 / 1e9)
            .collect();
        if times.is_empty() {
            let ran: Vec<&str> = timeline.iter().map(|(_, entry)| entry.symbol.as_str()).take(3).collect();
            bail!("it did not run; what ran is {}", ran.join(", "));
        }
        median(times)
    }
}

/// The middle one; an error where there is none.
pub fn median(mut times: Vec<f64>) -> Result<f64> {
    ensure!(!times.is_empty(), "nothing was timed");
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The chip of a provider's device.
pub fn machine(providers: &[ProviderInfo], name: &str, ordinal: u32) -> Result<Machine> {
    let known: Vec<&str> = providers.iter().map(|provider| provider.name.as_str()).collect();
    let provider = providers.iter().find(|provider| provider.name == name);
    let provider =
        provider.ok_or_else(|| anyhow!("--provider {name}: no such library, found {}", known.join(", ")))?;
    ensure!(provider.score > 0, "--provider {name} cannot be used here: {}", provider.reason);
    let device = provider.devices.get(ordinal as usize);
    let device = device
        .ok_or_else(|| anyhow!("--provider {name}:{ordinal}: it has {} devices", provider.devices.len()))?;
    Machine::find(&device.chip).map_err(|error| anyhow!("device '{}': {error}", device.name))
}

/// The candidates of least estimated time, and the planner's choice.
fn candidates(problem: &Problem, layout: Layout, machine: &Machine, top: usize) -> Result<Vec<Choice>> {
    let product = problem.product_in(layout).expect("only products are measured");
    let choices = matmul_choices(&product, machine).map_err(|error| anyhow!("{problem}: {error}"))?;
    let kept = choices.into_iter().enumerate().filter(|(rank, choice)| *rank < top || choice.is_chosen);
    Ok(kept.map(|(_, choice)| choice).collect())
}

/// A product's operands: the rows, and as many weights as it takes to miss the second-level cache.
pub struct Operands {
    pub extents: [usize; 3],
    pub dtype: DType,
    /// The weights are `n x k`.
    pub is_transposed: bool,
    pub rows: Tensor,
    pub weights: Vec<Tensor>,
}

impl Operands {
    /// Random ones for a problem.
    pub fn random(problem: &Problem, layout: Layout, machine: &Machine) -> Result<Self> {
        let Problem::Matmul { m, n, k, dtype, .. } = *problem else { bail!("only products are measured") };
        let dtype = match dtype {
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
            other => bail!("--dtype {}: the provider's graphs reach bf16 and f16 kernels only", other.name()),
        };
        let mut random = fastrand::Rng::with_seed((m * 31 + n * 7 + k) as u64);
        let copies = (3 * machine.chip.l2_bytes as usize).div_ceil(2 * n * k).clamp(1, 6);
        let is_transposed = layout.is_b_transposed;
        let dims = if is_transposed { [n, k] } else { [k, n] };
        let weights = (0..copies).map(|_| operand(dtype, &dims, &mut random)).collect::<Result<_>>()?;
        Ok(Self {
            extents: [m, n, k],
            dtype,
            is_transposed,
            rows: operand(dtype, &[m, k], &mut random)?,
            weights,
        })
    }

    pub fn layout(&self) -> Layout {
        if self.is_transposed { Layout::NT } else { Layout::NN }
    }

    /// One product for each of the weights, all with the same rows.
    fn graph(&self) -> Result<Graph> {
        let opsets = std::sync::Arc::new([("".into(), 21)].into_iter().collect());
        let mut graph = Graph::new("autotune", opsets);
        let [m, _, k] = self.extents;
        let rows = graph.add_input("rows", Some(TypeInfo::tensor(self.dtype, Shape::known(&[m, k]))))?;
        for (index, weights) in self.weights.iter().enumerate() {
            let weights = graph.add_constant(&format!("weights_{index}"), weights.clone());
            let node = Node::new("", "Gemm", 21)
                .with_name(format!("product_{index}"))
                .with_attribute("transB", i64::from(self.is_transposed));
            let (_, outputs) = graph.append(node, &[Some(rows), Some(weights)], 1)?;
            graph.add_output(format!("result_{index}"), outputs[0], None);
        }
        Ok(graph)
    }

    /// Compares random elements with float64; the error names the worst.
    fn check(&self, results: &[Value]) -> Result<()> {
        let [m, n, k] = self.extents;
        let mut random = fastrand::Rng::new();
        let rows = self.rows.as_bytes();
        for (weights, result) in self.weights.iter().zip(results) {
            let result = result.as_tensor().context("a product gives a tensor")?;
            ensure!(result.dims() == [m, n], "a result of {:?} instead of {m} x {n}", result.dims());
            for _ in 0..CHECKED {
                let (row, column) = (random.usize(..m), random.usize(..n));
                let products = (0..k).map(|at| {
                    self.element(rows, row * k + at)
                        * self.element(
                            weights.as_bytes(),
                            if self.is_transposed { column * k + at } else { at * n + column },
                        )
                });
                let expected: f64 = products.sum();
                let found = self.element(result.as_bytes(), row * n + column);
                // Rounding of the result, and of sums of k products below 1.
                let allowed = expected.abs() / 128.0 + 1e-3 * (k as f64).sqrt();
                ensure!(
                    (found - expected).abs() <= allowed,
                    "WRONG: element {row}, {column} is {found} instead of {expected:.4}"
                );
            }
        }
        Ok(())
    }

    fn element(&self, bytes: &[u8], index: usize) -> f64 {
        let pair = [bytes[2 * index], bytes[2 * index + 1]];
        match self.dtype {
            DType::F16 => f16::from_le_bytes(pair).to_f64(),
            _ => bf16::from_le_bytes(pair).to_f64(),
        }
    }
}

/// Uniform numbers in -1 to 1.
fn operand(dtype: DType, dims: &[usize], random: &mut fastrand::Rng) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let mut period = Vec::with_capacity(2 * PERIOD.min(count));
    for _ in 0..PERIOD.min(count) {
        let value = 2.0 * random.f32() - 1.0;
        period.extend(match dtype {
            DType::F16 => f16::from_f32(value).to_le_bytes(),
            _ => bf16::from_f32(value).to_le_bytes(),
        });
    }
    let mut bytes = Vec::with_capacity(2 * count);
    while bytes.len() < 2 * count {
        let part = period.len().min(2 * count - bytes.len());
        bytes.extend_from_slice(&period[..part]);
    }
    Ok(Tensor::copy_from_bytes(dtype, dims, &bytes)?)
}

/// The fastest candidate that is right, and its seconds.
pub fn best(outcomes: &[Outcome]) -> Option<(&Choice, f64)> {
    let right = outcomes.iter().filter_map(|o| Some((&o.choice, *o.seconds.as_ref().ok()?)));
    right.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The row of a table for the best of a problem's candidates.
pub fn row(
    problem: &Problem,
    layout: Layout,
    outcomes: &[Outcome],
    machine: &Machine,
    peer_seconds: Option<f64>,
    commit: Option<&str>,
) -> Option<Row> {
    let Problem::Matmul { m, n, k, .. } = problem else { return None };
    let (choice, seconds) = best(outcomes)?;
    let (candidate, splits) = choice.name.split_once(", K in ").unwrap_or((&choice.name, "1"));
    Some(Row {
        kind: problem.product_in(layout)?.kind.name(),
        extents: [*m, *n, *k],
        candidate: candidate.to_owned(),
        splits: splits.parse().ok()?,
        chip: machine.chip.name.clone(),
        microseconds: seconds * 1e6,
        evidence: Evidence::Measured {
            peer_microseconds: peer_seconds.map(|seconds| seconds * 1e6),
            commit: commit.map(str::to_owned),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu() -> Environment {
        let environment = Environment::new();
        environment.register(tenon_provider_cpu::table()).unwrap();
        environment
    }

    fn small(is_transposed: bool) -> Operands {
        let mut random = fastrand::Rng::with_seed(7);
        let mut tensor = |dims: &[usize]| operand(DType::BF16, dims, &mut random).unwrap();
        let dims = if is_transposed { [16, 24] } else { [24, 16] };
        let weights = vec![tensor(&dims), tensor(&dims)];
        Operands { extents: [5, 16, 24], dtype: DType::BF16, is_transposed, rows: tensor(&[5, 24]), weights }
    }

    /// The graph's results pass the check on a provider that is right, and a changed element does not.
    #[test]
    fn results_are_checked_against_float64() {
        let environment = cpu();
        for is_transposed in [false, true] {
            let operands = small(is_transposed);
            let request = ProviderRequest { name: "cpu".to_owned(), ..ProviderRequest::default() };
            let options = SessionOptions { providers: vec![request], ..SessionOptions::default() };
            let session = Session::from_graph(&environment, operands.graph().unwrap(), &options).unwrap();
            let results = session.run(&[("rows", Value::from(operands.rows.clone()))]).unwrap();
            operands.check(&results).unwrap();
            let wrong = Tensor::zeros(DType::BF16, &[5, 16]).unwrap();
            let error = operands.check(&[Value::from(wrong.clone()), Value::from(wrong)]).unwrap_err();
            assert!(error.to_string().contains("WRONG"), "{error}");
        }
    }

    #[test]
    fn absent_devices_are_named() {
        let error = machine(&cpu().providers(), "cuda", 0).unwrap_err().to_string();
        assert!(error.contains("cpu"), "{error}");
        assert_eq!(median(vec![3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert!(median(Vec::new()).is_err());
    }
}
