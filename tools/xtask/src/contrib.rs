//! `cargo xtask contrib`: com.microsoft operators on a grid of options and shapes, beside ONNX Runtime's CPU kernels.

use std::process::Command;

use anyhow::Result;

use crate::{conformance, place, process, venv};

#[derive(clap::Args)]
pub struct Args {
    /// Combinations drawn for each operator
    #[arg(long, default_value_t = 100)]
    pub count: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only these operators
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub ops: Vec<String>,
    /// Write the small set that the tests run, tests/data/contrib, instead
    #[arg(long)]
    pub commit: bool,
}

/// Combinations of an operator in the committed set, and the bytes its archive may have.
const COMMITTED: (usize, usize) = (8, 60_000);

/// Draws cases, asks ONNX Runtime for the expected outputs, and runs them; fails below 99 % agreement.
pub fn run(args: &Args) -> Result<()> {
    let mut script = Command::new(venv::python()?);
    let folder =
        if args.commit { place::root().join("tests/data/contrib") } else { place::target().join("contrib") };
    script.arg(place::script("contrib_vectors.py")).arg(&folder);
    script.args(["--seed", &args.seed.to_string()]);
    if !args.ops.is_empty() {
        script.args(["--ops", &args.ops.join(",")]);
    }
    if args.commit {
        let (count, bytes) = COMMITTED;
        script.args(["--count", &count.to_string(), "--limit-bytes", &bytes.to_string()]);
        return process::run(&mut script);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    process::run(script.args(["--count", &args.count.to_string()]))?;
    process::run(Command::new(conformance::program()?).arg(&folder).args(["--agreement", "0.99"]))
}
