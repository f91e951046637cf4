//! Products without matrix units, convolutions and pooling of `kernels/device`, against float64 references.

use tenon_kernels::gpu::pool::{self, Nearest, Pool, Pooling, ResizeDim};
use tenon_kernels::gpu::product::{self, Activation, Conv, Product};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

#[test]
fn plain_products_agree_with_the_reference() {
    let shapes = [(Scalar::F32, 3, 70, 65), (Scalar::BF16, 70, 50, 33), (Scalar::F16, 130, 129, 40)];
    let exact =
        [Scalar::F64, Scalar::I32, Scalar::U32, Scalar::I64, Scalar::U64].map(|scalar| (scalar, 9, 13, 21));
    // Few rows by waves, and the larger tiles, which one compute unit is filled with.
    let floats = [Scalar::F32, Scalar::F16, Scalar::BF16].into_iter();
    let floats =
        floats.flat_map(|scalar| [(5, 96, 300), (50, 70, 40), (130, 150, 24)].map(|shape| (scalar, shape)));
    let floats: Vec<_> = floats.map(|(scalar, (m, n, k))| (scalar, m, n, k)).collect();
    for machine in Machine::all() {
        let shapes = shapes.iter().chain(&exact).map(|&shape| (machine.chip().compute_units, shape));
        for (units, (scalar, m, n, k)) in shapes.chain(floats.iter().map(|&shape| (1, shape))) {
            let is_float = scalar.is_float();
            let range = match scalar {
                Scalar::I32 | Scalar::I64 => (-50.0, 50.0),
                Scalar::U32 | Scalar::U64 => (0.0, 50.0),
                _ => (-1.0, 1.0),
            };
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
    let mut cases = vec![
        (Scalar::F32, 1, 5, 40, 3, 1),
        (Scalar::BF16, 2, 16, 70, 1, 1),
        (Scalar::F16, 1, 3, 9, 5, 2),
        (Scalar::F32, 12, 1, 1, 3, 2),
        (Scalar::BF16, 8, 1, 1, 5, 1),
    ];
    for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
        // A window for each channel, tiles of many channels, parts of a deep sum, few channels.
        cases.extend(
            [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)]
                .map(|(window, stride)| (scalar, 6, 1, 1, window, stride)),
        );
        cases.extend([(scalar, 1, 4, 250, 3, 1), (scalar, 1, 4, 64, 3, 1), (scalar, 1, 4, 30, 3, 2)]);
        cases.extend([(scalar, 1, 70, 16, 3, 1), (scalar, 2, 3, 5, 3, 1)]);
    }
    for machine in Machine::all() {
        for &(scalar, groups, in_channels, out_channels, window, stride) in &cases {
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
            // Large tiles fill a small chip.
            let units = if in_channels == 4 { 1 } else { machine.chip().compute_units };
            let plan = product::conv(&problem, units).expect("a convolution");
            machine.run(&plan, &[y, x, f, b, 0]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let error = 4.0 * rounding(scalar) + 1e-6 * (depth as f64).sqrt();
            let what =
                format!("{scalar:?} {groups} x {in_channels} to {out_channels} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, wanted.len()), &wanted, error, error);
        }
    }
}

/// What a transposed convolution adds up: every input pixel times the window, where its strides put it.
fn spread(problem: &Conv, x: &[f64], filter: &[f64]) -> Vec<f64> {
    let ([_, height, width], [_, rows, columns]) = (problem.input, problem.output);
    let (ins, outs, [_, window_h, window_w]) = (problem.in_channels, problem.out_channels, problem.kernel);
    let mut y = vec![0.0; problem.batch * problem.groups * outs * rows * columns];
    for (at, value) in x.iter().enumerate() {
        let (w, h, plane) = (at % width, at / width % height, at / width / height);
        let (channel, image) = (plane % (problem.groups * ins), plane / (problem.groups * ins));
        for tap in 0..outs * window_h * window_w {
            let (j, i, out) = (tap % window_w, tap / window_w % window_h, tap / window_w / window_h);
            let row = (h * problem.strides[1] + i * problem.dilations[1]) as i64 - problem.pads[1];
            let column = (w * problem.strides[2] + j * problem.dilations[2]) as i64 - problem.pads[2];
            if (0..rows as i64).contains(&row) && (0..columns as i64).contains(&column) {
                let to = (image * problem.groups + channel / ins) * outs + out;
                let place = (to * rows + row as usize) * columns + column as usize;
                y[place] += value * filter[channel * outs * window_h * window_w + tap];
            }
        }
    }
    y
}

#[test]
fn transposed_convolutions_and_patches_agree_with_the_reference() {
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let problem = Conv {
                scalar,
                batch: 2,
                groups: 2,
                in_channels: 3,
                out_channels: 5,
                input: [1, 6, 7],
                output: [1, 12, 13],
                kernel: [1, 3, 4],
                strides: [1, 2, 2],
                dilations: [1, 1, 1],
                pads: [0, 0, 1],
                has_bias: false,
                has_residual: false,
                activation: Activation::None,
                is_transposed: true,
            };
            let (x, image) = upload(&machine, scalar, &random(5, 2 * 6 * 42, -1.0, 1.0));
            let (f, filter) = upload(&machine, scalar, &random(6, 6 * 5 * 12, -0.5, 0.5));
            let wanted = spread(&problem, &image, &filter);
            let y = machine.poisoned(wanted.len() * scalar.bytes());
            let plan = product::conv(&problem, machine.chip().compute_units).expect("a convolution");
            machine.run(&plan, &[y, x, f, 0, 0]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let what = format!("{scalar:?} transposed on {}", machine.family.name);
            let tolerance = 4.0 * rounding(scalar);
            assert_close(&what, &download(&machine, scalar, y, wanted.len()), &wanted, tolerance, tolerance);
            if scalar.bytes() != 2 {
                continue;
            }
            // Patches of both images' six channels, one line each.
            let patches = Conv {
                groups: 1,
                in_channels: 6,
                out_channels: 1,
                output: [1, 3, 2],
                is_transposed: false,
                ..problem
            };
            let (lines, depth) = (2 * 6, 6 * 12);
            let wanted: Vec<f64> = (0..lines * depth)
                .map(|at| {
                    let (line, tap, channel): (usize, usize, usize) = (at / depth, at % 12, at % depth / 12);
                    let row = line % 6 / 2 * 2 + tap / 4;
                    let column = (line % 2 * 2 + tap % 4).checked_sub(1).filter(|&column| column < 7);
                    match column {
                        Some(column) if row < 6 => image[((line / 6 * 6 + channel) * 6 + row) * 7 + column],
                        _ => 0.0,
                    }
                })
                .collect();
            let y = machine.poisoned(wanted.len() * 2);
            let plan = product::conv_patches(&patches).expect("an even depth");
            machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let what = format!("{scalar:?} patches on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, wanted.len()), &wanted, 0.0, 0.0);
        }
    }
}

#[test]
fn images_are_resized_between_their_pixels() {
    let dim = |input: usize, output: usize| ResizeDim {
        input,
        output,
        times: 1.0,
        over: output as f32 / input as f32,
        shift: 0.5,
        offset: -0.5,
    };
    // No position is a whole one or halfway, where the last bit would choose.
    let dims = [dim(3, 3), dim(7, 10), dim(9, 4)];
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let (x, image) = upload(&machine, scalar, &random(7, 3 * 7 * 9, -2.0, 2.0));
            for nearest in [None, Some(Nearest::Floor), Some(Nearest::PreferCeil)] {
                let y = machine.poisoned(3 * 10 * 4 * scalar.bytes());
                let plan = pool::resize(scalar, &dims, nearest).expect("three dimensions");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
                // Pixels and what they count, along one dimension.
                let taps = |dim: &ResizeDim, at: usize| {
                    let last = dim.input as f64 - 1.0;
                    let source = (at as f64 + 0.5) / f64::from(dim.over) - 0.5;
                    let pixel = |at: f64| at.clamp(0.0, last) as usize;
                    match nearest {
                        Some(Nearest::Floor) => vec![(pixel(source.floor()), 1.0)],
                        Some(_) => vec![(pixel((source + 0.5).floor()), 1.0)],
                        None => {
                            let part = source.clamp(0.0, last);
                            let share = part - part.floor();
                            vec![(pixel(part.floor()), 1.0 - share), (pixel(part.floor() + 1.0), share)]
                        }
                    }
                };
                let wanted: Vec<f64> = (0..3 * 10 * 4)
                    .map(|at| {
                        let rows = taps(&dims[1], at / 4 % 10);
                        let sum = |(row, weight): (usize, f64)| {
                            let line = (at / 40 * 7 + row) * 9;
                            let columns = taps(&dims[2], at % 4).into_iter();
                            columns.map(|(column, share)| image[line + column] * share).sum::<f64>() * weight
                        };
                        rows.into_iter().map(sum).sum()
                    })
                    .collect();
                let what = format!("{scalar:?} {nearest:?} on {}", machine.family.name);
                let tolerance = 1e-6 + 2.0 * rounding(scalar);
                let found = download(&machine, scalar, y, wanted.len());
                assert_close(&what, &found, &wanted, tolerance, tolerance);
            }
        }
    }
}

#[test]
fn pooling_agrees_with_the_reference() {
    for machine in Machine::all() {
        let scalars = [Scalar::F32, Scalar::F16, Scalar::BF16];
        let ops = [Pooling::Max, Pooling::Average { counts_padding: false }];
        for (scalar, op) in scalars.into_iter().flat_map(|scalar| ops.map(|op| (scalar, op))) {
            let (planes, height, width, window, stride, pad) =
                (5usize, 9usize, 13usize, 3usize, 2usize, 1i64);
            let (rows, columns) = ((height + 2 - window) / stride + 1, (width + 2 - window) / stride + 1);
            let problem = Pool {
                scalar,
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
            let (x, image) = upload(&machine, scalar, &random(4, planes * height * width, -3.0, 3.0));
            let count = planes * rows * columns;
            let y = machine.poisoned(count * scalar.bytes());
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
            let tolerance = 2.0 * rounding(scalar);
            let what = format!("{scalar:?} {op:?} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, count), &wanted, tolerance, tolerance);
        }
    }
}
