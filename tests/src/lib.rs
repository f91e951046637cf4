//! Architecture rules, ABI stubs, conformance and pipeline tests.
