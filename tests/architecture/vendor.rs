//! The runtime names no vendor and no architecture.

use crate::assert_none;
use crate::tree::{File, files_under, folders, product_line_count};

/// Parts of folder names that are ordinary words: an absent value, a kind of device, a tensor of rank 0, a number.
const ORDINARY: &[&str] = &["64", "gpu", "null", "scalar"];

/// Lines that may name the fallback provider: the constant that says which one it is, and the contract's device kind.
const FALLBACK: &[&str] = &["const FALLBACK: &str", "DeviceKind::Cpu"];

/// Parts of the names of providers and architectures, as the folders spell them.
fn names() -> Vec<String> {
    let folders = folders("providers").into_iter().chain(folders("kernels/arch"));
    let parts: Vec<String> =
        folders.flat_map(|name| name.split(['_', '-']).map(str::to_string).collect::<Vec<_>>()).collect();
    assert!(
        parts.contains(&"cpu".to_string()),
        "providers/cpu was not found: is this the repository's root?"
    );
    parts.into_iter().filter(|part| !ORDINARY.contains(&part.as_str())).collect()
}

#[test]
fn the_runtime_names_no_provider_and_no_architecture() {
    let names = names();
    let mut violations = Vec::new();
    for file in files_under("runtime/").iter().filter(|file| may_not_name(&file.path)) {
        for (number, line) in file.lines().take(checked_lines(file)) {
            if FALLBACK.iter().any(|exception| line.contains(exception)) {
                continue;
            }
            for name in words(line).filter(|word| names.contains(word)) {
                let advice =
                    "speak of 'a provider', 'a device' or 'the fallback', and ask the provider for the rest";
                violations.push(file.at(number, &format!("names '{name}': {advice}")));
            }
        }
    }
    assert_none("The runtime names no provider and no architecture.", &violations);
}

/// Libraries for host applications link one provider in, so they name it; tests name any.
fn may_not_name(path: &str) -> bool {
    !["runtime/capi/", "runtime/ort-ep/", "runtime/tests/"].iter().any(|folder| path.starts_with(folder))
}

fn checked_lines(file: &File) -> usize {
    if file.extension() == "rs" { product_line_count(file) } else { usize::MAX }
}

/// Words of a line in lower case: split at everything that is not a letter or digit, and where camel case humps.
fn words(line: &str) -> impl Iterator<Item = String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut previous_lower = false;
    for c in line.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && previous_lower) {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("there is a last word").extend(c.to_lowercase());
        }
        previous_lower = c.is_lowercase();
    }
    words.into_iter().filter(|word| !word.is_empty())
}

#[test]
fn words_split_at_humps_and_marks() {
    let found: Vec<String> = words("let cpu_count = CpuDevice::new(\"x-CPU:0\"); // cpuid").collect();
    assert_eq!(found, ["let", "cpu", "count", "cpu", "device", "new", "x", "cpu", "0", "cpuid"]);
}
