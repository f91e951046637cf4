//! Operators that order, scatter, resample and carry state, on random data against double precision.

use tenon_plugin_api::DType;
use tenon_plugin_api::host::{AttributeValue, GraphBuilder, OwnedGraph};

use crate::harness::{Array, Raw, Session, open};

type Attributes<'a> = &'a [(&'a str, AttributeValue)];

fn text(value: &str) -> AttributeValue {
    AttributeValue::String(value.into())
}

fn i64s(dims: &[i64], values: &[i64]) -> Raw {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Raw { dtype: DType::I64, dims: dims.to_vec(), bytes }
}

/// One node with inputs of these types and shapes, constants where `constant` says so.
fn node(
    op_type: &str,
    version: u32,
    attributes: Attributes<'_>,
    inputs: &[(&Raw, bool)],
    outputs: &[(DType, Vec<i64>)],
) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let mut names = Vec::new();
    for (index, (raw, is_constant)) in inputs.iter().enumerate() {
        let name = format!("in{index}");
        names.push(match is_constant {
            true => graph.constant(&name, raw.dtype, &raw.dims, &raw.bytes),
            false => graph.input(&name, raw.dtype, Some(&raw.dims)),
        });
    }
    let results: Vec<u32> = outputs
        .iter()
        .enumerate()
        .map(|(index, (dtype, dims))| graph.value(&format!("out{index}"), *dtype, Some(dims)))
        .collect();
    let node = graph.node(op_type, version, &names, &results);
    for (name, value) in attributes {
        graph.attribute(node, name, value.clone());
    }
    for &result in &results {
        graph.output(result);
    }
    graph.build()
}

/// Runs one node; inputs that are constants are part of the graph.
fn run(
    op_type: &str,
    version: u32,
    attributes: Attributes<'_>,
    inputs: &[(&Raw, bool)],
    outputs: &[(DType, Vec<i64>)],
) -> Vec<Raw> {
    let device = open(&[]);
    let graph = node(op_type, version, attributes, inputs, outputs);
    let mut session = Session::new(&device, &graph, outputs.len());
    let given: Vec<Raw> =
        inputs.iter().filter(|(_, constant)| !constant).map(|(raw, _)| (*raw).clone()).collect();
    session.run_raw(&given)
}

fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let is_near = (f64::from(*got) - want).abs() <= tolerance * want.abs().max(1.0);
        assert!(is_near, "at {at}: {got} instead of {want}");
    }
}

fn random(dims: &[i64], random: &mut fastrand::Rng) -> Array {
    Array::random(dims, random)
}

#[test]
fn the_best_k_come_in_order_with_ties_by_position() {
    let mut rng = fastrand::Rng::with_seed(21);
    for (outer, size, inner, k, largest) in
        [(3, 7, 1, 3, 1), (2, 5, 4, 5, 0), (1, 5000, 1, 50, 1), (2, 2048, 1, 2048, 0), (1, 9000, 2, 1024, 1)]
    {
        let dims = [outer, size, inner];
        // Coarse values, so that many are equal.
        let mut x = Array::new(&dims, |_| (rng.f32() * 200.0).floor() * 0.5 - 40.0);
        if size > 6 {
            x.values[3] = f32::NAN;
            x.values[5] = -0.0;
        }
        let shape = vec![outer, k, inner];
        let outputs = run(
            "TopK",
            11,
            &[("axis", AttributeValue::Int(1)), ("largest", AttributeValue::Int(largest))],
            &[(&Raw::from(&x), false), (&i64s(&[1], &[k]), true)],
            &[(DType::F32, shape.clone()), (DType::I64, shape)],
        );
        let (values, indices) = (outputs[0].f32s(), outputs[1].as_i64s());
        for line in 0..(outer * inner) as usize {
            let (o, i) = (line / inner as usize, line % inner as usize);
            let at = |position: usize| (o * size as usize + position) * inner as usize + i;
            let mut order: Vec<usize> = (0..size as usize).collect();
            let key = |position: usize| {
                let v = f64::from(x.values[at(position)]) + 0.0;
                let ranked = if v.is_nan() { f64::INFINITY } else { v };
                if largest == 1 { -ranked } else { ranked }
            };
            order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
            for (rank, &expected) in order[..k as usize].iter().enumerate() {
                let to = (o * k as usize + rank) * inner as usize + i;
                assert_eq!(indices[to], expected as i64, "{dims:?} top {k}, line {line}, rank {rank}");
                assert_eq!(values[to].to_bits(), x.values[at(expected)].to_bits());
            }
        }
    }
}

#[test]
fn running_sums_agree_with_double_precision() {
    let mut rng = fastrand::Rng::with_seed(22);
    for (dims, axis, exclusive, reverse) in [
        ([3, 5, 4], 1, 0, 0),
        ([2, 700, 1], 1, 1, 0),
        ([1, 3, 1001], -1, 0, 1),
        ([2, 300, 3], 1, 1, 1),
        ([2, 9000, 1], 1, 0, 0),
        ([1, 20_001, 2], 1, 1, 1),
    ] {
        let x = random(&dims, &mut rng);
        let attributes =
            [("exclusive", AttributeValue::Int(exclusive)), ("reverse", AttributeValue::Int(reverse))];
        let inputs = [(&Raw::from(&x), false), (&i64s(&[], &[axis]), true)];
        let got = run("CumSum", 14, &attributes, &inputs, &[(DType::F32, dims.to_vec())]).remove(0).f32s();
        let axis = if axis < 0 { 2 } else { 1 };
        let (size, inner) = (dims[axis] as usize, dims[axis + 1..].iter().product::<i64>() as usize);
        let mut want = vec![0.0; x.values.len()];
        for line in 0..x.values.len() / size {
            let mut total = 0.0;
            for step in 0..size {
                let position = if reverse == 1 { size - 1 - step } else { step };
                let at = (line / inner * size + position) * inner + line % inner;
                let value = f64::from(x.values[at]);
                want[at] = if exclusive == 1 { total } else { total + value };
                total += value;
            }
        }
        close(&got, &want, 1e-5);
    }
}

#[test]
fn of_several_updates_the_last_stays_and_reductions_take_all() {
    let mut rng = fastrand::Rng::with_seed(23);
    for reduction in ["none", "add", "mul", "max", "min"] {
        // Elements along axis 1, positions repeated.
        let (data, updates) = (random(&[4, 6, 3], &mut rng), random(&[3, 40, 2], &mut rng));
        let picks: Vec<i64> = (0..240).map(|_| rng.i64(-6..6)).collect();
        let attributes = [("axis", AttributeValue::Int(1)), ("reduction", text(reduction))];
        let indices = i64s(&[3, 40, 2], &picks);
        let inputs = [(&Raw::from(&data), false), (&indices, false), (&Raw::from(&updates), false)];
        let got =
            run("ScatterElements", 18, &attributes, &inputs, &[(DType::F32, vec![4, 6, 3])]).remove(0).f32s();
        let mut want: Vec<f64> = data.values.iter().map(|&v| v.into()).collect();
        let combine = |a: f64, b: f64| match reduction {
            "none" => b,
            "add" => a + b,
            "mul" => a * b,
            "max" => a.max(b),
            _ => a.min(b),
        };
        for (i, &pick) in picks.iter().enumerate() {
            let (o, n, row) = (i / 80, i % 2, pick.rem_euclid(6) as usize);
            let at = (o * 6 + row) * 3 + n;
            want[at] = combine(want[at], updates.values[i].into());
        }
        close(&got, &want, 1e-5);
        // Slices at pairs.
        let updates = random(&[50, 3], &mut rng);
        let pairs: Vec<i64> = (0..50).flat_map(|_| [rng.i64(-4..4), rng.i64(-6..6)]).collect();
        let indices = i64s(&[50, 2], &pairs);
        let inputs = [(&Raw::from(&data), false), (&indices, false), (&Raw::from(&updates), false)];
        let attributes = [("reduction", text(reduction))];
        let got = run("ScatterND", 18, &attributes, &inputs, &[(DType::F32, vec![4, 6, 3])]).remove(0).f32s();
        let mut want: Vec<f64> = data.values.iter().map(|&v| v.into()).collect();
        for (i, pair) in pairs.chunks(2).enumerate() {
            let slice = (pair[0].rem_euclid(4) * 6 + pair[1].rem_euclid(6)) as usize * 3;
            for n in 0..3 {
                want[slice + n] = combine(want[slice + n], updates.values[i * 3 + n].into());
            }
        }
        close(&got, &want, 1e-5);
    }
}

#[test]
fn updates_outside_the_tensor_are_left_out() {
    let data = Array::new(&[4], |i| i as f32);
    let indices = i64s(&[3, 1], &[9, 1, -7]);
    let updates = Array::new(&[3], |_| 5.0);
    let inputs = [(&Raw::from(&data), false), (&indices, false), (&Raw::from(&updates), false)];
    let got = run("ScatterND", 18, &[], &inputs, &[(DType::F32, vec![4])]).remove(0).f32s();
    assert_eq!(got, [0.0, 5.0, 2.0, 3.0]);
}

/// The value of a grid sample in two dimensions.
fn sampled(image: &[f32], [height, width]: [usize; 2], x: f64, y: f64, mode: &str, padding: &str) -> f64 {
    let reflect = |at: f64, size: usize| {
        let (low, range) = (-0.5, size as f64);
        let phase = (at - low).rem_euclid(2.0 * range);
        low + phase.min(2.0 * range - phase)
    };
    let bring = |at: f64, size: usize| match padding {
        _ if mode == "cubic" => at,
        "border" => at.clamp(0.0, size as f64 - 1.0),
        "reflection" if at < -0.5 || at > size as f64 - 0.5 => reflect(at, size),
        _ => at,
    };
    let pixel = |row: f64, column: f64| {
        let place = |at: f64, size: usize| match padding {
            _ if at >= 0.0 && at < size as f64 => Some(at as usize),
            "zeros" => None,
            "border" => Some(at.clamp(0.0, size as f64 - 1.0) as usize),
            _ => Some(reflect(at, size).clamp(0.0, size as f64 - 1.0) as usize),
        };
        match (place(row, height), place(column, width)) {
            (Some(row), Some(column)) => f64::from(image[row * width + column]),
            _ => 0.0,
        }
    };
    let (x, y) = (bring(x, width), bring(y, height));
    if mode == "nearest" {
        return pixel(y.round_ties_even(), x.round_ties_even());
    }
    let kernel = |distance: f64| {
        let d = distance.abs();
        match mode {
            "linear" => (1.0 - d).max(0.0),
            _ if d <= 1.0 => (1.25 * d - 2.25) * d * d + 1.0,
            _ if d < 2.0 => ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0,
            _ => 0.0,
        }
    };
    let mut sum = 0.0;
    for i in -1..3 {
        for j in -1..3 {
            let (row, column) = (y.floor() + f64::from(i), x.floor() + f64::from(j));
            sum += kernel(row - y) * kernel(column - x) * pixel(row, column);
        }
    }
    sum
}

#[test]
fn grids_are_sampled_in_every_mode() {
    let mut rng = fastrand::Rng::with_seed(24);
    let (height, width, points) = (5usize, 7usize, 33usize);
    for mode in ["nearest", "linear", "cubic"] {
        for padding in ["zeros", "border", "reflection"] {
            let image = random(&[2, 3, height as i64, width as i64], &mut rng);
            let grid = Array::new(&[2, points as i64, 1, 2], |_| rng.f32() * 3.4 - 1.7);
            let attributes = [("mode", text(mode)), ("padding_mode", text(padding))];
            let inputs = [(&Raw::from(&image), false), (&Raw::from(&grid), false)];
            let shape = vec![2, 3, points as i64, 1];
            let got = run("GridSample", 20, &attributes, &inputs, &[(DType::F32, shape)]).remove(0).f32s();
            let want: Vec<f64> = (0..2 * 3 * points)
                .map(|at| {
                    let (plane, point) = (at / points, plane_of(at, points));
                    let pair = &grid.values[2 * (plane / 3 * points + point)..][..2];
                    let whole = |n: f32, size: usize| ((n + 1.0) * size as f32 - 1.0) / 2.0;
                    let (x, y) = (whole(pair[0], width), whole(pair[1], height));
                    let pixels = &image.values[plane * height * width..][..height * width];
                    sampled(pixels, [height, width], x.into(), y.into(), mode, padding)
                })
                .collect();
            close(&got, &want, 2e-5);
        }
    }
}

fn plane_of(at: usize, points: usize) -> usize {
    at % points
}

#[test]
fn sizes_that_come_with_the_run_are_those_that_the_graph_declares() {
    let x = random(&[1, 2, 3, 4], &mut fastrand::Rng::with_seed(26));
    let none = Raw { dtype: DType::F32, dims: vec![0], bytes: Vec::new() };
    let shape = vec![1i64, 2, 6, 12];
    let bytes = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
    let sizes = Raw { dtype: DType::I64, dims: vec![4], bytes };
    let attributes =
        [("coordinate_transformation_mode", text("asymmetric")), ("nearest_mode", text("floor"))];
    let inputs = [(&Raw::from(&x), false), (&none, true), (&none, true), (&sizes, false)];
    let got = run("Resize", 13, &attributes, &inputs, &[(DType::F32, shape)]).remove(0).f32s();
    let source = |at: usize| at / 72 * 12 + at / 12 % 6 / 2 * 4 + at % 12 / 3;
    let want: Vec<f32> = (0..144).map(|at| x.values[source(at)]).collect();
    assert_eq!(got, want);
}

#[test]
fn cubic_and_antialiased_resizing_agrees_with_double_precision() {
    let mut rng = fastrand::Rng::with_seed(25);
    for (mode, scale, excludes, antialias) in [
        ("cubic", 1.7, 0, 0),
        ("cubic", 0.6, 1, 0),
        ("linear", 0.37, 0, 1),
        ("cubic", 0.45, 0, 1),
        ("linear", 2.0, 1, 0),
    ] {
        let (height, width) = (9usize, 11usize);
        let (to_h, to_w) =
            ((height as f32 * scale).floor() as usize, (width as f32 * scale).floor() as usize);
        let x = random(&[1, 2, height as i64, width as i64], &mut rng);
        let scales = Array::new(&[4], |i| if i < 2 { 1.0 } else { scale });
        let none = Raw { dtype: DType::F32, dims: vec![0], bytes: Vec::new() };
        let attributes = [
            ("mode", text(mode)),
            ("exclude_outside", AttributeValue::Int(excludes)),
            ("antialias", AttributeValue::Int(antialias)),
        ];
        let shape = vec![1, 2, to_h as i64, to_w as i64];
        let inputs = [(&Raw::from(&x), false), (&none, true), (&Raw::from(&scales), true)];
        let got = run("Resize", 19, &attributes, &inputs, &[(DType::F32, shape)]).remove(0).f32s();
        let weights = |size: usize, at: usize| -> Vec<f64> {
            let source = (at as f64 + 0.5) / f64::from(scale) - 0.5;
            let shrink = if antialias == 1 { f64::from(scale).min(1.0) } else { 1.0 };
            let kernel = |d: f64| match mode {
                "linear" => (1.0 - d).max(0.0),
                _ if d <= 1.0 => (1.25 * d - 2.25) * d * d + 1.0,
                _ if d < 2.0 => ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0,
                _ => 0.0,
            };
            let mut own = vec![0.0; size];
            for pixel in -20i64..size as i64 + 20 {
                if excludes == 1 && !(0..size as i64).contains(&pixel) {
                    continue;
                }
                own[pixel.clamp(0, size as i64 - 1) as usize] +=
                    kernel((pixel as f64 - source).abs() * shrink);
            }
            let sum: f64 = own.iter().sum();
            own.iter_mut().for_each(|weight| *weight /= sum);
            own
        };
        let mut want = Vec::new();
        for plane in 0..2 {
            for i in 0..to_h {
                for j in 0..to_w {
                    let (rows, columns) = (weights(height, i), weights(width, j));
                    let term = |at: usize| {
                        let pixel = f64::from(x.values[plane * height * width + at]);
                        rows[at / width] * columns[at % width] * pixel
                    };
                    want.push((0..height * width).map(term).sum());
                }
            }
        }
        close(&got, &want, 2e-5);
    }
}

#[test]
fn linear_attention_carries_its_state() {
    let mut rng = fastrand::Rng::with_seed(26);
    for (rule, q_heads, heads, dk, dv, steps) in [
        ("gated_delta", 4, 2, 40, 5, 3),
        ("linear", 2, 2, 7, 9, 4),
        ("delta", 1, 3, 70, 2, 2),
        ("gated", 2, 1, 256, 3, 1),
    ] {
        let (batch, out_heads) = (2usize, usize::max(q_heads, heads));
        let sizes = |width: usize| [batch as i64, steps as i64, width as i64];
        let k_heads = usize::min(q_heads, heads);
        let q = random(&sizes(q_heads * dk), &mut rng);
        let k = random(&sizes(k_heads * dk), &mut rng);
        let v = random(&sizes(heads * dv), &mut rng);
        let past = random(&[batch as i64, heads as i64, dk as i64, dv as i64], &mut rng);
        let decay = Array::new(&sizes(heads * dk), |_| -rng.f32());
        let beta = Array::new(&sizes(heads), |_| rng.f32());
        let (gated, delta) = (rule.starts_with("gated"), rule.ends_with("delta"));
        let mut graph = GraphBuilder::new();
        let mut given = Vec::new();
        let mut names = Vec::new();
        for (index, (array, is_used)) in
            [(&q, true), (&k, true), (&v, true), (&past, true), (&decay, gated), (&beta, delta)]
                .into_iter()
                .enumerate()
        {
            if is_used {
                names.push(graph.input(&format!("in{index}"), DType::F32, Some(&array.dims)));
                given.push(array.clone());
            } else {
                names.push(tenon_plugin_api::ffi::NO_VALUE);
            }
        }
        let y = graph.value("y", DType::F32, Some(&sizes(out_heads * dv)));
        let present = graph.value("present", DType::F32, Some(&past.dims));
        let node = graph.node("LinearAttention", 27, &names, &[y, present]);
        graph.attribute(node, "update_rule", text(rule));
        graph.attribute(node, "q_num_heads", AttributeValue::Int(q_heads as i64));
        graph.attribute(node, "kv_num_heads", AttributeValue::Int(heads as i64));
        graph.output(y);
        graph.output(present);
        let outputs = Session::new(&open(&[]), &graph.build(), 2).run(&given);
        let mut states: Vec<f64> = past.values.iter().map(|&v| v.into()).collect();
        let mut want = vec![0.0; batch * steps * out_heads * dv];
        for (index, state) in states.chunks_mut(dk * dv).enumerate() {
            let (b, h) = (index / heads, index % heads);
            for t in 0..steps {
                let token = b * steps + t;
                let key = |d: usize| f64::from(k.values[(token * k_heads + h * k_heads / heads) * dk + d]);
                if gated {
                    for (at, s) in state.iter_mut().enumerate() {
                        *s *= f64::from(decay.values[(token * heads + h) * dk + at / dv]).exp();
                    }
                }
                for j in 0..dv {
                    let mut value = f64::from(v.values[(token * heads + h) * dv + j]);
                    if delta {
                        let memory: f64 = (0..dk).map(|d| state[d * dv + j] * key(d)).sum();
                        value = (value - memory) * f64::from(beta.values[token * heads + h]);
                    }
                    for d in 0..dk {
                        state[d * dv + j] += key(d) * value;
                    }
                    for reader in h * out_heads / heads..(h + 1) * out_heads / heads {
                        let query = (token * q_heads + reader * q_heads / out_heads) * dk;
                        let sum: f64 =
                            (0..dk).map(|d| f64::from(q.values[query + d]) * state[d * dv + j]).sum();
                        want[(token * out_heads + reader) * dv + j] = sum / (dk as f64).sqrt();
                    }
                }
            }
        }
        // The delta rule lets states grow; their error grows with them.
        let largest = want.iter().chain(&states).fold(1.0f64, |largest, v| largest.max(v.abs()));
        close(&outputs[0].values, &want, 1e-5 * largest);
        close(&outputs[1].values, &states, 1e-5 * largest);
    }
}

#[test]
fn causal_convolutions_hand_on_their_last_inputs() {
    let mut rng = fastrand::Rng::with_seed(27);
    for (length, taps) in [(5usize, 4usize), (1, 4), (2, 1)] {
        let (batch, channels) = (2usize, 3usize);
        let history = taps - 1;
        let x = random(&[2, 3, length as i64], &mut rng);
        let (w, bias) = (random(&[3, 1, taps as i64], &mut rng), random(&[3], &mut rng));
        let past = random(&[2, 3, history as i64], &mut rng);
        let raws = [&x, &w, &bias, &past].map(Raw::from);
        let inputs: Vec<(&Raw, bool)> = raws.iter().map(|raw| (raw, false)).collect();
        let outputs = run(
            "CausalConvWithState",
            27,
            &[("activation", text("silu"))],
            &inputs,
            &[(DType::F32, x.dims.clone()), (DType::F32, past.dims.clone())],
        );
        let (mut want, mut state) = (Vec::new(), Vec::new());
        for line in 0..batch * channels {
            let mut sequence = past.values[line * history..][..history].to_vec();
            sequence.extend_from_slice(&x.values[line * length..][..length]);
            for at in 0..length {
                let taps = sequence[at..at + taps].iter().zip(&w.values[line % channels * taps..]);
                let sum = taps.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>()
                    + f64::from(bias.values[line % channels]);
                want.push(sum / (1.0 + (-sum).exp()));
            }
            state.extend_from_slice(&sequence[length..]);
        }
        close(&outputs[0].f32s(), &want, 1e-5);
        assert_eq!(outputs[1].f32s(), state);
    }
}

#[test]
fn blocks_are_summed_into_images() {
    let mut rng = fastrand::Rng::with_seed(28);
    let (image, block) = ([7usize, 6], [3usize, 2]);
    let (strides, dilations, pads) = ([2usize, 1], [1usize, 3], [1usize, 0, 2, 1]);
    let count =
        |d: usize| (image[d] + pads[d] + pads[d + 2] - dilations[d] * (block[d] - 1) - 1) / strides[d] + 1;
    let (rows, columns) = (count(0), count(1));
    let x = random(&[2, 3 * 6, (rows * columns) as i64], &mut rng);
    let list = |values: &[usize]| AttributeValue::Ints(values.iter().map(|&value| value as i64).collect());
    let attributes = [("strides", list(&strides)), ("dilations", list(&dilations)), ("pads", list(&pads))];
    let (image_shape, block_shape) = (i64s(&[2], &[7, 6]), i64s(&[2], &[3, 2]));
    let inputs = [(&Raw::from(&x), false), (&image_shape, true), (&block_shape, true)];
    let got = run("Col2Im", 18, &attributes, &inputs, &[(DType::F32, vec![2, 3, 7, 6])]).remove(0).f32s();
    let mut want = vec![0.0; 2 * 3 * 42];
    for (at, &value) in x.values.iter().enumerate() {
        let (place, element) = (at % (rows * columns), at / (rows * columns) % 6);
        let plane = at / (rows * columns) / 6;
        let row = (place / columns * strides[0] + element / 2 * dilations[0]).wrapping_sub(pads[0]);
        let column = (place % columns * strides[1] + element % 2 * dilations[1]).wrapping_sub(pads[1]);
        if row < 7 && column < 6 {
            want[(plane * 7 + row) * 6 + column] += f64::from(value);
        }
    }
    close(&got, &want, 1e-6);
}

#[test]
fn what_is_cropped_or_padded_stays_in_the_middle() {
    let x = Array::new(&[4, 3], |i| i as f32 + 1.0);
    let sizes = i64s(&[2], &[1, 6]);
    let inputs = [(&Raw::from(&x), false), (&sizes, true)];
    let got = run("CenterCropPad", 18, &[], &inputs, &[(DType::F32, vec![1, 6])]).remove(0).f32s();
    assert_eq!(got, [0.0, 4.0, 5.0, 6.0, 0.0, 0.0]);
}

#[test]
fn losses_are_those_of_double_precision() {
    let mut rng = fastrand::Rng::with_seed(29);
    let (x, weights) = (random(&[3, 5, 7], &mut rng), Array::new(&[5], |_| rng.f32()));
    let classes: Vec<i64> = (0..21).map(|_| rng.i64(0..5)).collect();
    let targets = i64s(&[3, 7], &classes);
    let attributes = [("reduction", text("mean")), ("ignore_index", AttributeValue::Int(2))];
    let raws = [Raw::from(&x), targets, Raw::from(&weights)];
    let inputs: Vec<(&Raw, bool)> = raws.iter().map(|raw| (raw, false)).collect();
    let outputs = [(DType::F32, vec![]), (DType::F32, vec![3, 5, 7])];
    let got = run("SoftmaxCrossEntropyLoss", 13, &attributes, &inputs, &outputs);
    let (mut total, mut whole, mut logs) = (0.0, 0.0, vec![0.0; 105]);
    for (at, &class) in classes.iter().enumerate() {
        let (batch, place) = (at / 7, at % 7);
        let score = |class: usize| f64::from(x.values[(batch * 5 + class) * 7 + place]);
        let sum = (0..5).map(|class| score(class).exp()).sum::<f64>().ln();
        (0..5).for_each(|class| logs[(batch * 5 + class) * 7 + place] = score(class) - sum);
        if class != 2 {
            let weight = f64::from(weights.values[class as usize]);
            total += weight * (sum - score(class as usize));
            whole += weight;
        }
    }
    close(&got[0].f32s(), &[total / whole], 1e-5);
    close(&got[1].f32s(), &logs, 1e-5);
}
