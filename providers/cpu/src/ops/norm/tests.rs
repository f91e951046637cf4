//! Normalisations against float64 arithmetic.

use crate::node::Attribute;
use crate::tensor::{DType, Tensor};
use crate::testing::{node, random, run, tensor};

fn values(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F64 => tensor.as_slice::<f64>().unwrap().to_vec(),
        _ => tensor.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect(),
    }
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
            "element {index}: {got} against {expected}"
        );
    }
}

/// Rows of `width` normalised in f64.
fn normalized(x: &[f64], width: usize, centred: bool) -> Vec<f64> {
    x.chunks_exact(width)
        .flat_map(|row| {
            let mean = if centred { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / width as f64;
            row.iter().map(move |v| (v - mean) / (variance + 1e-5).sqrt()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn layer_norm_broadcasts_scale_and_bias() {
    for (dims, axis, scale) in [
        (&[2, 3, 5][..], -1, &[5][..]),
        (&[2, 3, 5], 1, &[3, 5]),
        (&[2, 3, 5], 1, &[5]),
        (&[2, 3, 5], -1, &[1]),
        (&[2, 3, 5], 2, &[3, 1]),
        (&[7], 0, &[7]),
    ] {
        let (x, gamma, beta) = (random(dims), random(scale), random(scale));
        let layer = node("", "LayerNormalization", 17, &[("axis", Attribute::Int(axis))], 3);
        let y = run(&layer, &[Some(x.clone()), Some(gamma.clone()), Some(beta.clone())]).unwrap();
        let first = if axis < 0 { dims.len() - 1 } else { axis as usize };
        let width: usize = dims[first..].iter().product();
        let strides = crate::shape::broadcast_strides(scale, dims);
        let at = |mut index: usize| {
            let mut offset = 0;
            for (dim, stride) in dims.iter().zip(&strides).rev() {
                offset += index % dim * stride;
                index /= dim;
            }
            offset
        };
        let (gamma, beta) = (values(&gamma), values(&beta));
        let plain = normalized(&values(&x), width, true);
        let expected: Vec<f64> =
            plain.iter().enumerate().map(|(i, v)| v * gamma[at(i)] + beta[at(i)]).collect();
        assert_close(&values(&y[0]), &expected);
        assert_eq!(y[1].len(), x.len() / width);
        let double = |t: &[f64], dims: &[usize]| Some(tensor::<f64>(dims, t));
        let inputs = [double(&values(&x), dims), double(&gamma, scale), double(&beta, scale)];
        assert_close(&values(&run(&layer, &inputs).unwrap()[0]), &expected);
    }
}

#[test]
fn skip_norm_hands_out_its_sum() {
    let skip_norm = node(
        "com.microsoft",
        "SkipSimplifiedLayerNormalization",
        1,
        &[("epsilon", Attribute::Float(1e-5))],
        4,
    );
    let (x, skip, gamma) = (random(&[2, 3, 9]), random(&[2, 3, 9]), random(&[9]));
    let y = run(&skip_norm, &[Some(x.clone()), Some(skip.clone()), Some(gamma.clone())]).unwrap();
    let sum: Vec<f64> = values(&x).iter().zip(values(&skip)).map(|(a, b)| a + b).collect();
    let gamma = values(&gamma);
    let expected: Vec<f64> =
        normalized(&sum, 9, false).iter().enumerate().map(|(i, v)| v * gamma[i % 9]).collect();
    assert_close(&values(&y[0]), &expected);
    assert_close(&values(y.last().unwrap()), &sum);
}

#[test]
fn training_batch_norm_updates_its_running_statistics() {
    let attributes = [("training_mode", Attribute::Int(1)), ("momentum", Attribute::Float(0.75))];
    let batch = node("", "BatchNormalization", 15, &attributes, 3);
    let x = tensor::<f32>(&[2, 1, 2], &[1.0, 3.0, 5.0, 7.0]);
    let one = |value: f32| Some(tensor::<f32>(&[1], &[value]));
    let y = run(&batch, &[Some(x), one(2.0), one(1.0), one(8.0), one(1.0)]).unwrap();
    let deviation = (5.0f64 + 1e-5).sqrt();
    let expected: Vec<f64> = [-3.0, -1.0, 1.0, 3.0].iter().map(|d| 2.0 * d / deviation + 1.0).collect();
    assert_close(&values(&y[0]), &expected);
    assert_close(&values(&y[1]), &[0.75 * 8.0 + 0.25 * 4.0]);
    assert_close(&values(&y[2]), &[0.75 + 0.25 * 5.0]);
}

#[test]
fn group_norm_takes_parameters_by_group_or_by_channel() {
    let x = random(&[2, 4, 3]);
    let plain = normalized(&values(&x), 6, true);
    let group = node("", "GroupNormalization", 21, &[("num_groups", Attribute::Int(2))], 1);
    for count in [2, 4] {
        let (scale, bias) = (random(&[count]), random(&[count]));
        let y = run(&group, &[Some(x.clone()), Some(scale.clone()), Some(bias.clone())]).unwrap();
        let (scale, bias) = (values(&scale), values(&bias));
        let at = |i: usize| i / 3 % 4 / (4 / count);
        let expected: Vec<f64> =
            plain.iter().enumerate().map(|(i, v)| v * scale[at(i)] + bias[at(i)]).collect();
        assert_close(&values(&y[0]), &expected);
    }
    assert!(run(&group, &[Some(random(&[2, 3, 3])), Some(random(&[3])), Some(random(&[3]))]).is_err());
}
