//! The provider plugin contract of Tenon: the C ABI mirror, author-side traits and host-side wrappers.
#![no_std]

extern crate alloc;

mod dtype;
mod error;
pub mod ffi;
pub mod host;
mod info;
pub mod provider;
mod view;

pub use dtype::DType;
pub use error::{Code, Error, Result};
pub use info::{DeviceInfo, DeviceKind, MemoryInfo, MemoryKind, TimelineEntry};
pub use view::{AttributeView, GraphView, NodeView, Options, TensorView, Texts, ValueView};
