//! Products without matrix units: matrices of any strides and types, and convolutions. The reference for the fast paths,
//! and what serves shapes and types that those do not take.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
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
    Ok(overlapping(launch(symbol, grid, vec![pointer(0), pointer(1), pointer(2), bias, parameters], cost)))
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
    let columns = problem.batch * positions;
    let (strategy, parts) = Strategy::new(problem, depth, columns, taps, compute_units);
    let part_k = depth.div_ceil(parts).next_multiple_of(CONV_DEPTH);
    let parts = depth.div_ceil(part_k).max(1);
    let parameters = conv_parameters(problem, part_k, parts);
    let optional = |operand, given| if given { pointer(operand) } else { Arg::I64(0) };
    let behind = [optional(3, problem.has_bias), optional(4, problem.has_residual), parameters];
    let inputs = problem.batch * problem.groups * problem.in_channels * volume(&problem.input);
    let macs = if problem.is_transposed { inputs * problem.out_channels * taps } else { outputs * depth };
    let elements = inputs + channels * depth + outputs * (1 + usize::from(problem.has_residual));
    let cost = Cost { flops: 2.0 * macs as f64, bytes: (elements * problem.scalar.bytes()) as f64 };
    let Strategy::Product([rows, side]) = strategy else {
        let (name, items) = match strategy {
            Strategy::Transposed => ("conv_transpose".to_owned(), outputs),
            Strategy::Depthwise(width, stride) => {
                let strips = problem.output[2].div_ceil(4) * problem.output[1];
                (format!("conv_depthwise_{width}s{stride}"), problem.batch * problem.groups * strips)
            }
            _ => ("conv_direct".to_owned(), outputs),
        };
        let args = [pointer(0), pointer(1), pointer(2)].into_iter().chain(behind).collect();
        return Ok(overlapping(launch(format!("{name}_{suffix}"), [blocks(items), 1, 1], args, cost)));
    };
    let grid = [
        columns.div_ceil(side) as u32,
        problem.out_channels.div_ceil(rows) as u32,
        (problem.groups * parts) as u32,
    ];
    let sums = if parts > 1 { Arg::Workspace { offset_bytes: 0 } } else { Arg::I64(0) };
    let args = [pointer(0), sums.clone(), pointer(1), pointer(2)].into_iter().chain(behind.clone()).collect();
    let mut plan = launch(format!("conv_product_{rows}x{side}_{suffix}"), grid, args, cost);
    if parts > 1 {
        plan.workspace_bytes = (parts * outputs * 4) as u64;
        let args = [pointer(0), sums].into_iter().chain(behind).collect();
        let joined = Cost { flops: 0.0, bytes: plan.workspace_bytes as f64 };
        let join = launch(format!("conv_join_{suffix}"), [blocks(outputs), 1, 1], args, joined);
        plan.launches.extend(join.launches);
    }
    Ok(overlapping(plan))
}

fn conv_parameters(problem: &Conv, part_k: usize, parts: usize) -> Arg {
    let volume = |extents: &[usize; 3]| extents.iter().product::<usize>();
    let (taps, positions) = (volume(&problem.kernel), volume(&problem.output));
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
        .u32(part_k as u32)
        .u32(parts as u32);
    problem.activation.put(structure).finish()
}

/// Patches as rows of a matrix, `[batch * positions][in_channels * taps]`, of 16-bit elements; one group. Operands: 0 the
/// matrix, 1 X.
pub fn conv_patches(problem: &Conv) -> Result<Plan> {
    let volume = |extents: &[usize; 3]| extents.iter().product::<usize>();
    let depth = problem.in_channels * volume(&problem.kernel);
    let columns = problem.batch * volume(&problem.output);
    let (x, y) = (columns.div_ceil(64), depth.div_ceil(64));
    if problem.scalar.bytes() != 2 || problem.groups != 1 || !depth.is_multiple_of(2) || y > 65_535 {
        return Err(KernelError::shape(format!(
            "patches of {depth} {} elements in {} groups: an even number of 16 bits in one group",
            problem.scalar.suffix(),
            problem.groups
        )));
    }
    if x == 0 || y == 0 {
        return Ok(Plan::default());
    }
    let inputs = problem.batch * problem.in_channels * volume(&problem.input);
    let cost = Cost { flops: 0.0, bytes: 2.0 * (inputs + columns * depth) as f64 };
    let args = vec![pointer(0), pointer(1), conv_parameters(problem, depth, 1)];
    Ok(overlapping(launch("conv_patches".into(), [x as u32, y as u32, 1], args, cost)))
}

/// Taps of a window at most, and the depth of a tile, of the convolutions by product.
const CONV_TAPS: usize = 128;
const CONV_DEPTH: usize = 16;
/// Tiles of channels by positions.
const CONV_TILES: [[usize; 2]; 3] = [[128, 64], [64, 64], [32, 64]];

/// Widths and strides of windows with a depthwise kernel.
const DEPTHWISE: [(usize, usize); 5] = [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)];

/// Which kernel computes a convolution.
enum Strategy {
    Transposed,
    /// Width of the window, stride.
    Depthwise(usize, usize),
    Direct,
    /// Channels and positions of a tile.
    Product([usize; 2]),
}

impl Strategy {
    /// The kernel, and the parts into which the depth is cut.
    fn new(
        problem: &Conv,
        depth: usize,
        columns: usize,
        taps: usize,
        compute_units: u32,
    ) -> (Strategy, usize) {
        let (width, stride) = (problem.kernel[2], problem.strides[2]);
        if problem.is_transposed {
            return (Strategy::Transposed, 1);
        }
        let is_depthwise = problem.in_channels == 1 && problem.out_channels == 1;
        let has_kernel = DEPTHWISE.contains(&(width, stride));
        if is_depthwise && has_kernel && problem.kernel[0] == 1 && problem.dilations[2] == 1 {
            return (Strategy::Depthwise(width, stride), 1);
        }
        if problem.out_channels < 8 || (problem.in_channels == 1 && problem.groups > 1) || taps > CONV_TAPS {
            return (Strategy::Direct, 1);
        }
        let steps = depth.div_ceil(CONV_DEPTH);
        let most = (steps / 4).clamp(1, (65_535 / problem.groups).min(64));
        let mut best = (f64::INFINITY, (Strategy::Direct, 1));
        for tile in CONV_TILES {
            for parts in (1..=most).filter(|parts| parts.is_power_of_two() || parts % 3 == 0) {
                let cycles = product_cycles(problem, tile, columns, steps, parts, compute_units);
                if cycles < best.0 {
                    best = (cycles, (Strategy::Product(tile), parts));
                }
            }
        }
        best.1
    }
}

/// Estimated clock cycles of a convolution by product: the steps of the busiest unit, and the second kernel where the
/// depth is cut. A unit with few blocks waits for each step's reads.
fn product_cycles(
    problem: &Conv,
    [rows, side]: [usize; 2],
    columns: usize,
    steps: usize,
    parts: usize,
    compute_units: u32,
) -> f64 {
    let units = compute_units as usize;
    let tiles = problem.out_channels.div_ceil(rows) * columns.div_ceil(side) * problem.groups * parts;
    let each = tiles.div_ceil(units) as f64;
    let chain = steps.div_ceil(parts) as f64;
    let step = (rows * side) as f64 * 0.25 + 300.0;
    let joined = match parts {
        1 => 0.0,
        _ => {
            5500.0
                + (parts * problem.groups * problem.out_channels * columns * 8) as f64 / (units as f64 * 12.0)
        }
    };
    (each * step).max(step + 600.0) * chain + 2000.0 + joined
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
    defines.push(("CONV_TAPS".into(), CONV_TAPS.to_string()));
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
    let tiles: Vec<String> =
        CONV_TILES.iter().map(|[rows, side]| format!("conv_product_{rows}x{side}")).collect();
    let mut convs: Vec<&str> = tiles.iter().map(String::as_str).collect();
    let windows: Vec<String> =
        DEPTHWISE.iter().map(|(width, stride)| format!("conv_depthwise_{width}s{stride}")).collect();
    convs.extend(windows.iter().map(String::as_str));
    convs.extend(["conv_join", "conv_direct", "conv_transpose"]);
    let unit = |name: &str, own: Text, kernels| Unit {
        name: name.into(),
        texts: vec![arch, scalar::TEXT, tile, own],
        defines: defines.clone(),
        kernels,
    };
    let mut convolutions = each(&convs, &floats);
    convolutions.push(kernel("conv_patches"));
    [unit("plain_matmul", matmul, products), unit("plain_conv", conv, convolutions)]
}
