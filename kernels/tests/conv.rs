//! Convolutions against a binary64 reference on every tier.

mod support;

use support::{Rng, assert_close, for_each_context};
use tenon_kernels::cpu::conv::*;
use tenon_kernels::cpu::conv_transpose::{ConvTransposeShape, conv_transpose};
use tenon_kernels::cpu::elementwise::Unary;
use tenon_kernels::cpu::pool::Window;

/// Every (output flat, tap flat, input flat) triple of a window.
fn walk(window: &Window, mut body: impl FnMut(usize, usize, usize)) {
    let (outs, taps): (usize, usize) = (window.output.iter().product(), window.kernel.iter().product());
    for out in 0..outs {
        for tap in 0..taps {
            let (mut o, mut t, mut at, mut stride) = (out, tap, Some(0), 1);
            for d in (0..window.input.len()).rev() {
                let p = (o % window.output[d] * window.strides[d]
                    + t % window.kernel[d] * window.dilations[d]) as isize
                    - window.pads_begin[d] as isize;
                let inside = p >= 0 && p < window.input[d] as isize;
                at = if inside { at.map(|at| at + p as usize * stride) } else { None };
                stride *= window.input[d];
                o /= window.output[d];
                t /= window.kernel[d];
            }
            if let Some(at) = at {
                body(out, tap, at);
            }
        }
    }
}

fn reference(shape: &ConvShape, x: &[f32], filter: &[f32]) -> Vec<f64> {
    let (inp, outp, taps) = (shape.in_plane(), shape.out_plane(), shape.taps());
    let mut y = vec![0.0; shape.batch * shape.out_channels * outp];
    for n in 0..shape.batch {
        for o in 0..shape.out_channels {
            for c in 0..shape.group_in() {
                let channel = n * shape.in_channels + o / shape.group_out() * shape.group_in() + c;
                walk(&shape.window, |out, tap, at| {
                    let w = f64::from(filter[(o * shape.group_in() + c) * taps + tap]);
                    y[(n * shape.out_channels + o) * outp + out] += w * f64::from(x[channel * inp + at]);
                });
            }
        }
    }
    y
}

struct Case {
    batch: usize,
    groups: usize,
    channels: [usize; 2],
    input: &'static [usize],
    kernel: &'static [usize],
    strides: &'static [usize],
    dilations: &'static [usize],
    pads: [&'static [usize]; 2],
}

const fn case(
    [batch, groups, cin, cout]: [usize; 4],
    input: &'static [usize],
    kernel: &'static [usize],
    strides: &'static [usize],
    dilations: &'static [usize],
    pads: [&'static [usize]; 2],
) -> Case {
    Case { batch, groups, channels: [cin, cout], input, kernel, strides, dilations, pads }
}

const CASES: &[Case] = &[
    case([1, 1, 3, 8], &[9, 11], &[3, 3], &[1, 1], &[1, 1], [&[1, 1], &[1, 1]]),
    case([2, 1, 5, 20], &[14, 37], &[3, 3], &[2, 2], &[1, 1], [&[0, 1], &[1, 0]]),
    case([1, 1, 3, 17], &[40, 71], &[7, 7], &[2, 2], &[1, 1], [&[3, 3], &[3, 3]]),
    case([2, 1, 70, 33], &[7, 7], &[1, 1], &[1, 1], &[1, 1], [&[0, 0], &[0, 0]]),
    case([1, 1, 8, 6], &[9, 9], &[1, 1], &[2, 2], &[1, 1], [&[0, 0], &[0, 0]]),
    case([1, 2, 8, 6], &[13, 40], &[3, 2], &[1, 3], &[2, 1], [&[2, 0], &[1, 2]]),
    case([1, 1, 130, 30], &[5, 19], &[3, 3], &[1, 1], &[1, 1], [&[1, 1], &[1, 1]]),
    case([2, 6, 6, 6], &[9, 41], &[3, 3], &[1, 1], &[1, 1], [&[1, 1], &[1, 1]]),
    case([1, 5, 5, 5], &[16, 33], &[3, 3], &[2, 2], &[1, 1], [&[1, 1], &[1, 1]]),
    case([1, 4, 4, 8], &[12, 12], &[5, 5], &[1, 1], &[1, 1], [&[2, 2], &[2, 2]]),
    case([1, 3, 3, 3], &[15, 40], &[5, 5], &[2, 2], &[1, 1], [&[1, 2], &[2, 1]]),
    case([1, 3, 3, 3], &[15, 20], &[3, 3], &[1, 1], &[2, 2], [&[2, 2], &[2, 2]]),
    case([1, 3, 3, 3], &[15, 20], &[2, 7], &[3, 3], &[1, 1], [&[0, 3], &[1, 3]]),
    case([2, 1, 4, 7], &[50], &[5], &[2], &[1], [&[2], &[2]]),
    case([2, 4, 4, 4], &[50], &[5], &[1], &[2], [&[4], &[4]]),
    case([1, 1, 3, 5], &[5, 6, 7], &[3, 2, 3], &[1, 2, 1], &[1, 1, 2], [&[1, 0, 2], &[1, 1, 0]]),
    case([1, 1, 2, 3], &[2, 2], &[3, 3], &[1, 1], &[1, 1], [&[2, 2], &[2, 2]]),
    case([1, 1, 2, 3], &[2, 40], &[1, 3], &[1, 1], &[1, 1], [&[0, 70], &[0, 1]]),
    case([1, 1, 1100, 9], &[6, 31], &[1, 1], &[1, 1], &[1, 1], [&[0, 0], &[0, 0]]),
    case([2, 1, 300, 15], &[11, 23], &[3, 3], &[1, 1], &[1, 1], [&[1, 1], &[1, 1]]),
    case([2, 2, 600, 6], &[8, 33], &[3, 2], &[1, 1], &[1, 1], [&[0, 0], &[0, 0]]),
    case([1, 1, 3, 2], &[31, 45], &[4, 5], &[3, 2], &[2, 3], [&[3, 1], &[0, 5]]),
    case([1, 1, 2, 29], &[19, 26], &[2, 2], &[2, 2], &[2, 2], [&[1, 2], &[2, 1]]),
    case([3, 1, 7, 1], &[24, 1], &[5, 1], &[1, 1], &[1, 1], [&[0, 0], &[0, 0]]),
    case([1, 1, 1, 4], &[3000], &[64], &[16], &[1], [&[5], &[7]]),
    case([1, 1, 6, 2], &[17, 18], &[3, 3], &[1, 1], &[1, 1], [&[0, 2], &[2, 0]]),
];

impl Case {
    fn shape(&self) -> ConvShape {
        let Case { input, kernel, strides, dilations, pads, .. } = *self;
        let window =
            Window::new(input, kernel, strides, dilations, pads[0], pads[1], false).expect("arguments agree");
        ConvShape::new(self.batch, self.groups, self.channels[0], self.channels[1], window)
            .expect("arguments agree")
    }
}

#[test]
fn convolutions_agree_for_all_forms_with_bias_residual_and_activation() {
    let mut rng = Rng::new(1);
    for (index, case) in CASES.iter().enumerate() {
        let shape = case.shape();
        let x = rng.floats(shape.input_len().unwrap());
        let filter = rng.floats(shape.filter_len().unwrap());
        let (bias, residual) = (rng.floats(shape.out_channels), rng.floats(shape.output_len().unwrap()));
        let plain = reference(&shape, &x, &filter);
        let outp = shape.out_plane();
        let full: Vec<f64> = (0..plain.len())
            .map(|i| plain[i] + f64::from(bias[i / outp % shape.out_channels]) + f64::from(residual[i]))
            .map(|v| v.max(0.0))
            .collect();
        let epilogue = ConvEpilogue { bias: Some(&bias), residual: Some(&residual), activation: Unary::Relu };
        for_each_context(|ctx| {
            let what = format!("case {index} on {:?}", ctx.features.isa());
            let packed = PackedFilter::pack(ctx, &shape, &filter).unwrap();
            let mut y = vec![f32::NAN; plain.len()];
            conv(ctx, &shape, &x, &packed, &ConvEpilogue::default(), &mut y).unwrap();
            assert_close(&y, &plain, 1e-4, &what);
            y.fill(f32::NAN);
            conv(ctx, &shape, &x, &packed, &epilogue, &mut y).unwrap();
            assert_close(&y, &full, 1e-4, &what);
            let smooth = ConvEpilogue { activation: Unary::Sigmoid, ..epilogue };
            let sum = |i: usize| plain[i] + f64::from(bias[i / outp % shape.out_channels]);
            let squashed: Vec<f64> =
                (0..plain.len()).map(|i| 1.0 / (1.0 + (-sum(i) - f64::from(residual[i])).exp())).collect();
            y.fill(f32::NAN);
            conv(ctx, &shape, &x, &packed, &smooth, &mut y).unwrap();
            assert_close(&y, &squashed, 1e-4, &what);
            y.fill(f32::NAN);
            conv_reference(ctx, &shape, &x, &filter, &epilogue, &mut y).unwrap();
            assert_close(&y, &full, 1e-4, &what);
        });
    }
}

#[test]
fn packed_filters_serve_other_spatial_extents() {
    let mut rng = Rng::new(2);
    let shape = CASES[0].shape();
    let filter = rng.floats(shape.filter_len().unwrap());
    let window = Window::new(&[4, 50], &[3, 3], &[1, 1], &[1, 1], &[0, 0], &[0, 0], false).unwrap();
    let other = ConvShape::new(3, 1, 3, 8, window).unwrap();
    let x = rng.floats(other.input_len().unwrap());
    let expected = reference(&other, &x, &filter);
    for_each_context(|ctx| {
        let packed = PackedFilter::pack(ctx, &shape, &filter).unwrap();
        let mut y = vec![f32::NAN; expected.len()];
        conv(ctx, &other, &x, &packed, &ConvEpilogue::default(), &mut y).unwrap();
        assert_close(&y, &expected, 1e-4, "other extents");
        let wrong = ConvShape::new(1, 1, 4, 8, other.window.clone()).unwrap();
        let x = vec![0.0; wrong.input_len().unwrap()];
        let mut y = vec![0.0; wrong.output_len().unwrap()];
        assert!(conv(ctx, &wrong, &x, &packed, &ConvEpilogue::default(), &mut y).is_err());
    });
}

#[test]
fn transposed_convolutions_are_the_gradient_of_convolutions() {
    let mut rng = Rng::new(3);
    for (index, case) in CASES.iter().enumerate() {
        let forward = case.shape();
        let w = &forward.window;
        // The gradient maps the forward output back to its input, so channels swap.
        let shape = ConvTransposeShape::new(
            case.batch,
            case.groups,
            forward.out_channels,
            forward.in_channels,
            &w.output,
            &w.input,
            &w.kernel,
            &w.strides,
            &w.dilations,
            &w.pads_begin,
        )
        .unwrap();
        let x = rng.floats(forward.output_len().unwrap());
        let filter = rng.floats(forward.filter_len().unwrap());
        let bias = rng.floats(forward.in_channels);
        let (inp, outp, taps) = (forward.in_plane(), forward.out_plane(), forward.taps());
        let mut expected: Vec<f64> = (0..forward.input_len().unwrap())
            .map(|i| f64::from(bias[i / inp % forward.in_channels]))
            .collect();
        for n in 0..case.batch {
            for o in 0..forward.out_channels {
                for c in 0..forward.group_in() {
                    let channel = o / forward.group_out() * forward.group_in() + c;
                    walk(w, |out, tap, at| {
                        let weight = f64::from(filter[(o * forward.group_in() + c) * taps + tap]);
                        expected[(n * forward.in_channels + channel) * inp + at] +=
                            weight * f64::from(x[(n * forward.out_channels + o) * outp + out]);
                    });
                }
            }
        }
        for_each_context(|ctx| {
            let mut y = vec![f32::NAN; expected.len()];
            conv_transpose(ctx, &shape, &x, &filter, Some(&bias), Unary::Identity, &mut y).unwrap();
            assert_close(&y, &expected, 1e-4, &format!("case {index}"));
        });
    }
}
