//! Few rows of activations times packed weights, which stream from memory through registers
//! (`arch/sm80/matmul_stream.cu`).

use crate::error::Result;
use crate::estimate::Cost;
use crate::gpu::arch;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Launch, Plan};
use crate::gpu::matmul::nbits::{NBits, Weights};
use crate::gpu::matmul::problem::{A, Activation, B, BIAS, Bias, D, RESIDUAL};
use crate::gpu::scalar::{Scalar, Structure};
use crate::gpu::unit::{Kernel, Planned, Unit};

/// Warps of a block, each of which computes 16 outputs.
const WARPS: usize = 8;
const WARP_ROWS: usize = 16;
/// Blocks that share a compute unit.
const RESIDENT: usize = 4;
const BIAS_F32: u32 = 8;

/// What a kernel is compiled for, beside type and bits.
const GROUPS: [usize; 4] = [16, 32, 64, 128];
const TOKENS: [usize; 2] = [8, 16];

/// Tokens that kernels for these weights take at a time: two stages of the widest records leave room for few sums.
fn tokens_of(weights: &Weights) -> &'static [usize] {
    if weights.bits == 8 && weights.scalar == Scalar::F32 { &TOKENS[..1] } else { &TOKENS }
}

fn symbol(arch: &str, weights: &Weights, group: usize, has_zeros: bool, tokens: usize) -> String {
    let (scalar, bits, zeros) = (weights.scalar.suffix(), weights.bits, if has_zeros { "_z" } else { "" });
    format!("stream_{scalar}_w{bits}_g{group}{zeros}__{arch}__t{tokens}")
}

/// The launch of a product. Operands as [`crate::gpu::matmul::A`] documents.
pub fn stream(arch: &str, problem: &NBits, chip: &Chip) -> Result<Plan> {
    let NBits { weights, m, epilogue } = problem;
    let offered = tokens_of(weights);
    let tokens = *offered.iter().find(|&&tokens| *m <= tokens).unwrap_or(&offered[offered.len() - 1]);
    let row_warps = row_warps(weights, chip);
    let activation = match epilogue.activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Gelu => 4,
    };
    let bias = if epilogue.bias == Some(Bias::F32) { BIAS_F32 } else { 0 };
    let residual_row = epilogue.residual.map_or(0, |residual| residual.row_stride);
    let structure = Structure::default()
        .u32(*m as u32)
        .u32(weights.n as u32)
        .u32(weights.k as u32)
        .u32(weights.records() as u32)
        .u32(row_warps as u32)
        .u32(activation | bias)
        .f32(epilogue.alpha)
        .f32(epilogue.beta)
        .i64s::<3>([weights.k as i64, weights.n as i64, residual_row as i64])
        .finish();
    let pointer = |operand| Arg::Pointer { operand, offset_bytes: 0 };
    let optional = |is_there: bool, operand| if is_there { pointer(operand) } else { Arg::I64(0) };
    let values = m * (weights.k + weights.n) * weights.scalar.bytes();
    let group = weights.group.min(GROUPS[3]);
    let blocks = weights.n.div_ceil(row_warps * WARP_ROWS).min(RESIDENT * chip.compute_units as usize);
    Ok(Plan {
        launches: vec![Launch {
            symbol: symbol(arch, weights, group, weights.has_zeros, tokens),
            grid: [blocks as u32, m.div_ceil(tokens) as u32, 1],
            block: [32 * WARPS as u32, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            args: vec![
                pointer(D),
                pointer(B),
                pointer(A),
                optional(epilogue.bias.is_some(), BIAS),
                optional(epilogue.residual.is_some(), RESIDUAL),
                structure,
            ],
            is_dependent_launch: true,
            cost: Cost {
                flops: 2.0 * (m * weights.n) as f64 * weights.k as f64,
                bytes: (weights.packed_bytes() + values) as f64,
            },
        }],
        ..Plan::default()
    })
}

/// Warps of a block that compute different outputs; the others share the depth. Two read activations half as often, where
/// enough blocks are left to fill the chip.
fn row_warps(weights: &Weights, chip: &Chip) -> usize {
    if weights.n.div_ceil(2 * WARP_ROWS) >= RESIDENT * chip.compute_units as usize { 2 } else { 1 }
}

/// What the build compiles: a unit for each type and number of bits.
pub fn stream_units(arch: &str) -> Result<Vec<Unit>> {
    let texts = arch::find(arch)?.operator("packed_stream")?.texts("texts")?;
    let mut units = Vec::new();
    for (scalar, name) in [(Scalar::F32, "F32"), (Scalar::F16, "F16"), (Scalar::BF16, "BF16")] {
        for bits in [4, 8] {
            let weights = Weights { n: 1, k: 1, bits, group: 32, has_zeros: false, scalar };
            let (mut lines, mut kernels) = (String::new(), Vec::new());
            for group in GROUPS {
                let offered = tokens_of(&weights);
                for (has_zeros, &tokens) in
                    [false, true].into_iter().flat_map(|zeros| offered.iter().map(move |t| (zeros, t)))
                {
                    let symbol = symbol(arch, &weights, group, has_zeros, tokens);
                    lines += &format!("STREAM({symbol},{group},{has_zeros},{tokens}) ");
                    kernels.push(Kernel {
                        symbol,
                        threads: 32 * WARPS as u32,
                        shared_bytes: 0,
                        required: vec!["HMMA.16816.F32", "LDGSTS.E.BYPASS"],
                        forbidden: Vec::new(),
                        planned: Planned::default(),
                    });
                }
            }
            units.push(Unit {
                name: format!("stream_{}_w{bits}", scalar.suffix()),
                texts: texts.clone(),
                defines: vec![
                    ("IN".into(), name.into()),
                    ("BITS".into(), bits.to_string()),
                    ("KERNELS".into(), lines),
                ],
                kernels,
            });
        }
    }
    Ok(units)
}
