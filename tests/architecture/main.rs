//! The rules of the repository that a machine can check. Names of vendors and architectures are read from the folders.
//!
//! A rule collects every violation as `file:line: what is wrong: what to do`, so that one run shows all of them.

mod content;
mod dependency;
mod layout;
mod rust_source;
mod tree;
mod vendor;

/// Fails with all violations, one a line.
#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}\n\n{}\n", violations.join("\n"));
}
