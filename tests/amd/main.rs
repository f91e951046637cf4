//! Every GPU planner's kernels on emulated CDNA3 and CDNA4 devices, against float64 references.
//!
//! Without the compiler that `cargo xtask kernels` installs the tests say so and pass.

mod append;
mod attention;
mod cast;
#[path = "../codegen/compiler.rs"]
mod compiler;
mod device;
mod harness;
mod index;
mod loss;
mod matmul;
mod mistake;
mod order;
mod pointwise;
mod product;
mod quantize;
mod recurrent;
mod region;
mod rotary;
mod rows;
mod scatter;
mod signal;
mod state;
mod window;
