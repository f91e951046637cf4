//! The kernels of `kernels/device` that move and map elements: element-wise programs, copies, gathers, reductions.

use half::{bf16, f16};
use tenon_kernels::gpu::elementwise::{self, Class, Instruction, MapOp, MapOperand, Program, Source};
use tenon_kernels::gpu::layout::{self, StridedCopy};
use tenon_kernels::gpu::reduce::{self, Reduction};
use tenon_kernels::gpu::sampling;
use tenon_kernels::gpu::scalar::Scalar;

use crate::harness::{Element, Machine, assert_close};

/// Random values between `low` and `high`.
pub fn random(seed: u64, count: usize, low: f64, high: f64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| low + (high - low) * random.f64()).collect()
}

/// Values as a type of elements holds them: uploaded, and as numbers after rounding.
pub fn upload(machine: &Machine, scalar: Scalar, values: &[f64]) -> (u64, Vec<f64>) {
    fn put<T: Element>(
        machine: &Machine,
        values: &[f64],
        to: fn(f64) -> T,
        back: fn(T) -> f64,
    ) -> (u64, Vec<f64>) {
        let values: Vec<T> = values.iter().map(|&value| to(value)).collect();
        (machine.upload(&values), values.into_iter().map(back).collect())
    }
    match scalar {
        Scalar::F32 => put(machine, values, |v| v as f32, f64::from),
        Scalar::F64 => put(machine, values, |v| v, |v| v),
        Scalar::F16 => put(machine, values, f16::from_f64, f64::from),
        Scalar::BF16 => put(machine, values, bf16::from_f64, f64::from),
        Scalar::I64 => put(machine, values, |v| v as i64, |v| v as f64),
        Scalar::I32 => put(machine, values, |v| v as i32, f64::from),
        Scalar::U8 | Scalar::Bool => put(machine, values, |v| v as u8, f64::from),
        Scalar::I8 => put(machine, values, |v| v as i8, f64::from),
        Scalar::U16 => put(machine, values, |v| v as u16, f64::from),
        Scalar::I16 => put(machine, values, |v| v as i16, f64::from),
        Scalar::U32 => put(machine, values, |v| v as u32, f64::from),
        Scalar::U64 => put(machine, values, |v| v as u64, |v| v as f64),
        other => panic!("{other:?} has no values of its own here"),
    }
}

pub fn download(machine: &Machine, scalar: Scalar, address: u64, count: usize) -> Vec<f64> {
    fn take<T: Element>(machine: &Machine, address: u64, count: usize, back: fn(T) -> f64) -> Vec<f64> {
        machine.download::<T>(address, count).into_iter().map(back).collect()
    }
    match scalar {
        Scalar::F32 => take::<f32>(machine, address, count, f64::from),
        Scalar::F64 => take::<f64>(machine, address, count, |v| v),
        Scalar::F16 => take::<f16>(machine, address, count, f64::from),
        Scalar::BF16 => take::<bf16>(machine, address, count, f64::from),
        Scalar::I64 => take::<i64>(machine, address, count, |v| v as f64),
        Scalar::I32 => take::<i32>(machine, address, count, f64::from),
        Scalar::U8 | Scalar::Bool => take::<u8>(machine, address, count, f64::from),
        Scalar::I8 => take::<i8>(machine, address, count, f64::from),
        Scalar::U16 => take::<u16>(machine, address, count, f64::from),
        Scalar::I16 => take::<i16>(machine, address, count, f64::from),
        Scalar::U32 => take::<u32>(machine, address, count, f64::from),
        Scalar::U64 => take::<u64>(machine, address, count, |v| v as f64),
        other => panic!("{other:?} has no values of its own here"),
    }
}

/// Half of the last place of a result of this type, relative.
pub fn rounding(scalar: Scalar) -> f64 {
    match scalar {
        Scalar::F16 => 1.0 / 2048.0,
        Scalar::BF16 => 1.0 / 256.0,
        Scalar::F32 => 1e-6,
        _ => 1e-14,
    }
}

fn step(op: MapOp, source: Source) -> Instruction {
    Instruction { op, source, temp: 0 }
}

type Function = (MapOp, fn(f64) -> f64, f64, f64);
type IntegerFunction = (MapOp, fn(i64, i64) -> i64);

/// Functions of one argument, with the range they are tried on.
const FUNCTIONS: &[Function] = &[
    (MapOp::Exp, f64::exp, -80.0, 80.0),
    (MapOp::Log, f64::ln, 1e-30, 100.0),
    (MapOp::Log1p, f64::ln_1p, -0.999, 3.0),
    (MapOp::Expm1, f64::exp_m1, -30.0, 3.0),
    (MapOp::Tanh, f64::tanh, -12.0, 12.0),
    (MapOp::Sqrt, f64::sqrt, 0.0, 1e6),
    (MapOp::Reciprocal, f64::recip, 0.1, 90.0),
    (MapOp::Sin, f64::sin, -500.0, 500.0),
    (MapOp::Cos, f64::cos, -500.0, 500.0),
    (MapOp::Tan, f64::tan, -1.5, 1.5),
    (MapOp::Asin, f64::asin, -1.0, 1.0),
    (MapOp::Acos, f64::acos, -1.0, 1.0),
    (MapOp::Atan, f64::atan, -20.0, 20.0),
    (MapOp::Sinh, f64::sinh, -30.0, 30.0),
    (MapOp::Cosh, f64::cosh, -30.0, 30.0),
    (MapOp::Asinh, f64::asinh, -1e3, 1e3),
    (MapOp::Acosh, f64::acosh, 1.0, 1e3),
    (MapOp::Atanh, f64::atanh, -0.999, 0.999),
    (MapOp::Floor, f64::floor, -9.0, 9.0),
    (MapOp::Ceil, f64::ceil, -9.0, 9.0),
    (MapOp::Round, f64::round_ties_even, -9.0, 9.0),
    (MapOp::Truncate, f64::trunc, -9.0, 9.0),
    (MapOp::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -30.0, 30.0),
    (MapOp::Softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -30.0, 30.0),
    (MapOp::Erf, erf, -7.0, 7.0),
];

/// The error function by its Taylor series, and by its continued fraction for large arguments.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let mut term = x * std::f64::consts::FRAC_2_SQRT_PI;
        let mut sum = term;
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum;
    }
    let fraction = (1..120).rev().fold(a, |below, n| a + f64::from(n) * 0.5 / below);
    (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

/// An operator of a value, and of another where it takes two.
pub fn apply(op: MapOp, left: f64, right: f64) -> f64 {
    match op {
        MapOp::Add => left + right,
        MapOp::Subtract => left - right,
        MapOp::ReverseSubtract => right - left,
        MapOp::Multiply => left * right,
        MapOp::Divide => left / right,
        MapOp::Max => left.max(right),
        MapOp::Min => left.min(right),
        MapOp::Negate => -left,
        MapOp::Silu => left / (1.0 + (-left).exp()),
        MapOp::Gelu => 0.5 * left * (1.0 + erf(left / std::f64::consts::SQRT_2)),
        MapOp::GeluTanh => {
            0.5 * left
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (left + 0.044_715 * left.powi(3))).tanh())
        }
        _ => {
            let known = FUNCTIONS.iter().find(|(name, ..)| *name == op);
            known.unwrap_or_else(|| panic!("{op:?} has no definition here")).1(left)
        }
    }
}

fn unary(class: Class, scalar: Scalar, op: MapOp, count: usize) -> Program {
    Program {
        class,
        dims: vec![count],
        output: scalar,
        operands: vec![MapOperand { scalar, strides: vec![1], offset: 0 }],
        constants: Vec::new(),
        code: vec![step(MapOp::Move, Source::Operand(0)), step(op, Source::None)],
    }
}

#[test]
fn functions_agree_with_the_reference_in_float_and_double() {
    for machine in Machine::all() {
        for &(op, function, low, high) in FUNCTIONS {
            for (class, scalar, count) in [(Class::F32, Scalar::F32, 517), (Class::F64, Scalar::F64, 300)] {
                let mut values = random(op as u64, count, low, high);
                values[..4].copy_from_slice(&[low, high, (low + high) / 2.0, f64::NAN]);
                let (x, values) = upload(&machine, scalar, &values);
                let y = machine.poisoned(count * scalar.bytes());
                let plan = elementwise::plan(&unary(class, scalar, op, count)).expect("a short program");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{op:?}: {error}"));
                let wanted: Vec<f64> = values.iter().map(|&x| function(x)).collect();
                // Functions with a derivative above one magnify the argument's own rounding only in the reference's favour.
                let (absolute, relative) = if class == Class::F32 { (3e-7, 3e-6) } else { (1e-15, 2e-14) };
                let what = format!("{op:?} {scalar:?} on {}", machine.family.name);
                assert_close(&what, &download(&machine, scalar, y, count), &wanted, absolute, relative);
            }
        }
    }
}

#[test]
fn powers_and_remainders_follow_the_c_library() {
    let bases =
        [0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 0.3, -8.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-3];
    let exponents = [0.0, 1.0, -1.0, 2.0, 3.0, 0.5, -2.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 7.0];
    let pairs: Vec<(f64, f64)> = bases.iter().flat_map(|&x| exponents.map(|y| (x, y))).collect();
    let count = pairs.len();
    let left: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
    let right: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    for machine in Machine::all() {
        for (class, scalar) in [(Class::F32, Scalar::F32), (Class::F64, Scalar::F64)] {
            for (op, function) in
                [(MapOp::Power, f64::powf as fn(f64, f64) -> f64), (MapOp::Fmod, |x, y| x % y)]
            {
                let (a, left) = upload(&machine, scalar, &left);
                let (b, right) = upload(&machine, scalar, &right);
                let y = machine.poisoned(count * scalar.bytes());
                let mut program = unary(class, scalar, op, count);
                program.operands.push(program.operands[0].clone());
                program.code[1].source = Source::Operand(1);
                let plan = elementwise::plan(&program).expect("a short program");
                machine.run(&plan, &[y, a, b]).unwrap_or_else(|error| panic!("{op:?}: {error}"));
                let wanted: Vec<f64> = left.iter().zip(&right).map(|(&x, &y)| function(x, y)).collect();
                let found = download(&machine, scalar, y, count);
                let relative = if class == Class::F32 { 2e-7 } else { 4e-16 };
                assert_close(&format!("{op:?} {scalar:?}"), &found, &wanted, 0.0, relative);
            }
        }
    }
}

#[test]
fn programs_read_broadcast_operands_of_every_type() {
    let types = [
        Scalar::U8,
        Scalar::I8,
        Scalar::U16,
        Scalar::I16,
        Scalar::I32,
        Scalar::U32,
        Scalar::F16,
        Scalar::BF16,
    ];
    for machine in Machine::all() {
        for scalar in types {
            // c = (a + b) * 3 with a of one column and b of one row; three dimensions that cannot be joined.
            let dims = [3usize, 7, 20];
            let (a, left) = upload(&machine, scalar, &random(1, 21, 0.0, 20.0));
            let (b, right) = upload(&machine, scalar, &random(2, 20, 0.0, 20.0));
            let program = Program {
                class: Class::F32,
                dims: dims.to_vec(),
                output: Scalar::F32,
                operands: vec![
                    MapOperand { scalar, strides: vec![7, 1, 0], offset: 0 },
                    MapOperand { scalar, strides: vec![0, 0, 1], offset: 0 },
                ],
                constants: vec![Class::F32.bits(3.0)],
                code: vec![
                    step(MapOp::Move, Source::Operand(0)),
                    step(MapOp::Add, Source::Operand(1)),
                    step(MapOp::Multiply, Source::Constant(0)),
                ],
            };
            let y = machine.poisoned(420 * 4);
            let plan = elementwise::plan(&program).expect("a short program");
            machine.run(&plan, &[y, a, b]).unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
            let wanted: Vec<f64> = (0..420).map(|i| (left[i / 20] + right[i % 20]) * 3.0).collect();
            assert_close(
                &format!("{scalar:?}"),
                &download(&machine, Scalar::F32, y, 420),
                &wanted,
                0.0,
                1e-6,
            );
        }
    }
}

#[test]
fn integer_programs_are_exact() {
    let ops: [IntegerFunction; 8] = [
        (MapOp::Add, |a, b| a.wrapping_add(b)),
        (MapOp::Multiply, |a, b| a.wrapping_mul(b)),
        (MapOp::Divide, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
        (MapOp::Fmod, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        (MapOp::BitXor, |a, b| a ^ b),
        (MapOp::Max, |a, b| a.max(b)),
        (MapOp::ShiftRight, |a, b| if (0..=63).contains(&b) { ((a as u64) >> b) as i64 } else { 0 }),
        (MapOp::Less, |a, b| i64::from(a < b)),
    ];
    let mut random = fastrand::Rng::with_seed(5);
    for machine in Machine::all() {
        for count in [259, 1024] {
            let mut left: Vec<i64> = (0..count).map(|_| random.i64(..) >> random.u32(0..60)).collect();
            let mut right: Vec<i64> = (0..count).map(|_| random.i64(0..) >> random.u32(0..63)).collect();
            (left[0], right[0], right[1]) = (i64::MIN, -1, 0);
            let (a, b) = (machine.upload(&left), machine.upload(&right));
            for (op, function) in ops {
                let y = machine.poisoned(count * 8);
                let mut program = unary(Class::I64, Scalar::I64, op, count);
                program.operands.push(program.operands[0].clone());
                program.code[1].source = Source::Operand(1);
                let plan = elementwise::plan(&program).expect("a short program");
                machine.run(&plan, &[y, a, b]).unwrap_or_else(|error| panic!("{op:?}: {error}"));
                let mut wanted: Vec<i64> = left.iter().zip(&right).map(|(&a, &b)| function(a, b)).collect();
                if matches!(op, MapOp::ShiftRight) {
                    // A shift by a negative number is not defined.
                    wanted[0] = machine.download::<i64>(y, 1)[0];
                }
                assert_eq!(machine.download::<i64>(y, count), wanted, "{op:?} on {}", machine.family.name);
            }
        }
    }
}

/// So many elements that threads take several, of one type and of several.
#[test]
fn large_programs_agree_with_the_reference() {
    use Scalar::{BF16, F16, F32};
    let count = (1 << 20) + 64;
    for machine in Machine::all() {
        for [output, first, second] in [[F32, F32, F32], [F16, F16, F16], [BF16, F16, BF16], [F16, F32, F16]]
        {
            let (a, left) = upload(&machine, first, &random(13, count, -2.0, 2.0));
            let (b, right) = upload(&machine, second, &random(14, count, -2.0, 2.0));
            let y = machine.poisoned(count * output.bytes());
            let operand = |scalar| MapOperand { scalar, strides: vec![1], offset: 0 };
            let program = Program {
                class: Class::F32,
                dims: vec![count],
                output,
                operands: vec![operand(first), operand(second)],
                constants: vec![Class::F32.bits(0.5)],
                code: vec![
                    step(MapOp::Move, Source::Operand(0)),
                    step(MapOp::Multiply, Source::Operand(1)),
                    step(MapOp::Subtract, Source::Constant(0)),
                    step(MapOp::Absolute, Source::None),
                ],
            };
            let plan = elementwise::plan(&program).expect("a short program");
            let what = format!("{} on {}", plan.launches[0].symbol, machine.family.name);
            machine.run(&plan, &[y, a, b]).unwrap_or_else(|error| panic!("{what}: {error}"));
            let wanted: Vec<f64> = left.iter().zip(&right).map(|(a, b)| (a * b - 0.5).abs()).collect();
            let error = 2.0 * rounding(output);
            assert_close(&what, &download(&machine, output, y, count), &wanted, error, error);
        }
    }
}

#[test]
fn conversions_round_to_nearest_even() {
    let mut values = random(9, 4000, -3.0, 3.0);
    values.extend([
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        65519.0,
        65520.0,
        1e-8,
        6e-8,
        3.3895e38,
        0.0,
        -0.0,
    ]);
    // Ties, whose even neighbour lies below and above.
    values.extend([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0]);
    let count = values.len();
    for machine in Machine::all() {
        for (from, class) in [(Scalar::F32, Class::F32), (Scalar::F64, Class::F64)] {
            let (x, values) = upload(&machine, from, &values);
            for to in [Scalar::F16, Scalar::BF16] {
                let y = machine.poisoned(count * 2);
                let mut program = unary(class, from, MapOp::Move, count);
                (program.output, program.code) = (to, vec![step(MapOp::Move, Source::Operand(0))]);
                let plan = elementwise::plan(&program).expect("a short program");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
                let round = |v: f64| match to {
                    Scalar::F16 => f16::from_f64(v).to_f64(),
                    _ => bf16::from_f32(v as f32).to_f64(),
                };
                let wanted: Vec<f64> = values.iter().map(|&v| round(v)).collect();
                let what = format!("{from:?} to {to:?} on {}", machine.family.name);
                assert_close(&what, &download(&machine, to, y, count), &wanted, 0.0, 0.0);
            }
        }
    }
}

#[test]
fn copies_move_every_element_to_its_place() {
    for machine in Machine::all() {
        for (bytes, dims, order) in [
            (1usize, vec![5usize, 33, 67], [0usize, 2, 1]),
            (2, vec![3, 65, 130], [0, 2, 1]),
            (4, vec![4, 9, 70], [2, 0, 1]),
            (8, vec![7, 11, 13], [2, 1, 0]),
            (8, vec![2, 40, 37], [0, 2, 1]),
            (1, vec![2, 128, 68], [0, 2, 1]),
            (4, vec![64, 64, 8], [1, 0, 2]),
        ] {
            let count: usize = dims.iter().product();
            let from = layout::contiguous(&dims);
            let permuted: Vec<usize> = order.iter().map(|&axis| dims[axis]).collect();
            let copy = StridedCopy {
                element_bytes: bytes,
                dims: permuted.clone(),
                from_strides: order.iter().map(|&axis| from[axis]).collect(),
                from_offset: 0,
                to_strides: layout::contiguous(&permuted),
                to_offset: 0,
            };
            let mut random = fastrand::Rng::with_seed(3);
            let source: Vec<u8> = (0..count * bytes).map(|_| random.u8(..)).collect();
            let (x, y) = (machine.upload(&source), machine.poisoned(count * bytes));
            let plan = layout::strided_copy(&copy).expect("a copy");
            machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{dims:?} {order:?}: {error}"));
            let mut wanted = vec![0; count * bytes];
            for to in 0..count {
                let (mut rest, mut at) = (to, 0);
                for axis in (0..3).rev() {
                    at += (rest % permuted[axis]) * copy.from_strides[axis] as usize;
                    rest /= permuted[axis];
                }
                wanted[to * bytes..][..bytes].copy_from_slice(&source[at * bytes..][..bytes]);
            }
            assert_eq!(machine.download::<u8>(y, count * bytes), wanted, "{dims:?} {order:?} {bytes}");
        }
    }
}

#[test]
fn gathers_and_fills_agree_with_the_definition() {
    for machine in Machine::all() {
        let (outer, axis, count, inner) = (3usize, 11usize, 7usize, 5usize);
        let source: Vec<f32> =
            random(4, outer * axis * inner, -1.0, 1.0).into_iter().map(|v| v as f32).collect();
        let indices: Vec<i64> = vec![0, 10, -1, 3, -11, 5, 5];
        let (x, at) = (machine.upload(&source), machine.upload(&indices));
        let y = machine.poisoned(outer * count * inner * 4);
        let plan = layout::gather_rows(4, [outer, axis, count, inner], true).expect("a gather");
        machine.run(&plan, &[y, x, at]).unwrap_or_else(|error| panic!("{error}"));
        let place = |index: i64| if index < 0 { (index + axis as i64) as usize } else { index as usize };
        let wanted: Vec<f32> = (0..outer * count * inner)
            .map(|i| {
                source[(i / inner / count * axis + place(indices[i / inner % count])) * inner + i % inner]
            })
            .collect();
        assert_eq!(machine.download::<f32>(y, wanted.len()), wanted);

        let y = machine.poisoned(1001 * 2);
        machine.run(&layout::fill(2, 1001, 0x1234).expect("a fill"), &[y]).unwrap_or_else(|e| panic!("{e}"));
        assert!(machine.download::<u16>(y, 1001).iter().all(|word| *word == 0x1234));
    }
}

fn reduce(op: Reduction, values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let sum = |f: fn(f64) -> f64| values.iter().map(|&v| f(v)).sum::<f64>();
    match op {
        Reduction::Sum => sum(|v| v),
        Reduction::Mean => sum(|v| v) / values.len() as f64,
        Reduction::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        Reduction::Product => values.iter().product(),
        Reduction::SumSquare => sum(|v| v * v),
        Reduction::L1 => sum(f64::abs),
        Reduction::L2 => sum(|v| v * v).sqrt(),
        Reduction::LogSum => sum(|v| v).ln(),
        Reduction::LogSumExp => sum(f64::exp).ln(),
    }
}

#[test]
fn reductions_agree_with_the_reference() {
    use Reduction::{L1, L2, LogSum, LogSumExp, Max, Mean, Min, Product, Sum, SumSquare};
    let shapes: [([usize; 3], &[usize]); 12] = [
        ([5, 9, 130], &[2]),
        ([3, 64, 33], &[1]),
        ([2, 3, 1501], &[2]),
        ([70, 20, 8], &[0]),
        ([4, 31, 40], &[1, 2]),
        ([1, 3, 40_000], &[2]),
        ([2, 9, 101], &[2]),
        ([3, 5, 512], &[2]),
        ([3, 4, 600], &[0, 2]),
        ([40, 33, 24], &[2]),
        ([1, 70, 512], &[1]),
        ([1, 1, 30_001], &[2]),
    ];
    for machine in Machine::all() {
        for (dims, axes) in shapes {
            let count: usize = dims.iter().product();
            for (index, op) in
                [Sum, Mean, Max, Min, Product, SumSquare, L1, L2, LogSum, LogSumExp].into_iter().enumerate()
            {
                // Every type takes its turn at every shape.
                let scalar = [Scalar::F32, Scalar::BF16, Scalar::F16, Scalar::F64][index % 4];
                let (low, high) = if op == Product { (0.98, 1.02) } else { (0.05, 1.0) };
                let (x, values) = upload(&machine, scalar, &random(index as u64, count, low, high));
                let kept: Vec<usize> = (0..3).filter(|axis| !axes.contains(axis)).collect();
                let outputs: usize = kept.iter().map(|&axis| dims[axis]).product();
                let mut groups = vec![Vec::new(); outputs];
                for (at, &value) in values.iter().enumerate() {
                    let position = [at / dims[2] / dims[1], at / dims[2] % dims[1], at % dims[2]];
                    let output = kept.iter().fold(0, |place, &axis| place * dims[axis] + position[axis]);
                    groups[output].push(value);
                }
                let y = machine.poisoned(outputs * scalar.bytes());
                let plan = reduce::plan(op, scalar, &dims, axes).expect("a reduction");
                machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{op:?} of {dims:?}: {error}"));
                let wanted: Vec<f64> =
                    groups.into_iter().map(|group| reduce(op, group.into_iter())).collect();
                let found = download(&machine, scalar, y, outputs);
                let relative = 4.0 * rounding(scalar);
                let what = format!("{op:?} {scalar:?} of {dims:?} over {axes:?} on {}", machine.family.name);
                let limit = if scalar == Scalar::F16 { 65504.0 } else { f64::MAX };
                let wanted: Vec<f64> =
                    wanted.iter().map(|&v| if v > limit { f64::INFINITY } else { v }).collect();
                assert_close(&what, &found, &wanted, relative, relative);
            }
        }
    }
}

#[test]
fn integers_are_reduced_exactly() {
    for machine in Machine::all() {
        for scalar in [Scalar::I64, Scalar::I32, Scalar::U8] {
            for (dims, axis) in [([9usize, 130], 1usize), ([11, 70], 0), ([3000, 5], 0)] {
                let low = if scalar == Scalar::U8 { 0.0 } else { -90.0 };
                let (x, values) = upload(&machine, scalar, &random(12, dims[0] * dims[1], low, 100.0));
                for op in [Reduction::Sum, Reduction::Max, Reduction::Min] {
                    if scalar == Scalar::U8 && op == Reduction::Sum {
                        continue;
                    }
                    let outputs = dims[1 - axis];
                    let y = machine.poisoned(outputs * scalar.bytes());
                    let plan = reduce::plan(op, scalar, &dims, &[axis]).expect("a reduction");
                    machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{op:?} of {dims:?}: {error}"));
                    let at = |output: usize, i: usize| {
                        if axis == 1 { output * dims[1] + i } else { i * dims[1] + output }
                    };
                    let wanted: Vec<f64> = (0..outputs)
                        .map(|output| reduce(op, (0..dims[axis]).map(|i| values[at(output, i)])))
                        .collect();
                    let what = format!("{op:?} {scalar:?} of {dims:?} on {}", machine.family.name);
                    assert_close(&what, &download(&machine, scalar, y, outputs), &wanted, 0.0, 0.0);
                }
            }
        }
    }
}

#[test]
fn extremes_are_found_at_their_first_and_last_place() {
    for machine in Machine::all() {
        let scalars = [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F64, Scalar::I64, Scalar::U8];
        let shapes = [([7usize, 130], 1usize), ([130, 7], 0), ([3, 20_000], 1), ([40, 9], 0)];
        for (scalar, (dims, axis)) in
            scalars.into_iter().flat_map(|scalar| shapes.map(|shape| (scalar, shape)))
        {
            let values: Vec<f64> =
                random(6, dims[0] * dims[1], 0.0, 40.0).into_iter().map(f64::floor).collect();
            let (x, values) = upload(&machine, scalar, &values);
            for is_max in [true, false] {
                for is_last in [true, false] {
                    let outputs = dims[1 - axis];
                    let y = machine.poisoned(outputs * 8);
                    let plan = reduce::extreme(is_max, scalar, &dims, axis, is_last).expect("a reduction");
                    machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{error}"));
                    let wanted: Vec<i64> = (0..outputs)
                        .map(|output| {
                            let at = |i: usize| {
                                if axis == 1 { output * dims[1] + i } else { i * dims[1] + output }
                            };
                            let better = |a: f64, b: f64| if is_max { a > b } else { a < b };
                            (1..dims[axis]).fold(0, |best, i| {
                                let (new, old) = (values[at(i)], values[at(best)]);
                                if better(new, old) || (is_last && new == old) { i } else { best }
                            }) as i64
                        })
                        .collect();
                    assert_eq!(machine.download::<i64>(y, outputs), wanted, "{dims:?} {is_max} {is_last}");
                }
            }
        }
    }
}

#[test]
fn the_largest_score_of_every_row_is_found() {
    for machine in Machine::all() {
        let scalars = [Scalar::BF16, Scalar::F16, Scalar::F32];
        for (scalar, columns) in scalars
            .into_iter()
            .flat_map(|scalar| [1usize, 77, 1000, 5003, 32_000].map(|columns| (scalar, columns)))
        {
            let rows = 3;
            let (x, values) = upload(&machine, scalar, &random(8, rows * columns, -4.0, 4.0));
            let y = machine.poisoned(rows * 8);
            let plan = sampling::largest(scalar, rows, columns).expect("rows of scores");
            machine.run(&plan, &[y, x]).unwrap_or_else(|error| panic!("{columns}: {error}"));
            let wanted: Vec<i64> = values
                .chunks(columns)
                .map(|row| (1..columns).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i64)
                .collect();
            assert_eq!(machine.download::<i64>(y, rows), wanted, "{columns}");
        }
    }
}
