//! `cargo xtask bench`: the zoo's models beside ONNX Runtime, in the same run and with as many threads.

use std::process::Command;

use anyhow::Result;

use crate::{place, process, venv, zoo};

#[derive(clap::Args)]
pub struct Args {
    /// Cases by name; all of them when none is given
    only: Vec<String>,
    /// Threads of both
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds each side of each case is measured in one round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Rounds in which both sides take turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave out the language models
    #[arg(long)]
    no_llm: bool,
}

/// Prepares the zoo, builds runner, compares, and writes `target/zoo/bench.{md,json}`.
pub fn run(args: &Args) -> Result<()> {
    let folder = zoo::prepare(args.no_llm)?;
    let runner = zoo::runner(zoo::Profile::Release)?;
    let mut script = Command::new(venv::python()?);
    script.arg(place::script("compare_ort.py")).arg(&folder).arg("--runner").arg(runner);
    script.args(["--threads", &args.threads.to_string(), "--seconds", &args.seconds.to_string()]);
    script.args(["--rounds", &args.rounds.to_string()]);
    if !args.only.is_empty() {
        script.arg("--only").args(&args.only);
    }
    process::run(&mut script)
}
