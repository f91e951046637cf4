//! Providers as libraries, and the emulated devices that stand in for hardware.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{executed, place, process};

/// Builds provider `name` and returns its library; `None` for the one that is linked into programs.
pub fn library(name: &str) -> Result<Option<PathBuf>> {
    if name == "cpu" {
        return Ok(None);
    }
    process::run(&mut process::cargo(["build", "--quiet", "--package", &format!("tenon-provider-{name}")]))?;
    Ok(Some(built().join(format!("libtenon_provider_{name}.so"))))
}

/// Builds the stand-in for AMD's driver and gives `command` an emulated device of `chip`.
pub fn emulate(command: &mut Command, chip: &str) -> Result<()> {
    process::run(&mut process::cargo(["build", "--quiet", "--package", "tenon-emulator-hip"]))?;
    let inherited = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let paths = [built()].into_iter().chain(std::env::split_paths(&inherited));
    let paths = std::env::join_paths(paths).context("LD_LIBRARY_PATH cannot hold the target folder")?;
    command.env("LD_LIBRARY_PATH", paths).env("TENON_HIP_DEVICES", chip);
    command.env(executed::VARIABLE, executed::file());
    Ok(())
}

/// Where development builds lie.
fn built() -> PathBuf {
    place::target().join("debug")
}
