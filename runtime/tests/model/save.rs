//! Graphs written and read again.

use tenon_runtime::graph::{self, Graph, Node};
use tenon_runtime::model::{self, Limits, SaveOptions, proto::*};
use tenon_runtime::tensor::Tensor;

use crate::make::*;
use crate::wire::tempfile;

fn round_trip(g: &Graph) -> Graph {
    let loaded = model::from_proto(model::to_proto(g).unwrap(), &Limits::default()).unwrap();
    graph::build(&loaded).unwrap()
}

fn looping() -> ModelProto {
    let mut inner = graph(
        vec![
            node("Add", &["v", "w"], &["sum"]),
            node("Identity", &["keep"], &["go"]),
            node("Mul", &["sum", "x"], &["scan"]),
        ],
        &["i", "keep", "v"],
        &["go", "sum", "scan"],
    );
    inner.node.push(node("Neg", &["x"], &["unread"]));
    let looped = with(node("Loop", &["n", "c", "x"], &["final", "scans"]), body("body", inner));
    let mut g = graph(vec![looped], &["n", "c", "x"], &["final", "scans"]);
    g.initializer.push(floats("w", &[1.0, 2.0, 3.0, 4.0]));
    let mut m = model(g);
    m.metadata_props = vec![StringStringEntryProto { key: "author".into(), value: "someone".into() }];
    m
}

#[test]
fn bodies_constants_and_metadata_survive() {
    let g = build(&looping()).unwrap();
    let again = round_trip(&g);
    assert_eq!(again.to_string(), g.to_string());
    assert_eq!(again.info.metadata, g.info.metadata);
}

#[test]
fn outputs_keep_their_names_whatever_is_behind_them() {
    let mut g = build(&model(graph(vec![node("Neg", &["x"], &["y"])], &["x"], &["y", "x"]))).unwrap();
    let (neg, x) = (g.node_ids().next().unwrap(), g.inputs()[0]);
    g.replace_all_uses(g.outputs()[0].value, x);
    g.remove_node(neg);
    let again = round_trip(&g);
    let names: Vec<&str> = again.outputs().iter().map(|o| &*o.name).collect();
    assert_eq!(names, ["y", "x"]);
    assert_eq!(again.value(again.inputs()[0]).name(), "x");
    assert_eq!(again.node_count(), 1, "an Identity gives the input its second name");
}

#[test]
fn an_output_listed_twice_is_written_under_two_names() {
    let g = build(&model(graph(vec![node("Neg", &["x"], &["y"])], &["x"], &["y", "y"]))).unwrap();
    let again = round_trip(&g);
    let names: Vec<&str> = again.outputs().iter().map(|o| &*o.name).collect();
    assert_eq!(names, ["y", "y_1"]);
}

#[test]
fn a_value_that_has_an_outputs_name_makes_way() {
    let mut g = build(&model(graph(vec![node("Neg", &["x"], &["y"])], &["x"], &["y"]))).unwrap();
    let y = g.outputs()[0].value;
    let (_, other) = g.append(Node::new("", "Abs", 17), &[Some(y)], 1).unwrap();
    g.set_output_value(0, other[0]);
    let again = round_trip(&g);
    assert_eq!(&*again.outputs()[0].name, "y");
    let (last, _) = again.producer(again.outputs()[0].value).unwrap();
    assert!(again.node(last).is_onnx("Abs") && again.node_count() == 2);
}

#[test]
fn nodes_of_another_version_keep_it() {
    let mut g =
        build(&model(graph(vec![node("Neg", &["x"], &["m"]), node("Abs", &["m"], &["y"])], &["x"], &["y"])))
            .unwrap();
    let abs = g.node_ids().find(|n| g.node(*n).is_onnx("Abs")).unwrap();
    g.node_mut(abs).version = 6;
    g.node_mut(abs).attributes.set("consumed_inputs", vec![0i64]);
    let again = round_trip(&g);
    let abs = again.node_ids().find(|n| again.node(*n).is_onnx("Abs")).unwrap();
    assert_eq!(again.node(abs).version, 6);
    assert_eq!(again.node(abs).attributes.ints("consumed_inputs").unwrap(), Some(&[0][..]));
    assert_eq!(&*again.outputs()[0].name, "y");
}

#[test]
fn large_constants_go_beside_the_file_and_a_model_may_replace_itself() {
    let dir = tempfile();
    let path = dir.join("m.onnx");
    let mut g = build(&model(graph(vec![node("Neg", &["x"], &["y"])], &["x"], &["y"]))).unwrap();
    let values: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    let w = g.add_constant("w", Tensor::from_slice(&[5000], &values).unwrap());
    let s = g.add_constant("s", Tensor::from_slice(&[3], &values[..3]).unwrap());
    let y = g.outputs()[0].value;
    let (_, sum) = g.append(Node::new("", "Sum", 17), &[Some(y), Some(w), Some(s)], 1).unwrap();
    g.add_output("sum", sum[0], None);
    let split = SaveOptions { max_embedded_bytes: 100, ..SaveOptions::default() };
    for _ in 0..3 {
        model::save(&g, &path, &split).unwrap();
        g = graph::build(&model::load(&path).unwrap()).unwrap();
        let w = g.constant(g.find_value("w").unwrap()).unwrap();
        assert_eq!(w.to_vec::<f32>().unwrap(), values);
    }
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["m.onnx", "m.onnx.data"]);
    model::save(&g, &path, &SaveOptions::default()).unwrap();
    std::fs::remove_file(dir.join("m.onnx.data")).unwrap();
    model::load(&path).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_node_with_bodies_of_another_version_keeps_it_and_its_captures() {
    let mut g = build(&looping()).unwrap();
    let looped = g.node_ids().next().unwrap();
    g.node_mut(looped).version = 11;
    let again = round_trip(&g);
    let node = again.node(again.node_ids().next().unwrap());
    assert_eq!((again.node_count(), node.version), (1, 11));
    let body = node.body("body").unwrap();
    assert_eq!((body.formal_inputs().len(), body.captures()), (3, &[again.inputs()[2]][..]));
    let versions: Vec<i64> = body.graph().node_ids().map(|n| body.graph().node(n).version).collect();
    assert_eq!(versions, [17; 4]);
}
