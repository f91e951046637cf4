//! Recurrent layers against step-by-step float64 arithmetic.

use crate::node::Attribute;
use crate::tensor::Tensor;
use crate::testing::{node, random, run, run_with, tensor};

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One LSTM direction over one sequence, by its definition: the hidden state after each step.
fn lstm(x: &[Vec<f64>], w: &[f64], r: &[f64], bias: &[f64], hidden: usize) -> Vec<Vec<f64>> {
    let size = x[0].len();
    let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
    let mut states = Vec::new();
    for x in x {
        let gate = |gate: usize, unit: usize, h: &[f64]| {
            let row = gate * hidden + unit;
            let input: f64 = (0..size).map(|i| w[row * size + i] * x[i]).sum();
            let state: f64 = (0..hidden).map(|i| r[row * hidden + i] * h[i]).sum();
            input + state + bias[row] + bias[4 * hidden + row]
        };
        let before = h.clone();
        for unit in 0..hidden {
            let (i, o) = (sigmoid(gate(0, unit, &before)), sigmoid(gate(1, unit, &before)));
            let (f, g) = (sigmoid(gate(2, unit, &before)), gate(3, unit, &before).tanh());
            c[unit] = f * c[unit] + i * g;
            h[unit] = o * c[unit].tanh();
        }
        states.push(h.clone());
    }
    states
}

#[test]
fn sequences_of_unequal_length_run_both_ways() {
    let (steps, batch, size, hidden) = (5, 3, 4, 6);
    let lengths = [5usize, 2, 0];
    let (x, w) = (random(&[steps, batch, size]), random(&[2, 4 * hidden, size]));
    let (r, b) = (random(&[2, 4 * hidden, hidden]), random(&[2, 8 * hidden]));
    let layer = node("", "LSTM", 14, &[("direction", Attribute::String("bidirectional".into()))], 3);
    let length = tensor::<i32>(&[batch], &lengths.map(|length| length as i32));
    let inputs = [Some(x.clone()), Some(w.clone()), Some(r.clone()), Some(b.clone()), Some(length)];
    let (x, w, r, b) = (values(&x), values(&w), values(&r), values(&b));
    for constant in [false, true] {
        let outputs = run_with(&layer, &inputs, &[false, constant, constant]).unwrap();
        let (y, last) = (values(&outputs[0]), values(&outputs[1]));
        for (entry, &length) in lengths.iter().enumerate() {
            for direction in 0..2 {
                let order: Vec<usize> =
                    if direction == 0 { (0..length).collect() } else { (0..length).rev().collect() };
                let rows: Vec<Vec<f64>> =
                    order.iter().map(|&t| x[(t * batch + entry) * size..][..size].to_vec()).collect();
                let part = |all: &[f64], len: usize| all[direction * len..][..len].to_vec();
                let (w, r) = (part(&w, 4 * hidden * size), part(&r, 4 * hidden * hidden));
                let states =
                    if length == 0 { Vec::new() } else { lstm(&rows, &w, &r, &part(&b, 8 * hidden), hidden) };
                for step in 0..steps {
                    let row = &y[((step * 2 + direction) * batch + entry) * hidden..][..hidden];
                    let expected = order
                        .iter()
                        .position(|&t| t == step)
                        .map_or(vec![0.0; hidden], |i| states[i].clone());
                    assert!(
                        row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5),
                        "{row:?} {expected:?}"
                    );
                }
                let expected = states.last().cloned().unwrap_or(vec![0.0; hidden]);
                let row = &last[(direction * batch + entry) * hidden..][..hidden];
                assert!(row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }
    }
}

#[test]
fn a_batch_major_layer_agrees_with_a_time_major_one() {
    let (steps, batch, size, hidden) = (4, 3, 2, 5);
    for op_type in ["GRU", "RNN", "LSTM"] {
        let gates = match op_type {
            "GRU" => 3,
            "LSTM" => 4,
            _ => 1,
        };
        let x = random(&[steps, batch, size]);
        let (w, r) = (random(&[1, gates * hidden, size]), random(&[1, gates * hidden, hidden]));
        let first = run(&node("", op_type, 14, &[], 2), &[Some(x.clone()), Some(w.clone()), Some(r.clone())])
            .unwrap();
        let all = x.as_slice::<f32>().unwrap();
        let turned: Vec<f32> = (0..batch * steps)
            .flat_map(|row| all[(row % steps * batch + row / steps) * size..][..size].to_vec())
            .collect();
        let turned = tensor::<f32>(&[batch, steps, size], &turned);
        let layer = node("", op_type, 14, &[("layout", Attribute::Int(1))], 2);
        let second = run(&layer, &[Some(turned), Some(w), Some(r)]).unwrap();
        assert_eq!(second[0].dims(), [batch, steps, 1, hidden]);
        let (first_y, second_y) = (values(&first[0]), values(&second[0]));
        for (entry, step) in (0..batch).flat_map(|entry| (0..steps).map(move |step| (entry, step))) {
            let (a, b) = ((step * batch + entry) * hidden, (entry * steps + step) * hidden);
            assert_eq!(first_y[a..a + hidden], second_y[b..b + hidden], "{op_type}");
        }
        assert_eq!(values(&first[1]), values(&second[1]));
    }
}

#[test]
fn weights_of_other_sizes_are_refused() {
    let layer = node("", "LSTM", 14, &[], 1);
    let inputs = |x: &[usize], w: &[usize], r: &[usize]| [Some(random(x)), Some(random(w)), Some(random(r))];
    assert!(run(&layer, &inputs(&[3, 1, 2], &[1, 8, 3], &[1, 8, 2])).is_err());
    assert!(run(&layer, &inputs(&[3, 1, 2], &[1, 8, 2], &[1, 8, 3])).is_err());
    assert!(run(&layer, &inputs(&[3, 1, 2], &[2, 8, 2], &[2, 8, 2])).is_err());
    let mut long = inputs(&[3, 1, 2], &[1, 8, 2], &[1, 8, 2]).to_vec();
    long.extend([None, Some(tensor::<i32>(&[1], &[4]))]);
    assert!(run(&layer, &long).is_err());
}
