//! Functions of the model and of the standard, replaced by their contents.

use tenon_runtime::graph::inline::{FunctionBody, inline_node, standard_function};
use tenon_runtime::graph::{Graph, Node};
use tenon_runtime::model::proto::*;

use crate::make::*;

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: outputs.iter().map(|s| s.to_string()).collect(),
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        ..Default::default()
    }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: "local".into(), ..node(name, inputs, outputs) }
}

fn operators(g: &Graph) -> Vec<String> {
    g.topological_order().unwrap().iter().map(|n| g.node(*n).operator()).collect()
}

#[test]
fn nested_functions_with_attributes_and_defaults_are_inlined() {
    let scaled = FunctionProto {
        attribute: vec!["alpha".into()],
        attribute_proto: vec![float("beta", 0.25)],
        ..function(
            "Scaled",
            &["a"],
            &["b"],
            vec![
                with(node("LeakyRelu", &["a"], &["l"]), reference("alpha", "alpha", 1)),
                with(node("Elu", &["l"], &["e"]), reference("alpha", "beta", 1)),
                with(node("Constant", &[], &["c"]), reference("value_float", "beta", 1)),
                node("Mul", &["e", "c"], &["b"]),
            ],
        )
    };
    let twice = FunctionProto {
        attribute: vec!["alpha".into()],
        ..function(
            "Twice",
            &["a"],
            &["b"],
            vec![
                with(call("Scaled", &["a"], &["m"]), reference("alpha", "alpha", 1)),
                with(call("Scaled", &["m"], &["b"]), float("beta", 0.5)),
            ],
        )
    };
    let mut m =
        model(graph(vec![with(call("Twice", &["x"], &["y"]), float("alpha", 0.125))], &["x"], &["y"]));
    m.functions = vec![twice, scaled];
    let g = build(&m).unwrap();
    assert_eq!(operators(&g), ["LeakyRelu", "Elu", "Mul", "LeakyRelu", "Elu", "Mul"]);
    let nodes: Vec<&Node> = g.topological_order().unwrap().iter().map(|n| g.node(*n)).collect();
    let alphas: Vec<_> = nodes.iter().map(|n| n.attributes.float("alpha").unwrap()).collect();
    assert_eq!(alphas, [Some(0.125), Some(0.25), None, None, Some(0.5), None]);
    assert!(nodes.iter().all(|n| n.version == 13), "nodes have the version that their function imports");
    assert_eq!(g.constant(nodes[5].input(1).unwrap()).unwrap().to_f64_vec().unwrap(), [0.5]);
    assert!(nodes[0].name.starts_with("Twice_y/Scaled_m/"), "{}", nodes[0].name);
    assert_eq!(g.outputs()[0].value, nodes[5].output(0).unwrap());
}

#[test]
fn attribute_references_reach_into_bodies_and_bodies_see_only_the_function() {
    let then_branch =
        graph(vec![with(node("Elu", &["a"], &["t"]), reference("alpha", "alpha", 1))], &[], &["t"]);
    let else_branch = graph(vec![node("Neg", &["a"], &["n"])], &[], &["n"]);
    let choice = with(
        with(node("If", &["c"], &["b"]), body("then_branch", then_branch)),
        body("else_branch", else_branch),
    );
    let f = FunctionProto {
        attribute: vec!["alpha".into()],
        ..function("Pick", &["a", "c"], &["b"], vec![choice])
    };
    let mut m =
        model(graph(vec![with(call("Pick", &["x", "k"], &["y"]), float("alpha", 3.0))], &["x", "k"], &["y"]));
    m.functions = vec![f.clone()];
    let g = build(&m).unwrap();
    let choice = g.node(g.node_ids().next().unwrap());
    let inner = choice.body("then_branch").unwrap().graph();
    let elu = inner.node(inner.node_ids().next().unwrap());
    assert_eq!(elu.attributes.float("alpha").unwrap(), Some(3.0));
    let mut leaky = f;
    leaky.node[0].attribute[1].g.as_mut().unwrap().node[0].input[0] = "x".into();
    m.functions = vec![leaky];
    assert_mentions(&refusal(&m), &["'Pick_y'", "'If_b'", "'x'"]);
}

#[test]
fn left_out_inputs_and_outputs_of_a_call_stay_left_out() {
    let f = function(
        "F",
        &["a", "lo", "hi"],
        &["b", "spare"],
        vec![node("Clip", &["a", "lo", "hi"], &["b"]), node("Neg", &["a"], &["spare"])],
    );
    let mut m = model(graph(vec![call("F", &["x", "", "h"], &["y"])], &["x", "h"], &["y"]));
    m.functions = vec![f];
    let g = build(&m).unwrap();
    let clip = g.node_ids().map(|n| g.node(n)).find(|n| n.is_onnx("Clip")).unwrap();
    assert_eq!((clip.input(1), clip.input(2).is_some()), (None, true));
}

#[test]
fn a_function_that_returns_its_input_becomes_an_identity() {
    let f = function("Same", &["a"], &["a"], vec![]);
    let mut m = model(graph(vec![call("Same", &["x"], &["y"])], &["x"], &["y"]));
    m.functions = vec![f];
    assert_eq!(operators(&build(&m).unwrap()), ["Identity"]);
}

#[test]
fn overloads_are_told_apart() {
    let one = FunctionProto {
        overload: "one".into(),
        ..function("F", &["a"], &["b"], vec![node("Exp", &["a"], &["b"])])
    };
    let two = FunctionProto {
        overload: "two".into(),
        ..function("F", &["a"], &["b"], vec![node("Log", &["a"], &["b"])])
    };
    let mut n = call("F", &["x"], &["y"]);
    n.overload = "two".into();
    let mut m = model(graph(vec![n], &["x"], &["y"]));
    m.functions = vec![one.clone(), two];
    assert_eq!(operators(&build(&m).unwrap()), ["Log"]);
    m.functions = vec![one.clone(), one];
    assert_mentions(&refusal(&m), &["'F'", "twice"]);
}

#[test]
fn recursion_and_exponential_growth_are_refused() {
    let a = function("A", &["a"], &["b"], vec![call("B", &["a"], &["b"])]);
    let b = function("B", &["a"], &["b"], vec![call("A", &["a"], &["b"])]);
    let mut m = model(graph(vec![call("A", &["x"], &["y"])], &["x"], &["y"]));
    m.functions = vec![a, b];
    assert_mentions(&refusal(&m), &["circle", "A -> B -> A"]);
    m.functions = (0..40)
        .map(|i| {
            let next = format!("F{}", i + 1);
            let nodes = vec![call(&next, &["a"], &["m"]), call(&next, &["m"], &["b"])];
            function(&format!("F{i}"), &["a"], &["b"], nodes)
        })
        .chain([function("F40", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])])])
        .collect();
    m.graph = Some(graph(vec![call("F0", &["x"], &["y"])], &["x"], &["y"]));
    let limits = tenon_runtime::model::Limits { max_nodes: 10_000, ..Default::default() };
    let loaded = tenon_runtime::model::from_proto(m, &limits).unwrap();
    let e = tenon_runtime::graph::build(&loaded).unwrap_err();
    assert_mentions(&e.to_string(), &["more nodes than the limit of 10000"]);
}

#[test]
fn the_deepest_allowed_calls_fit_the_stack() {
    let depth = 90;
    let mut m = model(graph(vec![call("F0", &["x"], &["y"])], &["x"], &["y"]));
    m.functions = (0..depth)
        .map(|i| {
            function(&format!("F{i}"), &["a"], &["b"], vec![call(&format!("F{}", i + 1), &["a"], &["b"])])
        })
        .chain([function(&format!("F{depth}"), &["a"], &["b"], vec![node("Neg", &["a"], &["b"])])])
        .collect();
    assert_eq!(operators(&build(&m).unwrap()), ["Neg"]);
    m.functions.insert(0, function("G", &["a"], &["b"], vec![]));
    let extra: Vec<FunctionProto> = (0..depth)
        .map(|i| {
            function(&format!("H{i}"), &["a"], &["b"], vec![call(&format!("H{}", i + 1), &["a"], &["b"])])
        })
        .collect();
    m.functions.extend(extra);
    m.functions.push(function(&format!("H{depth}"), &["a"], &["b"], vec![call("F0", &["a"], &["b"])]));
    m.graph = Some(graph(vec![call("H0", &["x"], &["y"])], &["x"], &["y"]));
    assert_mentions(&refusal(&m), &["nested deeper"]);
}

#[test]
fn wrong_calls_are_refused() {
    let f = function("F", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])]);
    let mut m = model(graph(vec![call("F", &["x", "x"], &["y"])], &["x"], &["y"]));
    m.functions = vec![f];
    assert_mentions(&refusal(&m), &["2 inputs", "'F' has 1"]);
    m.functions = vec![function("F", &["a"], &["b"], vec![node("Neg", &["a"], &["c"])])];
    m.graph = Some(graph(vec![call("F", &["x"], &["y"])], &["x"], &["y"]));
    assert_mentions(&refusal(&m), &["output 'b'", "none of its nodes"]);
}

#[test]
fn standard_bodies_are_found_by_version() {
    let hard_swish = standard_function("", "HardSwish", 20).unwrap();
    assert_eq!(hard_swish.since_version(), 14);
    assert_eq!(standard_function("", "HardSwish", 28).unwrap().since_version(), 22);
    assert!(standard_function("", "HardSwish", 13).is_none());
    // Celu has a body that depends on the node's type from version 12, and a static one from 28.
    assert!(standard_function("", "Celu", 20).is_none());
    assert!(standard_function("", "Celu", 28).is_some());
    assert!(standard_function("", "Conv", 20).is_none());
}

#[test]
fn a_node_is_replaced_by_its_standard_body() {
    let selu = with(node("Selu", &["x"], &["y"]), float("gamma", 2.0));
    let mut g = build(&model(graph(vec![selu, node("Neg", &["y"], &["z"])], &["x"], &["z", "y"]))).unwrap();
    let id = g.node_ids().find(|n| g.node(*n).is_onnx("Selu")).unwrap();
    let added = inline_node(&mut g, id, standard_function("", "Selu", 17).unwrap()).unwrap();
    g.check().unwrap();
    assert!(g.node_ids().all(|n| !g.node(n).is_onnx("Selu")));
    assert_eq!(added.len(), g.node_count() - 1);
    let y = g.find_value("y").unwrap();
    assert_eq!(g.outputs()[1].value, y);
    assert_eq!(&*g.node(g.producer(y).unwrap().0).op_type, "Where");
    assert!(g.value(y).ty().is_some());
    let gamma: Vec<f64> = g
        .value_ids()
        .filter_map(|v| g.constant(v).filter(|t| t.dims().is_empty())?.to_f64_vec().ok())
        .map(|v| v[0])
        .collect();
    assert!(gamma.contains(&2.0), "the call's value wins over the default: {gamma:?}");
    assert!(gamma.iter().any(|v| (v - 1.6732632).abs() < 1e-6), "the schema's default is there: {gamma:?}");
}

#[test]
fn a_body_that_fails_leaves_the_graph_as_it_was() {
    let mut g = build(&model(graph(vec![node("Selu", &["x"], &["y"])], &["x"], &["y"]))).unwrap();
    let before = g.to_string();
    let broken = FunctionBody::new(function(
        "Selu",
        &["a"],
        &["b"],
        vec![node("Neg", &["a"], &["m"]), node("Add", &["m", "nowhere"], &["b"])],
    ));
    let id = g.node_ids().next().unwrap();
    let e = inline_node(&mut g, id, &broken).unwrap_err();
    assert_mentions(&e.to_string(), &["'Selu_y'", "'Add_b'", "'nowhere'"]);
    assert_eq!(g.to_string(), before);
    g.check().unwrap();
}
