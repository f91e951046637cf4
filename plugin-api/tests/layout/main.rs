//! The Rust mirror agrees with the C header: sizes and offsets as the C compiler sees them, constants, and the type of
//! every member and function.

mod header;
mod mirror;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn crate_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(crate_file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Compiles and runs a C program that includes the header, and returns what it prints.
fn run_c(name: &str, body: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    let text = format!(
        "#include \"tenon_plugin.h\"\n#include <stdio.h>\n#include <stddef.h>\nint main(void) {{\n{body}return 0;\n}}\n"
    );
    std::fs::write(&source, text).expect("the target folder is writable");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(&compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(crate_file("include"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .unwrap_or_else(|error| panic!("cannot run the C compiler '{compiler}': {error}"));
    assert!(
        output.status.success(),
        "the header does not compile:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(&program).output().expect("the program was just built");
    String::from_utf8(output.stdout).expect("the program prints ASCII")
}

#[test]
fn sizes_and_offsets_are_those_of_the_c_compiler() {
    let structs = header::structs(&read("include/tenon_plugin.h"));
    let mut body = String::new();
    for (name, members) in &structs {
        body += &format!("printf(\"{name} %zu\\n\", sizeof({name}));\n");
        for member in members {
            let member = &member.name;
            body += &format!(
                "printf(\"{name}.{member} %zu %zu\\n\", offsetof({name}, {member}), sizeof((({name}*)0)->{member}));\n"
            );
        }
    }
    let from_c: Vec<String> = run_c("layout", &body).lines().map(str::to_string).collect();
    let from_rust = mirror::layout();
    for line in &from_c {
        assert!(from_rust.contains(line), "C says '{line}', the mirror in src/ffi does not");
    }
    for line in &from_rust {
        assert!(from_c.contains(line), "the mirror in src/ffi says '{line}', C does not");
    }
}

#[test]
fn constants_are_those_of_the_header() {
    let names = header::constants(&read("include/tenon_plugin.h"));
    let body: String = names
        .iter()
        .map(|name| format!("printf(\"{name} %llu\\n\", (unsigned long long)({name}));\n"))
        .collect();
    let printed = run_c("constants", &body);
    let from_c: BTreeMap<&str, u64> = printed
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').expect("a name and a value");
            (name, value.parse().expect("a number"))
        })
        .collect();
    let from_rust = mirror::constants();
    for (name, value) in &from_c {
        assert_eq!(from_rust.get(*name), Some(value), "{name} in src/ffi");
    }
    assert_eq!(from_c.len(), from_rust.len(), "the mirror has a constant that the header lacks");
}

#[test]
fn every_member_has_the_type_of_the_header() {
    let structs = header::structs(&read("include/tenon_plugin.h"));
    let mut source = String::new();
    for file in ["mod.rs", "device.rs", "graph.rs", "run.rs", "table.rs"] {
        source += &read(&format!("src/ffi/{file}"));
    }
    for (name, members) in &structs {
        let rust_name = header::rust_type_name(name);
        let rust = mirror::members(&source, &rust_name);
        let c: Vec<(String, String)> = members.iter().map(|m| (m.name.clone(), m.rust_type())).collect();
        for (c, rust) in c.iter().zip(&rust) {
            assert_eq!(c, rust, "{name}: the header's member (left, as Rust) against the mirror's");
        }
        assert_eq!(c.len(), rust.len(), "{name}: number of members");
    }
    assert_eq!(
        structs.len(),
        24,
        "the header has another number of structs: is the parser of this test right?"
    );
}

#[test]
fn the_header_is_valid_cpp() {
    let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("header.cpp");
    std::fs::write(&source, "#include \"tenon_plugin.h\"\n").expect("the target folder is writable");
    let output = Command::new("c++")
        .args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(crate_file("include"))
        .arg(&source)
        .output();
    match output {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: no C++ compiler ({error})"),
    }
}
