//! CPU kernels: portable Rust and SIMD, chosen by the detected features.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
pub mod cast;
pub mod conv;
pub mod conv_transpose;
pub mod elementwise;
mod features;
mod float;
pub mod gemm;
pub mod igemm;
mod math;
mod matrix;
pub mod minifloat;
pub mod nbits;
pub mod nest;
pub mod norm;
pub mod pool;
pub mod quantize;
pub mod reduce;
pub mod sampling;
mod scalar;
mod simd;
pub mod softmax;
pub mod transpose;

pub use buffer::{AlignedBuffer, Pod};
pub use features::{Context, Features, Isa};
pub use float::Float;
pub use matrix::Matrix;
pub use simd::{Kernel, Simd};
