//! The kernels of `device/window.cu`: grid sampling, resampling with wide kernels, local response normalisation, and blocks
//! summed back into images.

use tenon_kernels::gpu::pool::ResizeDim;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::window::{self, Filter, FoldDim, GridMode, GridPadding, GridSample};

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

const FLOATS: [Scalar; 3] = [Scalar::F32, Scalar::F16, Scalar::BF16];

/// Keys' cubic kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x <= 1.0 => (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0,
        _ if x < 2.0 => a * (x.powi(3) - 5.0 * x.powi(2) + 8.0 * x - 4.0),
        _ => 0.0,
    }
}

/// Mirrored at `low` and `high` until it lies between them.
fn mirrored(mut x: f64, low: f64, high: f64) -> f64 {
    while x < low || x > high {
        x = if x < low { 2.0 * low - x } else { 2.0 * high - x };
    }
    x
}

/// Pixels along one dimension and what they count, by the definition of GridSample.
fn grid_taps(sample: &GridSample, n: f64, size: usize) -> Vec<(usize, f64)> {
    let last = size as f64 - 1.0;
    let (mut x, low, high) = match sample.aligns_corners {
        true => ((n + 1.0) / 2.0 * last, 0.0, last),
        false => (((n + 1.0) * size as f64 - 1.0) / 2.0, -0.5, last + 0.5),
    };
    if sample.mode != GridMode::Cubic {
        x = match sample.padding {
            GridPadding::Zeros => x,
            GridPadding::Border => x.clamp(0.0, last),
            GridPadding::Reflection => mirrored(x, low, high),
        };
    }
    let floor = x.floor();
    let taps: Vec<(f64, f64)> = match sample.mode {
        GridMode::Nearest => vec![(x.round_ties_even(), 1.0)],
        GridMode::Linear => vec![(floor, 1.0 - (x - floor)), (floor + 1.0, x - floor)],
        GridMode::Cubic => {
            (-1..3).map(|i| floor + f64::from(i)).map(|at| (at, cubic(at - x, -0.75))).collect()
        }
    };
    let is_inside = |at: f64| at >= 0.0 && at <= last;
    let taps = taps.into_iter().filter(|&(at, _)| is_inside(at) || sample.padding != GridPadding::Zeros);
    taps.map(|(at, weight)| match sample.padding {
        GridPadding::Reflection if !is_inside(at) => {
            (mirrored(at, low, high).clamp(0.0, last) as usize, weight)
        }
        _ => (at.clamp(0.0, last) as usize, weight),
    })
    .collect()
}

/// The value at a point `[rank]`, innermost dimension first, of an image.
fn sampled(sample: &GridSample, image: &[f64], point: &[f64]) -> f64 {
    let mut places = vec![(0, 1.0)];
    for (&size, &n) in sample.spatial.iter().zip(point.iter().rev()) {
        let taps = grid_taps(sample, n, size);
        let next = |&(place, weight): &(usize, f64)| {
            taps.iter().map(move |&(at, share)| (place * size + at, weight * share)).collect::<Vec<_>>()
        };
        places = places.iter().flat_map(next).collect();
    }
    places.into_iter().map(|(place, weight)| image[place] * weight).sum()
}

#[test]
fn grids_are_sampled_as_defined() {
    let spatial = [vec![19], vec![7, 13], vec![3, 5, 6]];
    for machine in Machine::all() {
        for (at, mode) in [GridMode::Nearest, GridMode::Linear, GridMode::Cubic].into_iter().enumerate() {
            for (place, padding) in
                [GridPadding::Zeros, GridPadding::Border, GridPadding::Reflection].into_iter().enumerate()
            {
                for (rank, spatial) in spatial.iter().enumerate() {
                    let sample = GridSample {
                        scalar: FLOATS[(at + place + rank) % 3],
                        grid: FLOATS[(at + 2 * place) % 3],
                        batch: 2,
                        channels: 3,
                        spatial: spatial.clone(),
                        points: 67,
                        mode,
                        padding,
                        aligns_corners: (at + rank) % 2 == 0,
                    };
                    sample_once(&machine, &sample);
                }
            }
        }
    }
}

fn sample_once(machine: &Machine, sample: &GridSample) {
    let (rank, area) = (sample.spatial.len(), sample.spatial.iter().product::<usize>());
    let (planes, total) = (sample.batch * sample.channels, sample.batch * sample.channels * sample.points);
    let (image, pixels) = upload(machine, sample.scalar, &random(71, planes * area, -2.0, 2.0));
    // Points lie around the image too.
    let (grid, points) =
        upload(machine, sample.grid, &random(72, sample.batch * sample.points * rank, -1.7, 1.7));
    let y = machine.poisoned(total * sample.scalar.bytes());
    let plan = sample.plan().expect("images of one to three dimensions");
    machine.run(&plan, &[y, image, grid]).unwrap_or_else(|error| panic!("{sample:?}: {error}"));
    let wanted: Vec<f64> = (0..total)
        .map(|at| {
            let (plane, point) = (at / sample.points, at % sample.points);
            let place = (plane / sample.channels * sample.points + point) * rank;
            sampled(sample, &pixels[plane * area..][..area], &points[place..][..rank])
        })
        .collect();
    let tolerance = 3e-5 + 2.0 * rounding(sample.scalar);
    let found = download(machine, sample.scalar, y, total);
    assert_close(&format!("{sample:?} on {}", machine.family.name), &found, &wanted, tolerance, tolerance);
}

/// One position of a resampled line, from every pixel that the kernel reaches.
fn resampled(line: &[f64], source: f64, shrink: f64, filter: Filter) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    let size = line.len() as i64;
    for at in -3 * size - 9..4 * size + 9 {
        let is_outside = at < 0 || at >= size;
        let distance = (at as f64 - source).abs() * shrink;
        let weight = match filter.cubic {
            Some(a) => cubic(distance, f64::from(a)),
            None => (1.0 - distance).max(0.0),
        };
        if weight != 0.0 && !(is_outside && filter.excludes_outside) {
            sum += weight * line[at.clamp(0, size - 1) as usize];
            weights += weight;
        }
    }
    if filter.excludes_outside || filter.is_antialiased { sum / weights } else { sum }
}

#[test]
fn axes_are_resampled_by_wide_kernels() {
    use Scalar::{BF16, F16, F32};
    let types = [(F32, F32), (F16, F32), (F32, F16), (F16, F16), (BF16, F32), (F32, BF16), (BF16, BF16)];
    let filter = |cubic, excludes_outside, is_antialiased| Filter { cubic, excludes_outside, is_antialiased };
    let filters = [
        filter(None, false, true),
        filter(None, true, false),
        filter(Some(-0.75), false, false),
        filter(Some(-0.5), true, true),
        filter(Some(-0.75), false, true),
    ];
    for machine in Machine::all() {
        for (case, (from, to)) in types.into_iter().enumerate() {
            for (number, filter) in filters.into_iter().enumerate() {
                let (outer, inner) = (3, 5);
                let (input, output) = [(23, 9), (11, 29), (17, 17)][(case + number) % 3];
                let scale = output as f32 / input as f32;
                // Half pixels, as they are by default.
                let (shift, offset) = (0.5, -0.5);
                let dim = ResizeDim { input, output, times: 1.0, over: scale, shift, offset };
                let (x, values) = upload(&machine, from, &random(73, outer * input * inner, -3.0, 3.0));
                let y = machine.poisoned(outer * output * inner * to.bytes());
                let plan =
                    window::resample((from, to), outer, dim, inner, scale, filter).expect("a resampling");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{from:?} {filter:?}: {error}"));
                let shrink = if filter.is_antialiased { f64::from(scale).min(1.0) } else { 1.0 };
                let wanted: Vec<f64> = (0..outer * output * inner)
                    .map(|at| {
                        let (front, position) = (at / inner / output, at / inner % output);
                        let line: Vec<f64> =
                            (0..input).map(|i| values[(front * input + i) * inner + at % inner]).collect();
                        let source = (position as f64 + 0.5) / f64::from(dim.over) - 0.5;
                        resampled(&line, source, shrink, filter)
                    })
                    .collect();
                let tolerance = 3e-5 + 2.0 * rounding(to);
                let what = format!("{from:?} to {to:?}, {filter:?} on {}", machine.family.name);
                assert_close(&what, &download(&machine, to, y, wanted.len()), &wanted, tolerance, tolerance);
            }
        }
    }
}

#[test]
fn responses_are_normalised_over_channels() {
    for machine in Machine::all() {
        for scalar in FLOATS {
            for (dims, size, [alpha, beta, bias]) in [
                ([2usize, 9usize, 35usize], 3usize, [1e-2f32, 0.75, 1.0]),
                ([1, 5, 61], 4, [0.5, 0.6, 2.0]),
                ([3, 4, 7], 11, [0.3, 0.75, 0.5]),
            ] {
                let [_, channels, inner] = dims;
                let total = dims.iter().product();
                let (x, values) = upload(&machine, scalar, &random(74, total, -4.0, 4.0));
                let y = machine.poisoned(total * scalar.bytes());
                let plan = window::local_response(scalar, dims, size, [alpha, beta, bias]).expect("floats");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{scalar:?} {dims:?}: {error}"));
                let wanted: Vec<f64> = (0..total)
                    .map(|at| {
                        let channel = at / inner % channels;
                        let first = channel.saturating_sub((size - 1) / 2);
                        let last = (channel + size / 2).min(channels - 1);
                        let squares =
                            (first..=last).map(|c| values[at + c * inner - channel * inner].powi(2));
                        let sum: f64 = squares.sum();
                        let base = f64::from(bias) + f64::from(alpha) / size as f64 * sum;
                        values[at] / base.powf(f64::from(beta))
                    })
                    .collect();
                let tolerance = 4.0 * rounding(scalar);
                let what = format!("{scalar:?} {dims:?} on {}", machine.family.name);
                assert_close(&what, &download(&machine, scalar, y, total), &wanted, 1e-7, tolerance);
            }
        }
    }
}

/// Where every number of `dims` lies, outermost first.
fn places(dims: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..dims.iter().product()).map(|at: usize| {
        let mut rest = at;
        let mut place: Vec<usize> = dims
            .iter()
            .rev()
            .map(|&dim| {
                let own = rest % dim;
                rest /= dim;
                own
            })
            .collect();
        place.reverse();
        place
    })
}

/// Every element of every block added to its pixel.
fn folded(planes: usize, dims: &[FoldDim], blocks: &[f64]) -> Vec<f64> {
    let sizes = |of: fn(&FoldDim) -> usize| dims.iter().map(of).collect::<Vec<usize>>();
    let (image, block, count) = (sizes(|dim| dim.image), sizes(|dim| dim.block), sizes(|dim| dim.count));
    let area: usize = image.iter().product();
    let mut y = vec![0.0; planes * area];
    let mut values = blocks.iter();
    for plane in 0..planes {
        for element in places(&block) {
            for number in places(&count) {
                let value = values.next().expect("the blocks hold them all");
                let pixel = dims.iter().enumerate().try_fold(0, |pixel, (d, dim)| {
                    let at = (number[d] * dim.stride + element[d] * dim.dilation).checked_sub(dim.pad)?;
                    (at < dim.image).then_some(pixel * dim.image + at)
                });
                if let Some(pixel) = pixel {
                    y[plane * area + pixel] += value;
                }
            }
        }
    }
    y
}

#[test]
fn blocks_sum_to_images() {
    let dim =
        |image, block, count, stride, dilation, pad| FoldDim { image, block, count, stride, dilation, pad };
    let cases = [
        vec![dim(31, 5, 14, 2, 1, 0)],
        vec![dim(9, 3, 9, 1, 1, 1), dim(11, 2, 5, 2, 2, 0)],
        vec![dim(5, 2, 4, 1, 1, 0), dim(6, 3, 3, 2, 1, 1), dim(7, 2, 6, 1, 2, 1)],
    ];
    for machine in Machine::all() {
        for scalar in FLOATS {
            for dims in &cases {
                let planes = 3;
                let count = dims.iter().map(|dim| dim.block * dim.count).product::<usize>() * planes;
                let (x, blocks) = upload(&machine, scalar, &random(75, count, -2.0, 2.0));
                let wanted = folded(planes, dims, &blocks);
                let y = machine.poisoned(wanted.len() * scalar.bytes());
                let plan = window::fold_blocks(scalar, planes, dims).expect("one to three dimensions");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{scalar:?} {dims:?}: {error}"));
                let tolerance = 2.0 * rounding(scalar);
                let what = format!("{scalar:?} {dims:?} on {}", machine.family.name);
                let found = download(&machine, scalar, y, wanted.len());
                assert_close(&what, &found, &wanted, 1e-5, tolerance);
            }
        }
    }
}
