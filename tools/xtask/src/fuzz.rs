//! `cargo xtask fuzz`: random small graphs beside ONNX Runtime and the ONNX reference evaluator.

use std::process::Command;

use anyhow::Result;

use crate::{conformance, place, process, venv};

#[derive(clap::Args)]
pub struct Args {
    /// Graphs to make
    #[arg(long, default_value_t = 2000)]
    pub graphs: usize,
    /// Index of the first graph
    #[arg(long, default_value_t = 0)]
    pub first: usize,
    /// Seed of the graphs; graph INDEX of a seed is always the same
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The provider that runs them
    #[arg(long, default_value = "cpu")]
    pub provider: String,
}

/// Runs the graphs; fails on a difference that tests/data/fuzz/explained.toml does not explain.
pub fn run(args: &Args) -> Result<()> {
    let mut script = Command::new(venv::python()?);
    script.arg(place::script("fuzz.py")).arg(place::target().join("fuzz"));
    script.arg("--program").arg(conformance::program()?);
    script.arg("--explained").arg(place::root().join("tests/data/fuzz/explained.toml"));
    script.args(["--graphs", &args.graphs.to_string(), "--first", &args.first.to_string()]);
    script.args(["--seed", &args.seed.to_string(), "--provider", &args.provider]);
    process::run(&mut script)
}
