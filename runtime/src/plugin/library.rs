//! Loads provider libraries and checks their tables.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::Library;
use tenon_plugin_api::{ffi, host};

use crate::error::{Error, ErrorKind, Result, Stage};
use crate::plugin::{host_api, provider_error};

/// A provider that has been checked and initialised.
pub struct LoadedProvider {
    pub provider: host::Provider,
    /// The library's file; `None` for a provider that is linked in.
    pub path: Option<PathBuf>,
}

/// Takes a provider that is linked into this program.
pub fn register(table: &'static ffi::ProviderApi) -> Result<LoadedProvider> {
    initialise(table, None)
}

/// Loads a provider's shared library. It stays loaded for the life of the process.
pub fn load_library(path: &Path) -> Result<LoadedProvider> {
    let failed = |what: String| {
        Error::new(ErrorKind::Provider, format!("cannot load the provider {}: {what}", path.display()))
            .at_stage(Stage::Session)
    };
    // SAFETY: loading runs the library's initialisers; the user asked for this file by name or put it in the provider folder.
    let library = unsafe { Library::new(path) }.map_err(|error| failed(error.to_string()))?;
    // Providers hand out addresses of their code and data without end, so the library is never unloaded.
    let library = ManuallyDrop::new(library);
    // SAFETY: the header fixes the signature of this symbol.
    let entry = unsafe { library.get::<ffi::ProviderEntry>(ffi::PROVIDER_ENTRY) };
    let entry = entry.map_err(|_| {
        failed(format!(
            "it exports no symbol {} and so is no Tenon provider",
            ffi::PROVIDER_ENTRY.to_string_lossy()
        ))
    })?;
    // SAFETY: the entry takes no arguments and has no side effects; it returns NULL or a table that lives on.
    let table = unsafe { entry() };
    initialise(table, Some(path.to_path_buf())).map_err(|error| failed(error.to_string()))
}

fn initialise(table: *const ffi::ProviderApi, path: Option<PathBuf>) -> Result<LoadedProvider> {
    // SAFETY: the table is a provider's, which the header binds for the life of the process.
    let provider = unsafe { host::Provider::new(table) }.map_err(|error| provider_error(&error))?;
    provider.initialize(host_api()).map_err(|error| provider_error(&error))?;
    Ok(LoadedProvider { provider, path })
}
