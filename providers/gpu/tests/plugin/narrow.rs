//! Elements of 8 bits and less on kernels compiled for the host: casts, scales of every granularity, movement, and reasons.

use tenon_kernels::cpu::minifloat::{Float8, PowerRounding, decode_e8m0, encode_e2m1, encode_e8m0};
use tenon_plugin_api::host::{AttributeValue, GraphBuilder, OwnedGraph};
use tenon_plugin_api::{DType, ffi};

use crate::harness::{Raw, Session, open};

pub const FLOAT8: [(DType, Float8); 4] = [
    (DType::F8E4M3FN, Float8::E4M3Fn),
    (DType::F8E4M3FNUZ, Float8::E4M3FnUz),
    (DType::F8E5M2, Float8::E5M2),
    (DType::F8E5M2FNUZ, Float8::E5M2FnUz),
];

pub fn f32s(dims: &[i64], values: &[f32]) -> Raw {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Raw { dtype: DType::F32, dims: dims.to_vec(), bytes }
}

/// A graph of one node with the given inputs and one output.
pub fn single(
    (domain, op, version): (&str, &str, u32),
    attributes: &[(&str, AttributeValue)],
    inputs: &[(DType, &[i64])],
    output: (DType, &[i64]),
) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let values: Vec<u32> = inputs
        .iter()
        .zip(names)
        .map(|(&(dtype, dims), name)| match dtype {
            DType::Undefined => ffi::NO_VALUE,
            _ => graph.input(name, dtype, Some(dims)),
        })
        .collect();
    let y = graph.value("y", output.0, Some(output.1));
    let node = graph.node(op, version, &values, &[y]);
    graph.domain(node, domain);
    for (name, value) in attributes {
        graph.attribute(node, name, value.clone());
    }
    graph.output(y);
    graph.build()
}

fn cast(from: &Raw, to: DType, attributes: &[(&str, AttributeValue)]) -> Raw {
    let device = open(&[]);
    let graph = single(("", "Cast", 24), attributes, &[(from.dtype, &from.dims)], (to, &from.dims));
    Session::new(&device, &graph, 1).run_raw(std::slice::from_ref(from)).remove(0)
}

/// Numbers of every magnitude, halfway cases of all small floats among them, and what is no number.
fn numbers(random: &mut fastrand::Rng) -> Vec<f32> {
    let mut values =
        vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE];
    for (_, format) in FLOAT8 {
        let codes: Vec<f32> = (0..=127u8).map(|code| format.decode(code)).filter(|v| v.is_finite()).collect();
        values.extend(codes.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0));
        values.extend(codes.iter().map(|v| -v));
    }
    values.extend((0..500).map(|_| f32::from_bits(random.u32(..))));
    values.extend((0..500).map(|_| (random.f32() - 0.5) * 2f32.powi(random.i32(-20..18))));
    values
}

#[test]
fn casts_to_floats_of_8_bits_round_to_even_and_saturate_as_asked() {
    let mut random = fastrand::Rng::with_seed(31);
    let values = numbers(&mut random);
    for (dtype, format) in FLOAT8 {
        for saturate in [true, false] {
            let attributes = [("saturate", AttributeValue::Int(saturate.into()))];
            let count = [values.len() as i64];
            let from_f32 = cast(&f32s(&count, &values), dtype, &attributes);
            let wide: Vec<u8> = values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
            let wide = Raw { dtype: DType::F64, dims: count.to_vec(), bytes: wide };
            let from_f64 = cast(&wide, dtype, &attributes);
            for (at, &value) in values.iter().enumerate() {
                let wanted = format.encode(value, saturate);
                for code in [from_f32.bytes[at], from_f64.bytes[at]] {
                    let both_nan = format.decode(code).is_nan() && format.decode(wanted).is_nan();
                    assert!(code == wanted || both_nan, "{value} to {dtype:?}: {code:#x} {wanted:#x}");
                }
            }
        }
        let codes = Raw { dtype, dims: vec![256], bytes: (0..=255).collect() };
        for (code, value) in cast(&codes, DType::F32, &[]).f32s().into_iter().enumerate() {
            let wanted = format.decode(code as u8);
            assert!(value.to_bits() == wanted.to_bits() || value.is_nan() && wanted.is_nan(), "{code:#x}");
        }
    }
}

#[test]
fn doubles_are_rounded_once() {
    // Just above halfway between two codes, by less than a float can tell.
    let above = 1.0625f64 + 1e-12;
    let raw = Raw { dtype: DType::F64, dims: vec![2], bytes: [above, -above].map(f64::to_le_bytes).concat() };
    assert_eq!(cast(&raw, DType::F8E4M3FN, &[]).bytes, [0x39, 0xb9]);
}

#[test]
fn powers_of_two_and_floats_of_4_bits_are_what_the_reference_says() {
    let mut random = fastrand::Rng::with_seed(32);
    let values: Vec<f32> = (0..999).map(|_| random.f32() * 2f32.powi(random.i32(-130..120))).collect();
    let raw = f32s(&[999], &values);
    for (mode, rounding) in
        [("up", PowerRounding::Up), ("down", PowerRounding::Down), ("nearest", PowerRounding::Nearest)]
    {
        let got = cast(&raw, DType::F8E8M0, &[("round_mode", AttributeValue::String(mode.into()))]);
        for (&value, &code) in values.iter().zip(&got.bytes) {
            assert_eq!(code, encode_e8m0(value, true, rounding), "{value} {mode}");
        }
        let back = cast(&got, DType::F32, &[]).f32s();
        assert!(back.iter().zip(&got.bytes).all(|(&value, &code)| value == decode_e8m0(code)));
    }
    let small: Vec<f32> = values.iter().map(|v| v.to_bits() as f32 % 16.0 - 8.0).collect();
    let got = cast(&f32s(&[999], &small), DType::F4E2M1, &[]);
    assert_eq!(got.bytes.len(), 500);
    for (at, &value) in small.iter().enumerate() {
        assert_eq!(got.bytes[at / 2] >> (at % 2 * 4) & 15, encode_e2m1(value), "{value}");
    }
}

#[test]
fn packed_integers_keep_their_low_bits_and_their_sign() {
    let values: Vec<f32> = (-21..22).map(|i| i as f32 + if i % 3 == 0 { 0.75 } else { 0.0 }).collect();
    let raw = f32s(&[43], &values);
    for (dtype, bits, is_signed) in
        [(DType::I4, 4, true), (DType::U4, 4, false), (DType::I2, 2, true), (DType::U2, 2, false)]
    {
        let packed = cast(&raw, dtype, &[]);
        assert_eq!(packed.bytes.len(), (43 * bits as usize).div_ceil(8));
        let got: Vec<i32> = cast(&packed, DType::I32, &[])
            .bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| i32::from_le_bytes(b))
            .collect();
        for (&value, &got) in values.iter().zip(&got) {
            let low = (value as i32) & ((1 << bits) - 1);
            let wanted = if is_signed && low >> (bits - 1) == 1 { low - (1 << bits) } else { low };
            assert_eq!(got, wanted, "{value} as {dtype:?}");
        }
    }
}

/// What a quantisation of `x` by `scale` at `place` must give, and back.
fn check_linear(
    code: DType,
    format: Option<Float8>,
    dims: [i64; 2],
    scale_dims: &[i64],
    axis: i64,
    block: i64,
) {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(33);
    let [rows, columns] = dims.map(|dim| dim as usize);
    let scales: Vec<f32> = (0..scale_dims.iter().product::<i64>()).map(|_| random.f32() + 0.25).collect();
    let x: Vec<f32> = (0..rows * columns).map(|_| (random.f32() - 0.5) * 40.0).collect();
    let place = |at: usize| match (scale_dims, block) {
        ([], _) => 0,
        ([_], _) => {
            if axis == 0 {
                at / columns
            } else {
                at % columns
            }
        }
        (_, block) if axis == 0 => at / columns / block as usize * columns + at % columns,
        (&[_, blocks, ..], block) => at / columns * blocks as usize + at % columns / block as usize,
    };
    let attributes = [
        ("axis", AttributeValue::Int(axis)),
        ("block_size", AttributeValue::Int(block)),
        ("output_dtype", AttributeValue::Int(code.onnx().into())),
    ];
    let inputs = [(DType::F32, &dims[..]), (DType::F32, scale_dims)];
    let graph = single(("", "QuantizeLinear", 23), &attributes, &inputs, (code, &dims));
    let given = [f32s(&dims, &x), f32s(scale_dims, &scales)];
    let codes = Session::new(&device, &graph, 1).run_raw(&given).remove(0);
    let inputs = [(code, &dims[..]), (DType::F32, scale_dims)];
    let graph = single(("", "DequantizeLinear", 23), &attributes[..2], &inputs, (DType::F32, &dims));
    let given = [codes.clone(), f32s(scale_dims, &scales)];
    let back = Session::new(&device, &graph, 1).run_raw(&given).remove(0).f32s();
    for (at, &value) in x.iter().enumerate() {
        let scale = scales[place(at)];
        let (wanted, number) = match format {
            Some(format) => {
                let code = format.encode(value / scale, true);
                (code, format.decode(code))
            }
            None => {
                let code = (value / scale).round_ties_even().clamp(-8.0, 7.0);
                (code as i8 as u8 & 15, code)
            }
        };
        let own = match format {
            Some(_) => codes.bytes[at],
            None => codes.bytes[at / 2] >> (at % 2 * 4) & 15,
        };
        assert_eq!(own, wanted, "{value} by {scale} in {code:?}, {scale_dims:?}");
        assert_eq!(back[at], number * scale);
    }
}

#[test]
fn scales_may_be_shared_by_all_an_axis_or_blocks_that_need_not_divide_it() {
    for (code, format) in
        [(DType::F8E4M3FN, Some(Float8::E4M3Fn)), (DType::F8E5M2, Some(Float8::E5M2)), (DType::I4, None)]
    {
        check_linear(code, format, [6, 8], &[], 1, 0);
        check_linear(code, format, [6, 8], &[8], 1, 0);
        check_linear(code, format, [6, 7], &[6], 0, 0);
        check_linear(code, format, [4, 32], &[4, 2], 1, 16);
        check_linear(code, format, [5, 9], &[5, 3], 1, 4);
        check_linear(code, format, [5, 9], &[2, 9], 0, 3);
    }
}

/// One scale for all, and one for each row.
#[test]
fn packs_of_elements_become_the_codes_of_the_reference() {
    let mut random = fastrand::Rng::with_seed(36);
    let mut values = numbers(&mut random);
    values.truncate(values.len() / 48 * 48);
    let (columns, rows) = (values.len() as i64 / 3, 3);
    for (real, scales) in
        [DType::F32, DType::F16, DType::BF16].into_iter().flat_map(|real| [(real, 1), (real, rows)])
    {
        let rounded = |v: f32| match real {
            DType::F16 => half::f16::from_f32(v).to_f32(),
            DType::BF16 => half::bf16::from_f32(v).to_f32(),
            _ => v,
        };
        let raw = |dims: &[i64], values: &[f32]| {
            let bytes = values.iter().flat_map(|&v| match real {
                DType::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
                DType::BF16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
                _ => v.to_le_bytes().to_vec(),
            });
            Raw { dtype: real, dims: dims.to_vec(), bytes: bytes.collect() }
        };
        let steps: Vec<f32> = [0.37f32, -1.5, 64.0][..scales as usize].iter().map(|&v| rounded(v)).collect();
        let quotient = |at: usize| {
            let row = if scales == 1 { 0 } else { at / columns as usize };
            rounded(rounded(values[at]) / steps[row])
        };
        let x = raw(&[rows, columns], &values);
        let scale = if scales == 1 { raw(&[], &steps) } else { raw(&[rows], &steps) };
        for code in [DType::F8E4M3FN, DType::F8E5M2, DType::I8, DType::U8] {
            let zero = if code == DType::U8 { 131 } else { 0 };
            let zeros = Raw { dtype: code, dims: scale.dims.clone(), bytes: vec![zero; steps.len()] };
            let inputs = [(real, &x.dims[..]), (real, &scale.dims), (code, &zeros.dims)];
            let axis = [("axis", AttributeValue::Int(0))];
            let graph = single(("", "QuantizeLinear", 21), &axis, &inputs, (code, &x.dims));
            let device = open(&[]);
            device.timeline_start().unwrap();
            let got = Session::new(&device, &graph, 1).run_raw(&[x.clone(), scale.clone(), zeros]).remove(0);
            assert_eq!(device.timeline_stop().unwrap()[0].symbol, "narrow_quantize_packs");
            for (at, &byte) in got.bytes.iter().enumerate() {
                let q = quotient(at);
                let whole = f64::from(q).round_ties_even() + f64::from(zero);
                let (want, is_nan) = match code {
                    DType::I8 => (whole.clamp(-128.0, 127.0) as i8 as u8, false),
                    DType::U8 => (whole.clamp(0.0, 255.0) as u8, false),
                    _ => {
                        let (_, format) = FLOAT8.into_iter().find(|(dtype, _)| *dtype == code).unwrap();
                        let want = format.encode(q + 0.0, true);
                        (want, format.decode(want).is_nan() && format.decode(byte).is_nan())
                    }
                };
                assert!(byte == want || is_nan, "{q} of {} to {code}: {byte:#x}, not {want:#x}", values[at]);
            }
        }
    }
}

#[test]
fn codes_of_8_bits_are_moved_as_bytes() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(34);
    let bytes: Vec<u8> = (0..24).map(|_| random.u8(..)).collect();
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F8E4M3FN, Some(&[4, 6]));
    let index = graph.constant("index", DType::I64, &[2], &[2i64, 0].map(i64::to_le_bytes).concat());
    let turned = graph.value("turned", DType::F8E4M3FN, Some(&[6, 4]));
    let picked = graph.value("picked", DType::F8E4M3FN, Some(&[2, 4]));
    let joined = graph.value("joined", DType::F8E4M3FN, Some(&[8, 4]));
    graph.node("Transpose", 23, &[x], &[turned]);
    graph.node("Gather", 13, &[turned, index], &[picked]);
    let concat = graph.node("Concat", 13, &[turned, picked], &[joined]);
    graph.attribute(concat, "axis", AttributeValue::Int(0));
    graph.output(joined);
    let mut session = Session::new(&device, &graph.build(), 1);
    let got = session.run_raw(&[Raw { dtype: DType::F8E4M3FN, dims: vec![4, 6], bytes: bytes.clone() }]);
    let row = |r: usize| (0..4).map(move |c| c * 6 + r);
    let wanted: Vec<u8> = (0..6).chain([2, 0]).flat_map(row).map(|at| bytes[at]).collect();
    assert_eq!((got[0].dtype, &got[0].bytes), (DType::F8E4M3FN, &wanted));
}

#[test]
fn kernels_that_do_not_know_small_elements_decline_them() {
    let device = open(&[]);
    let reason = |op: &str, dtype: DType| {
        let graph = single(("", op, 23), &[], &[(dtype, &[4, 6])], (dtype, &[4, 6]));
        device.claim(graph.graph(), "").unwrap().declines[0].1.clone()
    };
    assert_eq!(reason("Relu", DType::F8E5M2), "elements of type float8e5m2 have no GPU kernel for Relu");
    assert_eq!(reason("Transpose", DType::I4), "elements of type int4 have no GPU kernel for Transpose");
    assert!(reason("Identity", DType::F6E2M3).contains("float6e2m3"));
}
