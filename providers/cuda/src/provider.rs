//! The provider: whether CUDA can be used here, and opening its devices.

use std::sync::Arc;

use tenon_gpu::{Driver, FEATURES, GpuDevice, Setup, check_options};
use tenon_plugin_api::provider::{ClaimSink, Features, Host, Provider, Score};
use tenon_plugin_api::{DeviceInfo, Error, GraphView, Options, Result};

use crate::device;
use crate::driver::Cuda;
use crate::kernels;

/// The CUDA provider.
pub struct CudaProvider {
    /// The driver, or why there is none.
    driver: std::result::Result<Arc<Cuda>, String>,
}

impl Provider for CudaProvider {
    const NAME: &'static str = "cuda";
    const VENDOR: &'static str = "Tenon";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const BUILD_INFO: &'static str =
        concat!("tenon-provider-cuda ", env!("CARGO_PKG_VERSION"), "; CUDA 13 driver interface");
    const FEATURES: Features = FEATURES;

    type Device = GpuDevice;

    fn initialize(_host: Host) -> Result<CudaProvider> {
        Ok(CudaProvider { driver: Cuda::load().map(Arc::new) })
    }

    fn score(&self) -> Score {
        match self.usable() {
            Ok(_) => Score::USABLE,
            Err(reason) => Score::Unusable(reason),
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let facts = self.driver()?.devices()?;
        Ok(facts.iter().enumerate().map(|(index, facts)| GpuDevice::info(index as u32, facts)).collect())
    }

    fn open(&self, index: u32, options: &Options<'_>) -> Result<GpuDevice> {
        let uses_graphs = check_options(options)?;
        let driver = self.driver()?;
        let devices = driver.devices()?;
        let Some(facts) = devices.get(index as usize).cloned() else {
            let count = devices.len();
            return Err(Error::invalid(format!(
                "device {index} of provider 'cuda': there are {count} devices"
            )));
        };
        let images = kernels::images(&facts.arch)?;
        GpuDevice::open(Setup { driver: driver.clone(), ordinal: index, facts, images, uses_graphs })
    }

    fn claim_for(&self, target: &str, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        GpuDevice::claim_for(target, &kernels::images(device::arch_of_target(target)?)?, graph, sink)
    }
}

impl CudaProvider {
    fn driver(&self) -> Result<&Arc<Cuda>> {
        self.driver.as_ref().map_err(|reason| Error::unsupported(reason.clone()))
    }

    /// `Ok` when a device is there for which this build holds kernels.
    fn usable(&self) -> std::result::Result<(), String> {
        let driver = self.driver.as_ref().map_err(Clone::clone)?;
        let devices = driver.devices().map_err(|error| error.to_string())?;
        if devices.is_empty() {
            return Err("the driver finds no CUDA device".into());
        }
        let mut reason = String::new();
        for facts in &devices {
            match kernels::images(&facts.arch) {
                Ok(_) => return Ok(()),
                Err(error) => reason = format!("{}: {}", facts.name, error.message),
            }
        }
        Err(reason)
    }
}
