//! Committed vectors through the public session API: com.microsoft operators with the outputs of ONNX Runtime's CPU
//! kernels, and graphs on which random testing once found a difference.

use std::path::Path;
use std::process::Command;

/// Runs every archive of a folder below `data` and returns how many cases passed.
fn passes(folder: &str, flags: &[&str]) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .arg(root.join("data").join(folder))
        .args(flags)
        .output()
        .expect("the suite's program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let summary = text.lines().last().expect("the program prints a summary");
    let passed = summary.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    passed.unwrap_or_else(|| panic!("no count in '{summary}'"))
}

#[test]
fn contrib_operators_agree_with_onnx_runtime() {
    assert!(passes("contrib", &[]) >= 500);
}

#[test]
fn graphs_that_random_testing_found_stay_right() {
    assert!(passes("fuzz", &[]) >= 6);
}
