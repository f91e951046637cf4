//! Providers linked into one program, and the same providers as shared libraries beside it.

use crate::stub;
use std::path::PathBuf;
use tenon_plugin_api::host;

/// The folder where Cargo puts this test and the shared libraries of the providers it depends on.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.with_file_name(format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

#[test]
fn two_linked_providers_keep_their_own_tables() {
    for (table, name) in [(tenon_provider_null::table(), "null"), (tenon_provider_cpu::table(), "cpu")] {
        // SAFETY: the export macro made the table.
        let provider = unsafe { host::Provider::new(table) }.expect("the table is whole");
        assert_eq!(provider.name(), name);
    }
}

#[test]
fn the_shared_libraries_export_their_own_tables() {
    for (crate_name, name) in [("tenon_provider_null", "null"), ("tenon_provider_cpu", "cpu")] {
        let provider = stub::start(&library(crate_name));
        assert_eq!(provider.name(), name);
        assert!(!provider.devices().expect("it lists its devices").is_empty());
    }
}
