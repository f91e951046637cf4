//! Gradient beside central differences: every operator that can be differentiated, alone, and in chains.

use std::sync::Arc;

use tenon_runtime::dtype::DType;
use tenon_runtime::error::Result;
use tenon_runtime::graph::{Attribute, Graph, Node, Opsets, Shape, TypeInfo, ValueId};
use tenon_runtime::session::{Session, SessionOptions};
use tenon_runtime::tensor::{Tensor, Value};

use crate::{environment, options};

const OPSET: i64 = 21;
const STEP: f64 = 1e-5;

/// A function of inputs of type float64 whose elements lie between 0.2 and 1.3, no two alike.
struct Function {
    name: &'static str,
    inputs: &'static [&'static [usize]],
    build: fn(&mut Graph, &[ValueId]) -> ValueId,
}

fn opsets() -> Arc<Opsets> {
    Arc::new([("".into(), OPSET), ("ai.onnx.preview.training".into(), 1)].into_iter().collect())
}

fn with(g: &mut Graph, op: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
    let mut node = Node::new("", op, OPSET).with_name(op);
    attributes.iter().for_each(|(name, value)| node.attributes.set(*name, value.clone()));
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    g.append(node, &inputs, 1).unwrap().1[0]
}

fn op(g: &mut Graph, op: &str, inputs: &[ValueId]) -> ValueId {
    with(g, op, inputs, &[])
}

fn ints(g: &mut Graph, values: &[i64]) -> ValueId {
    g.add_constant("ints", Tensor::from_slice(&[values.len()], values).unwrap())
}

fn contents(dims: &[usize], salt: usize) -> Tensor {
    let count: usize = dims.iter().product();
    let value = |i: usize| 0.2 + ((i * 37 + salt * 11 + 5) % 101) as f64 / 92.0 + i as f64 * 1e-4;
    Tensor::from_slice(dims, &(0..count).map(value).collect::<Vec<f64>>()).unwrap()
}

/// The graph of `f` whose result, weighted, is summed to `loss`; with the Gradient of `loss` by every input if wanted.
fn graph(f: &Function, gradient: bool) -> Graph {
    let mut g = Graph::new("function", opsets());
    let inputs: Vec<ValueId> = (0..f.inputs.len())
        .map(|i| {
            let ty = TypeInfo::tensor(DType::F64, Shape::known(f.inputs[i]));
            g.add_input(&format!("x{i}"), Some(ty)).unwrap()
        })
        .collect();
    let y = (f.build)(&mut g, &inputs);
    let positions = {
        let (first, step) =
            (g.add_constant("first", Tensor::scalar(0i64)), g.add_constant("step", Tensor::scalar(1i64)));
        let size = op(&mut g, "Size", &[y]);
        let range = op(&mut g, "Range", &[first, size, step]);
        let shape = op(&mut g, "Shape", &[y]);
        let range = with(&mut g, "Reshape", &[range, shape], &[("allowzero", 1i64.into())]);
        with(&mut g, "Cast", &[range], &[("to", 11i64.into())])
    };
    let weights = op(&mut g, "Cos", &[positions]);
    let weighted = op(&mut g, "Mul", &[y, weights]);
    let loss = with(&mut g, "ReduceSum", &[weighted], &[("keepdims", 0i64.into())]);
    g.rename_value(loss, "loss").unwrap();
    g.add_output("loss", loss, None);
    if gradient {
        let names: Vec<String> = (0..f.inputs.len()).map(|i| format!("x{i}")).collect();
        add_gradient(&mut g, &names, "loss", &inputs);
    }
    g
}

fn add_gradient(g: &mut Graph, names: &[String], y: &str, points: &[ValueId]) -> Vec<ValueId> {
    let node = Node::new("ai.onnx.preview.training", "Gradient", 1)
        .with_name("gradient")
        .with_attribute("xs", Attribute::Strings(names.iter().map(|n| n.as_str().into()).collect()))
        .with_attribute("y", y);
    let inputs: Vec<_> = points.iter().copied().map(Some).collect();
    let outputs = g.append(node, &inputs, names.len()).unwrap().1;
    for (value, name) in outputs.iter().zip(names) {
        g.add_output(format!("by_{name}"), *value, None);
    }
    outputs
}

fn session(graph: Graph) -> Result<Session> {
    let options = SessionOptions { optimize: true, ..options(&["cpu".into()]) };
    Session::from_graph(&environment(), graph, &options)
}

fn run(session: &Session, inputs: &[Tensor]) -> Vec<Tensor> {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let feeds: Vec<(&str, Value)> =
        names.iter().zip(inputs).map(|(name, tensor)| (name.as_str(), Value::from(tensor.clone()))).collect();
    session.run(&feeds).unwrap().into_iter().map(|value| value.into_tensor().unwrap()).collect()
}

fn check(f: &Function) {
    let inputs: Vec<Tensor> = f.inputs.iter().enumerate().map(|(i, dims)| contents(dims, i)).collect();
    let differentiated = session(graph(f, true)).unwrap_or_else(|error| panic!("{}: {error}", f.name));
    let results = run(&differentiated, &inputs);
    let plain = session(graph(f, false)).unwrap();
    for (index, (input, by_input)) in inputs.iter().zip(&results[1..]).enumerate() {
        assert_eq!(by_input.dims(), input.dims(), "{}: input {index}", f.name);
        let slopes = by_input.to_vec::<f64>().unwrap();
        for (element, &slope) in slopes.iter().enumerate() {
            let loss = |step: f64| {
                let mut moved = inputs.clone();
                let mut values = input.to_vec::<f64>().unwrap();
                values[element] += step;
                moved[index] = Tensor::from_slice(input.dims(), &values).unwrap();
                run(&plain, &moved)[0].to_vec::<f64>().unwrap()[0]
            };
            let expected = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            assert!(
                (slope - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                "{}: element {element} of input {index}: got {slope}, central difference {expected}",
                f.name
            );
        }
    }
}

macro_rules! functions {
    ($($name:literal [$($dims:expr),*] |$g:ident, $x:ident| $body:expr;)*) => {
        &[$(Function { name: $name, inputs: &[$(&$dims),*], build: |$g, $x| $body }),*]
    };
}

const ARITHMETIC: &[Function] = functions! {
    "Add of a row" [[2, 3], [3]] |g, x| op(g, "Add", x);
    "Sub of a column" [[2, 1], [2, 3]] |g, x| op(g, "Sub", x);
    "Mul of a scalar" [[], [2, 2]] |g, x| op(g, "Mul", x);
    "Div" [[2, 3], [1, 3]] |g, x| op(g, "Div", x);
    "Pow" [[2, 3], [3]] |g, x| op(g, "Pow", x);
    "Sum" [[2, 3], [3], [1]] |g, x| op(g, "Sum", x);
    "Mean" [[2, 3], [3], [1]] |g, x| op(g, "Mean", x);
    "Max" [[2, 3], [3]] |g, x| op(g, "Max", x);
    "Min" [[2, 3], [3]] |g, x| op(g, "Min", x);
    "a value used twice" [[3]] |g, x| op(g, "Mul", &[x[0], x[0]]);
    "Neg" [[3]] |g, x| op(g, "Neg", x);
    "Exp" [[3]] |g, x| op(g, "Exp", x);
    "Log" [[3]] |g, x| op(g, "Log", x);
    "Sqrt" [[3]] |g, x| op(g, "Sqrt", x);
    "Reciprocal" [[3]] |g, x| op(g, "Reciprocal", x);
    "Abs" [[3]] |g, x| op(g, "Abs", x);
    "Sigmoid" [[3]] |g, x| op(g, "Sigmoid", x);
    "Tanh" [[3]] |g, x| op(g, "Tanh", x);
    "Erf" [[3]] |g, x| op(g, "Erf", x);
    "Softplus" [[3]] |g, x| op(g, "Softplus", x);
    "Sin" [[3]] |g, x| op(g, "Sin", x);
    "Cos" [[3]] |g, x| op(g, "Cos", x);
    "Sinh" [[3]] |g, x| op(g, "Sinh", x);
    "Cosh" [[3]] |g, x| op(g, "Cosh", x);
    "Atan" [[3]] |g, x| op(g, "Atan", x);
    "Relu" [[7]] |g, x| { let s = shifted(g, x[0]); op(g, "Relu", &[s]) };
    "LeakyRelu" [[7]] |g, x| { let s = shifted(g, x[0]); with(g, "LeakyRelu", &[s], &[("alpha", 0.3f32.into())]) };
    "Elu" [[7]] |g, x| { let s = shifted(g, x[0]); with(g, "Elu", &[s], &[("alpha", 0.7f32.into())]) };
    "Clip" [[7]] |g, x| {
        let (low, high) = (g.add_constant("low", Tensor::scalar(0.5f64)), g.add_constant("high", Tensor::scalar(0.9f64)));
        op(g, "Clip", &[x[0], low, high])
    };
    "Where" [[2, 3], [3]] |g, x| {
        let chosen = g.add_constant("chosen", Tensor::from_bools(&[2, 1], &[true, false]).unwrap());
        op(g, "Where", &[chosen, x[0], x[1]])
    };
    "a function of the standard" [[5]] |g, x| with(g, "HardSwish", x, &[]);
    "a function of several nodes" [[2, 3]] |g, x| op(g, "Mish", x);
    "Gelu" [[5]] |g, x| op(g, "Gelu", x);
    "approximate Gelu" [[5]] |g, x| with(g, "Gelu", x, &[("approximate", "tanh".into())]);
    "Softmax" [[2, 3, 2]] |g, x| with(g, "Softmax", x, &[("axis", 1i64.into())]);
    "LogSoftmax" [[2, 3]] |g, x| op(g, "LogSoftmax", x);
};

fn shifted(g: &mut Graph, x: ValueId) -> ValueId {
    let shift = g.add_constant("shift", Tensor::scalar(0.7f64));
    op(g, "Sub", &[x, shift])
}

const LAYOUT: &[Function] = functions! {
    "Reshape" [[2, 3]] |g, x| { let shape = ints(g, &[3, 2]); op(g, "Reshape", &[x[0], shape]) };
    "Transpose" [[2, 3, 4]] |g, x| with(g, "Transpose", x, &[("perm", vec![2i64, 0, 1].into())]);
    "Expand" [[2, 1]] |g, x| { let shape = ints(g, &[3, 2, 4]); op(g, "Expand", &[x[0], shape]) };
    "Concat" [[2, 1], [2, 3]] |g, x| with(g, "Concat", x, &[("axis", (-1i64).into())]);
    "one output of Split" [[5, 2]] |g, x| {
        let sizes = ints(g, &[2, 3]);
        let node = Node::new("", "Split", OPSET).with_name("split").with_attribute("axis", 0i64);
        g.append(node, &[Some(x[0]), Some(sizes)], 2).unwrap().1[1]
    };
    "Slice backwards" [[5, 4]] |g, x| {
        let (start, end, axis, step) = (ints(g, &[-1]), ints(g, &[-6]), ints(g, &[0]), ints(g, &[-2]));
        op(g, "Slice", &[x[0], start, end, axis, step])
    };
    "Gather of a row twice" [[3, 2]] |g, x| { let rows = ints(g, &[2, 0, 2]); op(g, "Gather", &[x[0], rows]) };
    "Tile" [[2, 2]] |g, x| { let repeats = ints(g, &[1, 3]); op(g, "Tile", &[x[0], repeats]) };
    "Squeeze" [[2, 1, 3]] |g, x| { let axes = ints(g, &[1]); op(g, "Squeeze", &[x[0], axes]) };
    "MaxPool" [[1, 2, 5, 4]] |g, x| {
        with(g, "MaxPool", x, &[("kernel_shape", vec![2i64, 2].into()), ("strides", vec![1i64, 2].into())])
    };
};

const LINEAR: &[Function] = functions! {
    "MatMul with a broadcast batch" [[2, 1, 2, 3], [4, 3, 2]] |g, x| op(g, "MatMul", x);
    "MatMul of a vector" [[3], [2, 3, 2]] |g, x| op(g, "MatMul", x);
    "MatMul by a vector" [[2, 2, 3], [3]] |g, x| op(g, "MatMul", x);
    "the dot product" [[3], [3]] |g, x| op(g, "MatMul", x);
    "Gemm" [[3, 2], [4, 3], [4]] |g, x| with(g, "Gemm", x, &[
        ("transA", 1i64.into()), ("transB", 1i64.into()), ("alpha", 0.5f32.into()), ("beta", 2.0f32.into()),
    ]);
    "Conv" [[2, 4, 6, 5], [6, 2, 3, 2], [6]] |g, x| with(g, "Conv", x, &[
        ("group", 2i64.into()), ("strides", vec![2i64, 1].into()), ("dilations", vec![1i64, 2].into()),
        ("pads", vec![1i64, 0, 0, 1].into()),
    ]);
    "LayerNormalization" [[2, 3, 2], [3, 2], [3, 2]] |g, x| {
        with(g, "LayerNormalization", x, &[("axis", 1i64.into()), ("epsilon", 0.01f32.into())])
    };
    "RMSNormalization" [[2, 4], [4]] |g, x| {
        let node = Node::new("", "RMSNormalization", 23).with_name("norm").with_attribute("epsilon", 0.01f32);
        g.append(node, &[Some(x[0]), Some(x[1])], 1).unwrap().1[0]
    };
    "ReduceSum" [[2, 3, 2]] |g, x| { let axes = ints(g, &[1]); with(g, "ReduceSum", &[x[0], axes], &[("keepdims", 0i64.into())]) };
    "ReduceMean" [[2, 3, 2]] |g, x| { let axes = ints(g, &[0, -1]); op(g, "ReduceMean", &[x[0], axes]) };
    "ReduceMax" [[2, 3]] |g, x| { let axes = ints(g, &[1]); op(g, "ReduceMax", &[x[0], axes]) };
    "ReduceL1" [[2, 3]] |g, x| op(g, "ReduceL1", x);
    "ReduceL2" [[2, 3]] |g, x| { let axes = ints(g, &[0]); op(g, "ReduceL2", &[x[0], axes]) };
    "ReduceSumSquare" [[2, 3]] |g, x| op(g, "ReduceSumSquare", x);
    "ReduceLogSum" [[2, 3]] |g, x| op(g, "ReduceLogSum", x);
    "ReduceLogSumExp" [[2, 3]] |g, x| { let axes = ints(g, &[1]); op(g, "ReduceLogSumExp", &[x[0], axes]) };
    "a layer and its loss" [[2, 3], [3, 4], [4]] |g, x| {
        let product = op(g, "MatMul", &x[..2]);
        let sum = op(g, "Add", &[product, x[2]]);
        let hidden = op(g, "Tanh", &[sum]);
        let normal = op(g, "LogSoftmax", &[hidden]);
        op(g, "Mul", &[normal, hidden])
    };
};

#[test]
fn elementwise_derivatives_match_central_differences() {
    ARITHMETIC.iter().for_each(check);
}

#[test]
fn derivatives_of_moved_elements_match_central_differences() {
    LAYOUT.iter().for_each(check);
}

#[test]
fn derivatives_of_products_and_sums_match_central_differences() {
    LINEAR.iter().for_each(check);
}

#[test]
fn a_gradient_of_a_gradient_is_the_second_derivative() {
    let cube = Function {
        name: "cube",
        inputs: &[&[3]],
        build: |g, x| {
            let square = op(g, "Mul", &[x[0], x[0]]);
            op(g, "Mul", &[square, x[0]])
        },
    };
    let mut g = graph(&cube, false);
    let x = g.inputs()[0];
    let first = add_gradient(&mut g, &["x0".into()], "loss", &[x])[0];
    g.rename_value(first, "slope").unwrap();
    let node = Node::new("ai.onnx.preview.training", "Gradient", 1)
        .with_attribute("xs", Attribute::Strings(vec!["x0".into()]))
        .with_attribute("y", "slope");
    let second = g.append(node, &[Some(x)], 1).unwrap().1[0];
    g.add_output("second", second, None);
    let input = contents(&[3], 0);
    let results = run(&session(g).unwrap(), std::slice::from_ref(&input));
    let got = results[2].to_vec::<f64>().unwrap();
    for (i, (got, x)) in got.iter().zip(input.to_vec::<f64>().unwrap()).enumerate() {
        let expected = 6.0 * x * (i as f64).cos();
        assert!((got - expected).abs() < 1e-9, "element {i}: got {got}, expected {expected}");
    }
}

#[test]
fn a_gradient_at_another_point_computes_the_function_there() {
    let square =
        Function { name: "square", inputs: &[&[2], &[2]], build: |g, x| op(g, "Mul", &[x[0], x[0]]) };
    let mut g = graph(&square, false);
    let other = g.inputs()[1];
    add_gradient(&mut g, &["x0".into()], "loss", &[other]);
    let inputs = [contents(&[2], 0), contents(&[2], 1)];
    let got = run(&session(g).unwrap(), &inputs)[1].to_vec::<f64>().unwrap();
    let at = inputs[1].to_vec::<f64>().unwrap();
    assert!((got[0] - 2.0 * at[0]).abs() < 1e-12, "got {got:?} at {at:?}");
}

#[test]
fn an_operator_without_a_rule_is_named() {
    let f = Function { name: "", inputs: &[&[2, 2]], build: |g, x| op(g, "Det", x) };
    let error = match session(graph(&f, true)) {
        Ok(_) => panic!("Det has no rule"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("Det cannot be differentiated") && error.contains("gradient"), "{error}");
}
