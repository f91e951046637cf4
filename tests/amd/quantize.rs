//! Elements of 8 bits and less, and products of integers, on emulated devices: codes as the reference gives them, sums exact.

use tenon_kernels::cpu::minifloat::Float8;
use tenon_kernels::gpu::integer::{self, Conclusion, Side, Window, Zeros, pitch};
use tenon_kernels::gpu::matmul::{
    A, B, D, Element, Epilogue, Kind, Layout, Matrix, Output, Problem, plan_for,
};
use tenon_kernels::gpu::quantize::{self, Granularity, Linear, Rules, Sharing};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{random, upload};
use crate::harness::Machine;

const FLOAT8: [(Scalar, Float8); 4] = [
    (Scalar::F8E4M3FN, Float8::E4M3Fn),
    (Scalar::F8E4M3FNUZ, Float8::E4M3FnUz),
    (Scalar::F8E5M2, Float8::E5M2),
    (Scalar::F8E5M2FNUZ, Float8::E5M2FnUz),
];

#[test]
fn small_floats_are_rounded_as_the_reference_does() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut values: Vec<f32> = (0..600).map(|_| f32::from_bits(random.u32(..))).collect();
    values.extend((0..397).map(|_| (random.f32() - 0.5) * 2f32.powi(random.i32(-18..17))));
    values.extend([0.0, -0.0, f32::INFINITY, f32::NAN, 448.0, 464.0, 1.0 / 1024.0]);
    for machine in Machine::all() {
        let from = machine.upload(&values);
        for (scalar, format) in FLOAT8 {
            for saturate in [true, false] {
                let to = machine.poisoned(values.len());
                let rules = Rules { saturate, ..Rules::default() };
                let plan = quantize::cast(Scalar::F32, scalar, values.len(), rules).expect("a cast");
                machine.run(&plan, &[to, from]).expect("it runs");
                for (&value, code) in values.iter().zip(machine.download::<u8>(to, values.len())) {
                    let wanted = format.encode(value, saturate);
                    let is_nan = format.decode(code).is_nan() && format.decode(wanted).is_nan();
                    assert!(code == wanted || is_nan, "{value} in {scalar:?}: {code:#x} {wanted:#x}");
                }
            }
            let codes: Vec<u8> = (0..=255).collect();
            let (from, to) = (machine.upload(&codes), machine.poisoned(1024));
            let plan = quantize::cast(scalar, Scalar::F32, 256, Rules::default()).expect("a cast");
            machine.run(&plan, &[to, from]).expect("it runs");
            for (code, value) in machine.download::<f32>(to, 256).into_iter().enumerate() {
                let wanted = format.decode(code as u8);
                assert!(value.to_bits() == wanted.to_bits() || value.is_nan() && wanted.is_nan());
            }
        }
    }
}

#[test]
fn blocks_of_packed_integers_have_scales_and_zero_points() {
    let mut random = fastrand::Rng::with_seed(2);
    // Lines that are whole packs, and that are not.
    for columns in [21, 24, 64] {
        packed_integers(&mut random, columns);
    }
}

fn packed_integers(random: &mut fastrand::Rng, columns: usize) {
    let (rows, block) = (3usize, 8usize);
    let blocks = columns.div_ceil(block);
    let x: Vec<f32> = (0..rows * columns).map(|_| (random.f32() - 0.5) * 9.0).collect();
    let scales: Vec<f32> = (0..rows * blocks).map(|_| random.f32() + 0.3).collect();
    let zeros: Vec<u8> = (0..(rows * blocks).div_ceil(2)).map(|_| random.u8(..)).collect();
    let linear = Linear {
        real: Scalar::F32,
        code: Scalar::U4,
        scale: Scalar::F32,
        precision: Scalar::F32,
        has_zero: true,
        rules: Rules::default(),
        granularity: Granularity { extents: [rows, columns, 1], sharing: Sharing::Block(block) },
    };
    for machine in Machine::all() {
        let (from, s, z) = (machine.upload(&x), machine.upload(&scales), machine.upload(&zeros));
        let (codes, back) = (machine.poisoned(rows * columns / 2 + 1), machine.poisoned(4 * rows * columns));
        machine.run(&linear.quantize().expect("a plan"), &[codes, from, s, z]).expect("it runs");
        machine.run(&linear.dequantize().expect("a plan"), &[back, codes, s, z]).expect("it runs");
        let packed: Vec<u8> = machine.download(codes, (rows * columns).div_ceil(2));
        for (at, value) in machine.download::<f32>(back, rows * columns).into_iter().enumerate() {
            let place = at / columns * blocks + at % columns / block;
            let zero = f32::from(zeros[place / 2] >> (place % 2 * 4) & 15);
            let code = ((x[at] / scales[place]).round_ties_even() + zero).clamp(0.0, 15.0);
            assert_eq!(f32::from(packed[at / 2] >> (at % 2 * 4) & 15), code, "at {at}");
            assert_eq!(value, (code - zero) * scales[place]);
        }
    }
}

/// Unsigned A with a zero point for each row times signed B, on the family's matrix units and without them.
#[test]
fn sums_of_bytes_are_exact_and_scaled_once() {
    let mut random = fastrand::Rng::with_seed(3);
    let (m, n, k) = (37usize, 24usize, 45usize);
    let mut bytes = |count: usize| (0..count).map(|_| random.u8(..)).collect::<Vec<u8>>();
    let (a, b, zeros) = (bytes(m * k), bytes(n * k), bytes(m));
    let scales: Vec<f32> = (0..n).map(|at| 0.01 + at as f32 * 0.001).collect();
    for machine in Machine::all() {
        let rows = |bytes: &[u8], count: usize, is_unsigned: bool| {
            let (to, sums) = (machine.poisoned(count * pitch(k)), machine.poisoned(4 * count));
            let plan = integer::signed_rows(count, k, is_unsigned, [true, true]).expect("rows");
            machine.run(&plan, &[to, sums, machine.upload(bytes)]).expect("it runs");
            (to, sums)
        };
        let ((left, _), (right, sums)) = (rows(&a, m, true), rows(&b, n, false));
        let problem = Problem {
            kind: Kind { input: Element::S8, output: Output::I32, layout: Layout::NT },
            m,
            n,
            k: pitch(k),
            batches: 1,
            a: Matrix::packed(pitch(k)),
            b: Matrix::packed(pitch(k)),
            d: Matrix::packed(n),
            epilogue: Epilogue::default(),
        };
        let (tuned, plain) = (machine.poisoned(4 * m * n), machine.poisoned(4 * m * n));
        let mut operands = [0; D + 1];
        (operands[A], operands[B], operands[D]) = (left, right, tuned);
        let plan = plan_for(machine.family.name, &problem, &machine.chip()).expect("a product");
        machine.run(&plan, &operands).expect("it runs");
        let plan = integer::matmul([m, n, k], 1, [true, true]).expect("a product");
        machine.run(&plan, &[plain, left, right]).expect("it runs");
        assert_eq!(machine.download::<i32>(tuned, m * n), machine.download::<i32>(plain, m * n));
        let conclusion = Conclusion {
            extents: [m, n, 1],
            depth: k,
            rows: Side { zeros: Zeros::Stored { count: m, is_unsigned: true }, sums: 0, scales: None },
            columns: Side { zeros: Zeros::Known(0), sums: n, scales: Some((n, Scalar::F32)) },
            alpha: 0.5,
            result_scale: None,
            has_result_zero: false,
            bias: None,
            output: Scalar::F32,
        };
        let y = machine.poisoned(4 * m * n);
        let (z, s) = (machine.upload(&zeros), machine.upload(&scales));
        let plan = conclusion.plan().expect("a plan");
        machine.run(&plan, &[y, tuned, 0, sums, z, 0, 0, s, 0, 0, 0]).expect("it runs");
        for (at, got) in machine.download::<f32>(y, m * n).into_iter().enumerate() {
            let (row, column) = (at / n, at % n);
            let term = |d: usize| {
                let x = i32::from(a[row * k + d]) - i32::from(zeros[row]);
                x * i32::from(b[column * k + d].cast_signed())
            };
            let sum: i32 = (0..k).map(term).sum();
            let exact = f64::from(sum) * 0.5 * f64::from(scales[column]);
            assert!((f64::from(got) - exact).abs() <= 1e-5 * exact.abs().max(1.0), "{got} {exact}");
        }
    }
}

#[test]
fn windows_of_bytes_are_summed_exactly() {
    let mut random = fastrand::Rng::with_seed(4);
    let window = Window {
        batch: 2,
        groups: 2,
        in_channels: 2,
        out_channels: 3,
        input: [1, 5, 6],
        output: [1, 5, 6],
        kernel: [1, 3, 3],
        strides: [1; 3],
        dilations: [1; 3],
        pads: [0, 1, 1],
        x_is_unsigned: true,
        w_is_unsigned: false,
        has_x_zero: true,
        w_zeros: 0,
    };
    let mut bytes = |count: usize| (0..count).map(|_| random.u8(..)).collect::<Vec<u8>>();
    let (x, w, zero) = (bytes(2 * 4 * 30), bytes(6 * 2 * 9), bytes(1));
    for machine in Machine::all() {
        let y = machine.poisoned(4 * 2 * 6 * 30);
        let operands = [y, machine.upload(&x), machine.upload(&w), machine.upload(&zero), 0];
        machine.run(&window.conv().expect("a plan"), &operands).expect("it runs");
        for (at, got) in machine.download::<i32>(y, 360).into_iter().enumerate() {
            let (column, row, output, image) = (at % 6, at / 6 % 5, at / 30 % 6, at / 180);
            let mut sum = 0;
            for (c, tap) in (0..2).flat_map(|c| (0..9).map(move |tap| (c, tap))) {
                let (h, v) = (row + tap / 3, column + tap % 3);
                if !(1..=5).contains(&h) || !(1..=6).contains(&v) {
                    continue;
                }
                let plane = image * 4 + output / 3 * 2 + c;
                let value = i32::from(x[plane * 30 + (h - 1) * 6 + v - 1]) - i32::from(zero[0]);
                sum += value * i32::from(w[(output * 2 + c) * 9 + tap].cast_signed());
            }
            assert_eq!(got, sum, "at {at}");
        }
    }
}

#[test]
fn ranges_of_values_are_found() {
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let (x, values) = upload(&machine, scalar, &random(15, 777, -2.0, 5.0));
            let (scale, own) = (machine.poisoned(4), machine.poisoned(1));
            let plan = integer::dynamic_scale(scalar, values.len()).expect("a plan");
            machine.run(&plan, &[scale, own, x]).expect("it runs");
            let ends =
                values.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v as f32), high.max(v as f32)));
            let step = (ends.1 - ends.0) / 255.0;
            assert_eq!(machine.download::<f32>(scale, 1), [step], "{scalar:?}");
            assert_eq!(machine.download::<u8>(own, 1), [(-ends.0 / step).round_ties_even() as u8]);
        }
    }
}

#[test]
fn packs_that_share_a_scale_become_the_codes_of_their_elements() {
    let mut random = fastrand::Rng::with_seed(9);
    let (rows, columns) = (3, 336);
    let mut values: Vec<f64> = (0..rows * columns).map(|_| (random.f64() - 0.5) * 300.0).collect();
    values[..6].copy_from_slice(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1e-30, 3e38]);
    let codes = [(Scalar::U8, 3.0, 0.0, 255.0), (Scalar::I8, -5.0, -128.0, 127.0)];
    for machine in Machine::all() {
        for real in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let (from, values) = upload(&machine, real, &values);
            let (scale, scales) = upload(&machine, Scalar::F32, &[0.37, 1.5, 2.0]);
            let mut linear = Linear {
                real,
                code: Scalar::U8,
                scale: Scalar::F32,
                precision: Scalar::F32,
                has_zero: true,
                rules: Rules::default(),
                granularity: Granularity { extents: [1, rows, columns], sharing: Sharing::Axis },
            };
            let quotient = |at: usize| values[at] as f32 / scales[at / columns] as f32;
            for (code, zero, least, most) in codes {
                linear.code = code;
                let zeros = upload(&machine, code, &[zero; 3]).0;
                let to = machine.poisoned(values.len());
                let plan = linear.quantize().expect("types with a kernel");
                assert_eq!(plan.launches[0].symbol, "narrow_quantize_packs");
                machine.run(&plan, &[to, from, scale, zeros]).expect("it runs");
                let got = crate::device::download(&machine, code, to, values.len());
                for (at, got) in got.into_iter().enumerate() {
                    let sum = f64::from(quotient(at)).round_ties_even() + zero;
                    let want = if sum.is_nan() { 0.0 } else { sum.clamp(least, most) };
                    assert_eq!(got, want, "{} / {} to {code:?}", values[at], scales[at / columns]);
                }
            }
            linear.has_zero = false;
            for (code, format) in [FLOAT8[0], FLOAT8[2]] {
                linear.code = code;
                let to = machine.poisoned(values.len());
                machine
                    .run(&linear.quantize().expect("types with a kernel"), &[to, from, scale, 0])
                    .expect("it runs");
                for (at, code) in machine.download::<u8>(to, values.len()).into_iter().enumerate() {
                    let want = format.encode(quotient(at), true);
                    let is_nan = format.decode(code).is_nan() && format.decode(want).is_nan();
                    assert!(code == want || is_nan, "{} to {code:#x}, not {want:#x}", quotient(at));
                }
            }
        }
    }
}
