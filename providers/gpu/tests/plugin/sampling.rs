//! Batched sampling and key-value pools through the table.

use std::sync::Arc;

use tenon_kernels::cpu::sampling::{Sampling, log_probability};
use tenon_plugin_api::host::{Device, Memory, Stream};
use tenon_plugin_api::{Code, DType, ffi};

use crate::harness::{download, open, upload};

/// Rows of scores with what directs their draws.
struct Batch {
    dtype: DType,
    vocabulary: usize,
    rows: Vec<(Vec<f32>, Sampling)>,
}

/// Device memory that holds `bytes`.
fn on_device(device: &Arc<Device>, stream: &Stream, bytes: &[u8]) -> Memory {
    let memory = device.allocate(ffi::MEMORY_DEVICE, bytes.len().max(1)).expect("memory");
    upload(stream, memory.as_ptr(), bytes);
    memory
}

fn bytes_of<T, const N: usize>(values: impl Iterator<Item = T>, bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.flat_map(bytes).collect()
}

/// A score as the device reads it.
fn rounded(dtype: DType, score: f32) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(score).to_f32(),
        DType::BF16 => half::bf16::from_f32(score).to_f32(),
        _ => score,
    }
}

impl Batch {
    fn new(dtype: DType, rows: Vec<(Vec<f32>, Sampling)>) -> Batch {
        let round = |(scores, sampling): (Vec<f32>, Sampling)| {
            (scores.into_iter().map(|score| rounded(dtype, score)).collect::<Vec<f32>>(), sampling)
        };
        let rows: Vec<_> = rows.into_iter().map(round).collect();
        Batch { dtype, vocabulary: rows[0].0.len(), rows }
    }

    fn logits(&self) -> Vec<u8> {
        let scores = self.rows.iter().flat_map(|(scores, _)| scores).copied();
        match self.dtype {
            DType::F16 => bytes_of(scores, |score| half::f16::from_f32(score).to_le_bytes()),
            DType::BF16 => bytes_of(scores, |score| half::bf16::from_f32(score).to_le_bytes()),
            _ => bytes_of(scores, f32::to_le_bytes),
        }
    }

    /// Draws on the device: tokens and their log-probabilities.
    fn draw(&self, device: &Arc<Device>) -> Vec<(i32, f32)> {
        let stream = device.stream().expect("a stream");
        let own = || self.rows.iter().map(|(_, sampling)| *sampling);
        let logits = on_device(device, &stream, &self.logits());
        let floats = |value: fn(Sampling) -> f32| {
            on_device(device, &stream, &bytes_of(own().map(value), f32::to_le_bytes))
        };
        let (temperatures, top_p, min_p) =
            (floats(|s| s.temperature), floats(|s| s.top_p), floats(|s| s.min_p));
        let top_k = on_device(device, &stream, &bytes_of(own().map(|s| s.top_k), u32::to_le_bytes));
        let seeds = on_device(device, &stream, &bytes_of(own().map(|s| s.seed), u64::to_le_bytes));
        // Whatever is not written is seen.
        let results = on_device(device, &stream, &vec![0xff; 8 * self.rows.len()]);
        let args = ffi::SampleArgs {
            struct_size: size_of::<ffi::SampleArgs>(),
            stream: std::ptr::null_mut(),
            logits: logits.as_ptr(),
            logits_dtype: self.dtype as u32,
            batch: self.rows.len() as u32,
            vocabulary: self.vocabulary as u32,
            reserved: 0,
            temperatures: temperatures.as_ptr().cast(),
            top_k: top_k.as_ptr().cast(),
            top_p: top_p.as_ptr().cast(),
            min_p: min_p.as_ptr().cast(),
            seeds: seeds.as_ptr().cast(),
            tokens: results.as_ptr().cast(),
            log_probs: results.as_ptr().wrapping_byte_add(4 * self.rows.len()).cast(),
        };
        // SAFETY: the buffers hold what the batch says and outlive the download below.
        unsafe { device.sample(&stream, &args) }.expect("the draw is queued");
        let words = download(&stream, results.as_ptr(), 8 * self.rows.len());
        let words: Vec<[u8; 4]> = words.as_chunks().0.to_vec();
        let (tokens, log_probs) = words.split_at(self.rows.len());
        tokens
            .iter()
            .zip(log_probs)
            .map(|(&token, &log_prob)| (i32::from_le_bytes(token), f32::from_le_bytes(log_prob)))
            .collect()
    }

    /// Draws on the device and compares with the reference.
    fn check(&self, device: &Arc<Device>) {
        for (row, ((token, log_prob), (scores, sampling))) in
            self.draw(device).into_iter().zip(&self.rows).enumerate()
        {
            let case = format!("{} of {}, row {row}, {sampling:?}", self.dtype, self.vocabulary);
            assert_eq!(token as u32, sampling.draw(scores), "{case}");
            let expected = log_probability(scores, token as u32);
            let is_same =
                log_prob == expected || (log_prob - expected).abs() <= 1e-5 * expected.abs().max(1.0);
            assert!(is_same || (log_prob.is_nan() && expected.is_nan()), "{case}: {log_prob} {expected}");
        }
    }
}

/// About normally distributed.
fn normal(random: &mut fastrand::Rng) -> f32 {
    (0..12).map(|_| random.f32()).sum::<f32>() - 6.0
}

fn scores(count: usize, spread: f32, random: &mut fastrand::Rng) -> Vec<f32> {
    (0..count).map(|_| spread * normal(random)).collect()
}

const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

/// Every kind of filter for a vocabulary.
fn filters(count: usize, random: &mut fastrand::Rng) -> Vec<Sampling> {
    let k = |part: usize| (count / part).max(1) as u32;
    let mut all = vec![
        PLAIN,
        Sampling { temperature: 0.0, ..PLAIN },
        Sampling { temperature: 0.7, top_k: k(20), ..PLAIN },
        Sampling { top_p: 0.9, ..PLAIN },
        Sampling { temperature: 1.5, top_k: k(2), top_p: 0.8, ..PLAIN },
        Sampling { min_p: 0.05, ..PLAIN },
        Sampling { temperature: 0.3, top_k: 50, top_p: 0.95, min_p: 0.1, ..PLAIN },
        Sampling { temperature: 40.0, top_p: 0.99, ..PLAIN },
        Sampling { top_k: 1, ..PLAIN },
    ];
    all.iter_mut().for_each(|sampling| sampling.seed = random.u64(..));
    all
}

#[test]
fn draws_are_those_of_the_reference_for_every_filter() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(11);
    for (dtype, count) in
        [(DType::F32, 1), (DType::BF16, 7), (DType::F32, 64), (DType::F16, 1001), (DType::BF16, 2000)]
    {
        let filters = filters(count, &mut random);
        let rows = filters.into_iter().map(|sampling| (scores(count, 3.0, &mut random), sampling)).collect();
        Batch::new(dtype, rows).check(&device);
    }
}

#[test]
fn long_rows_are_cut_through_candidates_and_flat_ones_digit_by_digit() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(12);
    for (dtype, count, spread) in [
        (DType::F32, 20_000, 4.0),
        (DType::F32, 20_001, 0.01),
        (DType::BF16, 17_000, 0.05),
        (DType::F16, 5000, 1.0),
        (DType::F32, 3001, 0.0),
    ] {
        let mut filters = filters(count, &mut random);
        filters.push(Sampling { top_k: count as u32 - 1, seed: random.u64(..), ..PLAIN });
        filters.push(Sampling { top_k: 1500, top_p: 0.5, seed: random.u64(..), ..PLAIN });
        let rows =
            filters.into_iter().map(|sampling| (scores(count, spread, &mut random), sampling)).collect();
        Batch::new(dtype, rows).check(&device);
    }
}

#[test]
fn what_is_no_number_and_infinities_are_dealt_with() {
    let device = open(&[]);
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let rows = [
        [nan, nan, nan, nan],
        [nan, -infinity, nan, -infinity],
        [1.0, infinity, -infinity, infinity],
        [nan, 0.5, -infinity, -0.0],
        [0.0, -0.0, nan, 0.0],
    ];
    let filters = [
        PLAIN,
        Sampling { top_k: 2, ..PLAIN },
        Sampling { top_p: 0.5, ..PLAIN },
        Sampling { temperature: f32::NAN, ..PLAIN },
        Sampling { temperature: -1.0, ..PLAIN },
        Sampling { temperature: 1e-38, min_p: 1.0, ..PLAIN },
        Sampling { top_p: f32::NAN, top_k: 3, min_p: f32::NAN, ..PLAIN },
        Sampling { top_p: -1.0, min_p: 7.0, ..PLAIN },
    ];
    let cases = rows.iter().flat_map(|row| filters.map(|filter| (row.to_vec(), filter)));
    let seeded = cases.enumerate().map(|(i, (row, filter))| (row, Sampling { seed: i as u64, ..filter }));
    Batch::new(DType::F32, seeded.collect()).check(&device);
    // The same among many tokens, most of them masked.
    let masked = (0..4096).map(|i| if i % 400 == 7 { (i / 400) as f32 * 0.1 } else { -infinity });
    let masked: Vec<f32> = masked.collect();
    let rows = filters.map(|filter| (masked.clone(), filter)).to_vec();
    Batch::new(DType::F32, rows).check(&device);
}

#[test]
fn kept_tokens_are_those_of_double_precision() {
    let mut random = fastrand::Rng::with_seed(13);
    for count in [3, 40, 500, 6000] {
        for sampling in filters(count, &mut random).into_iter().filter(|sampling| sampling.temperature > 0.0)
        {
            let scores = scores(count, 3.0, &mut random);
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let top = scores[order[0]];
            let weight = |at: usize| (f64::from(scores[at] - top) / f64::from(sampling.temperature)).exp();
            if sampling.top_k > 0 {
                order.truncate(sampling.top_k as usize);
            }
            let total: f64 = order.iter().map(|&at| weight(at)).sum();
            let (mut sum, mut close) = (0.0, false);
            let mut kept = Vec::new();
            for &at in &order {
                let share = sum / total - f64::from(sampling.top_p);
                let ratio = weight(at) - f64::from(sampling.min_p);
                close |= share.abs() < 1e-6 || ratio.abs() < 1e-6;
                if (sampling.top_p >= 1.0 || share < 0.0) && ratio >= 0.0 {
                    kept.push(at as u32);
                }
                sum += weight(at);
            }
            kept.sort_unstable();
            let own: Vec<u32> = sampling.candidates(&scores).into_iter().map(|(at, _)| at).collect();
            // Rounding decides where a filter falls between two tokens of nearly its threshold.
            assert!(own == kept || close, "{count} {sampling:?}: {} {}", own.len(), kept.len());
            assert!(own.len().abs_diff(kept.len()) <= 1);
        }
    }
}

#[test]
fn frequencies_are_the_probabilities() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(14);
    for (count, draws, filter) in [
        (12, 1000, PLAIN),
        (9, 300, Sampling { temperature: 1.7, top_k: 7, top_p: 0.97, min_p: 0.01, ..PLAIN }),
    ] {
        let scores = scores(count, 1.5, &mut random);
        // Neighbouring seeds are as good as any.
        let base = random.u64(..) / 2;
        let rows = (0..draws).map(|i| (scores.clone(), Sampling { seed: base + i, ..filter })).collect();
        let mut seen = vec![0u32; count];
        for (token, _) in Batch::new(DType::F32, rows).draw(&device) {
            seen[token as usize] += 1;
        }
        let kept = filter.candidates(&scores);
        let total: u64 = kept.iter().map(|&(_, weight)| weight).sum();
        let mut chi_square = 0.0;
        for &(at, weight) in &kept {
            let expected = draws as f64 * weight as f64 / total as f64;
            chi_square += (f64::from(seen[at as usize]) - expected).powi(2) / expected;
        }
        assert_eq!(kept.iter().map(|&(at, _)| u64::from(seen[at as usize])).sum::<u64>(), draws);
        // Beyond this once in more than ten thousand.
        let freedom = kept.len() as f64 - 1.0;
        assert!(chi_square < freedom + 4.5 * (2.0 * freedom).sqrt() + 4.0, "{chi_square} of {freedom}");
    }
}

#[test]
fn sampling_refuses_what_it_cannot_read() {
    let device = open(&[]);
    let stream = device.stream().unwrap();
    let word = on_device(&device, &stream, &[0; 64]);
    let args = ffi::SampleArgs {
        struct_size: size_of::<ffi::SampleArgs>(),
        stream: std::ptr::null_mut(),
        logits: word.as_ptr(),
        logits_dtype: DType::F32 as u32,
        batch: 1,
        vocabulary: 4,
        reserved: 0,
        temperatures: word.as_ptr().cast(),
        top_k: word.as_ptr().cast(),
        top_p: word.as_ptr().cast(),
        min_p: word.as_ptr().cast(),
        seeds: word.as_ptr().cast(),
        tokens: word.as_ptr().cast(),
        log_probs: std::ptr::null_mut(),
    };
    // SAFETY: 64 zero bytes serve every operand.
    let sample = |args: ffi::SampleArgs| unsafe { device.sample(&stream, &args) };
    sample(args).unwrap();
    sample(ffi::SampleArgs { batch: 0, tokens: std::ptr::null_mut(), ..args }).unwrap();
    let kind = |args| sample(args).unwrap_err().kind();
    assert_eq!(kind(ffi::SampleArgs { seeds: std::ptr::null(), ..args }), Code::InvalidArgument);
    assert_eq!(kind(ffi::SampleArgs { logits_dtype: DType::I32 as u32, ..args }), Code::Unsupported);
    assert_eq!(kind(ffi::SampleArgs { vocabulary: 0, ..args }), Code::Unsupported);
}

#[test]
fn pages_are_copied_in_the_order_given() {
    let device = open(&[]);
    let stream = device.stream().unwrap();
    let args = ffi::KvPoolArgs {
        struct_size: size_of::<ffi::KvPoolArgs>(),
        layers: 2,
        kv_heads: 3,
        head_size: 8,
        page_tokens: 4,
        pages: 5,
        dtype: DType::BF16 as u32,
        reserved: 0,
    };
    let before = device.memory_info().unwrap().used_bytes;
    let pool = device.kv_pool(&args).unwrap();
    let page = 2 * 2 * 3 * 4 * 8 * 2;
    let (data, bytes) = pool.data().unwrap();
    assert_eq!(bytes, 5 * page);
    let contents: Vec<u8> = (0..bytes).map(|i| (i / page) as u8).collect();
    upload(&stream, data, &contents);
    pool.copy_pages(&stream, &[[0, 3], [3, 1], [4, 4], [2, 0]]).unwrap();
    let firsts: Vec<u8> =
        download(&stream, data, bytes).chunks(page).map(|page| page[page.len() - 1]).collect();
    assert_eq!(firsts, [2, 0, 2, 0, 4]);
    assert_eq!(pool.copy_pages(&stream, &[[0, 1], [1, 5]]).unwrap_err().kind(), Code::InvalidArgument);
    drop(pool);
    assert_eq!(device.memory_info().unwrap().used_bytes, before);
    let bad = |args: ffi::KvPoolArgs| device.kv_pool(&args).map(|_| ()).unwrap_err().kind();
    assert_eq!(bad(ffi::KvPoolArgs { layers: 0, ..args }), Code::InvalidArgument);
    assert_eq!(bad(ffi::KvPoolArgs { dtype: DType::I4 as u32, ..args }), Code::Unsupported);
    assert_eq!(bad(ffi::KvPoolArgs { pages: u64::MAX, ..args }), Code::InvalidArgument);
}
