//! Casts, codecs, transposes and quantisation, element by element, on every tier.

mod support;

use half::{bf16, f16};
use support::{Rng, for_each_context};
use tenon_kernels::cpu::cast::*;
use tenon_kernels::cpu::minifloat::*;
use tenon_kernels::cpu::quantize::*;
use tenon_kernels::cpu::transpose::*;

fn awkward_floats(rng: &mut Rng) -> Vec<f32> {
    let mut x: Vec<f32> = (0..5000).map(|_| f32::from_bits((rng.next() >> 32) as u32)).collect();
    x.extend((0..3001).map(|_| rng.uniform(-2.0, 2.0)));
    x.extend([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        65504.0,
        65519.99,
        65520.0,
        6e-8,
        2.98e-8,
        1e-40,
    ]);
    x
}

#[test]
fn float_casts_round_to_nearest_even() {
    let mut rng = Rng::new(1);
    let x = awkward_floats(&mut rng);
    for_each_context(|ctx| {
        let mut halves = vec![f16::ZERO; x.len()];
        convert_float(ctx, &x, &mut halves).unwrap();
        let mut brains = vec![bf16::ZERO; x.len()];
        convert_float(ctx, &x, &mut brains).unwrap();
        for (i, &v) in x.iter().enumerate() {
            let (h, b) = (f16::from_f32(v), bf16::from_f32(v));
            assert!(
                halves[i] == h && halves[i].is_sign_negative() == h.is_sign_negative()
                    || h.is_nan() && halves[i].is_nan(),
                "{v}"
            );
            assert!(
                brains[i] == b && brains[i].is_sign_negative() == b.is_sign_negative()
                    || b.is_nan() && brains[i].is_nan(),
                "{v}"
            );
        }
        let codes: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let (mut wide, mut brains) = (vec![0.0f32; codes.len()], vec![bf16::ZERO; codes.len()]);
        convert_float(ctx, &codes, &mut wide).unwrap();
        convert_float(ctx, &codes, &mut brains).unwrap();
        for (i, code) in codes.iter().enumerate() {
            assert!(wide[i] == code.to_f32() || code.is_nan() && wide[i].is_nan());
            assert!(brains[i] == bf16::from_f32(code.to_f32()) || code.is_nan() && brains[i].is_nan());
        }
    });
}

#[test]
fn numeric_casts_truncate_wrap_and_test_for_zero() {
    for_each_context(|ctx| {
        let mut y = [0i32; 4];
        convert(ctx, &[1.9f32, -1.9, 0.0, 3e9], &mut y).unwrap();
        assert_eq!(y, [1, -1, 0, i32::MAX]);
        let mut y = [0u8; 3];
        convert(ctx, &[256i64, -1, 7], &mut y).unwrap();
        assert_eq!(y, [0, 255, 7]);
        let mut y = [false; 3];
        convert(ctx, &[0.0f32, -0.5, f32::NAN], &mut y).unwrap();
        assert_eq!(y, [false, true, true]);
        let mut y = [f16::ZERO; 2];
        convert(ctx, &[true, false], &mut y).unwrap();
        assert_eq!(y, [f16::ONE, f16::ZERO]);
    });
}

const FORMATS: [(Float8, f32, f32); 4] = [
    // Largest and smallest positive values, from the ONNX specification of the types.
    (Float8::E4M3Fn, 448.0, 0.001953125),
    (Float8::E4M3FnUz, 240.0, 0.0009765625),
    (Float8::E5M2, 57344.0, 1.0 / 65536.0),
    (Float8::E5M2FnUz, 57344.0, 1.0 / 131072.0),
];

#[test]
fn eight_bit_floats_decode_to_their_published_range_and_encode_back() {
    for (format, largest, smallest) in FORMATS {
        let values: Vec<f32> = (0..=255).map(|code| format.decode(code)).collect();
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        assert_eq!(finite().fold(0.0, f32::max), largest, "{format:?}");
        assert_eq!(finite().filter(|v| *v > 0.0).fold(f32::MAX, f32::min), smallest, "{format:?}");
        for code in 0..=255u8 {
            let v = format.decode(code);
            if v.is_nan() {
                assert!(format.decode(format.encode(v, true)).is_nan(), "{format:?} {code:#x}");
            } else {
                assert_eq!(format.encode(v, false), code, "{format:?} {code:#x}");
            }
        }
        let uz = matches!(format, Float8::E4M3FnUz | Float8::E5M2FnUz);
        assert_eq!(format.encode(-0.0, true), if uz { 0 } else { 0x80 });
    }
}

#[test]
fn eight_bit_floats_round_to_nearest_even() {
    let mut rng = Rng::new(2);
    for (format, largest, smallest) in FORMATS {
        let mut codes: Vec<u8> = (0..0x80).filter(|&code| format.decode(code).is_finite()).collect();
        codes.sort_by(|a, b| format.decode(*a).total_cmp(&format.decode(*b)));
        let nearest = |v: f32| {
            let mut best = codes[0];
            for &code in &codes {
                let (new, old) = (f64::from(format.decode(code)), f64::from(format.decode(best)));
                let (near, far) = ((new - f64::from(v)).abs(), (old - f64::from(v)).abs());
                if near < far || (near == far && code & 1 == 0) {
                    best = code;
                }
            }
            best
        };
        let mut values: Vec<f32> =
            codes.windows(2).map(|p| (format.decode(p[0]) + format.decode(p[1])) / 2.0).collect();
        values.extend((0..4000).map(|_| 2f32.powf(rng.uniform(smallest.log2() - 3.0, largest.log2()))));
        values.extend([0.0, 1e-40, f32::MIN_POSITIVE]);
        for v in values {
            assert_eq!(format.encode(v, true), nearest(v), "{format:?} {v}");
            assert_eq!(format.decode(format.encode(-v, true)), -format.decode(nearest(v)), "{format:?} -{v}");
        }
        for v in [largest * 1.5, f32::INFINITY] {
            assert_eq!(format.decode(format.encode(v, true)), largest);
            let open = format.decode(format.encode(v, false));
            assert!(if format == Float8::E5M2 { open == f32::INFINITY } else { open.is_nan() });
        }
        let x = [0.3f32, -7.0, 1e9];
        let (mut packed, mut back) = ([0; 3], [0.0; 3]);
        encode_float8(format, true, &x, &mut packed).unwrap();
        decode_float8(format, &packed, &mut back).unwrap();
        assert_eq!(back, x.map(|v| format.decode(format.encode(v, true))));
    }
}

#[test]
fn powers_of_two_and_four_bit_codes_round_as_specified() {
    for code in 0..=254u8 {
        let v = decode_e8m0(code);
        assert_eq!(f64::from(v), 2f64.powi(i32::from(code) - 127));
        for mode in [PowerRounding::Up, PowerRounding::Down, PowerRounding::Nearest] {
            assert_eq!(encode_e8m0(v, true, mode), code);
            assert_eq!(encode_e8m0(-v, true, mode), code);
        }
        if code > 0 && code < 254 {
            assert_eq!(encode_e8m0(v * 1.25, true, PowerRounding::Up), code + 1);
            assert_eq!(encode_e8m0(v * 1.75, true, PowerRounding::Down), code);
            assert_eq!(encode_e8m0(v * 1.25, true, PowerRounding::Nearest), code);
            assert_eq!(encode_e8m0(v * 1.5, true, PowerRounding::Nearest), code + 1);
        }
    }
    assert!(decode_e8m0(0xff).is_nan());
    assert_eq!(encode_e8m0(f32::NAN, true, PowerRounding::Up), 0xff);
    assert_eq!(encode_e8m0(f32::MAX, false, PowerRounding::Up), 0xff);
    assert_eq!(encode_e8m0(f32::MAX, true, PowerRounding::Up), 0xfe);
    let cases = [
        (0.25, 0),
        (0.26, 1),
        (0.75, 2),
        (1.25, 2),
        (1.75, 4),
        (2.5, 4),
        (3.5, 6),
        (5.0, 6),
        (5.1, 7),
        (99.0, 7),
    ];
    for (v, code) in cases {
        assert_eq!(encode_e2m1(v), code, "{v}");
        assert_eq!(encode_e2m1(-v), code | 8, "-{v}");
    }
    for code in 0..16 {
        assert_eq!(encode_e2m1(decode_e2m1(code)), code);
    }
}

#[test]
fn packed_bits_come_back() {
    let mut rng = Rng::new(3);
    for bits in [1, 2, 4] {
        for len in [0, 1, 3, 8, 17] {
            let x: Vec<u8> = rng.bytes(len).iter().map(|v| v & ((1 << bits) - 1)).collect();
            let mut packed = vec![0xff; len.div_ceil(8 / bits as usize)];
            pack_bits(bits, &x, &mut packed).unwrap();
            let (mut y, mut signed) = (vec![0xff; len], vec![0i8; len]);
            unpack_unsigned(bits, &packed, &mut y).unwrap();
            unpack_signed(bits, &packed, &mut signed).unwrap();
            assert_eq!(y, x);
            let half = 1 << (bits - 1);
            for (s, &u) in signed.iter().zip(&x) {
                assert_eq!(
                    i32::from(*s),
                    if i32::from(u) >= half { i32::from(u) - 2 * half } else { i32::from(u) }
                );
            }
        }
    }
    let mut packed = [0];
    pack_bits(4, &[0x1, 0xe], &mut packed).unwrap();
    assert_eq!(packed, [0xe1], "the first value is in the low bits");
}

fn permute_all<T: Copy + Default + PartialEq + std::fmt::Debug + Send + Sync>(make: impl Fn(usize) -> T) {
    let cases: [(&[usize], &[usize]); 12] = [
        (&[], &[]),
        (&[5], &[0]),
        (&[3, 4], &[1, 0]),
        (&[40, 70], &[1, 0]),
        (&[2, 33, 17], &[0, 2, 1]),
        (&[2, 33, 17], &[2, 1, 0]),
        (&[2, 33, 17], &[1, 2, 0]),
        (&[3, 1, 50, 19], &[3, 1, 0, 2]),
        (&[4, 5, 6, 7], &[0, 2, 1, 3]),
        (&[4, 20, 6, 17], &[2, 1, 3, 0]),
        (&[2, 3, 4, 5, 6], &[4, 2, 0, 3, 1]),
        (&[3, 0, 2], &[2, 0, 1]),
    ];
    for (shape, order) in cases {
        let len = shape.iter().product();
        let x: Vec<T> = (0..len).map(&make).collect();
        let mut strides = vec![1; shape.len()];
        for d in (0..shape.len().saturating_sub(1)).rev() {
            strides[d] = strides[d + 1] * shape[d + 1];
        }
        let expected: Vec<T> = (0..len)
            .map(|flat| {
                let mut rest = flat;
                x[order.iter().rev().fold(0, |at, &axis| {
                    let i = rest % shape[axis];
                    rest /= shape[axis];
                    at + i * strides[axis]
                })]
            })
            .collect();
        for_each_context(|ctx| {
            let mut y = vec![T::default(); len];
            permute(ctx, &x, shape, order, &mut y).expect("arguments agree");
            assert_eq!(y, expected, "{shape:?} by {order:?}");
        });
    }
}

#[test]
fn axes_permute_for_elements_of_any_size() {
    permute_all(|i| i as u8);
    permute_all(|i| i as u16);
    permute_all(|i| i as u32);
    permute_all(|i| i as u64);
    for_each_context(|ctx| {
        assert!(permute(ctx, &[0u8; 4], &[2, 2], &[0, 0], &mut [0; 4]).is_err());
        assert!(permute(ctx, &[0u8; 4], &[2, 2], &[0], &mut [0; 4]).is_err());
        let mut y = [0u8; 12];
        copy_strided(ctx, &[1u8, 2, 3], &[2, 3, 2], &[0, 1, 0], &mut y).unwrap();
        assert_eq!(y, [1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3]);
        assert!(copy_strided(ctx, &[1u8, 2, 3], &[4], &[1], &mut y[..4]).is_err(), "beyond the buffer");
    });
}

fn quantise_all<T: Quantized + PartialEq + std::fmt::Debug>(zero: [T; 3]) {
    let mut rng = Rng::new(4);
    for (extents, per_axis) in [([1, 1, 1], false), ([1, 1, 1003], false), ([2, 3, 35], true)] {
        let len = extents.iter().product();
        let mut x: Vec<f32> = (0..len).map(|_| rng.uniform(-300.0, 300.0)).collect();
        x.iter_mut().step_by(3).for_each(|v| *v = v.round() + 0.5);
        x[0] = f32::INFINITY;
        let scale = if per_axis { vec![1.0, 0.5, 3.0] } else { vec![1.0] };
        let scales = Scales { extents, scale: &scale, zero_point: Some(&zero[..scale.len()]) };
        let at = |i: usize| i / extents[2] % extents[1];
        for_each_context(|ctx| {
            let mut y = vec![zero[0]; len];
            quantize(ctx, &x, scales, &mut y).expect("arguments agree");
            for i in 0..len {
                let q = f64::from((x[i] / scale[at(i)]).round_ties_even()) + f64::from(zero[at(i)].to_i32());
                assert_eq!(
                    f64::from(y[i].to_i32()),
                    q.clamp(f64::from(T::RANGE.0), f64::from(T::RANGE.1)),
                    "{}",
                    x[i]
                );
            }
            let mut back = vec![f32::NAN; len];
            dequantize(ctx, &y, scales, &mut back).expect("arguments agree");
            for i in 0..len {
                assert_eq!(back[i], (y[i].to_i32() - zero[at(i)].to_i32()) as f32 * scale[at(i)]);
            }
        });
    }
}

#[test]
fn quantisation_rounds_half_to_even_and_saturates() {
    quantise_all::<u8>([128, 3, 250]);
    quantise_all::<i8>([0, -128, 7]);
    quantise_all::<u16>([128, 3, 65000]);
    quantise_all::<i16>([0, -3, 250]);
}

#[test]
fn dynamic_parameters_cover_zero() {
    for_each_context(|ctx| {
        assert_eq!(dynamic_parameters(ctx, &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]), (5.0 / 255.0, 153));
        assert_eq!(dynamic_parameters(ctx, &[1.0, 2.1, 1.3, 2.5, 3.34, 4.0]), (4.0 / 255.0, 0));
        let mut rng = Rng::new(5);
        let x = rng.floats(200_001);
        let (low, high) = x.iter().fold((0.0f32, 0.0f32), |(l, h), &v| (l.min(v), h.max(v)));
        assert_eq!(range_with_zero(ctx, &x), (low, high));
        let mut y = [0u8; 4];
        requantize(ctx, &[10, -10, 1000, 3], 2, &[0.5, 0.25], 7, &mut y).unwrap();
        assert_eq!(y, [12, 5, 255, 8]);
    });
}
