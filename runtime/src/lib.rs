//! The Tenon graph runtime: load, optimise, partition, plan and run ONNX models.

pub mod dtype;
pub mod error;
pub mod execute;
pub mod graph;
mod mapping;
pub mod model;
pub mod optimize;
pub mod partition;
pub mod plan;
pub mod plugin;
pub mod session;
pub mod shape;
pub mod tensor;
