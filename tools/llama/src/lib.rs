//! Drives a model that `tools/python/make_llama.py` wrote. Weights, caches, lengths and tokens stay on the device;
//! a step is one run of a bound session, and the token it chose is the next step's input without the host seeing it.

mod check;
mod decode;
mod measure;
mod weights;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tenon_runtime::session::{Environment, ProviderRequest, Session, SessionOptions};

/// Drives a decoder graph with its state on the device, and measures or checks it
#[derive(Parser)]
pub struct Args {
    /// Folder that make_llama.py wrote
    model: PathBuf,
    /// Provider libraries to load
    #[arg(long)]
    pub library: Vec<PathBuf>,
    /// The provider that runs the model, with options
    #[arg(long)]
    provider: ProviderRequest,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens to generate
    #[arg(long, default_value_t = 64)]
    steps: usize,
    /// Positions that the caches have room for
    #[arg(long, default_value_t = 1024)]
    length: usize,
    /// Times that the generation is measured; the median is told
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Check tokens and scores against this provider, instead of measuring
    #[arg(long)]
    compare: Option<ProviderRequest>,
    /// Tell which kernels the time goes to
    #[arg(long)]
    profile: bool,
    /// Bytes a second that the share of the ceiling is told against, in GB/s; what the device says by default
    #[arg(long)]
    bandwidth: Option<f64>,
}

/// Checks or measures, as `args` says, with the providers of `environment`.
pub fn run(environment: &Environment, args: &Args) -> Result<()> {
    match &args.compare {
        Some(reference) => check::run(environment, args, reference),
        None => measure::run(environment, args),
    }
}

impl Args {
    /// Opens a graph of the model's folder; nothing of it may run elsewhere.
    fn open(
        &self,
        environment: &Environment,
        file: &str,
        provider: &ProviderRequest,
        profile: bool,
    ) -> Result<Session> {
        let mut options = SessionOptions::default();
        options.providers.push(provider.clone());
        options.strict = true;
        options.profile = profile;
        let path = self.model.join(file);
        Session::open(environment, &path, &options).with_context(|| format!("cannot open {}", path.display()))
    }
}
