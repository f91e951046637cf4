//! Fourier transforms on random data against the defining sum in double precision.

use std::f64::consts::TAU;

use tenon_plugin_api::DType;
use tenon_plugin_api::host::AttributeValue::Int;
use tenon_plugin_api::host::{AttributeValue, GraphBuilder};

use crate::harness::{Array, Raw, Session, open};

type Numbers = Vec<(f64, f64)>;

/// Bins of a line of samples, without the factor of the inverse.
fn transformed(samples: &[(f64, f64)], len: usize, sign: f64) -> Numbers {
    let given = &samples[..samples.len().min(len)];
    let bin = |k: usize| {
        let (mut re, mut im) = (0.0, 0.0);
        for (t, &(a, b)) in given.iter().enumerate() {
            let (sin, cos) = (sign * TAU * (k * t % len) as f64 / len as f64).sin_cos();
            re += a * cos - b * sin;
            im += a * sin + b * cos;
        }
        (re, im)
    };
    (0..len).map(bin).collect()
}

pub fn close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64;
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * size.sqrt().max(1e-3), "{what} at {at}: {got}, not {want}");
    }
}

pub fn raw(dtype: DType, dims: &[i64], values: &[f64]) -> Raw {
    let bytes = match dtype {
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| half::f16::from_f64(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| half::bf16::from_f64(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
    };
    Raw { dtype, dims: dims.to_vec(), bytes }
}

pub fn numbers(raw: &Raw) -> Vec<f64> {
    let bytes = &raw.bytes;
    match raw.dtype {
        DType::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f64()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
        _ => raw.f32s().into_iter().map(f64::from).collect(),
    }
}

/// One node of inputs with known shapes, 64-bit integers of few elements being constants.
pub fn run(
    (domain, op_type, version): (&str, &str, u32),
    attributes: &[(&str, AttributeValue)],
    inputs: &[Option<Raw>],
    output: Vec<i64>,
) -> Raw {
    let mut graph = GraphBuilder::new();
    let mut names = Vec::new();
    let mut given = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        names.push(match input {
            None => tenon_plugin_api::ffi::NO_VALUE,
            Some(raw) if raw.dtype == DType::I64 && raw.bytes.len() < 64 => {
                graph.constant(&format!("in{index}"), raw.dtype, &raw.dims, &raw.bytes)
            }
            Some(raw) => {
                given.push(raw.clone());
                graph.input(&format!("in{index}"), raw.dtype, Some(&raw.dims))
            }
        });
    }
    let result = graph.value("out", inputs[0].as_ref().map_or(DType::F32, |raw| raw.dtype), Some(&output));
    let node = graph.node(op_type, version, &names, &[result]);
    graph.domain(node, domain);
    for (name, value) in attributes {
        graph.attribute(node, name, value.clone());
    }
    graph.output(result);
    let mut session = Session::new(&open(&[]), &graph.build(), 1);
    let got = session.run_raw(&given).remove(0);
    assert_eq!(got.dims, output, "{op_type}");
    got
}

pub fn int(value: i64) -> Option<Raw> {
    Some(Raw { dtype: DType::I64, dims: Vec::new(), bytes: value.to_le_bytes().into() })
}

pub fn random(rng: &mut fastrand::Rng, dtype: DType, dims: &[i64]) -> (Raw, Vec<f64>) {
    let count = dims.iter().product::<i64>() as usize;
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 2.0 - 1.0).collect();
    let raw = raw(dtype, dims, &values);
    let rounded = numbers(&raw);
    (raw, rounded)
}

/// Errors as parts of the mean size of a bin.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        DType::F16 => 2e-3,
        DType::BF16 => 1.5e-2,
        _ => 2e-6,
    }
}

#[test]
fn transforms_of_any_length_and_axis_are_the_defining_sum() {
    let mut rng = fastrand::Rng::with_seed(71);
    let cases = [
        (1, 1, 2),
        (2, 2, 2),
        (3, 3, 1),
        (8, 8, 1),
        (400, 400, 1),
        (360, 360, 2),
        (49, 49, 2),
        (11, 11, 1),
        (6, 13, 2),
        (40, 30, 1),
        (97, 97, 2),
        (1250, 1250, 1),
        (4096, 4096, 2),
        (600, 547, 1),
    ];
    for (number, (given, len, parts)) in cases.into_iter().enumerate() {
        let dtype = [DType::F32, DType::F64, DType::F16, DType::BF16][number % 4];
        for (is_inverse, inner) in [(false, 1), (true, 3)] {
            let outer = if len > 500 { 1 } else { 3 };
            let (x, values) = random(&mut rng, dtype, &[outer, given, inner, parts]);
            let inputs = [Some(x), int(len), int(1)];
            let flags = [("inverse", Int(i64::from(is_inverse)))];
            let got = numbers(&run(("", "DFT", 20), &flags, &inputs, vec![outer, len, inner, 2]));
            let mut want = vec![0.0; got.len()];
            let scale = if is_inverse { 1.0 / len as f64 } else { 1.0 };
            for line in 0..(outer * inner) as usize {
                let (o, i, n) = (line / inner as usize, line % inner as usize, inner as usize);
                let place = |len: i64, at: usize| (o * len as usize + at) * n + i;
                let sample = |t: usize| {
                    let at = place(given, t) * parts as usize;
                    (values[at], if parts == 2 { values[at + 1] } else { 0.0 })
                };
                let samples: Numbers = (0..given as usize).map(sample).collect();
                let bins = transformed(&samples, len as usize, if is_inverse { 1.0 } else { -1.0 });
                for (k, (re, im)) in bins.into_iter().enumerate() {
                    let at = 2 * place(len, k);
                    (want[at], want[at + 1]) = (re * scale, im * scale);
                }
            }
            close(
                &got,
                &want,
                tolerance(dtype),
                &format!("{dtype} {given} as {len} of {parts}, {is_inverse}"),
            );
        }
    }
}

#[test]
fn half_a_spectrum_leads_back_to_the_signal() {
    let mut rng = fastrand::Rng::with_seed(72);
    for len in [2i64, 9, 400, 31, 2100] {
        let (x, values) = random(&mut rng, DType::F32, &[2, len, 1]);
        let bins = len / 2 + 1;
        let spectrum = run(
            ("", "DFT", 17),
            &[("axis", Int(1)), ("onesided", Int(1))],
            &[Some(x.clone()), None],
            vec![2, bins, 2],
        );
        let samples: Numbers = values[..len as usize].iter().map(|&v| (v, 0.0)).collect();
        let want: Vec<f64> = transformed(&samples, len as usize, -1.0)[..bins as usize]
            .iter()
            .flat_map(|&(re, im)| [re, im])
            .collect();
        close(&numbers(&spectrum)[..want.len()], &want, 2e-6, &format!("{len} bins"));
        let flags = [("axis", Int(1)), ("onesided", Int(1)), ("inverse", Int(1))];
        let back = run(("", "DFT", 17), &flags, &[Some(spectrum), int(len)], vec![2, len, 1]);
        close(&numbers(&back), &values, 2e-6, &format!("{len} samples"));
        let flat = Raw { dims: vec![2, len], ..x };
        let real =
            run(("com.microsoft", "Rfft", 1), &[("signal_ndim", Int(1))], &[Some(flat)], vec![2, bins, 2]);
        close(&numbers(&real)[..want.len()], &want, 2e-6, &format!("{len} real samples"));
        if len % 2 == 0 {
            let back =
                run(("com.microsoft", "Irfft", 1), &[("signal_ndim", Int(1))], &[Some(real)], vec![2, len]);
            close(&numbers(&back), &values, 2e-6, &format!("{len} samples of Irfft"));
        }
    }
}

#[test]
fn frames_are_transformed_with_their_window() {
    let mut rng = fastrand::Rng::with_seed(73);
    for (samples, step, len, parts, onesided, has_window, dtype) in [
        (2000, 160, 400, 1, 1, true, DType::F32),
        (61, 7, 16, 2, 0, true, DType::F64),
        (61, 5, 23, 1, 0, false, DType::F32),
        (100, 10, 20, 1, 1, true, DType::F16),
    ] {
        let (x, values) = random(&mut rng, dtype, &[2, samples, parts]);
        let (window, weights) = random(&mut rng, dtype, &[len]);
        let weights = if has_window { weights } else { vec![1.0; len as usize] };
        let frames = (samples - len) / step + 1;
        let bins = if onesided == 1 { len / 2 + 1 } else { len };
        let inputs = [Some(x), int(step), has_window.then_some(window), int(len)];
        let got = run(("", "STFT", 17), &[("onesided", Int(onesided))], &inputs, vec![2, frames, bins, 2]);
        let mut want = Vec::new();
        for signal in 0..2 {
            for frame in 0..frames {
                let sample = |t: usize| {
                    let at = ((signal * samples + frame * step) as usize + t) * parts as usize;
                    let im = if parts == 2 { values[at + 1] } else { 0.0 };
                    (values[at] * weights[t], im * weights[t])
                };
                let line: Numbers = (0..len as usize).map(sample).collect();
                let all = transformed(&line, len as usize, -1.0);
                want.extend(all[..bins as usize].iter().flat_map(|&(re, im)| [re, im]));
            }
        }
        close(&numbers(&got), &want, tolerance(dtype), &format!("frames of {len}"));
    }
}

#[test]
fn what_no_transform_has_is_refused() {
    let device = open(&[]);
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[1, 8, 1]));
    let y = graph.value("y", DType::F32, Some(&[1, 8, 2]));
    let node = graph.node("DFT", 17, &[x], &[y]);
    graph.attribute(node, "axis", AttributeValue::Int(2));
    graph.output(y);
    let claims = device.claim(graph.build().graph(), "").unwrap();
    assert!(claims.declines[0].1.contains("last axis"), "{:?}", claims.declines);
    // Harmless shapes: nothing to transform.
    let none = Array::new(&[0, 8, 1], |_| 0.0);
    let got = run(("", "DFT", 17), &[("axis", Int(1))], &[Some(Raw::from(&none))], vec![0, 8, 2]);
    assert!(got.bytes.is_empty());
}
