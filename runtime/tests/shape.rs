//! Shape inference on small graphs built in code: symbols, followed contents, bodies, errors.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenon_runtime::dtype::DType;
use tenon_runtime::error::Stage;
use tenon_runtime::graph::{Attribute, Body, Dim, Graph, Node, Shape, TypeInfo, ValueId};
use tenon_runtime::shape::{self, Options};
use tenon_runtime::tensor::Tensor;

/// An empty graph that imports `version` of the standard operators.
fn graph(version: i64) -> Graph {
    Graph::new("test", Arc::new(BTreeMap::from([("".into(), version)])))
}

/// `"batch,3,?"` as dimensions: numbers, names, `?` for unknown.
fn dims(text: &str) -> Shape {
    let dim = |d: &str| match (d, d.parse::<usize>()) {
        ("?", _) => Dim::Unknown,
        (_, Ok(n)) => Dim::Known(n),
        (name, _) => Dim::from(name),
    };
    text.split(',').filter(|d| !d.is_empty()).map(dim).collect()
}

fn input(g: &mut Graph, name: &str, dtype: DType, shape: &str) -> ValueId {
    g.add_input(name, Some(TypeInfo::tensor(dtype, dims(shape)))).unwrap()
}

fn ints(g: &mut Graph, values: &[i64]) -> ValueId {
    g.add_constant("ints", Tensor::from_slice(&[values.len()], values).unwrap())
}

fn scalar(g: &mut Graph, value: i64) -> ValueId {
    g.add_constant("scalar", Tensor::scalar(value))
}

type Attributes<'a> = &'a [(&'a str, Attribute)];

fn node(g: &Graph, op: &str, attributes: Attributes<'_>) -> Node {
    let mut node = Node::new("", op, g.opset("").unwrap()).with_name(op);
    for (name, value) in attributes {
        node.attributes.set(*name, value.clone());
    }
    node
}

fn ops(
    g: &mut Graph,
    op: &str,
    inputs: &[ValueId],
    attributes: Attributes<'_>,
    outputs: usize,
) -> Vec<ValueId> {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    let node = node(g, op, attributes);
    g.append(node, &inputs, outputs).unwrap().1
}

fn op(g: &mut Graph, name: &str, inputs: &[ValueId], attributes: Attributes<'_>) -> ValueId {
    ops(g, name, inputs, attributes, 1)[0]
}

fn infer(g: &mut Graph) {
    shape::infer(g, &Options::default()).unwrap();
}

fn type_of(g: &Graph, v: ValueId) -> String {
    g.value(v).ty().map_or("unknown".into(), ToString::to_string)
}

/// The message of the error that inference gives.
fn error(g: &mut Graph) -> String {
    let e = shape::infer(g, &Options::default()).unwrap_err();
    assert_eq!(e.stage(), Some(Stage::Shape));
    assert!(!e.node_path().is_empty(), "the error names its node: {e}");
    e.message().to_owned()
}

#[test]
fn a_shape_computed_in_the_graph_resolves() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "batch,seq,768");
    let shape_of = op(&mut g, "Shape", &[x], &[]);
    let (zero, one) = (scalar(&mut g, 0), scalar(&mut g, 1));
    let batch = op(&mut g, "Gather", &[shape_of, zero], &[("axis", 0.into())]);
    let seq = op(&mut g, "Gather", &[shape_of, one], &[("axis", 0.into())]);
    let at = ints(&mut g, &[0]);
    let batch = op(&mut g, "Unsqueeze", &[batch, at], &[]);
    let seq = op(&mut g, "Unsqueeze", &[seq, at], &[]);
    let tail = ints(&mut g, &[12, -1]);
    let target = op(&mut g, "Concat", &[batch, seq, tail], &[("axis", 0.into())]);
    let y = op(&mut g, "Reshape", &[x, target], &[]);
    g.add_output("y", y, None);
    infer(&mut g);
    assert_eq!(type_of(&g, y), "float[batch,seq,12,64]");
}

#[test]
fn sizes_are_computed_with_symbols() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n,3,h,224");
    let w = input(&mut g, "w", DType::F32, "8,3,3,3");
    let attributes = [("strides", vec![2, 2].into()), ("pads", vec![1, 1, 1, 1].into())];
    let y = op(&mut g, "Conv", &[x, w], &attributes);
    let past = input(&mut g, "past", DType::F32, "n,past");
    let new = input(&mut g, "new", DType::F32, "n,seq");
    let all = op(&mut g, "Concat", &[past, new], &[("axis", 1.into())]);
    infer(&mut g);
    assert_eq!(type_of(&g, y), "float[n,8,floor((h + 1) / 2),112]");
    assert_eq!(type_of(&g, all), "float[n,(past + seq)]");
}

#[test]
fn expand_by_a_guarded_shape_resolves() {
    // What exporters write for `x.expand(batch, -1)`: sizes of -1 become 1 through Equal and Where.
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "1,64");
    let other = input(&mut g, "other", DType::F32, "batch");
    let batch = op(&mut g, "Shape", &[other], &[]);
    let keep = ints(&mut g, &[-1]);
    let wanted = op(&mut g, "Concat", &[batch, keep], &[("axis", 0.into())]);
    let minus = ints(&mut g, &[-1, -1]);
    let is_kept = op(&mut g, "Equal", &[wanted, minus], &[]);
    let ones = ints(&mut g, &[1, 1]);
    let target = op(&mut g, "Where", &[is_kept, ones, wanted], &[]);
    let y = op(&mut g, "Expand", &[x, target], &[]);
    infer(&mut g);
    assert_eq!(type_of(&g, y), "float[batch,64]");
}

#[test]
fn dimensions_without_a_name_get_one() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "?,?");
    let y = op(&mut g, "NonZero", &[x], &[]);
    let z = op(&mut g, "Relu", &[x], &[]);
    infer(&mut g);
    assert_eq!(type_of(&g, z), "float[x.0,x.1]");
    assert_eq!(type_of(&g, y), "int64[2,NonZero#1]");
}

#[test]
fn options_fix_sizes_by_name() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "batch,?");
    let y = op(&mut g, "Relu", &[x], &[]);
    let fix =
        |pairs: &[(&str, usize)]| Options { dims: pairs.iter().map(|(n, v)| (n.to_string(), *v)).collect() };
    let e = shape::infer(&mut g, &fix(&[("seq", 4)])).unwrap_err();
    let expected =
        "no dimension of the graph inputs is named 'seq'; their symbolic dimensions are: batch, x.1";
    assert_eq!(e.message(), expected);
    shape::infer(&mut g, &fix(&[("batch", 4), ("x.1", 7)])).unwrap();
    assert_eq!(type_of(&g, x), "float[4,7]");
    assert_eq!(type_of(&g, y), "float[4,7]");
}

#[test]
fn inference_can_be_repeated() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n,?");
    let y = op(&mut g, "NonZero", &[x], &[]);
    infer(&mut g);
    let first = g.to_string();
    infer(&mut g);
    assert_eq!(g.to_string(), first);
    assert!(g.value(y).ty().is_some());
}

#[test]
fn a_declared_size_fills_in_only_what_the_run_decides() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n,4");
    let y = op(&mut g, "NonZero", &[x], &[]);
    g.set_type(y, Some(TypeInfo::tensor(DType::I64, dims("2,5"))));
    let z = op(&mut g, "Relu", &[x], &[]);
    g.set_type(z, Some(TypeInfo::tensor(DType::F32, dims("1,4"))));
    infer(&mut g);
    assert_eq!(type_of(&g, y), "int64[2,5]");
    assert_eq!(type_of(&g, z), "float[n,4]");
}

#[test]
fn branches_are_merged() {
    let mut g = graph(17);
    let c = input(&mut g, "c", DType::Bool, "");
    let x = input(&mut g, "x", DType::F32, "n,4");
    let branch = |op_type: &str| {
        let mut inner = graph(17);
        let x = inner.add_input("x", None).unwrap();
        let y = op(&mut inner, op_type, &[x], &[]);
        inner.add_output("y", y, None);
        inner
    };
    let flat = Body::new("then_branch", branch("Flatten"), vec![x]);
    let transposed = Body::new("else_branch", branch("Transpose"), vec![x]);
    let choice = Node::new("", "If", 17).with_body(flat).with_body(transposed);
    let (_, y) = g.append(choice, &[Some(c)], 1).unwrap();
    infer(&mut g);
    assert_eq!(type_of(&g, y[0]), "float[If#0,If#1]");
}

fn doubling_loop(body_op: &str, trips: Option<i64>) -> (Graph, Vec<ValueId>) {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n,4");
    let trips = trips.map(|t| scalar(&mut g, t));
    let mut inner = graph(17);
    inner.add_input("i", None).unwrap();
    let condition = inner.add_input("condition", None).unwrap();
    let state = inner.add_input("state", None).unwrap();
    let next = match body_op {
        "Concat" => op(&mut inner, "Concat", &[state, state], &[("axis", 0.into())]),
        other => op(&mut inner, other, &[state], &[]),
    };
    let keep = op(&mut inner, "Identity", &[condition], &[]);
    inner.add_output("keep", keep, None);
    inner.add_output("next", next, None);
    inner.add_output("scan", next, None);
    let repeat = Node::new("", "Loop", 17).with_body(Body::new("body", inner, vec![]));
    let (_, outputs) = g.append(repeat, &[trips, None, Some(x)], 2).unwrap();
    (g, outputs)
}

#[test]
fn loop_states_are_generalised_and_scans_stacked() {
    let (mut g, y) = doubling_loop("Relu", Some(5));
    infer(&mut g);
    assert_eq!((type_of(&g, y[0]), type_of(&g, y[1])), ("float[n,4]".into(), "float[5,n,4]".into()));
    let (mut g, y) = doubling_loop("Concat", None);
    infer(&mut g);
    assert_eq!(type_of(&g, y[0]), "float[Loop#0,4]");
    assert_eq!(type_of(&g, y[1]), "float[Loop_1#0,Loop_1#1,4]");
}

#[test]
fn deeply_nested_loops_do_not_multiply_the_work() {
    let mut inner: Option<Graph> = None;
    for _ in 0..24 {
        let mut g = graph(17);
        g.add_input("i", None).unwrap();
        let condition = g.add_input("condition", None).unwrap();
        let state = g.add_input("state", None).unwrap();
        let grown = op(&mut g, "Concat", &[state, state], &[("axis", 0.into())]);
        let next = match inner.take() {
            Some(body) => {
                let repeat = Node::new("", "Loop", 17).with_body(Body::new("body", body, vec![]));
                g.append(repeat, &[None, Some(condition), Some(grown)], 1).unwrap().1[0]
            }
            None => grown,
        };
        g.add_output("keep", condition, None);
        g.add_output("next", next, None);
        inner = Some(g);
    }
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n,4");
    let repeat = Node::new("", "Loop", 17).with_body(Body::new("body", inner.unwrap(), vec![]));
    let y = g.append(repeat, &[None, None, Some(x)], 1).unwrap().1[0];
    infer(&mut g);
    assert_eq!(g.value(y).ty().and_then(TypeInfo::dtype), Some(DType::F32));
}

#[test]
fn sequences_and_optionals_keep_their_element() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "6,n");
    let two = scalar(&mut g, 2);
    let parts = op(&mut g, "SplitToSequence", &[x, two], &[("axis", 0.into())]);
    let first = op(&mut g, "SequenceAt", &[parts, two], &[]);
    let count = op(&mut g, "SequenceLength", &[parts], &[]);
    let maybe = op(&mut g, "Optional", &[parts], &[]);
    infer(&mut g);
    assert_eq!(type_of(&g, parts), "seq(float[2,n])");
    assert_eq!(type_of(&g, first), "float[2,n]");
    assert_eq!(type_of(&g, count), "int64[]");
    assert_eq!(type_of(&g, maybe), "optional(seq(float[2,n]))");
}

#[test]
fn known_contents_are_reported_as_tensors() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n,3,4");
    let s = op(&mut g, "Shape", &[x], &[]);
    let (one, end) = (ints(&mut g, &[1]), ints(&mut g, &[i64::MAX]));
    let tail = op(&mut g, "Slice", &[s, one, end], &[]);
    let product = op(&mut g, "ReduceProd", &[tail], &[("keepdims", 0.into())]);
    let analysis = shape::analyse(&mut g, &Options::default()).unwrap();
    assert_eq!(analysis.tensor(&g, tail), Some(Tensor::from_slice(&[2], &[3i64, 4]).unwrap()));
    assert_eq!(analysis.tensor(&g, product), Some(Tensor::scalar(12i64)));
    assert_eq!(analysis.tensor(&g, s), None);
    assert_eq!(analysis.contents(s).map(|c| c.elements.len()), Some(3));
}

#[test]
fn an_unknown_operator_is_no_error() {
    let mut g = graph(17);
    let x = input(&mut g, "x", DType::F32, "n");
    let custom = Node::new("my.domain", "Custom", 1);
    let (_, y) = g.append(custom, &[Some(x)], 1).unwrap();
    let z = op(&mut g, "Relu", &[y[0]], &[]);
    let summary = shape::infer(&mut g, &Options::default()).unwrap();
    assert_eq!(summary.unknown_operators, ["my.domain.Custom"]);
    assert_eq!(type_of(&g, z), "unknown");
}

#[test]
fn contradictions_name_node_values_and_expectation() {
    let mut g = graph(17);
    let a = input(&mut g, "a", DType::F32, "n,3");
    let b = input(&mut g, "b", DType::F32, "4,5");
    op(&mut g, "MatMul", &[a, b], &[]);
    assert_eq!(
        error(&mut g),
        "input 0 'a' of type float[n,3] and input 1 'b' of type float[4,5] cannot be multiplied: the inner sizes are 3 \
         and 4; they must be equal"
    );
    let mut g = graph(17);
    let a = input(&mut g, "a", DType::F32, "2,3");
    let b = input(&mut g, "b", DType::F32, "2,4");
    op(&mut g, "Add", &[a, b], &[]);
    assert!(error(&mut g).contains("sizes 3 and 4 do not broadcast"));
    let mut g = graph(17);
    let a = input(&mut g, "a", DType::F32, "2,3");
    let y = op(&mut g, "Relu", &[a], &[]);
    g.set_type(y, Some(TypeInfo::unranked(DType::I64)));
    assert_eq!(error(&mut g), "output 'Relu' is declared as int64[..], but the operator computes float[2,3]");
}

#[test]
fn malformed_nodes_get_an_error() {
    let one = |op_type: &str, shape: &str, attributes: Attributes<'_>| {
        let mut g = graph(17);
        let x = input(&mut g, "x", DType::F32, shape);
        op(&mut g, op_type, &[x], attributes);
        error(&mut g)
    };
    assert!(one("Softmax", "2,3", &[("axis", 2.into())]).starts_with("axis 2 is outside a tensor of rank 2"));
    assert!(one("Concat", "2,3", &[]).contains("needs attribute 'axis'"));
    assert!(one("Transpose", "2,3", &[("perm", vec![0, 0].into())]).contains("appears twice"));
    assert!(one("Flatten", "2", &[("axis", 0.5f32.into())]).contains("must be an integer"));
    assert!(one("MaxPool", "1,1,2,2", &[("kernel_shape", vec![3, 3].into())]).contains("covers 3 elements"));
    assert!(one("Add", "2", &[]).contains("needs 2 inputs, but input 1 is missing"));
    assert!(one("Cast", "2", &[("to", 99.into())]).contains("is no element type"));
    assert!(
        one("AveragePool", "1,1,4", &[("kernel_shape", vec![2].into()), ("strides", vec![0].into())])
            .contains("0")
    );
}

#[test]
fn every_rule_survives_every_rank_and_missing_types() {
    // Rules may fail with an error, but never panic, whatever the ranks of their inputs.
    let operators = [
        "Attention",
        "AveragePool",
        "BatchNormalization",
        "Col2Im",
        "Compress",
        "Concat",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DFT",
        "DepthToSpace",
        "Det",
        "Einsum",
        "Expand",
        "Flatten",
        "GRU",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gemm",
        "GlobalAveragePool",
        "GridSample",
        "LSTM",
        "LayerNormalization",
        "MatMul",
        "MatMulInteger",
        "MaxPool",
        "MaxRoiPool",
        "MaxUnpool",
        "NegativeLogLikelihoodLoss",
        "OneHot",
        "Pad",
        "QLinearConv",
        "Range",
        "ReduceSum",
        "Reshape",
        "Resize",
        "RoiAlign",
        "STFT",
        "ScatterND",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Unique",
        "Unsqueeze",
        "Upsample",
        "Where",
        "ConstantOfShape",
        "CenterCropPad",
    ];
    for op_type in operators {
        for version in [1, 6, 7, 11, 13, 18, 23, 28] {
            for rank in 0..6 {
                for with_type in [true, false] {
                    let mut g = graph(version);
                    let shape = vec!["2"; rank].join(",");
                    let inputs: Vec<_> = (0..9)
                        .map(|i| {
                            let x = input(&mut g, &format!("x{i}"), DType::I64, &shape);
                            if !with_type {
                                g.set_type(x, None);
                            }
                            x
                        })
                        .collect();
                    let attributes = [
                        ("axis", 0.into()),
                        ("equation", "ab,bc->ac".into()),
                        ("kernel_shape", vec![1, 1].into()),
                        ("pooled_shape", vec![1, 1].into()),
                        ("blocksize", 2.into()),
                    ];
                    ops(&mut g, op_type, &inputs, &attributes, 3);
                    let _ = shape::infer(&mut g, &Options::default());
                }
            }
        }
    }
}

#[test]
fn a_cache_that_is_declared_as_long_as_its_past_keeps_that_length() {
    for (declared, expected) in [("batch,2,length,8", "float[batch,2,length,8]"), ("batch,2,total,8", "")] {
        let mut g = graph(21);
        let query = input(&mut g, "query", DType::F32, "batch,rows,64");
        let past = input(&mut g, "past", DType::F32, "batch,2,length,8");
        let lengths = input(&mut g, "lengths", DType::I32, "batch");
        let total = input(&mut g, "total", DType::I32, "");
        let inputs = [Some(query), None, None, Some(past), Some(past), Some(lengths), Some(total)];
        let mut node = Node::new("com.microsoft", "GroupQueryAttention", 1);
        node.attributes.set("num_heads", Attribute::from(4));
        node.attributes.set("kv_num_heads", Attribute::from(2));
        let outputs = g.append(node, &inputs, 3).unwrap().1;
        g.add_output("present", outputs[1], Some(TypeInfo::tensor(DType::F32, dims(declared))));
        infer(&mut g);
        match expected {
            "" => assert_ne!(type_of(&g, outputs[1]), "float[batch,2,length,8]"),
            expected => assert_eq!(type_of(&g, outputs[1]), expected),
        }
    }
}

#[test]
fn a_hundred_thousand_nodes_take_moments() {
    let mut g = graph(17);
    let mut x = input(&mut g, "x", DType::F32, "n,64");
    let bias = g.add_constant("bias", Tensor::zeros(DType::F32, &[64]).unwrap());
    for _ in 0..50_000 {
        x = op(&mut g, "Add", &[x, bias], &[]);
        x = op(&mut g, "Relu", &[x], &[]);
    }
    g.add_output("y", x, None);
    let start = Instant::now();
    infer(&mut g);
    eprintln!("100,000 nodes in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(type_of(&g, x), "float[n,64]");
}
