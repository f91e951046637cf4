//! Reductions and positions of extremes. Operands: 0 the result, 1 the input.

use super::launch::{Arg, Launch, Plan};
use super::layout::contiguous;
use super::scalar::{self, Scalar, Structure, THREADS, blocks, kernel};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Kept and reduced dimensions after neighbours have been joined, each.
const RANK: usize = 4;

/// What becomes of the reduced elements. The numbers are those of the device text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
    Product,
    SumSquare,
    L1,
    L2,
    LogSum,
    LogSumExp,
}

const NAMES: [&str; 10] =
    ["SUM", "MEAN", "MAX", "MIN", "PRODUCT", "SUM_SQUARE", "L1", "L2", "LOG_SUM", "LOG_SUM_EXP"];

/// The type that elements of `scalar` are combined in.
fn class(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::F64 => "f64",
        scalar if scalar.is_float() => "f32",
        _ => "i64",
    }
}

/// Reduces `axes` (sorted, each once) of a contiguous input of `dims`.
pub fn plan(op: Reduction, scalar: Scalar, dims: &[usize], axes: &[usize]) -> Result<Plan> {
    let problem = Problem::new(dims, axes)?;
    if problem.outputs == 0 {
        return Ok(Plan::default());
    }
    // A block reads neighbours when the innermost dimension is reduced; else neighbouring threads do.
    let innermost_reduced = problem.reduced.first().is_some_and(|&(_, stride)| stride == 1);
    let by_block =
        (innermost_reduced && problem.count >= 32) || (problem.outputs < 4096 && problem.count >= 1024);
    let (name, grid) = match by_block {
        true => ("reduce_block", problem.outputs as u32),
        false => ("reduce_thread", blocks(problem.outputs)),
    };
    let symbol = format!("{name}_{}", class(scalar));
    Ok(problem.launch(symbol, grid, op, scalar, scalar, false))
}

/// The position (i64) of the largest or smallest element along `axis`.
pub fn extreme(is_max: bool, scalar: Scalar, dims: &[usize], axis: usize, is_last: bool) -> Result<Plan> {
    let problem = Problem::new(dims, &[axis])?;
    if problem.outputs == 0 {
        return Ok(Plan::default());
    }
    let op = if is_max { Reduction::Max } else { Reduction::Min };
    let symbol = format!("find_extreme_{}", class(scalar));
    let grid = blocks(problem.outputs);
    Ok(problem.launch(symbol, grid, op, scalar, Scalar::I64, is_last))
}

/// Dimensions (extent, stride) that are kept and reduced, joined where neighbours, innermost first.
struct Problem {
    outputs: usize,
    count: usize,
    kept: Vec<(usize, i64)>,
    reduced: Vec<(usize, i64)>,
}

impl Problem {
    fn new(dims: &[usize], axes: &[usize]) -> Result<Problem> {
        let strides = contiguous(dims);
        let mut problem = Problem { outputs: 1, count: 1, kept: Vec::new(), reduced: Vec::new() };
        for axis in (0..dims.len()).rev() {
            let (extent, stride) = (dims[axis], strides[axis]);
            let (list, product) = match axes.contains(&axis) {
                true => (&mut problem.reduced, &mut problem.count),
                false => (&mut problem.kept, &mut problem.outputs),
            };
            *product *= extent;
            if extent == 1 {
                continue;
            }
            match list.last_mut() {
                Some((inner, inner_stride)) if stride == *inner_stride * *inner as i64 => *inner *= extent,
                _ => list.push((extent, stride)),
            }
        }
        if problem.kept.len() > RANK
            || problem.reduced.len() > RANK
            || dims.iter().product::<usize>() >= 1 << 31
        {
            return Err(KernelError::shape(format!(
                "reducing {axes:?} of {dims:?}: at most {RANK} kept and {RANK} reduced dimensions, 2^31 elements"
            )));
        }
        Ok(problem)
    }

    fn launch(
        &self,
        symbol: String,
        grid: u32,
        op: Reduction,
        input: Scalar,
        output: Scalar,
        is_last: bool,
    ) -> Plan {
        let extents =
            |list: &[(usize, i64)]| list.iter().map(|&(extent, _)| extent as u32).collect::<Vec<_>>();
        let strides =
            |list: &[(usize, i64)]| list.iter().map(|&(_, stride)| stride as i32).collect::<Vec<_>>();
        // An axis of one element is walked once, with any stride.
        let reduced = if self.reduced.is_empty() { vec![(1, 0)] } else { self.reduced.clone() };
        let kept = if self.kept.is_empty() { vec![(1, 0)] } else { self.kept.clone() };
        let parameters = Structure::default()
            .u32(self.outputs as u32)
            .u32(self.count as u32)
            .u32(kept.len() as u32)
            .u32(reduced.len() as u32)
            .u32s::<RANK>(extents(&kept), 1)
            .i32s::<RANK>(strides(&kept))
            .u32s::<RANK>(extents(&reduced), 1)
            .i32s::<RANK>(strides(&reduced))
            .u32(op as u32)
            .u32(input as u32)
            .u32(output as u32)
            .u32(is_last.into())
            .finish();
        let elements = (self.outputs * self.count) as f64;
        let bytes = elements * input.bytes() as f64 + (self.outputs * output.bytes()) as f64;
        let pointer = |operand| Arg::Pointer { operand, offset_bytes: 0 };
        Plan {
            launches: vec![Launch {
                symbol,
                grid: [grid, 1, 1],
                block: [THREADS, 1, 1],
                cluster: [1, 1, 1],
                shared_bytes: 0,
                args: vec![pointer(0), pointer(1), parameters],
                is_dependent_launch: false,
                cost: Cost { flops: elements, bytes },
            }],
            ..Plan::default()
        }
    }
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/reduce.cu", text: include_str!("../../device/reduce.cu") };
    let mut defines: Vec<(String, String)> = NAMES
        .iter()
        .enumerate()
        .map(|(number, name)| (format!("REDUCE_{name}"), number.to_string()))
        .collect();
    defines.push(("REDUCE_RANK".into(), RANK.to_string()));
    let kernels = ["reduce_block", "reduce_thread", "find_extreme"];
    Unit {
        name: "reduce".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines,
        kernels: kernels
            .iter()
            .flat_map(|name| ["f32", "f64", "i64"].map(|class| kernel(format!("{name}_{class}"))))
            .collect(),
    }
}
