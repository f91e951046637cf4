//! A product by warps as launches: the product, and where its depth is split the sum of the parts.

use super::params::Params;
use crate::error::{KernelError, Result};
use crate::estimate::Cost;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Launch, Plan};
use crate::gpu::matmul::choice::bytes;
use crate::gpu::matmul::problem::{
    A, Activation, B, BIAS, Bias, D, Epilogue, M_SCALE, N_SCALE, Problem, RESIDUAL,
};
use crate::gpu::scalar::Structure;

/// Bits of the kernel's flags above the activation's number.
const BIAS_F32: u32 = 8;
const STORE_ELEMENTS: u32 = 64;
const PARTIAL: u32 = 256;

/// The launches that compute `problem` with its depth in `parts`. Operands are numbered as
/// [`crate::gpu::matmul::A`] documents.
pub fn plan(arch: &str, problem: &Problem, params: &Params, parts: usize, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    problem.check_copies()?;
    params.check(problem.kind, chip)?;
    if problem.epilogue.is_gated {
        return Err(KernelError::parameter("this main loop has no gated products"));
    }
    let plane = problem.batches * problem.m * problem.n;
    let blocks = problem.k.div_ceil(Params::bk(problem.kind) as usize);
    if parts == 0 || parts > blocks || (parts > 1 && (!Params::splits(problem.kind) || plane >= 1 << 32)) {
        return Err(KernelError::parameter(format!("{blocks} stages of depth in {parts} parts")));
    }
    // Every part has a stage at least.
    let part_blocks = blocks.div_ceil(parts);
    let parts = blocks.div_ceil(part_blocks);
    let tiles = problem.m.div_ceil(params.bm as usize) * problem.n.div_ceil(params.bn as usize);
    if tiles >= 1 << 31 || problem.batches > 65_535 {
        return Err(KernelError::shape(format!(
            "{tiles} tiles of {} matrices are more than one launch can have: split the batch",
            problem.batches
        )));
    }
    let structure = structure(problem, params, part_blocks, parts > 1);
    let workspace = if parts > 1 { Arg::Workspace { offset_bytes: 0 } } else { Arg::I64(0) };
    let operands = epilogue_args(&problem.epilogue);
    let mut args = vec![pointer(D), pointer(A), pointer(B)];
    args.extend(operands.clone());
    args.extend([workspace.clone(), structure.clone()]);
    let [m, n, k, batches] = [problem.m, problem.n, problem.k, problem.batches].map(|v| v as f64);
    let mut launches = vec![Launch {
        symbol: params.symbol(arch, problem.kind),
        grid: [tiles as u32, problem.batches as u32, parts as u32],
        block: [params.threads(), 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: params.shared_bytes(),
        args,
        is_dependent_launch: false,
        cost: Cost { flops: 2.0 * batches * m * n * k, bytes: bytes(problem) },
    }];
    if parts == 1 {
        return Ok(Plan { launches, ..Plan::default() });
    }
    let mut args = vec![pointer(D), workspace];
    args.extend(operands);
    args.extend([Arg::U32(parts as u32), Arg::U32(plane as u32), structure]);
    launches.push(Launch {
        symbol: params.reduce_symbol(arch, problem.kind),
        grid: [plane.div_ceil(256) as u32, 1, 1],
        block: [256, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        args,
        is_dependent_launch: false,
        cost: Cost { flops: (parts * plane) as f64, bytes: (4 * (parts + 1) * plane) as f64 },
    });
    Ok(Plan { launches, workspace_bytes: (parts * plane * 4) as u64, zeroed_bytes: 0 })
}

fn pointer(operand: usize) -> Arg {
    Arg::Pointer { operand, offset_bytes: 0 }
}

fn epilogue_args(epilogue: &Epilogue) -> Vec<Arg> {
    let optional = |is_there: bool, operand| if is_there { pointer(operand) } else { Arg::I64(0) };
    vec![
        optional(epilogue.bias.is_some(), BIAS),
        optional(epilogue.residual.is_some(), RESIDUAL),
        optional(epilogue.has_m_scale, M_SCALE),
        optional(epilogue.has_n_scale, N_SCALE),
    ]
}

/// The kernel's `Problem`, field by field.
fn structure(problem: &Problem, params: &Params, part_blocks: usize, is_partial: bool) -> Arg {
    let epilogue = &problem.epilogue;
    let activation = match epilogue.activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Gelu => 4,
    };
    let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    let flags = activation
        | bit(epilogue.bias == Some(Bias::F32), BIAS_F32)
        | bit(!problem.has_aligned_result(), STORE_ELEMENTS)
        | bit(is_partial, PARTIAL);
    let residual = epilogue.residual.map_or((0, 0), |residual| (residual.row_stride, residual.batch_stride));
    let tiles = |extent: usize, tile: u32| extent.div_ceil(tile as usize) as u32;
    Structure::default()
        .u32(problem.m as u32)
        .u32(problem.n as u32)
        .u32(problem.k as u32)
        .u32(tiles(problem.m, params.bm))
        .u32(tiles(problem.n, params.bn))
        .u32(params.group)
        .u32(part_blocks as u32)
        .u32(problem.batches as u32)
        .u32(problem.share(&problem.a) as u32)
        .u32(problem.share(&problem.b) as u32)
        .u32(flags)
        .f32(epilogue.alpha)
        .f32(epilogue.beta)
        .u32(0)
        .i64s::<8>(
            [
                problem.a.row_stride,
                problem.a.batch_stride,
                problem.b.row_stride,
                problem.b.batch_stride,
                problem.d.row_stride,
                problem.d.batch_stride,
                residual.0,
                residual.1,
            ]
            .map(|stride| stride as i64),
        )
        .finish()
}
