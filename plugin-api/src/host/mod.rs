//! The host's side: wrappers that check a provider's table once, own its objects, and turn statuses into errors.
//!
//! Objects keep what they were made from alive: an [`Executable`], [`Stream`], [`Event`], [`Memory`] or [`KvPool`] its
//! [`Device`], a device its [`Provider`]. Types are `Send` and `Sync` exactly where the header says "any thread".

mod claim;
mod device;
mod error;
mod executable;
mod graph;
mod memory;
mod model;
mod provider;
mod stream;
mod table;

pub use claim::Claims;
pub use device::Device;
pub use error::{Error, Result, status};
pub use executable::{CompileArgs, Executable};
pub use graph::{AttributeValue, Graph, GraphBuilder, OwnedGraph};
pub use memory::{Copy, Memory};
pub use model::{Group, KvPool};
pub use provider::Provider;
pub use stream::{Event, Recording, Stream};

pub use crate::provider::Features;
pub use crate::{Code, DeviceInfo, DeviceKind, MemoryInfo, MemoryKind, TimelineEntry};
