//! Work of a matrix product: tiles, what the waves of a workgroup read, and which bytes the caches save.

use super::machine::{Machine, SPLIT_ELEMENTS};
use super::work::{Iteration, Schedule, Work};
use super::{Estimate, estimate};
use crate::gpu::matmul::{Kind, Problem, mfma, wgmma};

/// `R = P Q` of `rows` x `columns` over `depth`, `batches` times, with operands of `bits` bits and results of `out_bits`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub batches: usize,
    pub bits: u32,
    pub out_bits: u32,
    /// Matrices of P and Q that are read: fewer than batches where some share.
    pub row_matrices: usize,
    pub column_matrices: usize,
}

impl Shape {
    /// One product of 16-bit operands and results.
    pub fn square16(extent: usize) -> Self {
        Self::new([extent; 3], 16)
    }

    /// One product `[rows, columns, depth]` with results of 16 bits.
    pub fn new([rows, columns, depth]: [usize; 3], bits: u32) -> Self {
        Self { rows, columns, depth, batches: 1, bits, out_bits: 16, row_matrices: 1, column_matrices: 1 }
    }

    fn flops(&self) -> f64 {
        [self.rows, self.columns, self.depth, self.batches].iter().fold(2.0, |product, v| product * *v as f64)
    }

    fn row_bytes(&self) -> f64 {
        (self.rows * self.depth * self.row_matrices) as f64 * f64::from(self.bits) / 8.0
    }

    fn column_bytes(&self) -> f64 {
        (self.columns * self.depth * self.column_matrices) as f64 * f64::from(self.bits) / 8.0
    }

    fn result_bytes(&self) -> f64 {
        (self.rows * self.columns * self.batches) as f64 * f64::from(self.out_bits) / 8.0
    }

    fn bytes(&self) -> f64 {
        self.row_bytes() + self.column_bytes() + self.result_bytes()
    }
}

/// How a kernel computes a tile of R.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    pub bm: u32,
    pub bn: u32,
    pub bk: u32,
    /// Waves along R's rows and columns; each reads its own rows of P and columns of Q from shared memory.
    pub waves_m: u32,
    pub waves_n: u32,
    /// Stages whose loads are under way while one is multiplied.
    pub ahead: u32,
    /// Workgroups that share loads: of Q along the rows, of P along the columns.
    pub cluster_m: u32,
    pub cluster_n: u32,
    /// Workgroups that split the depth.
    pub split: u32,
    /// Workgroups that fit a compute unit.
    pub resident: u32,
    /// Row tiles that are walked together.
    pub group: u32,
    /// Neighbouring tiles are given to the same die.
    pub is_die_aware: bool,
    /// Barriers of an iteration.
    pub barriers: f64,
}

impl Tile {
    /// 256 x 256, eight waves in two groups that take turns (ping-pong), two stages: the plain choice on CDNA.
    pub fn ping_pong(bk: u32) -> Self {
        Self {
            bm: 256,
            bn: 256,
            bk,
            waves_m: 2,
            waves_n: 4,
            ahead: 1,
            cluster_m: 1,
            cluster_n: 1,
            split: 1,
            resident: 1,
            group: 8,
            is_die_aware: true,
            barriers: 8.0,
        }
    }

    /// The tile of Hopper's parameters, whose operands may be exchanged.
    pub fn wgmma(params: &wgmma::Params, kind: Kind, machine: &Machine) -> Self {
        Self {
            bm: params.bm,
            bn: params.bn,
            bk: params.bk(kind),
            // An instruction of 64 rows reads all columns.
            waves_m: params.bm / 64,
            waves_n: 1,
            ahead: params.stages - 1,
            cluster_m: params.cluster_m,
            cluster_n: params.cluster_n,
            split: params.cluster_k,
            resident: params.resident(kind, &machine.chip),
            group: params.group * params.cluster_m,
            is_die_aware: true,
            barriers: 1.0,
        }
    }

    /// The tile of CDNA's parameters.
    pub fn mfma(params: &mfma::Params, kind: Kind, machine: &Machine) -> Self {
        // The waves of a stream have a part of K each, and all columns that they share.
        let is_stream = params.schedule == mfma::Schedule::Stream;
        let parts = if is_stream { params.waves_m } else { 1 };
        Self {
            bm: params.bm,
            bn: params.bn,
            bk: params.bk(kind) * parts,
            waves_m: params.waves_m / parts,
            waves_n: params.waves_n,
            ahead: if is_stream { 2 } else { params.stages.max(2) - 1 },
            cluster_m: 1,
            cluster_n: 1,
            split: params.splits,
            resident: params.resident(kind, &machine.chip),
            group: params.group,
            is_die_aware: params.chunk > 0,
            barriers: f64::from(params.step(kind, &machine.chip).barriers),
        }
    }
}

/// The shape of R for a problem; exchanged operands make R the result transposed.
pub fn shape(problem: &Problem, is_swapped: bool) -> Shape {
    let (rows, columns) = if is_swapped { (problem.n, problem.m) } else { (problem.m, problem.n) };
    let matrices = |share: usize| problem.batches.div_ceil(share.clamp(1, problem.batches));
    let (a, b) = (matrices(problem.a.share), matrices(problem.b.share));
    let (row_matrices, column_matrices) = if is_swapped { (b, a) } else { (a, b) };
    Shape {
        rows,
        columns,
        depth: problem.k,
        batches: problem.batches,
        bits: problem.kind.input.bits() as u32,
        out_bits: 8 * problem.kind.output.bytes() as u32,
        row_matrices,
        column_matrices,
    }
}

/// Expected time of a product in these tiles.
pub fn product(shape: &Shape, tile: &Tile, machine: &Machine) -> Estimate {
    estimate(&work(shape, tile, machine), machine)
}

/// Expected time of Hopper's kernel.
pub fn wgmma_product(problem: &Problem, params: &wgmma::Params, machine: &Machine) -> Estimate {
    product(&shape(problem, params.is_swapped), &Tile::wgmma(params, problem.kind, machine), machine)
}

/// Expected time of CDNA's kernel, whose instructions the planner counts.
pub fn mfma_product(problem: &Problem, params: &mfma::Params, machine: &Machine) -> Estimate {
    let kind = problem.kind;
    let mut shape = shape(problem, false);
    if params.is_gated {
        // Both products' columns are computed, and half as many stored.
        shape.columns *= 2;
        shape.out_bits /= 2;
    }
    let mut work = work(&shape, &Tile::mfma(params, kind, machine), machine);
    let step = params.step(kind, &machine.chip);
    let waves = f64::from(params.threads() / 64);
    // 16 bytes of 64 lanes.
    let wave_bytes = |count: u32| waves * f64::from(count) * 1024.0;
    let each = &mut work.iteration;
    each.shared_read_bytes = wave_bytes(step.lds_reads);
    each.shared_write_bytes = wave_bytes(step.lds_writes + step.direct_loads);
    // Lanes of the model take two values of 32 bits; these instructions take one.
    each.vector_ops = waves * 64.0 * 2.0 * f64::from(step.vector);
    if kind.input.bytes() == 4 {
        // Products of 32-bit floats run below the rate of their width: four units of a compute unit issue them.
        let cycles = waves / 4.0 * f64::from(step.products * step.product_cycles);
        each.matrix_flops = cycles * machine.model.matrix_rate(work.element_bits);
    }
    estimate(&work, machine)
}

/// The counts of a product in these tiles.
pub fn work(shape: &Shape, tile: &Tile, machine: &Machine) -> Work {
    let [bm, bn, bk] = [tile.bm, tile.bn, tile.bk].map(f64::from);
    let bytes = f64::from(shape.bits) / 8.0;
    let along = |extent: usize, size: u32, cluster: u32| {
        (extent.div_ceil((size * cluster).max(1) as usize) * cluster as usize) as f64
    };
    let row_tiles = along(shape.rows, tile.bm, tile.cluster_m);
    let column_tiles = along(shape.columns, tile.bn, tile.cluster_n);
    let groups = row_tiles * column_tiles * shape.batches as f64 * f64::from(tile.split);
    let iterations = (shape.depth as f64 / bk).ceil() / f64::from(tile.split);
    let stage_bytes = (bm + bn) * bk * bytes;
    // Shared loads cross the compute unit's port once for each workgroup that keeps them.
    let window = Window::of(tile, row_tiles, column_tiles, groups, machine);
    let reads = bm * f64::from(tile.waves_n) + bn * f64::from(tile.waves_m);
    let iteration = Iteration {
        matrix_flops: 2.0 * bm * bn * bk,
        vector_ops: 0.0,
        exponentials: 0.0,
        shared_read_bytes: reads * bk * bytes,
        shared_write_bytes: stage_bytes,
        load_bytes: (bm / f64::from(tile.cluster_n) + bn / f64::from(tile.cluster_m)) * bk * bytes,
        fabric_bytes_per_die: (window.die_rows * bm + window.die_columns * bn) * bk * bytes,
        barriers: tile.barriers,
    };
    // A tile narrower than the unit's instructions still takes their time, and writes only what there is.
    let useful_rows = (shape.rows as f64).min(bm);
    let useful_columns = (shape.columns as f64).min(bn);
    let is_split = tile.split > 1;
    Work {
        schedule: Schedule::Product,
        element_bits: shape.bits,
        groups,
        resident: tile.resident,
        iterations,
        iteration,
        unevenness: None,
        bytes_in_flight: f64::from(tile.ahead) * stage_bytes,
        store_bytes: useful_rows * useful_columns * f64::from(shape.out_bits) / 8.0 / f64::from(tile.split),
        memory_bytes: memory_bytes(shape, &window, row_tiles, column_tiles, machine),
        end_seconds: if is_split {
            machine.model.split_seconds * (bm * bn / SPLIT_ELEMENTS).max(1.0)
        } else {
            0.0
        },
        extra_seconds: 0.0,
        useful_flops: shape.flops(),
        useful_bytes: shape.bytes(),
    }
}

/// The tiles that run together.
struct Window {
    /// Row and column tiles of those on one die.
    die_rows: f64,
    die_columns: f64,
    /// Row tiles that are walked together.
    rows: f64,
}

impl Window {
    fn of(tile: &Tile, row_tiles: f64, column_tiles: f64, groups: f64, machine: &Machine) -> Self {
        let dies = f64::from(machine.chip.dies.max(1));
        let slots = f64::from(machine.chip.compute_units * tile.resident.max(1));
        let running = groups.min(slots) / f64::from(tile.split);
        let rows = f64::from(tile.group).min(row_tiles).max(1.0);
        let columns = (running / rows).min(column_tiles).max(1.0);
        let on_die = (running / dies).max(1.0);
        let (die_rows, die_columns) = if tile.is_die_aware {
            // A die's tiles are as near to a square as the walk allows.
            let die_rows = on_die.sqrt().min(rows);
            (die_rows, (on_die / die_rows).min(columns))
        } else {
            (rows.min(on_die), columns.min(on_die))
        };
        Self { die_rows, die_columns, rows }
    }
}

/// Bytes that cross device memory: once where the operands stay in the last cache; else the columns once for every group
/// of row tiles, and the rows of a group once if the cache keeps them.
fn memory_bytes(shape: &Shape, window: &Window, row_tiles: f64, column_tiles: f64, machine: &Machine) -> f64 {
    let chip = &machine.chip;
    let cache = (chip.l2_bytes as f64 * f64::from(chip.dies)).max(machine.model.shared_cache_bytes);
    let operands = shape.row_bytes() + shape.column_bytes();
    if operands <= 0.75 * cache {
        return shape.bytes();
    }
    let passes = (row_tiles / window.rows).ceil();
    let slab = shape.row_bytes() / passes;
    let row_reads = if slab <= 0.5 * cache { 1.0 } else { (column_tiles / window.die_columns).ceil() };
    // The cache still holds part of what was read last.
    let column_reads = 1.0 + (passes - 1.0) * (1.0 - cache / operands).clamp(0.0, 1.0);
    shape.row_bytes() * row_reads + shape.column_bytes() * column_reads + shape.result_bytes()
}
