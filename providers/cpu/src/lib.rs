//! The CPU provider: every operator, the reference and the fallback.

pub mod buffer;
pub mod constant;
mod cost;
mod device;
pub mod error;
pub mod executable;
mod host;
pub mod kernel;
pub mod node;
pub mod ops;
pub mod prepacked;
pub mod program;
mod provider;
pub mod shape;
mod subgraph;
pub mod tensor;
pub mod threads;

#[cfg(test)]
mod testing;

pub use device::{CpuDevice, CpuExecutable};
pub use provider::CpuProvider;

tenon_plugin_api::export_provider!(CpuProvider);
