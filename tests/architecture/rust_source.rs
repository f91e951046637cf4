//! Rules about Rust source: opening lines, unwrap, unsafe, lints.

use crate::assert_none;
use crate::tree::{File, code, product_line_count, root, rust_files};
use std::collections::BTreeSet;

#[test]
fn every_file_opens_with_what_it_is_for() {
    let files = rust_files();
    let silent = files.iter().filter(|file| !file.text.starts_with("//! "));
    let violations: Vec<String> = silent
        .map(|file| file.at(1, "start with `//! ` and one or two sentences: what the file is for"))
        .collect();
    assert_none("Every Rust file opens with `//!`.", &violations);
}

/// True for code that only tests run: test folders, and modules that are declared under `#[cfg(test)]`.
fn is_test_code(file: &File, test_modules: &BTreeSet<String>) -> bool {
    let in_test_folder = file.path.starts_with("tests/") || file.path.contains("/tests/");
    let in_test_module = test_modules
        .iter()
        .any(|module| file.path == format!("{module}.rs") || file.path.starts_with(&format!("{module}/")));
    in_test_folder || in_test_module
}

/// Paths, without extension, of modules that are declared under `#[cfg(test)]`.
fn test_modules(files: &[File]) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for file in files {
        let folder = match file.stem() {
            "mod" | "lib" | "main" => file.path.rsplit_once('/').map_or("", |(folder, _)| folder),
            _ => file.path.trim_end_matches(".rs"),
        };
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let declared = pair[1].trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            if let Some(name) = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                modules.insert(format!("{folder}/{name}"));
            }
        }
    }
    modules
}

#[test]
fn product_code_does_not_unwrap() {
    let files = rust_files();
    let modules = test_modules(&files);
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| !is_test_code(file, &modules) && !file.is_generated()) {
        for (index, line) in code(&file.text).lines().take(product_line_count(file)).enumerate() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                violations.push(
                    file.at(index + 1, "bare unwrap: return an error, or `expect(\"why it cannot fail\")`"),
                );
            }
        }
    }
    assert_none("Product code does not unwrap.", &violations);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut violations = Vec::new();
    for file in rust_files().iter().filter(|file| !file.is_generated()) {
        let (code, text): (String, Vec<&str>) = (code(&file.text), file.text.lines().collect());
        for (index, line) in code.lines().enumerate() {
            let is_block = line.contains("unsafe {") || line.contains("unsafe impl ");
            if is_block && !has_safety_comment(&text, index) {
                violations.push(
                    file.at(index + 1, "unsafe without `// SAFETY:`: name the fact relied on just before it"),
                );
            }
        }
    }
    assert_none("Every unsafe block and impl has a `// SAFETY:` comment.", &violations);
}

/// Looks at the line itself and upwards to the start of its statement, for the comment that explains it.
fn has_safety_comment(text: &[&str], index: usize) -> bool {
    if text[index].contains("SAFETY:") {
        return true;
    }
    for line in text[..index].iter().rev() {
        let line = line.trim();
        if line.contains("SAFETY:") {
            return true;
        }
        let is_comment = line.starts_with("//");
        let ends_statement = line.ends_with(';') || line.ends_with('}');
        if line.is_empty() || (ends_statement && !is_comment) {
            return false;
        }
    }
    false
}

#[test]
fn lints_are_expected_with_a_reason() {
    let mut violations = Vec::new();
    for file in rust_files().iter().filter(|file| !file.is_generated()) {
        let code = code(&file.text);
        // Support code that several test programs include may be unused in some of them, where an expectation fails.
        let is_test_support = file.path.contains("/tests/");
        for (mark, allowed, advice) in [
            (
                "[allow(",
                is_test_support,
                "use `#[expect(lint, reason = \"..\")]`, which tells when it is no longer needed",
            ),
            ("[expect(", true, "add `reason = \"..\"`"),
        ] {
            for (at, _) in code.match_indices(mark) {
                let attribute = code[at..].split(']').next().unwrap_or_default();
                if !allowed || !attribute.contains("reason =") {
                    violations.push(file.at(code[..at].matches('\n').count() + 1, advice));
                }
            }
        }
    }
    assert_none("Lints are expected with a reason, not allowed.", &violations);
}

/// The lints that these rules lean on are switched on for the whole workspace.
#[test]
fn the_workspace_turns_the_lints_on() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    let manifest: toml::Table = text.parse().expect("the manifest is TOML");
    let lints = &manifest["workspace"]["lints"];
    for (group, lint) in [
        ("rust", "unsafe_op_in_unsafe_fn"),
        ("clippy", "undocumented_unsafe_blocks"),
        ("clippy", "unwrap_used"),
        ("clippy", "todo"),
        ("clippy", "dbg_macro"),
    ] {
        let level = lints.get(group).and_then(|group| group.get(lint)).and_then(|level| level.as_str());
        assert!(
            matches!(level, Some("warn" | "deny" | "forbid")),
            "Cargo.toml:1: workspace.lints.{group}.{lint} must be warn or deny"
        );
    }
}

#[test]
fn the_contract_needs_no_standard_library() {
    let path = "plugin-api/src/lib.rs";
    let text = std::fs::read_to_string(root().join(path)).expect("the crate is there");
    assert!(text.contains("#![no_std]"), "{path}:1: the contract is no_std: put `#![no_std]` back");
}
