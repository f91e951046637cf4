//! Kernels for GPUs: their parameters and tables, how a problem becomes launches, and the units they are compiled from.
//!
//! Nothing here touches a driver or a compiler. An operator's planner turns shapes and a [`Chip`] into a [`Plan`], which
//! a provider binds to addresses; [`Arch::units`] lists what the build compiles, with what each result must contain.

pub mod arch;
mod archs;
pub mod attention;
pub mod cast;
pub mod chip;
mod device;
pub mod elementwise;
pub mod index;
pub mod integer;
pub mod launch;
pub mod layout;
pub mod loss;
pub mod matmul;
pub mod order;
pub mod pack;
pub mod pipeline;
mod pointwise;
pub mod pool;
pub mod product;
mod program;
pub mod quantize;
pub mod recurrent;
pub mod reduce;
pub mod region;
pub mod rotary;
pub mod rows;
pub mod sampling;
pub mod scalar;
pub mod scatter;
pub mod signal;
pub mod state;
pub mod unit;
pub mod window;

pub use arch::Arch;
pub use chip::Chip;
pub use launch::{Arg, Launch, Plan, TensorMap};
pub use unit::Unit;
