//! Rules about which files and folders there are and what they are called.

use crate::assert_none;
use crate::tree::{files, folders, root, rust_files};
use std::collections::BTreeSet;

/// The top level, exactly. Dot files are free; `rust-toolchain.toml` has no dot form.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "kernels",
    "models",
    "plugin-api",
    "providers",
    "runtime",
    "rust-toolchain.toml",
    "tests",
    "tools",
];

#[test]
fn the_top_level_is_exact() {
    let entries = std::fs::read_dir(root()).expect("the root is readable");
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found: BTreeSet<String> = names.filter(|name| !name.starts_with('.') && name != "target").collect();
    let expected: BTreeSet<String> = TOP_LEVEL.iter().map(|name| name.to_string()).collect();
    let extra = found
        .difference(&expected)
        .map(|name| format!("{name}:1: not a top-level entry: move it into a folder"));
    let missing = expected.difference(&found).map(|name| format!("{name}:1: missing: the top level has it"));
    assert_none("The top level is fixed.", &extra.chain(missing).collect::<Vec<_>>());
}

#[test]
fn source_files_are_at_most_800_lines() {
    const SOURCE: &[&str] = &["rs", "c", "h", "cc", "cpp", "hpp", "cu", "cuh", "hip", "py", "inc"];
    let long = files().into_iter().filter(|file| SOURCE.contains(&file.extension()) && !file.is_generated());
    let violations: Vec<String> = long
        .filter(|file| file.text.lines().count() > 800)
        .map(|file| file.at(801, &format!("{} lines: split it, aim at 250", file.text.lines().count())))
        .collect();
    assert_none("A source file has at most 800 lines.", &violations);
}

#[test]
fn readmes_are_at_most_200_lines() {
    let readmes = files().into_iter().filter(|file| file.stem() == "README");
    let long = readmes.filter(|file| file.text.lines().count() > 200);
    let violations: Vec<String> =
        long.map(|file| file.at(201, "a README has at most 200 lines: shorten it")).collect();
    assert_none("A README has at most 200 lines.", &violations);
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    const NAMES: &[&str] = &[
        "common",
        "helper",
        "helpers",
        "manager",
        "managers",
        "misc",
        "shared",
        "stuff",
        "util",
        "utilities",
        "utils",
    ];
    let mut violations = Vec::new();
    for file in rust_files() {
        let parts = file.path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.into_iter().find(|part| NAMES.contains(part)) {
            violations.push(file.at(1, &format!("'{name}' says nothing: name the thing that is inside")));
        }
    }
    assert_none("Modules are named after what they hold.", &violations);
}

/// The provider that is copied for a new vendor sets the files that every provider has.
#[test]
fn every_provider_has_the_files_of_the_template() {
    let sources = |provider: &str| -> BTreeSet<String> {
        let prefix = format!("providers/{provider}/src/");
        files().iter().filter_map(|file| Some(file.path.strip_prefix(&prefix)?.to_string())).collect()
    };
    let template = sources("null");
    assert!(template.contains("lib.rs"), "providers/null/src/lib.rs: the template is missing");
    let mut violations = Vec::new();
    let plugins: Vec<String> = folders("providers").into_iter().filter(|name| is_plugin(name)).collect();
    for provider in &plugins {
        for file in template.difference(&sources(provider)) {
            violations.push(format!(
                "providers/{provider}/src/{file}:1: missing: every provider has the files of providers/null"
            ));
        }
    }
    // Providers over a driver differ in what the files hold, not in which files there are.
    let driven: Vec<&String> = plugins.iter().filter(|name| sources(name).contains("driver.rs")).collect();
    for pair in driven.windows(2) {
        let (first, second) = (sources(pair[0]), sources(pair[1]));
        for file in first.symmetric_difference(&second) {
            violations.push(format!(
                "providers/{{{},{}}}/src/{file}:1: only one of them has it: use the same file names",
                pair[0], pair[1]
            ));
        }
    }
    assert_none("Providers have the same file names.", &violations);
}

/// True when a folder of `providers` is a plugin and not a library that plugins share.
fn is_plugin(provider: &str) -> bool {
    let manifest = root().join("providers").join(provider).join("Cargo.toml");
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    // The library's own table: an example may be a plugin too.
    let library = text.split_once("[lib]").and_then(|(_, rest)| rest.split("\n[").next());
    library.is_some_and(|table| table.contains("cdylib"))
}
