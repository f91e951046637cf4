//! What the host does in a step of the loop: `llama` over a GPU provider whose device does no work and has no memory, so
//! that a model of any size fits. Afterwards the operations of each captured graph, counted.
//!
//! `cargo run --release -p tenon-llama --example host_time -- MODEL --provider idle-gpu --batch 64`; `TENON_IDLE_ARCH`
//! names the family whose kernels are planned for (sm90 by default).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use clap::Parser;
use tenon_gpu::recording::Recording;
use tenon_gpu::{Driver, FEATURES, GpuDevice, Images, Setup};
use tenon_kernels::gpu::arch;
use tenon_plugin_api::provider::{Features, Host, Provider};
use tenon_plugin_api::{DeviceInfo, Error, Options, Result};
use tenon_runtime::session::Environment;

tenon_plugin_api::export_provider!(IdleProvider, no_symbol);

static ARCH: LazyLock<String> =
    LazyLock::new(|| std::env::var("TENON_IDLE_ARCH").unwrap_or_else(|_| "sm90".into()));
static DRIVER: LazyLock<Arc<Recording>> = LazyLock::new(|| Arc::new(Recording::idle(&ARCH)));

struct IdleProvider;

impl Provider for IdleProvider {
    const NAME: &'static str = "idle-gpu";
    const VENDOR: &'static str = "Tenon";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const BUILD_INFO: &'static str = "a device that does nothing";
    const FEATURES: Features = FEATURES;
    type Device = GpuDevice;

    fn initialize(_host: Host) -> Result<IdleProvider> {
        Ok(IdleProvider)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let facts = DRIVER.devices()?;
        Ok(facts.iter().enumerate().map(|(index, facts)| GpuDevice::info(index as u32, facts)).collect())
    }

    fn open(&self, ordinal: u32, options: &Options<'_>) -> Result<GpuDevice> {
        let options = tenon_gpu::check_options(options)?;
        let facts = DRIVER.devices()?.get(ordinal as usize).cloned();
        let facts = facts.ok_or_else(|| Error::invalid(format!("there is no device {ordinal}")))?;
        GpuDevice::open(Setup { driver: DRIVER.clone(), ordinal, facts, images: images()?, options })
    }
}

/// Every kernel of the family, without code.
fn images() -> Result<Images> {
    let mut images = Images::new();
    let units = arch::find(&ARCH).and_then(|arch| arch.units());
    for unit in units.map_err(|error| Error::internal(error.to_string()))? {
        images.add(unit.kernels.into_iter().map(|kernel| kernel.symbol), || Ok(Vec::new()));
    }
    Ok(images)
}

fn main() -> anyhow::Result<()> {
    let environment = Environment::new();
    environment.register(table())?;
    tenon_llama::run(&environment, &tenon_llama::Args::parse())?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in DRIVER.take_log() {
        if line.starts_with("capture") {
            print(std::mem::take(&mut counts));
            println!("{line}");
        } else {
            *counts.entry(line).or_default() += 1;
        }
    }
    print(counts);
    Ok(())
}

fn print(counts: BTreeMap<String, usize>) {
    counts.into_iter().for_each(|(line, count)| println!("{count:6} x {line}"));
}
