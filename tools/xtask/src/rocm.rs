//! `cargo xtask rocm`: the ROCm provider end to end on emulated devices, as it is shipped: its library over the stand-in
//! driver runs groups of the backend suite, real models, language models that drive themselves, the doctor, and into faults.
//! Then the kernels' own tests run, and every kernel must have been executed.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::{conformance, executed, kernels, place, process, provider, zoo};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Emulated chips: MI300X, MI325X, MI355X [default: MI300X and MI355X]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    chips: Vec<String>,
    /// Only these stages: suite, doctor, faults, zoo, kernels
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    only: Vec<String>,
}

const CHIPS: [&str; 2] = ["MI300X", "MI355X"];
/// The chips' families.
const FAMILIES: [&str; 2] = ["gfx942", "gfx950"];
/// Groups of the backend suite.
const KINDS: [&str; 4] = ["simple", "pytorch-converted", "pytorch-operator", "node"];
/// Real models that an emulated device finishes in seconds, and the language models.
const MODELS: [&str; 10] = [
    "aecmos",
    "dnsmos_p808",
    "magika",
    "ppocr_cls",
    "rand_squeezenet",
    "silero_vad_ifless",
    "silero_vad_sequence",
    "surfaces_mlp",
    "tiny_llama_genai_greedy",
    "tiny_mistral_genai_greedy",
];
/// Faults that the stand-in driver is asked for, and what the user must read.
const FAULTS: [(&str, &str, &str); 2] = [
    ("TENON_HIP_LOSE_AFTER", "1", "hipErrorLaunchFailure (driver error 719)"),
    ("TENON_HIP_MEMORY", "4096", "hipErrorOutOfMemory (driver error 2)"),
];
/// Time for one case of the suite or one model, which the emulator stretches.
const CASE_SECONDS: &str = "120";

type Stage = fn(&str) -> Result<()>;
const STAGES: [(&str, Stage); 4] =
    [("suite", suite), ("doctor", doctor), ("faults", faults), ("zoo", models)];
/// The stage behind them, once for all chips: the kernels' own tests, and what was never executed by any stage.
const KERNELS: &str = "kernels";

/// Compiles the kernels where that has not been done, then runs every stage on every chip.
pub fn run(args: &Args) -> Result<()> {
    let unknown =
        args.only.iter().find(|name| *name != KERNELS && STAGES.iter().all(|(stage, _)| stage != name));
    ensure!(unknown.is_none(), "unknown stage {unknown:?}");
    for family in FAMILIES {
        kernels::run(&kernels::Args { arch: Some(family.to_owned()), ..kernels::Args::default() })?;
    }
    let chips: Vec<&str> = match args.chips.as_slice() {
        [] => CHIPS.to_vec(),
        chips => chips.iter().map(String::as_str).collect(),
    };
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    if args.only.is_empty() {
        executed::forget()?;
    }
    let mut times = Vec::new();
    for chip in chips {
        for (name, stage) in STAGES {
            if is_wanted(name) {
                let start = Instant::now();
                stage(chip)?;
                times.push(format!("{chip} {name}: {:.0} s", start.elapsed().as_secs_f64()));
            }
        }
    }
    println!("{}", times.join("\n"));
    if is_wanted(KERNELS) {
        executed::run_tests()?;
        executed::check(&FAMILIES)?;
    }
    Ok(())
}

fn suite(chip: &str) -> Result<()> {
    let mut rest: Vec<String> = KINDS.iter().flat_map(|&kind| ["--kind", kind]).map(str::to_owned).collect();
    rest.extend(["--limit", CASE_SECONDS].map(str::to_owned));
    let (provider, emulate) = ("rocm".to_owned(), Some(chip.to_owned()));
    conformance::run(&conformance::Args { provider, emulate, rest, ..conformance::Args::default() })
}

/// On two devices, so that copies between them are checked too.
fn doctor(chip: &str) -> Result<()> {
    provider::library("rocm")?;
    let mut doctor = Command::new(zoo::runner(zoo::Profile::Dev)?);
    doctor.args(["doctor", "--provider", "rocm", "--check", "--tune", "2"]);
    provider::emulate(&mut doctor, &format!("{chip},{chip}"))?;
    process::run(&mut doctor)
}

/// A model on a device that is lost, or too small: the driver's own error reaches the user.
fn faults(chip: &str) -> Result<()> {
    provider::library("rocm")?;
    let runner = zoo::runner(zoo::Profile::Dev)?;
    let digits = place::root().join("tests/data/digits");
    for (variable, value, wanted) in FAULTS {
        let mut command = Command::new(&runner);
        command.arg(digits.join("model.onnx")).arg(digits.join("three.png"));
        command.args(["--provider", "rocm", "--no-balance", "--quiet"]).env(variable, value);
        provider::emulate(&mut command, chip)?;
        let output = command.output().context("cannot start runner")?;
        let printed = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && printed.contains(wanted),
            "{variable}={value}: {}, without '{wanted}':\n{printed}",
            output.status
        );
    }
    Ok(())
}

fn models(chip: &str) -> Result<()> {
    if place::zoo().is_none() {
        eprintln!("no models: set TENON_ZOO to the zoo's folder");
        return Ok(());
    }
    let (provider, emulate) = (Some("rocm".to_owned()), Some(chip.to_owned()));
    zoo::run(&zoo::Args { provider, emulate, only: Some(MODELS.join(",")), ..zoo::Args::default() })
}
