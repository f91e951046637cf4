//! Control flow, captures and sequences with their bodies scattered over devices.

use std::sync::Arc;

use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Body, Graph, Node, Opsets, Shape, TypeInfo};
use tenon_runtime::session::{Given, Session};
use tenon_runtime::tensor::{Tensor, Value};

use crate::{environment, options};

fn opsets() -> Arc<Opsets> {
    Arc::new([("".into(), 21)].into_iter().collect())
}

fn float(dims: &[usize]) -> Option<TypeInfo> {
    Some(TypeInfo::tensor(DType::F32, Shape::known(dims)))
}

fn node(op_type: &str) -> Node {
    Node::new("", op_type, 21).with_name(op_type)
}

/// `for i in 0..trips { x = x * w + x; y_i = x }` with `w` captured from outside; returns the last x and all y.
fn loop_graph() -> Graph {
    let mut graph = Graph::new("outer", opsets());
    let trips = graph.add_input("trips", Some(TypeInfo::tensor(DType::I64, Shape::scalar()))).unwrap();
    let start = graph.add_input("start", float(&[4])).unwrap();
    let weight = graph.add_input("weight", float(&[4])).unwrap();
    let (_, scaled) = graph.append(node("Tanh"), &[Some(weight)], 1).unwrap();
    let mut body = Graph::new("body", opsets());
    body.add_input("i", Some(TypeInfo::tensor(DType::I64, Shape::scalar()))).unwrap();
    let going = body.add_input("going", Some(TypeInfo::tensor(DType::Bool, Shape::scalar()))).unwrap();
    let x = body.add_input("x", float(&[4])).unwrap();
    let w = body.add_input("w", float(&[4])).unwrap();
    let (_, product) = body.append(node("Mul"), &[Some(x), Some(w)], 1).unwrap();
    let (_, sum) = body.append(node("Add"), &[Some(product[0]), Some(x)], 1).unwrap();
    let (_, squashed) = body.append(node("Sin"), &[Some(sum[0])], 1).unwrap();
    let (_, still) = body.append(node("Identity"), &[Some(going)], 1).unwrap();
    body.add_output("still", still[0], None);
    body.add_output("next", squashed[0], None);
    body.add_output("entry", sum[0], None);
    let repeat = node("Loop").with_body(Body::new("body", body, vec![scaled[0]]));
    let (_, results) = graph.append(repeat, &[Some(trips), None, Some(start)], 2).unwrap();
    let (_, last) = graph.append(node("Neg"), &[Some(results[0])], 1).unwrap();
    graph.add_output("last", last[0], None);
    graph.add_output("all", results[1], None);
    graph
}

fn reference(trips: i64, start: &[f32], weight: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mut x: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
    let mut all = Vec::new();
    for _ in 0..trips {
        for (x, &w) in x.iter_mut().zip(weight) {
            let sum = *x * f64::from(w).tanh() + *x;
            all.push(sum);
            *x = sum.sin();
        }
    }
    (x.iter().map(|v| -v).collect(), all)
}

#[test]
fn loops_with_captures_agree_with_the_arithmetic_wherever_their_nodes_run() {
    let environment = environment();
    let (start, weight) = ([0.3f32, -0.7, 1.1, 0.05], [0.9f32, -0.2, 0.4, 2.0]);
    for seed in 0..8 {
        let options = options(&[format!("scattered,seed={seed}"), "cpu".into()]);
        let session = Session::from_graph(&environment, loop_graph(), &options).unwrap();
        for trips in [0i64, 1, 7] {
            let inputs = [
                ("trips", Value::from(Tensor::scalar(trips))),
                ("start", Tensor::from_slice(&[4], &start).unwrap().into()),
                ("weight", Tensor::from_slice(&[4], &weight).unwrap().into()),
            ];
            let outputs = session.run(&inputs).unwrap();
            let (last, all) = reference(trips, &start, &weight);
            assert_eq!(outputs[1].as_tensor().unwrap().dims(), [trips as usize, 4]);
            close(&outputs[0], &last);
            close(&outputs[1], &all);
        }
    }
}

fn close(value: &Value, expected: &[f64]) {
    let got = value.as_tensor().unwrap().to_f64_vec().unwrap();
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-5, "got {got}, expected {expected}");
    }
}

#[test]
fn a_branch_sees_the_values_of_the_outer_graph() {
    let mut graph = Graph::new("outer", opsets());
    let flag = graph.add_input("flag", Some(TypeInfo::tensor(DType::Bool, Shape::scalar()))).unwrap();
    let x = graph.add_input("x", float(&[3])).unwrap();
    let (_, doubled) = graph.append(node("Add"), &[Some(x), Some(x)], 1).unwrap();
    let branch = |op: &str| {
        let mut body = Graph::new(op, opsets());
        let captured = body.add_input("captured", float(&[3])).unwrap();
        let (_, result) = body.append(node(op), &[Some(captured)], 1).unwrap();
        body.add_output("result", result[0], None);
        body
    };
    let choice = node("If")
        .with_body(Body::new("then_branch", branch("Neg"), vec![doubled[0]]))
        .with_body(Body::new("else_branch", branch("Abs"), vec![doubled[0]]));
    let (_, chosen) = graph.append(choice, &[Some(flag)], 1).unwrap();
    graph.add_output("chosen", chosen[0], None);
    let environment = environment();
    for seed in 0..4 {
        let options = options(&[format!("scattered,seed={seed}"), "cpu".into()]);
        let session = Session::from_graph(&environment, graph.clone(), &options).unwrap();
        for (flag, expected) in [(true, [-2.0, 4.0, -6.0]), (false, [2.0, 4.0, 6.0])] {
            let x = Tensor::from_slice(&[3], &[1.0f32, -2.0, 3.0]).unwrap();
            let flag = Tensor::from_bools(&[], &[flag]).unwrap();
            let outputs = session.run(&[("flag", flag.into()), ("x", x.into())]).unwrap();
            close(&outputs[0], &expected);
        }
    }
}

#[test]
fn a_nested_graph_of_an_unknown_operator_is_declined_with_the_reason() {
    let mut body = Graph::new("body", opsets());
    let x = body.add_input("x", float(&[4])).unwrap();
    let (_, y) = body.append(node("Neg"), &[Some(x)], 1).unwrap();
    body.add_output("y", y[0], None);
    let mut graph =
        Graph::new("outer", Arc::new([("".into(), 21), ("custom".into(), 1)].into_iter().collect()));
    let x = graph.add_input("x", float(&[4])).unwrap();
    let mystery =
        Node::new("custom", "Mystery", 1).with_name("mystery").with_body(Body::new("body", body, vec![]));
    let (_, results) = graph.append(mystery, &[Some(x)], 1).unwrap();
    graph.add_output("y", results[0], None);
    let error = match Session::from_graph(&environment(), graph, &options(&["cpu".into()])) {
        Ok(_) => panic!("no provider can take the node"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("mystery") && error.contains("graph attributes"), "{error}");
}

#[test]
fn inputs_with_defaults_are_constants_until_a_run_gives_them() {
    let environment = environment();
    let mut graph = Graph::new("defaults", opsets());
    let scale = graph.add_input("scale", float(&[2])).unwrap();
    let x = graph.add_input("x", float(&[2])).unwrap();
    let shift = graph.add_input("shift", float(&[2])).unwrap();
    let (_, squared) = graph.append(node("Mul"), &[Some(scale), Some(scale)], 1).unwrap();
    let (_, scaled) = graph.append(node("Mul"), &[Some(x), Some(squared[0])], 1).unwrap();
    let (_, shifted) = graph.append(node("Add"), &[Some(scaled[0]), Some(shift)], 1).unwrap();
    graph.add_output("y", shifted[0], None);
    let pair = |values: [f32; 2]| Tensor::from_slice(&[2], &values).unwrap();
    graph.set_default(scale, Some(pair([2.0, 3.0])));
    graph.set_default(shift, Some(pair([0.5, 0.25])));
    for providers in [&["cpu".to_string()][..], &["scattered,seed=5".into(), "cpu".into()]] {
        let session = Session::from_graph(&environment, graph.clone(), &options(providers)).unwrap();
        assert_eq!(session.optimized_graph().node_count(), 2, "the square is folded");
        let optional: Vec<bool> = session.inputs().iter().map(|spec| spec.optional).collect();
        assert_eq!(optional, [true, false, true]);
        let run = |inputs: &[(&str, [f32; 2])]| {
            let inputs: Vec<(&str, Value)> =
                inputs.iter().map(|&(name, values)| (name, Value::from(pair(values)))).collect();
            session.run(&inputs).unwrap()[0].as_tensor().unwrap().to_vec::<f32>().unwrap()
        };
        let x = ("x", [1.0, -2.0]);
        for _ in 0..2 {
            assert_eq!(run(&[x]), [4.5, -17.75]);
            assert_eq!(run(&[x, ("scale", [1.0, 0.5])]), [1.5, -0.25]);
            assert_eq!(run(&[("shift", [0.0, 1.0]), x]), [4.0, -17.0]);
        }
        assert!(session.run(&[("scale", Value::from(pair([1.0, 1.0])))]).is_err(), "x is missing");
    }
}

#[test]
fn bound_runs_take_defaults_or_what_they_are_bound_to() {
    let environment = environment();
    let mut graph = Graph::new("defaults", opsets());
    let scale = graph.add_input("scale", float(&[2])).unwrap();
    let x = graph.add_input("x", float(&[2])).unwrap();
    let shift = graph.add_input("shift", float(&[2])).unwrap();
    let (_, scaled) = graph.append(node("Mul"), &[Some(x), Some(scale)], 1).unwrap();
    let (_, shifted) = graph.append(node("Add"), &[Some(scaled[0]), Some(shift)], 1).unwrap();
    graph.add_output("y", shifted[0], None);
    let pair = |values: [f32; 2]| Tensor::from_slice(&[2], &values).unwrap();
    graph.set_default(scale, Some(pair([2.0, 3.0])));
    graph.set_default(shift, Some(pair([0.5, 0.25])));
    for providers in [&["cpu".to_string()][..], &["scattered,seed=6".into(), "cpu".into()]] {
        let session = Session::from_graph(&environment, graph.clone(), &options(providers)).unwrap();
        let bound = |inputs: &[(&str, [f32; 2])]| {
            let given = |&(name, values)| (name, Given::Host(Value::from(pair(values))));
            let inputs: Vec<(&str, Given)> = inputs.iter().map(given).collect();
            session.bind(&inputs, &[])
        };
        let x = ("x", [1.0, -2.0]);
        let cases: [(&[_], [f32; 2]); 4] = [
            (&[x], [2.5, -5.75]),
            (&[x, ("scale", [1.0, 0.5])], [1.5, -0.75]),
            (&[("shift", [0.0, 1.0]), x], [2.0, -5.0]),
            (&[("shift", [1.0, 1.0]), ("scale", [0.0, 4.0]), x], [1.0, -7.0]),
        ];
        for (inputs, expected) in cases {
            let mut run = bound(inputs).unwrap();
            for _ in 0..2 {
                run.run().unwrap();
                run.synchronize().unwrap();
                let y = run.output(0).unwrap();
                assert_eq!(y.as_tensor().unwrap().to_vec::<f32>().unwrap(), expected, "{inputs:?}");
            }
        }
        assert!(bound(&[("scale", [1.0, 1.0])]).is_err(), "x is missing");
        assert!(bound(&[x, ("bias", [1.0, 1.0])]).is_err(), "there is no such input");
    }
}
