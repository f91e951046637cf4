//! Kernels and their parameters: what runs on a device and how it is tuned.

pub mod cpu;
mod error;
pub mod estimate;
pub mod gpu;
pub mod matmul;
pub mod parallel;
pub mod select;
pub mod table;

pub use error::{ErrorKind, KernelError, Result};
pub use parallel::{Parallel, Serial};
