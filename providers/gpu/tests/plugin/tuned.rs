//! Which tuned kernels graphs are lowered to, on a driver that has them all and runs none but one: the product with packed
//! weights, written here from the layout's description.

use std::ffi::c_void;
use std::sync::Arc;

use tenon_gpu::recording::{HostKernel, Recording};
use tenon_gpu::{Driver, FEATURES, GpuDevice, Images, Setup};
use tenon_kernels::gpu::arch;
use tenon_plugin_api::host::{self, AttributeValue, GraphBuilder, OwnedGraph};
use tenon_plugin_api::provider::{Features, Host, Provider};
use tenon_plugin_api::{DType, DeviceInfo, Options, Result};

use crate::harness::{Array, Raw, Session};

const ARCH: &str = "sm90";

/// A provider whose device has every kernel of the family.
pub struct RecordedProvider(Arc<Recording>);

impl Provider for RecordedProvider {
    const NAME: &'static str = "recorded-gpu";
    const VENDOR: &'static str = "tests";
    const VERSION: &'static str = "1";
    const BUILD_INFO: &'static str = "every kernel of a family, recorded";
    const FEATURES: Features = FEATURES;
    type Device = GpuDevice;

    fn initialize(_host: Host) -> Result<RecordedProvider> {
        let kernels =
            |symbol: &str| symbol.starts_with("stream_f32_w4_g32_z__").then_some(stream as HostKernel);
        Ok(RecordedProvider(Arc::new(Recording::new(ARCH, kernels))))
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(self.0.devices()?.iter().map(|facts| GpuDevice::info(0, facts)).collect())
    }

    fn open(&self, index: u32, options: &Options<'_>) -> Result<GpuDevice> {
        let options = tenon_gpu::check_options(options)?;
        let mut images = Images::new();
        for unit in arch::find(ARCH).and_then(|arch| arch.units()).expect("the units are well formed") {
            images.add(unit.kernels.into_iter().map(|kernel| kernel.symbol), || Ok(Vec::new()));
        }
        let facts = self.0.devices()?.remove(0);
        GpuDevice::open(Setup { driver: self.0.clone(), ordinal: index, facts, images, options })
    }
}

mod exported {
    tenon_plugin_api::export_provider!(super::RecordedProvider, no_symbol);
}

fn open() -> Arc<host::Device> {
    // SAFETY: the table is the provider's own.
    let provider = unsafe { host::Provider::new(exported::table()) }.expect("the table is whole");
    provider.initialize(crate::harness::host_api()).expect("it starts");
    provider.open(0, &[]).expect("the device opens")
}

/// `d = x W^T + bias` with f32 scales for groups of 32 and zero points, W read from its records one weight at a time.
unsafe extern "C" fn stream(args: *const *const c_void, _grid: *const u32, _block: *const u32) {
    // SAFETY: the planner wrote these parameters, and their memory was laid out for the extents among them.
    unsafe {
        let pointer = |index: usize| *(*args.add(index)).cast::<*mut u8>();
        let [m, n, k] = *(*args.add(5)).cast::<[u32; 3]>();
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let (d, weights, x) = (pointer(0).cast::<f32>(), pointer(1), pointer(2).cast::<f32>());
        let bias = pointer(3).cast::<f32>();
        let record_bytes = 4096 + 64 * 4 * 5;
        for row in 0..n {
            let weight = |input: usize| {
                let record = weights.add((row / 64 * k.div_ceil(128) + input / 128) * record_bytes);
                let (warp, lane) = (row % 64 / 16, row % 8 * 4 + input % 8 / 2);
                let (half, step) = (input % 128 / 64, input % 64 / 16);
                let word = record.add((half * 4 + warp) * 512 + lane * 16 + step * 4).cast::<u32>().read();
                let register = row % 16 / 8 + input % 16 / 8 * 2;
                let code = word >> (4 * register + 16 * (input % 2)) & 15;
                let pair = ((warp * 8 + row % 8) * 4 + input % 128 / 32) * 2 + row % 16 / 8;
                let scale = record.add(4096 + pair * 4).cast::<f32>().read_unaligned();
                let zero = record.add(4096 + 1024 + pair).read();
                (code as f32 - f32::from(zero)) * scale
            };
            for token in 0..m {
                let sum: f32 = (0..k).map(|input| x.add(token * k + input).read() * weight(input)).sum();
                d.add(token * n + row).write(sum + bias.add(row).read());
            }
        }
    }
}

/// y = MatMulNBits(x, ...) with `bits` and constants as ONNX lays them out.
struct Quantised {
    graph: OwnedGraph,
    /// Dequantised, one row an output.
    weights: Vec<f32>,
    bias: Array,
}

fn quantised(n: usize, k: usize, bits: i64, random: &mut fastrand::Rng) -> Quantised {
    let blocks = k.div_ceil(32);
    let codes: Vec<u8> = (0..n * blocks * 16).map(|_| random.u8(..)).collect();
    let scales = Array::new(&[(n * blocks) as i64], |_| random.f32() * 0.1 + 0.01);
    let zero_row = blocks.div_ceil(2);
    let zeros: Vec<u8> = (0..n * zero_row).map(|_| random.u8(..)).collect();
    let bias = Array::random(&[n as i64], random);
    let nibble = |bytes: &[u8], at: usize| bytes[at / 2] >> (at % 2 * 4) & 15;
    let weight = |row: usize, input: usize| {
        let code = nibble(&codes[row * blocks * 16..], input);
        let zero = nibble(&zeros[row * zero_row..], input / 32);
        (f32::from(code) - f32::from(zero)) * scales.values[row * blocks + input / 32]
    };
    let weights = (0..n * k).map(|at| weight(at / k, at % k)).collect();
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[-1, k as i64]));
    let dims = [n as i64, blocks as i64, 16];
    let b = graph.constant("b", DType::U8, &dims, &codes);
    let s = graph.constant("s", DType::F32, &scales.dims, &scales.bytes());
    let z = graph.constant("z", DType::U8, &[n as i64, zero_row as i64], &zeros);
    let c = graph.constant("c", DType::F32, &bias.dims, &bias.bytes());
    let y = graph.value("y", DType::F32, Some(&[-1, n as i64]));
    let node = graph.node("MatMulNBits", 1, &[x, b, s, z, tenon_plugin_api::ffi::NO_VALUE, c], &[y]);
    graph.domain(node, "com.microsoft");
    for (name, value) in [("N", n as i64), ("K", k as i64), ("bits", bits), ("block_size", 32)] {
        graph.attribute(node, name, AttributeValue::Int(value));
    }
    graph.output(y);
    Quantised { graph: graph.build(), weights, bias }
}

#[test]
fn weights_of_four_bits_are_packed_once_and_stream_through() {
    let device = open();
    let mut random = fastrand::Rng::with_seed(11);
    for (n, k) in [(64, 128), (70, 200), (17, 34)] {
        let Quantised { graph, weights, bias } = quantised(n, k, 4, &mut random);
        let mut session = Session::new(&device, &graph, 1);
        for rows in [1, 3] {
            let x = Array::random(&[rows, k as i64], &mut random);
            let y = session.run(std::slice::from_ref(&x)).remove(0);
            assert_eq!(y.dims, [rows, n as i64]);
            for (at, got) in y.values.iter().enumerate() {
                let (token, row) = (at / n, at % n);
                let term = |i: usize| f64::from(x.values[token * k + i]) * f64::from(weights[row * k + i]);
                let exact = (0..k).map(term).sum::<f64>() + f64::from(bias.values[row]);
                assert!((f64::from(*got) - exact).abs() < 1e-3, "{n} {k} at {token}, {row}: {got} {exact}");
            }
        }
    }
}

#[test]
fn packed_weights_that_no_kernel_reads_are_declined_with_a_reason() {
    let device = open();
    let mut random = fastrand::Rng::with_seed(12);
    let Quantised { graph, .. } = quantised(16, 64, 3, &mut random);
    let claims = device.claim(graph.graph(), "").unwrap();
    assert!(claims.sets.is_empty());
    assert!(claims.declines[0].1.contains("3 bits"), "{}", claims.declines[0].1);
}

/// activation(x gate) * (x up), with the activation as single operators.
fn gated(activation: &[&str], is_shared: bool) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let dims = Some(&[4i64, 256][..]);
    let x = graph.input("x", DType::BF16, Some(&[4, 64]));
    let weight = |graph: &mut GraphBuilder, name| graph.input(name, DType::BF16, Some(&[64, 256]));
    let (gate, up) = (weight(&mut graph, "gate"), weight(&mut graph, "up"));
    let [g, u, s, t, y] = ["g", "u", "s", "t", "y"].map(|name| graph.value(name, DType::BF16, dims));
    graph.node("MatMul", 13, &[x, gate], &[g]);
    graph.node("MatMul", 13, &[x, up], &[u]);
    match activation {
        ["Sigmoid", "Mul"] => {
            graph.node("Sigmoid", 13, &[g], &[s]);
            graph.node("Mul", 14, &[g, s], &[t]);
        }
        _ => {
            graph.node(activation[0], 20, &[g], &[t]);
        }
    }
    graph.node("Mul", 14, &[t, u], &[y]);
    graph.output(y);
    if is_shared {
        graph.output(u);
    }
    graph.build()
}

fn symbols(graph: &OwnedGraph, outputs: usize) -> Vec<String> {
    let device = open();
    let mut session = Session::new(&device, graph, outputs);
    let bf16 = |dims: &[i64]| {
        let bytes = vec![0; dims.iter().product::<i64>() as usize * 2];
        Raw { dtype: DType::BF16, dims: dims.to_vec(), bytes }
    };
    device.timeline_start().expect("it is off");
    session.run_raw(&[bf16(&[4, 64]), bf16(&[64, 256]), bf16(&[64, 256])]);
    device.timeline_stop().expect("it is on").into_iter().map(|entry| entry.symbol).collect()
}

#[test]
fn a_gate_and_what_it_lets_through_are_one_product() {
    for activation in [&["Sigmoid", "Mul"][..], &["Gelu"]] {
        let symbols = symbols(&gated(activation, false), 1);
        assert!(symbols.len() == 1 && symbols[0].ends_with("_gate"), "{symbols:?}");
    }
    // A product that somebody else reads must be stored.
    let apart = symbols(&gated(&["Sigmoid", "Mul"], true), 2);
    assert!(apart.len() == 3 && apart.iter().all(|symbol| !symbol.contains("gate")), "{apart:?}");
}

#[test]
fn integer_products_with_signed_weights_run_on_matrix_units() {
    let device = open();
    let mut graph = GraphBuilder::new();
    let a = graph.input("a", DType::U8, Some(&[4, 64]));
    let b = graph.constant("b", DType::I8, &[64, 32], &[1; 64 * 32]);
    let za = graph.input("za", DType::U8, Some(&[]));
    let y = graph.value("y", DType::I32, Some(&[4, 32]));
    graph.node("MatMulInteger", 10, &[a, b, za], &[y]);
    graph.output(y);
    let mut session = Session::new(&device, &graph.build(), 1);
    let raw =
        |dims: &[i64], count: usize| Raw { dtype: DType::U8, dims: dims.to_vec(), bytes: vec![7; count] };
    device.timeline_start().unwrap();
    session.run_raw(&[raw(&[4, 64], 256), raw(&[], 1)]);
    let symbols: Vec<String> =
        device.timeline_stop().unwrap().into_iter().map(|entry| entry.symbol).collect();
    assert!(symbols.len() == 3 && symbols[1].starts_with("matmul_s8_s8_i32_nt"), "{symbols:?}");
}

/// y = A B of codes with a scale each, B constant; both operands as DequantizeLinear gives them in `dtype`.
fn coded(codes: DType, dtype: DType, is_scale_known: bool) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let a = graph.input("a", codes, Some(&[256, 128]));
    let b = graph.constant("b", codes, &[128, 192], &[0x38; 128 * 192]);
    let one = match dtype {
        DType::F32 => 1f32.to_le_bytes().to_vec(),
        DType::F16 => half::f16::ONE.to_le_bytes().to_vec(),
        _ => half::bf16::ONE.to_le_bytes().to_vec(),
    };
    let a_scale = match is_scale_known {
        true => graph.constant("a_scale", dtype, &[], &one),
        false => graph.input("a_scale", dtype, Some(&[])),
    };
    let b_scale = graph.constant("b_scale", dtype, &[], &one);
    let y = graph.value("y", dtype, Some(&[256, 192]));
    let none = tenon_plugin_api::ffi::NO_VALUE;
    let node = graph.node("QuantizedMatMul", 1, &[a, b, none, none, a_scale, none, b_scale], &[y]);
    graph.domain(node, "tenon");
    graph.attribute(node, "dtype", AttributeValue::Int(dtype.onnx().into()));
    graph.output(y);
    graph.build()
}

/// GroupQueryAttention of one new row over a past of 70 rows of codes.
fn cached(codes: DType) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let mut names: Vec<u32> = [("query", 256), ("key", 128), ("value", 128)]
        .map(|(name, columns)| graph.input(name, DType::F16, Some(&[1, 1, columns])))
        .to_vec();
    names.extend(["past_key", "past_value"].map(|name| graph.input(name, codes, Some(&[1, 2, 70, 64]))));
    names.push(graph.constant("lengths", DType::I32, &[1], &70i32.to_le_bytes()));
    names.push(graph.constant("total", DType::I32, &[], &71i32.to_le_bytes()));
    names.extend([tenon_plugin_api::ffi::NO_VALUE; 5]);
    names.extend(["k_scale", "v_scale"].map(|s| graph.constant(s, DType::F32, &[1], &0.5f32.to_le_bytes())));
    let outputs = [
        graph.value("output", DType::F16, Some(&[1, 1, 256])),
        graph.value("present_key", codes, Some(&[1, 2, 71, 64])),
        graph.value("present_value", codes, Some(&[1, 2, 71, 64])),
    ];
    let node = graph.node("GroupQueryAttention", 1, &names, &outputs);
    graph.domain(node, "com.microsoft");
    for (name, heads) in [("num_heads", 4), ("kv_num_heads", 2)] {
        graph.attribute(node, name, AttributeValue::Int(heads));
    }
    for name in ["k_quant_type", "v_quant_type"] {
        graph.attribute(node, name, AttributeValue::String("PER_TENSOR".into()));
    }
    for output in outputs {
        graph.output(output);
    }
    graph.build()
}

#[test]
fn caches_of_codes_are_read_by_matrix_units_that_know_them() {
    let rows = [256, 128, 128].map(|columns| [1, 1, columns]);
    let past = [1, 2, 70, 64];
    for (codes, wanted) in
        [(DType::F8E4M3FN, "attention_decode_f16_e4m3_d64__"), (DType::I8, "attention_plain_coded_f16")]
    {
        let inputs = rows.iter().map(|dims| (DType::F16, &dims[..])).chain([(codes, &past[..]); 2]);
        let symbols = launches_of(&cached(codes), &inputs.collect::<Vec<_>>(), 3);
        assert!(symbols.iter().any(|symbol| symbol.starts_with(wanted)), "{symbols:?}");
    }
}

fn symbols_of(graph: &OwnedGraph, inputs: &[(DType, &[i64])]) -> Vec<String> {
    launches_of(graph, inputs, 1)
}

/// The kernels of a graph with so many outputs.
fn launches_of(graph: &OwnedGraph, inputs: &[(DType, &[i64])], outputs: usize) -> Vec<String> {
    let device = open();
    let mut session = Session::new(&device, graph, outputs);
    let zeros: Vec<Raw> = inputs
        .iter()
        .map(|&(dtype, dims)| {
            let count = dims.iter().product::<i64>() as usize;
            Raw { dtype, dims: dims.to_vec(), bytes: vec![0; dtype.byte_len(count).expect("a size")] }
        })
        .collect();
    device.timeline_start().expect("it is off");
    session.run_raw(&zeros);
    device.timeline_stop().expect("it is on").into_iter().map(|entry| entry.symbol).collect()
}

#[test]
fn dequantised_floats_of_8_bits_are_multiplied_as_they_are() {
    for (dtype, name) in [(DType::BF16, "bf16"), (DType::F16, "f16"), (DType::F32, "f32")] {
        let a = (DType::F8E4M3FN, &[256i64, 128][..]);
        let symbols = symbols_of(&coded(DType::F8E4M3FN, dtype, true), &[a]);
        let start = format!("matmul_e4m3_e4m3_{name}_nt");
        assert!(symbols.len() == 1 && symbols[0].starts_with(&start), "{symbols:?}");
        // A scale that is found at run time becomes one for each row.
        let symbols = symbols_of(&coded(DType::F8E4M3FN, dtype, false), &[a, (dtype, &[])]);
        assert!(symbols.len() == 2 && symbols[1].starts_with(&start), "{symbols:?}");
    }
}

#[test]
fn other_floats_of_8_bits_are_multiplied_in_bf16() {
    let (a, b) = ((DType::F8E5M2, &[256i64, 128][..]), (DType::F8E4M3FNUZ, &[192i64, 128][..]));
    let mut graph = GraphBuilder::new();
    let [x, w] = [("a", a), ("b", b)].map(|(name, (dtype, dims))| graph.input(name, dtype, Some(dims)));
    let y = graph.value("y", DType::F32, Some(&[256, 192]));
    let node = graph.node("GemmFloat8", 1, &[x, w], &[y]);
    graph.domain(node, "com.microsoft");
    graph.attribute(node, "transB", AttributeValue::Int(1));
    graph.attribute(node, "dtype", AttributeValue::Int(DType::F32.onnx().into()));
    graph.output(y);
    let symbols = symbols_of(&graph.build(), &[a, b]);
    let casts = symbols.iter().filter(|symbol| symbol.starts_with("narrow_cast")).count();
    assert!(casts == 2 && symbols[2].starts_with("matmul_bf16_bf16_f32_nt"), "{symbols:?}");
}

#[test]
fn dequantised_integers_are_multiplied_as_they_are() {
    let symbols = symbols_of(&coded(DType::I8, DType::F16, true), &[(DType::I8, &[256, 128])]);
    assert!(symbols.len() == 1 && symbols[0].starts_with("matmul_s8_s8_f16_nt"), "{symbols:?}");
    // Unsigned ones have a zero point of 0, which is none of signed ones: exact sums first.
    let symbols = symbols_of(&coded(DType::U8, DType::F16, true), &[(DType::U8, &[256, 128])]);
    let is_exact = symbols[1].starts_with("matmul_s8_s8_i32_nt") && symbols[2].starts_with("integer_result");
    assert!(symbols.len() == 3 && is_exact && symbols[0] == "signed_rows", "{symbols:?}");
}

#[test]
fn kinds_of_codes_without_matrix_units_are_declined_with_a_reason() {
    let device = open();
    let graph = coded(DType::F8E5M2, DType::F16, true);
    let claims = device.claim(graph.graph(), "").unwrap();
    assert_eq!(claims.declines[0].1, "products of f8e5m2 by f8e5m2 have no GPU kernel");
}

#[test]
fn a_filter_is_uploaded_in_the_form_that_is_read() {
    let used = |batch: i64| {
        let device = open();
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", DType::F16, Some(&[batch, 64, 56, 56]));
        let w = graph.constant("w", DType::F16, &[64, 64, 3, 3], &[0; 64 * 64 * 9 * 2]);
        let y = graph.value("y", DType::F16, Some(&[batch, 64, 56, 56]));
        let node = graph.node("Conv", 11, &[x, w], &[y]);
        graph.attribute(node, "pads", AttributeValue::Ints(vec![1; 4]));
        graph.output(y);
        let before = device.memory_info().unwrap().used_bytes;
        let graph = graph.build();
        let _session = Session::new(&device, &graph, 1);
        device.memory_info().unwrap().used_bytes - before
    };
    let filter = 64 * 64 * 9 * 2;
    assert!((filter..2 * filter).contains(&used(1)), "{}", used(1));
    // Which kernel computes it is not known yet.
    assert!(used(-1) >= 2 * filter, "{}", used(-1));
}

/// y = x W + bias with W of four bits in blocks along its inputs, as DequantizeLinear takes it.
#[test]
fn dequantised_weights_of_four_bits_become_packed_ones() {
    let device = open();
    let mut random = fastrand::Rng::with_seed(13);
    for (dtype, is_transposed) in [(DType::U4, false), (DType::I4, false), (DType::U4, true)] {
        let (n, k) = (70usize, 192usize);
        let blocks = k / 32;
        let codes: Vec<u8> = (0..n * k / 2).map(|_| random.u8(..)).collect();
        let zeros: Vec<u8> = (0..n * blocks / 2).map(|_| random.u8(..)).collect();
        let scales = Array::new(&[(n * blocks) as i64], |_| random.f32() * 0.1 + 0.01);
        let bias = Array::random(&[n as i64], &mut random);
        let number = |bytes: &[u8], at: usize| {
            let code = i32::from(bytes[at / 2] >> (at % 2 * 4) & 15);
            if dtype == DType::I4 && code > 7 { code - 16 } else { code }
        };
        let weight = |row: usize, input: usize| {
            let (at, group) = match is_transposed {
                true => (row * k + input, row * blocks + input / 32),
                false => (input * n + row, input / 32 * n + row),
            };
            (number(&codes, at) - number(&zeros, group)) as f32 * scales.values[group]
        };
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", DType::F32, Some(&[-1, k as i64]));
        let ordered = |rows: usize| match is_transposed {
            true => [n as i64, rows as i64],
            false => [rows as i64, n as i64],
        };
        let b = graph.constant("b", dtype, &ordered(k), &codes);
        let s = graph.constant("s", DType::F32, &ordered(blocks), &scales.bytes());
        let z = graph.constant("z", dtype, &ordered(blocks), &zeros);
        let c = graph.constant("c", DType::F32, &bias.dims, &bias.bytes());
        let y = graph.value("y", DType::F32, Some(&[-1, n as i64]));
        let none = tenon_plugin_api::ffi::NO_VALUE;
        let node = graph.node("QuantizedMatMul", 1, &[x, b, c, none, none, none, s, z], &[y]);
        graph.domain(node, "tenon");
        let axis = if is_transposed { 1 } else { 0 };
        for (name, value) in
            [("dtype", 1), ("b_axis", axis), ("b_block_size", 32), ("transB", is_transposed.into())]
        {
            graph.attribute(node, name, AttributeValue::Int(value));
        }
        graph.output(y);
        let mut session = Session::new(&device, &graph.build(), 1);
        let x = Array::random(&[2, k as i64], &mut random);
        device.timeline_start().unwrap();
        let y = session.run(std::slice::from_ref(&x)).remove(0);
        let timeline = device.timeline_stop().unwrap();
        assert!(timeline.len() == 1 && timeline[0].symbol.starts_with("stream_f32_w4_g32_z__"));
        for (at, got) in y.values.iter().enumerate() {
            let (token, row) = (at / n, at % n);
            let term = |i: usize| f64::from(x.values[token * k + i]) * f64::from(weight(row, i));
            let exact = (0..k).map(term).sum::<f64>() + f64::from(bias.values[row]);
            assert!((f64::from(*got) - exact).abs() < 1e-3, "{dtype:?} at {token}, {row}: {got} {exact}");
        }
    }
}

#[test]
fn masks_and_paddings_of_attention_are_read_by_matrix_units() {
    let heads = (DType::F16, &[2i64, 4, 64, 64][..]);
    let mask = (DType::Bool, &[2i64, 1, 64, 64][..]);
    let mut graph = GraphBuilder::new();
    let inputs = [("q", heads), ("k", heads), ("v", heads), ("mask", mask)];
    let names = inputs.map(|(name, (dtype, dims))| graph.input(name, dtype, Some(dims)));
    let y = graph.value("y", DType::F16, Some(heads.1));
    graph.node("Attention", 23, &names, &[y]);
    graph.output(y);
    let symbols = symbols_of(&graph.build(), &inputs.map(|(_, input)| input));
    assert!(symbols.len() == 1 && symbols[0].starts_with("attention_f16_d64_memory__"), "{symbols:?}");

    let rows = (DType::F16, &[2i64, 64, 256][..]);
    let padding = (DType::I32, &[2i64, 64][..]);
    let mut graph = GraphBuilder::new();
    let inputs = [("q", rows), ("k", rows), ("v", rows), ("padding", padding)];
    let [q, k, v, padding] = inputs.map(|(name, (dtype, dims))| graph.input(name, dtype, Some(dims)));
    let y = graph.value("y", DType::F16, Some(rows.1));
    let none = tenon_plugin_api::ffi::NO_VALUE;
    let node = graph.node("MultiHeadAttention", 1, &[q, k, v, none, padding], &[y]);
    graph.domain(node, "com.microsoft");
    graph.attribute(node, "num_heads", AttributeValue::Int(4));
    graph.output(y);
    let symbols = symbols_of(&graph.build(), &inputs.map(|(_, input)| input));
    let starts = ["attention_plain_masks_f16", "attention_f16_d64_memory__"];
    assert!(
        symbols.len() == 2 && symbols.iter().zip(starts).all(|(s, start)| s.starts_with(start)),
        "{symbols:?}"
    );
}
