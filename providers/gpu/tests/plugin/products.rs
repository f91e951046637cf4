//! Products and convolutions of codes on kernels compiled for the host: exact integers, zero points and scales of every
//! kind, what follows them, and floats of 8 bits on devices without kernels for them.

use tenon_kernels::cpu::minifloat::Float8;
use tenon_plugin_api::DType;
use tenon_plugin_api::host::AttributeValue;

use crate::harness::{Raw, Session, open};
use crate::narrow::{f32s, single};

fn bytes(dtype: DType, dims: &[i64], random: &mut fastrand::Rng) -> Raw {
    let count = dims.iter().product::<i64>();
    Raw { dtype, dims: dims.to_vec(), bytes: (0..count).map(|_| random.u8(..)).collect() }
}

/// The elements of a tensor of bytes.
fn numbers(raw: &Raw) -> Vec<i64> {
    let number =
        |&byte: &u8| if raw.dtype == DType::I8 { i64::from(byte.cast_signed()) } else { i64::from(byte) };
    raw.bytes.iter().map(number).collect()
}

fn at(values: &[i64], index: usize) -> i64 {
    values.get(index % values.len().max(1)).copied().unwrap_or(0)
}

/// `(a - za)(b - zb)` of row-major matrices, `batches` of them; one B for all where it is smaller.
fn sums(a: &Raw, za: &Raw, b: &Raw, zb: &Raw, [m, n, k]: [usize; 3], batches: usize) -> Vec<i64> {
    let (left, right, a_zeros, b_zeros) = (numbers(a), numbers(b), numbers(za), numbers(zb));
    (0..batches * m * n)
        .map(|i| {
            let (batch, row, column) = (i / n / m, i / n % m, i % n);
            let own = if right.len() > k * n { batch * k * n } else { 0 };
            let term = |d: usize| {
                let x = left[(batch * m + row) * k + d] - at(&a_zeros, row);
                x * (right[own + d * n + column] - at(&b_zeros, column))
            };
            (0..k).map(term).sum()
        })
        .collect()
}

fn run(
    node: (&str, &str, u32),
    attributes: &[(&str, AttributeValue)],
    inputs: &[Raw],
    output: (DType, &[i64]),
) -> Raw {
    let device = open(&[]);
    let declared: Vec<(DType, &[i64])> = inputs.iter().map(|raw| (raw.dtype, &raw.dims[..])).collect();
    let graph = single(node, attributes, &declared, output);
    let given: Vec<Raw> = inputs.iter().filter(|raw| raw.dtype != DType::Undefined).cloned().collect();
    let got = Session::new(&device, &graph, 1).run_raw(&given).remove(0);
    assert_eq!((got.dtype, &got.dims[..]), output, "{}", node.1);
    got
}

fn absent() -> Raw {
    Raw { dtype: DType::Undefined, dims: Vec::new(), bytes: Vec::new() }
}

#[test]
fn integer_products_of_batches_and_variables_are_exact() {
    let mut random = fastrand::Rng::with_seed(41);
    let (m, n, k) = (5usize, 7usize, 33usize);
    for (a_type, b_type, batches, b_batches, za, zb) in [
        (DType::U8, DType::U8, 1, 1, 1, 1),
        (DType::I8, DType::I8, 3, 1, 0, 0),
        (DType::U8, DType::I8, 2, 2, 5, 7),
        (DType::I8, DType::U8, 2, 2, 1, 7),
    ] {
        let (m_, n_, k_) = (m as i64, n as i64, k as i64);
        let a = bytes(a_type, &[batches, m_, k_], &mut random);
        let b =
            bytes(b_type, &if b_batches == 1 { vec![k_, n_] } else { vec![b_batches, k_, n_] }, &mut random);
        let zero = |dtype, count: i64, random: &mut fastrand::Rng| match count {
            0 => absent(),
            1 => bytes(dtype, &[], random),
            count => bytes(dtype, &[count], random),
        };
        let (za, zb) = (zero(a_type, za, &mut random), zero(b_type, zb, &mut random));
        let wanted = sums(&a, &za, &b, &zb, [m, n, k], batches as usize);
        let output = (DType::I32, &[batches, m_, n_][..]);
        let got = run(("", "MatMulInteger", 10), &[], &[a, b, za, zb], output);
        let got: Vec<i64> =
            got.bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect();
        assert_eq!(got, wanted, "{a_type:?} {b_type:?}");
    }
}

#[test]
fn quantised_products_are_rounded_once() {
    let mut random = fastrand::Rng::with_seed(42);
    let (m, n, k) = (4usize, 12usize, 40usize);
    for (dtype, scales) in [(DType::U8, 1i64), (DType::I8, 12)] {
        let a = bytes(dtype, &[m as i64, k as i64], &mut random);
        let b = bytes(dtype, &[k as i64, n as i64], &mut random);
        let (za, zb) = (bytes(dtype, &[], &mut random), bytes(dtype, &[], &mut random));
        let zy = bytes(dtype, &[], &mut random);
        let a_scale = f32s(&[], &[0.02]);
        let b_scale = f32s(
            &if scales == 1 { vec![] } else { vec![scales] },
            &(0..scales).map(|_| random.f32() * 0.05 + 0.01).collect::<Vec<_>>(),
        );
        let y_scale = f32s(&[], &[1.5]);
        let wanted = sums(&a, &za, &b, &zb, [m, n, k], 1);
        let (zero, steps) = (numbers(&zy)[0] as f32, b_scale.f32s());
        let inputs = [a, a_scale, za, b, b_scale, zb, y_scale, zy];
        let got = run(("", "QLinearMatMul", 21), &[], &inputs, (dtype, &[m as i64, n as i64]));
        let (low, high) = if dtype == DType::I8 { (-128.0, 127.0) } else { (0.0, 255.0) };
        for (at, (&sum, got)) in wanted.iter().zip(numbers(&got)).enumerate() {
            let scale = 0.02 * steps[at % n % steps.len()] / 1.5;
            let value = ((sum as f32 * scale).round_ties_even() + zero).clamp(low, high);
            assert_eq!(got as f32, value, "{dtype:?} at {at}: {sum}");
        }
    }
}

#[test]
fn products_with_float_results_and_scales_found_at_run_time_agree() {
    let mut random = fastrand::Rng::with_seed(43);
    let (m, n, k) = (3usize, 8usize, 50usize);
    let x: Vec<f32> = (0..m * k).map(|_| random.f32() * 6.0 - 2.0).collect();
    let b = bytes(DType::I8, &[k as i64, n as i64], &mut random);
    let steps: Vec<f32> = (0..n).map(|_| random.f32() * 0.1).collect();
    let bias: Vec<f32> = (0..n).map(|_| random.f32()).collect();
    let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v)));
    let step = (high - low) / 255.0;
    let zero = (-low / step).round_ties_even().clamp(0.0, 255.0);
    let codes: Vec<f32> = x.iter().map(|v| ((v / step).round_ties_even() + zero).clamp(0.0, 255.0)).collect();
    let dims = [m as i64, n as i64];
    let inputs = [
        f32s(&[m as i64, k as i64], &x),
        b.clone(),
        f32s(&[n as i64], &steps),
        absent(),
        f32s(&[n as i64], &bias),
    ];
    let dynamic =
        run(("com.microsoft", "DynamicQuantizeMatMul", 1), &[], &inputs, (DType::F32, &dims)).f32s();
    let a = Raw {
        dtype: DType::U8,
        dims: vec![m as i64, k as i64],
        bytes: codes.iter().map(|&v| v as u8).collect(),
    };
    let za = Raw { dtype: DType::U8, dims: vec![], bytes: vec![zero as u8] };
    let inputs =
        [a, b.clone(), f32s(&[], &[step]), f32s(&[n as i64], &steps), za, absent(), f32s(&[n as i64], &bias)];
    let given = run(("com.microsoft", "MatMulIntegerToFloat", 1), &[], &inputs, (DType::F32, &dims)).f32s();
    let right = numbers(&b);
    for at in 0..m * n {
        let term = |d: usize| f64::from(codes[at / n * k + d] - zero) * right[d * n + at % n] as f64;
        let exact = (0..k).map(term).sum::<f64>() * f64::from(step) * f64::from(steps[at % n])
            + f64::from(bias[at % n]);
        for got in [dynamic[at], given[at]] {
            assert!((f64::from(got) - exact).abs() < 1e-4 * exact.abs().max(1.0), "{got} {exact}");
        }
    }
}

#[test]
fn transposed_quantised_products_add_integers_before_scaling() {
    let mut random = fastrand::Rng::with_seed(44);
    let (m, n, k) = (6usize, 9usize, 21usize);
    let a = bytes(DType::U8, &[k as i64, m as i64], &mut random);
    let b = bytes(DType::I8, &[n as i64, k as i64], &mut random);
    let (za, zb) = (bytes(DType::U8, &[], &mut random), bytes(DType::I8, &[], &mut random));
    let c: Vec<i32> = (0..n).map(|_| random.i32(-999..999)).collect();
    let (left, right, zero_a, zero_b) = (numbers(&a), numbers(&b), numbers(&za)[0], numbers(&zb)[0]);
    let attributes = [
        ("transA", AttributeValue::Int(1)),
        ("transB", AttributeValue::Int(1)),
        ("alpha", AttributeValue::Float(0.5)),
    ];
    let inputs = [a, f32s(&[], &[0.1]), za, b, f32s(&[], &[0.3]), zb, Raw::i32s(&[n as i64], &c)];
    let got = run(("com.microsoft", "QGemm", 1), &attributes, &inputs, (DType::F32, &[m as i64, n as i64]));
    for (at, got) in got.f32s().into_iter().enumerate() {
        let (row, column) = (at / n, at % n);
        let term = |d: usize| (left[d * m + row] - zero_a) * (right[column * k + d] - zero_b);
        let sum = (0..k).map(term).sum::<i64>() + i64::from(c[column]);
        let exact = sum as f64 * 0.5 * 0.1 * 0.3;
        assert!((f64::from(got) - exact).abs() < 1e-4 * exact.abs().max(1.0), "{got} {exact}");
    }
}

#[test]
fn convolutions_of_bytes_are_exact_in_one_group_and_in_several() {
    let mut random = fastrand::Rng::with_seed(45);
    let (batch, height, width, window) = (2usize, 7usize, 6usize, 3usize);
    for (groups, ins, outs, w_zeros, x_type, w_type) in [
        (1usize, 3usize, 5usize, 5i64, DType::U8, DType::U8),
        (1, 4, 4, 0, DType::I8, DType::I8),
        (2, 2, 3, 1, DType::U8, DType::I8),
        (4, 1, 1, 4, DType::U8, DType::I8),
    ] {
        let (channels, outputs) = (groups * ins, groups * outs);
        let x = bytes(x_type, &[batch, channels, height, width].map(|d| d as i64), &mut random);
        let w = bytes(w_type, &[outputs, ins, window, window].map(|d| d as i64), &mut random);
        let zx = bytes(x_type, &[], &mut random);
        let zw = match w_zeros {
            0 => absent(),
            1 => bytes(w_type, &[], &mut random),
            _ => bytes(w_type, &[outputs as i64], &mut random),
        };
        let (rows, columns) = ((height + 2 - window) / 2 + 1, (width + 2 - window) / 2 + 1);
        let (image, filter, zero_x, zero_w) = (numbers(&x), numbers(&w), numbers(&zx)[0], numbers(&zw));
        let attributes = [
            ("pads", AttributeValue::Ints(vec![1; 4])),
            ("strides", AttributeValue::Ints(vec![2; 2])),
            ("group", AttributeValue::Int(groups as i64)),
        ];
        let shape = [batch, outputs, rows, columns].map(|d| d as i64);
        let got = run(("", "ConvInteger", 10), &attributes, &[x, w, zx, zw], (DType::I32, &shape));
        let got: Vec<i32> = got.bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
        for (place, &got) in got.iter().enumerate() {
            let (column, row, output) =
                (place % columns, place / columns % rows, place / columns / rows % outputs);
            let image_at = place / columns / rows / outputs;
            let mut sum = 0;
            for c in 0..ins {
                let plane = image_at * channels + output / outs * ins + c;
                for tap in 0..window * window {
                    let (y, x) = (row * 2 + tap / window, column * 2 + tap % window);
                    if !(1..=height).contains(&y) || !(1..=width).contains(&x) {
                        continue;
                    }
                    let value = image[(plane * height + y - 1) * width + x - 1] - zero_x;
                    sum += value * (filter[(output * ins + c) * window * window + tap] - at(&zero_w, output));
                }
            }
            assert_eq!(i64::from(got), sum, "{groups} groups at {place}");
        }
    }
}

/// The inputs of `tenon.QuantizedMatMul`: A, B, bias, residual, and scale and zero point of both.
#[test]
fn dequantised_products_are_computed_in_integers_with_all_that_follows() {
    let mut random = fastrand::Rng::with_seed(46);
    let (m, n, k) = (5usize, 8usize, 24usize);
    let a = bytes(DType::U8, &[m as i64, k as i64], &mut random);
    let b = bytes(DType::I8, &[k as i64, n as i64], &mut random);
    let (za, zb) = (bytes(DType::U8, &[], &mut random), bytes(DType::I8, &[n as i64], &mut random));
    let steps: Vec<f32> = (0..n).map(|_| random.f32() * 0.01 + 0.001).collect();
    let floats = |count: usize, random: &mut fastrand::Rng| -> Vec<f32> {
        (0..count).map(|_| random.f32() * 20.0 - 10.0).collect()
    };
    let (bias, residual) = (floats(n, &mut random), floats(m * n, &mut random));
    let wanted = sums(&a, &za, &b, &zb, [m, n, k], 1);
    let dims = [m as i64, n as i64];
    let inputs = [
        a,
        b,
        f32s(&[n as i64], &bias),
        f32s(&dims, &residual),
        f32s(&[], &[0.05]),
        za,
        f32s(&[n as i64], &steps),
        zb,
    ];
    let attributes = [
        ("activation", AttributeValue::String("Relu".into())),
        ("alpha", AttributeValue::Float(2.0)),
        ("b_axis", AttributeValue::Int(1)),
        ("dtype", AttributeValue::Int(1)),
    ];
    let got = run(("tenon", "QuantizedMatMul", 1), &attributes, &inputs, (DType::F32, &dims)).f32s();
    for (at, got) in got.into_iter().enumerate() {
        let product = wanted[at] as f64 * 2.0 * f64::from(0.05f32) * f64::from(steps[at % n]);
        let exact = (product + f64::from(bias[at % n]) + f64::from(residual[at])).max(0.0);
        assert!((f64::from(got) - exact).abs() < 1e-3, "at {at}: {got} {exact}");
    }
}

#[test]
fn products_of_floats_of_8_bits_fall_back_to_f32() {
    let mut random = fastrand::Rng::with_seed(47);
    let (m, n, k) = (4usize, 6usize, 10usize);
    for (a_type, b_type, a_format, b_format) in [
        (DType::F8E4M3FN, DType::F8E4M3FN, Float8::E4M3Fn, Float8::E4M3Fn),
        (DType::F8E5M2, DType::F8E4M3FN, Float8::E5M2, Float8::E4M3Fn),
    ] {
        let codes = |dtype, dims: &[i64], format: Float8, random: &mut fastrand::Rng| {
            let count = dims.iter().product::<i64>();
            let bytes = (0..count).map(|_| format.encode(random.f32() * 8.0 - 4.0, true)).collect();
            Raw { dtype, dims: dims.to_vec(), bytes }
        };
        let a = codes(a_type, &[m as i64, k as i64], a_format, &mut random);
        let b = codes(b_type, &[n as i64, k as i64], b_format, &mut random);
        let c: Vec<f32> = (0..n).map(|_| random.f32()).collect();
        let (left, right) = (a.bytes.clone(), b.bytes.clone());
        let inputs = [a, b, f32s(&[n as i64], &c), f32s(&[1], &[0.5]), f32s(&[1], &[3.0])];
        let attributes = [
            ("transB", AttributeValue::Int(1)),
            ("beta", AttributeValue::Float(2.0)),
            ("activation", AttributeValue::String("RELU".into())),
        ];
        let output = (DType::F32, &[m as i64, n as i64][..]);
        let got = run(("com.microsoft", "GemmFloat8", 1), &attributes, &inputs, output).f32s();
        for (at, got) in got.into_iter().enumerate() {
            let term = |d: usize| {
                let x = a_format.decode(left[at / n * k + d]);
                f64::from(x) * f64::from(b_format.decode(right[at % n * k + d]))
            };
            let exact = ((0..k).map(term).sum::<f64>() * 1.5 + 2.0 * f64::from(c[at % n])).max(0.0);
            assert!((f64::from(got) - exact).abs() < 1e-3, "{got} {exact}");
        }
    }
}
