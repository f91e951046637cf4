//! Products without matrix units: matrices of any strides and types, and convolutions. The reference for the fast paths,
//! and what serves shapes and types that those do not take.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, division, kernel, launch, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions of a batch after neighbours have been joined.
pub const BATCH_RANK: usize = 3;

/// What is done to a sum before it is stored. The numbers are those of the device text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    #[default]
    None,
    Relu,
    LeakyRelu(f32),
    Clip(f32, f32),
    Sigmoid,
    Tanh,
    Silu,
    Gelu,
    GeluTanh,
    HardSigmoid(f32, f32),
    HardSwish,
    Elu(f32),
}

const ACTIVATIONS: [&str; 12] = [
    "NONE",
    "RELU",
    "LEAKY_RELU",
    "CLIP",
    "SIGMOID",
    "TANH",
    "SILU",
    "GELU",
    "GELU_TANH",
    "HARD_SIGMOID",
    "HARD_SWISH",
    "ELU",
];

impl Activation {
    fn put(self, structure: Structure) -> Structure {
        let (number, alpha, beta) = match self {
            Activation::None => (0, 0.0, 0.0),
            Activation::Relu => (1, 0.0, 0.0),
            Activation::LeakyRelu(alpha) => (2, alpha, 0.0),
            Activation::Clip(low, high) => (3, low, high),
            Activation::Sigmoid => (4, 0.0, 0.0),
            Activation::Tanh => (5, 0.0, 0.0),
            Activation::Silu => (6, 0.0, 0.0),
            Activation::Gelu => (7, 0.0, 0.0),
            Activation::GeluTanh => (8, 0.0, 0.0),
            Activation::HardSigmoid(alpha, beta) => (9, alpha, beta),
            Activation::HardSwish => (10, 0.0, 0.0),
            Activation::Elu(alpha) => (11, alpha, 0.0),
        };
        structure.u32(number).f32(alpha).f32(beta)
    }
}

/// `C = activation(alpha * A B + beta * bias)` for every product of a batch; C is contiguous. Strides in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub scalar: Scalar,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// (m, k) of A, (k, n) of B, (m, n) of the bias.
    pub a_strides: (i64, i64),
    pub b_strides: (i64, i64),
    pub bias_strides: Option<(i64, i64)>,
    /// Outermost first, at most [`BATCH_RANK`]; (a, b, bias) strides for each.
    pub batch: Vec<(usize, [i64; 3])>,
    pub alpha: f32,
    pub beta: f32,
    pub activation: Activation,
}

/// Side of the square tile for an output of `rows` by `columns`, `copies` times: the largest that still fills the chip.
fn tile(rows: usize, columns: usize, copies: usize, compute_units: u32) -> usize {
    let tiles = |side: usize| rows.div_ceil(side) * columns.div_ceil(side) * copies;
    [128, 64]
        .into_iter()
        .find(|&side| tiles(side) >= compute_units as usize && rows.min(columns) > side / 2)
        .unwrap_or(32)
}

/// How a product is started. Operands: 0 C, 1 A, 2 B, 3 the bias.
pub fn matmul(problem: &Product, compute_units: u32) -> Result<Plan> {
    let copies: usize = problem.batch.iter().map(|(extent, _)| extent).product();
    let (m, n, k) = (problem.m, problem.n, problem.k);
    if m * n * copies == 0 {
        return Ok(Plan::default());
    }
    if problem.batch.len() > BATCH_RANK || copies > 65_535 || [m * n, k].iter().any(|&size| size >= 1 << 31) {
        return Err(KernelError::shape(format!(
            "{copies} products of {m} x {k} x {n} in {} dimensions: at most 65535 in {BATCH_RANK}",
            problem.batch.len()
        )));
    }
    let (symbol, grid) = strategy(problem, copies, compute_units)?;
    let bias = if problem.bias_strides.is_some() { pointer(3) } else { Arg::I64(0) };
    let (bias_m, bias_n) = problem.bias_strides.unwrap_or((0, 0));
    let batch = |operand: usize| problem.batch.iter().rev().map(move |(_, strides)| strides[operand]);
    let structure = Structure::default()
        .u32(m as u32)
        .u32(n as u32)
        .u32(k as u32)
        .u32s::<BATCH_RANK>(problem.batch.iter().rev().map(|&(extent, _)| extent as u32), 1)
        .i64s::<BATCH_RANK>(batch(0))
        .i64s::<BATCH_RANK>(batch(1))
        .i64s::<BATCH_RANK>(batch(2))
        .i64s::<6>([
            problem.a_strides.0,
            problem.a_strides.1,
            problem.b_strides.0,
            problem.b_strides.1,
            bias_m,
            bias_n,
        ])
        .f32(problem.alpha)
        .f32(problem.beta);
    let parameters = problem.activation.put(structure).finish();
    let distinct = |operand: usize| -> usize {
        problem.batch.iter().filter(|(_, s)| s[operand] != 0).map(|(extent, _)| extent).product()
    };
    let elements = m * k * distinct(0) + k * n * distinct(1) + m * n * copies;
    let cost = Cost {
        flops: 2.0 * (m * n) as f64 * (k * copies) as f64,
        bytes: (elements * problem.scalar.bytes()) as f64,
    };
    Ok(launch(symbol, grid, vec![pointer(0), pointer(1), pointer(2), bias, parameters], cost))
}

fn strategy(problem: &Product, copies: usize, compute_units: u32) -> Result<(String, [u32; 3])> {
    let (m, n, suffix, z) = (problem.m, problem.n, problem.scalar.suffix(), copies as u32);
    if !problem.scalar.is_float() {
        if !matches!(problem.scalar, Scalar::F64 | Scalar::I32 | Scalar::U32 | Scalar::I64 | Scalar::U64) {
            return Err(KernelError::parameter(format!("a product of {suffix}: there is no kernel")));
        }
        if problem.activation != Activation::None {
            return Err(KernelError::parameter(format!("a product of {suffix} with an activation")));
        }
        return Ok((format!("matmul_exact_{suffix}"), [blocks(m * n), 1, z]));
    }
    let reads_rows = problem.a_strides.1 == 1 && problem.b_strides.0 == 1;
    if m <= 8 && problem.k >= 64 && reads_rows {
        return Ok((format!("matmul_wave_{suffix}"), [n.div_ceil(4) as u32, m as u32, z]));
    }
    let side = tile(m, n, copies, compute_units);
    let (x, y) = (n.div_ceil(side), m.div_ceil(side));
    if y > 65_535 {
        return Err(KernelError::shape(format!("{m} rows: at most {}", 65_535 * side)));
    }
    Ok((format!("matmul_tile{side}_{suffix}"), [x as u32, y as u32, z]))
}

/// A convolution, channels first, of three spatial dimensions (missing ones have extent 1 in front).
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    pub scalar: Scalar,
    pub batch: usize,
    pub groups: usize,
    /// Channels of one group.
    pub in_channels: usize,
    pub out_channels: usize,
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub strides: [usize; 3],
    pub dilations: [usize; 3],
    /// In front of each dimension.
    pub pads: [i64; 3],
    pub has_bias: bool,
    pub has_residual: bool,
    pub activation: Activation,
    /// The gradient's direction: `input` is the small side.
    pub is_transposed: bool,
}

/// How a convolution is started. Operands: 0 Y, 1 X, 2 the filter, 3 the bias, 4 the residual.
pub fn conv(problem: &Conv, compute_units: u32) -> Result<Plan> {
    let volume = |extents: &[usize; 3]| extents.iter().product::<usize>();
    let (taps, positions) = (volume(&problem.kernel), volume(&problem.output));
    let (channels, suffix) = (problem.groups * problem.out_channels, problem.scalar.suffix());
    let outputs = problem.batch * channels * positions;
    if outputs == 0 {
        return Ok(Plan::default());
    }
    if !problem.scalar.is_float() {
        return Err(KernelError::parameter(format!("a convolution of {suffix}: there is no kernel")));
    }
    let depth = problem.in_channels * taps;
    if outputs >= 1 << 31 || depth >= 1 << 31 || problem.groups > 65_535 {
        return Err(KernelError::shape(format!("a convolution with {outputs} outputs: at most 2^31 - 1")));
    }
    let is_narrow = problem.out_channels < 8 || problem.in_channels == 1;
    let (symbol, grid) = if problem.is_transposed {
        (format!("conv_transpose_{suffix}"), [blocks(outputs), 1, 1])
    } else if is_narrow {
        (format!("conv_direct_{suffix}"), [blocks(outputs), 1, 1])
    } else {
        let columns = problem.batch * positions;
        let side = tile(problem.out_channels, columns, problem.groups, compute_units);
        let (x, y) = (columns.div_ceil(side) as u32, problem.out_channels.div_ceil(side) as u32);
        (format!("conv_tile{side}_{suffix}"), [x, y, problem.groups as u32])
    };
    let (magic, shift) = division(taps as u32);
    let structure = Structure::default()
        .u32(problem.batch as u32)
        .u32(problem.groups as u32)
        .u32(problem.in_channels as u32)
        .u32(problem.out_channels as u32);
    let extents = [problem.input, problem.output, problem.kernel, problem.strides, problem.dilations];
    let structure = extents
        .iter()
        .fold(structure, |structure, extents| structure.u32s::<3>(extents.map(|extent| extent as u32), 0))
        .i32s::<3>(problem.pads.map(|pad| pad as i32))
        .u32(taps as u32)
        .u32(positions as u32)
        .u32(magic)
        .u32(shift);
    let parameters = problem.activation.put(structure).finish();
    let optional = |operand, given| if given { pointer(operand) } else { Arg::I64(0) };
    let args = vec![
        pointer(0),
        pointer(1),
        pointer(2),
        optional(3, problem.has_bias),
        optional(4, problem.has_residual),
        parameters,
    ];
    let inputs = problem.batch * problem.groups * problem.in_channels * volume(&problem.input);
    let macs = if problem.is_transposed { inputs * problem.out_channels * taps } else { outputs * depth };
    let elements = inputs + channels * depth + outputs * (1 + usize::from(problem.has_residual));
    let cost = Cost { flops: 2.0 * macs as f64, bytes: (elements * problem.scalar.bytes()) as f64 };
    Ok(launch(symbol, grid, args, cost))
}

/// What the build compiles.
pub fn units(arch: Text) -> [Unit; 2] {
    let tile = Text { path: "device/tile.cu", text: include_str!("../../device/tile.cu") };
    let matmul = Text { path: "device/matmul.cu", text: include_str!("../../device/matmul.cu") };
    let conv = Text { path: "device/conv.cu", text: include_str!("../../device/conv.cu") };
    let mut defines: Vec<(String, String)> = ACTIVATIONS
        .iter()
        .enumerate()
        .map(|(number, name)| (format!("ACTIVATION_{name}"), number.to_string()))
        .collect();
    defines.push(("MATMUL_BATCH_RANK".into(), BATCH_RANK.to_string()));
    let floats = ["f32", "f16", "bf16"];
    let each = |names: &[&str], suffixes: &[&str]| -> Vec<_> {
        names
            .iter()
            .flat_map(|name| suffixes.iter().map(move |suffix| kernel(format!("{name}_{suffix}"))))
            .collect()
    };
    let mut products = each(&["matmul_tile32", "matmul_tile64", "matmul_tile128", "matmul_wave"], &floats);
    products.extend(each(&["matmul_exact"], &["f64", "i32", "u32", "i64", "u64"]));
    let convs = ["conv_tile32", "conv_tile64", "conv_tile128", "conv_direct", "conv_transpose"];
    let unit = |name: &str, own: Text, kernels| Unit {
        name: name.into(),
        texts: vec![arch, scalar::TEXT, tile, own],
        defines: defines.clone(),
        kernels,
    };
    [unit("plain_matmul", matmul, products), unit("plain_conv", conv, each(&convs, &floats))]
}
