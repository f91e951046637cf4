//! Products of integers of 8 bits: operands as signed rows, a product without matrix units, convolutions, and what turns
//! exact sums into results.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Bytes of a signed row of `columns` elements: whole pieces of what matrix units read.
pub const fn pitch(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// Rows of `columns` bytes (unsigned or signed) as rows of [`pitch`] signed bytes, unsigned ones less 128, and the sum of
/// each. Operands: 0 the rows, 1 the sums (i32), either of which may be absent; 2 the bytes.
pub fn signed_rows(
    rows: usize,
    columns: usize,
    is_unsigned: bool,
    [writes, sums]: [bool; 2],
) -> Result<Plan> {
    if rows == 0 || columns == 0 || !(writes || sums) {
        return Ok(Plan::default());
    }
    if rows.max(pitch(columns)) >= 1 << 31 {
        return Err(KernelError::shape(format!("{rows} rows of {columns} bytes: at most 2^31 - 1")));
    }
    let flip = if is_unsigned { 0x8080_8080 } else { 0 };
    let structure = Structure::default()
        .u32(rows as u32)
        .u32(columns as u32)
        .u32(pitch(columns) as u32)
        .u32(flip)
        .u32(columns.is_multiple_of(16).into());
    let optional = |operand, given| if given { pointer(operand) } else { Arg::I64(0) };
    let args = vec![optional(0, writes), optional(1, sums), pointer(2), structure.finish()];
    let cost = Cost { flops: 0.0, bytes: (rows * columns * 2) as f64 };
    let grid = [rows.div_ceil(8).min(1 << 20) as u32, 1, 1];
    Ok(overlapping(launch("signed_rows".into(), grid, args, cost)))
}

/// D[m][n] = A[m][k] B[n][k] for signed rows of [`pitch`] bytes, exactly. Operands: 0 D (i32), 1 A, 2 B.
pub fn matmul([m, n, k]: [usize; 3], batches: usize, [a_is_shared, b_is_shared]: [bool; 2]) -> Result<Plan> {
    if m * n * batches == 0 {
        return Ok(Plan::default());
    }
    let words = pitch(k) / 4;
    let (x, y) = (n.div_ceil(64), m.div_ceil(64));
    let is_small = [m * words, n * words].iter().all(|&count| count < 1 << 31);
    if y > 65_535 || batches > 65_535 || !is_small {
        return Err(KernelError::shape(format!(
            "{batches} products of {m} x {k} x {n}: at most 65535 of {} rows",
            65_535 * 64
        )));
    }
    let step = |rows: usize, is_shared: bool| if is_shared { 0 } else { (rows * words) as u32 };
    let structure = Structure::default()
        .u32s::<5>([m as u32, n as u32, words as u32, step(m, a_is_shared), step(n, b_is_shared)], 0);
    let args = vec![pointer(0), pointer(1), pointer(2), structure.finish()];
    let cost = Cost {
        flops: 2.0 * (m * n) as f64 * (k * batches) as f64,
        bytes: ((m + n) * k * batches + m * n * batches * 4) as f64,
    };
    Ok(overlapping(launch("matmul_bytes".into(), [x as u32, y as u32, batches as u32], args, cost)))
}

/// A convolution of bytes, channels first, of three spatial dimensions (missing ones have extent 1 in front).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
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
    pub x_is_unsigned: bool,
    pub w_is_unsigned: bool,
    pub has_x_zero: bool,
    /// 0: none.
    pub w_zeros: usize,
}

impl Window {
    /// Output positions of an image.
    pub fn positions(&self) -> usize {
        self.output.iter().product()
    }

    /// Products of a sum.
    pub fn depth(&self) -> usize {
        self.in_channels * self.kernel.iter().product::<usize>()
    }

    fn parameters(&self, total: usize) -> Arg {
        let extents = [self.input, self.output, self.kernel, self.strides, self.dilations];
        let structure = Structure::default().u32s::<5>(
            [
                total,
                self.groups * self.in_channels,
                self.in_channels,
                self.groups * self.out_channels,
                self.out_channels,
            ]
            .map(|size| size as u32),
            0,
        );
        let flip = |is_unsigned: bool| if is_unsigned { 0x80 } else { 0 };
        extents
            .iter()
            .fold(structure, |structure, extents| structure.u32s::<3>(extents.map(|e| e as u32), 0))
            .i32s::<3>(self.pads.map(|pad| pad as i32))
            .u32(self.kernel.iter().product::<usize>() as u32)
            .u32(self.positions() as u32)
            .u32(self.depth() as u32)
            .u32(pitch(self.depth()) as u32)
            .u32(flip(self.x_is_unsigned))
            .u32(flip(self.w_is_unsigned))
            .u32(self.w_zeros as u32)
            .finish()
    }

    fn check(&self, total: usize) -> Result<()> {
        let inputs = self.batch * self.groups * self.in_channels * self.input.iter().product::<usize>();
        match total.max(inputs).max(self.depth()) {
            most if most >= 1 << 31 => {
                Err(KernelError::shape(format!("a convolution with {most} elements: at most 2^31 - 1")))
            }
            _ => Ok(()),
        }
    }

    /// Patches as signed rows, `[batch][positions][in_channels, taps]`; one group. Operands: 0 the rows, 1 X, 2 X's zero
    /// point.
    pub fn patches(&self) -> Result<Plan> {
        let total = self.batch * self.positions() * pitch(self.depth()) / 4;
        self.check(total)?;
        if self.groups != 1 {
            return Err(KernelError::shape(format!("patches of {} groups: one", self.groups)));
        }
        if total == 0 {
            return Ok(Plan::default());
        }
        let zero = if self.has_x_zero { pointer(2) } else { Arg::I64(0) };
        let args = vec![pointer(0), pointer(1), zero, self.parameters(total)];
        let cost = Cost { flops: 0.0, bytes: 8.0 * total as f64 };
        Ok(overlapping(launch("byte_patches".into(), [blocks(total), 1, 1], args, cost)))
    }

    /// The exact sums, one thread each. Operands: 0 Y (i32), 1 X, 2 W, 3 X's zero point, 4 those of W.
    pub fn conv(&self) -> Result<Plan> {
        let total = self.batch * self.groups * self.out_channels * self.positions();
        self.check(total)?;
        if total == 0 {
            return Ok(Plan::default());
        }
        let optional = |operand, given| if given { pointer(operand) } else { Arg::I64(0) };
        let zeros = [optional(3, self.has_x_zero), optional(4, self.w_zeros > 0)];
        let mut args = vec![pointer(0), pointer(1), pointer(2)];
        args.extend(zeros);
        args.push(self.parameters(total));
        let cost = Cost {
            flops: 2.0 * total as f64 * self.depth() as f64,
            bytes: total as f64 * (4 + self.depth()) as f64,
        };
        Ok(overlapping(launch("byte_conv".into(), [blocks(total), 1, 1], args, cost)))
    }
}

/// The zero points of a side, less 128 where its elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// The same number for all.
    Known(i32),
    /// So many in memory, again and again over the rows or columns.
    Stored { count: usize, is_unsigned: bool },
}

/// What one side of a product has for its rows or columns; counts are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub zeros: Zeros,
    /// How many sums of the side's rows there are; 0: the other side's zero points are 0.
    pub sums: usize,
    /// Count and type of the scales; `None`: 1.
    pub scales: Option<(usize, Scalar)>,
}

/// An addend: i32 before scaling, a float after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bias {
    pub scalar: Scalar,
    /// Elements from row to row and column to column.
    pub strides: [usize; 2],
}

/// From exact sums of signed products to the result with zero points and scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conclusion {
    /// Rows and columns of each matrix, and how many matrices.
    pub extents: [usize; 3],
    /// Products of a sum.
    pub depth: usize,
    pub rows: Side,
    pub columns: Side,
    pub alpha: f32,
    /// The type of the scale of a result that is quantised again.
    pub result_scale: Option<Scalar>,
    pub has_result_zero: bool,
    pub bias: Option<Bias>,
    /// i32, a float, or with a scale u8 or i8.
    pub output: Scalar,
}

impl Conclusion {
    /// How it is started. Operands: 0 the result, 1 the sums, 2 sums of rows, 3 of columns, 4 zero points of rows, 5 of
    /// columns, 6 scales of rows, 7 of columns, 8 scale of the result, 9 its zero point, 10 the bias.
    pub fn plan(&self) -> Result<Plan> {
        let [rows, columns, batches] = self.extents;
        let total = rows * columns * batches;
        let is_byte = matches!(self.output, Scalar::U8 | Scalar::I8);
        let is_known = match self.result_scale {
            Some(scale) => is_byte && scale.is_float(),
            None => self.output == Scalar::I32 || self.output.is_float(),
        };
        let scales = [self.rows, self.columns].into_iter().filter_map(|side| side.scales);
        let bias = self.bias.map_or(Scalar::I32, |bias| bias.scalar);
        if !is_known || !scales.clone().all(|(_, scalar)| scalar.is_float()) {
            return Err(KernelError::parameter(format!(
                "a product of integers in {}: there is no kernel",
                self.output.suffix()
            )));
        }
        if bias != Scalar::I32 && !(bias.is_float() && self.output.is_float()) {
            return Err(KernelError::parameter(format!("an addend of {}", bias.suffix())));
        }
        if total == 0 {
            return Ok(Plan::default());
        }
        if total >= 1 << 31 || self.depth >= 1 << 31 {
            return Err(KernelError::shape(format!("{total} results: at most 2^31 - 1")));
        }
        let lanes = if columns.is_multiple_of(4) { 4 } else { 1 };
        let given = [
            true,
            true,
            self.rows.sums > 0,
            self.columns.sums > 0,
            matches!(self.rows.zeros, Zeros::Stored { .. }),
            matches!(self.columns.zeros, Zeros::Stored { .. }),
            self.rows.scales.is_some(),
            self.columns.scales.is_some(),
            self.result_scale.is_some(),
            self.has_result_zero,
            self.bias.is_some(),
        ];
        let pointers = given.iter().enumerate();
        let mut args: Vec<Arg> =
            pointers.map(|(operand, given)| if *given { pointer(operand) } else { Arg::I64(0) }).collect();
        args.push(self.parameters(total));
        let cost = Cost { flops: 0.0, bytes: (total * (4 + self.output.bytes())) as f64 };
        let symbol = format!("integer_result_v{lanes}");
        Ok(overlapping(launch(symbol, [blocks(total / lanes), 1, 1], args, cost)))
    }

    fn parameters(&self, total: usize) -> Arg {
        let [rows, columns, _] = self.extents;
        let known = |side: Side| if let Zeros::Known(zero) = side.zeros { zero } else { 0 };
        let flip = |side: Side| match side.zeros {
            Zeros::Stored { is_unsigned: true, .. } => 0x80,
            _ => 0,
        };
        let zeros = |side: Side| if let Zeros::Stored { count, .. } = side.zeros { count } else { 0 };
        let scales = |side: Side| side.scales.map_or((0, 0), |(count, scalar)| (count as u32, scalar as u32));
        let (r, c) = (self.rows, self.columns);
        let spreads = [
            (zeros(r) as u32, 0),
            (zeros(c) as u32, 0),
            (r.sums as u32, 0),
            (c.sums as u32, 0),
            scales(r),
            scales(c),
        ];
        let structure = Structure::default()
            .u32s::<3>([rows as u32, columns as u32, total as u32], 0)
            .i32s::<3>([self.depth as i32, known(r), known(c)])
            .u32s::<2>([flip(r), flip(c)], 0);
        let [bias_row, bias_column] = self.bias.map_or([0; 2], |bias| bias.strides.map(|s| s as u32));
        spreads
            .iter()
            .fold(structure, |structure, &(count, dtype)| structure.u32(count).u32(dtype))
            .u32(self.result_scale.map_or(0, |scalar| scalar as u32))
            .u32((self.output == Scalar::I8).into())
            .u32(self.bias.map_or(0, |bias| bias.scalar as u32))
            .u32(bias_row)
            .u32(bias_column)
            .f32(self.alpha)
            .u32(self.output as u32)
            .finish()
    }
}

/// The scale and zero point of u8 that cover the values of a tensor and zero. Operands: 0 the scale (f32), 1 the zero
/// point, 2 the values.
pub fn dynamic_scale(scalar: Scalar, total: usize) -> Result<Plan> {
    if !scalar.is_float() || total >= 1 << 31 {
        return Err(KernelError::parameter(format!("the range of {total} {} elements", scalar.suffix())));
    }
    let parts = total.div_ceil(256 * 8).clamp(1, 1024);
    let space = Arg::Workspace { offset_bytes: 0 };
    let args = vec![space.clone(), pointer(2), Arg::U32(total as u32)];
    let cost = Cost { flops: 0.0, bytes: (total * scalar.bytes()) as f64 };
    let symbol = format!("dynamic_range_{}", scalar.suffix());
    let mut plan = launch(symbol, [parts as u32, 1, 1], args, cost);
    let args = vec![pointer(0), pointer(1), space, Arg::U32(parts as u32)];
    let joined = Cost { flops: 0.0, bytes: (8 * parts) as f64 };
    plan.launches.extend(launch("dynamic_scale".into(), [1, 1, 1], args, joined).launches);
    plan.workspace_bytes = (8 * parts) as u64;
    Ok(overlapping(plan))
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/integer.cu", text: include_str!("../../device/integer.cu") };
    let names = [
        "signed_rows",
        "byte_patches",
        "byte_conv",
        "matmul_bytes",
        "integer_result_v1",
        "integer_result_v4",
        "dynamic_range_f32",
        "dynamic_range_f16",
        "dynamic_range_bf16",
        "dynamic_scale",
    ];
    Unit {
        name: "integer".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: names.map(kernel).into(),
    }
}
