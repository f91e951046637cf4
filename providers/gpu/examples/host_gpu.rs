//! A plugin over the recording driver: the GPU providers' common part with its kernels compiled for the host, so that
//! the conformance suite can run through it on any machine (`--provider host-gpu --provider-library`).

#[path = "../tests/host/mod.rs"]
mod host;

tenon_plugin_api::export_provider!(host::HostProvider);
