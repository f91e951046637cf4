//! Runs plans. Decides nothing: what runs where, and in what order, is in the plan.

mod bound;
mod control;
mod device_tensor;
mod frame;
mod run;
mod sequence;
mod slices;

pub use bound::{BoundRun, Given};
pub use device_tensor::DeviceTensor;
pub use frame::{Binding, Outputs, Run, Runner};
