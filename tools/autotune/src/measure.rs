//! `--provider`: candidates timed on a device through the provider's plugin, checked, beside the vendor's library.

use std::path::{Path, PathBuf};
use std::process::Command;

use anstream::println;
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::json;
use tenon_autotune::rows::{self, Row};
use tenon_autotune::tune::{Device, Operands, Outcome, WARM_RUNS, best, machine, median, row};
use tenon_kernels::gpu::pipeline::Machine;
use tenon_roofline::problem::Problem;
use tenon_roofline::table::{Table, significant, time};
use tenon_runtime::dtype::DType;
use tenon_runtime::session::{Environment, ProviderRequest};
use tenon_runtime::tensor::Tensor;

use crate::Args;
use crate::cublaslt::Library;

/// The variable that holds folders of provider libraries, separated as in PATH.
const PROVIDER_PATH: &str = "TENON_PROVIDER_PATH";

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
    let provider = ProviderRequest { name: name.to_owned(), device: Some(ordinal), options: Vec::new() };
    let machine = machine(&environment.providers(), name, ordinal)?;
    let device = Device { environment: &environment, provider, machine };
    let library = library(name, ordinal, args)?;
    let bar = ProgressBar::new(problems.len() as u64);
    let mut all = Vec::new();
    for problem in problems {
        bar.set_message(problem.to_string());
        let operands = Operands::random(problem, args.layout.layout(), &device.machine)?;
        let outcomes = device.tune(problem, &operands, args.top, args.runs)?;
        let peer = library.as_ref().map(|library| measure_peer(&operands, library, args.runs));
        all.push(Measured { problem, outcomes, peer });
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(&all, &device.machine, args)
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

fn library(provider: &str, ordinal: u32, args: &Args) -> Result<Option<Library>> {
    if args.no_peer || provider != "cuda" {
        return Ok(None);
    }
    let library = Library::open(args.peer.as_deref(), ordinal);
    Ok(Some(library.context("cuBLASLt measures beside us: name it with --peer, or pass --no-peer")?))
}

impl Measured<'_> {
    fn row(&self, machine: &Machine, commit: Option<&str>, args: &Args) -> Option<Row> {
        let peer = self.peer.as_ref().and_then(|peer| peer.as_ref().ok());
        row(self.problem, args.layout.layout(), &self.outcomes, machine, peer.copied(), commit)
    }
}

/// Median seconds of the library's products of the same operands.
fn measure_peer(operands: &Operands, library: &Library, runs: usize) -> Result<f64> {
    let weights: Vec<&[u8]> = operands.weights.iter().map(Tensor::as_bytes).collect();
    let times = library.time(
        operands.extents,
        (operands.dtype == DType::F16, operands.is_transposed),
        operands.rows.as_bytes(),
        &weights,
        runs + WARM_RUNS,
    )?;
    median(times.into_iter().skip(WARM_RUNS * operands.weights.len()).collect())
}

fn report(all: &[Measured<'_>], machine: &Machine, args: &Args) -> Result<()> {
    let commit = args.commit.clone().or_else(head);
    let rows: Vec<Row> =
        all.iter().filter_map(|measured| measured.row(machine, commit.as_deref(), args)).collect();
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
        .filter_map(|measured| Some(measured.peer.as_ref()?.as_ref().ok()? / best(&measured.outcomes)?.1))
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
        let fastest = best(&measured.outcomes).map(|(choice, _)| choice.symbol.clone());
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

/// The commit that is checked out; `None` where git does not know.
fn head() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
