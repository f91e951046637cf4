//! Loading models and building graphs: small models made in code, broken in every way that the loader must name.

mod build;

mod edit;
mod external;
mod function;
mod make;
mod save;
mod tensor;
mod wire;
