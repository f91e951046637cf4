//! Kernels that read images at places which tensors name, on emulated devices against float64 references.

use tenon_kernels::gpu::pool::{self, Pool};
use tenon_kernels::gpu::region::{self, Deform, Pooling, Regions};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

const IMAGES: [usize; 4] = [2, 3, 8, 11];

/// The value at a point of a plane that zeros surround.
fn bilinear(plane: &[f64], y: f64, x: f64) -> f64 {
    let (top, left) = (y.floor(), x.floor());
    let corner = |i: f64, j: f64| {
        let (row, column) = (top + i, left + j);
        let weight = |part: f64, side: f64| if side == 0.0 { 1.0 - part } else { part };
        let is_inside = row >= 0.0 && row < IMAGES[2] as f64 && column >= 0.0 && column < IMAGES[3] as f64;
        let pixel = if is_inside { plane[row as usize * IMAGES[3] + column as usize] } else { 0.0 };
        pixel * weight(y - top, i) * weight(x - left, j)
    };
    corner(0.0, 0.0) + corner(0.0, 1.0) + corner(1.0, 0.0) + corner(1.0, 1.0)
}

#[test]
fn regions_are_pooled() {
    let count = 4;
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let (x, image) = upload(&machine, scalar, &random(93, IMAGES.iter().product(), -1.0, 1.0));
            // Inside the images, where samples have four pixels around them.
            let corners: Vec<f64> =
                [[1.0, 1.0, 7.0, 5.0], [0.5, 2.0, 3.5, 6.5], [4.0, 0.0, 9.5, 3.0], [2.0, 3.0, 6.0, 7.0]]
                    .concat();
            let (rois, corners) = upload(&machine, scalar, &corners);
            let numbers = [1i64, 0, 0, 1];
            let batch = machine.upload(&numbers);
            let problem = Regions {
                scalar,
                count,
                images: IMAGES,
                bins: [2, 3],
                scale: 1.0,
                pooling: Pooling::Align { samples: 2, is_max: false, half_pixel: false },
            };
            let y = machine.poisoned(count * 18 * scalar.bytes());
            let plan = problem.plan().expect("regions of images");
            machine.run(&plan, &[y, x, rois, batch]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let mut want = Vec::new();
            for (roi, &number) in corners.chunks(4).zip(&numbers) {
                for channel in 0..3 {
                    let plane = &image[(number as usize * 3 + channel) * 88..][..88];
                    for bin in 0..6 {
                        let at = |low: f64, high: f64, bins: f64, bin: usize, sample: usize| {
                            let size = (high - low) / bins;
                            low + (bin as f64 + (sample as f64 + 0.5) / 2.0) * size
                        };
                        let samples = (0..4).map(|sample| {
                            let row = at(roi[1], roi[3], 2.0, bin / 3, sample / 2);
                            bilinear(plane, row, at(roi[0], roi[2], 3.0, bin % 3, sample % 2))
                        });
                        want.push(samples.sum::<f64>() / 4.0);
                    }
                }
            }
            let tolerance = 4.0 * rounding(scalar);
            let what = format!("means, {scalar:?} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, want.len()), &want, tolerance, tolerance);

            let regions: Vec<f64> =
                corners.chunks(4).zip(numbers).flat_map(|(roi, n)| [&[n as f64], roi].concat()).collect();
            let (rois, regions) = upload(&machine, scalar, &regions);
            let plan = Regions { pooling: Pooling::Max, ..problem }.plan().expect("regions of images");
            let y = machine.poisoned(count * 18 * scalar.bytes());
            machine.run(&plan, &[y, x, rois]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let mut want = Vec::new();
            for roi in regions.chunks(5) {
                let span = |low: f64, high: f64, bins: f64, bin: usize, size: f64| {
                    let (start, end) = (low.round(), high.round());
                    let step = (end - start + 1.0).max(1.0) / bins;
                    let bounded = |v: f64| (v + start).clamp(0.0, size) as usize;
                    bounded((bin as f64 * step).floor())..bounded(((bin + 1) as f64 * step).ceil())
                };
                for channel in 0..3 {
                    let plane = &image[(roi[0] as usize * 3 + channel) * 88..][..88];
                    for bin in 0..6 {
                        let columns = span(roi[1], roi[3], 3.0, bin % 3, 11.0);
                        let rows = span(roi[2], roi[4], 2.0, bin / 3, 8.0);
                        let pixels = rows.flat_map(|y| columns.clone().map(move |x| plane[y * 11 + x]));
                        want.push(pixels.reduce(f64::max).unwrap_or(0.0));
                    }
                }
            }
            let what = format!("largest, {scalar:?} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, want.len()), &want, 0.0, 0.0);
        }
    }
}

#[test]
fn windows_are_moved_by_their_offsets() {
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let deform = Deform {
                scalar,
                images: IMAGES,
                kernel: [3, 2],
                strides: [2, 1],
                dilations: [1, 2],
                pads: [1, 0],
                output: [4, 9],
                offset_groups: 3,
                has_mask: true,
            };
            let (taps, points) = (6, 36);
            let fields = 2 * 3 * taps * points;
            let (x, image) = upload(&machine, scalar, &random(94, IMAGES.iter().product(), -1.0, 1.0));
            // Eighths, which every type adds exactly.
            let moves: Vec<f64> =
                random(95, 2 * fields, -12.0, 12.0).iter().map(|v| v.round() / 8.0).collect();
            let (offsets, moves) = upload(&machine, scalar, &moves);
            let (mask, factors) = upload(&machine, scalar, &random(96, fields, 0.0, 1.0));
            let count = deform.columns();
            let y = machine.poisoned(count * scalar.bytes());
            let plan = deform.plan().expect("windows of images");
            machine.run(&plan, &[y, x, offsets, mask]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let want: Vec<f64> = (0..count)
                .map(|at| {
                    let (point, tap, plane) = (at % points, at / points % taps, at / points / taps);
                    let field = plane * taps + tap;
                    let base = [2 * (point / 9) + tap / 2, point % 9 + tap % 2 * 2];
                    let row = base[0] as f64 - 1.0 + moves[2 * field * points + point];
                    let column = base[1] as f64 + moves[(2 * field + 1) * points + point];
                    bilinear(&image[plane * 88..][..88], row, column) * factors[field * points + point]
                })
                .collect();
            let tolerance = 2.0 * rounding(scalar);
            let what = format!("{scalar:?} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, count), &want, tolerance, tolerance);
        }
    }
}

#[test]
fn grids_are_moved_by_their_matrices() {
    for machine in Machine::all() {
        for (scalar, spatial, aligns) in [
            (Scalar::F32, vec![5usize, 7], false),
            (Scalar::F64, vec![3, 4, 1], true),
            (Scalar::BF16, vec![9], false),
        ] {
            let (rank, points) = (spatial.len(), spatial.iter().product::<usize>());
            let (theta, matrices) = upload(&machine, scalar, &random(97, 2 * rank * (rank + 1), -1.0, 1.0));
            let y = machine.poisoned(2 * points * rank * scalar.bytes());
            let plan = region::affine_grid(scalar, 2, &spatial, aligns).expect("a grid");
            machine.run(&plan, &[y, theta]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let mut want = Vec::new();
            for matrix in matrices.chunks(rank * (rank + 1)) {
                for point in 0..points {
                    let mut rest = point;
                    let mut position = Vec::new();
                    for &size in spatial.iter().rev() {
                        let (i, n) = ((rest % size) as f64, size as f64);
                        rest /= size;
                        position.push(match aligns {
                            true if size == 1 => -1.0,
                            true => 2.0 * i / (n - 1.0) - 1.0,
                            false => (2.0 * i + 1.0) / n - 1.0,
                        });
                    }
                    for row in matrix.chunks(rank + 1) {
                        want.push(row.iter().zip(&position).map(|(a, b)| a * b).sum::<f64>() + row[rank]);
                    }
                }
            }
            let what = format!("{scalar:?} on {}", machine.family.name);
            let tolerance = rounding(scalar);
            assert_close(&what, &download(&machine, scalar, y, want.len()), &want, tolerance, tolerance);
        }
    }
}

#[test]
fn bytes_are_pooled_as_they_are() {
    for machine in Machine::all() {
        for scalar in [Scalar::U8, Scalar::I8] {
            let low = if scalar == Scalar::U8 { 0.0 } else { -128.0 };
            let (x, values) = upload(&machine, scalar, &random(98, 5 * 7 * 9, low, low + 255.0));
            let problem = Pool {
                scalar,
                op: pool::Pooling::Max,
                planes: 5,
                input: [1, 7, 9],
                output: [1, 3, 8],
                kernel: [1, 3, 2],
                strides: [1, 2, 1],
                dilations: [1; 3],
                pads: [0; 3],
                pads_end: [0; 3],
                has_positions: false,
                is_column_major: false,
            };
            let y = machine.poisoned(5 * 24);
            let plan = pool::pool(&problem).expect("a pooling");
            machine.run(&plan, &[y, 0, x]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let want: Vec<f64> = (0..5 * 24)
                .map(|at| {
                    let (plane, row, column) = (at / 24, at / 8 % 3 * 2, at % 8);
                    let tap = |i: usize| values[(plane * 7 + row + i / 2) * 9 + column + i % 2];
                    (0..6).map(tap).fold(f64::NEG_INFINITY, f64::max)
                })
                .collect();
            let what = format!("{scalar:?} on {}", machine.family.name);
            assert_close(&what, &download(&machine, scalar, y, want.len()), &want, 0.0, 0.0);
        }
    }
}
