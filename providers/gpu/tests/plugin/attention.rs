//! Attention over caches, rotary embeddings and the choice of tokens, against double precision.

use tenon_plugin_api::DType;
use tenon_plugin_api::host::{AttributeValue, GraphBuilder, OwnedGraph};

use crate::harness::{Array, Raw, Session, open};

/// A GroupQueryAttention node: extents and attributes.
#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    columns: usize,
    /// Positions of the cache.
    room: usize,
    half: usize,
    is_packed: bool,
    is_interleaved: bool,
    window: i64,
    soft_cap: f32,
}

const CASE: Case = Case {
    batch: 2,
    rows: 3,
    heads: 4,
    kv_heads: 2,
    columns: 8,
    room: 9,
    half: 4,
    is_packed: true,
    is_interleaved: false,
    window: -1,
    soft_cap: 0.0,
};

impl Case {
    /// Widths of query, key and value.
    fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.columns)
    }

    fn graph(&self) -> OwnedGraph {
        let size = |extent: usize| extent as i64;
        let (batch, rows) = (size(self.batch), size(self.rows));
        let mut graph = GraphBuilder::new();
        let widths = self.widths();
        let all = [size(widths.iter().sum::<usize>()), 0, 0];
        let given = if self.is_packed { all } else { widths.map(size) };
        let mut inputs = Vec::new();
        for (name, width) in ["query", "key", "value"].into_iter().zip(given) {
            let dims = [batch, rows, width];
            inputs.push((width > 0).then(|| graph.input(name, DType::F32, Some(&dims))));
        }
        let cache = [batch, size(self.kv_heads), size(self.room), size(self.columns)];
        inputs
            .extend(["past_key", "past_value"].map(|name| Some(graph.input(name, DType::F32, Some(&cache)))));
        inputs.push(Some(graph.input("seqlens_k", DType::I32, Some(&[batch]))));
        inputs.push(Some(graph.input("total", DType::I32, Some(&[]))));
        let tables = [size(self.room), size(self.half)];
        inputs.extend(["cos", "sin"].map(|name| Some(graph.input(name, DType::F32, Some(&tables)))));
        let out = graph.value("out", DType::F32, Some(&[batch, rows, size(widths[0])]));
        let present = ["k", "v"].map(|name| graph.value(name, DType::F32, Some(&cache)));
        let inputs: Vec<u32> =
            inputs.into_iter().map(|i| i.unwrap_or(tenon_plugin_api::ffi::NO_VALUE)).collect();
        let node = graph.node("GroupQueryAttention", 1, &inputs, &[out, present[0], present[1]]);
        graph.domain(node, "com.microsoft");
        for (name, value) in [
            ("num_heads", size(self.heads)),
            ("kv_num_heads", size(self.kv_heads)),
            ("do_rotary", 1),
            ("rotary_interleaved", self.is_interleaved.into()),
            ("local_window_size", self.window),
        ] {
            graph.attribute(node, name, AttributeValue::Int(value));
        }
        graph.attribute(node, "softcap", AttributeValue::Float(self.soft_cap));
        for value in [out, present[0], present[1]] {
            graph.output(value);
        }
        graph.build()
    }
}

/// A head with the pairs that belong to `angles` turned.
fn turned(head: &[f32], angles: &[f64], is_interleaved: bool) -> Vec<f64> {
    let mut turned: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    for (i, angle) in angles.iter().enumerate() {
        let (a, b) = if is_interleaved { (2 * i, 2 * i + 1) } else { (i, i + angles.len()) };
        let (x, y) = (turned[a], turned[b]);
        (turned[a], turned[b]) = (x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos());
    }
    turned
}

fn check(case: Case, lengths: &[i32], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let Case { batch, rows, heads, kv_heads, columns, room, half, .. } = case;
    let size = |extent: usize| extent as i64;
    let width: usize = case.widths().iter().sum();
    let packed = Array::random(&[size(batch), size(rows), size(width)], &mut random);
    let cache = [batch, kv_heads, room, columns].map(size);
    // What lies behind a sequence's past must not matter.
    let past = [0, 1].map(|_| {
        let mut cache = Array::random(&cache, &mut random);
        for (i, value) in cache.values.iter_mut().enumerate() {
            let (b, position) = (i / (kv_heads * room * columns), i / columns % room);
            if position >= (lengths[b] as usize).saturating_sub(rows) {
                *value = f32::NAN;
            }
        }
        cache
    });
    let angle = |position: usize, i: usize| position as f64 * 0.7f64.powi(i as i32);
    let table =
        |f: fn(f64) -> f64| Array::new(&[size(room), size(half)], |i| f(angle(i / half, i % half)) as f32);
    // Heads of a token: queries, keys, values.
    let head = |b: usize, row: usize, head: usize| {
        let start = (b * rows + row) * width + head * columns;
        &packed.values[start..start + columns]
    };
    let mut inputs: Vec<Raw> = Vec::new();
    if case.is_packed {
        inputs.push((&packed).into());
    } else {
        let mut first = 0;
        for width_of_part in case.widths() {
            let dims = [batch, rows, width_of_part].map(size);
            let part =
                Array::new(&dims, |i| packed.values[i / width_of_part * width + first + i % width_of_part]);
            inputs.push((&part).into());
            first += width_of_part;
        }
    }
    inputs.extend(past.iter().map(Raw::from));
    let last: Vec<i32> = lengths.iter().map(|length| length - 1).collect();
    inputs.push(Raw::i32s(&[size(batch)], &last));
    inputs.push(Raw::i32s(&[], &[room as i32]));
    inputs.extend([&table(f64::cos), &table(f64::sin)].map(Raw::from));
    let first_cache = if case.is_packed { 1 } else { 3 };
    for is_in_place in [false, true] {
        let device = open(&[]);
        let mut session = Session::new(&device, &case.graph(), 3);
        if is_in_place {
            session.in_place[1..].copy_from_slice(&[Some(first_cache), Some(first_cache + 1)]);
        }
        let outputs = session.run_raw(&inputs);
        let present = [outputs[1].f32s(), outputs[2].f32s()];
        for (b, &length) in lengths.iter().enumerate() {
            let fresh = rows.min(length as usize);
            let before = length as usize - fresh;
            let line = |g: usize, position: usize| ((b * kv_heads + g) * room + position) * columns;
            let key = |g: usize, position: usize| -> Vec<f64> {
                if position < before {
                    let start = line(g, position);
                    return past[0].values[start..start + columns].iter().map(|&x| f64::from(x)).collect();
                }
                let angles: Vec<f64> = (0..half).map(|i| angle(position, i)).collect();
                turned(head(b, position - before, heads + g), &angles, case.is_interleaved)
            };
            let value = |g: usize, position: usize| -> Vec<f64> {
                let start = line(g, position);
                let values = if position < before {
                    &past[1].values[start..start + columns]
                } else {
                    head(b, position - before, heads + kv_heads + g)
                };
                values.iter().map(|&x| f64::from(x)).collect()
            };
            for (part, expected) in
                [&key as &dyn Fn(usize, usize) -> Vec<f64>, &value].into_iter().enumerate()
            {
                for (g, position) in (0..kv_heads * length as usize).map(|i| (i % kv_heads, i / kv_heads)) {
                    let start = line(g, position);
                    let got = &present[part][start..start + columns];
                    close(got, &expected(g, position), &format!("cache {part} at {b} {g} {position}"));
                }
            }
            for (row, h) in (0..fresh * heads).map(|i| (i / heads, i % heads)) {
                let position = before + row;
                let angles: Vec<f64> = (0..half).map(|i| angle(position, i)).collect();
                let query = turned(head(b, row, h), &angles, case.is_interleaved);
                let g = h / (heads / kv_heads);
                let begin = match usize::try_from(case.window) {
                    Ok(window) => (position + 1).saturating_sub(window),
                    Err(_) => 0,
                };
                let score = |k: usize| {
                    let dot: f64 = query.iter().zip(key(g, k)).map(|(q, k)| q * k).sum();
                    let score = dot / (columns as f64).sqrt();
                    match f64::from(case.soft_cap) {
                        0.0 => score,
                        cap => cap * (score / cap).tanh(),
                    }
                };
                let weights: Vec<f64> = (begin..=position).map(|k| score(k).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let expected: Vec<f64> = (0..columns)
                    .map(|c| {
                        let term = |(i, w): (usize, &f64)| w / sum * value(g, begin + i)[c];
                        weights.iter().enumerate().map(term).sum()
                    })
                    .collect();
                let start = ((b * rows + row) * heads + h) * columns;
                let out = outputs[0].f32s();
                close(&out[start..start + columns], &expected, &format!("row {row} of {b}, head {h}"));
            }
        }
    }
}

fn close(got: &[f32], expected: &[f64], place: &str) {
    for (&got, &expected) in got.iter().zip(expected) {
        assert!((f64::from(got) - expected).abs() < 1e-5, "{place}: {got}, expected {expected}");
    }
}

#[test]
fn grouped_queries_over_a_cache_agree_with_double_precision() {
    check(CASE, &[7, 9], 1);
    check(Case { rows: 1, ..CASE }, &[1, 6], 2);
    check(Case { is_packed: false, is_interleaved: true, ..CASE }, &[5, 3], 3);
}

#[test]
fn prompts_shorter_than_their_rows_are_padded_behind() {
    check(Case { rows: 5, ..CASE }, &[2, 5], 4);
}

#[test]
fn windows_and_soft_caps_hold() {
    check(Case { window: 2, ..CASE }, &[8, 4], 5);
    check(Case { soft_cap: 0.5, columns: 6, half: 2, ..CASE }, &[8, 4], 6);
}

#[test]
fn the_first_of_the_largest_scores_is_chosen() {
    let device = open(&[]);
    let (rows, columns) = (3i64, 2500i64);
    let mut random = fastrand::Rng::with_seed(7);
    for columns in [columns, columns + 1] {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", DType::F32, Some(&[rows, columns]));
        let y = graph.value("y", DType::I64, Some(&[rows]));
        let node = graph.node("ArgMax", 13, &[x], &[y]);
        graph.attribute(node, "axis", AttributeValue::Int(-1));
        graph.attribute(node, "keepdims", AttributeValue::Int(0));
        graph.output(y);
        let mut session = Session::new(&device, &graph.build(), 1);
        let mut scores = Array::random(&[rows, columns], &mut random);
        for (row, places) in [[5, 2400], [1023, 1024], [0, 2499]].iter().enumerate() {
            places.iter().for_each(|place| scores.values[row * columns as usize + place] = 3.0);
        }
        let chosen = session.run_raw(&[(&scores).into()]).remove(0);
        assert_eq!(chosen.as_i64s(), [5, 1023, 0]);
    }
}
