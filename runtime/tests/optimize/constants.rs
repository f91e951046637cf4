//! What is computed of constants, and what is left in the graph.

use tenon_runtime::error::{Error, Result};
use tenon_runtime::graph::Graph;
use tenon_runtime::optimize::{self, Context, Evaluator};
use tenon_runtime::tensor::Tensor;

use super::{floats, graph, input, ints, only, op, operators, reason};

/// Negates f32 tensors; refuses everything else.
struct Negator;

impl Evaluator for Negator {
    fn evaluate(&self, graph: &Graph) -> Result<Vec<Tensor>> {
        let node = only(graph);
        if !node.is_onnx("Neg") {
            return Err(Error::unsupported("only Neg"));
        }
        assert!(graph.inputs().is_empty() && graph.outputs().len() == 1);
        let x = graph.constant(node.input(0).unwrap()).unwrap();
        let y: Vec<f32> = x.to_vec::<f32>()?.iter().map(|v| -v).collect();
        Ok(vec![Tensor::from_slice(x.dims(), &y)?])
    }
}

#[test]
fn small_constants_fold_and_large_ones_stay() {
    let run = |elements: usize| {
        let mut g = graph(17);
        let x = input(&mut g, "x", "n,1");
        let c = floats(&mut g, &[elements], 1.0);
        let d = op(&mut g, "Neg", &[c], &[]);
        let y = op(&mut g, "Add", &[x, d], &[]);
        g.add_output("y", y, None);
        let context = Context { evaluator: Some(&Negator), weight_limit_bytes: 0, ..Context::default() };
        let reports = optimize::run(&mut g, &context).unwrap();
        (operators(&g), reason(&reports, "constant folding"))
    };
    assert_eq!(run(4), (vec!["Add".to_owned()], String::new()));
    let (left, why) = run(20_000);
    assert_eq!(left, ["Neg", "Add"]);
    assert_eq!(why, "its inputs have 80000 bytes, more than 65536");
}

#[test]
fn work_on_weights_is_done_once_unless_it_makes_them_larger() {
    let negated = |limit: usize| {
        let mut g = graph(17);
        let (x, w) = (input(&mut g, "x", "n,200"), floats(&mut g, &[200, 200], 1.0));
        let w = op(&mut g, "Neg", &[w], &[]);
        let y = op(&mut g, "MatMul", &[x, w], &[]);
        g.add_output("y", y, None);
        let context = Context { evaluator: Some(&Negator), weight_limit_bytes: limit, ..Context::default() };
        optimize::run(&mut g, &context).unwrap();
        g.check().unwrap();
        operators(&g)
    };
    assert_eq!(negated(160_000), ["MatMul"]);
    assert_eq!(negated(159_999), ["Neg", "MatMul"]);
    let mut g = graph(17);
    let (x, w) = (input(&mut g, "x", "n,200"), floats(&mut g, &[1, 20_000], 1.0));
    let shape = ints(&mut g, &[200, 20_000]);
    let w = op(&mut g, "Expand", &[w, shape], &[]);
    let y = op(&mut g, "MatMul", &[x, w], &[]);
    g.add_output("y", y, None);
    let context = Context { evaluator: Some(&Negator), ..Context::default() };
    let reports = optimize::run(&mut g, &context).unwrap();
    assert_eq!(operators(&g), ["Expand", "MatMul"]);
    assert!(reason(&reports, "work on weights").contains("larger than what it is made of"));
}

#[test]
fn a_refused_node_stays_with_the_reason() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let c = floats(&mut g, &[4], 1.0);
    let d = op(&mut g, "Exp", &[c], &[]);
    let y = op(&mut g, "Add", &[x, d], &[]);
    g.add_output("y", y, None);
    let context = Context { evaluator: Some(&Negator), ..Context::default() };
    optimize::run(&mut g, &context).unwrap();
    assert_eq!(operators(&g), ["Exp", "Add"]);
}
