//! Reductions and positions of extremes. Operands: 0 the result, 1 the input.

use super::launch::{Arg, Plan};
use super::layout::contiguous;
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Kernel, Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Kept and reduced dimensions after neighbours have been joined, each.
const RANK: usize = 4;
/// What a part of a reduction leaves for the next kernel: a sum and a maximum.
const STATE_BYTES: usize = 8;

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
    if let Some(cut) = scalar.is_float().then(|| Cut::new(&problem, scalar)).flatten() {
        return Ok(problem.in_vectors(&cut, op, scalar));
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
    let is_innermost = problem.reduced.first().is_some_and(|&(_, stride)| stride == 1);
    let by_block = problem.count >= 64 && (is_innermost || problem.outputs < 4096);
    let width = 16 / scalar.bytes();
    if by_block && is_innermost && scalar.is_float() && problem.count.is_multiple_of(width) {
        let symbol = format!("find_extreme_row_{}_v{width}", scalar.suffix());
        let grid = problem.outputs.min(GRID_LIMIT) as u32;
        let mut plan = problem.launch(symbol, grid, op, scalar, Scalar::I64, is_last);
        plan.launches[0].block[0] = EXTREME_THREADS;
        return Ok(plan);
    }
    let (name, grid) = match by_block {
        true => ("find_extreme_block", problem.outputs as u32),
        false => ("find_extreme_thread", blocks(problem.outputs)),
    };
    Ok(problem.launch(format!("{name}_{}", class(scalar)), grid, op, scalar, Scalar::I64, is_last))
}

/// How a reduction of floats over neighbours, or with outputs that are neighbours, is cut into blocks.
struct Cut {
    name: &'static str,
    /// Elements of one read.
    width: usize,
    grid: [u32; 3],
    /// Blocks that share an output, and the elements of each.
    parts: usize,
    part_count: usize,
}

impl Cut {
    fn new(problem: &Problem, scalar: Scalar) -> Option<Cut> {
        let [(_, stride)] = problem.reduced[..] else { return None };
        let width = 16 / scalar.bytes();
        let divides = |strides: &[(usize, i64)]| strides.iter().all(|(_, s)| s % width as i64 == 0);
        if stride == 1 {
            let is_wide = problem.count.is_multiple_of(width) && divides(&problem.kept);
            let width = if is_wide { width } else { 1 };
            // Short rows that follow each other go through shared memory; a block begins with a whole pack.
            let pack = 16 / scalar.bytes();
            let tile_rows = TILE_BYTES / scalar.bytes() / problem.count / pack * pack;
            let is_dense = matches!(problem.kept[..], [] | [(_, _)])
                && problem.kept.iter().all(|&(_, s)| s == problem.count as i64);
            if problem.count <= 128 && is_dense && tile_rows > 0 && problem.outputs >= 1024 {
                let grid = [problem.outputs.div_ceil(tile_rows) as u32, 1, 1];
                return Some(Cut { name: "reduce_tile", width: pack, grid, parts: 1, part_count: tile_rows });
            }
            if width == 1 && problem.count <= 64 {
                let grid = [problem.outputs.div_ceil(32).min(GRID_LIMIT) as u32, 1, 1];
                return Some(Cut { name: "reduce_few", width, grid, parts: 1, part_count: problem.count });
            }
            let by_wave = if problem.outputs >= 16 * BLOCKS { 1024 } else { 128 };
            if problem.count <= by_wave * width {
                let grid = [problem.outputs.div_ceil(8).min(GRID_LIMIT) as u32, 1, 1];
                return Some(Cut { name: "reduce_wave", width, grid, parts: 1, part_count: problem.count });
            }
            let (parts, part_count) = shares(problem.count, 256 * width, problem.outputs);
            let grid = [problem.outputs.min(GRID_LIMIT) as u32, parts as u32, 1];
            return Some(Cut { name: "reduce_row", width, grid, parts, part_count });
        }
        let (&[(inner, 1)] | &[(inner, 1), _]) = &problem.kept[..] else { return None };
        if inner < 8 {
            return None;
        }
        let is_wide = inner.is_multiple_of(width)
            && stride % width as i64 == 0
            && divides(&problem.kept[1..])
            && inner >= 32 * width;
        let width = if is_wide { width } else { 1 };
        let (columns, outer) = (inner.div_ceil(32 * width), (problem.outputs / inner).min(65_535));
        let (parts, part_count) = shares(problem.count, 32, columns * outer);
        Some(Cut {
            name: "reduce_column",
            width,
            grid: [columns as u32, parts as u32, outer as u32],
            parts,
            part_count,
        })
    }
}

/// Threads that look for the extreme of a row of neighbours.
const EXTREME_THREADS: u32 = 512;
/// Shared memory of a block for short rows.
const TILE_BYTES: usize = 16 << 10;
/// Blocks along x at most; kernels walk on from there.
const GRID_LIMIT: usize = 1 << 20;
/// Blocks that fill a large chip at one time.
const BLOCKS: usize = 640;

/// Into how many parts `count` elements are cut, and how many each has, where there are `blocks` without a cut. A block
/// takes `step` elements at a time.
fn shares(count: usize, step: usize, blocks: usize) -> (usize, usize) {
    let wanted = (BLOCKS / blocks.max(1)).clamp(1, (count / (8 * step)).max(1)).min(65_535);
    let part_count = count.div_ceil(wanted).next_multiple_of(step);
    (count.div_ceil(part_count), part_count)
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

    fn in_vectors(&self, cut: &Cut, op: Reduction, scalar: Scalar) -> Plan {
        let symbol = match cut.name {
            "reduce_tile" => format!("{}_{}", cut.name, scalar.suffix()),
            name => format!("{name}_{}_v{}", scalar.suffix(), cut.width),
        };
        let parameters = self.parameters(op, scalar, scalar, false, (cut.parts, cut.part_count));
        let cost = self.cost(scalar, scalar);
        if cut.parts == 1 {
            let args = vec![pointer(0), Arg::I64(0), pointer(1), parameters];
            return overlapping(launch(symbol, cut.grid, args, cost));
        }
        let states = Arg::Workspace { offset_bytes: 0 };
        let args = vec![pointer(0), states.clone(), pointer(1), parameters.clone()];
        let mut plan = launch(symbol, cut.grid, args, cost);
        let joined = Cost { flops: 0.0, bytes: (self.outputs * cut.parts * STATE_BYTES) as f64 };
        let grid = [self.outputs.div_ceil(8).min(GRID_LIMIT) as u32, 1, 1];
        let args = vec![pointer(0), states, parameters];
        plan.launches.extend(launch("reduce_parts_f32".into(), grid, args, joined).launches);
        plan.workspace_bytes = (self.outputs * cut.parts * STATE_BYTES) as u64;
        overlapping(plan)
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
        let parameters = self.parameters(op, input, output, is_last, (1, self.count));
        let args = vec![pointer(0), pointer(1), parameters];
        overlapping(launch(symbol, [grid, 1, 1], args, self.cost(input, output)))
    }

    fn cost(&self, input: Scalar, output: Scalar) -> Cost {
        let elements = (self.outputs * self.count) as f64;
        Cost {
            flops: elements,
            bytes: elements * input.bytes() as f64 + (self.outputs * output.bytes()) as f64,
        }
    }

    fn parameters(
        &self,
        op: Reduction,
        input: Scalar,
        output: Scalar,
        is_last: bool,
        (parts, part_count): (usize, usize),
    ) -> Arg {
        let extents =
            |list: &[(usize, i64)]| list.iter().map(|&(extent, _)| extent as u32).collect::<Vec<_>>();
        let strides =
            |list: &[(usize, i64)]| list.iter().map(|&(_, stride)| stride as i32).collect::<Vec<_>>();
        // An axis of one element is walked once, with any stride.
        let reduced = if self.reduced.is_empty() { vec![(1, 0)] } else { self.reduced.clone() };
        let kept = if self.kept.is_empty() { vec![(1, 0)] } else { self.kept.clone() };
        Structure::default()
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
            .u32(parts as u32)
            .u32(part_count as u32)
            .finish()
    }
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let tile = Text { path: "device/tile_rows.cu", text: include_str!("../../device/tile_rows.cu") };
    let own = Text { path: "device/reduce.cu", text: include_str!("../../device/reduce.cu") };
    let mut defines: Vec<(String, String)> = NAMES
        .iter()
        .enumerate()
        .map(|(number, name)| (format!("REDUCE_{name}"), number.to_string()))
        .collect();
    defines.push(("REDUCE_RANK".into(), RANK.to_string()));
    defines.push(("EXTREME_THREADS".into(), EXTREME_THREADS.to_string()));
    defines.push(("TILE_BYTES".into(), TILE_BYTES.to_string()));
    let exact = ["reduce_block", "reduce_thread", "find_extreme_block", "find_extreme_thread"];
    let mut kernels: Vec<_> = exact
        .iter()
        .flat_map(|name| ["f32", "f64", "i64"].map(|class| kernel(format!("{name}_{class}"))))
        .collect();
    kernels.push(kernel("reduce_parts_f32"));
    for name in ["reduce_wave", "reduce_row", "reduce_column"] {
        let suffixes = ["f32_v4", "f16_v8", "bf16_v8", "f32_v1", "f16_v1", "bf16_v1"];
        kernels.extend(suffixes.map(|suffix| kernel(format!("{name}_{suffix}"))));
    }
    kernels.extend(["f32", "f16", "bf16"].map(|suffix| kernel(format!("reduce_tile_{suffix}"))));
    kernels.extend(["f32_v1", "f16_v1", "bf16_v1"].map(|suffix| kernel(format!("reduce_few_{suffix}"))));
    kernels.extend(
        ["f32_v4", "f16_v8", "bf16_v8"].map(|suffix| Kernel {
            threads: EXTREME_THREADS,
            ..kernel(format!("find_extreme_row_{suffix}"))
        }),
    );
    Unit { name: "reduce".into(), texts: vec![arch, scalar::TEXT, tile, own], defines, kernels }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launches(dims: &[usize], axes: &[usize]) -> Vec<(String, [u32; 3])> {
        let plan = plan(Reduction::Sum, Scalar::BF16, dims, axes).unwrap();
        plan.launches.into_iter().map(|launch| (launch.symbol, launch.grid)).collect()
    }

    #[test]
    fn few_outputs_are_shared_by_blocks() {
        let whole = launches(&[1 << 24], &[0]);
        assert_eq!(whole[0].0, "reduce_row_bf16_v8");
        assert!((600..=BLOCKS).contains(&(whole[0].1[1] as usize)), "{whole:?}");
        assert_eq!(whole[1], ("reduce_parts_f32".into(), [1, 1, 1]));
        assert_eq!(launches(&[5000, 512], &[1]), [("reduce_wave_bf16_v8".into(), [625, 1, 1])]);
        assert_eq!(launches(&[5000, 4096], &[1]), [("reduce_row_bf16_v8".into(), [5000, 1, 1])]);
        assert_eq!(launches(&[5000, 4097], &[1])[0].0, "reduce_row_bf16_v1");
        let columns = launches(&[4096, 4096], &[0]);
        assert_eq!(columns[0].0, "reduce_column_bf16_v8");
        assert_eq!((columns[0].1, columns.len()), ([16, 16, 1], 2));
    }

    #[test]
    fn parts_hold_all_elements_once() {
        for (count, step, blocks) in [(1, 256, 1), (1 << 24, 2048, 1), (100_003, 32, 7), (5000, 256, 4000)] {
            let (parts, part_count) = shares(count, step, blocks);
            assert!(
                parts * part_count >= count && (parts - 1) * part_count < count,
                "{count} {step} {blocks}"
            );
        }
    }
}
