//! The commonest element-wise programs as compiled kernels: one or two operators over floats of one type.

use super::launch::{Arg, Launch, Plan};
use super::program::{Instruction, MapOp, Program, Source};
use super::scalar::{self, Scalar, Structure, THREADS, blocks, division, kernel};
use super::unit::{Text, Unit};
use crate::estimate::Cost;

use MapOp::*;

/// Programs with a kernel: name, the operator, and the one behind it.
const PROGRAMS: &[(&str, MapOp, Option<MapOp>)] = &[
    ("add", Add, None),
    ("subtract", Subtract, None),
    ("reverse_subtract", ReverseSubtract, None),
    ("multiply", Multiply, None),
    ("divide", Divide, None),
    ("max", Max, None),
    ("min", Min, None),
    ("exp", Exp, None),
    ("tanh", Tanh, None),
    ("sigmoid", Sigmoid, None),
    ("silu", Silu, None),
    ("erf", Erf, None),
    ("gelu", Gelu, None),
    ("gelu_tanh", GeluTanh, None),
    ("sqrt", Sqrt, None),
    ("negate", Negate, None),
    ("add_max", Add, Some(Max)),
    ("add_add", Add, Some(Add)),
    ("add_multiply", Add, Some(Multiply)),
    ("add_gelu", Add, Some(Gelu)),
    ("add_silu", Add, Some(Silu)),
    ("multiply_add", Multiply, Some(Add)),
    ("multiply_multiply", Multiply, Some(Multiply)),
    ("subtract_multiply", Subtract, Some(Multiply)),
    ("max_min", Max, Some(Min)),
    ("silu_multiply", Silu, Some(Multiply)),
    ("sigmoid_multiply", Sigmoid, Some(Multiply)),
    ("gelu_multiply", Gelu, Some(Multiply)),
    ("gelu_tanh_multiply", GeluTanh, Some(Multiply)),
];

/// Where an operand's elements are; the numbers of the device text.
#[derive(Clone, Copy, PartialEq)]
#[repr(u32)]
enum Place {
    Dense,
    Front,
    Row,
    Column,
    Constant,
}

/// What an operator takes beside the accumulator.
struct Argument {
    place: Place,
    operand: Option<usize>,
    constant: f32,
}

/// The launch of `program` where a compiled kernel computes it. `dims`, `strides`: joined, innermost first.
pub(super) fn plan(program: &Program, dims: &[usize], strides: &[Vec<i64>], cost: Cost) -> Option<Plan> {
    let (head, steps) = program.code.split_first()?;
    let Source::Operand(first) = head.source else { return None };
    let found = PROGRAMS.iter().find(|(_, op, then)| {
        let mut ops = std::iter::once(*op).chain(*then);
        head.op == Move && steps.iter().all(|step| ops.next() == Some(step.op)) && ops.next().is_none()
    });
    let (name, ..) = found?;
    let is_uniform = program.operands.iter().all(|operand| operand.scalar == program.output);
    let lanes = 16 / program.output.bytes();
    if !program.output.is_float() || !is_uniform || dims.len() > 3 || !dims[0].is_multiple_of(lanes) {
        return None;
    }
    let dense = super::layout::contiguous_inner_first(dims);
    let argument = |step: &Instruction| argument(program, step, strides, &dense, lanes);
    let a = argument(&Instruction { source: Source::Operand(first), ..*head })?;
    let b = argument(steps.first()?)?;
    let c = match steps.get(1) {
        Some(step) => argument(step)?,
        None => Argument { place: Place::Constant, operand: None, constant: 0.0 },
    };
    let total: usize = dims.iter().product();
    let (inner, outer) = (dims[0], dims.get(1).copied().unwrap_or(1));
    let (inner_magic, inner_shift) = division(inner as u32);
    let (outer_magic, outer_shift) = division(outer as u32);
    let parameters = Structure::default()
        .u32(total as u32)
        .u32(inner as u32)
        .u32(outer as u32)
        .u32(inner_magic)
        .u32(inner_shift)
        .u32(outer_magic)
        .u32(outer_shift)
        .u32s::<3>([a.place as u32, b.place as u32, c.place as u32], 0)
        .f32s::<2>([b.constant, c.constant])
        .finish();
    let mut args = vec![Arg::Pointer { operand: 0, offset_bytes: 0 }];
    args.extend([a, b, c].map(|argument| pointer(program, argument.operand)));
    args.push(parameters);
    let launch = Launch {
        symbol: format!("pointwise_{name}_{}", program.output.suffix()),
        grid: [blocks(total / lanes), 1, 1],
        block: [THREADS, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        args,
        is_dependent_launch: true,
        cost,
    };
    Some(Plan { launches: vec![launch], ..Plan::default() })
}

fn pointer(program: &Program, operand: Option<usize>) -> Arg {
    match operand {
        Some(k) => Arg::Pointer {
            operand: 1 + k,
            offset_bytes: (program.operands[k].offset * program.operands[k].scalar.bytes() as i64) as u64,
        },
        None => Arg::I64(0),
    }
}

fn argument(
    program: &Program,
    step: &Instruction,
    strides: &[Vec<i64>],
    dense: &[i64],
    lanes: usize,
) -> Option<Argument> {
    let k = match step.source {
        Source::Operand(k) => usize::from(k),
        Source::Constant(index) => {
            let constant = f32::from_bits(program.constants[usize::from(index)] as u32);
            return Some(Argument { place: Place::Constant, operand: None, constant });
        }
        Source::None => return Some(Argument { place: Place::Constant, operand: None, constant: 0.0 }),
        Source::Temp(_) => return None,
    };
    let own = &strides[k][..];
    let is_aligned = program.operands[k].offset % lanes as i64 == 0;
    let place = match own {
        own if own.iter().all(|&stride| stride == 0) => Place::Front,
        [1, 0] if is_aligned => Place::Row,
        [0, 1] | [0, 1, 0] => Place::Column,
        own if is_aligned && own == dense => Place::Dense,
        _ => return None,
    };
    Some(Argument { place, operand: Some(k), constant: 0.0 })
}

/// What the build compiles. `math`: the elementary functions; `defines`: the numbers of the operators.
pub(super) fn unit([arch, numbers]: [Text; 2], math: Text, mut defines: Vec<(String, String)>) -> Unit {
    let pack = Text { path: "device/pack.cu", text: include_str!("../../device/pack.cu") };
    let own = Text { path: "device/pointwise.cu", text: include_str!("../../device/pointwise.cu") };
    let number = |op: MapOp| (op as u8).to_string();
    let each = PROGRAMS
        .iter()
        .map(|(name, op, then)| format!("DO({name}, {}, {})", number(*op), number(then.unwrap_or(Store))));
    defines.push(("POINTWISE_PROGRAMS(DO)".into(), each.collect::<Vec<_>>().join(" ")));
    let floats = [Scalar::F32, Scalar::F16, Scalar::BF16];
    Unit {
        name: "pointwise".into(),
        texts: vec![arch, numbers, scalar::TEXT, math, pack, own],
        defines,
        kernels: PROGRAMS
            .iter()
            .flat_map(|(name, ..)| {
                floats.map(|scalar| kernel(format!("pointwise_{name}_{}", scalar.suffix())))
            })
            .collect(),
    }
}
