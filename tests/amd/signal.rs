//! Fourier transforms on emulated devices, against the defining sum in double precision.

use std::f64::consts::TAU;

use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::signal::{Place, Transform};

use crate::device::{download, random, upload};
use crate::harness::{Machine, assert_close};

/// Signals of frames that overlap, or of lines with others between their elements.
struct Case {
    scalar: Scalar,
    signals: usize,
    size: usize,
    is_complex: bool,
    is_inverse: bool,
    has_window: bool,
    /// Elements between those of a line, or 1.
    inner: usize,
}

impl Case {
    fn transform(&self) -> Transform {
        let Case { size, inner, .. } = *self;
        let step = if inner > 1 { inner } else { 1 };
        let place = |count: usize, is_complex: bool, distance: usize| Place {
            outer: if inner > 1 { count * inner } else { 0 },
            inner: if inner > 1 { 1 } else { distance },
            group: if inner > 1 { inner } else { self.signals },
            step,
            count,
            is_complex,
        };
        Transform {
            scalar: self.scalar,
            signals: self.signals,
            size,
            // Frames begin a third of their length apart.
            from: place(size, self.is_complex, size.div_ceil(3)),
            to: place(size, true, size),
            is_inverse: self.is_inverse,
            mirrors: false,
            has_window: self.has_window,
        }
    }
}

fn offset(place: &Place, signal: usize, at: usize) -> usize {
    signal / place.group * place.outer + signal % place.group * place.inner + at * place.step
}

fn wanted(transform: &Transform, x: &[f64], window: &[f64], count: usize) -> Vec<f64> {
    let mut y = vec![0.0; 2 * count];
    let (size, sign) = (transform.size, if transform.is_inverse { 1.0 } else { -1.0 });
    let scale = if transform.is_inverse { 1.0 / size as f64 } else { 1.0 };
    for signal in 0..transform.signals {
        for k in 0..transform.to.count {
            let (mut re, mut im) = (0.0, 0.0);
            for (t, &factor) in window.iter().enumerate() {
                let (sin, cos) = (sign * TAU * (k * t % size) as f64 / size as f64).sin_cos();
                let at = offset(&transform.from, signal, t);
                let weight = if transform.has_window { factor } else { 1.0 };
                let (a, b) = match transform.from.is_complex {
                    true => (x[2 * at] * weight, x[2 * at + 1] * weight),
                    false => (x[at] * weight, 0.0),
                };
                re += a * cos - b * sin;
                im += a * sin + b * cos;
            }
            let at = offset(&transform.to, signal, k);
            (y[2 * at], y[2 * at + 1]) = (re * scale, im * scale);
        }
    }
    y
}

#[test]
fn transforms_agree_with_the_defining_sum() {
    let case = |scalar, signals, size, is_complex, is_inverse, has_window, inner| Case {
        scalar,
        signals,
        size,
        is_complex,
        is_inverse,
        has_window,
        inner,
    };
    let cases = [
        case(Scalar::F32, 7, 400, false, false, true, 1),
        case(Scalar::F32, 6, 84, true, true, false, 3),
        case(Scalar::F16, 3, 64, false, false, true, 1),
        case(Scalar::BF16, 4, 45, true, false, false, 2),
        case(Scalar::F64, 2, 360, true, false, true, 1),
        case(Scalar::F32, 1, 2100, true, false, false, 1),
        case(Scalar::F32, 3, 97, false, false, true, 1),
        case(Scalar::F64, 1, 521, true, true, false, 1),
    ];
    for machine in Machine::all() {
        for case in &cases {
            let transform = case.transform();
            let last = (0..case.signals).map(|signal| offset(&transform.from, signal, case.size - 1)).max();
            let elements = (last.expect("there are signals") + 1) * (1 + usize::from(case.is_complex));
            let (x, values) = upload(&machine, case.scalar, &random(91, elements, -1.0, 1.0));
            let (window, weights) = upload(&machine, case.scalar, &random(92, case.size, 0.0, 1.0));
            let count = case.signals * case.size;
            let y = machine.poisoned(2 * count * case.scalar.bytes());
            let what = format!("{:?} {} on {}", case.scalar, case.size, machine.family.name);
            let plan = transform.plan().expect("a length that there are passes for");
            machine.run(&plan, &[y, x, window, 0]).unwrap_or_else(|error| panic!("{what}: {error}"));
            let tolerance = match case.scalar {
                Scalar::F64 => 1e-12,
                Scalar::F16 => 2e-2,
                Scalar::BF16 => 1e-1,
                _ => 2e-5,
            };
            let want = wanted(&transform, &values, &weights, count);
            assert_close(&what, &download(&machine, case.scalar, y, 2 * count), &want, tolerance, tolerance);
        }
    }
}
