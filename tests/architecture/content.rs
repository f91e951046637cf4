//! Rules about the text of any file: machines, registries, leftovers, assembly.

use crate::assert_none;
use crate::tree::{File, files};

/// Files whose content is ours to word: everything but lock files and test data.
fn worded() -> impl Iterator<Item = File> {
    files().into_iter().filter(|file| file.path != "Cargo.lock" && !file.path.starts_with("tests/data/"))
}

/// Finds `needles` in all worded files.
fn find(needles: &[&str], advice: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for file in worded() {
        for (number, line) in file.lines() {
            for needle in needles.iter().filter(|needle| line.contains(**needle)) {
                violations.push(file.at(number, &format!("'{needle}': {advice}")));
            }
        }
    }
    violations
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    // Split so that this file does not name them either.
    let places = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
        concat!("/tm", "p/"),
        concat!("C:", "\\"),
    ];
    let advice = "use a path relative to the crate, or ask the system for its folder";
    assert_none("No file names a place on one machine.", &find(&places, advice));
}

#[test]
fn no_file_names_a_registry_address() {
    let addresses = [
        concat!("crates.io/", "api"),
        concat!("static.", "crates.io"),
        concat!("index.", "crates.io"),
        concat!("pypi.org/", "simple"),
        concat!("files.", "pythonhosted.org"),
        concat!("registry.", "npmjs.org"),
        concat!("proxy.", "golang.org"),
    ];
    let advice = "let the registry's client find it, so that mirrors work";
    assert_none("No file names a registry's address.", &find(&addresses, advice));
}

#[test]
fn nothing_is_left_to_be_done_in_comments() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut violations = find(&marks, "do it, or say in a sentence what the code does not do");
    // Names of ONNX and of its tools may hold the letters inside a word.
    violations.retain(|violation| !violation.contains(".proto:"));
    assert_none("Comments state what is, not what is left.", &violations);
}

#[test]
fn inline_assembly_and_builtins_live_in_primitives_files() {
    const MARKS: &[&str] = &["asm!(", "asm volatile", "asm(\"", "__asm__", "__builtin_amdgcn", "__nvvm_"];
    const CODE: &[&str] = &["rs", "c", "h", "cpp", "hpp", "cu", "cuh", "hip", "inc"];
    let mut violations = Vec::new();
    // Tests look for such text in other files and in disassembly.
    let files = worded().filter(|file| CODE.contains(&file.extension()) && !file.path.starts_with("tests/"));
    for file in files.filter(|file| !file.stem().contains("primitives")) {
        for (number, line) in file.lines() {
            if MARKS.iter().any(|mark| line.contains(mark)) {
                violations
                    .push(file.at(number, "inline assembly or builtin: move it to the primitives file"));
            }
        }
    }
    assert_none("Inline assembly and builtins live in primitives files.", &violations);
}
