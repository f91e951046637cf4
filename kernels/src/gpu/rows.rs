//! Softmax along an axis, and normalisation of rows.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Kernel, Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

fn check(scalar: Scalar, elements: usize) -> Result<()> {
    if !scalar.is_float() && scalar != Scalar::F64 {
        return Err(KernelError::parameter(format!("elements of type {}: floats only", scalar.suffix())));
    }
    if elements >= 1 << 31 {
        return Err(KernelError::shape(format!("{elements} elements: at most 2^31 - 1")));
    }
    Ok(())
}

/// Softmax (or its logarithm) of `[outer, axis, inner]` along the axis. Operands: 0 the result, 1 the input.
pub fn softmax(scalar: Scalar, [outer, axis, inner]: [usize; 3], is_log: bool) -> Result<Plan> {
    let elements = outer * axis * inner;
    check(scalar, elements)?;
    if elements == 0 {
        return Ok(Plan::default());
    }
    let cost = Cost { flops: 4.0 * elements as f64, bytes: 2.0 * (elements * scalar.bytes()) as f64 };
    let (suffix, is_log) = (scalar.suffix(), Arg::U32(is_log.into()));
    // A long row of doubles has the kernel for lines alone.
    let held = Held::new(axis, width(scalar, axis));
    if inner == 1 && (held.is_some() || scalar != Scalar::F64) {
        let width = width(scalar, axis);
        let sizes = [outer, axis].map(|size| Arg::U32(size as u32));
        let args = [pointer(0), pointer(1)].into_iter().chain(sizes).chain([is_log]).collect();
        let vector = format!("{suffix}_v{width}");
        if let Some(held) = held {
            return Ok(held.launch("softmax", &vector, outer, args, cost));
        }
        let mut plan =
            launch(format!("softmax_long_{vector}"), [outer.min(GRID_LIMIT) as u32, 1, 1], args, cost);
        plan.launches[0].block[0] = LONG_THREADS;
        return Ok(overlapping(plan));
    }
    let sizes = [outer, axis, inner].map(|size| Arg::U32(size as u32));
    let args = [pointer(0), pointer(1)].into_iter().chain(sizes).chain([is_log]).collect();
    Ok(overlapping(launch(format!("softmax_line_{suffix}"), [blocks(outer * inner), 1, 1], args, cost)))
}

/// Threads for a row that no registers hold.
const LONG_THREADS: u32 = 1024;
/// Blocks along x at most; kernels walk on from there.
const GRID_LIMIT: usize = 1 << 20;

/// Elements of one read of a row of `columns`.
fn width(scalar: Scalar, columns: usize) -> usize {
    let wide = if scalar == Scalar::F64 { 1 } else { 16 / scalar.bytes() };
    if columns.is_multiple_of(wide) { wide } else { 1 }
}

/// Threads whose registers hold a row together, and the reads of each.
#[derive(Clone, Copy)]
struct Held {
    /// `None`: one wave.
    threads: Option<u32>,
    reads: usize,
}

/// The shapes that the device texts are compiled for, narrowest first, by elements of a read.
fn shapes(width: usize) -> &'static [(Option<u32>, usize)] {
    match width {
        1 => &[(None, 4), (Some(128), 4), (Some(256), 8)],
        4 => &[(None, 2), (None, 4), (Some(128), 2), (Some(128), 4), (Some(256), 4), (Some(256), 8)],
        _ => &[(None, 1), (None, 2), (Some(128), 1), (Some(128), 2), (Some(256), 2), (Some(512), 2)],
    }
}

impl Held {
    /// The fewest threads that hold `columns`; `None` where none do.
    fn new(columns: usize, width: usize) -> Option<Held> {
        let mut all = shapes(width).iter().map(|&(threads, reads)| Held { threads, reads });
        all.find(|held| columns <= held.threads.unwrap_or(32) as usize * width * held.reads)
    }

    fn symbol(self, operator: &str, vector: &str) -> String {
        let shape = self.threads.map_or("wave".to_owned(), |threads| format!("block{threads}"));
        format!("{operator}_{shape}_{vector}x{}", self.reads)
    }

    /// A kernel of `operator` over `rows` rows.
    fn launch(self, operator: &str, vector: &str, rows: usize, args: Vec<Arg>, cost: Cost) -> Plan {
        let grid = if self.threads.is_none() { rows.div_ceil(8) } else { rows };
        let grid = [grid.min(GRID_LIMIT) as u32, 1, 1];
        let mut plan = launch(self.symbol(operator, vector), grid, args, cost);
        plan.launches[0].block[0] = self.threads.unwrap_or(scalar::THREADS);
        overlapping(plan)
    }

    /// Every kernel of `operator` for vectors of these names.
    fn kernels(operator: &str, vectors: &[&str]) -> Vec<Kernel> {
        let each = |vector: &&str| -> Vec<Kernel> {
            let width = vector.rsplit('v').next().and_then(|width| width.parse().ok()).unwrap_or(1);
            let compiled = |&(threads, reads): &(Option<u32>, usize)| Kernel {
                threads: threads.unwrap_or(scalar::THREADS),
                ..kernel(Held { threads, reads }.symbol(operator, vector))
            };
            shapes(width).iter().map(compiled).collect()
        };
        vectors.iter().flat_map(each).collect()
    }
}

/// A normalisation of rows: `y = (x - mean) / sqrt(variance + epsilon) * gamma + beta`, `x = input + skip + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    pub scalar: Scalar,
    pub rows: usize,
    pub columns: usize,
    /// False: by the root mean square, without the mean.
    pub is_centred: bool,
    pub epsilon: f32,
    /// Gamma and beta of an element: `(row % period) * group + column / span`.
    pub period: usize,
    pub group: usize,
    pub span: usize,
    /// Which operands are given.
    pub has: RowNormOperands,
}

/// Which operands of a [`RowNorm`] are given. Operands of the plan: 0 y, 1 sum, 2 mean, 3 inverse deviation, 4 input,
/// 5 skip, 6 bias, 7 gamma, 8 beta.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowNormOperands {
    pub sum: bool,
    pub mean: bool,
    pub deviation: bool,
    pub skip: bool,
    pub bias: bool,
    pub gamma: bool,
    pub beta: bool,
}

/// How a normalisation is started.
pub fn norm(problem: &RowNorm) -> Result<Plan> {
    let elements = problem.rows * problem.columns;
    check(problem.scalar, elements)?;
    if elements == 0 {
        return Ok(Plan::default());
    }
    let has = problem.has;
    let given = [true, has.sum, has.mean, has.deviation, true, has.skip, has.bias, has.gamma, has.beta];
    let args: Vec<Arg> = given
        .into_iter()
        .enumerate()
        .map(|(operand, given)| if given { pointer(operand) } else { Arg::I64(0) })
        .collect();
    let width = match width(problem.scalar, problem.columns) {
        width if problem.span == 1 || problem.span.is_multiple_of(width) => width,
        _ => 1,
    };
    let streams = 2 + usize::from(has.sum) + usize::from(has.skip);
    let bytes = (elements * problem.scalar.bytes()) as f64;
    let cost = Cost { flops: 8.0 * elements as f64, bytes: streams as f64 * bytes };
    let suffix = format!("{}_v{width}", problem.scalar.suffix());
    let Some(held) = Held::new(problem.columns, width) else {
        return Ok(norm_in_parts(problem, args, width, &suffix, cost));
    };
    let args = args.into_iter().chain([norm_parameters(problem, 1, problem.columns)]).collect();
    Ok(held.launch("normalize", &suffix, problem.rows, args, cost))
}

/// Rows that no block's registers hold: the moments of their parts first. `args`: as [`norm`] numbers the operands.
fn norm_in_parts(problem: &RowNorm, args: Vec<Arg>, width: usize, suffix: &str, cost: Cost) -> Plan {
    let part_columns = 256 * width * if width == 1 { 16 } else { 8 };
    let parts = problem.columns.div_ceil(part_columns);
    let parameters = norm_parameters(problem, parts, part_columns);
    let moments = Arg::Workspace { offset_bytes: 0 };
    let (results, inputs) = args.split_at(4);
    let first = [std::slice::from_ref(&moments), inputs, std::slice::from_ref(&parameters)].concat();
    let second = [results, &[moments], inputs, &[parameters]].concat();
    let grid = [parts as u32, problem.rows.min(65_535) as u32, 1];
    let bytes = (problem.rows * problem.columns * problem.scalar.bytes()) as f64;
    let read = Cost { flops: 4.0 * (problem.rows * problem.columns) as f64, bytes };
    let mut plan = launch(format!("norm_moments_{suffix}"), grid, first, read);
    plan.launches.extend(launch(format!("norm_apply_{suffix}"), grid, second, cost).launches);
    let moment_bytes = if problem.scalar == Scalar::F64 { 16 } else { 8 };
    plan.workspace_bytes = (problem.rows * parts * moment_bytes) as u64;
    overlapping(plan)
}

fn norm_parameters(problem: &RowNorm, parts: usize, part_columns: usize) -> Arg {
    Structure::default()
        .u32(problem.rows as u32)
        .u32(problem.columns as u32)
        .u32(problem.period as u32)
        .u32(problem.group as u32)
        .u32(problem.span as u32)
        .u32(problem.is_centred.into())
        .f32(problem.epsilon)
        .u32(parts as u32)
        .u32(part_columns as u32)
        .finish()
}

/// What the build compiles.
pub fn units(arch: Text) -> [Unit; 2] {
    let vectors = ["f32_v4", "f16_v8", "bf16_v8", "f32_v1", "f16_v1", "bf16_v1", "f64_v1"];
    let softmax = Text { path: "device/softmax.cu", text: include_str!("../../device/softmax.cu") };
    let norm = Text { path: "device/norm.cu", text: include_str!("../../device/norm.cu") };
    let kernels = |names: &[&str], suffixes: &[&str]| -> Vec<_> {
        let each = |name: &&str| suffixes.iter().map(|suffix| kernel(format!("{name}_{suffix}"))).collect();
        names.iter().flat_map(|name| -> Vec<_> { each(name) }).collect()
    };
    let mut softmaxes = Held::kernels("softmax", &vectors);
    let long = kernels(&["softmax_long"], &vectors[..6]);
    softmaxes.extend(long.into_iter().map(|kernel| Kernel { threads: LONG_THREADS, ..kernel }));
    softmaxes.extend(kernels(&["softmax_line"], &["f32", "f16", "bf16", "f64"]));
    let mut norms = Held::kernels("normalize", &vectors);
    norms.extend(kernels(&["norm_moments", "norm_apply"], &vectors));
    let unit = |name: &str, own: Text, kernels| Unit {
        name: name.into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels,
    };
    [unit("softmax", softmax, softmaxes), unit("norm", norm, norms)]
}
