//! A product on CDNA as a launch: the grid, the workspace of a split, and the structure that the kernel reads.

use super::params::Params;
use crate::error::{KernelError, Result};
use crate::estimate::Cost;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Launch, Plan};
use crate::gpu::matmul::choice::bytes;
use crate::gpu::matmul::{
    A, A_BLOCKS, Activation, B, B_BLOCKS, BIAS, Bias, D, Layout, M_SCALE, Matrix, N_SCALE, Problem, RESIDUAL,
    UP,
};

/// Bits of the kernel's flags above the activation's number.
const BIAS_F32: u32 = 8;
const ALIGNED_D: u32 = 16;
const ALIGNED_RESIDUAL: u32 = 32;

/// Rows of a tile must lie within 2^31 bytes.
const MAX_ROW_BYTES: usize = 1 << 23;

/// Refuses what the kernels cannot address, naming what is wrong.
pub(super) fn check_addresses(problem: &Problem) -> Result<()> {
    let Layout { is_a_transposed, is_b_transposed } = problem.kind.layout;
    let bytes = problem.kind.input.bytes();
    let a_rows = if is_a_transposed { problem.k } else { problem.m };
    let b_rows = if is_b_transposed { problem.n } else { problem.k };
    for (name, matrix, rows) in [("A", &problem.a, a_rows), ("B", &problem.b, b_rows)] {
        let row = if rows > 1 { matrix.row_stride * bytes } else { 0 };
        for stride in [row, matrix.batch_stride * bytes] {
            if !stride.is_multiple_of(4) {
                return Err(KernelError::shape(format!(
                    "{name} has rows or matrices {stride} bytes apart: loads need a multiple of 4 bytes"
                )));
            }
        }
        check_row(name, row)?;
    }
    let output = problem.kind.output.bytes();
    check_row("the residual", problem.epilogue.residual.map_or(0, |matrix| matrix.row_stride * output))?;
    check_row("D", problem.d.row_stride * output)
}

fn check_row(name: &str, bytes: usize) -> Result<()> {
    if bytes > MAX_ROW_BYTES {
        return Err(KernelError::shape(format!(
            "{name} has rows {bytes} bytes apart, a kernel reaches {MAX_ROW_BYTES}"
        )));
    }
    Ok(())
}

/// The launch that computes `problem`. Operands are numbered as [`crate::gpu::matmul::A`] documents; those that the problem
/// does not have may be absent.
pub fn plan(arch: &str, problem: &Problem, params: &Params, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    check_addresses(problem)?;
    params.check(problem.kind, chip)?;
    if params.is_gated != problem.epilogue.is_gated {
        return Err(KernelError::parameter("gated products have kernels of their own"));
    }
    let steps = problem.k.div_ceil(params.bk(problem.kind) as usize);
    if steps < params.splits as usize {
        return Err(KernelError::parameter(format!(
            "K of {} has {steps} steps, fewer than the {} parts of the split",
            problem.k, params.splits
        )));
    }
    let row_tiles = problem.m.div_ceil(params.bm as usize) as u64;
    let col_tiles = problem.n.div_ceil(params.columns() as usize) as u64;
    let tiles = row_tiles * col_tiles * problem.batches as u64;
    let groups = tiles * u64::from(params.splits);
    let grid = u32::try_from(groups).ok().filter(|groups| *groups < 1 << 31).ok_or_else(|| {
        KernelError::shape(format!("{groups} tiles are more than one launch can have: split the batch"))
    })?;
    let meeting = Meeting::new(tiles, params.splits, params.bm * params.bn);
    let mut args = operands(problem);
    args.extend(meeting.args());
    args.push(Arg::Bytes {
        bytes: problem_bytes(
            problem,
            [params.group, params.chunk, params.splits],
            [row_tiles as u32, col_tiles as u32],
            chip,
        ),
        align: 8,
    });
    let launch = Launch {
        symbol: params.symbol(arch, problem.kind),
        grid: [grid, 1, 1],
        block: [params.threads(), 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        args,
        is_dependent_launch: false,
        cost: cost(problem),
    };
    Ok(meeting.plan(launch))
}

/// Where the workgroups that share tiles meet: counts of those that have arrived, then their parts.
pub(super) struct Meeting {
    arrival_bytes: u64,
    part_bytes: u64,
}

impl Meeting {
    /// For `tiles` tiles of `elements` sums, each computed by `splits` workgroups.
    pub(super) fn new(tiles: u64, splits: u32, elements: u32) -> Self {
        if splits == 1 {
            return Self { arrival_bytes: 0, part_bytes: 0 };
        }
        let part_bytes = tiles * u64::from(splits) * u64::from(elements) * 4;
        Self { arrival_bytes: (tiles * 4).next_multiple_of(256), part_bytes }
    }

    /// What the kernel takes: the parts, and the counts.
    pub(super) fn args(&self) -> [Arg; 2] {
        [self.arrival_bytes, 0].map(|offset_bytes| match self.part_bytes {
            0 => Arg::I64(0),
            _ => Arg::Workspace { offset_bytes },
        })
    }

    pub(super) fn plan(&self, launch: Launch) -> Plan {
        Plan {
            launches: vec![launch],
            workspace_bytes: self.arrival_bytes + self.part_bytes,
            zeroed_bytes: self.arrival_bytes,
        }
    }
}

fn operands(problem: &Problem) -> Vec<Arg> {
    let pointer = |operand| Arg::Pointer { operand, offset_bytes: 0 };
    let optional = |is_there: bool, operand| if is_there { pointer(operand) } else { Arg::I64(0) };
    let epilogue = &problem.epilogue;
    vec![
        pointer(A),
        pointer(B),
        pointer(D),
        optional(epilogue.bias.is_some(), BIAS),
        optional(epilogue.residual.is_some(), RESIDUAL),
        optional(epilogue.has_m_scale, M_SCALE),
        optional(epilogue.has_n_scale, N_SCALE),
        optional(problem.kind.input.has_blocks(), A_BLOCKS),
        optional(problem.kind.input.has_blocks(), B_BLOCKS),
        optional(epilogue.is_gated, UP),
    ]
}

/// The kernel's `Problem` for tiles of any shape, each computed by `splits` workgroups.
pub(super) fn tiled_bytes(problem: &Problem, splits: u32, tiles: [u32; 2], chip: &Chip) -> Vec<u8> {
    problem_bytes(problem, [1, 0, splits], tiles, chip)
}

/// The kernel's `Problem`, field by field. `order`: row tiles of a group, tiles of a chunk, splits.
fn problem_bytes(
    problem: &Problem,
    [group, chunk, splits]: [u32; 3],
    [row_tiles, col_tiles]: [u32; 2],
    chip: &Chip,
) -> Vec<u8> {
    let epilogue = &problem.epilogue;
    let words = [
        problem.m as u32,
        problem.n as u32,
        (problem.k / problem.kind.input.values()) as u32,
        row_tiles,
        col_tiles,
        problem.batches as u32,
        group,
        chip.dies,
        if chip.dies > 1 { chunk } else { 0 },
        splits,
        problem.share(&problem.a) as u32,
        problem.share(&problem.b) as u32,
        flags(problem),
        epilogue.alpha.to_bits(),
        epilogue.beta.to_bits(),
        0,
    ];
    let residual = epilogue.residual.unwrap_or(Matrix::packed(0));
    let strides = [problem.a, problem.b, problem.d, residual].map(|m| [m.row_stride, m.batch_stride]);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(strides.as_flattened().iter().flat_map(|stride| (*stride as i64).to_le_bytes()));
    bytes
}

fn flags(problem: &Problem) -> u32 {
    let epilogue = &problem.epilogue;
    let activation = match epilogue.activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Gelu => 4,
    };
    let bytes = problem.kind.output.bytes();
    // Eight neighbours are stored at once, so rows must also hold whole eights.
    let is_aligned = |matrix: &Matrix| {
        let strides = [matrix.row_stride, matrix.batch_stride];
        problem.n.is_multiple_of(8) && strides.iter().all(|stride| (stride * bytes).is_multiple_of(16))
    };
    let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    activation
        | bit(epilogue.bias == Some(Bias::F32), BIAS_F32)
        | bit(is_aligned(&problem.d), ALIGNED_D)
        | bit(epilogue.residual.is_some_and(|residual| is_aligned(&residual)), ALIGNED_RESIDUAL)
}

fn cost(problem: &Problem) -> Cost {
    let [m, n, k, batches] = [problem.m, problem.n, problem.k, problem.batches].map(|v| v as f64);
    let products = if problem.epilogue.is_gated { 2.0 } else { 1.0 };
    Cost { flops: products * 2.0 * batches * m * n * k, bytes: bytes(problem) }
}
