//! Choosing kernels by measurement: candidates timed on a device, and rows of the tuning tables that say what was found.

pub mod rows;
pub mod tune;
