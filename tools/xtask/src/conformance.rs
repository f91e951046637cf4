//! `cargo xtask conformance`: writes the cases of the ONNX backend suite and runs them through a provider.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{place, process, venv};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Write the cases again
    #[arg(long)]
    fresh: bool,
    /// Build with optimisation
    #[arg(long)]
    release: bool,
    /// Options of the suite's program: --provider NAME, --filter TEXT, --ops A,B, --csv FILE, ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Writes the cases if there are none, then runs them.
pub fn run(args: &Args) -> Result<()> {
    let cases = place::target().join("conformance-cases");
    // Written last by the script, so that an interrupted dump is done again.
    if args.fresh || !cases.join("index.json").is_file() {
        if cases.exists() {
            std::fs::remove_dir_all(&cases).with_context(|| format!("cannot empty {}", cases.display()))?;
        }
        process::run(Command::new(venv::python()?).arg(place::script("dump_cases.py")).arg(&cases))?;
    }
    let mut suite = process::cargo(["run", "--quiet", "--package", "tenon-tests", "--bin", "conformance"]);
    if args.release {
        suite.arg("--release");
    }
    suite.arg("--").arg(&cases).arg("--lists").arg(place::root().join("providers/cpu/conformance"));
    process::run(suite.args(&args.rest))
}
