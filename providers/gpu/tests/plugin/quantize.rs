//! Quantised tensors on kernels compiled for the host: exact integers, half-even rounding, scales of every granularity.

use tenon_plugin_api::host::{AttributeValue, GraphBuilder, OwnedGraph};
use tenon_plugin_api::{DType, ffi};

use crate::harness::{Array, Raw, Session, open};

/// x of f32 to u8 and back, with one scale or one for each column.
fn round_trip(scales: &[f32], zeros: &[u8], dims: [i64; 2], block: i64) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&dims));
    let bytes: Vec<u8> = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = match (scales.len(), block) {
        (1, _) => vec![],
        (count, 0) => vec![count as i64],
        _ => vec![dims[0], dims[1] / block],
    };
    let scale = graph.constant("scale", DType::F32, &shape, &bytes);
    let zero = graph.constant("zero", DType::U8, &shape, zeros);
    let q = graph.value("q", DType::U8, Some(&dims));
    let y = graph.value("y", DType::F32, Some(&dims));
    for (op, input, output) in [("QuantizeLinear", x, q), ("DequantizeLinear", q, y)] {
        let node = graph.node(op, 21, &[input, scale, zero], &[output]);
        graph.attribute(node, "axis", AttributeValue::Int(1));
        graph.attribute(node, "block_size", AttributeValue::Int(block));
    }
    graph.output(q);
    graph.output(y);
    graph.build()
}

#[test]
fn values_become_integers_and_come_back_within_half_a_step() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(21);
    for (scales, zeros, block) in [
        (vec![0.02], vec![128], 0),
        (vec![0.02, 0.5, 1.0, 0.01, 0.1, 0.25], vec![0, 3, 128, 255, 7, 100], 0),
        (vec![0.02, 0.5, 1.0, 0.01, 0.1, 0.25, 2.0, 0.125], vec![1, 2, 3, 4, 5, 6, 7, 8], 3),
    ] {
        let mut session = Session::new(&device, &round_trip(&scales, &zeros, [4, 6], block), 2);
        let x = Array::new(&[4, 6], |_| random.f32() * 8.0 - 4.0);
        let [q, y] = &session.run_raw(&[Raw::from(&x)])[..] else { panic!("two outputs") };
        for (at, &value) in x.values.iter().enumerate() {
            let own = match (scales.len(), block) {
                (1, _) => 0,
                (_, 0) => at % 6,
                _ => at / 6 * 2 + at % 6 / 3,
            };
            let step = (value / scales[own]).round_ties_even() + f32::from(zeros[own]);
            let code = step.clamp(0.0, 255.0);
            assert_eq!(f32::from(q.bytes[at]), code, "{value} by {} + {}", scales[own], zeros[own]);
            assert_eq!(y.f32s()[at], (code - f32::from(zeros[own])) * scales[own]);
        }
    }
}

#[test]
fn integer_products_are_exact_with_every_kind_of_zero_point() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(22);
    let (m, k, n) = (3usize, 20usize, 5usize);
    for (a_type, b_type, a_zeros, b_zeros) in [
        (DType::U8, DType::I8, 1, 1),
        (DType::I8, DType::I8, 0, 0),
        (DType::U8, DType::U8, 1, n),
        (DType::I8, DType::U8, m, 1),
    ] {
        let mut bytes = |count: usize| (0..count).map(|_| random.u8(..)).collect::<Vec<u8>>();
        let (a, b, za, zb) = (bytes(m * k), bytes(k * n), bytes(a_zeros), bytes(b_zeros));
        let number = |dtype: DType, byte: u8| match dtype {
            DType::U8 => i32::from(byte),
            _ => i32::from(byte.cast_signed()),
        };
        let mut graph = GraphBuilder::new();
        let x = graph.input("a", a_type, Some(&[m as i64, k as i64]));
        let w = graph.constant("b", b_type, &[k as i64, n as i64], &b);
        let mut inputs = vec![x, w];
        for (name, dtype, zeros) in [("za", a_type, &za), ("zb", b_type, &zb)] {
            let shape: &[i64] = if zeros.len() == 1 { &[] } else { &[zeros.len() as i64] };
            inputs.push(match zeros.is_empty() {
                true => ffi::NO_VALUE,
                false => graph.constant(name, dtype, shape, zeros),
            });
        }
        let y = graph.value("y", DType::I32, Some(&[m as i64, n as i64]));
        graph.node("MatMulInteger", 10, &inputs, &[y]);
        graph.output(y);
        let mut session = Session::new(&device, &graph.build(), 1);
        let input = Raw { dtype: a_type, dims: vec![m as i64, k as i64], bytes: a.clone() };
        let got: Vec<i32> =
            session.run_raw(&[input])[0].bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
        let zero = |zeros: &[u8], dtype, at: usize| match zeros {
            [] => 0,
            [one] => number(dtype, *one),
            many => number(dtype, many[at]),
        };
        for (at, &got) in got.iter().enumerate() {
            let (row, column) = (at / n, at % n);
            let term = |i: usize| {
                let left = number(a_type, a[row * k + i]) - zero(&za, a_type, row);
                left * (number(b_type, b[i * n + column]) - zero(&zb, b_type, column))
            };
            assert_eq!(got, (0..k).map(term).sum::<i32>(), "{a_type} {b_type} at {row}, {column}");
        }
    }
}
