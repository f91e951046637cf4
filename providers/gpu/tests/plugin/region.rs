//! Operators that read images at places which tensors name, on random data against double precision.

use tenon_plugin_api::DType;
use tenon_plugin_api::host::AttributeValue::{Float, Int, Ints, String as Text};

use crate::harness::Raw;
use crate::signal::{close, numbers, random, raw, run};

fn i64s(dims: &[i64], values: &[i64]) -> Raw {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Raw { dtype: DType::I64, dims: dims.to_vec(), bytes }
}

/// Errors as parts of the mean size of the values.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F16 => 8e-3,
        DType::BF16 => 6e-2,
        _ => 1e-5,
    }
}

/// The pixel at a row and column of a plane that zeros surround.
fn pixel(plane: &[f64], [height, width]: [i64; 2], row: i64, column: i64) -> f64 {
    let is_inside = (0..height).contains(&row) && (0..width).contains(&column);
    if is_inside { plane[(row * width + column) as usize] } else { 0.0 }
}

/// Pixels and weights of a sample along one axis of a region.
fn sides(at: f64, size: i64) -> [(i64, f64); 2] {
    if !(-1.0..=size as f64).contains(&at) {
        return [(0, 0.0); 2];
    }
    let at = at.max(0.0);
    let low = at.floor() as i64;
    if low + 1 >= size {
        return [(size - 1, 1.0), (size - 1, 0.0)];
    }
    [(low, 1.0 - (at - low as f64)), (low + 1, at - low as f64)]
}

#[test]
fn regions_are_averaged_or_searched_at_bilinear_samples() {
    let mut rng = fastrand::Rng::with_seed(81);
    let (extent, bins) = ([9i64, 12], [3i64, 2]);
    for (dtype, samples, is_max, half) in [
        (DType::F32, 2, false, true),
        (DType::F32, 0, false, false),
        (DType::F32, 3, true, true),
        (DType::F16, 2, true, false),
        (DType::BF16, 0, false, true),
    ] {
        let (x, image) = random(&mut rng, dtype, &[2, 3, extent[0], extent[1]]);
        // Coarse corners, so that every type holds them and the number of samples is the same in every precision.
        let coarse = |rng: &mut fastrand::Rng, top: i64| rng.i64(0..4 * top) as f64 * 0.5;
        let mut corners = Vec::new();
        for _ in 0..5 {
            let (left, top) = (coarse(&mut rng, extent[1]) - 1.0, coarse(&mut rng, extent[0]) - 1.0);
            let (wide, high) = (coarse(&mut rng, extent[1]), coarse(&mut rng, extent[0]));
            corners.extend([left, top, left + wide, top + high]);
        }
        let batch: Vec<i64> = (0..5).map(|_| rng.i64(0..2)).collect();
        // Many numbers of images are an input, few a constant: both must be read.
        let numbers_of = i64s(&[5], &batch);
        let attributes = [
            ("mode", Text(if is_max { "max" } else { "avg" }.into())),
            (
                "coordinate_transformation_mode",
                Text(if half { "half_pixel" } else { "output_half_pixel" }.into()),
            ),
            ("output_height", Int(bins[0])),
            ("output_width", Int(bins[1])),
            ("sampling_ratio", Int(samples)),
            ("spatial_scale", Float(0.5)),
        ];
        let inputs = [Some(x), Some(raw(dtype, &[5, 4], &corners)), Some(numbers_of)];
        let got = numbers(&run(("", "RoiAlign", 16), &attributes, &inputs, vec![5, 3, bins[0], bins[1]]));
        let mut want = Vec::new();
        for (region, &number) in batch.iter().enumerate() {
            let side = |low: usize, axis: usize| {
                let offset = if half { 0.5 } else { 0.0 };
                let (own, corners) = (4 * region, corners.clone());
                let at = move |index: usize| corners[own + index] * 0.5 - offset;
                let size = at(low + 2) - at(low);
                let size = if half { size } else { size.max(1.0) };
                let bin = size / bins[axis] as f64;
                let count = if samples == 0 { bin.ceil().max(0.0) as i64 } else { samples };
                let place = move |number: i64, sample: i64| {
                    at(low) + number as f64 * bin + (sample as f64 + 0.5) * bin / count as f64
                };
                (count, place)
            };
            let ((rows, row), (columns, column)) = (side(1, 0), side(0, 1));
            for channel in 0..3 {
                let plane = &image[((number * 3 + channel) * extent[0] * extent[1]) as usize..];
                for bin in 0..bins[0] * bins[1] {
                    let mut values = Vec::new();
                    for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                        for (y, v) in sides(row(bin / bins[1], i), extent[0]) {
                            for (x, u) in sides(column(bin % bins[1], j), extent[1]) {
                                values.push(pixel(plane, extent, y, x) * v * u);
                            }
                        }
                    }
                    let peak = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let mean = values.iter().sum::<f64>() / (rows * columns).max(1) as f64;
                    want.push(if !is_max {
                        mean
                    } else if values.is_empty() {
                        0.0
                    } else {
                        peak
                    });
                }
            }
        }
        close(&got, &want, tolerance(dtype), &format!("{dtype} {samples} {is_max} {half}"));
    }
}

#[test]
fn the_largest_pixel_of_every_bin_is_found() {
    let mut rng = fastrand::Rng::with_seed(82);
    let (extent, bins) = ([7i64, 10], [2i64, 3]);
    let (x, image) = random(&mut rng, DType::F32, &[2, 2, extent[0], extent[1]]);
    let mut rois = Vec::new();
    for _ in 0..6 {
        let (left, top) = (rng.i64(0..12) as f64, rng.i64(0..9) as f64);
        rois.extend([
            rng.i64(0..2) as f64,
            left,
            top,
            left + rng.i64(0..12) as f64,
            top + rng.i64(0..9) as f64,
        ]);
    }
    let attributes = [("pooled_shape", Ints(bins.to_vec())), ("spatial_scale", Float(0.75))];
    let inputs = [Some(x), Some(raw(DType::F32, &[6, 5], &rois))];
    let got = numbers(&run(("", "MaxRoiPool", 1), &attributes, &inputs, vec![6, 2, bins[0], bins[1]]));
    let mut want = Vec::new();
    for roi in rois.chunks(5) {
        let span = |low: f64, high: f64, count: i64, number: i64, size: i64| {
            let (start, end) = ((low * 0.75).round(), (high * 0.75).round());
            let bin = (end - start + 1.0).max(1.0) / count as f64;
            let bounded = |v: f64| (v + start).clamp(0.0, size as f64) as i64;
            bounded((number as f64 * bin).floor())..bounded(((number + 1) as f64 * bin).ceil())
        };
        for channel in 0..2 {
            let plane = &image[((roi[0] as i64 * 2 + channel) * extent[0] * extent[1]) as usize..];
            for bin in 0..bins[0] * bins[1] {
                let rows = span(roi[2], roi[4], bins[0], bin / bins[1], extent[0]);
                let columns = span(roi[1], roi[3], bins[1], bin % bins[1], extent[1]);
                let pixels = rows.flat_map(|y| columns.clone().map(move |x| (y, x)));
                let values = pixels.map(|(y, x)| pixel(plane, extent, y, x));
                want.push(values.reduce(f64::max).unwrap_or(0.0));
            }
        }
    }
    close(&got, &want, 0.0, "MaxRoiPool");
}

#[test]
fn a_convolution_reads_where_offsets_move_it() {
    let mut rng = fastrand::Rng::with_seed(83);
    for (dtype, groups, offset_groups, has_mask, has_bias) in [
        (DType::F32, 1, 1, true, true),
        (DType::F32, 2, 4, false, true),
        (DType::F16, 2, 1, true, false),
        (DType::BF16, 1, 2, true, true),
    ] {
        let (images, channels, filters, extent, kernel) = (2i64, 4i64, 6i64, [7i64, 9], [3i64, 2]);
        let (strides, dilations, pads) = ([2i64, 1], [1i64, 2], [1i64, 0, 1, 2]);
        let count = |axis: usize| {
            let reach = (kernel[axis] - 1) * dilations[axis] + 1;
            (extent[axis] + pads[axis] + pads[axis + 2] - reach) / strides[axis] + 1
        };
        let output = [count(0), count(1)];
        let (taps, points) = (kernel[0] * kernel[1], output[0] * output[1]);
        let (x, image) = random(&mut rng, dtype, &[images, channels, extent[0], extent[1]]);
        let (w, filter) = random(&mut rng, dtype, &[filters, channels / groups, kernel[0], kernel[1]]);
        let fields = offset_groups * taps;
        let moves: Vec<f64> =
            (0..images * 2 * fields * points).map(|_| rng.i64(-12..13) as f64 / 8.0).collect();
        let offsets = raw(dtype, &[images, 2 * fields, output[0], output[1]], &moves);
        let (bias, addends) = random(&mut rng, dtype, &[filters]);
        let (mask, factors) = random(&mut rng, dtype, &[images, fields, output[0], output[1]]);
        let attributes = [
            ("strides", Ints(strides.to_vec())),
            ("dilations", Ints(dilations.to_vec())),
            ("pads", Ints(pads.to_vec())),
            ("group", Int(groups)),
            ("offset_group", Int(offset_groups)),
        ];
        let inputs = [Some(x), Some(w), Some(offsets), has_bias.then_some(bias), has_mask.then_some(mask)];
        let dims = vec![images, filters, output[0], output[1]];
        let got = numbers(&run(("", "DeformConv", 19), &attributes, &inputs, dims));
        let mut want = Vec::new();
        for (image_at, m, point) in (0..images)
            .flat_map(|n| (0..filters).flat_map(move |m| (0..points).map(move |point| (n, m, point))))
        {
            let mut sum = if has_bias { addends[m as usize] } else { 0.0 };
            for c in 0..channels / groups {
                let channel = m / (filters / groups) * (channels / groups) + c;
                let plane = &image[((image_at * channels + channel) * extent[0] * extent[1]) as usize..];
                for tap in 0..taps {
                    let field = image_at * fields + channel / (channels / offset_groups) * taps + tap;
                    let moved = |axis: i64| moves[((2 * field + axis) * points + point) as usize];
                    let at = [point / output[1], point % output[1]];
                    let step = [tap / kernel[1], tap % kernel[1]];
                    let place = |axis: usize| {
                        let whole = at[axis] * strides[axis] + step[axis] * dilations[axis] - pads[axis];
                        whole as f64 + moved(axis as i64)
                    };
                    let (y, x) = (place(0), place(1));
                    let (top, left) = (y.floor(), x.floor());
                    let mut value = 0.0;
                    for (i, j) in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] {
                        let weight = |part: f64, side: f64| if side == 0.0 { 1.0 - part } else { part };
                        value += pixel(plane, extent, (top + i) as i64, (left + j) as i64)
                            * weight(y - top, i)
                            * weight(x - left, j);
                    }
                    let factor = if has_mask { factors[(field * points + point) as usize] } else { 1.0 };
                    sum += value * factor * filter[((m * (channels / groups) + c) * taps + tap) as usize];
                }
            }
            want.push(sum);
        }
        close(&got, &want, tolerance(dtype), &format!("{dtype} {groups} {offset_groups}"));
    }
}

#[test]
fn grids_are_the_positions_that_matrices_move() {
    let mut rng = fastrand::Rng::with_seed(84);
    for (dtype, spatial, aligns) in [
        (DType::F32, vec![4i64, 5], false),
        (DType::F64, vec![3, 1, 4], true),
        (DType::F16, vec![2, 3], true),
        (DType::F32, vec![6], false),
    ] {
        let rank = spatial.len() as i64;
        let (theta, matrices) = random(&mut rng, dtype, &[2, rank, rank + 1]);
        let size: Vec<i64> = [2, 3].into_iter().chain(spatial.iter().copied()).collect();
        let dims: Vec<i64> = [2].into_iter().chain(spatial.iter().copied()).chain([rank]).collect();
        let inputs = [Some(theta), Some(i64s(&[size.len() as i64], &size))];
        let got =
            numbers(&run(("", "AffineGrid", 20), &[("align_corners", Int(aligns.into()))], &inputs, dims));
        let mut want = Vec::new();
        for matrix in matrices.chunks((rank * (rank + 1)) as usize) {
            for point in 0..spatial.iter().product::<i64>() {
                let mut rest = point;
                let position: Vec<f64> = spatial
                    .iter()
                    .rev()
                    .map(|&size| {
                        let (i, n) = ((rest % size) as f64, size as f64);
                        rest /= size;
                        match aligns {
                            true if size == 1 => -1.0,
                            true => 2.0 * i / (n - 1.0) - 1.0,
                            false => (2.0 * i + 1.0) / n - 1.0,
                        }
                    })
                    .collect();
                for row in matrix.chunks(rank as usize + 1) {
                    want.push(
                        row.iter().zip(&position).map(|(a, b)| a * b).sum::<f64>() + row[rank as usize],
                    );
                }
            }
        }
        close(&got, &want, tolerance(dtype), &format!("{dtype} {spatial:?}"));
    }
}

#[test]
fn pooled_values_go_back_to_their_places() {
    let mut rng = fastrand::Rng::with_seed(85);
    let (x, values) = random(&mut rng, DType::F32, &[2, 3, 4, 5]);
    let mut want = vec![0.0; 2 * 3 * 8 * 10];
    let mut places = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let (plane, row, column) = (at / 20, at / 5 % 4, at % 5);
        let place = (plane * 8 + 2 * row + rng.usize(0..2)) * 10 + 2 * column + rng.usize(0..2);
        want[place] = *value;
        places.push(place as i64);
    }
    let attributes = [("kernel_shape", Ints(vec![2, 2])), ("strides", Ints(vec![2, 2]))];
    let inputs = [Some(x), Some(i64s(&[2, 3, 4, 5], &places))];
    let got = numbers(&run(("", "MaxUnpool", 11), &attributes, &inputs, vec![2, 3, 8, 10]));
    close(&got, &want, 0.0, "MaxUnpool");
}

#[test]
fn signed_integers_are_shifted_with_their_sign() {
    let x: Vec<i32> = vec![-8, 100, -1, i32::MIN, i32::MAX, 5, -7];
    let amounts: Vec<i32> = vec![1, 9, -3, 31, 40, 0, 2];
    for is_left in [true, false] {
        let inputs = [Some(Raw::i32s(&[7], &x)), Some(Raw::i32s(&[7], &amounts))];
        let direction = [("direction", Text(if is_left { "LEFT" } else { "RIGHT" }.into()))];
        let got = run(("", "BitShift", 28), &direction, &inputs, vec![7]);
        let want = x.iter().zip(&amounts).map(|(&x, &amount)| {
            let amount = amount as u32;
            match is_left {
                true => x.checked_shl(amount).unwrap_or(0),
                false => x.checked_shr(amount).unwrap_or(if x < 0 { -1 } else { 0 }),
            }
        });
        assert_eq!(got, Raw::i32s(&[7], &want.collect::<Vec<_>>()), "left: {is_left}");
    }
}

#[test]
fn bytes_are_pooled_as_they_are() {
    let mut rng = fastrand::Rng::with_seed(86);
    for dtype in [DType::U8, DType::I8] {
        let bytes: Vec<u8> = (0..2 * 3 * 7 * 6).map(|_| rng.u8(..)).collect();
        let x = Raw { dtype, dims: vec![2, 3, 7, 6], bytes: bytes.clone() };
        let attributes = [("kernel_shape", Ints(vec![3, 2])), ("strides", Ints(vec![2, 2]))];
        let got = run(("", "MaxPool", 12), &attributes, &[Some(x)], vec![2, 3, 3, 3]);
        let value = |byte: u8| if dtype == DType::I8 { i32::from(byte as i8) } else { i32::from(byte) };
        for (at, &byte) in got.bytes.iter().enumerate() {
            let (plane, row, column) = (at / 9, at / 3 % 3 * 2, at % 3 * 2);
            let pixels = (0..6).map(|tap| bytes[(plane * 7 + row + tap / 2) * 6 + column + tap % 2]);
            assert_eq!(Some(value(byte)), pixels.map(value).max(), "{dtype} at {at}");
        }
    }
}
