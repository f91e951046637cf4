//! A matrix product as a launch: the grid, the tensor maps and the structure that the kernel reads.

use super::params::{Params, STAGE_ROW_BYTES};
use super::select;
use crate::error::{KernelError, Result};
use crate::estimate::Cost;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Launch, Plan, Swizzle, TensorMap, Windows};
use crate::gpu::matmul::Convolution;
use crate::gpu::matmul::choice::bytes;
use crate::gpu::matmul::nbits::Weights;
use crate::gpu::matmul::problem::{
    A, Activation, B, BIAS, Bias, D, Kind, M_SCALE, Matrix, N_SCALE, Problem, RESIDUAL, UP,
};

/// Bits of the kernel's flags above the activation's number.
const BIAS_F32: u32 = 8;
const P_CONSTANT: u32 = 16;
const Q_CONSTANT: u32 = 32;
const STORE_ELEMENTS: u32 = 64;
const LAUNCH_EARLY: u32 = 128;
const BIAS_ROWS: u32 = 256;
const RESIDUAL_FIRST: u32 = 512;

/// The launch that computes `problem`. Operands are numbered as [`super::A`] documents; those that the problem does not
/// have may be absent.
pub fn plan(arch: &str, problem: &Problem, params: &Params, chip: &Chip) -> Result<Plan> {
    launch(arch, problem, Right::Matrix, params, chip)
}

/// The same where B is packed weights.
pub fn plan_packed(
    arch: &str,
    problem: &Problem,
    weights: &Weights,
    params: &Params,
    chip: &Chip,
) -> Result<Plan> {
    launch(arch, problem, Right::Packed(weights), params, chip)
}

/// The same where B is the windows of a convolution. Operands are numbered as [`Convolution`] documents.
pub fn plan_windows(arch: &str, convolution: &Convolution, params: &Params, chip: &Chip) -> Result<Plan> {
    convolution.check()?;
    let mut plan = launch(arch, &convolution.product(), Right::Windows(convolution), params, chip)?;
    let real = convolution.taps() * convolution.in_channels;
    plan.launches.iter_mut().for_each(|one| one.cost.flops *= real as f64 / convolution.depth() as f64);
    Ok(plan)
}

/// What the right operand is.
#[derive(Clone, Copy)]
enum Right<'a> {
    Matrix,
    Packed(&'a Weights),
    Windows(&'a Convolution),
}

impl<'a> Right<'a> {
    fn packed(self) -> Option<&'a Weights> {
        if let Right::Packed(weights) = self { Some(weights) } else { None }
    }

    fn windows(self) -> Option<&'a Convolution> {
        if let Right::Windows(convolution) = self { Some(convolution) } else { None }
    }
}

fn launch(arch: &str, problem: &Problem, right: Right<'_>, params: &Params, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    problem.check_copies()?;
    if params.weight_bits != right.packed().map_or(0, |weights| weights.bits)
        || params.is_windows != right.windows().is_some()
        || params.is_gated != problem.epilogue.is_gated
    {
        return Err(KernelError::parameter(format!("{params:?} are for another form of weights")));
    }
    params.check(problem.kind, chip)?;
    let depth_blocks = problem.k.div_ceil(params.bk(problem.kind) as usize);
    if depth_blocks < params.cluster_k as usize {
        return Err(KernelError::parameter(format!(
            "K of {} has {depth_blocks} blocks, fewer than the {} parts of the split",
            problem.k, params.cluster_k
        )));
    }
    let shape = Shape::of(problem, params);
    let tiles = shape.tiles(problem)?;
    let slots = select::clusters(params.cluster(), chip);
    // As many blocks as the last round needs: the others would draw power for nothing.
    let clusters = tiles.div_ceil(tiles.div_ceil(slots));
    let launch = Launch {
        symbol: params.symbol(arch, problem.kind),
        grid: [clusters * params.cluster(), 1, 1],
        block: [params.threads(), 1, 1],
        cluster: [params.cluster(), 1, 1],
        shared_bytes: params.shared_bytes(problem.kind),
        args: args(problem, right, params, &shape, depth_blocks as u32),
        is_dependent_launch: true,
        cost: cost(problem),
    };
    Ok(Plan { launches: vec![launch], ..Plan::default() })
}

/// Extents of R = P Q^T, and its tiles of whole clusters.
struct Shape {
    rows: usize,
    columns: usize,
    row_tiles: u32,
    column_tiles: u32,
}

impl Shape {
    fn of(problem: &Problem, params: &Params) -> Self {
        let (rows, columns) = if params.is_swapped { (problem.n, problem.m) } else { (problem.m, problem.n) };
        let tiles = |extent: usize, tile: u32| extent.div_ceil(tile as usize) as u32;
        Self {
            rows,
            columns,
            row_tiles: tiles(rows, params.rows() * params.cluster_m),
            column_tiles: tiles(columns, params.columns() * params.cluster_n),
        }
    }

    fn tiles(&self, problem: &Problem) -> Result<u32> {
        let tiles = u64::from(self.row_tiles) * u64::from(self.column_tiles) * problem.batches as u64;
        u32::try_from(tiles).ok().filter(|tiles| *tiles < 1 << 30).ok_or_else(|| {
            KernelError::shape(format!("{tiles} tiles are more than one launch can have: split the batch"))
        })
    }
}

fn args(problem: &Problem, right: Right<'_>, params: &Params, shape: &Shape, depth_blocks: u32) -> Vec<Arg> {
    let (p, q) = if params.is_swapped { (B, A) } else { (A, B) };
    let (p_transposed, q_transposed) = params.transposed_operands(problem.kind);
    // A gated tile takes a piece of one matrix and as much of the other by turns.
    let gated_rows = if params.is_swapped { params.rows() / params.warpgroups } else { params.columns() };
    let share = |extent: u32, is_weight: bool| {
        if params.is_gated && is_weight { extent.min(gated_rows) } else { extent }
    };
    let (p_box, q_box) = (
        share(params.bm / params.cluster_n, params.is_swapped),
        share(params.bn / params.cluster_m, !params.is_swapped),
    );
    let p_map = operand_map(problem, p, shape.rows, p_transposed, p_box);
    let q_map = match right.windows() {
        Some(convolution) => windows_map(convolution, params),
        None => operand_map(problem, q, shape.columns, q_transposed, q_box),
    };
    let pointer = |operand| Arg::Pointer { operand, offset_bytes: 0 };
    let optional = |is_there: bool, operand| if is_there { pointer(operand) } else { Arg::I64(0) };
    let epilogue = &problem.epilogue;
    // Without aligned rows the kernel stores elements and never reads the map of D.
    let d_map = if problem.has_aligned_result() { result_map(problem, params) } else { q_map.clone() };
    let up_map = params
        .is_gated
        .then(|| TensorMap { operand: UP, ..if params.is_swapped { p_map.clone() } else { q_map.clone() } });
    let mut args = vec![
        if right.packed().is_some() { pointer(B) } else { Arg::TensorMap(p_map) },
        Arg::TensorMap(q_map),
        Arg::TensorMap(d_map),
        pointer(D),
        optional(epilogue.bias.is_some(), BIAS),
        optional(epilogue.residual.is_some(), RESIDUAL),
        optional(epilogue.has_m_scale, M_SCALE),
        optional(epilogue.has_n_scale, N_SCALE),
        Arg::Bytes { bytes: problem_bytes(problem, params, shape, depth_blocks), align: 8 },
    ];
    args.extend(right.packed().map(packed_bytes));
    args.extend(up_map.map(Arg::TensorMap));
    args.extend(right.windows().map(window_bytes));
    args
}

/// The kernel's `Packed`.
fn packed_bytes(weights: &Weights) -> Arg {
    let words = [
        weights.slabs() as u32,
        weights.record_bytes() as u32,
        weights.groups() as u32,
        weights.has_zeros.into(),
    ];
    Arg::Bytes { bytes: words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect(), align: 4 }
}

/// The map of an image, whose copies are windows' elements.
fn windows_map(convolution: &Convolution, params: &Params) -> TensorMap {
    let Convolution { kind, batch, in_channels, input: [height, width], steps, .. } = *convolution;
    let pixel = (in_channels * kind.input.bytes()) as u64;
    let corners = [1, 0].map(|axis| convolution.corners(axis).map(|at| at as i32));
    TensorMap {
        operand: B,
        offset_bytes: 0,
        element: kind.input.map_element(),
        dims: vec![in_channels as u64, width as u64, height as u64, batch as u64],
        strides_bytes: vec![pixel, pixel * width as u64, pixel * (width * height) as u64],
        box_dims: vec![STAGE_ROW_BYTES / kind.input.bytes() as u32, params.bn, 1, 1],
        swizzle: Swizzle::Bytes128,
        windows: Some(Windows {
            first: corners.map(|[first, _]| first),
            last: corners.map(|[_, last]| last),
            steps: [steps[1] as u32, steps[0] as u32],
        }),
    }
}

/// The kernel's `Window`.
fn window_bytes(convolution: &Convolution) -> Arg {
    let Convolution { output, kernel, steps, dilations, pads, .. } = *convolution;
    let words = [
        output[1] as i32,
        kernel[1] as i32,
        convolution.channel_blocks() as i32,
        steps[1] as i32,
        steps[0] as i32,
        -(pads[1] as i32),
        -(pads[0] as i32),
        dilations[1] as i32,
        dilations[0] as i32,
    ];
    Arg::Bytes { bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(), align: 4 }
}

fn matrix(problem: &Problem, operand: usize) -> &Matrix {
    if operand == A { &problem.a } else { &problem.b }
}

/// The map of P or Q. `extent`: rows or columns of R. A box is what one copy moves.
fn operand_map(
    problem: &Problem,
    operand: usize,
    extent: usize,
    is_transposed: bool,
    box_rows: u32,
) -> TensorMap {
    let kind: Kind = problem.kind;
    let matrix = matrix(problem, operand);
    let (columns, rows) = if is_transposed { (extent, problem.k) } else { (problem.k, extent) };
    let bk = STAGE_ROW_BYTES / kind.input.bytes() as u32;
    TensorMap {
        operand,
        offset_bytes: 0,
        element: kind.input.map_element(),
        dims: vec![columns as u64, rows as u64, problem.batches.div_ceil(problem.share(matrix)) as u64],
        strides_bytes: strides(matrix, rows, columns, kind.input.bytes()),
        box_dims: if is_transposed { vec![64, bk, 1] } else { vec![bk, box_rows, 1] },
        swizzle: Swizzle::Bytes128,
        windows: None,
    }
}

fn result_map(problem: &Problem, params: &Params) -> TensorMap {
    let kind = problem.kind;
    let columns = params.panel_columns(kind);
    TensorMap {
        operand: D,
        offset_bytes: 0,
        element: kind.output.map_element(),
        dims: vec![problem.n as u64, problem.m as u64, problem.batches as u64],
        strides_bytes: strides(&problem.d, problem.m, problem.n, kind.output.bytes()),
        box_dims: vec![columns, if params.is_swapped { params.bn } else { 64 }, 1],
        swizzle: match columns as usize * kind.output.bytes() {
            128 => Swizzle::Bytes128,
            64 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        },
        windows: None,
    }
}

/// Distances of rows and of matrices. Those along an extent of 1 are never used, yet must be legal.
fn strides(matrix: &Matrix, rows: usize, columns: usize, element_bytes: usize) -> Vec<u64> {
    let row = if rows > 1 { matrix.row_stride } else { matrix.row_stride.max(columns) };
    let row_bytes = (row * element_bytes).next_multiple_of(16);
    let batch_bytes = match matrix.batch_stride {
        0 => row_bytes * rows,
        stride => stride * element_bytes,
    };
    vec![row_bytes as u64, batch_bytes as u64]
}

/// The kernel's `Problem`, field by field.
fn problem_bytes(problem: &Problem, params: &Params, shape: &Shape, depth_blocks: u32) -> Vec<u8> {
    let (p, q) = if params.is_swapped { (&problem.b, &problem.a) } else { (&problem.a, &problem.b) };
    let epilogue = &problem.epilogue;
    let words = [
        shape.rows as u32,
        shape.columns as u32,
        depth_blocks,
        shape.row_tiles,
        shape.column_tiles,
        problem.batches as u32,
        params.group,
        problem.share(p) as u32,
        problem.share(q) as u32,
        flags(problem, params, p, q),
        epilogue.alpha.to_bits(),
        epilogue.beta.to_bits(),
    ];
    let residual = epilogue.residual.map_or((0, 0), |r| (r.row_stride, r.batch_stride));
    let strides = [problem.d.row_stride, problem.d.batch_stride, residual.0, residual.1];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(strides.iter().flat_map(|stride| (*stride as i64).to_le_bytes()));
    bytes
}

fn flags(problem: &Problem, params: &Params, p: &Matrix, q: &Matrix) -> u32 {
    let epilogue = &problem.epilogue;
    let activation = match epilogue.activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Gelu => 4,
    };
    let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    activation
        | bit(epilogue.bias == Some(Bias::F32), BIAS_F32)
        | bit(p.is_constant, P_CONSTANT)
        | bit(q.is_constant, Q_CONSTANT)
        | bit(!problem.has_aligned_result(), STORE_ELEMENTS)
        | bit(params.is_early, LAUNCH_EARLY)
        | bit(epilogue.is_bias_along_rows, BIAS_ROWS)
        | bit(epilogue.is_residual_first, RESIDUAL_FIRST)
}

fn cost(problem: &Problem) -> Cost {
    let [m, n, k, batches] = [problem.m, problem.n, problem.k, problem.batches].map(|v| v as f64);
    let products = if problem.epilogue.is_gated { 2.0 } else { 1.0 };
    Cost { flops: 2.0 * products * batches * m * n * k, bytes: bytes(problem) }
}
