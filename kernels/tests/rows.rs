//! Softmax, normalisation, reduction and pooling against binary64 on every tier.

mod support;

use support::{Rng, assert_close, for_each_context};
use tenon_kernels::cpu::norm::*;
use tenon_kernels::cpu::pool::*;
use tenon_kernels::cpu::reduce::*;
use tenon_kernels::cpu::softmax::*;

fn softmax_reference(x: &[f32], [outer, axis, inner]: [usize; 3], log: bool) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for o in 0..outer {
        for i in 0..inner {
            let at = |a: usize| (o * axis + a) * inner + i;
            let max = (0..axis).map(|a| f64::from(x[at(a)])).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..axis).map(|a| (f64::from(x[at(a)]) - max).exp()).sum();
            for a in 0..axis {
                let v = f64::from(x[at(a)]) - max;
                y[at(a)] = if log { v - sum.ln() } else { v.exp() / sum };
            }
        }
    }
    y
}

#[test]
fn softmax_agrees_along_any_axis() {
    let mut rng = Rng::new(1);
    for extents in
        [[1, 1, 1], [3, 7, 1], [2, 100, 1], [5, 1000, 1], [2, 9, 5], [1, 40, 150], [0, 4, 1], [3, 4, 0]]
    {
        let mut x = rng.floats(extents.iter().product());
        x.iter_mut().for_each(|v| *v *= 20.0);
        x.iter_mut().step_by(11).for_each(|v| *v = f32::NEG_INFINITY);
        if let Some(first) = x.first_mut() {
            *first = 1.0;
        }
        for log in [false, true] {
            if extents[2] == 5 && log {
                continue;
            }
            let expected = softmax_reference(&x, extents, log);
            for_each_context(|ctx| {
                let mut y = vec![f32::NAN; x.len()];
                softmax_axis(ctx, &x, extents, log, &mut y).unwrap();
                assert_close(&y, &expected, 2e-6, &format!("softmax {extents:?} log {log}"));
            });
        }
    }
}

#[test]
fn row_norms_agree_and_give_statistics() {
    let mut rng = Rng::new(2);
    for [rows, cols] in [[1, 1], [3, 5], [4, 64], [2, 1000], [7, 2049]] {
        let mut x = rng.floats(rows * cols);
        x.iter_mut().for_each(|v| *v += 100.0);
        let (gamma, beta) = (rng.floats(cols), rng.floats(cols));
        for centred in [true, false] {
            let epsilon = 1e-5;
            let (mut expected, mut means, mut inverses) = (Vec::new(), Vec::new(), Vec::new());
            for row in x.chunks(cols) {
                let mean =
                    if centred { row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64 } else { 0.0 };
                let square = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
                let inverse = 1.0 / (square + f64::from(epsilon)).sqrt();
                means.push(mean);
                inverses.push(inverse);
                expected.extend(row.iter().enumerate().map(|(j, &v)| {
                    (f64::from(v) - mean) * inverse * f64::from(gamma[j]) + f64::from(beta[j])
                }));
            }
            for_each_context(|ctx| {
                let mut y = vec![f32::NAN; x.len()];
                let (mut mean, mut inverse) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
                let statistics = Statistics { mean: Some(&mut mean), inverse_deviation: Some(&mut inverse) };
                let norm = RowNorm { epsilon, centred };
                normalize_rows(ctx, norm, &x, [rows, cols], Some(&gamma), Some(&beta), &mut y, statistics)
                    .unwrap();
                assert_close(&mean, &means, 1e-6, "mean");
                if cols > 1 {
                    assert_close(&inverse, &inverses, 1e-4, "inverse deviation");
                    assert_close(&y, &expected, 3e-5, &format!("{rows} x {cols} centred {centred}"));
                }
            });
        }
    }
}

#[test]
fn skip_norm_returns_the_sum_and_its_norm() {
    let mut rng = Rng::new(3);
    let (rows, cols) = (6, 37);
    let (x, skip, bias, gamma) =
        (rng.floats(rows * cols), rng.floats(3 * cols), rng.floats(cols), rng.floats(cols));
    let total: Vec<f32> = (0..rows * cols).map(|i| x[i] + skip[i % (3 * cols)] + bias[i % cols]).collect();
    for_each_context(|ctx| {
        let (mut y, mut sum, mut expected) = (vec![f32::NAN; 222], vec![f32::NAN; 222], vec![f32::NAN; 222]);
        let norm = RowNorm { epsilon: 1e-6, centred: false };
        skip_norm(ctx, norm, &x, &skip, Some(&bias), [rows, cols], Some(&gamma), None, &mut y, &mut sum)
            .unwrap();
        rms_norm(ctx, &total, [rows, cols], Some(&gamma), 1e-6, &mut expected).unwrap();
        assert_eq!((sum, y), (total.clone(), expected));
    });
}

#[test]
fn channel_norms_agree() {
    let mut rng = Rng::new(4);
    for [batch, channels, spatial, groups] in [[1, 1, 1, 1], [2, 6, 35, 3], [3, 8, 100, 8], [1, 4, 7, 1]] {
        let x = rng.floats(batch * channels * spatial);
        let (gamma, beta) = (rng.floats(channels), rng.floats(channels));
        let part = channels / groups * spatial;
        let mut expected = Vec::new();
        for (g, group) in x.chunks(part).enumerate() {
            let mean = group.iter().map(|&v| f64::from(v)).sum::<f64>() / part as f64;
            let variance = group.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / part as f64;
            for (i, &v) in group.iter().enumerate() {
                let c = (g * part + i) / spatial % channels;
                let normal = (f64::from(v) - mean) / (variance + 1e-3f32 as f64).sqrt();
                expected.push(normal * f64::from(gamma[c]) + f64::from(beta[c]));
            }
        }
        let (mean, variance) = (rng.floats(channels), vec![0.7; channels]);
        let (scale, shift) = fold_batch_norm(&gamma, &beta, &mean, &variance, 1e-3).unwrap();
        let batch_norm: Vec<f64> = (0..x.len())
            .map(|i| {
                let c = i / spatial % channels;
                let normal =
                    (f64::from(x[i]) - f64::from(mean[c])) / (f64::from(0.7f32) + f64::from(1e-3f32)).sqrt();
                normal * f64::from(gamma[c]) + f64::from(beta[c])
            })
            .collect();
        for_each_context(|ctx| {
            let mut y = vec![f32::NAN; x.len()];
            group_norm(ctx, &x, [batch, channels, spatial], groups, &gamma, &beta, 1e-3, &mut y).unwrap();
            assert_close(&y, &expected, 1e-5, "group norm");
            y.fill(f32::NAN);
            scale_channels(ctx, &x, [batch, channels, spatial], &scale, &shift, &mut y).unwrap();
            assert_close(&y, &batch_norm, 1e-6, "batch norm");
        });
    }
}

const REDUCTIONS: [Reduce; 10] = [
    Reduce::Sum,
    Reduce::Mean,
    Reduce::Max,
    Reduce::Min,
    Reduce::Prod,
    Reduce::SumSquare,
    Reduce::L1,
    Reduce::L2,
    Reduce::LogSum,
    Reduce::LogSumExp,
];

fn reduce_reference(op: Reduce, values: &[f64]) -> f64 {
    let sum = |f: &dyn Fn(f64) -> f64| values.iter().map(|&v| f(v)).sum::<f64>();
    match op {
        Reduce::Sum => sum(&|v| v),
        Reduce::Mean => sum(&|v| v) / values.len() as f64,
        Reduce::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduce::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        Reduce::Prod => values.iter().product(),
        Reduce::SumSquare => sum(&|v| v * v),
        Reduce::L1 => sum(&|v| v.abs()),
        Reduce::L2 => sum(&|v| v * v).sqrt(),
        Reduce::LogSum => sum(&|v| v).ln(),
        Reduce::LogSumExp => sum(&|v| v.exp()).ln(),
    }
}

#[test]
fn reductions_agree_over_any_axes() {
    let mut rng = Rng::new(5);
    let cases: [(&[usize], &[usize]); 12] = [
        (&[1], &[0]),
        (&[5000], &[0]),
        (&[7, 33], &[1]),
        (&[7, 33], &[0]),
        (&[3, 20, 300], &[1]),
        (&[3, 4, 5], &[0, 2]),
        (&[3, 4, 5, 6], &[1, 3]),
        (&[3, 4, 5], &[0, 1, 2]),
        (&[3, 4], &[]),
        (&[], &[]),
        (&[2, 3, 4, 5], &[1, 2]),
        (&[0, 3], &[1]),
    ];
    for (shape, axes) in cases {
        let x: Vec<f32> = (0..shape.iter().product()).map(|_| rng.uniform(0.5, 1.4)).collect();
        let kept: usize = (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).product();
        let mut groups = vec![Vec::new(); kept];
        for (flat, &v) in x.iter().enumerate() {
            let (mut rest, mut at, mut stride) = (flat, 0, 1);
            for d in (0..shape.len()).rev() {
                if !axes.contains(&d) {
                    at += rest % shape[d] * stride;
                    stride *= shape[d];
                }
                rest /= shape[d];
            }
            groups[at].push(f64::from(v));
        }
        for op in REDUCTIONS {
            if op == Reduce::Prod && x.len() > 1000 {
                continue;
            }
            let expected: Vec<f64> = groups.iter().map(|group| reduce_reference(op, group)).collect();
            for_each_context(|ctx| {
                let mut y = vec![f32::NAN; kept];
                reduce(ctx, op, &x, shape, axes, &mut y).unwrap();
                assert_close(&y, &expected, 1e-5, &format!("{op:?} of {shape:?} over {axes:?}"));
            });
        }
    }
}

#[test]
fn reductions_of_nothing_and_of_nan_are_defined() {
    for_each_context(|ctx| {
        for (op, want) in [(Reduce::Sum, 0.0), (Reduce::Prod, 1.0), (Reduce::Max, f32::NEG_INFINITY)] {
            let mut y = [f32::NAN; 2];
            reduce_rows(ctx, op, &[], 2, 0, &mut y).unwrap();
            assert_eq!(y, [want; 2], "{op:?}");
        }
        for op in [Reduce::Max, Reduce::Min] {
            for at in 0..70 {
                let mut x = [1.0; 70];
                x[at] = f32::NAN;
                let mut y = [0.0];
                reduce_rows(ctx, op, &x, 1, 70, &mut y).unwrap();
                assert!(y[0].is_nan(), "{op:?} with NaN at {at}");
            }
        }
        assert!(
            reduce(ctx, Reduce::Sum, &[0.0; 4], &[2, 2], &[1, 0], &mut [0.0]).is_err(),
            "axes out of order"
        );
        assert!(reduce(ctx, Reduce::Sum, &[0.0; 4], &[2, 2], &[2], &mut [0.0]).is_err(), "no such axis");
    });
}

/// Values and padded taps of every output of one plane.
fn windows(window: &Window, x: &[f32]) -> Vec<(Vec<(usize, f64)>, usize)> {
    let rank = window.input.len();
    (0..window.output.iter().product())
        .map(|out: usize| {
            let (mut values, mut padded) = (Vec::new(), 0);
            for tap in 0..window.kernel.iter().product() {
                let (mut o, mut t, mut at, mut stride, mut counted): (usize, usize, _, _, _) =
                    (out, tap, Some(0), 1, true);
                for d in (0..rank).rev() {
                    let p = (o % window.output[d] * window.strides[d]
                        + t % window.kernel[d] * window.dilations[d]) as isize
                        - window.pads_begin[d] as isize;
                    let inside = p >= 0 && p < window.input[d] as isize;
                    counted &= p < (window.input[d] + window.pads_end[d]) as isize;
                    at = if inside { at.map(|at| at + p as usize * stride) } else { None };
                    stride *= window.input[d];
                    o /= window.output[d];
                    t /= window.kernel[d];
                }
                padded += usize::from(counted);
                if let Some(at) = at {
                    values.push((at, f64::from(x[at])));
                }
            }
            (values, padded)
        })
        .collect()
}

#[test]
fn pooling_agrees_in_any_rank() {
    let mut rng = Rng::new(6);
    let make = Window::new;
    let cases = [
        make(&[9, 13], &[3, 3], &[2, 2], &[1, 1], &[1, 1], &[1, 1], false),
        make(&[9, 12], &[2, 3], &[2, 2], &[1, 1], &[0, 0], &[0, 0], true),
        make(&[20, 40], &[3, 3], &[1, 1], &[2, 2], &[2, 2], &[2, 2], false),
        make(&[7, 7], &[7, 7], &[1, 1], &[1, 1], &[0, 0], &[0, 0], false),
        make(&[30], &[4], &[3], &[1], &[1], &[2], true),
        make(&[6, 67], &[1, 4], &[1, 4], &[1, 1], &[0, 0], &[0, 0], false),
        make(&[11, 70], &[2, 2], &[2, 2], &[1, 1], &[0, 1], &[1, 0], false),
        make(&[10, 39], &[3, 4], &[3, 2], &[2, 3], &[1, 3], &[2, 1], false),
        make(&[4, 35], &[3, 3], &[1, 1], &[1, 1], &[1, 1], &[1, 1], false),
        make(&[5, 6, 7], &[2, 3, 2], &[1, 2, 2], &[1, 1, 2], &[1, 1, 0], &[0, 1, 1], false),
        make(&[3, 3], &[5, 5], &[1, 1], &[1, 1], &[2, 2], &[2, 2], false),
    ];
    for window in cases {
        let window = window.unwrap();
        let (planes, in_len) = (5, window.input.iter().product::<usize>());
        let x = rng.floats(planes * in_len);
        let all: Vec<_> = x.chunks(in_len).flat_map(|plane| windows(&window, plane)).collect();
        let kinds = [
            Pool::Max,
            Pool::Average { count_include_pad: false },
            Pool::Average { count_include_pad: true },
            Pool::Lp { p: 2 },
        ];
        for kind in kinds {
            let expected: Vec<f64> = all
                .iter()
                .map(|(values, padded)| {
                    let values = values.iter().map(|v| v.1);
                    let count = values.clone().count();
                    match kind {
                        Pool::Max => values.fold(f64::NEG_INFINITY, f64::max),
                        Pool::Average { count_include_pad } => {
                            values.sum::<f64>() / if count_include_pad { *padded } else { count } as f64
                        }
                        Pool::Lp { p } => {
                            values.map(|v| v.abs().powi(p)).sum::<f64>().powf(1.0 / f64::from(p))
                        }
                    }
                })
                .collect();
            for_each_context(|ctx| {
                let mut y = vec![f32::NAN; expected.len()];
                pool(ctx, kind, &window, planes, &x, &mut y).unwrap();
                assert_close(&y, &expected, 1e-5, &format!("{kind:?} {window:?}"));
            });
        }
        for column_major in [false, true] {
            for_each_context(|ctx| {
                let (mut y, mut places) = (vec![f32::NAN; all.len()], vec![-1; all.len()]);
                max_pool_indices(ctx, &window, planes, &x, f32::MIN, column_major, &mut y, &mut places)
                    .unwrap();
                let out_len = all.len() / planes;
                for (i, (values, _)) in all.iter().enumerate() {
                    let best = values.iter().fold((0, f64::MIN), |b, &v| if v.1 > b.1 { v } else { b });
                    let mut at = best.0;
                    if column_major {
                        let (mut rest, mut index) = (at, Vec::new());
                        for &extent in window.input.iter().rev() {
                            index.insert(0, rest % extent);
                            rest /= extent;
                        }
                        let extents = window.input.iter();
                        at = index.iter().zip(extents).rev().fold(0, |at, (&i, &extent)| at * extent + i);
                    }
                    assert_eq!((f64::from(y[i]), places[i]), (best.1, (i / out_len * in_len + at) as i64));
                }
            });
        }
    }
}

#[test]
fn a_maximum_over_nan_is_nan() {
    let window = Window::new(&[4, 20], &[2, 2], &[2, 2], &[1, 1], &[0, 0], &[0, 0], false).unwrap();
    let mut x = vec![1.0; 80];
    x[23] = f32::NAN;
    for_each_context(|ctx| {
        let mut y = vec![0.0; 20];
        pool(ctx, Pool::Max, &window, 1, &x, &mut y).unwrap();
        let nans: Vec<usize> = (0..20).filter(|&i| y[i].is_nan()).collect();
        assert_eq!(nans, [1]);
    });
}
