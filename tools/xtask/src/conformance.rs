//! `cargo xtask conformance`: writes the cases of the ONNX backend suite and runs them through a provider.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{place, process, venv};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Write the cases again
    #[arg(long)]
    pub fresh: bool,
    /// Build with optimisation
    #[arg(long)]
    pub release: bool,
    /// Fail when the committed table is not that of this run, instead of writing it
    #[arg(long)]
    pub check: bool,
    /// Options of the suite's program: --provider NAME, --filter TEXT, --ops A,B, --csv FILE, ...; with any of them the
    /// table is left alone
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Writes the cases if there are none, runs them, and writes the table of the CPU provider.
pub fn run(args: &Args) -> Result<()> {
    let cases = place::target().join("conformance-cases");
    // Written last by the script, so that an interrupted dump is done again.
    if args.fresh || !cases.join("index.json").is_file() {
        if cases.exists() {
            std::fs::remove_dir_all(&cases).with_context(|| format!("cannot empty {}", cases.display()))?;
        }
        process::run(Command::new(venv::python()?).arg(place::script("dump_cases.py")).arg(&cases))?;
    }
    let lists = place::root().join("providers/cpu/conformance");
    let mut suite = Command::new(build(args.release)?);
    suite.arg(&cases).arg("--lists").arg(&lists);
    if args.rest.is_empty() {
        suite.arg("--table").arg(lists.join("table.md"));
        if args.check {
            suite.arg("--check");
        }
    }
    process::run(suite.args(&args.rest))
}

/// Builds the suite's program and returns its path.
pub fn program() -> Result<PathBuf> {
    build(false)
}

fn build(release: bool) -> Result<PathBuf> {
    let (profile, folder) = if release { ("release", "release") } else { ("dev", "debug") };
    let package = ["--package", "tenon-tests", "--bin", "conformance"];
    process::run(process::cargo(["build", "--quiet", "--profile", profile]).args(package))?;
    Ok(place::target().join(folder).join("conformance"))
}
