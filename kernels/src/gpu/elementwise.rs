//! Element-wise programs: what the interpreter in `device/elementwise.cu` runs, and how it is started.
//!
//! Operands of a plan: 0 is the output, `1 + k` the program's operand `k`.

use super::launch::{Arg, Launch, Plan};
pub use super::program::{Class, Instruction, MapOp, MapOperand, Program, Source};
use super::scalar::{self, Scalar, Structure, blocks, division, kernel};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions after neighbours have been joined.
pub const RANK: usize = 6;
pub const OPERANDS: usize = 8;
pub const CONSTANTS: usize = 12;
/// Instructions of a program.
pub const LENGTH: usize = 40;
/// Temporaries.
pub const TEMPS: usize = 4;
/// Operands that a light program reads before it starts.
const AHEAD: usize = 3;
/// Elements from which threads compute eight at a time.
const WIDE_TOTAL: usize = 1 << 20;

/// How the program is started.
///
/// # Errors
/// Limits of the interpreter, by name: the caller splits the program or moves its operands.
pub fn plan(program: &Program) -> Result<Plan> {
    check(program)?;
    let total: usize = program.dims.iter().product();
    if total == 0 {
        return Ok(Plan::default());
    }
    if total >= 1 << 31 {
        return Err(KernelError::shape(format!("{total} elements: at most 2^31 - 1")));
    }
    let (dims, strides) = collapse(&program.dims, &program.operands);
    if dims.len() > RANK {
        return Err(KernelError::shape(format!(
            "{} dimensions that cannot be joined: at most {RANK}",
            dims.len()
        )));
    }
    if let Some(plan) = super::pointwise::plan(program, &dims, &strides, cost(program, total)) {
        return Ok(plan);
    }
    let order = order_of(program);
    let program = &Program {
        operands: order.iter().map(|&k| program.operands[k].clone()).collect(),
        code: program.code.iter().map(|code| renumbered(*code, &order)).collect(),
        ..program.clone()
    };
    let strides: Vec<Vec<i64>> = order.iter().map(|&k| strides[k].clone()).collect();
    let kernel = Interpreter::new(program, &strides, dims[0], total);
    let mut args = vec![Arg::Pointer { operand: 0, offset_bytes: 0 }];
    args.extend(order.iter().zip(&program.operands).map(|(&k, operand)| Arg::Pointer {
        operand: 1 + k,
        offset_bytes: operand.offset as u64 * operand.scalar.bytes() as u64,
    }));
    args.resize(1 + OPERANDS, Arg::I64(0));
    args.push(parameters(program, &kernel, total, &dims, &strides));
    Ok(Plan {
        launches: vec![Launch {
            symbol: format!("elementwise_{}_v{}", kernel.name, kernel.lanes),
            grid: [blocks((total / kernel.lanes).div_ceil(kernel.packs)), 1, 1],
            block: [scalar::THREADS, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            args,
            is_dependent_launch: true,
            cost: cost(program, total),
        }],
        ..Plan::default()
    })
}

/// The operands, the one in front that the accumulator begins as.
fn order_of(program: &Program) -> Vec<usize> {
    let first = program.code.first().map(|code| code.source);
    let mut order: Vec<usize> = (0..program.operands.len()).collect();
    order.sort_by_key(|&k| first != Some(Source::Operand(k as u8)));
    order
}

fn renumbered(code: Instruction, order: &[usize]) -> Instruction {
    let source = match code.source {
        Source::Operand(k) => {
            Source::Operand(order.iter().position(|&other| other == usize::from(k)).unwrap_or(0) as u8)
        }
        source => source,
    };
    Instruction { source, ..code }
}

/// True when `lanes` neighbours of an operand can be read at once. `own`: its strides, innermost first.
fn is_vector(operand: &MapOperand, own: &[i64], lanes: usize) -> bool {
    let lanes = lanes as i64;
    lanes > 1
        && own[0] == 1
        && operand.offset % lanes == 0
        && own[1..].iter().all(|stride| stride % lanes == 0)
}

/// How many operands a light program reads before it starts, counted from the first: `lanes` neighbours of each, or one
/// element that they share.
fn ahead(program: &Program, strides: &[Vec<i64>], lanes: usize) -> usize {
    let is_ahead = |(operand, own): &(&MapOperand, &Vec<i64>)| {
        operand.scalar.is_float() && (own[0] == 0 || is_vector(operand, own, lanes))
    };
    program.operands.iter().zip(strides).take(AHEAD).take_while(is_ahead).count()
}

/// True when the kernels for light programs take it: floats, no temporary, operand 0 in the accumulator first, and then
/// the operators that they know.
fn is_light(program: &Program) -> bool {
    let mut scalars = program.operands.iter().map(|operand| operand.scalar).chain([program.output]);
    let Some((first, rest)) = program.code.split_first() else { return false };
    let is_known = |code: &Instruction| match code.source {
        Source::Temp(_) => false,
        Source::Operand(_) => is_pair(code.op),
        _ => is_quick(code.op) || is_slow(code.op),
    };
    program.class == Class::F32
        && scalars.all(Scalar::is_float)
        && (first.op, first.source) == (MapOp::Move, Source::Operand(0))
        && rest.iter().all(is_known)
}

/// Operators of light programs that take operands.
fn is_pair(op: MapOp) -> bool {
    use MapOp::*;
    matches!(op, Add | Subtract | ReverseSubtract | Multiply | Divide | ReverseDivide | Max | Min)
}

/// Operators of light programs.
fn is_quick(op: MapOp) -> bool {
    use MapOp::*;
    matches!(op, Add | Subtract | ReverseSubtract | Multiply | Max | Min | Negate | Absolute)
        || matches!(op, Exp | Sigmoid | Silu | Gelu | GeluTanh | ToF16 | ToBf16 | ToF32)
}

/// Those that need more registers.
fn is_slow(op: MapOp) -> bool {
    use MapOp::*;
    matches!(op, Divide | ReverseDivide | Reciprocal | Sqrt | Log | Tanh | Erf)
}

/// The kernel that runs a program.
struct Interpreter {
    name: String,
    /// Neighbours that a thread computes at a time, and how many such packs it does.
    lanes: usize,
    packs: usize,
    /// Operands that are read before the program starts, of a light one.
    ahead: usize,
}

impl Interpreter {
    /// Packs of 16 bytes, and several of them, once that leaves threads enough to hide the reads.
    fn new(program: &Program, strides: &[Vec<i64>], inner: usize, total: usize) -> Interpreter {
        let scalars = || program.operands.iter().map(|operand| operand.scalar).chain([program.output]);
        let light = |name: &str, lanes: usize, packs: usize| {
            let ahead = ahead(program, strides, lanes);
            let fits = is_light(program) && inner.is_multiple_of(lanes) && ahead > 0;
            fits.then(|| Interpreter { name: format!("light{name}"), lanes, packs, ahead })
        };
        let is_large = total >= WIDE_TOTAL;
        let is_quick = program.code.iter().skip(1).all(|code| is_quick(code.op));
        let is_uniform = scalars().all(|scalar| scalar == program.output);
        let is_short = scalars().all(|scalar| scalar.bytes() == 2);
        let is_mixed = scalars().any(|scalar| scalar.bytes() == 2);
        let uniform = || {
            let kernel = light(&format!("_{}", program.output.suffix()), 16 / program.output.bytes(), 2);
            kernel.filter(|kernel| kernel.ahead == program.operands.len())
        };
        let tries: [(bool, &dyn Fn() -> Option<Interpreter>); 4] = [
            (is_large && is_quick && is_uniform, &uniform),
            (is_large && is_quick && is_short, &|| light("_short", 8, 2)),
            (is_large && is_mixed, &|| light("", 8, 1)),
            (true, &|| light("", 4, 1)),
        ];
        tries.iter().filter(|(is_apt, _)| *is_apt).find_map(|(_, kernel)| kernel()).unwrap_or_else(|| {
            let lanes = if program.class != Class::F64 && inner.is_multiple_of(4) { 4 } else { 1 };
            Interpreter { name: program.class.suffix().into(), lanes, packs: 1, ahead: 0 }
        })
    }
}

fn check(program: &Program) -> Result<()> {
    let limits = [
        ("operands", program.operands.len(), OPERANDS),
        ("constants", program.constants.len(), CONSTANTS),
        ("instructions", program.code.len(), LENGTH),
    ];
    for (what, count, limit) in limits {
        if count > limit {
            return Err(KernelError::parameter(format!("{count} {what}: at most {limit}")));
        }
    }
    for operand in &program.operands {
        if operand.strides.len() != program.dims.len() {
            return Err(KernelError::shape("an operand has not one stride for each dimension"));
        }
        if operand.strides.iter().any(|&stride| i32::try_from(stride).is_err()) {
            return Err(KernelError::shape("a stride is beyond 2^31 elements"));
        }
    }
    Ok(())
}

/// How an operand is found; the numbers of the device text.
const PLACE_STRIDED: u8 = 0;
const PLACE_DENSE: u8 = 1;
const PLACE_FRONT: u8 = 2;
const PLACE_ROW: u8 = 3;
const PLACE_COLUMN: u8 = 4;

fn parameters(
    program: &Program,
    kernel: &Interpreter,
    total: usize,
    dims: &[usize],
    strides: &[Vec<i64>],
) -> Arg {
    let divisions: Vec<(u32, u32)> = dims.iter().map(|&dim| division(dim as u32)).collect();
    let mut structure = Structure::default()
        .u32(total as u32)
        .u32(dims.len() as u32)
        .u32s::<RANK>(dims.iter().map(|&dim| dim as u32), 1)
        .u32s::<RANK>(divisions.iter().map(|division| division.0), 0)
        .u32s::<RANK>(divisions.iter().map(|division| division.1), 0);
    for k in 0..OPERANDS {
        let own = strides.get(k).map_or(&[][..], Vec::as_slice);
        structure = structure.i32s::<RANK>(own.iter().map(|&stride| stride as i32));
    }
    structure = structure.i64s::<CONSTANTS>(program.constants.iter().map(|&bits| bits as i64));
    for k in 0..OPERANDS {
        structure = structure.u8(program.operands.get(k).map_or(0, |operand| operand.scalar as u8));
    }
    let is_vector = |k: usize| {
        program.operands.get(k).is_some_and(|operand| is_vector(operand, &strides[k], kernel.lanes))
    };
    for k in 0..OPERANDS {
        structure = structure.u8(is_vector(k).into());
    }
    let place = |k: usize| match strides.get(k) {
        Some(own) if *own == super::layout::contiguous_inner_first(dims) => PLACE_DENSE,
        Some(own) if own.iter().all(|&stride| stride == 0) => PLACE_FRONT,
        Some(own) if own[0] == 1 && own[1..].iter().all(|&stride| stride == 0) => PLACE_ROW,
        Some(own) if matches!(own[..], [0, 1] | [0, 1, 0]) => PLACE_COLUMN,
        Some(_) => PLACE_STRIDED,
        None => PLACE_FRONT,
    };
    for k in 0..OPERANDS {
        structure = structure.u8(place(k));
    }
    let places = || (0..OPERANDS).map(place);
    let positions = match () {
        () if places().any(|place| place == PLACE_STRIDED) => 2,
        () => u8::from(places().any(|place| !matches!(place, PLACE_DENSE | PLACE_FRONT))),
    };
    // A light program has read its first operand when it starts, and computes in f32 anyway.
    let skipped = usize::from(kernel.ahead > 0);
    let rest = program.code[skipped..].iter().filter(|code| skipped == 0 || code.op != MapOp::ToF32);
    let code: Vec<u32> = rest.map(|code| word(code, kernel.ahead, is_vector)).collect();
    let ahead = kernel.ahead as u8;
    structure = structure.u8(program.output as u8).u8(code.len() as u8).u8(positions).u8(ahead);
    structure.u32s::<{ LENGTH + 1 }>(code, 0).finish()
}

/// An instruction as the device text reads it, a byte each: operator, kind of source, its index, temporary. `ahead`: operands
/// that have been read.
fn word(code: &Instruction, ahead: usize, is_vector: impl Fn(usize) -> bool) -> u32 {
    let (kind, index) = match code.source {
        Source::None => (0, 0),
        Source::Operand(index) if usize::from(index) >= ahead => (1, index),
        Source::Operand(index) if is_vector(index.into()) => (4, index),
        Source::Operand(index) => (5, index),
        Source::Temp(index) => (2, index),
        Source::Constant(index) => (3, index),
    };
    let has_temp = matches!(code.op, MapOp::Store | MapOp::Select);
    u32::from_le_bytes([code.op as u8, kind, index, if has_temp { code.temp } else { 0 }])
}

fn cost(program: &Program, total: usize) -> Cost {
    let operands = program.operands.iter().map(|operand| {
        let touched: f64 = program
            .dims
            .iter()
            .zip(&operand.strides)
            .map(|(&dim, &stride)| if stride == 0 { 1.0 } else { dim as f64 })
            .product();
        touched * operand.scalar.bytes() as f64
    });
    Cost {
        flops: total as f64 * program.code.len() as f64,
        bytes: operands.sum::<f64>() + total as f64 * program.output.bytes() as f64,
    }
}

/// Dimensions and strides with 1s dropped and neighbours joined where every operand allows it; innermost first, at least
/// one dimension.
fn collapse(dims: &[usize], operands: &[MapOperand]) -> (Vec<usize>, Vec<Vec<i64>>) {
    let mut joined: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<i64>> = vec![Vec::new(); operands.len()];
    for axis in (0..dims.len()).rev().filter(|&axis| dims[axis] != 1) {
        let own: Vec<i64> = operands.iter().map(|operand| operand.strides[axis]).collect();
        let joins = joined.last().is_some_and(|&inner| {
            own.iter().zip(&strides).all(|(&stride, inner_strides)| {
                stride == inner_strides.last().copied().unwrap_or(0) * inner as i64
            })
        });
        if joins {
            if let Some(inner) = joined.last_mut() {
                *inner *= dims[axis];
            }
            continue;
        }
        joined.push(dims[axis]);
        own.iter().zip(&mut strides).for_each(|(&stride, list)| list.push(stride));
    }
    if joined.is_empty() {
        joined.push(1);
        strides.iter_mut().for_each(|list| list.push(0));
    }
    (joined, strides)
}

/// What the build compiles: the interpreter, and the commonest programs. `numbers` are the arch's primitives of numbers.
pub fn units(arch: Text, numbers: Text) -> [Unit; 2] {
    let math = Text { path: "device/math.cu", text: include_str!("../../device/math.cu") };
    let mut defines: Vec<(String, String)> =
        MapOp::NAMES.iter().map(|(name, op)| (format!("MAP_{name}"), (*op as u8).to_string())).collect();
    let compiled = super::pointwise::unit([arch, numbers], math, defines.clone());
    for (name, value) in
        [("RANK", RANK), ("OPERANDS", OPERANDS), ("CONSTANTS", CONSTANTS), ("LENGTH", LENGTH)]
    {
        defines.push((format!("MAP_{name}"), value.to_string()));
    }
    let own = Text { path: "device/elementwise.cu", text: include_str!("../../device/elementwise.cu") };
    let interpreter = Unit {
        name: "elementwise".into(),
        texts: vec![arch, numbers, scalar::TEXT, math, own],
        defines,
        kernels: [
            "f32_v1",
            "f32_v4",
            "f64_v1",
            "i64_v1",
            "i64_v4",
            "light_v4",
            "light_v8",
            "light_short_v8",
            "light_f32_v4",
            "light_f16_v8",
            "light_bf16_v8",
        ]
        .map(|suffix| kernel(format!("elementwise_{suffix}")))
        .into(),
    };
    [interpreter, compiled]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(strides: &[i64]) -> MapOperand {
        MapOperand { scalar: Scalar::F32, strides: strides.into(), offset: 0 }
    }

    #[test]
    fn contiguous_dimensions_are_joined() {
        let (dims, strides) = collapse(&[2, 3, 4], &[operand(&[12, 4, 1]), operand(&[0, 0, 1])]);
        assert_eq!(dims, [4, 6]);
        assert_eq!(strides, [vec![1, 4], vec![1, 0]]);
        let (dims, _) = collapse(&[2, 1, 4], &[operand(&[4, 9, 1])]);
        assert_eq!(dims, [8]);
    }

    #[test]
    fn limits_are_errors() {
        let program = Program {
            class: Class::F32,
            dims: vec![2; 9],
            output: Scalar::F32,
            operands: vec![operand(&[3, 5, 7, 11, 13, 17, 19, 23, 29])],
            constants: Vec::new(),
            code: vec![Instruction { op: MapOp::Move, source: Source::Operand(0), temp: 0 }],
        };
        assert!(plan(&program).unwrap_err().to_string().contains("dimensions"));
    }
}
