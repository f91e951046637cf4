//! Softmax along an axis, and normalisation of rows.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, kernel, launch, overlapping, pointer};
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

/// Softmax (or its logarithm) of `[outer, axis, inner]` along the axis. Operands: 0 the result, 1 the input. `has` tells which
/// kernels there are: not every family has blocks that run together.
pub fn softmax(
    scalar: Scalar,
    [outer, axis, inner]: [usize; 3],
    is_log: bool,
    has: &dyn Fn(&str) -> bool,
) -> Result<Plan> {
    let elements = outer * axis * inner;
    check(scalar, elements)?;
    if elements == 0 {
        return Ok(Plan::default());
    }
    let bytes = (elements * scalar.bytes()) as f64;
    let cost = Cost { flops: 4.0 * elements as f64, bytes: 2.0 * bytes };
    let rows = Rows { scalar, rows: outer, columns: axis, width: width(scalar, axis), cost };
    if inner == 1 {
        if let Some(tile_rows) = rows.tile_rows() {
            return Ok(rows.softmax_tile(tile_rows, is_log));
        }
        if let Some(held) = Held::new(axis, rows.width).filter(|held| held.lanes < 1024 || outer < MANY_ROWS)
        {
            let args = rows.softmax_args(&[pointer(0), pointer(1)], &[], is_log);
            return Ok(held.launch("softmax", &rows.vector(), outer, args, cost));
        }
        if let Some(plan) = rows.softmax_in_clusters(is_log).filter(|plan| has(&plan.launches[0].symbol)) {
            return Ok(plan);
        }
        if scalar != Scalar::F64 {
            return Ok(rows.softmax_in_parts(is_log));
        }
    }
    let extents = [outer, axis, inner];
    let slab = softmax_slab(scalar, extents, is_log, cost);
    Ok(slab.unwrap_or_else(|| softmax_lines(scalar, extents, is_log, cost)))
}

/// A short axis that is not the innermost, of lines that are not whole packs; `None` where shared memory holds too little of
/// them.
fn softmax_slab(scalar: Scalar, extents: [usize; 3], is_log: bool, cost: Cost) -> Option<Plan> {
    let [outer, axis, inner] = extents;
    let pack = 16 / scalar.bytes();
    if !scalar.is_float() || inner == 1 || width(scalar, inner) > 1 {
        return None;
    }
    let most = (TILE_BYTES / scalar.bytes() / (axis * inner)).min(scalar::THREADS as usize / inner);
    // A block begins with a whole pack.
    let slabs = (1..=most).rev().find(|slabs| (slabs * axis * inner).is_multiple_of(pack))?;
    let sizes = extents.into_iter().chain([slabs, usize::from(is_log)]).map(|size| Arg::U32(size as u32));
    let args = [pointer(0), pointer(1)].into_iter().chain(sizes).collect();
    let symbol = format!("softmax_slab_{}", scalar.suffix());
    Some(overlapping(launch(symbol, [outer.div_ceil(slabs) as u32, 1, 1], args, cost)))
}

/// An axis that is not the innermost, or that no other kernel takes.
fn softmax_lines(scalar: Scalar, extents: [usize; 3], is_log: bool, cost: Cost) -> Plan {
    let [outer, axis, inner] = extents;
    let width = width(scalar, inner);
    let shapes = line_shapes(width);
    let holds = |&&(threads, across, reads): &&(u32, usize, usize)| axis <= threads as usize / across * reads;
    let &(threads, across, reads) = shapes.iter().find(holds).unwrap_or(&shapes[shapes.len() - 1]);
    let args = [pointer(0), pointer(1)].into_iter().chain(extents.map(|extent| Arg::U32(extent as u32)));
    let args = args.chain([Arg::U32(is_log.into())]).collect();
    let blocks = (outer * (inner / width)).div_ceil(across);
    let symbol = line_symbol(&format!("{}_v{width}", scalar.suffix()), (threads, across, reads));
    let mut plan = launch(symbol, [blocks as u32, 1, 1], args, cost);
    plan.launches[0].block[0] = threads;
    overlapping(plan)
}

/// Threads of a block, those of them that work on different lines, and the packs that each holds; fewest first.
fn line_shapes(width: usize) -> &'static [(u32, usize, usize)] {
    match width {
        1 => &[(256, 32, 8), (1024, 32, 8)],
        4 => &[(128, 32, 8), (128, 8, 4), (128, 8, 8), (256, 8, 8), (512, 8, 8), (1024, 8, 8)],
        _ => &[(128, 32, 8), (256, 16, 4), (128, 8, 8), (256, 8, 8), (512, 8, 8), (1024, 8, 4)],
    }
}

fn line_symbol(vector: &str, (threads, across, reads): (u32, usize, usize)) -> String {
    format!("softmax_lines{across}x{threads}_{vector}x{reads}")
}

/// Rows along the innermost dimension, and the elements of one read of them.
struct Rows {
    scalar: Scalar,
    rows: usize,
    columns: usize,
    width: usize,
    cost: Cost,
}

impl Rows {
    /// As symbols spell type and width.
    fn vector(&self) -> String {
        format!("{}_v{}", self.scalar.suffix(), self.width)
    }

    fn softmax_args(&self, pointers: &[Arg], extra: &[u32], is_log: bool) -> Vec<Arg> {
        let sizes = [self.rows as u32, self.columns as u32].into_iter().chain(extra.iter().copied());
        pointers.iter().cloned().chain(sizes.chain([is_log.into()]).map(Arg::U32)).collect()
    }

    /// Rows of a block, where they are short and not whole packs; a block begins with a whole pack.
    fn tile_rows(&self) -> Option<usize> {
        let is_short = self.width == 1 && self.columns <= TILE_COLUMNS && self.scalar.is_float();
        let fitting = TILE_BYTES / self.scalar.bytes() / self.columns;
        let pack = 16 / self.scalar.bytes();
        is_short.then(|| fitting / pack * pack).filter(|&tile_rows| tile_rows > 0)
    }

    fn softmax_tile(&self, tile_rows: usize, is_log: bool) -> Plan {
        let lanes = if self.columns <= 64 { 8 } else { 32 };
        let symbol = format!("softmax_tile{lanes}_{}", self.scalar.suffix());
        let args = self.softmax_args(&[pointer(0), pointer(1)], &[tile_rows as u32], is_log);
        overlapping(launch(symbol, [self.rows.div_ceil(tile_rows) as u32, 1, 1], args, self.cost))
    }

    /// Many long rows where blocks run together: a cluster of blocks a row.
    fn softmax_in_clusters(&self, is_log: bool) -> Option<Plan> {
        let packs = self.columns / self.width;
        let blocks_of = |threads: u32| packs.div_ceil(threads as usize * CLUSTER_READS);
        let fits = |&(threads, most): &(u32, usize)| blocks_of(threads) <= most;
        let (threads, _) = CLUSTERS.into_iter().find(fits).filter(|_| self.width > 1)?;
        let blocks = blocks_of(threads);
        if self.rows * blocks < MANY_ROWS {
            return None;
        }
        let part_columns = packs.div_ceil(blocks) * self.width;
        let sizes = [self.columns, part_columns].map(|size| Arg::U32(size as u32));
        let args = [pointer(0), pointer(1)].into_iter().chain(sizes).collect();
        let grid = [(self.rows * blocks) as u32, 1, 1];
        let mut plan = launch(cluster_symbol(is_log, threads, &self.vector()), grid, args, self.cost);
        plan.launches[0].block[0] = threads;
        plan.launches[0].cluster[0] = blocks as u32;
        Some(overlapping(plan))
    }

    /// Rows that no block's registers hold: blocks share one.
    fn softmax_in_parts(&self, is_log: bool) -> Plan {
        let parts_of = |reads: usize| self.columns.div_ceil(PART_THREADS as usize * self.width * reads);
        // Few rows are cut finer, so that there is a block for every compute unit.
        let reads = if self.width == 1 || self.rows * parts_of(8) >= MANY_ROWS { 8 } else { 2 };
        let parts = parts_of(reads);
        let count_bytes = (self.rows * COUNT_BYTES).next_multiple_of(256) as u64;
        let shared = |offset_bytes| if parts > 1 { Arg::Workspace { offset_bytes } } else { Arg::I64(0) };
        let pointers = [pointer(0), shared(count_bytes), shared(0), pointer(1)];
        let sizes = [parts, self.columns, usize::from(is_log)].map(|size| Arg::U32(size as u32));
        let args = pointers.into_iter().chain(sizes).collect();
        let grid = [(self.rows * parts) as u32, 1, 1];
        let mut plan = launch(format!("softmax_parts_{}x{reads}", self.vector()), grid, args, self.cost);
        plan.launches[0].block[0] = PART_THREADS;
        if parts > 1 {
            plan.workspace_bytes = count_bytes + (self.rows * parts * MASS_BYTES) as u64;
            plan.zeroed_bytes = plan.workspace_bytes;
        }
        overlapping(plan)
    }
}

/// Shared memory of a block for short rows, and the columns of the longest.
const TILE_BYTES: usize = 16 << 10;
const TILE_COLUMNS: usize = 256;
/// Threads of a part of a long row.
const PART_THREADS: u32 = 256;
/// What a part sends, a maximum and a sum, and two counts of the blocks of a row.
const MASS_BYTES: usize = 8;
const COUNT_BYTES: usize = 8;
/// Threads of a block, and the blocks of a cluster at most, which is eight on any device that has clusters. Fewest first; one
/// small block is better than one of many idle threads, and two of them are worse than one large.
const CLUSTERS: [(u32, usize); 3] = [(256, 1), (512, CLUSTER_BLOCKS), (1024, CLUSTER_BLOCKS)];
const CLUSTER_BLOCKS: usize = 8;
/// Packs of each of its threads.
const CLUSTER_READS: usize = 8;
/// Rows, or parts of them, that keep every compute unit busy with small blocks.
const MANY_ROWS: usize = 256;
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
    lanes: u32,
    reads: usize,
}

/// The shapes that the device texts are compiled for, narrowest first, by elements of a read.
fn shapes(width: usize) -> &'static [(u32, usize)] {
    match width {
        1 => &[(32, 4), (128, 4), (256, 8)],
        4 => &[(8, 2), (8, 4), (32, 2), (32, 4), (128, 2), (128, 4), (256, 4), (512, 4), (1024, 4)],
        _ => &[(8, 1), (8, 2), (32, 1), (32, 2), (128, 1), (128, 2), (256, 2), (512, 2), (1024, 2)],
    }
}

/// What normalises the longest rows of packs of eight: a block holds one as it lies in memory, and reads no other meanwhile.
const PACKED: Held = Held { lanes: 256, reads: 8 };

impl Held {
    /// The fewest threads that hold `columns`; `None` where none do.
    fn new(columns: usize, width: usize) -> Option<Held> {
        let mut all = shapes(width).iter().map(|&(lanes, reads)| Held { lanes, reads });
        all.find(|held| columns <= held.lanes as usize * width * held.reads)
    }

    fn symbol(self, operator: &str, vector: &str) -> String {
        format!("{operator}_row{}_{vector}x{}", self.lanes, self.reads)
    }

    /// Threads of a block: rows narrower than a block share one.
    fn threads(self) -> u32 {
        if self.lanes < 128 { scalar::THREADS } else { self.lanes }
    }

    /// A kernel of `operator` over `rows` rows. Where blocks are many, each works on several, one after the other,
    /// if that hides more than it costs: reading the next row meanwhile.
    fn launch(self, operator: &str, vector: &str, rows: usize, args: Vec<Arg>, cost: Cost) -> Plan {
        let blocks = rows.div_ceil((self.threads() / self.lanes) as usize);
        let most = match self.lanes {
            1024 if operator != "softmax" => 8,
            _ if vector.starts_with("f32") || vector.starts_with("f64") => 1,
            _ if self.reads == PACKED.reads && vector.ends_with("v8") => 1,
            _ => 2,
        };
        let turns = (blocks / BLOCKS).clamp(1, most);
        let grid = [blocks.div_ceil(turns).min(GRID_LIMIT) as u32, 1, 1];
        let mut plan = launch(self.symbol(operator, vector), grid, args, cost);
        plan.launches[0].block[0] = self.threads();
        overlapping(plan)
    }

    /// Every kernel of `operator` for vectors of these names.
    fn kernels(operator: &str, vectors: &[&str]) -> Vec<Kernel> {
        let each = |vector: &&str| -> Vec<Kernel> {
            let width = width_of(vector);
            let compiled = |&(lanes, reads): &(u32, usize)| {
                let held = Held { lanes, reads };
                Kernel { threads: held.threads(), ..kernel(held.symbol(operator, vector)) }
            };
            shapes(width).iter().map(compiled).collect()
        };
        vectors.iter().flat_map(each).collect()
    }
}

fn cluster_symbol(is_log: bool, threads: u32, vector: &str) -> String {
    format!("{}softmax_cluster{threads}_{vector}", if is_log { "log_" } else { "" })
}

/// Elements of a read, from its name.
fn width_of(vector: &str) -> usize {
    vector.rsplit('v').next().and_then(|width| width.parse().ok()).unwrap_or(1)
}

/// Blocks that are left where a block takes several rows.
const BLOCKS: usize = 1024;

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
    if has.sum || has.skip || has.bias {
        return Ok(held.launch("add_normalize", &suffix, problem.rows, args, cost));
    }
    let is_packed = (held.lanes, width) == (1024, 8) && problem.rows >= MANY_ROWS;
    let held = if is_packed { PACKED } else { held };
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

/// What the build compiles. `numbers` are the arch's primitives of numbers, `clusters` those of blocks that run together.
pub fn units(arch: Text, numbers: Text, clusters: Option<Text>) -> Vec<Unit> {
    let vectors = ["f32_v4", "f16_v8", "bf16_v8", "f32_v1", "f16_v1", "bf16_v1", "f64_v1"];
    let pack = Text { path: "device/pack.cu", text: include_str!("../../device/pack.cu") };
    let row = Text { path: "device/row.cu", text: include_str!("../../device/row.cu") };
    let tile = Text { path: "device/tile_rows.cu", text: include_str!("../../device/tile_rows.cu") };
    let mass = Text { path: "device/softmax_mass.cu", text: include_str!("../../device/softmax_mass.cu") };
    let softmax = Text { path: "device/softmax.cu", text: include_str!("../../device/softmax.cu") };
    let parts = Text { path: "device/softmax_parts.cu", text: include_str!("../../device/softmax_parts.cu") };
    let cluster =
        Text { path: "device/softmax_cluster.cu", text: include_str!("../../device/softmax_cluster.cu") };
    let norm = Text { path: "device/norm.cu", text: include_str!("../../device/norm.cu") };
    let kernels = |names: &[&str], suffixes: &[&str]| -> Vec<Kernel> {
        let each = |name: &&str| suffixes.iter().map(|suffix| kernel(format!("{name}_{suffix}"))).collect();
        names.iter().flat_map(|name| -> Vec<_> { each(name) }).collect()
    };
    let mut softmaxes = Held::kernels("softmax", &vectors);
    // Rows of floats that are short and no whole packs go through shared memory.
    let narrow =
        ["f32_v1", "f16_v1", "bf16_v1"].map(|vector| Held { lanes: 32, reads: 4 }.symbol("softmax", vector));
    softmaxes.retain(|kernel| !narrow.contains(&kernel.symbol));
    for vector in &vectors[..6] {
        let reads: &[usize] = if width_of(vector) == 1 { &[8] } else { &[2, 8] };
        let part = |reads: &usize| kernel(format!("softmax_parts_{vector}x{reads}"));
        softmaxes.extend(reads.iter().map(|reads| Kernel { threads: PART_THREADS, ..part(reads) }));
    }
    for vector in vectors {
        let line =
            |&shape: &(u32, usize, usize)| Kernel { threads: shape.0, ..kernel(line_symbol(vector, shape)) };
        softmaxes.extend(line_shapes(width_of(vector)).iter().map(line));
    }
    let tiles = ["softmax_tile8", "softmax_tile32", "softmax_slab"];
    softmaxes.extend(kernels(&tiles, &["f32", "f16", "bf16"]));
    let mut norms = Held::kernels("normalize", &vectors);
    let packed = |vector| Kernel { threads: PACKED.threads(), ..kernel(PACKED.symbol("normalize", vector)) };
    norms.extend(["f16_v8", "bf16_v8"].map(packed));
    norms.extend(Held::kernels("add_normalize", &vectors));
    norms.extend(kernels(&["norm_moments", "norm_apply"], &vectors));
    let unit = |name: &str, own: &[Text], kernels| Unit {
        name: name.into(),
        texts: [&[arch, numbers, scalar::TEXT, pack, row, tile], own].concat(),
        defines: vec![
            ("TILE_BYTES".into(), TILE_BYTES.to_string()),
            ("PART_THREADS".into(), PART_THREADS.to_string()),
            ("CLUSTER_BLOCKS".into(), CLUSTER_BLOCKS.to_string()),
            ("CLUSTER_READS".into(), CLUSTER_READS.to_string()),
        ],
        kernels,
    };
    let mut units = vec![unit("softmax", &[mass, softmax, parts], softmaxes), unit("norm", &[norm], norms)];
    units.extend(clusters.map(|clusters| {
        let each = |(threads, _): (u32, usize)| {
            ["f32_v4", "f16_v8", "bf16_v8"].into_iter().flat_map(move |vector| {
                [false, true]
                    .map(|is_log| Kernel { threads, ..kernel(cluster_symbol(is_log, threads, vector)) })
            })
        };
        unit("softmax_cluster", &[clusters, mass, cluster], CLUSTERS.into_iter().flat_map(each).collect())
    }));
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_rows_take_the_fewest_blocks_that_run_together() {
        let plan = |scalar, rows, columns, has: &dyn Fn(&str) -> bool| {
            let plan = softmax(scalar, [rows, columns, 1], false, has).unwrap();
            let launch = plan.launches[0].clone();
            assert_eq!(plan.launches.len(), 1);
            assert_eq!(launch.grid[0] % launch.cluster[0], 0);
            (launch.symbol, launch.cluster[0], launch.grid[0])
        };
        let cases = [
            (Scalar::F16, 8192, 16_384, "softmax_cluster256_f16_v8", 1),
            (Scalar::F16, 4194, 32_000, "softmax_cluster512_f16_v8", 1),
            (Scalar::BF16, 1046, 128_256, "softmax_cluster512_bf16_v8", 4),
            (Scalar::F32, 523, 128_256, "softmax_cluster512_f32_v4", 8),
            (Scalar::F32, 512, 262_144, "softmax_cluster1024_f32_v4", 8),
        ];
        for (scalar, rows, columns, symbol, blocks) in cases {
            let planned = plan(scalar, rows, columns, &|_| true);
            assert_eq!(planned, (symbol.to_owned(), blocks, rows as u32 * blocks), "{rows} x {columns}");
        }
        let parts = |rows, columns, has: &dyn Fn(&str) -> bool| plan(Scalar::F16, rows, columns, has).0;
        assert_eq!(parts(1046, 128_256, &|_| false), "softmax_parts_f16_v8x8");
        assert_eq!(parts(500, 600_000, &|_| true), "softmax_parts_f16_v8x8", "too long for a cluster");
        assert_eq!(parts(500, 50_257, &|_| true), "softmax_parts_f16_v1x8", "no whole packs");
        assert_eq!(parts(8, 128_256, &|_| true), "softmax_parts_f16_v8x2", "too few blocks");
    }
}
