//! Loading models and building graphs: small models made in code, broken in every way that the loader must name.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod build;
mod decode;
mod edit;
mod external;
mod function;
mod make;
mod save;
mod tensor;
mod wire;
