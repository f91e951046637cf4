//! Kernels for GPUs: their parameters and tables, how a problem becomes launches, and the units they are compiled from.
//!
//! Nothing here touches a driver or a compiler. An operator's planner turns shapes and a [`Chip`] into a [`Plan`], which
//! a provider binds to addresses; [`arch::units`] lists what the build compiles, with what each result must contain.

pub mod arch;
pub mod chip;
pub mod launch;
pub mod unit;

pub use arch::Arch;
pub use chip::Chip;
pub use launch::{Arg, Launch, Plan, TensorMap};
pub use unit::Unit;
