//! `cargo xtask tidy`: everything about the tree's order that a machine can mend.

use anyhow::Result;

use crate::{generate, process};

#[derive(clap::Args)]
pub struct Args {}

/// Generated files, then what clippy can mend, then formatting.
pub fn run(_: &Args) -> Result<()> {
    generate::run(&generate::Args { check: false })?;
    process::run(&mut process::cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    process::run(&mut process::cargo(["fmt", "--all"]))
}
