//! The provider over a vendor's driver: whether it can be used here, its devices, and opening them.

use std::sync::{Arc, Mutex, PoisonError};

use tenon_kernels::gpu::arch;
use tenon_plugin_api::provider::{ClaimSink, Score};
use tenon_plugin_api::{DeviceInfo, Error, GraphView, Options, Result};

use crate::compiler::{self, Compiler};
use crate::device::GpuDevice;
use crate::driver::{Driver, Facts};
use crate::embedded::Packs;
use crate::opened::{Setup, check_options};
use crate::pack::Images;

/// What a vendor adds: a driver and compiled kernels.
pub trait Vendor: Send + Sync + 'static {
    /// The provider's name.
    const NAME: &'static str;
    const BUILD_INFO: &'static str;
    /// Whose families the provider serves.
    const VENDOR: arch::Vendor;
    const PACKS: Packs;

    type Driver: Driver;

    /// Loads and starts the driver; the error says why it cannot be used here.
    fn load() -> std::result::Result<Self::Driver, String>;

    /// The compiler of device text, where one is installed.
    fn compiler() -> Option<Arc<dyn Compiler>> {
        None
    }
}

/// The GPUs that a vendor's driver finds: what a provider is made of.
pub struct Installation<V: Vendor> {
    /// The driver, or why there is none.
    driver: std::result::Result<Arc<V::Driver>, String>,
    /// The kernels of families that the build holds whole, once they were asked for.
    complete: Mutex<Vec<(&'static str, Images)>>,
}

impl<V: Vendor> Installation<V> {
    /// Loads the driver.
    pub fn find() -> Installation<V> {
        Installation { driver: V::load().map(Arc::new), complete: Mutex::default() }
    }

    /// Usable when a device is there for which this build holds kernels.
    pub fn score(&self) -> Score {
        match self.usable() {
            Ok(()) => Score::USABLE,
            Err(reason) => Score::Unusable(reason),
        }
    }

    /// What the contract tells about each device.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let facts = self.driver()?.devices()?;
        Ok(facts.iter().enumerate().map(|(index, facts)| GpuDevice::info(index as u32, facts)).collect())
    }

    /// Opens device `index`.
    pub fn open(&self, index: u32, options: &Options<'_>) -> Result<GpuDevice> {
        let options = check_options(options)?;
        let driver = self.driver()?;
        let devices = driver.devices()?;
        let Some(mut facts) = devices.get(index as usize).cloned() else {
            let (name, count) = (V::NAME, devices.len());
            return Err(Error::invalid(format!("device {index} of provider '{name}': there are {count}")));
        };
        if let Some(arch) = &options.arch {
            facts.arch = arch_of_target(V::VENDOR, arch)?.to_owned();
        }
        let arch = arch_of(&facts)?;
        let images = self.images(arch, options.compiles)?;
        GpuDevice::open(Setup { driver: driver.clone(), ordinal: index, facts, images, options })
    }

    /// What a device of `target`, which need not be present, would claim.
    pub fn claim_for(&self, target: &str, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        let images = V::PACKS.images(arch_of_target(V::VENDOR, target)?)?;
        GpuDevice::claim_for(target, &images, graph, sink)
    }

    /// The build's kernels of an arch, and where it `compiles` those that it lacks. The compiler is loaded only where some
    /// do.
    fn images(&self, arch: &str, compiles: bool) -> Result<Images> {
        let arch = arch::find(arch).map_err(|error| Error::unsupported(error.to_string()))?;
        let mut complete = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, images)) = complete.iter().find(|(name, _)| *name == arch.name) {
            return Ok(images.clone());
        }
        let built = V::PACKS.images(arch.name);
        if let Some(images) = built.as_ref().ok().filter(|images| compiler::is_complete(images, arch)) {
            complete.push((arch.name, images.clone()));
            return built;
        }
        let Some(compiler) = (if compiles { V::compiler() } else { None }) else {
            let missing = "; the vendor's run-time compiler, which could make them, is not installed";
            return built.map_err(|error| Error::unsupported(error.message + missing));
        };
        let mut images = built.unwrap_or_default();
        compiler::add_missing(&mut images, arch, &compiler, compiler::default_folder().as_deref())?;
        Ok(images)
    }

    fn driver(&self) -> Result<&Arc<V::Driver>> {
        self.driver.as_ref().map_err(|reason| Error::unsupported(reason.clone()))
    }

    fn usable(&self) -> std::result::Result<(), String> {
        let driver = self.driver.as_ref().map_err(Clone::clone)?;
        let devices = driver.devices().map_err(|error| error.to_string())?;
        let mut reason = "the driver finds no device".to_owned();
        for facts in &devices {
            let is_built = |arch: &str| V::PACKS.archs().any(|built| built == arch);
            let served = arch_of(facts)
                .and_then(|arch| if is_built(arch) { Ok(()) } else { self.images(arch, true).map(drop) });
            match served {
                Ok(()) => return Ok(()),
                Err(error) => reason = format!("{}: {}", facts.name, error.message),
            }
        }
        Err(reason)
    }
}

/// Defines the provider of a vendor and exports it: `gpu_provider!(CudaProvider, Nvidia)`.
#[macro_export]
macro_rules! gpu_provider {
    ($(#[$doc:meta])* $provider:ident, $vendor:ty) => {
        $(#[$doc])*
        pub struct $provider($crate::Installation<$vendor>);

        impl $crate::plugin_api::provider::Provider for $provider {
            const NAME: &'static str = <$vendor as $crate::Vendor>::NAME;
            const VENDOR: &'static str = "Tenon";
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            const BUILD_INFO: &'static str = <$vendor as $crate::Vendor>::BUILD_INFO;
            const FEATURES: $crate::plugin_api::provider::Features = $crate::FEATURES;

            type Device = $crate::GpuDevice;

            fn initialize(_host: $crate::plugin_api::provider::Host) -> $crate::plugin_api::Result<Self> {
                Ok($provider($crate::Installation::find()))
            }

            fn score(&self) -> $crate::plugin_api::provider::Score {
                self.0.score()
            }

            fn devices(&self) -> $crate::plugin_api::Result<Vec<$crate::plugin_api::DeviceInfo>> {
                self.0.devices()
            }

            fn open(
                &self,
                index: u32,
                options: &$crate::plugin_api::Options<'_>,
            ) -> $crate::plugin_api::Result<$crate::GpuDevice> {
                self.0.open(index, options)
            }

            fn claim_for(
                &self,
                target: &str,
                graph: $crate::plugin_api::GraphView<'_>,
                sink: &mut $crate::plugin_api::provider::ClaimSink<'_>,
            ) -> $crate::plugin_api::Result<()> {
                self.0.claim_for(target, graph, sink)
            }
        }

        $crate::plugin_api::export_provider!($provider);
    };
}

/// The kernels' folder of a device.
fn arch_of(facts: &Facts) -> Result<&str> {
    if facts.arch.is_empty() {
        return Err(Error::unsupported(format!("there are no kernels for {}", facts.name)));
    }
    Ok(&facts.arch)
}

/// The arch of a vendor that `target` names itself or through one of its chips.
fn arch_of_target(vendor: arch::Vendor, target: &str) -> Result<&'static str> {
    for arch in arch::all().iter().filter(|arch| arch.vendor == vendor) {
        let chips = arch.chips().map_err(|error| Error::internal(error.to_string()))?;
        if arch.name == target || chips.iter().any(|chip| chip.name == target) {
            return Ok(arch.name);
        }
    }
    Err(Error::unsupported(format!("target '{target}' is no chip or arch of this provider's vendor")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_archs_and_chips_of_the_vendor() {
        assert_eq!(arch_of_target(arch::Vendor::Nvidia, "sm90").unwrap(), "sm90");
        assert_eq!(arch_of_target(arch::Vendor::Nvidia, "h100").unwrap(), "sm90");
        assert!(arch_of_target(arch::Vendor::Amd, "h100").is_err());
        assert!(arch_of_target(arch::Vendor::Nvidia, "gfx000").is_err());
    }
}
