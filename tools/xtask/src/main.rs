//! Developer commands: generate, tidy, test, conformance, bench. One module for each subcommand.

mod generate;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Tenon", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write every generated file that is committed.
    Gen(generate::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Gen(args) => generate::run(&args),
    }
}

/// The repository's root folder.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(PathBuf::from).unwrap_or(here)
}
