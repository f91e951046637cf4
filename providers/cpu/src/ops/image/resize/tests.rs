//! Resize against the definition: sizes and modes that the suite leaves out.

use crate::error::Result;
use crate::node::Attribute;
use crate::tensor::Tensor;
use crate::testing::{node, random, run, tensor};

fn text(value: &str) -> Attribute {
    Attribute::String(value.into())
}

fn resized(x: Tensor, scales: &[f32], attributes: &[(&str, Attribute)]) -> Result<Tensor> {
    let inputs = [Some(x), None, Some(tensor(&[scales.len()], scales))];
    run(&node("", "Resize", 19, attributes, 1), &inputs).map(|mut outputs| outputs.remove(0))
}

#[test]
fn nearest_repeats_any_type_and_keeps_what_is_not_resized() {
    let x = tensor(&[1, 2, 2, 1], &[1i16, 2, 3, 4]);
    let output = resized(x, &[1.0, 2.0, 2.0, 1.0], &[]).unwrap();
    assert_eq!(output.as_slice::<i16>().unwrap(), [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
}

#[test]
fn linear_matches_a_direct_sum_over_the_four_neighbours() {
    let (h, w, scale) = (5usize, 7usize, [1.7f32, 0.6]);
    let x = random(&[2, 3, h, w]);
    let output = resized(x.clone(), &[1.0, 1.0, scale[0], scale[1]], &[("mode", text("linear"))]).unwrap();
    let (oh, ow) = (output.dims()[2], output.dims()[3]);
    assert_eq!((oh, ow), (8, 4));
    let (x, y) = (x.as_slice::<f32>().unwrap(), output.as_slice::<f32>().unwrap());
    let at = |i: usize, scale: f32, len: usize| {
        let c = ((i as f64 + 0.5) / f64::from(scale) - 0.5).clamp(0.0, len as f64 - 1.0);
        (c.floor() as usize, (c.floor() as usize + 1).min(len - 1), c - c.floor())
    };
    for plane in 0..6 {
        for i in 0..oh {
            for j in 0..ow {
                let ((y0, y1, fy), (x0, x1, fx)) = (at(i, scale[0], h), at(j, scale[1], w));
                let p = |r: usize, c: usize| f64::from(x[(plane * h + r) * w + c]);
                let top = p(y0, x0) * (1.0 - fx) + p(y0, x1) * fx;
                let bottom = p(y1, x0) * (1.0 - fx) + p(y1, x1) * fx;
                let expected = top * (1.0 - fy) + bottom * fy;
                let got = f64::from(y[(plane * oh + i) * ow + j]);
                assert!((got - expected).abs() < 1e-5, "{got} {expected}");
            }
        }
    }
}

#[test]
fn integers_are_rounded_and_the_outside_is_extrapolated() {
    let output = resized(tensor(&[2], &[0u8, 255]), &[2.0], &[("mode", text("linear"))]).unwrap();
    assert_eq!(output.as_slice::<u8>().unwrap(), [0, 64, 191, 255]);
    let attributes = [
        ("coordinate_transformation_mode", text("tf_crop_and_resize")),
        ("extrapolation_value", Attribute::Float(7.0)),
    ];
    let inputs = [
        Some(tensor(&[2], &[1f32, 2.0])),
        Some(tensor(&[2], &[0f32, 2.0])),
        None,
        Some(tensor(&[1], &[3i64])),
    ];
    let output = run(&node("", "Resize", 13, &attributes, 1), &inputs).unwrap();
    assert_eq!(output[0].as_slice::<f32>().unwrap(), [1.0, 2.0, 7.0]);
}

#[test]
fn bad_requests_are_errors_and_empty_results_are_fine() {
    assert!(resized(random(&[2, 2]), &[1.0], &[]).is_err());
    assert!(resized(random(&[2]), &[-1.0], &[]).is_err());
    assert!(resized(random(&[2]), &[f32::NAN], &[]).is_err());
    assert!(resized(random(&[2]), &[1e30], &[("mode", text("linear"))]).is_err());
    assert_eq!(resized(random(&[3, 2]), &[0.1, 1.0], &[("mode", text("linear"))]).unwrap().dims(), [0, 2]);
    assert_eq!(resized(random(&[0, 2]), &[1.0, 2.0], &[]).unwrap().dims(), [0, 4]);
}

#[test]
fn upsample_takes_its_scales_from_attributes() {
    let attributes = [("scales", Attribute::Floats(vec![1.0, 2.0])), ("mode", text("nearest"))];
    let output =
        run(&node("", "Upsample", 7, &attributes, 1), &[Some(tensor(&[1, 2], &[3f64, 4.0]))]).unwrap();
    assert_eq!(output[0].as_slice::<f64>().unwrap(), [3., 3., 4., 4.]);
}
