//! The kernels of `device/state.cu`: causal convolutions and linear attention, with the states they carry.

use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::state::{CausalConv, LinearAttention};

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

/// Results and the new state of a causal convolution, each `[batch, channels, ..]` or with the channels last.
fn convolved(
    conv: &CausalConv,
    x: &[f64],
    weights: &[f64],
    bias: &[f64],
    past: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let &CausalConv { batch, channels, length, taps, dilation, .. } = conv;
    let history = conv.history();
    let place = |batch: usize, channel: usize, at: usize, length: usize| match conv.is_channels_last {
        true => (batch * length + at) * channels + channel,
        false => (batch * channels + channel) * length + at,
    };
    let mut y = vec![0.0; batch * channels * length];
    let mut present = vec![0.0; batch * channels * history];
    for image in 0..batch {
        for channel in 0..channels {
            let before =
                (0..history).map(|at| past.get(place(image, channel, at, history)).copied().unwrap_or(0.0));
            let now = (0..length).map(|at| x[place(image, channel, at, length)]);
            let line: Vec<f64> = before.chain(now).collect();
            for at in 0..length {
                let products = (0..taps).map(|tap| weights[channel * taps + tap] * line[at + tap * dilation]);
                let sum = products.sum::<f64>() + bias.get(channel).copied().unwrap_or(0.0);
                y[place(image, channel, at, length)] =
                    if conv.has_silu { sum / (1.0 + (-sum).exp()) } else { sum };
            }
            for at in 0..history {
                present[place(image, channel, at, history)] = line[length + at];
            }
        }
    }
    (y, present)
}

#[test]
fn causal_convolutions_remember_their_past() {
    let cases = [
        // Batch, channels, length, taps, dilation; channels last, SiLU; bias, past, present.
        ([2usize, 5, 37, 4, 1], [false, true], [true, true, true]),
        ([1, 67, 3, 4, 2], [true, false], [false, true, true]),
        ([3, 7, 1, 3, 1], [false, true], [true, true, true]),
        ([2, 9, 41, 5, 3], [true, true], [true, false, true]),
        ([1, 3, 300, 2, 1], [false, false], [false, false, false]),
    ];
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            for (sizes, [is_channels_last, has_silu], [has_bias, has_past, has_present]) in cases {
                let [batch, channels, length, taps, dilation] = sizes;
                let conv = CausalConv {
                    scalar,
                    batch,
                    channels,
                    length,
                    taps,
                    dilation,
                    is_channels_last,
                    has_silu,
                };
                let states = batch * channels * conv.history();
                let total = batch * channels * length;
                let (x, inputs) = upload(&machine, scalar, &random(81, total, -2.0, 2.0));
                let (w, weights) = upload(&machine, scalar, &random(82, channels * taps, -1.0, 1.0));
                let optional = |seed, count, is_there: bool| match is_there {
                    true => upload(&machine, scalar, &random(seed, count, -1.0, 1.0)),
                    false => (0, Vec::new()),
                };
                let (b, bias) = optional(83, channels, has_bias);
                let (p, past) = optional(84, states, has_past);
                let y = machine.poisoned(total * scalar.bytes());
                let present = if has_present { machine.poisoned(states * scalar.bytes()) } else { 0 };
                let plan = conv.plan(has_present).expect("floats");
                let outcome = machine.run(&plan, &[y, present, x, w, b, p]);
                outcome.unwrap_or_else(|error| panic!("{conv:?}: {error}"));
                let (wanted, state) = convolved(&conv, &inputs, &weights, &bias, &past);
                let what = format!("{conv:?} on {}", machine.family.name);
                let tolerance = 4.0 * rounding(scalar);
                assert_close(&what, &download(&machine, scalar, y, total), &wanted, tolerance, tolerance);
                if has_present {
                    assert_close(&what, &download(&machine, scalar, present, states), &state, 0.0, 0.0);
                }
            }
        }
    }
}

/// What linear attention reads, as numbers; an absent operand is empty.
struct Inputs {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    past: Vec<f64>,
    decay: Vec<f64>,
    beta: Vec<f64>,
}

/// The results `[batch, steps, heads, dv]` and the states `[batch, heads, dk, dv]` behind the last step.
fn attended(problem: &LinearAttention, inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let &LinearAttention { batch, steps, heads, k_heads, q_heads, dk, dv, decay_width, beta_width, .. } =
        problem;
    let out_heads = heads.max(q_heads);
    let mut y = vec![0.0; batch * steps * out_heads * dv];
    let mut states =
        if inputs.past.is_empty() { vec![0.0; batch * heads * dk * dv] } else { inputs.past.clone() };
    for image in 0..batch {
        for head in 0..heads {
            let state = &mut states[(image * heads + head) * dk * dv..][..dk * dv];
            for token in image * steps..(image + 1) * steps {
                let key = &inputs.k[(token * k_heads + head / (heads / k_heads)) * dk..][..dk];
                for (row, line) in state.chunks_mut(dv).enumerate().filter(|_| decay_width > 0) {
                    let gate = if decay_width == heads { head } else { head * dk + row };
                    let remains = inputs.decay[token * decay_width + gate].exp();
                    line.iter_mut().for_each(|value| *value *= remains);
                }
                for column in 0..dv {
                    let mut value = inputs.v[(token * heads + head) * dv + column];
                    if beta_width > 0 {
                        let known: f64 = (0..dk).map(|row| state[row * dv + column] * key[row]).sum();
                        let rate = inputs.beta[token * beta_width + if beta_width == 1 { 0 } else { head }];
                        value = (value - known) * rate;
                    }
                    (0..dk).for_each(|row| state[row * dv + column] += key[row] * value);
                }
                for reader in head * out_heads / heads..(head + 1) * out_heads / heads {
                    let query = &inputs.q[(token * q_heads + reader * q_heads / out_heads) * dk..][..dk];
                    for column in 0..dv {
                        let sum: f64 = (0..dk).map(|row| query[row] * state[row * dv + column]).sum();
                        y[(token * out_heads + reader) * dv + column] = sum * f64::from(problem.scale);
                    }
                }
            }
        }
    }
    (y, states)
}

fn attend_once(machine: &Machine, problem: &LinearAttention, has_past: bool) {
    let &LinearAttention { scalar, state, batch, steps, heads, k_heads, q_heads, dk, dv, .. } = problem;
    let tokens = batch * steps;
    let given = |seed, count: usize, low, high| match count {
        0 => (0, Vec::new()),
        count => upload(machine, scalar, &random(seed, count, low, high)),
    };
    let states = batch * heads * dk * dv;
    let (q, queries) = given(91, tokens * q_heads * dk, -1.0, 1.0);
    // Keys of length one or less, as the delta rule wants them.
    let reach = 1.0 / (dk as f64).sqrt();
    let (k, keys) = given(92, tokens * k_heads * dk, -reach, reach);
    let (v, values) = given(93, tokens * heads * dv, -1.0, 1.0);
    let (d, decay) = given(94, tokens * problem.decay_width, -0.7, 0.0);
    let (b, beta) = given(95, tokens * problem.beta_width, 0.0, 1.0);
    let (p, past) =
        if has_past { upload(machine, state, &random(96, states, -1.0, 1.0)) } else { (0, Vec::new()) };
    let total = tokens * heads.max(q_heads) * dv;
    let (y, present) = (machine.poisoned(total * scalar.bytes()), machine.poisoned(states * state.bytes()));
    let plan = problem.plan().expect("heads that divide");
    let outcome = machine.run(&plan, &[y, present, q, k, v, p, d, b]);
    outcome.unwrap_or_else(|error| panic!("{problem:?}: {error}"));
    let inputs = Inputs { q: queries, k: keys, v: values, past, decay, beta };
    let (wanted, ends) = attended(problem, &inputs);
    let what = format!("{problem:?} on {}", machine.family.name);
    let close = |scalar| 2e-5 + 2.0 * rounding(scalar);
    let found = download(machine, scalar, y, total);
    assert_close(&what, &found, &wanted, close(scalar), close(scalar));
    let found = download(machine, state, present, states);
    assert_close(&format!("state of {what}"), &found, &ends, close(state), close(state));
}

#[test]
fn linear_attention_agrees_with_its_recurrence() {
    use Scalar::{BF16, F16, F32};
    let types = [(F32, F32), (F16, F16), (F16, F32), (BF16, BF16), (BF16, F32)];
    let cases = [
        // Batch, steps, heads of values, keys and queries, rows, columns, widths of decay and beta; the past.
        ([2usize, 5, 4, 2, 2, 19, 33], [0usize, 0], false),
        ([1, 7, 2, 1, 4, 128, 40], [2, 0], true),
        ([1, 4, 3, 3, 3, 61, 7], [3 * 61, 0], true),
        ([2, 3, 2, 2, 2, 256, 65], [2, 2], true),
        ([1, 1, 6, 2, 6, 9, 31], [6 * 9, 1], false),
    ];
    for machine in Machine::all() {
        for (at, (scalar, state)) in types.into_iter().enumerate() {
            for (sizes, [decay_width, beta_width], has_past) in cases {
                let [batch, steps, heads, k_heads, q_heads, dk, dv] = sizes;
                let problem = LinearAttention {
                    scalar,
                    state,
                    batch,
                    steps,
                    heads,
                    k_heads,
                    q_heads,
                    dk,
                    dv,
                    decay_width,
                    beta_width,
                    scale: 0.25 + at as f32 / 8.0,
                };
                attend_once(&machine, &problem, has_past);
            }
        }
    }
}
