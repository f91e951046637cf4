//! Runs plans. Decides nothing: what runs where, and in what order, is in the plan.

mod control;
mod frame;
mod run;
mod sequence;
mod slices;

pub use frame::{Binding, Outputs, Run, Runner};
