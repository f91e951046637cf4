//! From messages to a graph: names, constants, bodies, order, and what is refused.

use tenon_runtime::error::{ErrorKind, Stage};
use tenon_runtime::graph::{Attribute, Dim};
use tenon_runtime::model::proto::*;

use crate::make::*;

#[test]
fn an_initializer_is_a_constant_and_a_typed_input_keeps_its_symbols() {
    let mut g = graph(vec![node("Add", &["x", "w"], &["y"])], &["x"], &["y"]);
    g.initializer.push(floats("w", &[1.0, 2.0, 3.0, 4.0]));
    let g = build(&model(g)).unwrap();
    assert_eq!(g.node_count(), 1);
    let add = g.node(g.node_ids().next().unwrap());
    assert_eq!(add.version, 17);
    let w = g.constant(add.input(1).unwrap()).unwrap();
    assert_eq!(w.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let shape = g.value(g.inputs()[0]).ty().unwrap().shape().unwrap();
    assert_eq!(shape.dims(), [Dim::symbol("N"), Dim::Known(4)]);
}

#[test]
fn constant_nodes_of_every_kind_leave_no_node() {
    let list = |name: &str, fill: fn(&mut AttributeProto)| {
        let mut a = AttributeProto { name: name.into(), ..Default::default() };
        fill(&mut a);
        a
    };
    let tensor = list("value", |a| {
        a.r#type = 4;
        a.t = Some(Box::new(floats("", &[5.0])));
    });
    let ints = list("value_ints", |a| {
        a.r#type = 7;
        a.ints = vec![1, -2];
    });
    let strings = list("value_strings", |a| {
        a.r#type = 8;
        a.strings = vec!["é".into(), "".into()];
    });
    let sparse = list("sparse_value", |a| {
        a.r#type = 11;
        let indices = TensorProto { dims: vec![1], data_type: 7, int64_data: vec![2], ..Default::default() };
        a.sparse_tensor = Some(Box::new(SparseTensorProto {
            values: Some(floats("", &[7.0])),
            indices: Some(indices),
            dims: vec![4],
        }));
    });
    let constant = |name: &str, a| with(node("Constant", &[], &[name]), a);
    let nodes = vec![
        constant("t", tensor),
        constant("f", float("value_float", 0.5)),
        constant("i", int("value_int", 3)),
        constant("is", ints),
        constant("ss", strings),
        constant("sp", sparse),
        node("Op", &["t", "f", "i", "is", "ss", "sp"], &["y"]),
    ];
    let g = build(&model(graph(nodes, &[], &["y"]))).unwrap();
    assert_eq!(g.node_count(), 1);
    let value = |name: &str| g.constant(g.find_value(name).unwrap()).unwrap();
    assert_eq!(value("t").to_vec::<f32>().unwrap(), [5.0]);
    assert_eq!((value("f").dims(), value("f").to_f64_vec().unwrap()), (&[][..], vec![0.5]));
    assert_eq!(value("i").to_vec::<i64>().unwrap(), [3]);
    assert_eq!((value("is").dims(), value("is").to_vec::<i64>().unwrap()), (&[2][..], vec![1, -2]));
    assert_eq!(value("ss").strings().unwrap().collect::<Vec<_>>(), ["é", ""]);
    assert_eq!(value("sp").to_vec::<f32>().unwrap(), [0.0, 0.0, 7.0, 0.0]);
}

#[test]
fn an_attribute_without_a_kind_takes_the_kind_of_its_field() {
    let mut axis = int("axis", 0);
    axis.r#type = 0;
    let g = build(&model(graph(vec![with(node("Softmax", &["x"], &["y"]), axis)], &["x"], &["y"]))).unwrap();
    let softmax = g.node(g.node_ids().next().unwrap());
    assert_eq!(softmax.attributes.get("axis"), Some(&Attribute::Int(0)));
}

#[test]
fn nodes_may_come_in_any_order() {
    let nodes = vec![node("Neg", &["b"], &["y"]), node("Abs", &["x"], &["a"]), node("Exp", &["a"], &["b"])];
    let g = build(&model(graph(nodes, &["x"], &["y"]))).unwrap();
    let order = g.topological_order().unwrap();
    let ops: Vec<&str> = order.iter().map(|n| &*g.node(*n).op_type).collect();
    assert_eq!(ops, ["Abs", "Exp", "Neg"]);
}

#[test]
fn an_initializer_named_like_an_input_is_a_default_from_ir_4_on_and_a_constant_before() {
    let mut g = graph(vec![node("Add", &["x", "w"], &["y"])], &["x", "w"], &["y"]);
    g.initializer.push(floats("w", &[1.0; 4]));
    let mut m = model(g);
    let new = build(&m).unwrap();
    assert_eq!(new.inputs().len(), 2);
    assert!(new.value(new.inputs()[1]).default().is_some());
    assert!(new.constant(new.inputs()[1]).is_none());
    let mut frozen = new.clone();
    frozen.freeze_defaults();
    assert_eq!(frozen.inputs().len(), 1);
    frozen.check().unwrap();
    m.ir_version = 3;
    let old = build(&m).unwrap();
    assert_eq!(old.inputs().len(), 1);
    assert!(old.constant(old.find_value("w").unwrap()).is_some());
}

fn if_model() -> ModelProto {
    let nested = graph(vec![node("Add", &["x", "inner"], &["deep"])], &[], &["deep"]);
    let nested_else = graph(vec![node("Neg", &["w"], &["deep_else"])], &[], &["deep_else"]);
    let then_branch = graph(
        vec![
            node("Mul", &["x", "w"], &["inner"]),
            with(
                with(node("If", &["cond"], &["picked"]), body("then_branch", nested)),
                body("else_branch", nested_else),
            ),
        ],
        &[],
        &["picked"],
    );
    let else_branch = graph(vec![node("Identity", &["late"], &["e"])], &[], &["e"]);
    let choice = with(
        with(node("If", &["cond"], &["y"]), body("then_branch", then_branch)),
        body("else_branch", else_branch),
    );
    let mut g = graph(vec![choice, node("Abs", &["x"], &["late"])], &["x", "cond"], &["y"]);
    g.initializer.push(floats("w", &[2.0; 4]));
    model(g)
}

#[test]
fn bodies_are_closed_over_what_they_capture() {
    let g = build(&if_model()).unwrap();
    let choice = g.node_ids().find(|n| g.node(*n).is_onnx("If")).unwrap();
    let name = |v: &_| g.value(*v).name().to_owned();
    let then_branch = g.node(choice).body("then_branch").unwrap();
    let captured: Vec<String> = then_branch.captures().iter().map(name).collect();
    assert_eq!(captured, ["x", "cond"]);
    assert!(then_branch.formal_inputs().is_empty());
    assert_eq!(then_branch.capture_inputs().len(), 2);
    let inner = then_branch.graph();
    let w = inner.find_value("w").unwrap();
    assert!(inner.constant(w).is_some(), "a captured constant is a constant of the body");
    let nested = inner.node_ids().find(|n| inner.node(*n).is_onnx("If")).unwrap();
    let nested = inner.node(nested).body("then_branch").unwrap();
    assert_eq!(nested.captures().len(), 2);
    // The else branch captures a value that a later node computes: that node comes first in the order.
    let order = g.topological_order().unwrap();
    assert_eq!(&*g.node(order[0]).op_type, "Abs");
    assert_eq!(g.total_node_count(), 7);
}

#[test]
fn the_text_form_shows_bodies_types_and_captures() {
    let text = build(&if_model()).unwrap().to_string();
    let expected = "\
graph \"g\" importing ai.onnx 17
  input x: float[N,4]
  input cond: float[N,4]
  late = Abs-17(x)  # Abs_late
  y: float[N,4] = If-17(cond)  # If_y
    then_branch capturing x = x, cond = cond:
      input x: float[N,4]
      input cond: float[N,4]
      inner = Mul-17(x, float[4] [2.0, 2.0, 2.0, 2.0])  # Mul_inner
      picked: float[N,4] = If-17(cond)  # If_picked
        then_branch capturing x = x, inner = inner:
          input x: float[N,4]
          input inner
          deep: float[N,4] = Add-17(x, inner)  # Add_deep
          output deep: float[N,4]
        else_branch:
          deep_else: float[N,4] = Neg-17(float[4] [2.0, 2.0, 2.0, 2.0])  # Neg_deep_else
          output deep_else: float[N,4]
      output picked: float[N,4]
    else_branch capturing late = late:
      input late
      e: float[N,4] = Identity-17(late)  # Identity_e
      output e: float[N,4]
  output y: float[N,4]
";
    assert_eq!(text, expected);
}

#[test]
fn left_out_inputs_stay_and_trailing_ones_go() {
    let nodes = vec![node("Clip", &["x", "", "hi"], &["c"]), node("Resize", &["c", "", ""], &["y", ""])];
    let g = build(&model(graph(nodes, &["x", "hi"], &["y"]))).unwrap();
    let by_op = |op| g.node(g.node_ids().find(|n| g.node(*n).is_onnx(op)).unwrap());
    assert_eq!(by_op("Clip").inputs().len(), 3);
    assert_eq!(by_op("Clip").input(1), None);
    assert_eq!(by_op("Resize").inputs().len(), 1);
    assert_eq!(by_op("Resize").outputs().len(), 2);
}

#[test]
fn a_cycle_is_refused_with_its_nodes() {
    let nodes =
        vec![node("Neg", &["x"], &["apart"]), node("Add", &["x", "b"], &["a"]), node("Exp", &["a"], &["b"])];
    let text = refusal(&model(graph(nodes, &["x"], &["b"])));
    assert_mentions(&text, &["cycle", "'Add_a'", "'Exp_b'"]);
    assert!(!text.contains("Neg"), "{text}");
    let own = refusal(&model(graph(vec![node("Add", &["y", "x"], &["y"])], &["x"], &["y"])));
    assert_mentions(&own, &["cycle", "'Add_y'"]);
}

#[test]
fn a_missing_input_is_refused_with_node_and_similar_names() {
    let mut g = graph(vec![node("Add", &["x", "layer.weigth"], &["y"])], &["x"], &["y"]);
    g.initializer.push(floats("layer.weight", &[1.0; 4]));
    let m = model(g);
    assert_mentions(&refusal(&m), &["'Add_y'", "'layer.weigth'", "'layer.weight'", "initializer"]);
    let e = build(&m).unwrap_err();
    assert_eq!((e.kind(), e.stage()), (ErrorKind::InvalidModel, Some(Stage::Graph)));
    assert_eq!(e.node_path(), ["Add_y"]);
}

#[test]
fn a_missing_capture_is_refused_with_the_path_to_it() {
    let branch = graph(vec![node("Neg", &["nowhere"], &["n"])], &[], &["n"]);
    let choice = with(node("If", &["cond"], &["y"]), body("then_branch", branch));
    let e = build(&model(graph(vec![choice], &["cond"], &["y"]))).unwrap_err();
    assert_eq!(e.node_path(), ["If_y", "Neg_n"]);
    assert_mentions(&e.to_string(), &["'nowhere'"]);
}

#[test]
fn broken_names_are_refused() {
    let twice = vec![node("Neg", &["x"], &["y"]), node("Abs", &["x"], &["y"])];
    assert_mentions(&refusal(&model(graph(twice, &["x"], &["y"]))), &["'Abs_y'", "'y'", "two sources"]);
    let shadow = vec![node("Neg", &["x"], &["x"])];
    assert_mentions(&refusal(&model(graph(shadow, &["x"], &["x"]))), &["'x'", "two sources"]);
    let mut g = graph(vec![node("Neg", &["w"], &["y"])], &[], &["y"]);
    g.initializer = vec![floats("w", &[1.0]), floats("w", &[2.0])];
    assert_mentions(&refusal(&model(g)), &["two initializers", "'w'"]);
    assert_mentions(&refusal(&model(graph(vec![], &["x"], &["z"]))), &["graph output 'z'"]);
    assert_mentions(&refusal(&model(graph(vec![], &["x", "x"], &["x"]))), &["'x'", "unique"]);
    let nameless = NodeProto { name: "odd".into(), output: vec!["y".into()], ..Default::default() };
    assert_mentions(&refusal(&model(graph(vec![nameless], &[], &["y"]))), &["'odd'", "op_type"]);
}

#[test]
fn operator_set_versions_are_checked() {
    let g = || graph(vec![node("Neg", &["x"], &["y"])], &["x"], &["y"]);
    let import = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let mut m = model(g());
    m.opset_import = vec![import("", 99)];
    assert_mentions(&refusal(&m), &["99", "ai.onnx", "28"]);
    assert_eq!(build(&m).unwrap_err().kind(), ErrorKind::Unsupported);
    m.opset_import = vec![import("", 0)];
    assert_mentions(&refusal(&m), &["version 0"]);
    m.opset_import = vec![];
    assert_mentions(&refusal(&m), &["imports no operator set"]);
    m.opset_import = vec![import("ai.onnx.ml", 3)];
    assert_mentions(&refusal(&m), &["'Neg_y'", "does not import operator set ai.onnx"]);
    m.opset_import = vec![import("ai.onnx", 13), import("vendor.ops", 7)];
    let graph = build(&m).unwrap();
    assert_eq!((graph.opset(""), graph.opset("vendor.ops")), (Some(13), Some(7)));
}

#[test]
fn bodies_nested_too_deep_are_refused_without_overflowing_the_stack() {
    let mut g = graph(vec![node("Neg", &["x"], &["y"])], &[], &["y"]);
    for _ in 0..60 {
        g = graph(vec![with(node("If", &["x"], &["y"]), body("then_branch", g))], &[], &["y"]);
    }
    g.input = vec![info("x")];
    let e = build(&model(g)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
}

#[test]
fn a_hundred_thousand_nodes_build_in_a_second() {
    let name = |i: usize| format!("v{i}");
    let nodes =
        (0..100_000).rev().map(|i| node("Add", &[&name(i), "w"], &[&name(i + 1)])).collect::<Vec<_>>();
    let mut g = graph(nodes, &["v0"], &["v100000"]);
    g.initializer.push(floats("w", &[1.0; 4]));
    let m = model(g);
    let start = std::time::Instant::now();
    let graph = build(&m).unwrap();
    let took = start.elapsed();
    assert_eq!(graph.node_count(), 100_000);
    // A debug build on a busy machine is given five times the second that a release build has.
    assert!(took.as_secs() < 5, "{took:?}");
}
