//! Attention operators against float64 arithmetic: shapes, masks and caches that the suite leaves out.

use crate::node::{Attribute, Node};
use crate::tensor::{DType, Tensor};
use crate::testing::{blank, node, random, run, tensor};

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

fn attention(attributes: &[(&str, Attribute)], outputs: usize) -> Node {
    node("", "Attention", 25, attributes, outputs)
}

#[test]
fn the_vector_kernel_and_the_plain_loops_agree_under_every_option() {
    let options: [&[(&str, Attribute)]; 5] = [
        &[],
        &[("is_causal", Attribute::Int(1))],
        &[("softcap", Attribute::Float(0.7)), ("scale", Attribute::Float(1.3))],
        &[("left_window_size", Attribute::Int(2)), ("right_window_size", Attribute::Int(1))],
        &[("is_causal", Attribute::Int(1)), ("left_window_size", Attribute::Int(1))],
    ];
    let (q, k, v) = (random(&[2, 6, 5, 8]), random(&[2, 3, 4, 8]), random(&[2, 3, 4, 7]));
    let (past_k, past_v) = (random(&[2, 3, 3, 8]), random(&[2, 3, 3, 7]));
    let bools: Vec<crate::tensor::Bool> =
        (0..5 * 7).map(|i| crate::tensor::Bool(u8::from(i % 3 != 0))).collect();
    let masks = [None, Some(random(&[6, 5, 7])), Some(tensor(&[5, 7], &bools)), Some(random(&[2, 1, 5, 5]))];
    for options in options {
        for mask in &masks {
            let single = [&q, &k, &v].map(|t| Some(t.clone())).into_iter();
            let past = [&past_k, &past_v].map(|t| Some(t.clone())).into_iter();
            let inputs: Vec<Option<Tensor>> = single.chain([mask.clone()]).chain(past).collect();
            let fast = run(&attention(options, 3), &inputs).unwrap();
            let double = |t: &Option<Tensor>| {
                t.as_ref()
                    .map(|t| if t.dtype() == DType::F32 { tensor(t.dims(), &values(t)) } else { t.clone() })
            };
            let doubled: Vec<Option<Tensor>> = inputs.iter().map(double).collect();
            let plain = run(&attention(options, 3), &doubled).unwrap();
            assert_close(&values(&fast[0]), &values(&plain[0]));
            assert_close(&values(&fast[1]), &values(&plain[1]));
            assert_eq!(fast[2].dims(), [2, 3, 7, 7]);
        }
    }
}

#[test]
fn probabilities_add_up_to_one_and_hidden_rows_to_zero() {
    let attributes = [("qk_matmul_output_mode", Attribute::Int(3)), ("is_causal", Attribute::Int(1))];
    let lengths = tensor::<i64>(&[1], &[2]);
    let inputs = [
        Some(random(&[1, 2, 3, 4])),
        Some(random(&[1, 2, 5, 4])),
        Some(random(&[1, 2, 5, 4])),
        None,
        None,
        None,
        Some(lengths),
    ];
    let outputs = run(&attention(&attributes, 4), &inputs).unwrap();
    let probabilities = values(outputs.last().unwrap());
    for (index, row) in probabilities.chunks_exact(5).enumerate() {
        // Two valid keys under three queries: the first query comes before every key.
        let expected = if index % 3 == 0 { 0.0 } else { 1.0 };
        assert!((row.iter().sum::<f64>() - expected).abs() < 1e-5, "row {index}: {row:?}");
        assert!(row[2..].iter().all(|&p| p == 0.0));
    }
    assert!(values(&outputs[0])[..4].iter().all(|&y| y == 0.0));
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let shapes: [[&[usize]; 3]; 5] = [
        [&[1, 2, 3, 4], &[1, 2, 5, 3], &[1, 2, 5, 4]],
        [&[1, 3, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 4]],
        [&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 6, 4]],
        [&[1, 3, 8], &[1, 5, 8], &[1, 5, 8]],
        [&[3, 8], &[5, 8], &[5, 8]],
    ];
    for shapes in shapes {
        assert!(run(&attention(&[], 1), &shapes.map(|dims| Some(random(dims)))).is_err(), "{shapes:?}");
    }
}

#[test]
fn paged_attention_agrees_with_a_contiguous_cache() {
    let (heads, kv_heads, width, block, blocks) = (4, 2, 8, 4, 9);
    let heads_of = [("num_heads", Attribute::Int(heads)), ("kv_num_heads", Attribute::Int(kv_heads))];
    let rotary = [("do_rotary", Attribute::Int(1)), ("local_window_size", Attribute::Int(5))];
    let attributes: Vec<(&str, Attribute)> = heads_of.into_iter().chain(rotary).collect();
    let (past, new) = ([6usize, 0, 3], [2usize, 5, 1]);
    let tables: [i64; 9] = [4, 1, 7, 0, 8, -1, 5, -1, -1];
    let tokens: usize = new.iter().sum();
    let (row, kv_row) = (heads as usize * width, kv_heads as usize * width);
    let (q, k, v) = (random(&[tokens, row]), random(&[tokens, kv_row]), random(&[tokens, kv_row]));
    let (cos, sin) = (random(&[16, width / 2]), random(&[16, width / 2]));
    let caches = [
        random(&[blocks, block, kv_heads as usize, width]),
        random(&[blocks, block, kv_heads as usize, width]),
    ];
    let int = |values: &[i32]| Some(tensor::<i32>(&[values.len()], values));
    let inputs = [
        Some(q.clone()),
        Some(k.clone()),
        Some(v.clone()),
        Some(caches[0].clone()),
        Some(caches[1].clone()),
        int(&[0, 2, 7, 8]),
        int(&past.map(|past| past as i32)),
        Some(tensor::<i32>(&[3, 3], &tables.map(|page| page as i32))),
        Some(cos.clone()),
        Some(sin.clone()),
    ];
    let paged = run(&node("com.microsoft", "PagedAttention", 1, &attributes, 3), &inputs).unwrap();
    let mut first = 0;
    for sequence in 0..3 {
        let (past, new) = (past[sequence], new[sequence]);
        let rows = |t: &Tensor, width: usize| {
            let part = &t.as_slice::<f32>().unwrap()[first * width..(first + new) * width];
            Some(tensor::<f32>(&[1, new, width], part))
        };
        let cache = |t: &Tensor| {
            let all = t.as_slice::<f32>().unwrap();
            let mut past_rows = Vec::new();
            for head in 0..kv_heads as usize {
                for position in 0..past {
                    let page = tables[sequence * 3 + position / block] as usize;
                    let at = ((page * block + position % block) * kv_heads as usize + head) * width;
                    past_rows.extend_from_slice(&all[at..at + width]);
                }
            }
            if past == 0 {
                None
            } else {
                Some(tensor::<f32>(&[1, kv_heads as usize, past, width], &past_rows))
            }
        };
        let total = (past + new) as i32;
        let inputs = [
            rows(&q, row),
            rows(&k, kv_row),
            rows(&v, kv_row),
            cache(&caches[0]),
            cache(&caches[1]),
            int(&[total - 1]),
            Some(tensor::<i32>(&[], &[total])),
            Some(cos.clone()),
            Some(sin.clone()),
        ];
        let expected =
            run(&node("com.microsoft", "GroupQueryAttention", 1, &attributes, 3), &inputs).unwrap();
        assert_close(&values(&paged[0])[first * row..(first + new) * row], &values(&expected[0]));
        first += new;
    }
}

#[test]
fn a_negative_slot_stores_nothing() {
    let attributes = [("num_heads", Attribute::Int(1)), ("kv_num_heads", Attribute::Int(1))];
    let int = |dims: &[usize], values: &[i32]| Some(tensor::<i32>(dims, values));
    let inputs = [
        Some(random(&[2, 8])),
        Some(random(&[2, 8])),
        Some(random(&[2, 8])),
        Some(blank(DType::F32, &[2, 4, 1, 8])),
        Some(blank(DType::F32, &[2, 4, 1, 8])),
        int(&[2], &[0, 2]),
        int(&[1], &[0]),
        int(&[1, 1], &[1]),
        None,
        None,
        int(&[2], &[4, -1]),
    ];
    let outputs = run(&node("com.microsoft", "PagedAttention", 1, &attributes, 3), &inputs).unwrap();
    let keys = values(&outputs[1]);
    let stored = |slot: usize| keys[slot * 8..slot * 8 + 8].iter().any(|&value| value != 0.0);
    assert!(stored(4));
    assert!((0..8).filter(|&slot| slot != 4).all(|slot| !stored(slot)));
}

#[test]
fn linear_attention_continues_where_the_state_left_off() {
    let attributes = [("q_num_heads", Attribute::Int(4)), ("kv_num_heads", Attribute::Int(2))];
    let linear = node("", "LinearAttention", 27, &attributes, 2);
    let parts =
        [random(&[1, 5, 12]), random(&[1, 5, 6]), random(&[1, 5, 8]), random(&[1, 5, 2]), random(&[1, 5, 2])];
    let slice = |t: &Tensor, range: std::ops::Range<usize>| {
        let width = t.dims()[2];
        let rows = &t.as_slice::<f32>().unwrap()[range.start * width..range.end * width];
        Some(tensor::<f32>(&[1, range.len(), width], rows))
    };
    let inputs = |range: std::ops::Range<usize>, state: Option<Tensor>| {
        let part = |index: usize| slice(&parts[index], range.clone());
        [part(0), part(1), part(2), state, part(3), part(4)]
    };
    let whole = run(&linear, &inputs(0..5, None)).unwrap();
    let first = run(&linear, &inputs(0..2, None)).unwrap();
    let second = run(&linear, &inputs(2..5, Some(first[1].clone()))).unwrap();
    let joined: Vec<f64> = values(&first[0]).into_iter().chain(values(&second[0])).collect();
    assert_close(&joined, &values(&whole[0]));
    assert_close(&values(&second[1]), &values(&whole[1]));
}

#[test]
fn a_cache_that_holds_a_window_gives_what_a_full_cache_gives() {
    let (tokens, width, window, capacity) = (11usize, 8usize, 3i64, 5usize);
    let (q, k, v) =
        (random(&[1, tokens, 2 * width]), random(&[1, tokens, width]), random(&[1, tokens, width]));
    let shared = [
        ("num_heads", Attribute::Int(2)),
        ("kv_num_heads", Attribute::Int(1)),
        ("local_window_size", Attribute::Int(window)),
    ];
    let counts = |total: usize| [Some(tensor(&[1], &[total as i32 - 1])), Some(tensor(&[], &[total as i32]))];
    let all = [Some(q.clone()), Some(k.clone()), Some(v.clone()), None, None];
    let inputs: Vec<_> = all.into_iter().chain(counts(tokens)).collect();
    let expected =
        run(&node("com.microsoft", "GroupQueryAttention", 1, &shared, 3), &inputs).unwrap().remove(0);
    let attributes: Vec<_> =
        shared.into_iter().chain([("sliding_window_cache", Attribute::Int(1))]).collect();
    let step = node("com.microsoft", "GroupQueryAttention", 1, &attributes, 3);
    for chunk in [1usize, 2, 4, 7] {
        let (mut key, mut value) =
            (blank(DType::F32, &[1, 1, capacity, width]), blank(DType::F32, &[1, 1, capacity, width]));
        let mut got = Vec::new();
        for start in (0..tokens).step_by(chunk) {
            let rows = chunk.min(tokens - start);
            let part = |t: &Tensor| {
                let row = t.dims()[2];
                let data = &t.as_slice::<f32>().unwrap()[start * row..(start + rows) * row];
                Some(tensor(&[1, rows, row], data))
            };
            let new = [part(&q), part(&k), part(&v), Some(key), Some(value)];
            let inputs: Vec<_> = new.into_iter().chain(counts(start + rows)).collect();
            let mut outputs = run(&step, &inputs).unwrap();
            value = outputs.remove(2);
            key = outputs.remove(1);
            assert_eq!(key.dims(), [1, 1, capacity, width]);
            got.extend(values(&outputs[0]));
        }
        assert_close(&got, &values(&expected));
    }
}
