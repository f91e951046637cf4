//! The bound loop over a GPU provider whose kernels are compiled for the host, beside the CPU provider.

#[path = "../../../providers/gpu/tests/host/mod.rs"]
mod host;

use clap::Parser;
use tenon_llama::Args;
use tenon_runtime::session::Environment;

tenon_plugin_api::export_provider!(host::HostProvider, no_symbol);

#[test]
fn tokens_and_scores_are_those_of_the_cpu_provider() {
    let environment = Environment::new();
    environment.register(tenon_provider_cpu::table()).unwrap();
    environment.register(table()).unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");
    let arguments = ["llama", model, "--provider", "host-gpu", "--compare", "cpu"];
    let sizes = ["--batch", "2", "--prompt", "5", "--steps", "5", "--length", "16"];
    let args = Args::parse_from(arguments.into_iter().chain(sizes));
    tenon_llama::run(&environment, &args).unwrap();
}
