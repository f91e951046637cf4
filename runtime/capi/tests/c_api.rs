//! Compiles the C example against the library of this build and runs it in its modes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A model of the test data.
fn model(name: &str) -> PathBuf {
    package().join("../../tests/data/capi").join(name)
}

/// The folder of this test's program, where the build puts the library.
fn library_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows its path");
    let folder = program.parent().expect("a program is in a folder").to_path_buf();
    let library = format!("{}tenon{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders =
        [folder.clone(), folder.parent().expect("the folder is inside the target folder").to_path_buf()];
    let found = folders.into_iter().find(|folder| folder.join(&library).is_file());
    found.unwrap_or_else(|| panic!("no {library} in {}", folder.display()))
}

/// The compiled example.
fn example() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let libraries = library_folder();
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("capi_run_{}", std::process::id()));
        let mut command = Command::new("cc");
        command
            .args(["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(package().join("include"));
        command.arg(package().join("examples/run.c")).arg("-o").arg(&program);
        command.arg("-L").arg(&libraries).args(["-ltenon", "-lpthread"]);
        command.arg(format!("-Wl,-rpath,{}", libraries.display()));
        succeed(&mut command);
        program
    })
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    println!("{out}");
    output
}

#[test]
fn values_go_in_and_out_and_errors_are_explained() {
    succeed(Command::new(example()).arg("check").arg(model("add.onnx")));
}

#[test]
fn a_thousand_sessions_leave_no_memory_behind() {
    succeed(Command::new(example()).arg("sessions").arg(model("add.onnx")).arg("1000"));
}

#[test]
fn eight_threads_on_one_session_get_right_results() {
    succeed(Command::new(example()).arg("threads").arg(model("add.onnx")));
}

#[test]
fn valgrind_finds_neither_bad_accesses_nor_leaks() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed");
        return;
    }
    let mut command = Command::new("valgrind");
    command.args(["-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
    succeed(command.arg(example()).arg("check").arg(model("add.onnx")));
}

#[test]
fn the_header_is_valid_cpp_and_goes_with_the_provider_header() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("capi_header_{}.c", std::process::id()));
    std::fs::write(&source, "#include \"tenon_plugin.h\"\n#include \"tenon.h\"\n").unwrap();
    for language in ["c", "c++"] {
        let mut command = Command::new("cc");
        command.args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-x", language]);
        command
            .arg("-I")
            .arg(package().join("include"))
            .arg("-I")
            .arg(package().join("../../plugin-api/include"));
        succeed(command.arg(&source));
    }
    std::fs::remove_file(source).unwrap();
}
