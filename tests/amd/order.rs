//! The kernels of `kernels/device` whose results depend on order: running sums, the best elements, norms of lines, and tokens
//! drawn from scores.

use tenon_kernels::cpu::sampling::Sampling;
use tenon_kernels::gpu::order::{self, Lines, Scan};
use tenon_kernels::gpu::sampling;
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

/// Elements of line `line` of `[outer, size, inner]`, by their numbers.
fn line(lines: Lines, line: usize) -> impl DoubleEndedIterator<Item = usize> + Clone {
    let first = line / lines.inner * lines.size * lines.inner + line % lines.inner;
    (0..lines.size).map(move |at| first + at * lines.inner)
}

fn scanned(lines: Lines, scan: Scan, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for number in 0..lines.outer * lines.inner {
        let mut places: Vec<usize> = line(lines, number).collect();
        if scan.is_reverse {
            places.reverse();
        }
        let mut sum = if scan.is_product { 1.0 } else { 0.0 };
        for at in places {
            let next = if scan.is_product { sum * x[at] } else { sum + x[at] };
            y[at] = if scan.is_exclusive { sum } else { next };
            sum = next;
        }
    }
    y
}

/// Every line replaced by what a function makes of it.
fn mapped(lines: Lines, x: &[f64], function: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for number in 0..lines.outer * lines.inner {
        let values: Vec<f64> = line(lines, number).map(|at| x[at]).collect();
        line(lines, number).zip(function(&values)).for_each(|(at, value)| y[at] = value);
    }
    y
}

#[test]
fn running_sums_and_products_agree_with_the_reference() {
    use Scalar::{BF16, F16, F32, F64, I32, I64, U32, U64};
    let plain = Scan::default();
    let cases = [
        (Scalar::F32, Lines { outer: 2, size: 1030, inner: 3 }, plain),
        (Scalar::F32, Lines { outer: 1, size: 7001, inner: 1 }, Scan { is_exclusive: true, ..plain }),
        (Scalar::I32, Lines { outer: 2, size: 4500, inner: 1 }, Scan { is_reverse: true, ..plain }),
        (Scalar::F32, Lines { outer: 3, size: 500, inner: 1 }, Scan { is_exclusive: true, ..plain }),
        (Scalar::F64, Lines { outer: 1, size: 700, inner: 2 }, Scan { is_reverse: true, ..plain }),
        (
            Scalar::I64,
            Lines { outer: 5, size: 17, inner: 7 },
            Scan { is_exclusive: true, is_reverse: true, ..plain },
        ),
        (Scalar::F32, Lines { outer: 4, size: 40, inner: 2 }, Scan { is_product: true, ..plain }),
        (
            Scalar::F64,
            Lines { outer: 9, size: 9, inner: 5 },
            Scan { is_product: true, is_reverse: true, is_exclusive: true },
        ),
    ];
    let types = [F32, F16, BF16, F64, I32, I64, U32, U64].into_iter().flat_map(|scalar| {
        let exclusive = Scan { is_exclusive: true, ..plain };
        [
            (scalar, Lines { outer: 2, size: 131, inner: 3 }, plain),
            (scalar, Lines { outer: 3, size: 300, inner: 1 }, exclusive),
            // Long enough to be cut into parts.
            (scalar, Lines { outer: 1, size: 2300, inner: 1 }, plain),
            (scalar, Lines { outer: 40, size: 17, inner: 3 }, Scan { is_reverse: true, ..plain }),
            // In parts.
            (scalar, Lines { outer: 1, size: 4500, inner: 1 }, plain),
        ]
    });
    for machine in Machine::all() {
        for (scalar, lines, scan) in cases.into_iter().chain(types.clone()) {
            let count = lines.outer * lines.size * lines.inner;
            let (low, high) = match scalar {
                _ if scan.is_product => (0.8, 1.2),
                U32 | U64 => (0.0, 20.0),
                _ => (-20.0, 20.0),
            };
            let (x, values) = upload(&machine, scalar, &random(31, count, low, high));
            let y = machine.poisoned(count * scalar.bytes());
            let plan = order::scan(scalar, lines, scan).expect("lines of a type that is summed");
            machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{scalar:?} {lines:?}: {error}"));
            let tolerance = rounding(scalar) * (lines.size as f64).sqrt() * 20.0;
            let found = download(&machine, scalar, y, count);
            assert_close(
                &format!("{scalar:?} {lines:?} {scan:?}"),
                &found,
                &scanned(lines, scan, &values),
                tolerance,
                tolerance,
            );
        }
    }
}

#[test]
fn the_best_elements_are_those_of_a_sort() {
    let cases = [
        (Scalar::F32, Lines { outer: 2, size: 300, inner: 3 }, 17, true),
        (Scalar::F32, Lines { outer: 2, size: 5003, inner: 1 }, 40, false),
        (Scalar::F16, Lines { outer: 3, size: 1000, inner: 1 }, 1000, true),
        (Scalar::I8, Lines { outer: 1, size: 777, inner: 2 }, 50, true),
    ];
    use Scalar::{BF16, F64, I16, I32, I64, U8, U16, U32, U64};
    let others = [BF16, F64, I64, I32, I16, U64, U32, U16, U8];
    let others = others.into_iter().enumerate().map(|(at, scalar)| {
        let lines = Lines { outer: 2, size: 301, inner: 1 + at % 2 };
        (scalar, lines, 9, at % 3 == 0)
    });
    for machine in Machine::all() {
        for (scalar, lines, k, is_largest) in cases.into_iter().chain(others.clone()) {
            let count = lines.outer * lines.size * lines.inner;
            let (x, values) = upload(&machine, scalar, &random(32, count, -100.0, 100.0));
            let kept = lines.outer * lines.inner * k;
            let (best, places) = (machine.poisoned(kept * scalar.bytes()), machine.poisoned(kept * 8));
            let plan = order::top_k(scalar, lines, k, is_largest).expect("as many as there are");
            machine
                .run(&plan, &[best, places, x])
                .unwrap_or_else(|error| panic!("{scalar:?} {lines:?}: {error}"));
            let (best, places) =
                (download(&machine, scalar, best, kept), machine.download::<i64>(places, kept));
            let results = Lines { size: k, ..lines };
            for number in 0..lines.outer * lines.inner {
                let elements: Vec<f64> = line(lines, number).map(|at| values[at]).collect();
                let mut wanted: Vec<usize> = (0..lines.size).collect();
                // Stable: equal elements stay in their order.
                wanted.sort_by(|&a, &b| match is_largest {
                    true => elements[b].total_cmp(&elements[a]),
                    false => elements[a].total_cmp(&elements[b]),
                });
                for (at, &from) in line(results, number).zip(&wanted) {
                    assert_eq!(
                        (places[at], best[at]),
                        (from as i64, elements[from]),
                        "{scalar:?} {lines:?} {number}"
                    );
                }
            }
        }
    }
}

#[test]
fn lines_are_divided_by_their_norms_and_marked_at_their_largest() {
    let cases = [Lines { outer: 3, size: 70, inner: 5 }, Lines { outer: 5, size: 333, inner: 1 }];
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F64] {
            for lines in cases {
                let count = lines.outer * lines.size * lines.inner;
                let (x, values) = upload(&machine, scalar, &random(38, count, -3.0, 3.0));
                let what = format!("{scalar:?} {lines:?} on {}", machine.family.name);
                for order in [1, 2] {
                    let y = machine.poisoned(count * scalar.bytes());
                    let plan = order::normalize(scalar, lines, order).expect("real lines");
                    machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let wanted = mapped(lines, &values, |line| {
                        let norm = match order {
                            1 => line.iter().map(|v| v.abs()).sum::<f64>(),
                            _ => line.iter().map(|v| v * v).sum::<f64>().sqrt(),
                        };
                        line.iter().map(|v| v / norm).collect()
                    });
                    let found = download(&machine, scalar, y, count);
                    assert_close(&what, &found, &wanted, 1e-7, 4.0 * rounding(scalar));
                }
                let y = machine.poisoned(count * scalar.bytes());
                let plan = order::hardmax(scalar, lines).expect("real lines");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{what}: {error}"));
                let wanted = mapped(lines, &values, |line| {
                    let best = (1..line.len()).fold(0, |best, i| if line[i] > line[best] { i } else { best });
                    (0..line.len()).map(|i| if i == best { 1.0 } else { 0.0 }).collect()
                });
                assert_close(&what, &download(&machine, scalar, y, count), &wanted, 0.0, 0.0);
            }
        }
    }
}

#[test]
fn drawn_tokens_are_those_of_the_reference() {
    let choices = [
        Sampling { temperature: 1.0, top_k: 50, top_p: 0.9, min_p: 0.0, seed: 7 },
        Sampling { temperature: 0.7, top_k: 0, top_p: 0.8, min_p: 0.0, seed: 8 },
        Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, min_p: 0.02, seed: 9 },
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: u64::MAX },
        Sampling { temperature: 0.0, top_k: 3, top_p: 0.5, min_p: 0.0, seed: 1 },
    ];
    for machine in Machine::all() {
        let (short, long) = ([Scalar::F32, Scalar::F16, Scalar::BF16], [Scalar::F16, Scalar::BF16]);
        let cases = short.map(|scalar| (scalar, 1003)).into_iter().chain(long.map(|scalar| (scalar, 4096)));
        for (scalar, columns) in cases.chain([(Scalar::BF16, 20_004), (Scalar::F32, 2052)]) {
            let rows = choices.len();
            let (scores, values) = upload(&machine, scalar, &random(36, rows * columns, -9.0, 9.0));
            let each =
                |of: fn(&Sampling) -> f32| machine.upload(&choices.iter().map(of).collect::<Vec<f32>>());
            let top_k: Vec<u32> = choices.iter().map(|choice| choice.top_k).collect();
            let seeds: Vec<u64> = choices.iter().map(|choice| choice.seed).collect();
            let (tokens, logs) = (machine.poisoned(rows * 4), machine.poisoned(rows * 4));
            let operands = [
                tokens,
                scores,
                each(|choice| choice.temperature),
                machine.upload(&top_k),
                each(|choice| choice.top_p),
                each(|choice| choice.min_p),
                machine.upload(&seeds),
                logs,
            ];
            let plan = sampling::draw(scalar, rows, columns, true).expect("rows of scores");
            machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{scalar:?} {columns}: {error}"));
            let found = machine.download::<i32>(tokens, rows);
            let logs = machine.download::<f32>(logs, rows);
            for (row, choice) in choices.iter().enumerate() {
                let scores: Vec<f32> = values[row * columns..][..columns].iter().map(|&v| v as f32).collect();
                assert_eq!(found[row], choice.draw(&scores) as i32, "{scalar:?} {columns} {choice:?}");
                let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
                let wanted = f64::from(scores[found[row] as usize]) - sum.ln();
                assert!((f64::from(logs[row]) - wanted).abs() < 1e-4, "{} instead of {wanted}", logs[row]);
            }
        }
    }
}
