//! `llama`: drives a decoder graph with its state on the device, and measures or checks it.

use anyhow::{Context, Result};
use clap::Parser;
use tenon_runtime::session::Environment;

fn main() -> Result<()> {
    let args = tenon_llama::Args::parse();
    let environment = Environment::new();
    for library in &args.library {
        environment.load_library(library).with_context(|| format!("cannot load {}", library.display()))?;
    }
    tenon_llama::run(&environment, &args)
}
