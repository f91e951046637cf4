//! What lives as long as a GPU is open, and what opens it.

use std::sync::Arc;

use tenon_kernels::gpu::{Chip, arch};
use tenon_plugin_api::{Error, Options, Result};

use crate::driver::{Context, Driver, Facts};
use crate::kernels::Kernels;
use crate::memory::Pool;
use crate::pack::Images;
use crate::schedule::Target;
use crate::timeline::Timeline;

/// The options that opening a device takes.
const OPTIONS: [&str; 5] = ["graphs", "matmul", "arch", "tf32", "compile"];

/// What the options of an open call ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// `graphs=0`: launches one by one.
    pub uses_graphs: bool,
    /// `matmul=SYMBOL`: this kernel for every product that it can compute, plain ones for the others.
    pub matmul: Option<String>,
    /// `arch=NAME`: the kernels of this family in place of those made for the device.
    pub arch: Option<String>,
    /// `tf32=1`: products of f32 may read 19 bits of each element, on matrix units.
    pub allows_tf32: bool,
    /// `compile=0`: kernels that the build lacks are not compiled at run time.
    pub compiles: bool,
}

/// Reads the options of an open call.
pub fn check_options(options: &Options<'_>) -> Result<DeviceOptions> {
    options.check_keys(&OPTIONS)?;
    let flag = |name: &str, default| match options.get(name) {
        None => Ok(default),
        Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(other) => Err(Error::invalid(format!("option {name}={other}: expected 0 or 1"))),
    };
    Ok(DeviceOptions {
        uses_graphs: flag("graphs", true)?,
        matmul: options.get("matmul").map(str::to_owned),
        arch: options.get("arch").map(str::to_owned),
        allows_tf32: flag("tf32", false)?,
        compiles: flag("compile", true)?,
    })
}

/// What a provider hands in to open a device.
pub struct Setup {
    pub driver: Arc<dyn Driver>,
    pub ordinal: u32,
    pub facts: Facts,
    /// The kernels of the device's arch.
    pub images: Images,
    pub options: DeviceOptions,
}

/// Everything that lives as long as a device is open. Fields are dropped in order, the context last.
pub(crate) struct Opened {
    pub timeline: Timeline,
    pub kernels: Kernels,
    pub pool: Pool,
    pub arch: &'static str,
    pub chip: Chip,
    pub uses_graphs: bool,
    /// The kernel that products are to use.
    pub matmul: Option<String>,
    pub allows_tf32: bool,
    pub context: Context,
    pub driver: Arc<dyn Driver>,
    _open: Open,
}

impl Opened {
    pub fn new(setup: Setup) -> Result<Opened> {
        let (arch, chip) = chip(&setup.facts)?;
        let context = setup.driver.open(setup.ordinal)?;
        let driver = setup.driver;
        Ok(Opened {
            timeline: Timeline::default(),
            kernels: Kernels::new(driver.clone(), context, setup.images),
            pool: Pool::new(driver.clone(), context),
            arch,
            chip,
            uses_graphs: setup.options.uses_graphs,
            matmul: setup.options.matmul,
            allows_tf32: setup.options.allows_tf32,
            context,
            driver: driver.clone(),
            _open: Open { driver, context },
        })
    }

    /// What work is planned for; `has` tells which kernels there are.
    pub fn target<'a>(&'a self, has: &'a dyn Fn(&str) -> bool) -> Target<'a> {
        Target {
            arch: self.arch,
            chip: &self.chip,
            matmul: self.matmul.as_deref(),
            allows_tf32: self.allows_tf32,
            has,
        }
    }
}

/// Closes the context.
struct Open {
    driver: Arc<dyn Driver>,
    context: Context,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.close(self.context);
    }
}

/// The arch and the chip of a device.
pub(crate) fn chip(facts: &Facts) -> Result<(&'static str, Chip)> {
    let arch = arch::find(&facts.arch).map_err(|error| Error::unsupported(error.to_string()))?;
    let mut chip = arch.chip_of(&facts.name).map_err(|error| Error::internal(error.to_string()))?;
    chip.compute_units = facts.compute_units;
    Ok((arch.name, chip))
}
