//! The author's side: safe traits that a provider implements, and the table that the export macro makes of them.
//!
//! A provider is three types. [`Provider`] finds and opens devices, [`Device`] claims and compiles subgraphs and owns
//! memory and streams, [`Executable`] runs. [`export_provider!`](crate::export_provider) turns them into the C table; a
//! panic of theirs becomes a failed status.

mod device;
mod executable;
mod export;
mod features;
pub mod host_memory;
mod model;
mod once;
mod request;
mod sink;
mod stream;
mod synchronous;
mod thunk;

pub use device::{Device, device_ref};
pub use executable::{Executable, RunRequest};
pub use export::{Export, State, table};
pub use features::Features;
pub use model::{Group, KvPool};
pub use request::CompileRequest;
pub use sink::{ByteSink, ClaimSink, Host};
pub use stream::{Event, Stream};
pub use synchronous::{NoRecording, Synchronous, SynchronousEvent};

use crate::{DeviceInfo, Error, GraphView, Options, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

/// The stream type of a provider.
pub type StreamOf<P> = <<P as Provider>::Device as Device>::Stream;
/// The executable type of a provider.
pub type ExecutableOf<P> = <<P as Provider>::Device as Device>::Executable;

/// How well a library fits this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Score {
    /// Usable; larger is better among several builds of one provider.
    Usable(core::num::NonZeroU32),
    /// Not usable here, and why: a sentence a user understands.
    Unusable(String),
}

impl Score {
    /// Usable, where there is only one build of the provider.
    pub const USABLE: Score = Score::Usable(core::num::NonZeroU32::MIN);
}

/// A provider: what a plugin library is. Every function may be called from any thread.
pub trait Provider: Send + Sync + Sized + 'static {
    /// Short and lower case, what users type: `cpu`, `cuda`, `rocm`.
    const NAME: &'static str;
    const VENDOR: &'static str;
    const VERSION: &'static str;
    /// Compiler, features, embedded kernels: for bug reports.
    const BUILD_INFO: &'static str;
    /// Which optional functions are implemented; the others are absent from the table.
    const FEATURES: Features = Features::NONE;

    type Device: Device;

    /// Makes the provider; nothing else is called before. `host` stays valid for the life of the process.
    fn initialize(host: Host) -> Result<Self>;

    /// How well the library fits this machine. Cheap, opens no device; asked once.
    fn score(&self) -> Score {
        Score::USABLE
    }

    /// The devices present, in a fixed order. Asked once, or again after a failure.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// Opens the device with the index `index` of its [`DeviceInfo`].
    fn open(&self, index: u32, options: &Options<'_>) -> Result<Self::Device>;

    /// [`Device::claim`] for `target`, an arch or chip that need not be present.
    fn claim_for(&self, target: &str, _graph: GraphView<'_>, _sink: &mut ClaimSink<'_>) -> Result<()> {
        Err(no_targets::<Self>(target))
    }

    /// [`Device::compile`] for `request.target`, an arch or chip that need not be present. The result is serialised,
    /// never run.
    fn compile_for(&self, request: &CompileRequest<'_>) -> Result<ExecutableOf<Self>> {
        Err(no_targets::<Self>(request.target))
    }

    /// Joins devices for collectives. [`Features::collectives`].
    fn group(&self, _devices: &[&Self::Device]) -> Result<Box<dyn Group<StreamOf<Self>>>> {
        Err(Error::unsupported(format!("provider '{}' has no collectives", Self::NAME)))
    }

    /// A named table outside the contract, or NULL; lives as long as the process. [`Features::extension`].
    fn extension(&self, _name: &str) -> *const c_void {
        core::ptr::null()
    }
}

fn no_targets<P: Provider>(target: &str) -> Error {
    Error::unsupported(format!("provider '{}' cannot compile for the absent target '{target}'", P::NAME))
}
