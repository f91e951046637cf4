//! The provider: who it is, and the one device it has.

use tenon_kernels::cpu::Features;
use tenon_plugin_api::provider::{ClaimSink, Features as Functions, Host, Provider, Score};
use tenon_plugin_api::{DeviceInfo, DeviceKind, Error, GraphView, Options, Result};

use crate::device::CpuDevice;
use crate::host;

/// The CPU provider.
pub struct CpuProvider;

/// The options that opening the device takes.
const OPTIONS: [&str; 1] = ["threads"];

impl Provider for CpuProvider {
    const NAME: &'static str = "cpu";
    const VENDOR: &'static str = "Tenon";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const BUILD_INFO: &'static str = concat!(
        "tenon-provider-cpu ",
        env!("CARGO_PKG_VERSION"),
        "; scalar, AVX2 and AVX-512 kernels chosen at run time"
    );
    const FEATURES: Functions = Functions { released: true, timeline: true, ..Functions::NONE };

    type Device = CpuDevice;

    fn initialize(_host: Host) -> Result<CpuProvider> {
        Ok(CpuProvider)
    }

    fn score(&self) -> Score {
        Score::USABLE
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo {
            index: 0,
            kind: DeviceKind::Cpu,
            name: host::processor_name(),
            arch: std::env::consts::ARCH.into(),
            chip: Features::detect().isa().arch().into(),
            memory_bytes: host::memory_total(),
            shares_host_memory: true,
            compute_units: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            ..DeviceInfo::default()
        }])
    }

    fn open(&self, index: u32, options: &Options<'_>) -> Result<CpuDevice> {
        options.check_keys(&OPTIONS)?;
        if index != 0 {
            return Err(Error::invalid(format!("device {index} of provider 'cpu': there is only device 0")));
        }
        let threads = match options.get("threads") {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                Error::invalid(format!(
                    "option threads={text}: expected a number, 0 for one thread a processor"
                ))
            })?,
        };
        Ok(CpuDevice::new(threads))
    }

    fn claim_for(&self, target: &str, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        if target != std::env::consts::ARCH {
            return Err(Error::unsupported(format!(
                "target '{target}': this build of the CPU provider runs {} only",
                std::env::consts::ARCH
            )));
        }
        CpuDevice::claim_all(graph, sink);
        Ok(())
    }
}
