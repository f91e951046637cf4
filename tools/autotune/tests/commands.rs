//! The program as a user calls it, without a device.

use std::process::{Command, Output};

fn autotune(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_autotune")).args(args).output().expect("autotune starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("its output is text")
}

#[test]
fn estimated_rows_say_that_they_are_estimates() {
    let output = autotune(&[
        "--estimate",
        "--chip",
        "mi355x",
        "--shapes",
        "8192x8192x8192,16x4096x4096",
        "--top",
        "2",
    ]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.contains("ESTIMATES") && printed.contains("mi355x"), "{printed}");
    assert_eq!(printed.matches("evidence = \"estimate\"").count(), 2, "{printed}");
    assert!(!printed.contains("peer_us"), "no time of a library that nobody measured");
    let json = autotune(&["--estimate", "--chip", "h100", "--shapes", "llm", "--top", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["kind"], "estimate");
    assert_eq!(json["ranked"].as_array().unwrap().len(), 40);
}

#[test]
fn rows_are_written_into_a_copy_of_a_table() {
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/arch/gfx950/matmul.toml");
    let copy = std::env::temp_dir().join(format!("tenon-autotune-{}.toml", std::process::id()));
    std::fs::copy(table, &copy).unwrap();
    let args =
        ["--estimate", "--chip", "mi355x", "--shapes", "333x4096x4096", "--write", copy.to_str().unwrap()];
    let first = autotune(&args);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let written = std::fs::read_to_string(&copy).unwrap();
    assert!(autotune(&args).status.success());
    let again = std::fs::read_to_string(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    assert_eq!(written.matches("m = 333\n").count(), 1);
    assert_eq!(again.matches("m = 333\n").count(), 1, "a row is replaced, not repeated");
    assert!(tenon_kernels::gpu::matmul::mfma::Table::parse(&again).is_ok());
}

#[test]
fn wrong_usage_says_what_to_change() {
    for (args, part) in [
        (&["--estimate", "--chip", "mi999x"][..], "mi999x"),
        (&["--estimate", "--chip", "h100", "--shapes", "8x8"], "MxNxK"),
        (&["--provider", "nothing"], "nothing"),
        (&["--shapes", "llm"], "--estimate"),
        (&["--estimate", "--chip", "h100", "--operator", "cast"], "matmul"),
    ] {
        let output = autotune(args);
        assert!(!output.status.success(), "{args:?}");
        assert!(text(&output.stderr).contains(part), "{args:?}: {}", text(&output.stderr));
    }
}
