//! Pooling over windows, and resizing of images by nearest neighbours or linearly.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions of a resize.
pub const RESIZE_RANK: usize = 5;

/// What a window becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooling {
    Max,
    /// The divisor counts padded elements, or does not.
    Average {
        counts_padding: bool,
    },
    /// The p-norm.
    Lp {
        p: f32,
    },
}

/// Windows of three spatial dimensions (missing ones have extent 1 in front).
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub scalar: Scalar,
    pub op: Pooling,
    /// Batch times channels.
    pub planes: usize,
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub strides: [usize; 3],
    pub dilations: [usize; 3],
    pub pads: [i64; 3],
    pub pads_end: [i64; 3],
    pub has_positions: bool,
    pub is_column_major: bool,
}

fn check(scalar: Scalar, outputs: usize) -> Result<()> {
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!("elements of type {}: floats only", scalar.suffix())));
    }
    if outputs >= 1 << 31 {
        return Err(KernelError::shape(format!("{outputs} outputs: at most 2^31 - 1")));
    }
    Ok(())
}

/// How a pooling is started. Operands: 0 Y, 1 the positions of maxima (i64), 2 X.
pub fn pool(problem: &Pool) -> Result<Plan> {
    let outputs = problem.planes * problem.output.iter().product::<usize>();
    let is_byte = matches!(problem.scalar, Scalar::U8 | Scalar::I8);
    // The largest of some bytes is one of them.
    check(if is_byte && problem.op == Pooling::Max { Scalar::F32 } else { problem.scalar }, outputs)?;
    if outputs == 0 {
        return Ok(Plan::default());
    }
    let (op, counts_padding, p) = match problem.op {
        Pooling::Max => (0, false, 0.0),
        Pooling::Average { counts_padding } => (1, counts_padding, 0.0),
        Pooling::Lp { p } => (2, false, p),
    };
    let extents = [problem.input, problem.output, problem.kernel, problem.strides, problem.dilations];
    let parameters = extents
        .iter()
        .fold(Structure::default().u32(problem.planes as u32), |structure, extents| {
            structure.u32s::<3>(extents.map(|extent| extent as u32), 0)
        })
        .i32s::<3>(problem.pads.map(|pad| pad as i32))
        .i32s::<3>(problem.pads_end.map(|pad| pad as i32))
        .u32(op)
        .u32(counts_padding.into())
        .u32(problem.is_column_major.into())
        .f32(p)
        .finish();
    let positions = if problem.has_positions { pointer(1) } else { Arg::I64(0) };
    let inputs = problem.planes * problem.input.iter().product::<usize>();
    let cost = Cost {
        flops: (outputs * problem.kernel.iter().product::<usize>()) as f64,
        bytes: ((inputs + outputs) * problem.scalar.bytes()) as f64,
    };
    let args = vec![pointer(0), positions, pointer(2), parameters];
    let symbol = format!("pool_{}", problem.scalar.suffix());
    Ok(overlapping(launch(symbol, [blocks(outputs), 1, 1], args, cost)))
}

/// Which neighbour a position between two takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Nearest {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// One dimension of a resize: the source position of output `i` is `(i + shift) * times / over + offset`, rounded
/// after each operation: a quotient of scales is often none that a float holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizeDim {
    pub input: usize,
    pub output: usize,
    pub times: f32,
    pub over: f32,
    pub shift: f32,
    pub offset: f32,
}

/// How a resize is started; `dims` outermost first, `nearest` or linear. Operands: 0 Y, 1 X.
pub fn resize(scalar: Scalar, dims: &[ResizeDim], nearest: Option<Nearest>) -> Result<Plan> {
    let outputs: usize = dims.iter().map(|dim| dim.output).product();
    check(scalar, outputs)?;
    if outputs == 0 {
        return Ok(Plan::default());
    }
    if dims.len() > RESIZE_RANK {
        return Err(KernelError::shape(format!("resizing {} dimensions: at most {RESIZE_RANK}", dims.len())));
    }
    let inner_first = || dims.iter().rev();
    let parameters = Structure::default()
        .u32(outputs as u32)
        .u32(dims.len() as u32)
        .u32s::<RESIZE_RANK>(inner_first().map(|dim| dim.input as u32), 1)
        .u32s::<RESIZE_RANK>(inner_first().map(|dim| dim.output as u32), 1)
        .f32s::<RESIZE_RANK>(inner_first().map(|dim| dim.times))
        .f32s::<RESIZE_RANK>(inner_first().map(|dim| dim.over))
        .f32s::<RESIZE_RANK>(inner_first().map(|dim| dim.offset))
        .f32s::<RESIZE_RANK>(inner_first().map(|dim| dim.shift))
        .u32(nearest.is_none().into())
        .u32(nearest.unwrap_or(Nearest::PreferFloor) as u32)
        .finish();
    let inputs: usize = dims.iter().map(|dim| dim.input).product();
    let cost = Cost { flops: 8.0 * outputs as f64, bytes: ((inputs + outputs) * scalar.bytes()) as f64 };
    let args = vec![pointer(0), pointer(1), parameters];
    Ok(overlapping(launch(format!("resize_{}", scalar.suffix()), [blocks(outputs), 1, 1], args, cost)))
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/pool.cu", text: include_str!("../../device/pool.cu") };
    let numbers = [
        ("POOL_MAX", 0),
        ("POOL_AVERAGE", 1),
        ("POOL_LP", 2),
        ("NEAREST_PREFER_FLOOR", 0),
        ("NEAREST_PREFER_CEIL", 1),
        ("NEAREST_FLOOR", 2),
        ("NEAREST_CEIL", 3),
        ("RESIZE_RANK", RESIZE_RANK as u32),
    ];
    let kernels = ["pool", "resize"];
    Unit {
        name: "pool".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: numbers.iter().map(|(name, number)| (name.to_string(), number.to_string())).collect(),
        kernels: kernels
            .iter()
            .flat_map(|name| ["f32", "f16", "bf16"].map(|suffix| kernel(format!("{name}_{suffix}"))))
            .chain(["pool_u8", "pool_i8"].map(kernel))
            .collect(),
    }
}
