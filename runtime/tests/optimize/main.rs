//! Rewrites on small graphs built in code: each fires on its pattern and on no near miss.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic")]

mod constants;
mod resize;

use std::collections::BTreeMap;
use std::sync::Arc;

use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Attribute, Body, Dim, Graph, Node, Shape, TypeInfo, ValueId};
use tenon_runtime::optimize::{self, Context, FusionReport};
use tenon_runtime::tensor::Tensor;

fn graph(version: i64) -> Graph {
    Graph::new("test", Arc::new(BTreeMap::from([("".into(), version)])))
}

fn dims(text: &str) -> Shape {
    let dim = |d: &str| d.parse::<usize>().map_or_else(|_| Dim::from(d), Dim::Known);
    text.split(',').filter(|d| !d.is_empty()).map(dim).collect()
}

fn input(g: &mut Graph, name: &str, shape: &str) -> ValueId {
    g.add_input(name, Some(TypeInfo::tensor(DType::F32, dims(shape)))).unwrap()
}

fn floats(g: &mut Graph, dims: &[usize], fill: f32) -> ValueId {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| fill + i as f32 * 0.25).collect();
    g.add_constant("floats", Tensor::from_slice(dims, &values).unwrap())
}

fn scalar(g: &mut Graph, value: f32) -> ValueId {
    g.add_constant("scalar", Tensor::scalar(value))
}

fn ints(g: &mut Graph, values: &[i64]) -> ValueId {
    g.add_constant("ints", Tensor::from_slice(&[values.len()], values).unwrap())
}

type Attributes<'a> = &'a [(&'a str, Attribute)];

fn ops(
    g: &mut Graph,
    op: &str,
    inputs: &[ValueId],
    attributes: Attributes<'_>,
    outputs: usize,
) -> Vec<ValueId> {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    let mut node = Node::new("", op, g.opset("").unwrap()).with_name(op);
    for (name, value) in attributes {
        node.attributes.set(*name, value.clone());
    }
    g.append(node, &inputs, outputs).unwrap().1
}

fn op(g: &mut Graph, name: &str, inputs: &[ValueId], attributes: Attributes<'_>) -> ValueId {
    ops(g, name, inputs, attributes, 1)[0]
}

fn optimize(g: &mut Graph) -> Vec<FusionReport> {
    let reports = optimize::run(g, &Context::default()).unwrap();
    g.check().unwrap();
    reports
}

/// Optimises a graph that returns `y` and lists its operators.
fn operators_after(g: &mut Graph, y: ValueId) -> Vec<String> {
    g.add_output("y", y, None);
    optimize(g);
    operators(g)
}

fn operators(g: &Graph) -> Vec<String> {
    g.topological_order().unwrap().iter().map(|n| g.node(*n).operator()).collect()
}

fn only(g: &Graph) -> &Node {
    let order = g.topological_order().unwrap();
    assert_eq!(order.len(), 1, "{g}");
    g.node(order[0])
}

fn reason(reports: &[FusionReport], rewrite: &str) -> String {
    let report = reports.iter().find(|r| r.rewrite == rewrite && !r.skipped.is_empty());
    report.map_or(String::new(), |r| r.skipped[0].1.clone())
}

#[test]
fn dead_nodes_and_constants_go() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let c = floats(&mut g, &[4], 2.0);
    let dead = op(&mut g, "Mul", &[x, c], &[]);
    op(&mut g, "Exp", &[dead], &[]);
    let y = op(&mut g, "Relu", &[x], &[]);
    assert_eq!(operators_after(&mut g, y), ["Relu"]);
    assert_eq!(g.constant_bytes(), 0);
}

#[test]
fn no_ops_go_but_outputs_stay_distinct() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let a = op(&mut g, "Identity", &[x], &[]);
    let b = op(&mut g, "Cast", &[a], &[("to", 1.into())]);
    let c = op(&mut g, "Transpose", &[b], &[("perm", vec![0, 1].into())]);
    let one = scalar(&mut g, 1.0);
    let d = op(&mut g, "Mul", &[c, one], &[]);
    let e = ops(&mut g, "Dropout", &[d], &[], 2)[0];
    let y = op(&mut g, "Relu", &[e], &[]);
    assert_eq!(operators_after(&mut g, y), ["Relu"]);
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let y = op(&mut g, "Identity", &[x], &[]);
    assert_eq!(operators_after(&mut g, y), ["Identity"]);
}

#[test]
fn what_only_looks_like_a_no_op_stays() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let column = floats(&mut g, &[1, 1, 1], 1.0);
    let y = op(&mut g, "Mul", &[x, column], &[]);
    assert_eq!(operators_after(&mut g, y), ["Mul"], "the constant adds a dimension");
    let mut g = graph(17);
    let x = input(&mut g, "x", "4,4");
    let y = op(&mut g, "Transpose", &[x], &[("perm", vec![1, 0].into())]);
    assert_eq!(operators_after(&mut g, y), ["Transpose"]);
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let y = op(&mut g, "Cast", &[x], &[("to", 10.into())]);
    assert_eq!(operators_after(&mut g, y), ["Cast"]);
}

#[test]
fn transposes_merge_and_cancel() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "a,b,c");
    let t = op(&mut g, "Transpose", &[x], &[("perm", vec![1, 2, 0].into())]);
    let u = op(&mut g, "Transpose", &[t], &[("perm", vec![2, 0, 1].into())]);
    let y = op(&mut g, "Relu", &[u], &[]);
    assert_eq!(operators_after(&mut g, y), ["Relu"]);
    let mut g = graph(17);
    let x = input(&mut g, "x", "a,b,c");
    let t = op(&mut g, "Transpose", &[x], &[("perm", vec![1, 2, 0].into())]);
    let y = op(&mut g, "Transpose", &[t], &[("perm", vec![1, 2, 0].into())]);
    assert_eq!(operators_after(&mut g, y), ["Transpose"]);
    assert_eq!(only(&g).attributes.ints("perm").unwrap(), Some(&[2, 0, 1][..]));
}

#[test]
fn reshape_chains_become_one_with_a_constant_target() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "batch,seq,768");
    let shape = op(&mut g, "Shape", &[x], &[]);
    let (zero, two) = (ints(&mut g, &[0]), ints(&mut g, &[2]));
    let lead = op(&mut g, "Slice", &[shape, zero, two], &[]);
    let heads = ints(&mut g, &[12, 64]);
    let target = op(&mut g, "Concat", &[lead, heads], &[("axis", 0.into())]);
    let a = op(&mut g, "Reshape", &[x, target], &[]);
    let axis = ints(&mut g, &[0]);
    let b = op(&mut g, "Unsqueeze", &[a, axis], &[]);
    let y = op(&mut g, "Squeeze", &[b, axis], &[]);
    assert_eq!(operators_after(&mut g, y), ["Reshape"]);
    let target = g.constant(only(&g).input(1).unwrap()).unwrap().to_i64_vec().unwrap();
    assert_eq!(target, [0, 0, 12, 64]);
    assert_eq!(g.value(g.outputs()[0].value).ty().unwrap().to_string(), "float[batch,seq,12,64]");
}

#[test]
fn two_computed_sizes_keep_their_reshape() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "batch,seq,768");
    let like = input(&mut g, "like", "rows,columns");
    let target = op(&mut g, "Shape", &[like], &[]);
    let y = op(&mut g, "Reshape", &[x, target], &[]);
    g.add_output("y", y, None);
    let reports = optimize(&mut g);
    assert_eq!(operators(&g), ["Shape", "Reshape"]);
    assert!(reason(&reports, "static Reshape").contains("more than one size"));
}

#[test]
fn equal_nodes_are_merged() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let (a, b) = (op(&mut g, "Exp", &[x], &[]), op(&mut g, "Exp", &[x], &[]));
    let (s, t) = (
        op(&mut g, "Softmax", &[a], &[("axis", 0.into())]),
        op(&mut g, "Softmax", &[b], &[("axis", 1.into())]),
    );
    let y = op(&mut g, "Sub", &[s, t], &[]);
    assert_eq!(operators_after(&mut g, y), ["Exp", "Softmax", "Softmax", "Sub"]);
    let mut g = graph(17);
    let noise = |g: &mut Graph| op(g, "RandomNormal", &[], &[("shape", vec![4].into())]);
    let (a, b) = (noise(&mut g), noise(&mut g));
    let y = op(&mut g, "Sub", &[a, b], &[]);
    assert_eq!(operators_after(&mut g, y).len(), 3, "random numbers differ");
}

fn choice(condition: bool) -> (Graph, ValueId) {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let c = g.add_constant("c", Tensor::from_bools(&[], &[condition]).unwrap());
    let branch = |name: &str| {
        let mut inner = graph(17);
        let x = inner.add_input("x", None).unwrap();
        let one = scalar(&mut inner, 3.0);
        let z = op(&mut inner, "Add", &[x, one], &[]);
        let y = op(&mut inner, name, &[z], &[]);
        inner.add_output("y", y, None);
        inner
    };
    let node = Node::new("", "If", 17)
        .with_body(Body::new("then_branch", branch("Exp"), vec![x]))
        .with_body(Body::new("else_branch", branch("Log"), vec![x]));
    let y = g.append(node, &[Some(c)], 1).unwrap().1[0];
    (g, y)
}

#[test]
fn a_known_condition_leaves_its_branch() {
    let (mut g, y) = choice(true);
    assert_eq!(operators_after(&mut g, y), ["Add", "Exp"]);
    let (mut g, y) = choice(false);
    assert_eq!(operators_after(&mut g, y), ["Add", "Log"]);
    assert_eq!(&*g.outputs()[0].name, "y");
}

#[test]
fn bodies_are_optimised_and_lose_unread_captures() {
    let mut g = graph(17);
    let (x, unread) = (input(&mut g, "x", "n,4"), input(&mut g, "unread", "n,4"));
    let c = g.add_input("c", Some(TypeInfo::tensor(DType::Bool, Shape::scalar()))).unwrap();
    let branch = || {
        let mut inner = graph(17);
        let x = inner.add_input("x", None).unwrap();
        let unread = inner.add_input("unread", None).unwrap();
        op(&mut inner, "Exp", &[unread], &[]);
        let a = op(&mut inner, "Identity", &[x], &[]);
        let y = op(&mut inner, "Relu", &[a], &[]);
        inner.add_output("y", y, None);
        inner
    };
    let node = Node::new("", "If", 17)
        .with_body(Body::new("then_branch", branch(), vec![x, unread]))
        .with_body(Body::new("else_branch", branch(), vec![x, unread]));
    let y = g.append(node, &[Some(c)], 1).unwrap().1[0];
    assert_eq!(operators_after(&mut g, y), ["If"]);
    for body in only(&g).bodies() {
        assert_eq!(operators(body.graph()), ["Relu"]);
        assert_eq!(body.captures(), [x]);
    }
}

fn conv(g: &mut Graph) -> (ValueId, ValueId) {
    let x = input(g, "x", "n,3,8,8");
    let w = floats(g, &[4, 3, 3, 3], 0.1);
    (x, op(g, "Conv", &[x, w], &[("pads", vec![1, 1, 1, 1].into())]))
}

#[test]
fn convolution_takes_bias_residual_and_activation() {
    let mut g = graph(17);
    let (_, c) = conv(&mut g);
    let bias = floats(&mut g, &[4, 1, 1], 0.5);
    let b = op(&mut g, "Add", &[c, bias], &[]);
    let r = input(&mut g, "r", "n,4,8,8");
    let a = op(&mut g, "Add", &[r, b], &[]);
    let y = op(&mut g, "Relu", &[a], &[]);
    assert_eq!(operators_after(&mut g, y), ["tenon.FusedConv"]);
    let node = only(&g);
    assert_eq!(node.attributes.string("activation").unwrap(), Some("Relu"));
    assert_eq!(node.attributes.ints("pads").unwrap(), Some(&[1, 1, 1, 1][..]));
    assert_eq!(node.input(3), Some(r));
    assert_eq!(g.constant(node.input(2).unwrap()).unwrap().dims(), [4]);
}

#[test]
fn convolution_keeps_what_others_read_or_what_broadcasts() {
    // The convolution's own result is an output too.
    let mut g = graph(17);
    let (_, c) = conv(&mut g);
    let y = op(&mut g, "Relu", &[c], &[]);
    g.add_output("c", c, None);
    assert_eq!(operators_after(&mut g, y), ["Conv", "Relu"]);
    // Two nodes read it.
    let mut g = graph(17);
    let (_, c) = conv(&mut g);
    let (a, b) = (op(&mut g, "Relu", &[c], &[]), op(&mut g, "Exp", &[c], &[]));
    let y = op(&mut g, "Sub", &[a, b], &[]);
    assert_eq!(operators_after(&mut g, y), ["Conv", "Relu", "Exp", "Sub"]);
    // The sum broadcasts.
    let mut g = graph(17);
    let (_, c) = conv(&mut g);
    let r = input(&mut g, "r", "n,4,1,1");
    let y = op(&mut g, "Add", &[c, r], &[]);
    assert_eq!(operators_after(&mut g, y), ["Conv", "Add"]);
    // The constant has the channels on the wrong axis.
    let mut g = graph(17);
    let (_, c) = conv(&mut g);
    let wrong = floats(&mut g, &[8], 0.5);
    let y = op(&mut g, "Add", &[c, wrong], &[]);
    assert_eq!(operators_after(&mut g, y), ["Conv", "Add"]);
}

#[test]
fn batch_normalization_goes_into_the_weight() {
    let build = |training: i64| {
        let mut g = graph(17);
        let (_, c) = conv(&mut g);
        let parameters: Vec<_> = (0..4).map(|i| floats(&mut g, &[4], 1.0 + i as f32)).collect();
        let all = [&[c], parameters.as_slice()].concat();
        let y = op(&mut g, "BatchNormalization", &all, &[("training_mode", training.into())]);
        let y = op(&mut g, "Relu", &[y], &[]);
        (g, y)
    };
    let (mut g, y) = build(0);
    let left = operators_after(&mut g, y);
    assert_eq!(left.last().map(String::as_str), Some("tenon.FusedConv"));
    assert!(
        !left.contains(&"BatchNormalization".to_owned()) && left.contains(&"Sqrt".to_owned()),
        "{left:?}"
    );
    let (mut g, y) = build(1);
    assert_eq!(operators_after(&mut g, y), ["Conv", "BatchNormalization", "Relu"]);
}

#[test]
fn batch_normalization_takes_what_follows_by_channel() {
    let build = |shape: &[usize]| {
        let mut g = graph(17);
        let x = input(&mut g, "x", "n,4,8,8");
        let parameters: Vec<_> = (0..4).map(|i| floats(&mut g, &[4], 1.0 + i as f32)).collect();
        let all = [&[x], parameters.as_slice()].concat();
        let y = op(&mut g, "BatchNormalization", &all, &[]);
        let (factor, offset) = (floats(&mut g, shape, 2.0), scalar(&mut g, 0.5));
        let y = op(&mut g, "Mul", &[factor, y], &[]);
        let y = op(&mut g, "Add", &[y, offset], &[]);
        let y = op(&mut g, "Relu", &[y], &[]);
        (g, y)
    };
    let (mut g, y) = build(&[4, 1, 1]);
    assert_eq!(operators_after(&mut g, y), ["Mul", "Mul", "Add", "BatchNormalization", "Relu"]);
    let normalization = *g.topological_order().unwrap().iter().rev().nth(1).unwrap();
    let scale = g.node(normalization).input(1).unwrap();
    assert_eq!(g.value(scale).ty().unwrap().shape(), Some(&dims("4")));
    // By column.
    let (mut g, y) = build(&[8]);
    assert_eq!(operators_after(&mut g, y), ["BatchNormalization", "Mul", "Add", "Relu"]);
}

#[test]
fn a_sum_of_two_is_an_add() {
    let mut g = graph(17);
    let (x, z) = (input(&mut g, "x", "n,4"), input(&mut g, "z", "4"));
    let two = op(&mut g, "Sum", &[x, z], &[]);
    let y = op(&mut g, "Sum", &[two, x, z], &[]);
    assert_eq!(operators_after(&mut g, y), ["Add", "Sum"]);
}

#[test]
fn product_takes_factor_bias_residual_and_activation() {
    let mut g = graph(17);
    let (x, w) = (input(&mut g, "x", "n,s,8"), floats(&mut g, &[8, 4], 0.1));
    let m = op(&mut g, "MatMul", &[x, w], &[]);
    let eight = scalar(&mut g, 8.0);
    let m = op(&mut g, "Div", &[m, eight], &[]);
    let bias = floats(&mut g, &[4], 0.5);
    let b = op(&mut g, "Add", &[bias, m], &[]);
    let r = input(&mut g, "r", "n,s,4");
    let a = op(&mut g, "Add", &[b, r], &[]);
    let y = op(&mut g, "Tanh", &[a], &[]);
    assert_eq!(operators_after(&mut g, y), ["tenon.FusedMatMul"]);
    let node = only(&g);
    assert_eq!(node.float_or("alpha", 1.0).unwrap(), 0.125);
    assert_eq!(node.string_or("activation", "").unwrap(), "Tanh");
    assert_eq!((node.input(2), node.input(3)), (Some(bias), Some(r)));
}

#[test]
fn product_reads_a_transposed_operand_as_it_is() {
    let mut g = graph(17);
    let (q, k) = (input(&mut g, "q", "n,4,s,8"), input(&mut g, "k", "n,4,t,8"));
    let t = op(&mut g, "Transpose", &[k], &[("perm", vec![0, 1, 3, 2].into())]);
    let y = op(&mut g, "MatMul", &[q, t], &[]);
    assert_eq!(operators_after(&mut g, y), ["tenon.FusedMatMul"]);
    assert!(only(&g).attributes.flag("transB", false).unwrap());
    let mut g = graph(17);
    let (q, k) = (input(&mut g, "q", "n,4,s,8"), input(&mut g, "k", "n,8,4,t"));
    let t = op(&mut g, "Transpose", &[k], &[("perm", vec![0, 2, 1, 3].into())]);
    let y = op(&mut g, "MatMul", &[q, t], &[]);
    assert_eq!(operators_after(&mut g, y), ["Transpose", "MatMul"]);
}

#[test]
fn product_keeps_a_sum_that_enlarges_it() {
    let mut g = graph(17);
    let (x, w) = (input(&mut g, "x", "1,8"), floats(&mut g, &[8, 4], 0.1));
    let m = op(&mut g, "MatMul", &[x, w], &[]);
    let r = input(&mut g, "r", "n,4");
    let y = op(&mut g, "Add", &[m, r], &[]);
    assert_eq!(operators_after(&mut g, y), ["MatMul", "Add"]);
    let mut g = graph(17);
    let (x, w) = (input(&mut g, "x", "n,8"), floats(&mut g, &[8, 4], 0.1));
    let bias = floats(&mut g, &[4], 0.5);
    let m = op(&mut g, "Gemm", &[x, w, bias], &[("beta", 0.5f32.into())]);
    let y = op(&mut g, "Relu", &[m], &[]);
    assert_eq!(operators_after(&mut g, y), ["Gemm", "Relu"]);
}

/// `x / 2 * (1 + Erf(x / root))` with the sum read elsewhere where `shared` says so.
fn gelu(root: f32, shared: bool) -> (Graph, ValueId) {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let (root, one, half) = (scalar(&mut g, root), scalar(&mut g, 1.0), scalar(&mut g, 0.5));
    let d = op(&mut g, "Div", &[x, root], &[]);
    let e = op(&mut g, "Erf", &[d], &[]);
    let s = op(&mut g, "Add", &[e, one], &[]);
    let m = op(&mut g, "Mul", &[x, s], &[]);
    if shared {
        g.add_output("s", s, None);
    }
    let y = op(&mut g, "Mul", &[m, half], &[]);
    (g, y)
}

#[test]
fn gelu_is_found_in_both_forms() {
    let (mut g, y) = gelu(std::f32::consts::SQRT_2, false);
    assert_eq!(operators_after(&mut g, y), ["Gelu"]);
    assert_eq!(only(&g).version, 20);
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let [three, cubic, root, one, half] = [3.0, 0.044715, 0.797_884_6, 1.0, 0.5].map(|v| scalar(&mut g, v));
    let cube = op(&mut g, "Pow", &[x, three], &[]);
    let c = op(&mut g, "Mul", &[cubic, cube], &[]);
    let sum = op(&mut g, "Add", &[x, c], &[]);
    let scaled = op(&mut g, "Mul", &[sum, root], &[]);
    let t = op(&mut g, "Tanh", &[scaled], &[]);
    let u = op(&mut g, "Add", &[one, t], &[]);
    let h = op(&mut g, "Mul", &[x, half], &[]);
    let y = op(&mut g, "Mul", &[h, u], &[]);
    assert_eq!(operators_after(&mut g, y), ["Gelu"]);
    assert_eq!(only(&g).string_or("approximate", "").unwrap(), "tanh");
}

#[test]
fn gelu_near_misses_stay() {
    let (mut g, y) = gelu(1.5, false);
    assert_eq!(operators_after(&mut g, y).len(), 5);
    let (mut g, y) = gelu(std::f32::consts::SQRT_2, true);
    assert_eq!(operators_after(&mut g, y).len(), 5);
}

#[test]
fn swish_and_hard_swish_are_found() {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let s = op(&mut g, "Sigmoid", &[x], &[]);
    let y = op(&mut g, "Mul", &[s, x], &[]);
    assert_eq!(operators_after(&mut g, y), ["Swish"]);
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,4");
    let [three, zero, six] = [3.0, 0.0, 6.0].map(|v| scalar(&mut g, v));
    let a = op(&mut g, "Add", &[x, three], &[]);
    let c = op(&mut g, "Clip", &[a, zero, six], &[]);
    let m = op(&mut g, "Mul", &[x, c], &[]);
    let y = op(&mut g, "Div", &[m, six], &[]);
    assert_eq!(operators_after(&mut g, y), ["HardSwish"]);
    // The gate of another value is no Swish.
    let mut g = graph(17);
    let (x, z) = (input(&mut g, "x", "n,4"), input(&mut g, "z", "n,4"));
    let s = op(&mut g, "Sigmoid", &[z], &[]);
    let y = op(&mut g, "Mul", &[s, x], &[]);
    assert_eq!(operators_after(&mut g, y), ["Sigmoid", "Mul"]);
}

/// A layer normalisation of `[n, 16]` over `axis`, without centring where `rms`.
fn norm(axis: i64, rms: bool) -> (Graph, ValueId, ValueId) {
    let mut g = graph(17);
    let x = input(&mut g, "x", "n,16");
    let axes = [("axes", vec![axis].into())];
    let d = if rms {
        x
    } else {
        let mean = op(&mut g, "ReduceMean", &[x], &axes);
        op(&mut g, "Sub", &[x, mean], &[])
    };
    let (two, epsilon) = (scalar(&mut g, 2.0), scalar(&mut g, 1e-5));
    let square = op(&mut g, "Pow", &[d, two], &[]);
    let variance = op(&mut g, "ReduceMean", &[square], &axes);
    let sum = op(&mut g, "Add", &[variance, epsilon], &[]);
    let root = op(&mut g, "Sqrt", &[sum], &[]);
    let q = op(&mut g, "Div", &[d, root], &[]);
    let (scale, bias) = (floats(&mut g, &[16], 1.0), floats(&mut g, &[16], 0.0));
    let s = op(&mut g, "Mul", &[q, scale], &[]);
    let y = if rms { s } else { op(&mut g, "Add", &[s, bias], &[]) };
    (g, y, d)
}

#[test]
fn normalisations_are_found() {
    let (mut g, y, _) = norm(-1, false);
    assert_eq!(operators_after(&mut g, y), ["LayerNormalization"]);
    assert_eq!(only(&g).inputs().len(), 3);
    assert!((only(&g).float_or("epsilon", 0.0).unwrap() - 1e-5).abs() < 1e-9);
    let (mut g, y, _) = norm(1, true);
    assert_eq!(operators_after(&mut g, y), ["RMSNormalization"]);
    assert_eq!(only(&g).version, 23);
}

#[test]
fn normalisation_near_misses_stay() {
    let (mut g, y, _) = norm(0, false);
    assert_eq!(operators_after(&mut g, y).len(), 9, "the axis is not the last");
    let (mut g, y, difference) = norm(-1, false);
    g.add_output("d", difference, None);
    let reports = {
        g.add_output("y", y, None);
        optimize(&mut g)
    };
    assert!(!operators(&g).contains(&"LayerNormalization".to_owned()));
    assert_eq!(reason(&reports, "LayerNormalization"), "");
    assert!(operators(&g).contains(&"RMSNormalization".to_owned()), "of the difference, which stays");
}

/// Attention over `[n, 4, s, 8]` with a mask of `mask` shape and the softmax over `axis`.
fn attention(mask: &str, axis: i64) -> (Graph, ValueId) {
    let mut g = graph(17);
    let (q, k, v) =
        (input(&mut g, "q", "n,4,s,8"), input(&mut g, "k", "n,4,t,8"), input(&mut g, "v", "n,4,t,8"));
    let kt = op(&mut g, "Transpose", &[k], &[("perm", vec![0, 1, 3, 2].into())]);
    let product = op(&mut g, "MatMul", &[q, kt], &[]);
    let root = scalar(&mut g, 4.0);
    let mut scores = op(&mut g, "Div", &[product, root], &[]);
    if !mask.is_empty() {
        let m = input(&mut g, "m", mask);
        scores = op(&mut g, "Add", &[scores, m], &[]);
    }
    let p = op(&mut g, "Softmax", &[scores], &[("axis", axis.into())]);
    let y = op(&mut g, "MatMul", &[p, v], &[]);
    (g, y)
}

#[test]
fn attention_is_found() {
    for mask in ["", "n,1,s,t", "s,t", "1,1,s,total"] {
        let (mut g, y) = attention(mask, -1);
        assert_eq!(operators_after(&mut g, y), ["Attention"], "{mask}");
        let node = only(&g);
        assert_eq!(node.float_or("scale", 1.0).unwrap(), 0.25);
        assert_eq!(node.inputs().len(), if mask.is_empty() { 3 } else { 4 });
        assert_eq!(g.value(g.outputs()[0].value).ty().unwrap().to_string(), "float[n,4,s,8]");
    }
}

#[test]
fn attention_near_misses_stay() {
    let (mut g, y) = attention("", 2);
    g.add_output("y", y, None);
    let reports = optimize(&mut g);
    assert!(reason(&reports, "Attention").contains("axis 2"));
    let (mut g, y) = attention("batch,1,s,t", -1);
    g.add_output("y", y, None);
    let reports = optimize(&mut g);
    assert!(reason(&reports, "Attention").contains("does not fit scores"), "the mask may enlarge the scores");
    assert!(!operators(&g).contains(&"Attention".to_owned()));
}

#[test]
fn attention_reads_grouped_heads_once() {
    let mut g = graph(17);
    let (q, k, v) =
        (input(&mut g, "q", "n,4,s,8"), input(&mut g, "k", "n,2,t,8"), input(&mut g, "v", "n,2,t,8"));
    let repeat = |g: &mut Graph, x: ValueId| {
        let axis = ints(g, &[2]);
        let u = op(g, "Unsqueeze", &[x, axis], &[]);
        let twice = ints(g, &[1, 1, 2, 1, 1]);
        let e = op(g, "Expand", &[u, twice], &[]);
        let merged = ints(g, &[0, 4, -1, 8]);
        op(g, "Reshape", &[e, merged], &[])
    };
    let (kr, vr) = (repeat(&mut g, k), repeat(&mut g, v));
    let kt = op(&mut g, "Transpose", &[kr], &[("perm", vec![0, 1, 3, 2].into())]);
    let scores = op(&mut g, "MatMul", &[q, kt], &[]);
    let p = op(&mut g, "Softmax", &[scores], &[("axis", (-1).into())]);
    let y = op(&mut g, "MatMul", &[p, vr], &[]);
    assert_eq!(operators_after(&mut g, y), ["Attention"]);
    assert_eq!(only(&g).inputs(), [Some(q), Some(k), Some(v)]);
}

/// `x * cos + rotate_half(x) * sin` for `[n, 4, s, 8]`; the halves change place where `swapped`.
fn rotary(swapped: bool) -> (Graph, ValueId) {
    let mut g = graph(17);
    let (x, f) = (input(&mut g, "x", "n,4,s,8"), input(&mut g, "f", "n,s,4"));
    let both = op(&mut g, "Concat", &[f, f], &[("axis", (-1).into())]);
    let heads = ints(&mut g, &[1]);
    let [cos, sin] = ["Cos", "Sin"].map(|function| {
        let table = op(&mut g, function, &[both], &[]);
        op(&mut g, "Unsqueeze", &[table, heads], &[])
    });
    let [zero, four, end, last] = [0, 4, i64::MAX, 3].map(|v| ints(&mut g, &[v]));
    let first = op(&mut g, "Slice", &[x, zero, four, last], &[]);
    let second = op(&mut g, "Slice", &[x, four, end, last], &[]);
    let (first, second) = if swapped { (second, first) } else { (first, second) };
    let negated = op(&mut g, "Neg", &[second], &[]);
    let rotated = op(&mut g, "Concat", &[negated, first], &[("axis", 3.into())]);
    let (a, b) = (op(&mut g, "Mul", &[x, cos], &[]), op(&mut g, "Mul", &[rotated, sin], &[]));
    let y = op(&mut g, "Add", &[a, b], &[]);
    (g, y)
}

#[test]
fn rotary_embedding_is_found() {
    let (mut g, y) = rotary(false);
    assert_eq!(operators_after(&mut g, y), ["Cos", "Sin", "RotaryEmbedding"]);
    let (mut g, y) = rotary(true);
    assert!(!operators_after(&mut g, y).contains(&"RotaryEmbedding".to_owned()));
}

#[test]
fn internal_operators_expand_to_standard_ones() {
    let mut g = graph(17);
    let (x, w) = (input(&mut g, "x", "n,8"), input(&mut g, "w", "4,8"));
    let t = op(&mut g, "Transpose", &[w], &[("perm", vec![1, 0].into())]);
    let m = op(&mut g, "MatMul", &[x, t], &[]);
    let bias = floats(&mut g, &[4], 0.5);
    let b = op(&mut g, "Add", &[m, bias], &[]);
    let [zero, six] = [0.0, 6.0].map(|v| scalar(&mut g, v));
    let y = op(&mut g, "Clip", &[b, zero, six], &[]);
    assert_eq!(operators_after(&mut g, y), ["tenon.FusedMatMul"]);
    let id = g.topological_order().unwrap()[0];
    let body = optimize::body(&g, id).unwrap();
    body.check().unwrap();
    assert_eq!(body.inputs().len(), 3);
    assert_eq!(operators(&body), ["Transpose", "MatMul", "Add", "Clip"]);
    assert!(optimize::expand(&mut g, id).unwrap());
    g.check().unwrap();
    assert_eq!(operators(&g), ["Transpose", "MatMul", "Add", "Clip"]);
    assert_eq!(g.value(g.outputs()[0].value).ty().unwrap().to_string(), "float[n,4]");
    let standard = g.topological_order().unwrap()[0];
    assert!(optimize::body(&g, standard).is_none());
}

#[test]
fn a_fused_convolution_expands_with_every_activation() {
    for activation in
        ["", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Silu", "Gelu"]
    {
        let mut g = graph(20);
        let (x, w) = (input(&mut g, "x", "n,3,8,8"), floats(&mut g, &[4, 3, 1, 1], 0.1));
        let r = input(&mut g, "r", "n,4,8,8");
        let node = Node::new(optimize::DOMAIN, "FusedConv", 1)
            .with_attribute("activation", activation)
            .with_attribute("strides", vec![1, 1]);
        let (id, y) = g.append(node, &[Some(x), Some(w), None, Some(r)], 1).unwrap();
        g.add_output("y", y[0], None);
        let body = optimize::body(&g, id).unwrap();
        body.check().unwrap();
        assert_eq!(body.inputs().len(), 3);
        assert_eq!(operators(&body)[..2], ["Conv", "Add"]);
        assert!(optimize::expand(&mut g, id).unwrap());
        tenon_runtime::shape::infer(&mut g, &Default::default()).unwrap();
        assert_eq!(g.value(g.outputs()[0].value).ty().unwrap().to_string(), "float[n,4,8,8]", "{activation}");
    }
}

#[test]
fn without_fusion_only_standard_operators_of_the_model_are_left() {
    let (mut g, y) = attention("", -1);
    g.add_output("y", y, None);
    let context = Context { fuse: false, ..Context::default() };
    optimize::run(&mut g, &context).unwrap();
    assert_eq!(operators(&g), ["Transpose", "MatMul", "Div", "Softmax", "MatMul"]);
}

/// A tensor of bytes that is given at run time.
fn codes(g: &mut Graph, name: &str, dtype: DType, shape: &str) -> ValueId {
    g.add_input(name, Some(TypeInfo::tensor(dtype, dims(shape)))).unwrap()
}

#[test]
fn products_take_dequantised_operands_in() {
    let mut g = graph(21);
    let float8 = DType::F8E4M3FN;
    let (x, w) = (codes(&mut g, "x", float8, "n,8"), codes(&mut g, "w", float8, "8,4"));
    let (a, b) = (scalar(&mut g, 0.5), floats(&mut g, &[4], 0.25));
    let left = op(&mut g, "DequantizeLinear", &[x, a], &[]);
    let right = op(&mut g, "DequantizeLinear", &[w, b], &[("axis", 1.into())]);
    let m = op(&mut g, "MatMul", &[left, right], &[]);
    let y = op(&mut g, "Relu", &[m], &[]);
    assert_eq!(operators_after(&mut g, y), ["tenon.QuantizedMatMul"]);
    let node = only(&g);
    assert_eq!(node.inputs(), [Some(x), Some(w), None, None, Some(a), None, Some(b), None]);
    assert_eq!(node.string_or("activation", "").unwrap(), "Relu");
    assert_eq!(g.value(g.outputs()[0].value).ty().unwrap().to_string(), "float[n,4]");
    let id = g.topological_order().unwrap()[0];
    assert!(optimize::expand(&mut g, id).unwrap());
    g.check().unwrap();
    let expanded = ["DequantizeLinear", "DequantizeLinear", "tenon.FusedMatMul"];
    assert_eq!(operators(&g), expanded);
}

#[test]
fn weights_of_few_bits_go_into_products_of_floats() {
    let build = |dtype: DType, is_constant: bool| {
        let mut g = graph(21);
        let x = input(&mut g, "x", "n,8");
        let w = match is_constant {
            true => {
                let bytes = vec![7; dtype.byte_len(32).unwrap()];
                g.add_constant("w", Tensor::from_bytes(dtype, &[8, 4], bytes.into()).unwrap())
            }
            false => codes(&mut g, "w", dtype, "8,4"),
        };
        let s = floats(&mut g, &[2, 4], 0.25);
        let attributes = [("axis", 0.into()), ("block_size", 4.into())];
        let right = op(&mut g, "DequantizeLinear", &[w, s], &attributes);
        let y = op(&mut g, "MatMul", &[x, right], &[]);
        operators_after(&mut g, y)
    };
    assert_eq!(build(DType::I4, true), ["tenon.QuantizedMatMul"]);
    assert_eq!(build(DType::I8, false), ["DequantizeLinear", "MatMul"]);
    assert_eq!(build(DType::F8E5M2, true), ["DequantizeLinear", "MatMul"]);
}

#[test]
fn products_take_in_codes_with_blocks_that_are_powers_of_two() {
    let build = |left: DType, right: DType, block: i64| {
        let mut g = graph(25);
        let (x, w) = (codes(&mut g, "x", left, "n,64"), codes(&mut g, "w", right, "4,64"));
        let (a, b) = (codes(&mut g, "a", DType::F8E8M0, "n,2"), codes(&mut g, "b", DType::F8E8M0, "4,2"));
        let attributes = [("axis", 1.into()), ("block_size", block.into()), ("output_dtype", 1.into())];
        let (x, w) = (
            op(&mut g, "DequantizeLinear", &[x, a], &attributes),
            op(&mut g, "DequantizeLinear", &[w, b], &attributes),
        );
        let y = op(&mut g, "Gemm", &[x, w], &[("transB", 1.into())]);
        (operators_after(&mut g, y), g)
    };
    for dtype in [DType::F4E2M1, DType::F8E4M3FN] {
        let (operators, mut g) = build(dtype, dtype, 32);
        assert_eq!(operators, ["tenon.QuantizedMatMul"]);
        let id = g.topological_order().unwrap()[0];
        assert!(optimize::expand(&mut g, id).unwrap());
        g.check().unwrap();
        assert_eq!(g.value(g.outputs()[0].value).ty().unwrap().to_string(), "float[n,4]");
    }
    let kept = ["DequantizeLinear", "DequantizeLinear", "Gemm"];
    assert_eq!(build(DType::F4E2M1, DType::F8E4M3FN, 32).0, kept);
    assert_eq!(build(DType::F4E2M1, DType::F4E2M1, 64).0, kept);
}
