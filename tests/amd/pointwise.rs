//! The element-wise programs that are compiled as kernels of their own, of each type.

use tenon_kernels::gpu::elementwise::{self, Class, Instruction, MapOp, MapOperand, Program, Source};
use tenon_kernels::gpu::scalar::Scalar;

use MapOp::*;

use crate::device::{apply, download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

const PROGRAMS: &[&[MapOp]] = &[
    &[Add],
    &[Subtract],
    &[ReverseSubtract],
    &[Multiply],
    &[Divide],
    &[Max],
    &[Min],
    &[Exp],
    &[Tanh],
    &[Sigmoid],
    &[Silu],
    &[Erf],
    &[Gelu],
    &[GeluTanh],
    &[Sqrt],
    &[Negate],
    &[Add, Max],
    &[Add, Add],
    &[Add, Multiply],
    &[Add, Gelu],
    &[Add, Silu],
    &[Multiply, Add],
    &[Multiply, Multiply],
    &[Subtract, Multiply],
    &[Max, Min],
    &[Silu, Multiply],
    &[Sigmoid, Multiply],
    &[Gelu, Multiply],
    &[GeluTanh, Multiply],
];

fn is_pair(op: MapOp) -> bool {
    matches!(op, Add | Subtract | ReverseSubtract | Multiply | Divide | Max | Min)
}

/// What follows the first operand, each pair with an operand of its own.
fn program(ops: &[MapOp], scalar: Scalar, dims: [usize; 2], strides: &[[i64; 2]; 3]) -> Program {
    let mut operands = 1;
    let mut code = vec![Instruction { op: Move, source: Source::Operand(0), temp: 0 }];
    for &op in ops {
        let source = match op {
            op if is_pair(op) => Source::Operand(operands),
            // What stands before the argument inside the function.
            Silu => Source::Constant(0),
            _ => Source::None,
        };
        operands += u8::from(is_pair(op));
        code.push(Instruction { op, source, temp: 0 });
    }
    let operand = |strides: &[i64; 2]| MapOperand { scalar, strides: strides.to_vec(), offset: 0 };
    Program {
        class: Class::F32,
        dims: dims.to_vec(),
        output: scalar,
        operands: strides[..usize::from(operands)].iter().map(operand).collect(),
        constants: vec![Class::F32.bits(1.0)],
        code,
    }
}

/// Computes `ops` over `dims`, each operand read by its `strides`, by a kernel whose name begins with `prefix`.
#[track_caller]
fn check(
    machine: &Machine,
    ops: &[MapOp],
    scalar: Scalar,
    dims: [usize; 2],
    strides: [[i64; 2]; 3],
    prefix: &str,
) {
    let program = program(ops, scalar, dims, &strides);
    let (low, high) = if ops[0] == Sqrt { (0.0, 9.0) } else { (0.2, 3.0) };
    let (count, seed) = (dims[0] * dims[1], fastrand::u64(..));
    let inputs: Vec<(u64, Vec<f64>)> = (0..program.operands.len())
        .map(|k| {
            // Both signs in front; what divides is none too small.
            let low = if k == 0 && ops[0] != Sqrt { -high } else { low };
            upload(machine, scalar, &random(seed.wrapping_add(k as u64), count, low, high))
        })
        .collect();
    let y = machine.poisoned(count * scalar.bytes());
    let plan = elementwise::plan(&program).expect("a short program");
    let symbol = &plan.launches[0].symbol;
    assert!(symbol.starts_with(prefix), "{ops:?} takes {symbol}");
    let addresses: Vec<u64> = [y].into_iter().chain(inputs.iter().map(|(address, _)| *address)).collect();
    machine.run(&plan, &addresses).unwrap_or_else(|error| panic!("{symbol}: {error}"));
    let wanted: Vec<f64> = (0..count)
        .map(|at| {
            let value = |k: usize| {
                let [row, column] = [at / dims[1], at % dims[1]].map(|at| at as i64);
                inputs[k].1[(row * strides[k][0] + column * strides[k][1]) as usize]
            };
            let mut operand = 0;
            ops.iter().fold(value(0), |left, &op| {
                operand += usize::from(is_pair(op));
                apply(op, left, if is_pair(op) { value(operand) } else { 0.0 })
            })
        })
        .collect();
    let tolerance = 8e-6 + 2.0 * rounding(scalar);
    let what = format!("{symbol} on {}, seed {seed}", machine.family.name);
    let found = download(machine, scalar, y, count);
    assert_close(&what, &found, &wanted, tolerance, tolerance);
}

#[test]
fn compiled_programs_agree_with_the_reference() {
    // As the first, a line for all rows, a number for each row, one number.
    let places = [[48, 1], [0, 1], [1, 0], [0, 0]];
    for machine in Machine::all() {
        for (turn, ops) in PROGRAMS.iter().enumerate() {
            for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
                let strides = [places[0], places[turn % 4], places[(turn / 4 + 1) % 4]];
                check(&machine, ops, scalar, [37, 48], strides, "pointwise_");
            }
        }
    }
}

/// Programs that no kernel was compiled for, of so many elements that a thread computes two packs.
#[test]
fn long_programs_of_one_type_agree_with_the_reference() {
    let ops = [Multiply, Silu, Max, Negate];
    let dims = [1030, 1024];
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            let prefix = format!("elementwise_light_{}", scalar.suffix());
            check(&machine, &ops, scalar, dims, [[1024, 1], [0, 1], [1, 0]], &prefix);
        }
    }
}
