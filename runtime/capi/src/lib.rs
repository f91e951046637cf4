//! libtenon: the C ABI of Tenon for host applications.
