//! What `roofline` and `autotune` share: problems by name, estimates of the chosen kernels, tables.

pub mod problem;
pub mod report;
pub mod svg;
pub mod table;
