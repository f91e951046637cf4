//! Single instructions against their definition in the ISA manuals, on fresh random data and special values.

use crate::device::{Device, Value, pointers};
use crate::toolchain;
use half::{bf16, f16};
use tenon_emulator::{CodeObject, Target};

const LANES: usize = 64;

/// Runs a kernel of `instruction.cpp` on operands of 64 lanes.
fn run<T: Value, C: Value, R: Value>(
    code: &CodeObject,
    kernel: &str,
    operands: [&[T]; 2],
    c: &[C],
    count: usize,
) -> Vec<R> {
    let device = Device::new();
    let result = device.results::<R>(count);
    let addresses = [device.upload(operands[0]), device.upload(operands[1]), device.upload(c), result];
    device
        .launch(code, kernel, [1; 3], [64, 1, 1], pointers(&addresses))
        .unwrap_or_else(|error| panic!("{kernel}: {error}"));
    device.download(result, count)
}

/// Random words, among them special floats, small and large integers.
fn words(random: &mut fastrand::Rng) -> Vec<u32> {
    let special =
        [0, 1, 0x8000_0000, 0x7fff_ffff, u32::MAX, 0x7f80_0000, 0xff80_0000, 0x3f80_0000, 0x0000_8000];
    (0..LANES)
        .map(|_| match random.u8(..4) {
            0 => special[random.usize(..special.len())],
            1 => (random.f32() * 20.0 - 10.0).to_bits(),
            2 => random.u32(..64),
            _ => random.u32(..),
        })
        .collect()
}

/// Bits that are equal, or both NaN in the given reading.
fn same(found: u32, expected: u32, is_float: bool) -> bool {
    let nan = |bits: u32| is_float && f32::from_bits(bits).is_nan();
    found == expected || nan(found) && nan(expected)
}

/// Checks one kernel on words, lane by lane.
fn check(code: &CodeObject, kernel: &str, is_float: bool, reference: impl Fn(u32, u32, u32) -> u32) {
    let mut random = fastrand::Rng::new();
    for _ in 0..8 {
        let [a, b, c] = std::array::from_fn(|_| words(&mut random));
        let found: Vec<u32> = run(code, kernel, [&a, &b], &c, LANES);
        for lane in 0..LANES {
            let expected = reference(a[lane], b[lane], c[lane]);
            let inputs = [a[lane], b[lane], c[lane]];
            let fine = same(found[lane], expected, is_float);
            assert!(fine, "{kernel} lane {lane} of {inputs:x?}: {:#x}, expected {expected:#x}", found[lane]);
        }
    }
}

fn for_each_target(test: impl Fn(&CodeObject, Target)) {
    for target in Target::ALL {
        let Some(code) = toolchain::compile("instruction.cpp", target) else { return };
        test(&code, target);
    }
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn byte(word: u32, at: u32) -> u32 {
    word >> (8 * at) & 255
}

#[test]
fn integer_instructions() {
    for_each_target(|code, _| {
        check(code, "perm", false, |a, b, s| {
            let bytes = [b.to_le_bytes(), a.to_le_bytes()].concat();
            u32::from_le_bytes(s.to_le_bytes().map(|pick| match pick {
                0..8 => bytes[usize::from(pick)],
                // Sign of the 16-bit part of that number.
                8..12 => {
                    if bytes[2 * (usize::from(pick) - 8) + 1] >= 128 {
                        255
                    } else {
                        0
                    }
                }
                12 => 0,
                _ => 255,
            }))
        });
        check(code, "bfe_u", false, |a, b, c| ((u64::from(a) >> (b & 31)) & ((1 << (c & 31)) - 1)) as u32);
        check(code, "bfe_i", false, |a, b, c| {
            let (width, field) = (c & 31, u64::from(a) >> (b & 31));
            (0..32).fold(0, |r, bit| {
                r | ((field >> bit.min(width.max(1) - 1) & 1) as u32 & u32::from(width > 0)) << bit
            })
        });
        check(code, "bfi", false, |a, b, c| (a & b) | (!a & c));
        check(code, "alignbit", false, |a, b, c| ((u64::from(a) << 32 | u64::from(b)) >> (c % 32)) as u32);
        check(code, "alignbyte", false, |a, b, c| {
            ((u64::from(a) << 32 | u64::from(b)) >> (8 * (c % 4))) as u32
        });
        check(code, "mad_u24", false, |a, b, c| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c));
        check(code, "mad_i24", false, |a, b, c| {
            let low = |word: u32| i64::from(word & 0xff_ffff) - (i64::from(word >> 23 & 1) << 24);
            ((low(a) * low(b)) as u32).wrapping_add(c)
        });
        check(code, "med3_i", false, |a, b, c| {
            let mut sorted = [a as i32, b as i32, c as i32];
            sorted.sort_unstable();
            sorted[1] as u32
        });
        check(code, "sad_u8", false, |a, b, c| {
            (0..4).fold(c, |sum, at| sum.wrapping_add(byte(a, at).abs_diff(byte(b, at))))
        });
        check(code, "xad", false, |a, b, c| (a ^ b).wrapping_add(c));
        check(code, "lshl_or", false, |a, b, c| (a << (b % 32)) | c);
        check(code, "dot4", false, |a, b, c| {
            (0..4).fold(c as i32, |sum, at| {
                sum.wrapping_add(i32::from(byte(a, at) as i8) * i32::from(byte(b, at) as i8))
            }) as u32
        });
        check(code, "pk_mad_u16", false, |a, b, c| {
            let low = (a >> 16).wrapping_mul(b & 0xffff).wrapping_add(c & 0xffff) & 0xffff;
            let high = (a & 0xffff).wrapping_mul(b >> 16).wrapping_add(c >> 16) & 0xffff;
            // The first source reads its upper half for the low result and, by op_sel_hi, its lower for the high one.
            low | high << 16
        });
        check(code, "mul_hi_u", false, |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
        check(code, "mul_hi_i", false, |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
        check(code, "ashr", false, |a, b, _| (b as i32 >> (a % 32)) as u32);
        check(code, "bcnt", false, |a, b, _| a.count_ones().wrapping_add(b));
        check(code, "ffbh", false, |a, _, _| if a == 0 { u32::MAX } else { a.leading_zeros() });
        check(code, "bfrev", false, |a, _, _| a.reverse_bits());
        check(code, "carry", false, |a, b, c| c.wrapping_add(u32::from(a.checked_add(b).is_none())));
        check(code, "sdwa", false, |a, b, _| (a >> 16).wrapping_add(byte(b, 2) as i8 as u32));
        check(code, "sdwa_preserve", false, |a, b, _| a & 0xffff | a.wrapping_add(b) << 16);
    });
}

#[test]
fn wide_integer_instructions() {
    for_each_target(|code, _| {
        let mut random = fastrand::Rng::new();
        let [a, b, c]: [Vec<u64>; 3] = std::array::from_fn(|_| (0..LANES).map(|_| random.u64(..)).collect());
        let product: Vec<u64> = run(code, "mad_u64", [&a, &b], &c, LANES);
        let shifted: Vec<u64> = run(code, "ashr64", [&a, &b], &c, LANES);
        for lane in 0..LANES {
            let expected = u64::from(a[lane] as u32) * u64::from(b[lane] as u32);
            assert_eq!(product[lane], expected.wrapping_add(c[lane]));
            assert_eq!(shifted[lane], (b[lane] as i64 >> (a[lane] & 63)) as u64);
        }
    });
}

#[test]
fn float_instructions() {
    for_each_target(|code, _| {
        check(code, "fma", true, |a, b, c| (-f(a)).mul_add(f(b).abs(), f(c)).to_bits());
        check(code, "fma_doubled", true, |a, b, c| (f(a).mul_add(f(b), f(c)) * 2.0).to_bits());
        check(code, "med3_f", true, |a, b, c| {
            let mut sorted = [f(a), f(b), f(c)];
            if sorted.iter().any(|value| value.is_nan()) {
                let numbers = sorted.into_iter().filter(|value| !value.is_nan());
                return numbers.min_by(f32::total_cmp).unwrap_or(f32::NAN).to_bits();
            }
            sorted.sort_by(f32::total_cmp);
            sorted[1].to_bits()
        });
        check(code, "add_clamped", true, |a, b, _| {
            let sum = f(a) + f(b);
            if sum.is_nan() { 0 } else { (sum.clamp(0.0, 1.0) + 0.0).to_bits() }
        });
        check(code, "ldexp", true, |a, b, _| {
            ((f64::from(f(a)) * 2f64.powi((b as i32).clamp(-600, 600))) as f32).to_bits()
        });
        check(code, "rndne", true, |a, _, _| f(a).round_ties_even().to_bits());
        check(code, "ubyte2", true, |a, _, _| (byte(a, 2) as f32).to_bits());
        check(code, "cvt_i32", false, |a, _, _| {
            f64::from(f(a)).trunc().clamp(-2147483648.0, 2147483647.0) as i32 as u32
        });
        check(code, "cvt_u32", false, |a, _, _| f64::from(f(a)).trunc().clamp(0.0, 4294967295.0) as u32);
        check(code, "select", true, |a, b, c| if f(a) < f(b) { a } else { c });
        check(code, "mix", true, |a, b, c| {
            let half = |word: u32| f16::from_bits(word as u16).to_f32();
            half(a >> 16).mul_add(half(b), f(c)).to_bits()
        });
    });
}

#[test]
fn half_and_brain_instructions() {
    let half = |bits: u32| f16::from_bits(bits as u16);
    let pack = |low: f16, high: f16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let equal = |x: u32, y: u32| {
        [0, 16].into_iter().all(|at| {
            let (x, y) = (half(x >> at), half(y >> at));
            x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
        })
    };
    for_each_target(|code, target| {
        let mut random = fastrand::Rng::new();
        let [a, b, c] = std::array::from_fn(|_| words(&mut random));
        let compare = |kernel: &str, reference: &dyn Fn(u32, u32) -> u32| {
            let found: Vec<u32> = run(code, kernel, [&a, &b], &c, LANES);
            for lane in 0..LANES {
                let expected = reference(a[lane], b[lane]);
                assert!(
                    equal(found[lane], expected),
                    "{kernel} {:x} {:x}: {:x} {expected:x}",
                    a[lane],
                    b[lane],
                    found[lane]
                );
            }
        };
        compare("pk_add_f16", &|a, b| pack(half(a) - half(b), half(a >> 16) + half(b >> 16)));
        compare("mul_f16", &|a, b| u32::from((half(a) * half(b)).to_bits()));
        compare("cvt_f16", &|a, _| u32::from(f16::from_f32(f(a)).to_bits()));
        compare("pkrtz", &|a, b| {
            let truncate = |value: f32| {
                let nearest = f16::from_f32(value);
                let beyond = nearest.to_f32().abs() > value.abs();
                if beyond { f16::from_bits(nearest.to_bits() - 1) } else { nearest }
            };
            pack(truncate(f(a)), truncate(f(b)))
        });
        if target == Target::Gfx950 {
            let found: Vec<u32> = run(code, "pk_bf16", [&a, &b], &c, LANES);
            for lane in 0..LANES {
                for (bits, value) in
                    [(found[lane] as u16, f(a[lane])), ((found[lane] >> 16) as u16, f(b[lane]))]
                {
                    let expected = bf16::from_f32(value);
                    assert!(bits == expected.to_bits() || value.is_nan() && bf16::from_bits(bits).is_nan());
                }
            }
        }
    });
}

#[test]
fn transcendental_instructions_are_within_an_ulp() {
    for_each_target(|code, _| {
        let mut random = fastrand::Rng::new();
        let a: Vec<u32> = (0..LANES).map(|_| (random.f32() * 30.0 + 1e-3).to_bits()).collect();
        let functions: [(&str, fn(f64) -> f64); 4] = [
            ("exp", f64::exp2),
            ("log", f64::log2),
            ("rsq", |a| 1.0 / a.sqrt()),
            ("sin", |a| (a * std::f64::consts::TAU).sin()),
        ];
        for (kernel, function) in functions {
            let found: Vec<u32> = run(code, kernel, [&a, &a], &a, LANES);
            for lane in 0..LANES {
                let expected = function(f64::from(f(a[lane])));
                let error = (f64::from(f(found[lane])) - expected).abs();
                assert!(
                    error <= 2e-7 * expected.abs().max(1e-3),
                    "{kernel} {} {}",
                    f(a[lane]),
                    f(found[lane])
                );
            }
        }
    });
}

#[test]
fn lane_movement() {
    for_each_target(|code, _| {
        let mut random = fastrand::Rng::new();
        let [a, b, c] = std::array::from_fn(|_| words(&mut random));
        let check = |kernel: &str, reference: &dyn Fn(usize) -> u32| {
            let found: Vec<u32> = run(code, kernel, [&a, &b], &c, LANES);
            let expected: Vec<u32> = (0..LANES).map(reference).collect();
            assert_eq!(found, expected, "{kernel}");
        };
        check("quad_perm", &|lane| a[lane & !3 | [3, 0, 1, 2][lane & 3]].wrapping_add(b[lane]));
        // Row 1 is masked out; the first three lanes of a row have no source and keep their value.
        check("row_shr", &|lane| if lane % 16 < 3 || lane / 16 == 1 { b[lane] } else { a[lane - 3] });
        check("row_bcast", &|lane| if lane < 16 { 0 } else { a[lane / 16 * 16 - 1] });
        // Bits from the highest: zero, one, kept, inverted, kept.
        check("swizzle", &|lane| a[lane & 32 | (lane & 7 | 8) ^ 2]);
    });
}

/// A value of a float of 8 bits: sign, exponent, mantissa, bias.
fn small(pattern: u32, mantissa_bits: u32, bias: i32) -> f32 {
    let exponent = (pattern >> mantissa_bits & ((1 << (7 - mantissa_bits)) - 1)) as i32;
    let fraction = (pattern & ((1 << mantissa_bits) - 1)) as f32 / (1 << mantissa_bits) as f32;
    let magnitude = if exponent == 0 {
        fraction * 2f32.powi(1 - bias)
    } else {
        (1.0 + fraction) * 2f32.powi(exponent - bias)
    };
    if pattern & 128 != 0 { -magnitude } else { magnitude }
}

/// The pattern whose value is nearest, the even one of two.
fn nearest(value: f32, patterns: impl Iterator<Item = u32>, decode: impl Fn(u32) -> f32) -> u32 {
    let distance = |pattern: u32| (f64::from(decode(pattern)) - f64::from(value)).abs();
    patterns
        .min_by(|&x, &y| distance(x).total_cmp(&distance(y)).then((x & 1).cmp(&(y & 1))))
        .expect("there are patterns")
}

#[test]
fn eight_bit_floats_are_those_of_the_target() {
    for_each_target(|code, target| {
        let (fp8_bias, bf8_bias) = if target == Target::Gfx942 { (8, 16) } else { (7, 15) };
        let mut random = fastrand::Rng::new();
        let [a, b]: [Vec<u32>; 2] = std::array::from_fn(|_| {
            (0..LANES)
                .map(|_| {
                    ((random.f32() + 0.01)
                        * 2f32.powi(random.i32(-9..8))
                        * if random.bool() { 1.0 } else { -1.0 })
                    .to_bits()
                })
                .collect()
        });
        for (kernel, mantissa, bias, shift) in [("pk_fp8", 3, fp8_bias, 16), ("pk_bf8", 2, bf8_bias, 0)] {
            let found: Vec<u32> = run(code, kernel, [&a, &b], &a, LANES);
            let decode = |pattern: u32| small(pattern, mantissa, bias);
            for lane in 0..LANES {
                for (at, value) in [(0, f(a[lane])), (8, f(b[lane]))] {
                    let pattern = found[lane] >> (shift + at) & 255;
                    // All finite magnitudes of all formats.
                    let expected = nearest(value.abs(), 0..0x7c, decode);
                    assert_eq!(decode(pattern).abs(), decode(expected), "{kernel} {value}");
                    assert!(decode(pattern) == 0.0 || decode(pattern).is_sign_negative() == (value < 0.0));
                }
            }
        }
        let patterns: Vec<u32> = (0..LANES).map(|_| random.u32(..) & 0x7b7b).collect();
        let found: Vec<u64> = run(code, "unpk_fp8", [&patterns, &patterns], &patterns, LANES);
        for lane in 0..LANES {
            for (value, at) in [(found[lane] as u32, 0), ((found[lane] >> 32) as u32, 1)] {
                assert_eq!(f(value), small(byte(patterns[lane], at), 3, fp8_bias));
            }
        }
    });
}

#[test]
fn scaled_conversions_divide_and_multiply_by_the_scale() {
    let Some(code) = toolchain::compile("instruction.cpp", Target::Gfx950) else { return };
    let mut random = fastrand::Rng::new();
    let values: [Vec<u32>; 2] =
        std::array::from_fn(|_| (0..LANES).map(|_| (random.f32() * 40.0 - 20.0).to_bits()).collect());
    let scale: Vec<u32> = (0..LANES).map(|_| 2f32.powi(random.i32(-1..4)).to_bits()).collect();
    let found: Vec<u32> = run(&code, "scaled_fp4", [&values[0], &values[1]], &scale, LANES);
    let magnitudes = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for lane in 0..LANES {
        // The byte that op_sel picks; the rest keeps its zeros.
        assert_eq!(found[lane] & !0xff00, 0);
        for (at, values) in values.iter().enumerate() {
            let value = f(values[lane]) / f(scale[lane]);
            let expected = nearest(value.abs(), 0..8, |pattern| magnitudes[pattern as usize]);
            let pattern = found[lane] >> (8 + 4 * at) & 15;
            assert_eq!(pattern, expected | u32::from(value < 0.0) << 3, "{value}");
        }
    }
    let patterns: Vec<u32> = (0..LANES).map(|_| random.u32(..) & 0x7b7b_7b7b).collect();
    let found: Vec<u64> = run(&code, "scaled_from_fp8", [&patterns, &scale], &scale, LANES);
    for lane in 0..LANES {
        assert_eq!(f(found[lane] as u32), small(byte(patterns[lane], 2), 3, 7) * f(scale[lane]));
        assert_eq!(f((found[lane] >> 32) as u32), small(byte(patterns[lane], 3), 3, 7) * f(scale[lane]));
    }
    check(&code, "bitop3", false, |a, b, c| {
        (0..32).fold(0, |r, bit| {
            r | (0x1du32 >> ((a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)) & 1) << bit
        })
    });
}

#[test]
fn packed_singles_pick_words_and_signs() {
    for_each_target(|code, _| {
        let mut random = fastrand::Rng::new();
        let [a, b, c]: [Vec<u64>; 3] = std::array::from_fn(|_| {
            (0..LANES)
                .map(|_| {
                    [0, 32]
                        .into_iter()
                        .fold(0, |pair, at| pair | u64::from((random.f32() - 0.5).to_bits()) << at)
                })
                .collect()
        });
        let found: Vec<u64> = run(code, "pk_fma_f32", [&a, &b], &c, LANES);
        let (low, high) = (|pair: u64| f(pair as u32), |pair: u64| f((pair >> 32) as u32));
        for lane in 0..LANES {
            assert_eq!(low(found[lane]), high(a[lane]).mul_add(low(b[lane]), low(c[lane])));
            assert_eq!(high(found[lane]), low(a[lane]).mul_add(high(b[lane]), -high(c[lane])));
        }
    });
}

#[test]
fn divisions_by_the_compilers_sequences_are_correctly_rounded() {
    for_each_target(|code, _| {
        let mut random = fastrand::Rng::new();
        for _ in 0..8 {
            // Over the whole range of exponents, denormals included.
            let [a, b] = std::array::from_fn(|_| (0..LANES).map(|_| random.u32(..)).collect::<Vec<u32>>());
            let found: Vec<u32> = run(code, "divide", [&a, &b], &a, LANES);
            for lane in 0..LANES {
                let expected = (f(a[lane]) / f(b[lane])).to_bits();
                assert!(
                    same(found[lane], expected, true),
                    "{} / {}: {}",
                    f(a[lane]),
                    f(b[lane]),
                    f(found[lane])
                );
            }
            let unsigned: Vec<u32> = run(code, "divide_unsigned", [&a, &b], &a, LANES);
            let remainder: Vec<u32> = run(code, "remainder_signed", [&a, &b], &a, LANES);
            for lane in 0..LANES {
                assert_eq!(unsigned[lane], a[lane].checked_div(b[lane]).unwrap_or(0));
                assert_eq!(remainder[lane] as i32, (a[lane] as i32).checked_rem(b[lane] as i32).unwrap_or(0));
            }
            let [a, b] = std::array::from_fn(|_| {
                (0..LANES).map(|_| f64::from_bits(random.u64(..))).collect::<Vec<f64>>()
            });
            let found: Vec<f64> = run(code, "divide_double", [&a, &b], &a, LANES);
            for lane in 0..LANES {
                let expected = a[lane] / b[lane];
                // The last step rounds and then scales, which rounds a denormal once more.
                let apart = found[lane].to_bits().abs_diff(expected.to_bits());
                let allowed = u64::from(expected.abs() <= f64::MIN_POSITIVE);
                let fine = apart <= allowed || found[lane].is_nan() && expected.is_nan();
                assert!(fine, "{} / {}: {} {expected}", a[lane], b[lane], found[lane]);
            }
            let [a, b] = std::array::from_fn(|_| {
                (0..LANES).map(|_| random.u64(..) >> random.u8(..60)).collect::<Vec<u64>>()
            });
            let found: Vec<u64> = run(code, "divide_long", [&a, &b], &a, LANES);
            for lane in 0..LANES {
                assert_eq!(found[lane], a[lane].checked_div(b[lane]).unwrap_or(0));
            }
        }
    });
}

#[test]
fn denormals_are_flushed_when_the_mode_says_so() {
    for_each_target(|code, _| {
        let flush = |value: f32| if value.is_subnormal() { 0.0f32.copysign(value) } else { value };
        check(code, "flushed", true, |a, b, _| flush(flush(f(a)) * flush(f(b))).to_bits());
    });
}

/// Checks a scalar kernel: the result and SCC of each pair.
fn check_scalar(code: &CodeObject, kernel: &str, reference: impl Fn(u32, u32) -> (u32, bool)) {
    let mut random = fastrand::Rng::new();
    let [a, b] = std::array::from_fn(|_| words(&mut random));
    let found: Vec<u32> = run(code, kernel, [&a, &b], &a, 2 * LANES);
    for at in 0..LANES {
        let (value, condition) = reference(a[at], b[at]);
        let expected = [value, u32::from(condition)];
        assert_eq!(found[2 * at..2 * at + 2], expected, "{kernel} {:#x} {:#x}", a[at], b[at]);
    }
}

#[test]
fn scalar_instructions_and_their_condition() {
    for_each_target(|code, _| {
        let nonzero = |value: u32| (value, value != 0);
        check_scalar(code, "s_bfe_i", |a, b| {
            let (offset, width) = (b & 31, (b >> 16 & 127).min(32));
            let sign = (offset + width).clamp(1, 32) - 1;
            let bit =
                |at: u32| if offset + at > sign { a >> sign.min(31) & 1 } else { a >> (offset + at) & 1 };
            // A field that reaches past bit 31 is filled with zeros from there.
            let past = |at: u32| if offset + at.min(width.max(1) - 1) > 31 { 0 } else { bit(at) };
            nonzero(if width == 0 { 0 } else { (0..32).fold(0, |r, at| r | past(at) << at) })
        });
        check_scalar(code, "s_addc", |a, b| {
            let carry = u64::from(a.checked_add(b).is_none());
            let sum = u64::from(a) + u64::from(b) + carry;
            (sum as u32, sum > u64::from(u32::MAX))
        });
        check_scalar(code, "s_sub_i", |a, b| (a.wrapping_sub(b), (a as i32).checked_sub(b as i32).is_none()));
        check_scalar(code, "s_lshl2_add", |a, b| {
            let sum = u64::from(a) * 4 + u64::from(b);
            (sum as u32, sum > u64::from(u32::MAX))
        });
        check_scalar(code, "s_min_i", |a, b| ((a as i32).min(b as i32) as u32, (a as i32) < b as i32));
        check_scalar(code, "s_absdiff", |a, b| {
            nonzero((a as i32).wrapping_sub(b as i32).wrapping_abs() as u32)
        });
        let mut random = fastrand::Rng::new();
        let [a, b]: [Vec<u64>; 2] = std::array::from_fn(|_| (0..LANES).map(|_| random.u64(..)).collect());
        let found: Vec<u64> = run(code, "s_andn2", [&a, &b], &a, 2 * LANES);
        for at in 0..LANES {
            let value = a[at] & !b[at];
            assert_eq!(found[2 * at..2 * at + 2], [value, u64::from(value != 0)]);
        }
    });
}
