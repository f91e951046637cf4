//! Integer matrix products with zero points, and the quantisation of values to 8 bits.

use smallvec::SmallVec;
use tenon_kernels::cpu::igemm::{self as kernel, ByteMatrix};
use tenon_kernels::cpu::{Context as Cpu, Matrix as View};

use crate::error::{OpError, Result};
use crate::tensor::{DType, Tensor};

/// Zero points of an operand: one for all, or one a row (column).
#[derive(Clone, Debug)]
pub struct ZeroPoints(SmallVec<[i32; 4]>);

impl ZeroPoints {
    /// The zero points in a tensor; 0 when there is none.
    pub fn read(tensor: Option<&Tensor>) -> Result<ZeroPoints> {
        let Some(tensor) = tensor else {
            return Ok(ZeroPoints(SmallVec::from_slice(&[0])));
        };
        let values = to_i32s(tensor)?;
        if values.is_empty() {
            Err(OpError::invalid("a zero point tensor is empty"))
        } else {
            Ok(ZeroPoints(values))
        }
    }

    /// The zero points of `count` rows of matrix `batch`.
    pub fn of(&self, batch: usize, count: usize) -> Result<&[i32]> {
        let all = &self.0[..];
        match all.len() {
            1 => Ok(all),
            len if len == count => Ok(all),
            len if len.is_multiple_of(count.max(1)) && len >= (batch + 1) * count => {
                Ok(&all[batch * count..][..count])
            }
            len => Err(OpError::invalid(format!("{len} zero points for {count} rows or columns"))),
        }
    }
}

impl From<&[i32]> for ZeroPoints {
    fn from(values: &[i32]) -> ZeroPoints {
        ZeroPoints(values.into())
    }
}

/// An 8-bit (or narrower) tensor as i32 values.
pub fn to_i32s(tensor: &Tensor) -> Result<SmallVec<[i32; 4]>> {
    match tensor.dtype() {
        DType::U8 => Ok(tensor.as_slice::<u8>()?.iter().map(|&v| i32::from(v)).collect()),
        DType::I8 => Ok(tensor.as_slice::<i8>()?.iter().map(|&v| i32::from(v)).collect()),
        DType::I16 => Ok(tensor.as_slice::<i16>()?.iter().map(|&v| i32::from(v)).collect()),
        DType::U16 => Ok(tensor.as_slice::<u16>()?.iter().map(|&v| i32::from(v)).collect()),
        DType::I32 => Ok(tensor.as_slice::<i32>()?.into()),
        other => Err(OpError::unsupported(format!("expected an 8-bit integer tensor, got {other}"))),
    }
}

/// Errors unless the type is int8, uint8 or not known yet.
pub fn check(dtype: DType) -> Result<()> {
    match dtype {
        DType::U8 | DType::I8 | DType::Undefined => Ok(()),
        other => Err(OpError::unsupported(format!("expected int8 or uint8, got {other}"))),
    }
}

/// Is the 8-bit type signed?
pub fn is_signed(dtype: DType) -> Result<bool> {
    check(dtype)?;
    Ok(dtype == DType::I8)
}

/// A right-hand matrix of `k × n` bytes in the layout of the integer kernel.
pub struct PackedBytes(kernel::PackedBytes);

impl PackedBytes {
    /// Packs `k × n` bytes (stored `n × k` when `transposed`).
    pub fn new(
        cpu: &Cpu<'_>,
        bytes: &[u8],
        signed: bool,
        k: usize,
        n: usize,
        transposed: bool,
    ) -> Result<PackedBytes> {
        let (rows, columns) = if transposed { (n, k) } else { (k, n) };
        Ok(PackedBytes(kernel::PackedBytes::pack(*cpu, matrix(bytes, signed, rows, columns, transposed)?)?))
    }

    pub fn columns(&self) -> usize {
        self.0.n()
    }

    pub fn rows(&self) -> usize {
        self.0.k()
    }
}

/// The first `rows × columns` bytes as a matrix, its rows and columns exchanged when `transposed`.
fn matrix(
    bytes: &[u8],
    signed: bool,
    rows: usize,
    columns: usize,
    transposed: bool,
) -> Result<ByteMatrix<'_>> {
    let Some(bytes) = bytes.get(..rows * columns) else {
        return Err(OpError::invalid(format!("{} bytes are no matrix of {rows} × {columns}", bytes.len())));
    };
    if !signed {
        let view = View::row_major(bytes, rows, columns);
        return Ok(ByteMatrix::Unsigned(if transposed { view.transposed() } else { view }));
    }
    // SAFETY: i8 has the size and alignment of u8, and every byte is a value of it.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<i8>(), bytes.len()) };
    let view = View::row_major(bytes, rows, columns);
    Ok(ByteMatrix::Signed(if transposed { view.transposed() } else { view }))
}

/// A left-hand matrix of `m × k` bytes, row-major.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    pub data: &'a [u8],
    pub signed: bool,
    pub m: usize,
}

/// `c = (a - a_zero) · (b - b_zero)` for matrix `batch` (of `a`, of `b`) of the batch, `c` row-major `m × n`.
pub fn multiply(
    cpu: &Cpu<'_>,
    a: Bytes<'_>,
    a_zero: &ZeroPoints,
    b: &PackedBytes,
    b_zero: &ZeroPoints,
    batch: (usize, usize),
    c: &mut [i32],
) -> Result<()> {
    let (k, n) = (b.rows(), b.columns());
    let zeros = kernel::ZeroPoints { a: a_zero.of(batch.0, a.m)?, b: b_zero.of(batch.1, n)? };
    Ok(kernel::gemm_bytes(*cpu, matrix(a.data, a.signed, a.m, k, false)?, &b.0, zeros, c, n)?)
}

/// Rounds `value` (already divided by the scale) to the nearest even integer and saturates it to 8 bits.
pub fn saturate(value: f32, zero_point: i32, signed: bool) -> u8 {
    let (low, high) = if signed { (-128.0, 127.0) } else { (0.0, 255.0) };
    let shifted = value.round_ties_even() + zero_point as f32;
    (shifted.clamp(low, high) as i32) as u8
}

/// The uint8 quantisation that covers all `values` and zero: scale and zero point, as DynamicQuantizeLinear has it.
pub fn dynamic_range(values: &[f32]) -> (f32, u8) {
    let (low, high) = values.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v)));
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    (scale, (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8)
}

/// Quantises `values` to uint8.
pub fn quantize_into(values: &[f32], scale: f32, zero_point: u8, out: &mut [u8]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = saturate(value / scale, i32::from(zero_point), false);
    }
}
