//! The common part of GPU providers through the plugin contract, on a driver that keeps a record and runs kernels
//! compiled for the host.

mod attention;
mod attention_paged;
mod harness;
#[path = "../host/mod.rs"]
mod host;
mod narrow;
mod pick;
mod products;
mod quantize;
mod recurrent;
mod region;
mod sampling;
mod signal;
mod tuned;

use harness::{Array, Session, download, open, upload};
use tenon_plugin_api::host::{AttributeValue, GraphBuilder, OwnedGraph};
use tenon_plugin_api::{Code, DType, ffi};

/// y = relu((a - b) * 2 + c), with `dims` declared for all values.
fn chain(dims: &[i64]) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| graph.input(name, DType::F32, Some(dims)));
    let two = graph.constant("two", DType::F32, &[], &2f32.to_le_bytes());
    let [d, e, f, y] = ["d", "e", "f", "y"].map(|name| graph.value(name, DType::F32, Some(dims)));
    graph.node("Sub", 14, &[a, b], &[d]);
    graph.node("Mul", 14, &[d, two], &[e]);
    graph.node("Add", 14, &[e, c], &[f]);
    graph.node("Relu", 14, &[f], &[y]);
    graph.output(y);
    graph.build()
}

fn expected_chain(inputs: &[Array]) -> Vec<f32> {
    let value = |i: usize| {
        let [a, b, c] = [0, 1, 2].map(|k| inputs[k].values[i]);
        ((a - b) * 2.0 + c).max(0.0)
    };
    (0..inputs[0].values.len()).map(value).collect()
}

#[test]
fn bytes_survive_the_way_to_the_device_and_back() {
    let device = open(&[]);
    let stream = device.stream().unwrap();
    let memory = device.allocate(ffi::MEMORY_DEVICE, 1000).unwrap();
    let data: Vec<u8> = (0..1000).map(|i| i as u8).collect();
    upload(&stream, memory.as_ptr(), &data);
    assert_eq!(download(&stream, memory.as_ptr(), 1000), data);
    let used = device.memory_info().unwrap();
    assert!(used.used_bytes >= 1000 && used.peak_bytes >= used.used_bytes);
    drop(memory);
    assert!(device.memory_info().unwrap().used_bytes < used.used_bytes);
}

#[test]
fn ordered_memory_events_and_captured_copies_work() {
    let device = open(&[]);
    let stream = device.stream().unwrap();
    let ordered = stream.allocate(64).unwrap();
    upload(&stream, ordered, &[7; 64]);
    let target = device.allocate(ffi::MEMORY_DEVICE, 64).unwrap();
    upload(&stream, target.as_ptr(), &[0; 64]);
    let copy = tenon_plugin_api::host::Copy {
        dst: target.as_ptr(),
        src: ordered,
        bytes: 64,
        dst_memory: ffi::MEMORY_DEVICE,
        src_memory: ffi::MEMORY_DEVICE,
        dst_device: None,
        src_device: None,
    };
    stream.capture_begin().unwrap();
    // SAFETY: both blocks hold 64 bytes until the recording has been launched.
    unsafe { stream.copy(&[copy]) }.unwrap();
    let recording = stream.capture_end().unwrap();
    assert_eq!(download(&stream, target.as_ptr(), 64), [0; 64]);
    // SAFETY: as above.
    unsafe { stream.launch(&recording) }.unwrap();
    let event = device.event().unwrap();
    stream.record(&event).unwrap();
    event.synchronize().unwrap();
    assert!(event.query().unwrap());
    assert_eq!(download(&stream, target.as_ptr(), 64), [7; 64]);
    // SAFETY: it came from this stream and is not used again.
    unsafe { stream.free(ordered) }.unwrap();
}

#[test]
fn a_chain_of_element_wise_nodes_is_one_kernel() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(1);
    let mut session = Session::new(&device, &chain(&[3, 5]), 1);
    let inputs = [0, 1, 2].map(|_| Array::random(&[3, 5], &mut random));
    device.timeline_start().unwrap();
    let outputs = session.run(&inputs);
    let timeline = device.timeline_stop().unwrap();
    assert_eq!(outputs[0].values, expected_chain(&inputs));
    let symbols: Vec<&str> = timeline.iter().map(|entry| entry.symbol.as_str()).collect();
    assert_eq!(symbols, ["elementwise_f32_v1"]);
    assert_eq!(timeline[0].op_type, "Sub+Mul+Add+Relu");
    assert!(timeline[0].bytes >= 4.0 * 60.0);
}

#[test]
fn new_shapes_are_planned_and_old_ones_replayed() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(2);
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[-1, 8]));
    let [s, t, u, v] = ["s", "t", "u", "v"].map(|name| graph.value(name, DType::F32, Some(&[-1, 8])));
    graph.node("Softmax", 13, &[x], &[s]);
    graph.node("Relu", 14, &[s], &[t]);
    graph.node("Softmax", 13, &[t], &[u]);
    graph.node("Softmax", 13, &[u], &[v]);
    graph.output(v);
    let mut session = Session::new(&device, &graph.build(), 1);
    for rows in [2, 7, 2, 2, 7, 7, 2] {
        let input = Array::random(&[rows, 8], &mut random);
        let output = session.run(std::slice::from_ref(&input)).remove(0);
        let mut expected = input.values.clone();
        for _ in 0..3 {
            for row in expected.chunks_mut(8) {
                let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
                row.iter_mut().for_each(|v| *v = (f64::from(*v).exp() / sum) as f32);
            }
        }
        assert_eq!(output.dims, [rows, 8]);
        for (got, want) in output.values.iter().zip(&expected) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}

#[test]
fn products_agree_with_double_precision() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(3);
    for (m, k, n) in [(1, 70, 9), (5, 3, 7), (33, 65, 40), (64, 17, 130)] {
        let mut graph = GraphBuilder::new();
        let a = graph.input("a", DType::F32, Some(&[m, k]));
        let weights = Array::random(&[n, k], &mut random);
        let b = graph.constant("b", DType::F32, &[n, k], &weights.bytes());
        let bias = Array::random(&[n], &mut random);
        let c = graph.constant("c", DType::F32, &[n], &bias.bytes());
        let y = graph.value("y", DType::F32, Some(&[m, n]));
        let node = graph.node("Gemm", 13, &[a, b, c], &[y]);
        graph.attribute(node, "transB", AttributeValue::Int(1));
        graph.output(y);
        let mut session = Session::new(&device, &graph.build(), 1);
        let input = Array::random(&[m, k], &mut random);
        let output = session.run(std::slice::from_ref(&input)).remove(0);
        let (m, k, n) = (m as usize, k as usize, n as usize);
        for row in 0..m {
            for column in 0..n {
                let term =
                    |i| f64::from(input.values[row * k + i]) * f64::from(weights.values[column * k + i]);
                let exact = (0..k).map(term).sum::<f64>() + f64::from(bias.values[column]);
                let got = f64::from(output.values[row * n + column]);
                assert!((got - exact).abs() < 1e-5, "{m} {k} {n} at {row}, {column}: {got} {exact}");
            }
        }
    }
}

#[test]
fn views_need_no_work_and_outputs_that_are_inputs_are_copied() {
    let device = open(&[]);
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[2, 6]));
    let shape: Vec<u8> = [3i64, -1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = graph.constant("shape", DType::I64, &[2], &shape);
    let y = graph.value("y", DType::F32, Some(&[3, 4]));
    graph.node("Reshape", 13, &[x, shape], &[y]);
    graph.output(y);
    let mut session = Session::new(&device, &graph.build(), 1);
    let input = Array::new(&[2, 6], |i| i as f32);
    device.timeline_start().unwrap();
    let output = session.run(std::slice::from_ref(&input)).remove(0);
    let symbols: Vec<String> =
        device.timeline_stop().unwrap().into_iter().map(|entry| entry.symbol).collect();
    assert_eq!((output.dims, output.values), (vec![3, 4], input.values));
    assert_eq!(symbols, ["copy"]);
}

#[test]
fn work_that_constants_determine_is_done_once() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(9);
    let codes: Vec<i8> = (0..15).map(|_| random.i8(..)).collect();
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[-1, 3]));
    let bytes: Vec<u8> = codes.iter().map(|code| code.to_le_bytes()[0]).collect();
    let codes_value = graph.constant("codes", DType::I8, &[3, 5], &bytes);
    let scale = graph.constant("scale", DType::F32, &[], &0.25f32.to_le_bytes());
    let [wide, weight, y, twice] = [("wide", [3, 5]), ("weight", [3, 5]), ("y", [-1, 5]), ("twice", [3, 5])]
        .map(|(name, dims)| graph.value(name, DType::F32, Some(&dims)));
    let cast = graph.node("Cast", 13, &[codes_value], &[wide]);
    graph.attribute(cast, "to", AttributeValue::Int(1));
    graph.node("Mul", 14, &[wide, scale], &[weight]);
    graph.node("MatMul", 13, &[x, weight], &[y]);
    // What is handed out is made by the run.
    graph.node("Add", 14, &[weight, weight], &[twice]);
    graph.output(y);
    graph.output(twice);
    let mut session = Session::new(&device, &graph.build(), 2);
    for rows in [2, 4, 2] {
        let input = Array::random(&[rows, 3], &mut random);
        device.timeline_start().unwrap();
        let outputs = session.run(std::slice::from_ref(&input));
        let timeline = device.timeline_stop().unwrap();
        let types: Vec<&str> = timeline.iter().map(|entry| entry.op_type.as_str()).collect();
        assert_eq!(types, ["MatMul", "Add"]);
        let weight = |k: usize, n: usize| f32::from(codes[k * 5 + n]) * 0.25;
        for (at, got) in outputs[0].values.iter().enumerate() {
            let (m, n) = (at / 5, at % 5);
            let expected: f64 =
                (0..3).map(|k| f64::from(input.values[m * 3 + k]) * f64::from(weight(k, n))).sum();
            assert!((f64::from(*got) - expected).abs() < 1e-4, "{got} {expected}");
        }
        assert!((0..15).all(|at| outputs[1].values[at] == 2.0 * weight(at / 5, at % 5)));
    }
}

#[test]
fn what_has_no_kernel_is_declined_with_a_reason() {
    let device = open(&[]);
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[2, 6]));
    let text = graph.input("text", DType::String, Some(&[2]));
    let shape = graph.value("shape", DType::I64, Some(&[2]));
    let rows = graph.value("rows", DType::I64, Some(&[]));
    let zero = graph.constant("zero", DType::I64, &[], &0i64.to_le_bytes());
    let same = graph.value("same", DType::String, Some(&[2]));
    let noise = graph.value("noise", DType::F32, Some(&[2, 6]));
    graph.node("Shape", 13, &[x], &[shape]);
    graph.node("Gather", 13, &[shape, zero], &[rows]);
    graph.node("Identity", 13, &[text], &[same]);
    graph.node("Bernoulli", 15, &[x], &[noise]);
    for value in [rows, same, noise] {
        graph.output(value);
    }
    let graph = graph.build();
    let claims = device.claim(graph.graph(), "").unwrap();
    assert_eq!(claims.sets, []);
    let reasons: Vec<&str> = claims.declines.iter().map(|(_, reason)| reason.as_str()).collect();
    let host = "computes shapes, which is work for the host";
    assert_eq!(reasons[..2], [host, host]);
    assert!(reasons[2].contains("string") || reasons[2].contains("String"), "{}", reasons[2]);
    assert_eq!(reasons[3], "Bernoulli has no GPU kernel");
}

#[test]
fn unknown_options_are_refused() {
    // SAFETY: the table is the provider's own.
    let provider = unsafe { tenon_plugin_api::host::Provider::new(harness::table()) }.unwrap();
    drop(open(&[("graphs", "0")]));
    assert_eq!(provider.open(0, &[("graph", "0")]).unwrap_err().kind(), Code::InvalidArgument);
    assert_eq!(provider.open(5, &[]).unwrap_err().kind(), Code::NotFound);
}
