//! `cargo xtask conformance`: writes the cases of the ONNX backend suite and runs them through a provider.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{place, process, provider, venv};

#[derive(clap::Args)]
pub struct Args {
    /// The provider; nodes that it declines run on the CPU
    #[arg(long, default_value = "cpu")]
    pub provider: String,
    /// Run on an emulated device of this chip: MI300X, MI325X, MI355X
    #[arg(long, value_name = "CHIP")]
    pub emulate: Option<String>,
    /// Write the cases again
    #[arg(long)]
    pub fresh: bool,
    /// Build with optimisation
    #[arg(long)]
    pub release: bool,
    /// Fail when the committed table is not that of this run, instead of writing it
    #[arg(long)]
    pub check: bool,
    /// Options of the suite's program: --kind NAME, --filter TEXT, --ops A,B, --csv FILE, ...; with any of them the table
    /// is left alone
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

impl Default for Args {
    fn default() -> Args {
        let provider = "cpu".to_owned();
        Args { provider, emulate: None, fresh: false, release: false, check: false, rest: Vec::new() }
    }
}

/// Writes the cases if there are none and runs them; the CPU provider has a table of its results.
pub fn run(args: &Args) -> Result<()> {
    let cases = write_cases(args.fresh)?;
    let lists = place::root().join("providers").join(&args.provider).join("conformance");
    let mut suite = Command::new(build(args.release)?);
    suite.arg(&cases).arg("--lists").arg(&lists).args(["--provider", &args.provider]);
    match provider::library(&args.provider)? {
        Some(library) => _ = suite.arg("--provider-library").arg(library),
        None if args.rest.is_empty() => {
            suite.arg("--table").arg(lists.join("table.md"));
            if args.check {
                suite.arg("--check");
            }
        }
        None => {}
    }
    if let Some(chip) = &args.emulate {
        provider::emulate(&mut suite, chip)?;
    }
    process::run(suite.args(&args.rest))
}

/// The folder of the suite's cases, which are written where there are none, or again.
pub fn write_cases(fresh: bool) -> Result<PathBuf> {
    let cases = place::target().join("conformance-cases");
    // Written last by the script, so that an interrupted dump is done again.
    if fresh || !cases.join("index.json").is_file() {
        if cases.exists() {
            std::fs::remove_dir_all(&cases).with_context(|| format!("cannot empty {}", cases.display()))?;
        }
        process::run(Command::new(venv::python()?).arg(place::script("dump_cases.py")).arg(&cases))?;
    }
    Ok(cases)
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
