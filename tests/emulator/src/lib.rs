//! Functional emulator of CDNA3 (gfx942) and CDNA4 (gfx950) code objects.
//!
//! ```text
//! CodeObject::load(elf) -> kernels        Memory::new(bytes) -> allocate, write, read
//!                 Kernel::launch(&memory, &Launch { grid, block, arguments, .. }, &Options::default()) -> Report
//! ```
//!
//! A launch computes what the device computes, and fails where a device would give wrong results now and then: a
//! register read before the wait for its load, LDS shared without a barrier, an address outside every allocation.
//! The error names kernel, instruction, workgroup, wave, and the other instruction or the lane and address.
//!
//! Not modelled: time (latency, caches, clocks), the wait states that the compiler inserts as `s_nop`, rounding modes
//! other than to nearest, the hardware's order of sums inside a matrix instruction, the last bit of transcendental
//! functions, sparse matrix instructions, images, and progress of workgroups that wait for later ones.
//!
//! Disassembly is libLLVM's, from the Rust toolchain; see [`LIBRARY_VARIABLE`].

#![expect(clippy::needless_range_loop, reason = "a loop over lanes indexes several registers")]

mod bank;
mod counter;
mod disassemble;
mod error;
mod execute;
mod executed;
mod float;
mod inst;
mod launch;
mod matrix;
mod memory;
mod metadata;
mod object;
mod program;
mod report;
mod shadow;
mod syntax;
mod target;
mod wave;

pub use disassemble::LIBRARY_VARIABLE;
pub use error::{Error, Kind, Result};
pub use executed::EXECUTED_VARIABLE;
pub use inst::Class;
pub use launch::{Launch, Mutation, Options};
pub use memory::Memory;
pub use metadata::Argument;
pub use object::{CodeObject, Kernel};
pub use report::Report;
pub use target::Target;
