//! Linear algebra beyond products: determinants, inverses and Einstein sums.

pub mod einsum;
mod equation;
pub mod matrix;
