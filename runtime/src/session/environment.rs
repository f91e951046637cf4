//! The providers of a process and the devices opened on them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tenon_plugin_api::{DeviceInfo, DeviceKind, ffi, host};

use crate::error::{Error, ErrorKind, Result, Stage};
use crate::partition::DeviceCost;
use crate::plan::Device;
use crate::plugin::{LoadedProvider, load_library, provider_error, register};
use crate::session::{ProviderRequest, SessionOptions};

/// What a provider says about itself and this machine.
#[derive(Clone, Debug)]
pub struct ProviderInfo {
    pub name: String,
    pub vendor: String,
    pub version: String,
    pub build_info: String,
    /// 0: not usable here.
    pub score: u32,
    /// Why it is not usable, or empty.
    pub reason: String,
    /// The library's file; `None` for a provider that is linked in.
    pub path: Option<PathBuf>,
    /// Empty when the provider is not usable.
    pub devices: Vec<DeviceInfo>,
}

/// The providers a process can use. Clones share them.
#[derive(Clone, Default)]
pub struct Environment(Arc<RwLock<Vec<LoadedProvider>>>);

impl Environment {
    /// An environment without providers.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// Adds a provider that is linked into this program.
    pub fn register(&self, table: &'static ffi::ProviderApi) -> Result<()> {
        self.add(register(table)?);
        Ok(())
    }

    /// Loads a provider's shared library. A provider of a name that is there already replaces it when its score is
    /// higher.
    pub fn load_library(&self, path: &Path) -> Result<()> {
        self.add(load_library(path)?);
        Ok(())
    }

    /// Loads every `libtenon_provider_*.so` of a folder and tells how each went. A missing folder holds no providers.
    pub fn load_folder(&self, folder: &Path) -> Result<Vec<(PathBuf, Result<()>)>> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", folder, error).at_stage(Stage::Session)),
        };
        let mut libraries: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_provider(path)).collect();
        libraries.sort();
        Ok(libraries.into_iter().map(|path| (path.clone(), self.load_library(&path))).collect())
    }

    /// Every provider, usable or not.
    pub fn providers(&self) -> Vec<ProviderInfo> {
        let providers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        providers.iter().map(describe).collect()
    }

    /// A provider by name, for programs that talk to its devices themselves.
    pub fn provider(&self, name: &str) -> Option<host::Provider> {
        let providers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        providers.iter().map(|known| &known.provider).find(|provider| provider.name() == name).cloned()
    }

    fn add(&self, loaded: LoadedProvider) {
        let mut providers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match providers.iter_mut().find(|known| known.provider.name() == loaded.provider.name()) {
            Some(known) if known.provider.score().0 < loaded.provider.score().0 => *known = loaded,
            Some(_) => tracing::debug!("provider '{}' is loaded already", loaded.provider.name()),
            None => providers.push(loaded),
        }
    }

    /// Opens the devices that a session asks for, preferred ones first, the fallback last.
    pub(super) fn open_devices(&self, options: &SessionOptions) -> Result<Vec<Device>> {
        let requests = if options.providers.is_empty() { self.usable() } else { options.providers.clone() };
        let mut requests = requests;
        let fallback = !options.strict || options.providers.is_empty();
        if fallback && !requests.iter().any(|request| request.name == FALLBACK) && self.has(FALLBACK) {
            requests.push(ProviderRequest { name: FALLBACK.into(), ..ProviderRequest::default() });
        }
        requests.iter().map(|request| self.open(request, options)).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|known| known.provider.name() == name)
    }

    /// Accelerators before processors, better scores first.
    fn usable(&self) -> Vec<ProviderRequest> {
        let mut infos: Vec<ProviderInfo> =
            self.providers().into_iter().filter(|info| info.score > 0 && !info.devices.is_empty()).collect();
        infos.sort_by_key(|info| {
            (info.devices.iter().all(|device| device.kind == DeviceKind::Cpu), std::cmp::Reverse(info.score))
        });
        infos
            .into_iter()
            .map(|info| ProviderRequest { name: info.name, ..ProviderRequest::default() })
            .collect()
    }

    fn open(&self, request: &ProviderRequest, options: &SessionOptions) -> Result<Device> {
        let providers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let failed = |kind: ErrorKind, what: String| Error::new(kind, what).at_stage(Stage::Session);
        let name = &request.name;
        let Some(known) = providers.iter().find(|known| known.provider.name() == *name) else {
            let names: Vec<&str> = providers.iter().map(|known| known.provider.name()).collect();
            let list = if names.is_empty() { "none is loaded".into() } else { names.join(", ") };
            return Err(failed(
                ErrorKind::InvalidInput,
                format!("no provider is named '{name}'; providers: {list}"),
            ));
        };
        let (score, reason) = known.provider.score();
        if score == 0 {
            return Err(failed(
                ErrorKind::Provider,
                format!("provider '{name}' cannot be used here: {reason}"),
            ));
        }
        let threads = options.threads.map(|threads| threads.to_string());
        let mut pairs: Vec<(&str, &str)> =
            request.options.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if let Some(threads) = &threads
            && name == FALLBACK
            && !pairs.iter().any(|(key, _)| *key == "threads")
        {
            pairs.push(("threads", threads));
        }
        let index = request.device.unwrap_or(0);
        let handle = known.provider.open(index, &pairs).map_err(|error| provider_error(&error))?;
        let info = handle.info();
        let cost = DeviceCost {
            name: if index == 0 { name.clone() } else { format!("{name}:{index}") },
            shares_host_memory: info.shares_host_memory,
            transfer_bytes_per_ns: 12.0,
            transfer_latency_ns: 10_000.0,
        };
        Ok(Device { handle, cost })
    }
}

/// The provider that runs what the others decline.
const FALLBACK: &str = "cpu";

fn is_provider(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("libtenon_provider_") && name.ends_with(std::env::consts::DLL_SUFFIX)
}

fn describe(loaded: &LoadedProvider) -> ProviderInfo {
    let provider = &loaded.provider;
    let (score, reason) = provider.score();
    let devices = if score > 0 { provider.devices() } else { Ok(Vec::new()) };
    let (devices, reason) = match devices {
        Ok(devices) => (devices, reason),
        Err(error) => (Vec::new(), error.to_string()),
    };
    ProviderInfo {
        name: provider.name().to_string(),
        vendor: provider.vendor().to_string(),
        version: provider.version().to_string(),
        build_info: provider.build_info().to_string(),
        score,
        reason,
        path: loaded.path.clone(),
        devices,
    }
}
