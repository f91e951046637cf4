//! Attention against a binary64 reference on every tier.

mod support;

use half::{bf16, f16};
use support::{Rng, assert_close, for_each_context};
use tenon_kernels::cpu::Float;
use tenon_kernels::cpu::attention::*;

fn reference(
    shape: &AttentionShape,
    (q, qs): (&[f32], HeadStrides),
    (k, ks): (&[f32], HeadStrides),
    (v, vs): (&[f32], HeadStrides),
    options: &Options<'_>,
) -> Vec<f64> {
    let at = |s: HeadStrides, b: usize, h: usize, r: usize| b * s.batch + h * s.head + r * s.row;
    let mut y = Vec::new();
    for b in 0..shape.batch {
        let length = options.kv_lengths.map_or(shape.kv_len, |lengths| lengths[b]);
        for h in 0..shape.q_heads {
            let kv = h / (shape.q_heads / shape.kv_heads);
            for i in 0..shape.q_len {
                let offset = match options.q_offsets {
                    Some(offsets) => offsets[b % offsets.len()],
                    None => length as isize - shape.q_len as isize,
                };
                let position = offset + i as isize;
                let mut scores = vec![f64::NEG_INFINITY; length];
                for (j, score) in scores.iter_mut().enumerate() {
                    let distance = position - j as isize;
                    let hidden = (options.causal && distance < 0)
                        || options.window.0.is_some_and(|before| distance > before as isize)
                        || options.window.1.is_some_and(|after| -distance > after as isize);
                    if hidden {
                        continue;
                    }
                    let dot: f64 = (0..shape.qk_dim)
                        .map(|d| f64::from(q[at(qs, b, h, i) + d]) * f64::from(k[at(ks, b, kv, j) + d]))
                        .sum();
                    *score = dot * f64::from(options.scale);
                    if options.softcap > 0.0 {
                        let cap = f64::from(options.softcap);
                        *score = cap * (*score / cap).tanh();
                    }
                    if let Some(mask) = options.mask {
                        let [sb, sh, sr, sc] = mask.strides;
                        let at = b * sb + h * sh + i * sr + j * sc;
                        *score += match mask.data {
                            _ if j >= mask.columns => f64::NEG_INFINITY,
                            MaskData::Additive(data) => f64::from(data[at]),
                            MaskData::Bool(data) if data[at] == 0 => f64::NEG_INFINITY,
                            MaskData::Bool(_) => 0.0,
                        };
                    }
                }
                let sink = options.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[h]));
                let max = scores.iter().copied().fold(sink, f64::max);
                let weights: Vec<f64> =
                    scores.iter().map(|s| if max.is_finite() { (s - max).exp() } else { 0.0 }).collect();
                let total =
                    weights.iter().sum::<f64>() + if max.is_finite() { (sink - max).exp() } else { 0.0 };
                for d in 0..shape.v_dim {
                    let sum: f64 =
                        weights.iter().enumerate().map(|(j, w)| w * f64::from(v[at(vs, b, kv, j) + d])).sum();
                    y.push(if total > 0.0 { sum / total } else { 0.0 });
                }
            }
        }
    }
    y
}

const SHAPES: [[usize; 7]; 9] = [
    // batch, q heads, kv heads, q_len, kv_len, qk_dim, v_dim
    [1, 1, 1, 1, 1, 4, 4],
    [2, 6, 2, 1, 700, 64, 64],
    [1, 4, 4, 1, 130, 40, 72],
    [1, 8, 2, 2, 33, 16, 130],
    [1, 9, 3, 1, 1100, 33, 9],
    [2, 4, 2, 37, 37, 24, 20],
    [1, 6, 2, 50, 300, 64, 64],
    [1, 2, 2, 129, 260, 8, 17],
    [1, 1, 1, 300, 20, 80, 128],
];

fn check<T: Float>(
    rng: &mut Rng,
    shape: &AttentionShape,
    rows_first: bool,
    options: &Options<'_>,
    tolerance: f64,
    what: &str,
) {
    let strides = |heads, rows, dim| {
        if rows_first {
            HeadStrides::rows_first(heads, rows, dim)
        } else {
            HeadStrides::heads_first(heads, rows, dim)
        }
    };
    let (qs, ks) = (
        strides(shape.q_heads, shape.q_len, shape.qk_dim),
        strides(shape.kv_heads, shape.kv_len, shape.qk_dim),
    );
    let vs = strides(shape.kv_heads, shape.kv_len, shape.v_dim);
    let ys = HeadStrides::heads_first(shape.q_heads, shape.q_len, shape.v_dim);
    let q = rng.floats(shape.batch * qs.batch);
    let round = |data: Vec<f32>| data.into_iter().map(T::from_f32).collect::<Vec<T>>();
    let (k, v) = (round(rng.floats(shape.batch * ks.batch)), round(rng.floats(shape.batch * vs.batch)));
    let widen = |data: &[T]| data.iter().map(|v| v.to_f32()).collect::<Vec<f32>>();
    let expected = reference(shape, (&q, qs), (&widen(&k), ks), (&widen(&v), vs), options);
    for_each_context(|ctx| {
        let mut y = vec![f32::NAN; expected.len()];
        attention(ctx, shape, (&q, qs), (&k, ks), (&v, vs), options, (&mut y, ys)).expect("arguments agree");
        assert_close(&y, &expected, tolerance, &format!("{what} {shape:?} {:?}", ctx.features.isa()));
        y.fill(f32::NAN);
        attention_reference(ctx, shape, (&q, qs), (&k, ks), (&v, vs), options, (&mut y, ys))
            .expect("arguments agree");
        assert_close(&y, &expected, tolerance, &format!("reference {what} {shape:?}"));
    });
}

fn shapes() -> impl Iterator<Item = AttentionShape> {
    SHAPES.into_iter().map(|[batch, q_heads, kv_heads, q_len, kv_len, qk_dim, v_dim]| AttentionShape {
        batch,
        q_heads,
        kv_heads,
        q_len,
        kv_len,
        qk_dim,
        v_dim,
    })
}

#[test]
fn attention_agrees_for_all_options() {
    let mut rng = Rng::new(1);
    for shape in shapes() {
        let sinks = rng.floats(shape.q_heads);
        let lengths: Vec<usize> = (0..shape.batch).map(|b| shape.kv_len - b.min(shape.kv_len - 1)).collect();
        let offsets: Vec<isize> = (0..shape.batch).map(|b| b as isize * 3).collect();
        let full = [shape.batch, shape.q_heads, shape.q_len, shape.kv_len];
        let mut additive = rng.floats(full.iter().product());
        additive.iter_mut().step_by(5).for_each(|v| *v = f32::NEG_INFINITY);
        let bools: Vec<u8> = rng.bytes(shape.q_len * shape.kv_len).iter().map(|v| v & 1).collect();
        let [_, h, q, kv] = full;
        let additive =
            Mask { data: MaskData::Additive(&additive), strides: [h * q * kv, q * kv, kv, 1], columns: kv };
        let bools = Mask { data: MaskData::Bool(&bools), strides: [0, 0, kv, 1], columns: kv - kv / 8 };
        let base = Options { scale: 0.3, ..Options::default() };
        let variants = [
            ("plain", base),
            ("causal", Options { causal: true, ..base }),
            ("causal from the top", Options { causal: true, q_offsets: Some(&[0]), ..base }),
            (
                "offsets",
                Options { causal: true, q_offsets: Some(&offsets), kv_lengths: Some(&lengths), ..base },
            ),
            ("lengths", Options { causal: true, kv_lengths: Some(&lengths), ..base }),
            ("window", Options { causal: true, window: (Some(9), None), ..base }),
            ("two-sided window", Options { window: (Some(4), Some(7)), ..base }),
            ("soft cap and sinks", Options { softcap: 1.5, sinks: Some(&sinks), ..base }),
            ("additive mask", Options { mask: Some(additive), causal: true, ..base }),
            ("bool mask", Options { mask: Some(bools), ..base }),
        ];
        for (index, (what, options)) in variants.iter().enumerate() {
            check::<f32>(&mut rng, &shape, index % 2 == 0, options, 1e-5, what);
        }
    }
}

#[test]
fn half_precision_keys_and_values_are_widened() {
    let mut rng = Rng::new(2);
    for shape in shapes() {
        let options = Options { scale: 0.2, causal: true, ..Options::default() };
        check::<f16>(&mut rng, &shape, true, &options, 1e-5, "f16");
        check::<bf16>(&mut rng, &shape, false, &options, 1e-5, "bf16");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let ctx = support::tiers().pop().map(tenon_kernels::cpu::Context::serial).unwrap();
    let shape =
        AttentionShape { batch: 1, q_heads: 2, kv_heads: 2, q_len: 3, kv_len: 3, qk_dim: 4, v_dim: 4 };
    let strides = HeadStrides::heads_first(2, 3, 4);
    let data = [0.0f32; 24];
    let options = Options::default();
    let run = |shape: &AttentionShape, q: &[f32], ys: HeadStrides, options: &Options<'_>| {
        let mut y = [0.0f32; 24];
        attention(ctx, shape, (q, strides), (&data, strides), (&data, strides), options, (&mut y, ys))
    };
    assert!(run(&shape, &data, strides, &options).is_ok());
    assert!(run(&shape, &data[1..], strides, &options).is_err(), "q too short");
    assert!(run(&AttentionShape { kv_heads: 0, ..shape }, &data, strides, &options).is_err(), "no key heads");
    assert!(run(&shape, &data, HeadStrides { row: 2, ..strides }, &options).is_err(), "rows of y overlap");
    let short = Options { sinks: Some(&[0.0]), ..options };
    assert!(run(&shape, &data, strides, &short).is_err(), "one sink for two heads");
}
