//! Image operators: resampling, region pooling and decoding.

pub mod affine_grid;
pub mod col2im;
pub mod crop;
pub mod decoder;
pub mod deform_conv;
pub mod grid_sample;
mod jpeg;
pub mod region;
pub mod resize;
pub mod unpool;
