//! Convolutions against a direct float64 sum: odd shapes, groups, dilations.

use crate::node::{Attribute, Node};
use crate::tensor::{DType, Tensor};
use crate::testing::{node, random, run, run_with, tensor};

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F64 => tensor.as_slice::<f64>().unwrap().to_vec(),
        _ => tensor.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect(),
    }
}

fn doubled(of: &Tensor) -> Tensor {
    tensor::<f64>(of.dims(), &values(of))
}

/// A two-dimensional case: input, weights, groups, strides, dilations, pads.
struct Case {
    x: [usize; 4],
    w: [usize; 4],
    group: usize,
    strides: [i64; 2],
    dilations: [i64; 2],
    pads: [i64; 4],
}

impl Case {
    fn node(&self, domain: &str, op_type: &str, more: &[(&str, Attribute)]) -> Node {
        let mut attributes = vec![
            ("group", Attribute::Int(self.group as i64)),
            ("strides", ints(&self.strides)),
            ("dilations", ints(&self.dilations)),
            ("pads", ints(&self.pads)),
        ];
        attributes.extend(more.iter().cloned());
        node(domain, op_type, 22, &attributes, 1)
    }

    /// The definition, in f64: result and its shape.
    fn reference(&self, x: &[f64], w: &[f64]) -> (Vec<f64>, [usize; 4]) {
        let [batch, channels, height, width] = self.x;
        let [outputs, inputs, kh, kw] = self.w;
        let size = |axis: usize, size: usize, kernel: usize| {
            let extent = (kernel as i64 - 1) * self.dilations[axis] + 1;
            ((size as i64 + self.pads[axis] + self.pads[axis + 2] - extent) / self.strides[axis] + 1) as usize
        };
        let (oh, ow) = (size(0, height, kh), size(1, width, kw));
        let mut y = vec![0.0; batch * outputs * oh * ow];
        for (index, y) in y.iter_mut().enumerate() {
            let (n, m) = (index / (outputs * oh * ow), index / (oh * ow) % outputs);
            let (i, j) = ((index / ow % oh) as i64, (index % ow) as i64);
            let first = m / (outputs / self.group) * inputs;
            for c in 0..inputs {
                for (a, b) in (0..kh * kw).map(|k| (k / kw, k % kw)) {
                    let row = i * self.strides[0] + a as i64 * self.dilations[0] - self.pads[0];
                    let column = j * self.strides[1] + b as i64 * self.dilations[1] - self.pads[1];
                    if (0..height as i64).contains(&row) && (0..width as i64).contains(&column) {
                        let at =
                            ((n * channels + first + c) * height + row as usize) * width + column as usize;
                        *y += x[at] * w[((m * inputs + c) * kh + a) * kw + b];
                    }
                }
            }
        }
        (y, [batch, outputs, oh, ow])
    }
}

fn cases() -> Vec<Case> {
    let case = |x, w, group, strides, dilations, pads| Case { x, w, group, strides, dilations, pads };
    vec![
        case([1, 1, 5, 5], [1, 1, 3, 3], 1, [1, 1], [1, 1], [0; 4]),
        case([2, 3, 7, 9], [4, 3, 3, 2], 1, [2, 1], [1, 2], [1, 0, 2, 1]),
        case([1, 6, 8, 5], [9, 2, 1, 1], 3, [1, 1], [1, 1], [0; 4]),
        case([2, 4, 9, 17], [4, 1, 3, 5], 4, [2, 2], [1, 1], [1, 2, 1, 2]),
        case([1, 3, 6, 6], [6, 1, 2, 3], 3, [1, 3], [2, 1], [2, 2, 0, 1]),
        case([1, 16, 14, 14], [33, 16, 3, 3], 1, [1, 1], [1, 1], [1; 4]),
        case([1, 2, 6, 6], [3, 2, 3, 3], 1, [1, 1], [1, 1], [-1, -1, 1, 0]),
    ]
}

fn assert_close(got: &Tensor, expected: &[f64]) {
    let got = values(got);
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
            "element {index}: {got} against {expected}"
        );
    }
}

#[test]
fn convolutions_agree_with_the_definition_in_both_precisions() {
    for case in cases() {
        let (x, w) = (random(&case.x), random(&case.w));
        let (expected, dims) = case.reference(&values(&x), &values(&w));
        let conv = case.node("", "Conv", &[]);
        for constant in [false, true] {
            let y = run_with(&conv, &[Some(x.clone()), Some(w.clone())], &[false, constant]).unwrap();
            assert_eq!(y[0].dims(), dims);
            assert_close(&y[0], &expected);
        }
        let y = run(&conv, &[Some(doubled(&x)), Some(doubled(&w))]).unwrap();
        assert_close(&y[0], &expected);
    }
}

#[test]
fn the_fused_convolution_adds_bias_and_residual_before_its_activation() {
    for case in cases() {
        let (x, w, bias) = (random(&case.x), random(&case.w), random(&case.w[..1]));
        let (plain, dims) = case.reference(&values(&x), &values(&w));
        let residual = random(&dims);
        let (bias_values, residual_values) = (values(&bias), values(&residual));
        let plane = dims[2] * dims[3];
        let expected: Vec<f64> = plain
            .iter()
            .enumerate()
            .map(|(i, v)| (v + bias_values[i / plane % dims[1]] + residual_values[i]).clamp(-0.5, 1.0))
            .collect();
        let more = [
            ("activation", Attribute::String("Clip".into())),
            ("activation_params", Attribute::Floats(vec![-0.5, 1.0])),
        ];
        let conv = case.node("tenon", "FusedConv", &more);
        let inputs = [Some(x), Some(w), Some(bias), Some(residual)];
        assert_close(&run_with(&conv, &inputs, &[false, true]).unwrap()[0], &expected);
    }
}

#[test]
fn one_and_three_spatial_axes_agree_with_two() {
    let case = Case {
        x: [2, 3, 1, 11],
        w: [4, 3, 1, 3],
        group: 1,
        strides: [1, 2],
        dilations: [1, 1],
        pads: [0, 1, 0, 1],
    };
    let (x, w) = (random(&case.x), random(&case.w));
    let (expected, _) = case.reference(&values(&x), &values(&w));
    let flat = node("", "Conv", 11, &[("strides", ints(&[2])), ("pads", ints(&[1, 1]))], 1);
    let shape = |t: &Tensor, dims: &[usize]| Some(t.clone().reshaped(dims).unwrap());
    let y = run(&flat, &[shape(&x, &[2, 3, 11]), shape(&w, &[4, 3, 3])]).unwrap();
    assert_close(&y[0], &expected);
    let deep = node("", "Conv", 11, &[("strides", ints(&[1, 1, 2])), ("pads", ints(&[0, 0, 1, 0, 0, 1]))], 1);
    let y = run(&deep, &[shape(&x, &[2, 3, 1, 1, 11]), shape(&w, &[4, 3, 1, 1, 3])]).unwrap();
    assert_close(&y[0], &expected);
}

#[test]
fn the_transposed_convolution_is_the_adjoint_of_the_convolution() {
    for case in cases().into_iter().filter(|case| case.pads.iter().all(|&pad| pad >= 0)) {
        let (x, w) = (random(&case.x), random(&case.w));
        let (y, dims) = case.reference(&values(&x), &values(&w));
        let z = random(&dims);
        let output = [("output_shape", ints(&[case.x[2] as i64, case.x[3] as i64]))];
        let mut transposed = case.node("", "ConvTranspose", &[]);
        // The forward pass may leave elements at the end unused: output_padding restores them.
        let spare = |axis: usize| {
            let extent = (case.w[axis + 2] as i64 - 1) * case.dilations[axis] + 1;
            let room = case.x[axis + 2] as i64 + case.pads[axis] + case.pads[axis + 2] - extent;
            room % case.strides[axis]
        };
        transposed.attributes.insert("output_padding".into(), ints(&[spare(0), spare(1)]));
        let back = run(&transposed, &[Some(z.clone()), Some(w.clone())]).unwrap();
        assert_eq!(back[0].dims(), case.x, "{:?}", output);
        let forward: f64 = y.iter().zip(values(&z)).map(|(a, b)| a * b).sum();
        let adjoint: f64 = values(&x).iter().zip(values(&back[0])).map(|(a, b)| a * b).sum();
        assert!((forward - adjoint).abs() < 1e-3 * (1.0 + forward.abs()), "{forward} against {adjoint}");
        let double = run(&transposed, &[Some(doubled(&z)), Some(doubled(&w))]).unwrap();
        assert_close(&back[0], &values(&double[0]));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let conv = node("", "Conv", 11, &[], 1);
    for (x, w) in [(&[1, 3, 5][..], &[2, 4, 3][..]), (&[1, 3], &[2, 3]), (&[1, 3, 5, 5], &[2, 3, 7, 7])] {
        assert!(run(&conv, &[Some(random(x)), Some(random(w))]).is_err(), "{x:?} {w:?}");
    }
    let empty = run(&conv, &[Some(random(&[0, 3, 5])), Some(random(&[2, 3, 3]))]).unwrap();
    assert_eq!(empty[0].dims(), [0, 2, 3]);
}

#[test]
fn a_causal_convolution_continues_where_the_state_left_off() {
    let conv = node("", "CausalConvWithState", 27, &[], 2);
    let (x, w) = (random(&[1, 2, 7]), random(&[2, 1, 4]));
    let whole = run(&conv, &[Some(x.clone()), Some(w.clone())]).unwrap();
    let part = |range: std::ops::Range<usize>| {
        let all = x.as_slice::<f32>().unwrap();
        let rows: Vec<f32> = (0..2).flat_map(|c| all[c * 7..][range.clone()].to_vec()).collect();
        tensor::<f32>(&[1, 2, range.len()], &rows)
    };
    let first = run(&conv, &[Some(part(0..3)), Some(w.clone())]).unwrap();
    let second = run(&conv, &[Some(part(3..7)), Some(w), None, Some(first[1].clone())]).unwrap();
    let (whole_y, first_y, second_y) = (values(&whole[0]), values(&first[0]), values(&second[0]));
    for c in 0..2 {
        assert_eq!(whole_y[c * 7..c * 7 + 3], first_y[c * 3..c * 3 + 3]);
        assert_eq!(whole_y[c * 7 + 3..c * 7 + 7], second_y[c * 4..c * 4 + 4]);
    }
    assert_eq!(values(&whole[1]), values(&second[1]));
}
