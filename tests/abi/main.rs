//! The plugin ABI as C sees it: frozen stubs keep loading and running, and broken providers are refused with a reason.

mod coexist;
mod frozen;
mod refused;
mod stub;

#[path = "../../plugin-api/tests/layout/header.rs"]
mod header;
