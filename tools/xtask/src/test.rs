//! `cargo xtask test`: every check of the project in turn, and a table of how each ended.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{conformance, contrib, fuzz, generate, kernels, place, process, rocm, zoo};

#[derive(clap::Args)]
pub struct Args {
    /// Leave out GPU kernels, the backend suite, random graphs and the zoo, which need Python and package registries
    #[arg(long)]
    quick: bool,
    /// Run only these checks, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
}

/// How a check ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A check by name.
struct Check {
    name: &'static str,
    /// Left out by `--quick`.
    slow: bool,
    run: fn() -> Result<Outcome>,
}

const CHECKS: &[Check] = &[
    Check { name: "generated", slow: false, run: generated },
    Check { name: "format", slow: false, run: || cargo(&["fmt", "--all", "--check"]) },
    Check { name: "lint", slow: false, run: lint },
    Check { name: "kernels", slow: true, run: gpu_kernels },
    Check { name: "tests", slow: false, run: tests },
    Check { name: "doc", slow: false, run: || cargo(&["test", "--quiet", "--workspace", "--doc"]) },
    Check { name: "conformance", slow: true, run: backend_suite },
    Check { name: "fuzz", slow: true, run: random_graphs },
    Check { name: "contrib", slow: true, run: contrib_grid },
    Check { name: "zoo", slow: true, run: real_models },
    Check { name: "rocm", slow: true, run: emulated_devices },
];

/// Runs every check, also after one failed; an error when any failed.
pub fn run(args: &Args) -> Result<()> {
    let names: Vec<&str> = CHECKS.iter().map(|c| c.name).collect();
    let unknown = args.only.iter().find(|o| !names.contains(&o.as_str()));
    ensure!(unknown.is_none(), "unknown check {unknown:?}: one of {}", names.join(", "));
    let wanted = |c: &&Check| match args.only.as_slice() {
        [] => !(args.quick && c.slow),
        only => only.iter().any(|o| o == c.name),
    };
    let mut results = Vec::new();
    for check in CHECKS.iter().filter(wanted) {
        eprintln!("\n== {}", check.name);
        let start = Instant::now();
        let outcome = (check.run)().unwrap_or_else(|e| Outcome::Failed(format!("{e:#}")));
        results.push((check.name, outcome, start.elapsed()));
    }
    summarise(&results)
}

fn summarise(results: &[(&str, Outcome, Duration)]) -> Result<()> {
    println!();
    for (name, outcome, time) in results {
        let seconds = time.as_secs_f64();
        match outcome {
            Outcome::Passed => println!("{name:<12} passed   {seconds:7.1} s"),
            Outcome::Failed(why) => println!("{name:<12} FAILED   {seconds:7.1} s  {why}"),
            Outcome::Skipped(why) => println!("{name:<12} skipped  {seconds:7.1} s  {why}"),
        }
    }
    let failed: Vec<&str> =
        results.iter().filter(|r| matches!(r.1, Outcome::Failed(_))).map(|r| r.0).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn cargo(args: &[&str]) -> Result<Outcome> {
    process::run(&mut process::cargo(args.iter().copied()))?;
    Ok(Outcome::Passed)
}

fn generated() -> Result<Outcome> {
    generate::run(&generate::Args { check: true })?;
    Ok(Outcome::Passed)
}

fn lint() -> Result<Outcome> {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// Through nextest where it is installed: it stops tests that hang.
fn tests() -> Result<Outcome> {
    if process::succeeds(&mut process::cargo(["nextest", "--version"])) {
        let profile = if std::env::var_os("CI").is_some() { "ci" } else { "default" };
        return cargo(&["nextest", "run", "--workspace", "--profile", profile]);
    }
    cargo(&["test", "--quiet", "--workspace", "--all-targets"])
}

fn gpu_kernels() -> Result<Outcome> {
    kernels::run(&kernels::Args::default())?;
    Ok(Outcome::Passed)
}

fn backend_suite() -> Result<Outcome> {
    conformance::run(&conformance::Args { check: true, ..conformance::Args::default() })?;
    Ok(Outcome::Passed)
}

fn random_graphs() -> Result<Outcome> {
    fuzz::run(&fuzz::Args { graphs: 2000, first: 0, seed: 1, provider: "cpu".to_owned() })?;
    Ok(Outcome::Passed)
}

fn contrib_grid() -> Result<Outcome> {
    contrib::run(&contrib::Args { count: 20, seed: 1, ops: Vec::new(), commit: false })?;
    Ok(Outcome::Passed)
}

fn real_models() -> Result<Outcome> {
    if place::zoo().is_none() {
        return Ok(Outcome::Skipped("no zoo: set TENON_ZOO to its folder".to_owned()));
    }
    zoo::run(&zoo::Args { dev: true, ..zoo::Args::default() })?;
    Ok(Outcome::Passed)
}

fn emulated_devices() -> Result<Outcome> {
    rocm::run(&rocm::Args::default())?;
    Ok(Outcome::Passed)
}
