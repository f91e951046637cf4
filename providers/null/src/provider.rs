//! The provider: who it is, whether it fits this machine, and which devices there are.

use crate::NullDevice;
use tenon_plugin_api::provider::{ClaimSink, Host, Provider, Score};
use tenon_plugin_api::{DeviceInfo, DeviceKind, Error, GraphView, Options, Result};

/// A provider without hardware. A real one keeps its driver library here.
pub struct NullProvider;

impl Provider for NullProvider {
    const NAME: &'static str = "null";
    const VENDOR: &'static str = "Tenon";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const BUILD_INFO: &'static str = concat!("tenon-provider-null ", env!("CARGO_PKG_VERSION"));

    type Device = NullDevice;

    /// Load the driver here. A missing driver is no failure: let [`Provider::score`] say so.
    fn initialize(_host: Host) -> Result<NullProvider> {
        Ok(NullProvider)
    }

    /// Look whether the hardware and a good enough driver are there.
    fn score(&self) -> Score {
        Score::USABLE
    }

    /// List what is there, with the figures that the vendor's driver gives.
    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo {
            index: 0,
            kind: DeviceKind::Other,
            name: "Null device".into(),
            arch: "null".into(),
            shares_host_memory: true,
            ..DeviceInfo::default()
        }])
    }

    fn open(&self, index: u32, options: &Options<'_>) -> Result<NullDevice> {
        options.check_keys(&[])?;
        match index {
            0 => Ok(NullDevice),
            _ => Err(Error::invalid(format!("device {index} of provider 'null': there is only device 0"))),
        }
    }

    /// What the device would say, for an arch or chip that is not in this machine.
    fn claim_for(&self, _target: &str, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        NullDevice::decline_all(graph, sink);
        Ok(())
    }
}
