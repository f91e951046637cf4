//! `cargo xtask zoo`: fetches real models, builds their cases, and checks each through runner.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{place, process, provider, venv};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Only cases whose name contains this text
    pub filter: Option<String>,
    /// Leave out the language models, which take 1.3 GB on disk
    #[arg(long)]
    pub no_llm: bool,
    /// Build the cases and stop
    #[arg(long)]
    pub prepare: bool,
    /// Check the development build of runner, which the tests build anyway, instead of the release build
    #[arg(long)]
    pub dev: bool,
    /// The provider that runs whatever it can, in the development build
    #[arg(long)]
    pub provider: Option<String>,
    /// Run on an emulated device of this chip: MI300X, MI325X, MI355X
    #[arg(long, value_name = "CHIP")]
    pub emulate: Option<String>,
    /// Only these tests
    #[arg(long, value_name = "A,B")]
    pub only: Option<String>,
}

/// Fetches, builds, checks.
pub fn run(args: &Args) -> Result<()> {
    let cases = prepare(args.no_llm)?;
    if args.prepare {
        return Ok(());
    }
    let dev = args.dev || args.provider.is_some();
    let runner = runner(if dev { Profile::Dev } else { Profile::Release })?;
    let mut test = process::cargo(["test", "--quiet", "--package", "tenon-tests", "--test", "zoo", "--"]);
    test.args(&args.filter).env("TENON_ZOO_CASES", &cases).env("TENON_RUNNER", &runner);
    if let Some(name) = &args.provider {
        provider::library(name)?;
        test.env("TENON_ZOO_PROVIDER", name);
    }
    if let Some(chip) = &args.emulate {
        provider::emulate(&mut test, chip)?;
    }
    if let Some(only) = &args.only {
        test.env("TENON_ZOO_ONLY", only);
    }
    process::run(&mut test)
}

/// Builds the cases and returns their folder.
pub fn prepare(no_llm: bool) -> Result<PathBuf> {
    let zoo = place::zoo().context("no zoo: set TENON_ZOO to a folder with manifest.json, refs/ and llm/")?;
    let out = place::target().join("zoo");
    let mut script = Command::new(venv::python()?);
    script.arg(place::script("zoo.py")).arg(&out).arg("--zoo").arg(zoo);
    if no_llm {
        script.arg("--no-llm");
    }
    process::run(&mut script)?;
    Ok(out)
}

/// How a program is built.
#[derive(Clone, Copy)]
pub enum Profile {
    Dev,
    Release,
}

/// Builds runner and returns its path.
pub fn runner(profile: Profile) -> Result<PathBuf> {
    let (name, folder) = match profile {
        Profile::Dev => ("dev", "debug"),
        Profile::Release => ("release", "release"),
    };
    process::run(&mut process::cargo(["build", "--profile", name, "--package", "tenon-runner"]))?;
    Ok(place::target().join(folder).join("runner"))
}
