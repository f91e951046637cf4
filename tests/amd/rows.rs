//! Softmax and normalisation: rows of every length that a kernel is compiled for, of each type.

use tenon_kernels::gpu::rows::{self, RowNorm, RowNormOperands};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

const SCALARS: [Scalar; 4] = [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F64];

/// Columns just short of what each kernel's registers hold, in whole packs and not, and more than any holds.
fn columns() -> impl Iterator<Item = usize> {
    let packs = (0..9).map(|power| (64usize << power) - 8);
    packs.chain([16_400, 77, 129, 509, 2001, 2051])
}

/// Softmax along the middle of `[outer, axis, inner]`, or its logarithm.
fn softmaxed(values: &[f64], [outer, axis, inner]: [usize; 3], is_log: bool) -> Vec<f64> {
    let mut wanted = vec![0.0; values.len()];
    for line in 0..outer * inner {
        let at = |i: usize| line / inner * axis * inner + i * inner + line % inner;
        let top = (0..axis).map(|i| values[at(i)]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..axis).map(|i| (values[at(i)] - top).exp()).sum();
        for i in 0..axis {
            let shifted = values[at(i)] - top;
            wanted[at(i)] = if is_log { shifted - sum.ln() } else { shifted.exp() / sum };
        }
    }
    wanted
}

fn check_softmax(machine: &Machine, scalar: Scalar, shape: [usize; 3], is_log: bool) {
    let count = shape.iter().product();
    let (x, values) = upload(machine, scalar, &random(7, count, -8.0, 8.0));
    let y = machine.poisoned(count * scalar.bytes());
    let plan = rows::softmax(scalar, shape, is_log, &|_| false).expect("a softmax");
    let what = format!("{scalar:?} {shape:?} {} on {}", plan.launches[0].symbol, machine.family.name);
    machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{what}: {error}"));
    let absolute = if scalar == Scalar::F16 { 1e-7 } else { 0.0 };
    let wanted = softmaxed(&values, shape, is_log);
    assert_close(&what, &download(machine, scalar, y, count), &wanted, absolute, 4.0 * rounding(scalar));
}

#[test]
fn softmax_of_rows_agrees_with_the_reference() {
    for machine in Machine::all() {
        for (turn, scalar) in SCALARS.into_iter().enumerate() {
            for (at, columns) in columns().enumerate() {
                check_softmax(&machine, scalar, [1 + at % 4, columns, 1], (at + turn) % 3 == 0);
            }
            check_softmax(&machine, scalar, [3, 20_001, 1], false);
        }
        // So many rows that a block takes more of each.
        check_softmax(&machine, Scalar::F32, [86, 16_388, 1], false);
        check_softmax(&machine, Scalar::F16, [128, 16_392, 1], false);
        check_softmax(&machine, Scalar::BF16, [128, 16_392, 1], true);
    }
}

#[test]
fn softmax_along_outer_dimensions_agrees_with_the_reference() {
    for machine in Machine::all() {
        for (turn, scalar) in SCALARS.into_iter().enumerate() {
            for (at, axis) in [31, 50, 100, 200, 400, 600].into_iter().enumerate() {
                check_softmax(&machine, scalar, [2, axis, 24], (at + turn) % 3 == 0);
            }
            check_softmax(&machine, scalar, [3, 40, 37], true);
            check_softmax(&machine, scalar, [1, 200, 5], false);
            // More lines than shared memory holds, which are not whole packs.
            check_softmax(&machine, scalar, [1, 50, 301], false);
            check_softmax(&machine, scalar, [1, 600, 37], true);
        }
    }
}

/// A row `x = input + skip + bias` normalised, with gamma and beta.
fn normalised(x: &[f64], gamma: &[f64], beta: &[f64], is_centred: bool) -> Vec<f64> {
    let count = x.len() as f64;
    let mean = if is_centred { x.iter().sum::<f64>() / count } else { 0.0 };
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    let scale = 1.0 / (variance + f64::from(1e-5f32)).sqrt();
    let shift = |c: usize| beta.get(c).copied().unwrap_or(0.0);
    x.iter().enumerate().map(|(c, v)| (v - mean) * scale * gamma[c] + shift(c)).collect()
}

fn check_norm(machine: &Machine, scalar: Scalar, [count, columns]: [usize; 2], has: RowNormOperands) {
    let is_centred = has.beta;
    let total = count * columns;
    let (x, input) = upload(machine, scalar, &random(1, total, -2.0, 3.0));
    let (s, skip) = upload(machine, scalar, &random(2, total, -1.0, 1.0));
    let (g, gamma) = upload(machine, scalar, &random(3, columns, 0.5, 1.5));
    let (b, beta) = upload(machine, scalar, &random(4, columns, -1.0, 1.0));
    let y = machine.poisoned(total * scalar.bytes());
    let problem = RowNorm {
        scalar,
        rows: count,
        columns,
        is_centred,
        epsilon: 1e-5,
        period: 1,
        group: 0,
        span: 1,
        has,
    };
    let plan = rows::norm(&problem).expect("a normalisation");
    let what =
        format!("{scalar:?} {count} x {columns} {} on {}", plan.launches[0].symbol, machine.family.name);
    machine.run(&plan, &[y, 0, 0, 0, x, s, 0, g, b]).unwrap_or_else(|error| panic!("{what}: {error}"));
    let added = |at: usize| input[at] + if has.skip { skip[at] } else { 0.0 };
    let wanted: Vec<f64> = (0..count)
        .flat_map(|row| {
            let x: Vec<f64> = (row * columns..(row + 1) * columns).map(added).collect();
            normalised(&x, &gamma, if has.beta { &beta } else { &[] }, is_centred)
        })
        .collect();
    let error = 4.0 * rounding(scalar);
    assert_close(&what, &download(machine, scalar, y, total), &wanted, error, error);
}

#[test]
fn normalisation_agrees_with_the_reference() {
    for machine in Machine::all() {
        // So many rows that a block need not be large.
        for scalar in [Scalar::F16, Scalar::BF16] {
            let has = RowNormOperands { gamma: true, ..RowNormOperands::default() };
            check_norm(&machine, scalar, [256, 8200], has);
        }
        for scalar in SCALARS {
            for (at, columns) in columns().chain([30_001]).enumerate() {
                for skip in [false, true] {
                    let has = RowNormOperands {
                        skip,
                        gamma: true,
                        beta: (at + usize::from(skip)) % 2 == 0,
                        ..RowNormOperands::default()
                    };
                    check_norm(&machine, scalar, [1 + at % 3, columns], has);
                }
            }
        }
    }
}
