//! PagedAttention over ragged tokens and pages in any order, against double precision.

use tenon_plugin_api::DType;
use tenon_plugin_api::ffi::NO_VALUE;
use tenon_plugin_api::host::{AttributeValue, GraphBuilder, OwnedGraph};

use crate::harness::{Array, Raw, Session, open};

#[derive(Clone)]
struct Case {
    heads: usize,
    kv_heads: usize,
    columns: usize,
    page_rows: usize,
    table_columns: usize,
    /// New tokens and past positions of each sequence.
    new: Vec<usize>,
    past: Vec<usize>,
    is_packed: bool,
    /// Angles of a position; 0: no rotary embedding.
    half: usize,
    has_norms: bool,
    has_sinks: bool,
    window: i64,
    soft_cap: f32,
    /// Codes of i8 with one scale a column.
    is_coded: bool,
}

fn case() -> Case {
    Case {
        heads: 4,
        kv_heads: 2,
        columns: 8,
        page_rows: 4,
        table_columns: 4,
        new: vec![3, 0, 1, 5],
        past: vec![2, 4, 10, 0],
        is_packed: false,
        half: 0,
        has_norms: false,
        has_sinks: false,
        window: -1,
        soft_cap: 0.0,
        is_coded: false,
    }
}

const EPSILON: f32 = 1e-3;

impl Case {
    fn tokens(&self) -> usize {
        self.new.iter().sum()
    }

    fn pages(&self) -> usize {
        self.new.len() * self.table_columns + 1
    }

    fn graph(&self) -> OwnedGraph {
        let size = |extent: usize| extent as i64;
        let (tokens, batch) = (size(self.tokens()), size(self.new.len()));
        let mut graph = GraphBuilder::new();
        let (wide, narrow) = (size(self.heads * self.columns), size(self.kv_heads * self.columns));
        let mut inputs = vec![NO_VALUE; 16];
        match self.is_packed {
            true => inputs[0] = graph.input("q", DType::F32, Some(&[tokens, wide + 2 * narrow])),
            false => {
                for (index, (name, width)) in
                    [("q", wide), ("k", narrow), ("v", narrow)].into_iter().enumerate()
                {
                    inputs[index] = graph.input(name, DType::F32, Some(&[tokens, width]));
                }
            }
        }
        let cache = [self.pages(), self.page_rows, self.kv_heads, self.columns].map(size);
        let stored = if self.is_coded { DType::I8 } else { DType::F32 };
        inputs[3] = graph.input("key_cache", stored, Some(&cache));
        inputs[4] = graph.input("value_cache", stored, Some(&cache));
        inputs[5] = graph.input("starts", DType::I32, Some(&[batch + 1]));
        inputs[6] = graph.input("past", DType::I32, Some(&[batch]));
        inputs[7] = graph.input("table", DType::I32, Some(&[batch, size(self.table_columns)]));
        if self.half > 0 {
            let dims = [size(self.table_columns * self.page_rows), size(self.half)];
            inputs[8] = graph.input("cos", DType::F32, Some(&dims));
            inputs[9] = graph.input("sin", DType::F32, Some(&dims));
        }
        if self.has_sinks {
            inputs[11] = graph.input("sinks", DType::F32, Some(&[size(self.heads)]));
        }
        if self.has_norms {
            inputs[12] = graph.input("q_norm", DType::F32, Some(&[size(self.columns)]));
            inputs[13] = graph.input("k_norm", DType::F32, Some(&[size(self.columns)]));
        }
        if self.is_coded {
            let dims = [size(self.kv_heads), size(self.columns)];
            inputs[14] = graph.input("k_scale", DType::F32, Some(&dims));
            inputs[15] = graph.input("v_scale", DType::F32, Some(&dims));
        }
        let out = graph.value("out", DType::F32, Some(&[tokens, wide]));
        let present = ["k_out", "v_out"].map(|name| graph.value(name, stored, Some(&cache)));
        let node = graph.node("PagedAttention", 1, &inputs, &[out, present[0], present[1]]);
        graph.domain(node, "com.microsoft");
        for (name, value) in [
            ("num_heads", size(self.heads)),
            ("kv_num_heads", size(self.kv_heads)),
            ("do_rotary", i64::from(self.half > 0)),
            ("local_window_size", self.window),
        ] {
            graph.attribute(node, name, AttributeValue::Int(value));
        }
        graph.attribute(node, "softcap", AttributeValue::Float(self.soft_cap));
        graph.attribute(node, "qk_norm_epsilon", AttributeValue::Float(EPSILON));
        if self.is_coded {
            for name in ["k_quant_type", "v_quant_type"] {
                graph.attribute(node, name, AttributeValue::String(b"PER_CHANNEL".to_vec()));
            }
        }
        for value in [out, present[0], present[1]] {
            graph.output(value);
        }
        graph.build()
    }
}

fn i32s(dims: &[usize], values: &[usize]) -> Raw {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    Raw::i32s(&dims.iter().map(|&dim| dim as i64).collect::<Vec<_>>(), &values)
}

/// What a head becomes on its way: norm, then rotation.
fn prepared(head: &[f32], norm: Option<&[f32]>, angles: &[f64]) -> Vec<f64> {
    let mut head: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    if let Some(norm) = norm {
        let square = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
        let inverse = 1.0 / (square + f64::from(EPSILON)).sqrt();
        head.iter_mut().zip(norm).for_each(|(x, &weight)| *x *= inverse * f64::from(weight));
    }
    for (i, angle) in angles.iter().enumerate() {
        let (x, y) = (head[i], head[i + angles.len()]);
        head[i] = x * angle.cos() - y * angle.sin();
        head[i + angles.len()] = x * angle.sin() + y * angle.cos();
    }
    head
}

fn check(case: &Case, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let Case { heads, kv_heads, columns, page_rows, table_columns, half, .. } = *case;
    let (tokens, batch) = (case.tokens(), case.new.len());
    let all = heads + 2 * kv_heads;
    let packed = Array::random(&[tokens as i64, (all * columns) as i64], &mut random);
    let head = |token: usize, head: usize| &packed.values[(token * all + head) * columns..][..columns];
    let mut order: Vec<usize> = (0..case.pages()).collect();
    random.shuffle(&mut order);
    let table: Vec<usize> = order[..batch * table_columns].to_vec();
    let place = |b: usize, position: usize| {
        table[b * table_columns + position / page_rows] * page_rows + position % page_rows
    };
    let cache_len = case.pages() * page_rows * kv_heads * columns;
    let scales =
        [0, 1].map(|_| Array::new(&[kv_heads as i64, columns as i64], |_| 0.01 + random.f32() * 0.01).values);
    let is_kept = |b: usize, position: usize| position < case.past[b];
    let mut caches = [0, 1].map(|_| vec![f32::NAN; cache_len]);
    let mut codes = [0, 1].map(|_| vec![0x7f_u8; cache_len]);
    for b in 0..batch {
        for position in (0..table_columns * page_rows).filter(|&position| is_kept(b, position)) {
            let at = place(b, position) * kv_heads * columns;
            for part in 0..2 {
                for i in at..at + kv_heads * columns {
                    codes[part][i] = random.u8(..);
                    let value = f32::from(codes[part][i] as i8) * scales[part][i - at];
                    caches[part][i] = if case.is_coded { value } else { random.f32() * 2.0 - 1.0 };
                }
            }
        }
    }
    let norms = [0, 1].map(|_| Array::random(&[columns as i64], &mut random));
    let sinks = Array::random(&[heads as i64], &mut random);
    let angle = |position: usize, i: usize| position as f64 * 0.6f64.powi(i as i32);
    let angles = |position: usize| (0..half).map(|i| angle(position, i)).collect::<Vec<f64>>();

    let mut inputs: Vec<Raw> = Vec::new();
    if case.is_packed {
        inputs.push((&packed).into());
    } else {
        for (first, count) in [(0, heads), (heads, kv_heads), (heads + kv_heads, kv_heads)] {
            let width = count * columns;
            let part = Array::new(&[tokens as i64, width as i64], |i| {
                packed.values[i / width * all * columns + first * columns + i % width]
            });
            inputs.push((&part).into());
        }
    }
    let dims = [case.pages(), page_rows, kv_heads, columns].map(|dim| dim as i64);
    for part in 0..2 {
        inputs.push(match case.is_coded {
            true => Raw { dtype: DType::I8, dims: dims.to_vec(), bytes: codes[part].clone() },
            false => Raw::from(&Array { dims: dims.to_vec(), values: caches[part].clone() }),
        });
    }
    let starts: Vec<usize> = (0..=batch).map(|b| case.new[..b].iter().sum()).collect();
    inputs.push(i32s(&[batch + 1], &starts));
    inputs.push(i32s(&[batch], &case.past));
    inputs.push(i32s(&[batch, table_columns], &table));
    if half > 0 {
        let dims = [(table_columns * page_rows) as i64, half as i64];
        for f in [f64::cos, f64::sin] {
            inputs.push((&Array::new(&dims, |i| f(angle(i / half, i % half)) as f32)).into());
        }
    }
    if case.has_sinks {
        inputs.push((&sinks).into());
    }
    if case.has_norms {
        inputs.extend(norms.iter().map(Raw::from));
    }
    if case.is_coded {
        let dims = vec![kv_heads as i64, columns as i64];
        inputs.extend(scales.iter().map(|s| Raw::from(&Array { dims: dims.clone(), values: s.clone() })));
    }
    let device = open(&[]);
    let outputs = Session::new(&device, &case.graph(), 3).run_raw(&inputs);

    // Keys and values of a sequence as attention sees them.
    let stored = |part: usize, b: usize, position: usize, g: usize| -> Vec<f64> {
        if is_kept(b, position) {
            let at = (place(b, position) * kv_heads + g) * columns;
            return caches[part][at..at + columns].iter().map(|&x| f64::from(x)).collect();
        }
        let token = starts[b] + position - case.past[b];
        let new = match part {
            0 => {
                let norm = case.has_norms.then_some(&norms[1].values[..]);
                prepared(head(token, heads + g), norm, &angles(position))
            }
            _ => prepared(head(token, heads + kv_heads + g), None, &[]),
        };
        match case.is_coded {
            false => new,
            true => {
                let scale = |c: usize| f64::from(scales[part][g * columns + c]);
                let code = |x: f64, c: usize| (x / scale(c)).round_ties_even().clamp(-128.0, 127.0);
                new.iter().enumerate().map(|(c, &x)| code(x, c) * scale(c)).collect()
            }
        }
    };
    let out = outputs[0].f32s();
    // A code at the edge between two may be either.
    let tolerance = if case.is_coded { 2e-3 } else { 2e-5 };
    for b in 0..batch {
        for (row, h) in (0..case.new[b] * heads).map(|i| (i / heads, i % heads)) {
            let (position, g) = (case.past[b] + row, h / (heads / kv_heads));
            let norm = case.has_norms.then_some(&norms[0].values[..]);
            let query = prepared(head(starts[b] + row, h), norm, &angles(position));
            let begin =
                usize::try_from(case.window).map_or(0, |window| (position + 1).saturating_sub(window));
            let keys: Vec<usize> = (begin..=position).collect();
            let scores: Vec<f64> = keys
                .iter()
                .map(|&key| {
                    let dot: f64 = query.iter().zip(stored(0, b, key, g)).map(|(q, k)| q * k).sum();
                    let score = dot / (columns as f64).sqrt();
                    match f64::from(case.soft_cap) {
                        0.0 => score,
                        cap => cap * (score / cap).tanh(),
                    }
                })
                .collect();
            let sink = if case.has_sinks { f64::from(sinks.values[h]).exp() } else { 0.0 };
            let sum = scores.iter().map(|score| score.exp()).sum::<f64>() + sink;
            for c in 0..columns {
                let terms = keys.iter().zip(&scores);
                let expected: f64 =
                    terms.map(|(&key, score)| score.exp() / sum * stored(1, b, key, g)[c]).sum();
                let got = f64::from(out[((starts[b] + row) * heads + h) * columns + c]);
                assert!((got - expected).abs() < tolerance, "{b} {row} {h} {c}: {got}, expected {expected}");
            }
        }
    }
    // New rows are in their pages.
    if !case.is_coded {
        for (part, output) in outputs[1..].iter().enumerate() {
            let present = output.f32s();
            for b in 0..batch {
                for position in 0..case.past[b] + case.new[b] {
                    for g in 0..kv_heads {
                        let at = (place(b, position) * kv_heads + g) * columns;
                        for (got, expected) in
                            present[at..at + columns].iter().zip(stored(part, b, position, g))
                        {
                            assert!(
                                (f64::from(*got) - expected).abs() < 1e-5,
                                "cache {part} at {b} {position}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn ragged_tokens_over_pages_agree_with_double_precision() {
    check(&case(), 1);
    check(&Case { is_packed: true, columns: 6, ..case() }, 2);
    check(&Case { new: vec![1; 5], past: vec![0, 1, 5, 15, 9], ..case() }, 3);
}

#[test]
fn norms_and_rotation_come_before_the_pages() {
    check(&Case { half: 3, ..case() }, 4);
    check(&Case { half: 4, has_norms: true, is_packed: true, ..case() }, 5);
}

#[test]
fn windows_caps_and_sinks_hold_over_pages() {
    check(&Case { window: 3, ..case() }, 6);
    check(&Case { soft_cap: 0.4, has_sinks: true, ..case() }, 7);
}

#[test]
fn codes_are_written_and_read_with_their_scales() {
    check(&Case { is_coded: true, ..case() }, 8);
    check(&Case { is_coded: true, half: 2, has_norms: true, is_packed: true, ..case() }, 9);
}
