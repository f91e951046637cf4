//! Developer commands: generate, tidy, test, conformance, contrib, fuzz, zoo, bench, kernels, rocm, dist, kit. One
//! module for each subcommand.

mod bench;
mod conformance;
mod contrib;
mod dist;
mod executed;
mod fuzz;
mod generate;
mod kernels;
mod kit;
mod place;
mod process;
mod provider;
mod rocm;
mod test;
mod tidy;
mod venv;
mod zoo;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Tenon", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write every generated file that is committed
    Gen(generate::Args),
    /// Bring the tree into order: generated files, formatting, what clippy can mend
    Tidy(tidy::Args),
    /// Run every check: formatting, lints, tests, conformance, fuzz, contrib, zoo
    Test(test::Args),
    /// Run the ONNX backend suite through a provider
    Conformance(conformance::Args),
    /// Run com.microsoft operators on a grid of options beside ONNX Runtime
    Contrib(contrib::Args),
    /// Run random small graphs beside ONNX Runtime and the ONNX reference evaluator
    Fuzz(fuzz::Args),
    /// Fetch real models and check that runner agrees with their stored outputs
    Zoo(zoo::Args),
    /// Measure the zoo's models beside ONNX Runtime
    Bench(bench::Args),
    /// Compile the GPU kernels and check their machine code
    Kernels(kernels::Args),
    /// Run the ROCm provider on emulated devices: suite, models, doctor, and every kernel
    Rocm(rocm::Args),
    /// Build what is shipped into target/dist
    Dist(dist::Args),
    /// Gather what checks a GPU provider on a machine that has the device into target/kit
    Kit(kit::Args),
    /// Make the Python environment that scripts run in, and print its interpreter
    Venv(venv::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Gen(args) => generate::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Contrib(args) => contrib::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Zoo(args) => zoo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Rocm(args) => rocm::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Kit(args) => kit::run(&args),
        Command::Venv(args) => venv::run(&args),
    }
}
