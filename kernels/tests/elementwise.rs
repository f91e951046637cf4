//! Elementwise functions against binary64, element by element, on every tier.

mod support;

use support::{Rng, assert_close, for_each_context, tiers};
use tenon_kernels::cpu::Context;
use tenon_kernels::cpu::elementwise::*;
use tenon_kernels::cpu::nest::broadcast_strides;

/// erf by its series near zero and its continued fraction beyond.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-20 * sum.abs() {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for k in (1..200).rev() {
        fraction = f64::from(k) / 2.0 / (x + fraction);
    }
    (-x * x).exp() / ((x + fraction) * std::f64::consts::PI.sqrt())
}

fn exact(op: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    match op {
        Unary::Identity => x,
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Erf => 1.0 - erfc(x),
        Unary::Gelu => 0.5 * x * erfc(-x / std::f64::consts::SQRT_2),
        Unary::GeluTanh => {
            x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3)))
        }
        Unary::Silu => x * sigmoid(x),
        Unary::Swish { alpha } => x * sigmoid(f64::from(alpha) * x),
        Unary::Softplus => softplus(x),
        Unary::Softsign => x / (1.0 + x.abs()),
        Unary::Mish => x * softplus(x).tanh(),
        Unary::Relu => x.max(0.0),
        Unary::LeakyRelu { alpha } => {
            if x < 0.0 {
                x * f64::from(alpha)
            } else {
                x
            }
        }
        Unary::ThresholdedRelu { alpha } => {
            if x > f64::from(alpha) {
                x
            } else {
                0.0
            }
        }
        Unary::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Unary::Celu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * (x / f64::from(alpha)).exp_m1()
            } else {
                x
            }
        }
        Unary::Selu { alpha, gamma } => {
            f64::from(gamma) * if x > 0.0 { x } else { f64::from(alpha) * x.exp_m1() }
        }
        Unary::Clip { min, max } => x.clamp(f64::from(min), f64::from(max)),
        Unary::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::Affine { scale, shift } => f64::from(scale) * x + f64::from(shift),
        other => unreachable!("{other:?} has no reference"),
    }
}

/// Units in the last place of a binary32 result; subnormal results count in the smallest subnormal.
fn ulps(actual: f32, expected: f64) -> f64 {
    if actual.is_nan() || expected.is_nan() {
        return if actual.is_nan() && expected.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if f64::from(actual) == expected || expected as f32 == actual {
        return 0.0;
    }
    let magnitude = (expected.abs() as f32).max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(magnitude.to_bits() + 1)) - f64::from(magnitude);
    (f64::from(actual) - expected).abs() / unit
}

/// Each function with the range that is sampled and the largest error allowed, in units in the last place.
const FUNCTIONS: &[(Unary, f32, f32, f64)] = &[
    (Unary::Neg, -5.0, 5.0, 0.5),
    (Unary::Abs, -5.0, 5.0, 0.5),
    (Unary::Sqrt, 0.0, 50.0, 0.5),
    (Unary::Reciprocal, 0.1, 50.0, 0.5),
    (Unary::Floor, -50.0, 50.0, 0.0),
    (Unary::Ceil, -50.0, 50.0, 0.0),
    (Unary::Round, -50.0, 50.0, 0.0),
    (Unary::Exp, -104.0, 88.7, 1.5),
    (Unary::Exp, -1.0, 1.0, 1.5),
    (Unary::Log, 1e-30, 1e30, 1.5),
    (Unary::Log, 0.5, 2.0, 2.0),
    (Unary::Tanh, -10.0, 10.0, 2.0),
    (Unary::Tanh, -0.7, 0.7, 2.0),
    (Unary::Sigmoid, -90.0, 90.0, 2.5),
    (Unary::Sigmoid, -5.0, 5.0, 2.5),
    (Unary::Erf, -5.0, 5.0, 2.0),
    (Unary::Erf, -1.0, 1.0, 2.0),
    (Unary::Gelu, -1.0, 10.0, 4.0),
    (Unary::GeluTanh, -1.0, 10.0, 4.0),
    (Unary::Silu, -20.0, 20.0, 3.0),
    (Unary::Swish { alpha: 1.702 }, -5.0, 20.0, 8.0),
    (Unary::Softplus, -20.0, 50.0, 3.0),
    (Unary::Softsign, -20.0, 50.0, 1.5),
    (Unary::Mish, -10.0, 50.0, 5.0),
    (Unary::Relu, -5.0, 5.0, 0.0),
    (Unary::LeakyRelu { alpha: 0.1 }, -5.0, 5.0, 0.5),
    (Unary::ThresholdedRelu { alpha: 0.5 }, -5.0, 5.0, 0.0),
    (Unary::Elu { alpha: 1.5 }, -20.0, 5.0, 2.0),
    (Unary::Celu { alpha: 0.5 }, -20.0, 5.0, 3.0),
    (Unary::Selu { alpha: 1.673_263_2, gamma: 1.050_701 }, -20.0, 5.0, 3.0),
    (Unary::Clip { min: -1.0, max: 2.0 }, -5.0, 5.0, 0.0),
    (Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, 0.0, 5.0, 1.5),
    (Unary::HardSwish, 0.0, 5.0, 2.0),
    (Unary::Affine { scale: 2.0, shift: 0.0 }, -5.0, 5.0, 0.5),
];

#[test]
fn functions_are_accurate_to_a_few_units_in_the_last_place() {
    let mut rng = Rng::new(1);
    for &(op, low, high, limit) in FUNCTIONS {
        let mut x: Vec<f32> = (0..20_003).map(|_| rng.uniform(low, high)).collect();
        if op == Unary::Log && high > 100.0 {
            x.iter_mut().for_each(|x| *x = 10f32.powf(rng.uniform(-38.0, 38.0)));
        }
        for features in tiers() {
            let mut y = vec![f32::NAN; x.len()];
            unary(Context::serial(features), op, &x, &mut y).unwrap();
            let worst = x.iter().zip(&y).map(|(&x, &y)| (ulps(y, exact(op, f64::from(x))), x, y));
            let (error, at, got) = worst.fold((0.0, 0.0, 0.0), |w, v| if v.0 > w.0 { v } else { w });
            let want = exact(op, f64::from(at));
            assert!(
                error <= limit,
                "{op:?} at {at} on {:?}: {got} for {want}, {error:.2} ulp",
                features.isa()
            );
        }
    }
}

#[test]
fn a_tail_gives_the_same_bits_as_the_vector_body() {
    let mut rng = Rng::new(2);
    let x: Vec<f32> = (0..77).map(|_| rng.uniform(-8.0, 8.0)).collect();
    for &(op, ..) in FUNCTIONS {
        for_each_context(|ctx| {
            let mut whole = vec![f32::NAN; x.len()];
            unary(ctx, op, &x, &mut whole).unwrap();
            for (i, &x) in x.iter().enumerate() {
                let mut one = [x];
                unary_in_place(ctx, op, &mut one);
                assert_eq!(one[0].to_bits(), whole[i].to_bits(), "{op:?} at {x}");
            }
        });
    }
}

#[test]
fn special_values_follow_ieee() {
    let inf = f32::INFINITY;
    let cases = [
        (Unary::Exp, -inf, 0.0),
        (Unary::Exp, inf, inf),
        (Unary::Exp, 89.5, inf),
        (Unary::Exp, -120.0, 0.0),
        (Unary::Log, 0.0, -inf),
        (Unary::Log, inf, inf),
        (Unary::Log, -1.0, f32::NAN),
        (Unary::Log, 1e-42, (1e-42f32 as f64).ln() as f32),
        (Unary::Tanh, inf, 1.0),
        (Unary::Tanh, -inf, -1.0),
        (Unary::Sigmoid, -inf, 0.0),
        (Unary::Sigmoid, inf, 1.0),
        (Unary::Erf, inf, 1.0),
        (Unary::Erf, -inf, -1.0),
        (Unary::Gelu, inf, inf),
        (Unary::Gelu, -inf, 0.0),
        (Unary::GeluTanh, -inf, 0.0),
        (Unary::Silu, -inf, 0.0),
        (Unary::Softplus, inf, inf),
        (Unary::Softplus, -inf, 0.0),
        (Unary::Elu { alpha: 2.0 }, -inf, -2.0),
        (Unary::Elu { alpha: 2.0 }, inf, inf),
    ];
    for_each_context(|ctx| {
        for (op, x, want) in cases {
            let mut y = [x; 3];
            unary_in_place(ctx, op, &mut y);
            assert!(
                y[2] == want || (want.is_nan() && y[2].is_nan()),
                "{op:?} of {x} is {}, not {want}",
                y[2]
            );
        }
        for &(op, ..) in FUNCTIONS {
            let mut y = [f32::NAN; 17];
            unary_in_place(ctx, op, &mut y);
            assert!(y.iter().all(|v| v.is_nan()), "{op:?} of NaN is {y:?}");
        }
    });
}

const BINARY: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max];

fn exact_binary(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        _ if a.is_nan() || b.is_nan() => f32::NAN,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
    }
}

fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

#[test]
fn binary_operations_are_exact_with_scalars_and_nan() {
    let mut rng = Rng::new(3);
    for len in [0, 1, 5, 16, 100, 70_001] {
        let (mut a, mut b) = (rng.floats(len), rng.floats(len));
        a.iter_mut().step_by(7).for_each(|v| *v = f32::NAN);
        b.iter_mut().step_by(5).for_each(|v| *v = f32::NAN);
        for op in BINARY {
            for_each_context(|ctx| {
                let mut y = vec![f32::NAN; len];
                binary(ctx, op, &a, &b, &mut y).unwrap();
                assert!((0..len).all(|i| same(y[i], exact_binary(op, a[i], b[i]))));
                binary(ctx, op, &[2.0], &b, &mut y).unwrap();
                assert!((0..len).all(|i| same(y[i], exact_binary(op, 2.0, b[i]))));
                let mut y = a.clone();
                binary_in_place(ctx, op, &mut y, &[3.0]).unwrap();
                assert!((0..len).all(|i| same(y[i], exact_binary(op, a[i], 3.0))));
                let mut y = a.clone();
                binary_in_place(ctx, op, &mut y, &b).unwrap();
                assert!((0..len).all(|i| same(y[i], exact_binary(op, a[i], b[i]))));
            });
        }
    }
}

#[test]
fn broadcasting_follows_the_numpy_rule() {
    let mut rng = Rng::new(4);
    let cases: [(&[usize], &[usize], &[usize]); 8] = [
        (&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]),
        (&[2, 3, 4], &[4], &[2, 3, 4]),
        (&[3, 1], &[1, 5], &[3, 5]),
        (&[2, 1, 4], &[2, 3, 1], &[2, 3, 4]),
        (&[1], &[7, 3], &[7, 3]),
        (&[], &[], &[]),
        (&[5, 1, 3], &[1, 4, 1], &[5, 4, 3]),
        (&[0, 3], &[1, 3], &[0, 3]),
    ];
    for (a_shape, b_shape, shape) in cases {
        let count = |s: &[usize]| s.iter().product::<usize>();
        let (a, b) = (rng.floats(count(a_shape)), rng.floats(count(b_shape)));
        let (sa, sb) =
            (broadcast_strides(a_shape, shape).unwrap(), broadcast_strides(b_shape, shape).unwrap());
        let at = |flat: usize, strides: &[usize]| {
            let mut rest = flat;
            (0..shape.len()).rev().fold(0, |at, d| {
                let i = rest % shape[d];
                rest /= shape[d];
                at + i * strides[d]
            })
        };
        for_each_context(|ctx| {
            let mut y = vec![f32::NAN; count(shape)];
            binary_broadcast(ctx, Binary::Sub, shape, &a, &sa, &b, &sb, &mut y).unwrap();
            let expected: Vec<f64> = (0..y.len()).map(|i| f64::from(a[at(i, &sa)] - b[at(i, &sb)])).collect();
            assert_close(&y, &expected, 0.0, &format!("{a_shape:?} - {b_shape:?}"));
            let mut less = vec![2u8; y.len()];
            map_binary(ctx, shape, &a, &sa, &b, &sb, &mut less, |a, b| u8::from(a < b)).unwrap();
            assert!((0..y.len()).all(|i| less[i] == u8::from(a[at(i, &sa)] < b[at(i, &sb)])));
            let mut chosen = vec![f32::NAN; y.len()];
            let pick = |c: u8, a: f32, b: f32| if c != 0 { a } else { b };
            let full = broadcast_strides(shape, shape).unwrap();
            map_ternary(ctx, shape, (&less, &full), (&a, &sa), (&b, &sb), &mut chosen, pick).unwrap();
            assert!((0..y.len()).all(|i| chosen[i] == a[at(i, &sa)].min(b[at(i, &sb)])));
        });
    }
    assert!(broadcast_strides(&[3], &[4]).is_err());
    assert!(broadcast_strides(&[1, 1, 3], &[3]).is_err());
}
