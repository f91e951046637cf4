//! `--provider`: candidates timed on a device through the provider's plugin, checked, beside the vendor's library.

use std::path::{Path, PathBuf};
use std::process::Command;

use anstream::println;
use anyhow::{Context, Result, anyhow, bail, ensure};
use half::{bf16, f16};
use indicatif::ProgressBar;
use serde_json::json;
use tenon_kernels::gpu::pipeline::{Choice, Machine, matmul_choices};
use tenon_roofline::problem::{Dtype, Problem};
use tenon_roofline::table::{Table, significant, time};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Graph, Node, Shape, TypeInfo};
use tenon_runtime::session::{Environment, ProviderInfo, ProviderRequest, Session, SessionOptions};
use tenon_runtime::tensor::{Tensor, Value};

use crate::cublaslt::Library;
use crate::rows::{self, Evidence, Row};
use crate::{Args, Weights};

/// The variable that holds folders of provider libraries, separated as in PATH.
const PROVIDER_PATH: &str = "TENON_PROVIDER_PATH";

/// Elements of a result that are computed again in float64.
const CHECKED: usize = 96;

/// Random elements that operands repeat: a prime, so that rows differ.
const PERIOD: usize = 1_048_573;

/// Runs before those that count.
const WARM_RUNS: usize = 3;

/// What became of a candidate.
struct Outcome {
    choice: Choice,
    /// Median seconds, or why there are none.
    seconds: Result<f64>,
}

/// A problem and all that was measured for it.
struct Measured<'a> {
    problem: &'a Problem,
    outcomes: Vec<Outcome>,
    peer: Option<Result<f64>>,
}

/// Measures, prints, and writes when asked to.
pub fn run(provider: &str, problems: &[Problem], args: &Args) -> Result<()> {
    let environment = environment(&args.provider_dir)?;
    let (name, ordinal) = provider.split_once(':').unwrap_or((provider, "0"));
    let ordinal: u32 =
        ordinal.parse().with_context(|| format!("--provider {provider}: '{ordinal}' is no device"))?;
    let machine = machine(&environment.providers(), name, ordinal)?;
    let library = library(name, ordinal, args)?;
    let bar = ProgressBar::new(problems.len() as u64);
    let mut all = Vec::new();
    for problem in problems {
        bar.set_message(problem.to_string());
        let operands = Operands::random(problem, args.layout, &machine)?;
        let outcomes = candidates(problem, &machine, args)?
            .into_iter()
            .map(|choice| {
                let seconds = measure(&environment, name, ordinal, &choice, &operands, args.runs);
                Outcome { choice, seconds }
            })
            .collect();
        let peer = library.as_ref().map(|library| operands.measure_peer(library, args.runs));
        all.push(Measured { problem, outcomes, peer });
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(&all, &machine, args)
}

/// The CPU provider, the libraries beside this program, those in `TENON_PROVIDER_PATH`, and those in `folders`.
fn environment(folders: &[PathBuf]) -> Result<Environment> {
    let environment = Environment::new();
    environment.register(tenon_provider_cpu::table()).context("the built-in CPU provider does not load")?;
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let listed = std::env::var_os(PROVIDER_PATH);
    let listed: Vec<PathBuf> = listed.iter().flat_map(std::env::split_paths).collect();
    for folder in beside.into_iter().chain(listed).chain(folders.iter().cloned()) {
        for (library, outcome) in environment.load_folder(&folder)? {
            if let Err(error) = outcome {
                anstream::eprintln!("warning: {} is not used: {error}", library.display());
            }
        }
    }
    Ok(environment)
}

/// The chip of a provider's device.
fn machine(providers: &[ProviderInfo], name: &str, ordinal: u32) -> Result<Machine> {
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

fn library(provider: &str, ordinal: u32, args: &Args) -> Result<Option<Library>> {
    if args.no_peer || provider != "cuda" {
        return Ok(None);
    }
    let library = Library::open(args.peer.as_deref(), ordinal);
    Ok(Some(library.context("cuBLASLt measures beside us: name it with --peer, or pass --no-peer")?))
}

/// The candidates of least estimated time, and the planner's choice.
fn candidates(problem: &Problem, machine: &Machine, args: &Args) -> Result<Vec<Choice>> {
    let product = problem.product_in(args.layout.layout()).expect("only products are measured");
    let choices = matmul_choices(&product, machine).map_err(|error| anyhow!("{problem}: {error}"))?;
    let kept = choices.into_iter().enumerate().filter(|(rank, choice)| *rank < args.top || choice.is_chosen);
    Ok(kept.map(|(_, choice)| choice).collect())
}

/// A product's operands: the rows, and as many weights as it takes to miss the second-level cache.
struct Operands {
    extents: [usize; 3],
    dtype: DType,
    /// The weights are `n x k`.
    is_transposed: bool,
    rows: Tensor,
    weights: Vec<Tensor>,
}

impl Operands {
    fn random(problem: &Problem, weights: Weights, machine: &Machine) -> Result<Self> {
        let Problem::Matmul { m, n, k, dtype } = *problem else { bail!("only products are measured") };
        let dtype = match dtype {
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
            other => bail!("--dtype {}: the provider's graphs reach bf16 and f16 kernels only", other.name()),
        };
        let mut random = fastrand::Rng::with_seed((m * 31 + n * 7 + k) as u64);
        let copies = (3 * machine.chip.l2_bytes as usize).div_ceil(2 * n * k).clamp(1, 6);
        let is_transposed = weights == Weights::Nt;
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

    /// Median seconds of the library's products of the same operands.
    fn measure_peer(&self, library: &Library, runs: usize) -> Result<f64> {
        let weights: Vec<&[u8]> = self.weights.iter().map(Tensor::as_bytes).collect();
        let times = library.time(
            self.extents,
            (self.dtype == DType::F16, self.is_transposed),
            self.rows.as_bytes(),
            &weights,
            runs + WARM_RUNS,
        )?;
        median(times.into_iter().skip(WARM_RUNS * self.weights.len()).collect())
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

/// Median seconds of one candidate's kernel.
fn measure(
    environment: &Environment,
    provider: &str,
    ordinal: u32,
    choice: &Choice,
    operands: &Operands,
    runs: usize,
) -> Result<f64> {
    let options = vec![("graphs".to_owned(), "0".to_owned()), ("matmul".to_owned(), choice.symbol.clone())];
    let request = ProviderRequest { name: provider.to_owned(), device: Some(ordinal), options };
    let options =
        SessionOptions { providers: vec![request], strict: true, profile: true, ..SessionOptions::default() };
    let session = Session::from_graph(environment, operands.graph()?, &options)?;
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

fn median(mut times: Vec<f64>) -> Result<f64> {
    ensure!(!times.is_empty(), "nothing was timed");
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The fastest candidate that is right.
fn best<'a>(measured: &'a Measured<'_>) -> Option<(&'a Choice, f64)> {
    let right = measured.outcomes.iter().filter_map(|o| Some((&o.choice, *o.seconds.as_ref().ok()?)));
    right.min_by(|a, b| a.1.total_cmp(&b.1))
}

fn report(all: &[Measured<'_>], machine: &Machine, args: &Args) -> Result<()> {
    let commit = args.commit.clone().or_else(head);
    let rows: Vec<Row> =
        all.iter().filter_map(|measured| row(measured, machine, commit.as_deref(), args.layout)).collect();
    if let Some(path) = &args.write {
        rows::write(path, &rows)?;
    }
    if args.json {
        let all: Vec<_> = all.iter().map(json).collect();
        println!(
            "{:#}",
            json!({ "kind": "measured", "chip": machine.chip.name, "commit": commit, "measured": all })
        );
        return Ok(());
    }
    println!(
        "{}: medians of {} runs, each kernel alone between two marks of the device's clock.\n",
        machine.chip.device_name, args.runs
    );
    println!("{}", table(all));
    for measured in all {
        for outcome in &measured.outcomes {
            if let Err(error) = &outcome.seconds {
                anstream::eprintln!("{} {}: {error:#}", measured.problem, outcome.choice.name);
            }
        }
        if let Some(Err(error)) = &measured.peer {
            anstream::eprintln!("{} cuBLASLt: {error:#}", measured.problem);
        }
    }
    let ratios: Vec<f64> = all
        .iter()
        .filter_map(|measured| Some(measured.peer.as_ref()?.as_ref().ok()? / best(measured)?.1))
        .collect();
    if !ratios.is_empty() {
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        println!("cuBLASLt takes {mean:.3} times our best, geometric mean over {} shapes.\n", ratios.len());
    }
    if args.write.is_none() {
        rows.iter().for_each(|row| println!("{row}"));
    }
    ensure!(rows.len() == all.len(), "{} shapes have no kernel that ran right", all.len() - rows.len());
    Ok(())
}

fn table(all: &[Measured<'_>]) -> Table {
    let titles =
        ["shape", "candidate", "", ">measured", ">TFLOP/s", ">GB/s", ">estimate", ">cuBLASLt", ">ratio"];
    let mut table = Table::new(&titles);
    for measured in all {
        let fastest = best(measured).map(|(choice, _)| choice.symbol.clone());
        let peer = measured.peer.as_ref().and_then(|peer| peer.as_ref().ok());
        for Outcome { choice, seconds } in &measured.outcomes {
            let mark = match (Some(&choice.symbol) == fastest.as_ref(), choice.is_chosen) {
                (true, true) => "best *",
                (true, false) => "best",
                (false, true) => "*",
                (false, false) => "",
            };
            let seconds = seconds.as_ref().ok();
            let cell = |text: Option<String>| text.unwrap_or_default();
            table.row([
                measured.problem.to_string(),
                choice.name.clone(),
                mark.to_owned(),
                seconds.map_or("failed".to_owned(), |s| time(*s)),
                cell(seconds.map(|s| significant(choice.estimate.flops / s / 1e12))),
                cell(seconds.map(|s| significant(choice.estimate.bytes / s / 1e9))),
                time(choice.estimate.seconds),
                cell(peer.map(|s| time(*s))),
                cell(peer.zip(seconds).map(|(peer, own)| format!("{:.3}", peer / own))),
            ]);
        }
    }
    table
}

fn json(measured: &Measured<'_>) -> serde_json::Value {
    let outcomes: Vec<_> = measured
        .outcomes
        .iter()
        .map(|Outcome { choice, seconds }| {
            json!({ "candidate": choice.name, "symbol": choice.symbol, "estimate_us": choice.estimate.seconds * 1e6,
                    "us": seconds.as_ref().ok().map(|s| s * 1e6),
                    "error": seconds.as_ref().err().map(|error| format!("{error:#}")) })
        })
        .collect();
    let peer = measured.peer.as_ref().and_then(|peer| peer.as_ref().ok()).map(|s| s * 1e6);
    json!({ "shape": measured.problem.to_string(), "dtype": measured.problem.dtype().name(), "candidates": outcomes, "peer_us": peer })
}

fn row(measured: &Measured<'_>, machine: &Machine, commit: Option<&str>, weights: Weights) -> Option<Row> {
    let Problem::Matmul { m, n, k, .. } = measured.problem else { return None };
    let (choice, seconds) = best(measured)?;
    let (candidate, splits) = choice.name.split_once(", K in ").unwrap_or((&choice.name, "1"));
    let peer = measured.peer.as_ref().and_then(|peer| peer.as_ref().ok());
    Some(Row {
        kind: measured.problem.product_in(weights.layout())?.kind.name(),
        extents: [*m, *n, *k],
        candidate: candidate.to_owned(),
        splits: splits.parse().ok()?,
        chip: machine.chip.name.clone(),
        microseconds: seconds * 1e6,
        evidence: Evidence::Measured {
            peer_microseconds: peer.map(|seconds| seconds * 1e6),
            commit: commit.map(str::to_owned),
        },
    })
}

/// The commit that is checked out; `None` where git does not know.
fn head() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let environment = environment(&[]).unwrap();
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
        let error = machine(&environment(&[]).unwrap().providers(), "cuda", 0).unwrap_err().to_string();
        assert!(error.contains("cpu") || error.contains("cannot be used"), "{error}");
        assert_eq!(median(vec![3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert!(median(Vec::new()).is_err());
    }
}
