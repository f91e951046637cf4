//! The casts that families have a text of their own for, on the emulator: every value of the narrow types, rounding at every
//! boundary between neighbours, and lengths that leave some elements to single threads.

use half::{bf16, f16};
use tenon_kernels::gpu::cast;
use tenon_kernels::gpu::scalar::Scalar;

use crate::harness::Machine;
use crate::matmul::{e2m1, e4m3};

const TYPES: [Scalar; 6] =
    [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F8E4M3FN, Scalar::F8E5M2, Scalar::F4E2M1];

/// The number of a code.
fn decode(scalar: Scalar, code: u32) -> f64 {
    match scalar {
        Scalar::F32 => f64::from(f32::from_bits(code)),
        Scalar::F16 => f16::from_bits(code as u16).to_f64(),
        Scalar::BF16 => bf16::from_bits(code as u16).to_f64(),
        Scalar::F8E4M3FN => e4m3(code as u8),
        // The upper half of an f16.
        Scalar::F8E5M2 => f16::from_bits((code as u16) << 8).to_f64(),
        _ => e2m1(code as u8),
    }
}

/// Codes of the positive numbers of a small type in order, infinity and NaN left out.
fn ladder(scalar: Scalar) -> Vec<u32> {
    let count = 1u32 << (scalar.bits() - 1);
    (0..count).filter(|&code| decode(scalar, code).is_finite()).collect()
}

/// The nearest code, ties to even; beyond the range the largest number. `None` for a NaN, of which any may stand.
fn encode(scalar: Scalar, value: f64) -> Option<u32> {
    let code = match scalar {
        Scalar::F32 => (value as f32).to_bits(),
        Scalar::F16 => u32::from(f16::from_f32(value as f32).to_bits()),
        Scalar::BF16 => u32::from(bf16::from_f32(value as f32).to_bits()),
        _ => {
            let ladder = ladder(scalar);
            let distance = |code: &u32| (decode(scalar, *code) - value.abs()).abs();
            let nearest = ladder.iter().min_by(|a, b| {
                let is_odd = |code: &u32| code & 1;
                distance(a).total_cmp(&distance(b)).then(is_odd(a).cmp(&is_odd(b)))
            });
            let top = *ladder.last().expect("there are numbers");
            let code =
                if value.abs() >= decode(scalar, top) { top } else { *nearest.expect("there are numbers") };
            code | u32::from(value.is_sign_negative()) << (scalar.bits() - 1)
        }
    };
    (!value.is_nan()).then_some(code)
}

/// Packs codes as memory holds them.
fn memory(scalar: Scalar, codes: &[u32]) -> Vec<u8> {
    match scalar.bits() {
        32 => codes.iter().flat_map(|code| code.to_le_bytes()).collect(),
        16 => codes.iter().flat_map(|code| (*code as u16).to_le_bytes()).collect(),
        8 => codes.iter().map(|code| *code as u8).collect(),
        _ => codes.chunks(2).map(|pair| (pair[0] | pair.get(1).unwrap_or(&0) << 4) as u8).collect(),
    }
}

fn code(scalar: Scalar, memory: &[u8], at: usize) -> u32 {
    match scalar.bits() {
        32 => u32::from_le_bytes(memory[4 * at..4 * at + 4].try_into().expect("four bytes")),
        16 => u32::from(u16::from_le_bytes([memory[2 * at], memory[2 * at + 1]])),
        8 => u32::from(memory[at]),
        _ => u32::from(memory[at / 2] >> (4 * (at % 2)) & 15),
    }
}

/// Codes of `from` that tell roundings to `to` apart: all of a small type; else random ones, special ones, and the numbers
/// of `to` with what lies between them and beside that.
fn inputs(from: Scalar, to: Scalar, random: &mut fastrand::Rng) -> Vec<u32> {
    if from.bits() <= 8 {
        return (0..1 << from.bits()).collect();
    }
    let mask = u32::MAX >> (32 - from.bits());
    let mut codes: Vec<u32> = (0..300).map(|_| random.u32(..) & mask).collect();
    let mut values = vec![f64::INFINITY, f64::NAN, 0.0, 1e30, 70000.0, 448.0, 464.0, 465.0, 5.0, 6.5];
    if to.bits() <= 8 {
        let numbers: Vec<f64> = ladder(to).into_iter().map(|code| decode(to, code)).collect();
        values.extend(numbers.windows(2).flat_map(|pair| [pair[0], (pair[0] + pair[1]) / 2.0]));
    }
    for value in values.into_iter().flat_map(|value| [value, -value]) {
        let near = encode(from, value).unwrap_or(mask >> 1);
        codes.extend([near, near.wrapping_add(1) & mask, near.wrapping_sub(1) & mask]);
    }
    codes
}

#[test]
fn every_cast_rounds_as_onnx_does() {
    let mut random = fastrand::Rng::with_seed(3);
    for machine in Machine::all() {
        let mut count = 0;
        for (from, to) in TYPES.into_iter().flat_map(|from| TYPES.map(|to| (from, to))) {
            let codes = inputs(from, to, &mut random);
            // Whole runs alone, with what is left over, and fewer than a run.
            for total in [codes.len() / 32 * 32, codes.len() - codes.len() % 2 - 1, 7, 1] {
                let plan = cast::plan_for(machine.family.name, from, to, total).expect("a plan");
                let Some(plan) = plan else { continue };
                count += 1;
                let what = format!("{total} of {from:?} to {to:?} on {}", machine.family.name);
                let bytes = to.byte_len(total).expect("few bytes");
                let result = machine.poisoned(bytes + 8);
                let input = machine.upload(&memory(from, &codes[..total]));
                machine.run(&plan, &[result, input]).unwrap_or_else(|error| panic!("{what}: {error}"));
                let found: Vec<u8> = machine.download(result, bytes + 8);
                assert!(
                    found[bytes..].iter().all(|byte| *byte == 0xff),
                    "{what}: something behind the result"
                );
                for (at, &input) in codes[..total].iter().enumerate() {
                    let (value, found) = (decode(from, input), code(to, &found, at));
                    let is_right = match encode(to, value) {
                        Some(wanted) => found == wanted,
                        // E2M1 has no NaN: zero.
                        None if to == Scalar::F4E2M1 => decode(to, found) == 0.0,
                        None => decode(to, found).is_nan(),
                    };
                    assert!(is_right, "{what}: {value} ({input:#x}) gave {found:#x}");
                }
            }
        }
        assert!(count >= 24, "{} has casts of its own", machine.family.name);
    }
}
