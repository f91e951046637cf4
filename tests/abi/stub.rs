//! Builds C stub providers with the system's compiler and loads them as the runtime does.

use std::path::{Path, PathBuf};
use std::process::Command;
use tenon_plugin_api::host;
use tenon_runtime::plugin;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("abi/stubs")
}

/// Compiles the frozen stub of contract version `version`.
pub fn frozen(version: &str) -> PathBuf {
    compile(&folder().join(version).join("provider.c"), &format!("frozen-{version}"), &[])
}

/// Compiles a variant of `variants.c`.
pub fn variant(name: &str) -> PathBuf {
    compile(&folder().join("variants.c"), &name.to_lowercase(), &[&format!("-D{name}")])
}

fn compile(source: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("libtenon_provider_{name}.so"));
    // Tests of one variant may run beside each other: build under a name of one's own, then rename.
    let own = library.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(&compiler)
        .args([
            "-std=c11",
            "-D_POSIX_C_SOURCE=200809L",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-function",
        ])
        .args(["-Wno-unused-variable", "-Wno-unused-const-variable", "-fPIC", "-shared"])
        .args(flags)
        .arg("-o")
        .args([own.as_path(), source])
        .output()
        .unwrap_or_else(|error| panic!("cannot run the C compiler '{compiler}': {error}"));
    assert!(output.status.success(), "{name} does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&own, &library).expect("the target folder is writable");
    library
}

/// Loads a library, checks its table and starts the provider: the runtime's way.
pub fn load(path: &Path) -> Result<host::Provider, String> {
    plugin::load_library(path).map(|loaded| loaded.provider).map_err(|error| error.to_string())
}

/// Loads a library that must be fine.
pub fn start(path: &Path) -> host::Provider {
    load(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
