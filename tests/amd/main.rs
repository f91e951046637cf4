//! Every GPU planner's kernels on emulated CDNA3 and CDNA4 devices, against float64 references.
//!
//! Without the compiler that `cargo xtask kernels` installs the tests say so and pass.

mod attention;
mod cast;
#[path = "../codegen/compiler.rs"]
mod compiler;
mod device;
mod harness;
mod matmul;
mod mistake;
mod order;
mod product;
mod quantize;
