//! Products without matrix units, convolutions and pooling of `kernels/device`, against float64 references.

use tenon_kernels::gpu::pool::{self, Pool, Pooling};
use tenon_kernels::gpu::product::{self, Activation, Conv, Product};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

#[test]
fn plain_products_agree_with_the_reference() {
    let shapes = [(Scalar::F32, 3, 70, 65), (Scalar::BF16, 70, 50, 33), (Scalar::F16, 130, 129, 40)];
    let exact = [(Scalar::F64, 9, 13, 21), (Scalar::I32, 7, 40, 19), (Scalar::F32, 5, 96, 300)];
    for machine in Machine::all() {
        let units = machine.chip().compute_units;
        for (scalar, m, n, k) in shapes.into_iter().chain(exact) {
            let is_float = scalar.is_float();
            let range = if is_float || scalar == Scalar::F64 { (-1.0, 1.0) } else { (-50.0, 50.0) };
            let (a, left) = upload(&machine, scalar, &random(1, 2 * m * k, range.0, range.1));
            let (b, right) = upload(&machine, scalar, &random(2, n * k, range.0, range.1));
            let (bias, addend) = upload(&machine, scalar, &random(3, n, range.0, range.1));
            // A batch of two that shares B, whose rows are the columns of the product.
            let problem = Product {
                scalar,
                m,
                n,
                k,
                a_strides: (k as i64, 1),
                b_strides: (1, k as i64),
                bias_strides: Some((0, 1)),
                batch: vec![(2, [(m * k) as i64, 0, 0])],
                alpha: 1.0,
                beta: 1.0,
                activation: if is_float { Activation::Relu } else { Activation::None },
            };
            let c = machine.poisoned(2 * m * n * scalar.bytes());
            let plan = product::matmul(&problem, units).expect("a product");
            machine.run(&plan, &[c, a, b, bias]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let wanted: Vec<f64> = (0..2 * m * n)
                .map(|at| {
                    let (row, column) = (at / n, at % n);
                    let sum: f64 = (0..k).map(|i| left[row * k + i] * right[column * k + i]).sum();
                    let value = sum + addend[column];
                    if is_float { value.max(0.0) } else { value }
                })
                .collect();
            let error = 4.0 * rounding(scalar);
            let what = format!("{scalar:?} {m} x {n} x {k} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, c, 2 * m * n), &wanted, error, error);
        }
    }
}

/// The reference of a convolution with its bias.
fn convolve(problem: &Conv, x: &[f64], filter: &[f64], bias: &[f64]) -> Vec<f64> {
    let [_, height, width] = problem.input;
    let [_, rows, columns] = problem.output;
    let (ins, outs) = (problem.in_channels, problem.out_channels);
    let mut y = Vec::new();
    for at in 0..problem.batch * problem.groups * outs * rows * columns {
        let (column, row) = (at % columns, at / columns % rows);
        let (channel, b) =
            (at / columns / rows % (problem.groups * outs), at / columns / rows / (problem.groups * outs));
        let mut sum = bias[channel];
        for c in 0..ins {
            let plane = (b * problem.groups + channel / outs) * ins + c;
            for tap in 0..problem.kernel[1] * problem.kernel[2] {
                let (i, j) = (tap / problem.kernel[2], tap % problem.kernel[2]);
                let h = (row * problem.strides[1] + i * problem.dilations[1]) as i64 - problem.pads[1];
                let w = (column * problem.strides[2] + j * problem.dilations[2]) as i64 - problem.pads[2];
                if (0..height as i64).contains(&h) && (0..width as i64).contains(&w) {
                    let weight = filter[(channel * ins + c) * problem.kernel[1] * problem.kernel[2] + tap];
                    sum += x[(plane * height + h as usize) * width + w as usize] * weight;
                }
            }
        }
        y.push(sum);
    }
    y
}

#[test]
fn convolutions_agree_with_the_reference() {
    // (type, groups, channels of a group in and out, window, stride)
    let cases = [
        (Scalar::F32, 1, 5, 40, 3, 1),
        (Scalar::BF16, 2, 16, 70, 1, 1),
        (Scalar::F16, 1, 3, 9, 5, 2),
        (Scalar::F32, 12, 1, 1, 3, 2),
        (Scalar::BF16, 8, 1, 1, 5, 1),
    ];
    for machine in Machine::all() {
        for (scalar, groups, in_channels, out_channels, window, stride) in cases {
            let (batch, input, pad) = (2, [1, 11, 14], window / 2);
            let output = [1, (11 + 2 * pad - window) / stride + 1, (14 + 2 * pad - window) / stride + 1];
            let problem = Conv {
                scalar,
                batch,
                groups,
                in_channels,
                out_channels,
                input,
                output,
                kernel: [1, window, window],
                strides: [1, stride, stride],
                dilations: [1, 1, 1],
                pads: [0, pad as i64, pad as i64],
                has_bias: true,
                has_residual: false,
                activation: Activation::None,
                is_transposed: false,
            };
            let depth = in_channels * window * window;
            let channels = groups * out_channels;
            let (x, image) =
                upload(&machine, scalar, &random(1, batch * groups * in_channels * 154, -1.0, 1.0));
            let (f, filter) = upload(&machine, scalar, &random(2, channels * depth, -0.5, 0.5));
            let (b, bias) = upload(&machine, scalar, &random(3, channels, -1.0, 1.0));
            let wanted = convolve(&problem, &image, &filter, &bias);
            let y = machine.poisoned(wanted.len() * scalar.bytes());
            let plan = product::conv(&problem, machine.chip().compute_units).expect("a convolution");
            machine.run(&plan, &[y, x, f, b, 0]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let error = 4.0 * rounding(scalar);
            let what =
                format!("{scalar:?} {groups} x {in_channels} to {out_channels} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, wanted.len()), &wanted, error, error);
        }
    }
}

#[test]
fn pooling_agrees_with_the_reference() {
    for machine in Machine::all() {
        for op in [Pooling::Max, Pooling::Average { counts_padding: false }] {
            let (planes, height, width, window, stride, pad) =
                (5usize, 9usize, 13usize, 3usize, 2usize, 1i64);
            let (rows, columns) = ((height + 2 - window) / stride + 1, (width + 2 - window) / stride + 1);
            let problem = Pool {
                scalar: Scalar::F16,
                op,
                planes,
                input: [1, height, width],
                output: [1, rows, columns],
                kernel: [1, window, window],
                strides: [1, stride, stride],
                dilations: [1, 1, 1],
                pads: [0, pad, pad],
                pads_end: [0, pad, pad],
                has_positions: false,
                is_column_major: false,
            };
            let (x, image) = upload(&machine, Scalar::F16, &random(4, planes * height * width, -3.0, 3.0));
            let count = planes * rows * columns;
            let y = machine.poisoned(count * 2);
            let plan = pool::pool(&problem).expect("a pooling");
            machine.run(&plan, &[y, 0, x]).unwrap_or_else(|error| panic!("{op:?}: {error}"));
            let wanted: Vec<f64> = (0..count)
                .map(|at| {
                    let (column, row, plane) = (at % columns, at / columns % rows, at / columns / rows);
                    let inside = |first: usize, i: usize, extent: usize| {
                        let place = (first * stride + i) as i64 - pad;
                        (0..extent as i64).contains(&place).then_some(place as usize)
                    };
                    let values: Vec<f64> = (0..window * window)
                        .filter_map(|tap| {
                            let h = inside(row, tap / window, height)?;
                            let w = inside(column, tap % window, width)?;
                            Some(image[(plane * height + h) * width + w])
                        })
                        .collect();
                    match op {
                        Pooling::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        _ => values.iter().sum::<f64>() / values.len() as f64,
                    }
                })
                .collect();
            let what = format!("{op:?} on {}", machine.family.name);
            assert_close(&what, &download(&machine, Scalar::F16, y, count), &wanted, 1e-3, 1e-3);
        }
    }
}
