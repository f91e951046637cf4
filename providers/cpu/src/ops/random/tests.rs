//! Draws have the distribution that the operator names; a seed repeats them.

use crate::node::Attribute;
use crate::tensor::{DType, Tensor};
use crate::testing::{node, run, tensor};

const DRAWS: usize = 40_000;

fn draw(op: &str, attributes: &[(&str, Attribute)], inputs: &[Tensor]) -> Tensor {
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    run(&node("", op, 22, attributes, 1), &inputs).unwrap().remove(0)
}

/// Mean and variance.
fn moments(values: &[f32]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    (mean, values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count)
}

/// Five standard deviations of a mean of `DRAWS` draws.
fn bound(variance: f64) -> f64 {
    5.0 * (variance / DRAWS as f64).sqrt()
}

#[test]
fn bernoulli_draws_ones_with_the_probability_of_each_element() {
    for seed in [None, Some(0.0), Some(7.0)] {
        let attributes: Vec<_> = seed.map(|seed| ("seed", Attribute::Float(seed))).into_iter().collect();
        for p in [0.0f32, 0.1, 0.5, 0.93, 1.0] {
            let y = draw("Bernoulli", &attributes, &[tensor(&[DRAWS], &vec![p; DRAWS])]);
            let values = y.as_slice::<f32>().unwrap();
            assert!(values.iter().all(|&v| v == 0.0 || v == 1.0));
            let (mean, _) = moments(values);
            let p = f64::from(p);
            assert!((mean - p).abs() <= bound(p * (1.0 - p)), "probability {p}: mean {mean}");
        }
    }
}

#[test]
fn neighbouring_draws_are_independent() {
    let y = draw("Bernoulli", &[("seed", Attribute::Float(3.0))], &[tensor(&[DRAWS], &vec![0.5f32; DRAWS])]);
    let values = y.as_slice::<f32>().unwrap();
    for distance in [1, 2, 7, 624] {
        let both = values.iter().zip(&values[distance..]).filter(|(a, b)| **a == 1.0 && **b == 1.0).count();
        let share = both as f64 / (DRAWS - distance) as f64;
        assert!((share - 0.25).abs() < bound(0.25), "distance {distance}: {share}");
    }
}

#[test]
fn a_seed_repeats_the_draws_and_no_seed_does_not() {
    let p = tensor(&[64], &[0.5f32; 64]);
    let with = |seed: f32| draw("Bernoulli", &[("seed", Attribute::Float(seed))], std::slice::from_ref(&p));
    assert_eq!(with(5.0).as_bytes(), with(5.0).as_bytes());
    assert_ne!(with(5.0).as_bytes(), with(6.0).as_bytes());
    let free = || draw("Bernoulli", &[], std::slice::from_ref(&p));
    assert_ne!(free().as_bytes(), free().as_bytes());
}

#[test]
fn the_type_of_bernoulli_draws_can_be_chosen() {
    let to = [("dtype", Attribute::Int(9))];
    let y = draw("Bernoulli", &to, &[tensor(&[3], &[1.0f64, 0.0, 1.0])]);
    assert_eq!((y.dtype(), y.as_bytes()), (DType::Bool, &[1u8, 0, 1][..]));
}

#[test]
fn normal_and_uniform_draws_have_their_moments() {
    let shape = ("shape", Attribute::Ints(vec![DRAWS as i64]));
    let normal = [shape.clone(), ("mean", Attribute::Float(2.0)), ("scale", Attribute::Float(3.0))];
    let (mean, variance) = moments(draw("RandomNormal", &normal, &[]).as_slice::<f32>().unwrap());
    assert!((mean - 2.0).abs() < bound(9.0) && (variance / 9.0 - 1.0).abs() < 0.05, "{mean} {variance}");
    let uniform = [shape, ("low", Attribute::Float(-1.0)), ("high", Attribute::Float(5.0))];
    let y = draw("RandomUniform", &uniform, &[]);
    let values = y.as_slice::<f32>().unwrap();
    assert!(values.iter().all(|v| (-1.0..5.0).contains(v)));
    let (mean, variance) = moments(values);
    assert!((mean - 2.0).abs() < bound(3.0) && (variance / 3.0 - 1.0).abs() < 0.05, "{mean} {variance}");
}

#[test]
fn classes_are_drawn_in_proportion_to_their_exponentials() {
    let logits = tensor(&[1, 3], &[1f32.ln(), 2f32.ln(), 5f32.ln()]);
    let attributes = [("sample_size", Attribute::Int(DRAWS as i64))];
    let y = draw("Multinomial", &attributes, &[logits]);
    for (class, p) in [0.125, 0.25, 0.625].into_iter().enumerate() {
        let hits = y.as_slice::<i32>().unwrap().iter().filter(|&&v| v == class as i32).count();
        let share = hits as f64 / DRAWS as f64;
        assert!((share - p).abs() < bound(p * (1.0 - p)), "class {class}: {share}");
    }
}
