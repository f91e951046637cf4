//! The pipeline as a whole: cutting a graph between devices never changes its results.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod control;
mod gradient;
mod scattered;

use std::path::{Path, PathBuf};

use tenon_runtime::model;
use tenon_runtime::session::{Environment, Session, SessionOptions};
use tenon_runtime::tensor::Value;

fn environment() -> Environment {
    let environment = Environment::new();
    environment.register(tenon_provider_cpu::table()).expect("the CPU provider registers");
    environment.register(scattered::table()).expect("the test provider registers");
    environment
}

fn options(providers: &[String]) -> SessionOptions {
    let providers = providers.iter().map(|text| text.parse().expect("a valid request")).collect();
    SessionOptions { providers, threads: Some(1), balance: false, ..SessionOptions::default() }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

fn tensor_bytes(values: &[Value]) -> Vec<Vec<u8>> {
    values.iter().map(|value| value.as_tensor().expect("tensor outputs").as_bytes().to_vec()).collect()
}

#[test]
fn results_do_not_depend_on_where_nodes_run() {
    let environment = environment();
    let folder = data("digits");
    let session = Session::open(&environment, &folder.join("model.onnx"), &options(&["cpu".into()])).unwrap();
    let spec = &session.inputs()[0];
    let (_, input) = model::read_value(folder.join("test_data_set_0/input_0.pb"), spec.ty.as_ref()).unwrap();
    let name = spec.name.clone();
    let expected = tensor_bytes(&session.run(&[(&name, input.clone())]).unwrap());
    let mut crossings = 0;
    for seed in 0..12 {
        let options = options(&[format!("scattered,seed={seed}"), "cpu".into()]);
        let session = Session::open(&environment, &folder.join("model.onnx"), &options).unwrap();
        let shares = &session.report().providers;
        crossings += usize::from(shares.iter().any(|share| share.name == "scattered" && share.nodes > 0));
        for _ in 0..3 {
            let got = tensor_bytes(&session.run(&[(&name, input.clone())]).unwrap());
            assert_eq!(
                got,
                expected,
                "seed {seed}\n{}",
                session.inspect(tenon_runtime::session::Stage::Plan).unwrap()
            );
        }
    }
    assert!(crossings >= 6, "the seeds hardly move any node: {crossings}");
}

#[test]
fn strict_sessions_list_every_reason() {
    let environment = environment();
    let options = SessionOptions { strict: true, ..options(&["scattered,seed=3".into()]) };
    let error = match Session::open(&environment, &data("digits/model.onnx"), &options) {
        Ok(_) => panic!("some node must have been declined"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("not by this seed") && error.contains("scattered"), "{error}");
}
