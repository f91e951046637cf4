//! The runner program from outside: the digit reader of `tests/data`, every mode, exit codes and what scripts parse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/digits")
}

fn model() -> String {
    digits().join("model.onnx").display().to_string()
}

/// Runs the program; its standard error is not a terminal, so nothing is animated or coloured.
fn runner(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_runner")).args(args).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// Standard output of a successful run.
fn succeeds(args: &[&str]) -> String {
    let output = runner(args);
    assert!(output.status.success(), "{args:?}\n{}{}", stderr(&output), stdout(&output));
    stdout(&output)
}

/// The one JSON object of a successful run.
fn json(args: &[&str]) -> Json {
    let text = succeeds(args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tenon-runner-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("the temporary folder can be written");
    path
}

#[test]
fn pictures_of_digits_are_read() {
    for name in ["three", "eight"] {
        let picture = digits().join(format!("{name}.png")).display().to_string();
        let result = json(&[&model(), &picture, "--json"]);
        let best = &result["outputs"][0]["best"][0][0];
        assert_eq!(best["label"], name);
        assert!(best["score"].as_f64().expect("a score") > 0.9);
        let text = succeeds(&[&model(), &picture]);
        assert!(text.contains(name) && text.contains("cpu: "), "{text}");
    }
}

#[test]
fn stored_outputs_agree_and_the_last_line_names_the_worst_element() {
    let digits = digits().display().to_string();
    let text = succeeds(&[&model(), "--test-data", &digits, "--rtol", "1e-4", "--atol", "1e-6"]);
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("agrees: worst output 'digit', element ["), "{last}");
    assert_eq!(json(&[&model(), "--test-data", &digits, "--json"])["agrees"], true);
}

#[test]
fn wrong_stored_outputs_fail_with_exit_code_1() {
    let folder = folder("wrong");
    let set = digits().join("test_data_set_0");
    std::fs::copy(set.join("input_0.pb"), folder.join("input_0.pb")).expect("a copy");
    let mut bytes = std::fs::read(set.join("output_0.pb")).expect("the stored output");
    // The tensor's name and the last float of its contents; whichever field comes last, both are overwritten.
    let at =
        bytes.windows(4).rposition(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]]) > 0.5).expect("a score");
    bytes[at..at + 4].copy_from_slice(&0.25f32.to_le_bytes());
    std::fs::write(folder.join("output_0.pb"), bytes).expect("the folder can be written");
    let output = runner(&[&model(), "--test-data", &folder.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("DISAGREES: worst output 'digit', element ["), "{last}");
    assert!(last.contains("expected 0.25"), "{last}");
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

#[test]
fn bench_prints_one_object_with_the_fields_scripts_read() {
    let result =
        json(&[&model(), "--bench", "--json", "--iterations", "5", "--concurrency", "2", "--dim", "N=3"]);
    for field in ["load_ms", "first_run_ms", "p50_ms", "p90_ms", "p99_ms", "peak_rss_bytes"] {
        assert!(result[field].as_f64().is_some_and(|v| v > 0.0), "{field} in {result}");
    }
    assert!(result["providers"]["cpu"].as_u64().is_some_and(|n| n > 0), "{result}");
    assert_eq!(result["runs"], 10);
    assert_eq!(result["inputs"][0]["type"], "float[3,1,8,8]");
}

#[test]
fn made_inputs_follow_dims_and_seed() {
    let run = |seed: &str| json(&[&model(), "--json", "--dim", "N=2", "--seed", seed])["outputs"].clone();
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
    let output = runner(&[&model()]);
    assert!(stderr(&output).contains("made values for image"), "{}", stderr(&output));
    assert!(stderr(&output).contains("assumed N=1"), "{}", stderr(&output));
}

#[test]
fn saved_outputs_are_what_other_tools_read() {
    let folder = folder("saved");
    let (archive, files) =
        (folder.join("out.npz").display().to_string(), folder.join("pb").display().to_string());
    succeeds(&[&model(), "-i", "image=ones", "--save-outputs", &archive, "--quiet"]);
    succeeds(&[&model(), "-i", "image=ones", "--save-outputs", &files, "--quiet"]);
    assert!(std::fs::read(&archive).expect("the archive").starts_with(b"PK"));
    assert!(Path::new(&files).join("output_0.pb").is_file());
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

#[test]
fn the_optimised_model_can_be_saved_and_run() {
    let folder = folder("optimised");
    let saved = folder.join("optimised.onnx").display().to_string();
    let three = digits().join("three.png").display().to_string();
    let direct = json(&[&model(), &three, "--json", "--save-optimized", &saved]);
    let again = json(&[&saved, &three, "--json"]);
    assert_eq!(direct["outputs"], again["outputs"]);
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

#[test]
fn every_stage_and_form_of_the_partition_can_be_printed() {
    for stage in ["graph", "shape", "optimized", "partitions", "plan"] {
        let text = succeeds(&["inspect", &model(), "--stage", stage]);
        assert!(text.lines().count() > 2, "{stage}: {text}");
    }
    assert!(succeeds(&["inspect", &model()]).contains("Conv"));
    assert!(succeeds(&[&model(), "--dump-partition", "dot"]).starts_with("digraph"));
    assert!(succeeds(&[&model(), "--dump-partition", "svg"]).starts_with("<svg"));
    let partition = json(&[&model(), "--dump-partition", "json"]);
    assert_eq!(partition["partitions"][0]["provider"], "cpu");
    assert_eq!(json(&["inspect", &model(), "--json"])["inputs"][0]["name"], "image");
}

#[test]
fn verify_and_bisect_compare_with_the_plain_cpu() {
    let verified = json(&[&model(), "--verify", "--json"]);
    assert_eq!(verified["agrees"], true);
    let bisected = json(&[&model(), "--verify", "--bisect", "--json"]);
    assert_eq!(bisected["agrees"], true);
    assert!(bisected["compared"].as_u64() >= verified["compared"].as_u64(), "{bisected}");
}

#[test]
fn a_profile_is_a_trace_with_events() {
    let folder = folder("profile");
    let path = folder.join("trace.json");
    let digits = digits().display().to_string();
    let ways: [&[&str]; 3] =
        [&[], &["--test-data", &digits, "--rtol", "1e-3"], &["--bench", "--duration", "0.1"]];
    for way in ways {
        let file = path.display().to_string();
        let (model, mut arguments) = (model(), vec!["--profile", &file]);
        arguments.extend(way);
        arguments.push(&model);
        let text = succeeds(&arguments);
        assert!(text.contains("ui.perfetto.dev"), "{text}");
        let trace: Json = serde_json::from_slice(&std::fs::read(&path).expect("the trace")).expect("JSON");
        let complete = |e: &&Json| e["ph"] == "X" && e["dur"].as_f64().is_some();
        assert!(trace["traceEvents"].as_array().expect("events").iter().filter(complete).count() > 0);
        std::fs::remove_file(&path).expect("the trace can be removed");
    }
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

#[test]
fn providers_are_listed() {
    let listed = json(&["providers", "--json"]);
    let cpu =
        listed["providers"].as_array().expect("a list").iter().find(|p| p["name"] == "cpu").expect("the CPU");
    assert_eq!(cpu["source"], "built in");
    assert!(cpu["score"].as_u64().is_some_and(|s| s > 0));
    assert!(succeeds(&["providers"]).contains("cpu"));
}

#[test]
fn wrong_usage_is_2_and_failure_is_1() {
    assert_eq!(runner(&[]).status.code(), Some(2));
    assert_eq!(runner(&[&model(), "--dim", "N"]).status.code(), Some(2));
    assert_eq!(runner(&[&model(), "missing.npy"]).status.code(), Some(2));
    let fails = |args: &[&str], part: &str| {
        let output = runner(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            stderr(&output).starts_with("error: ") && stderr(&output).contains(part),
            "{}",
            stderr(&output)
        );
        assert!(stdout(&output).is_empty(), "{}", stdout(&output));
    };
    fails(&["missing.onnx"], "missing.onnx");
    fails(&[&model(), "-i", "picture=zeros"], "no input 'picture'; its inputs are: image");
    fails(&[&model(), "-i", "image=[1]"], "'image' has 4 dimensions");
    fails(&[&model(), "--provider", "nothing"], "nothing");
    fails(&[&model(), "--test-data", &digits().join("missing").display().to_string()], "missing");
}
