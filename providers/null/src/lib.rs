//! The provider that declines everything, on one pretend device: the folder to copy for a new vendor.
//!
//! `README.md` beside this crate lists the steps from here to a provider that runs models.

mod device;
mod provider;

pub use device::{NullDevice, NullExecutable};
pub use provider::NullProvider;

tenon_plugin_api::export_provider!(NullProvider);
