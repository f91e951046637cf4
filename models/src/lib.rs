//! Language models on top of the Tenon runtime.
