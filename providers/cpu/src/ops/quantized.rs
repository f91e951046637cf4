//! Integer matrix products with zero points: u8 by i8 sums in i32, other signs shifted onto that form and corrected by
//! row and column sums.

use smallvec::SmallVec;
use tenon_kernels::cpu::Context as Cpu;

use super::rows::for_rows;
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
        if values.is_empty() { Err(OpError::invalid("a zero point tensor is empty")) } else { Ok(ZeroPoints(values)) }
    }

    /// The zero points of `count` rows of matrix `batch`.
    pub fn of(&self, batch: usize, count: usize) -> Result<&[i32]> {
        let all = &self.0[..];
        match all.len() {
            1 => Ok(all),
            len if len == count => Ok(all),
            len if len >= (batch + 1) * count => Ok(&all[batch * count..][..count]),
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

/// A right-hand matrix of `k × n` signed bytes with its column sums.
pub struct PackedBytes {
    k: usize,
    n: usize,
    data: Vec<i8>,
    column_sums: Vec<i32>,
    /// What was subtracted from every element to make it a signed byte.
    shift: i32,
}

impl PackedBytes {
    /// Packs `k × n` bytes (stored `n × k` when `transposed`).
    pub fn new(bytes: &[u8], signed: bool, k: usize, n: usize, transposed: bool) -> PackedBytes {
        let flip = if signed { 0 } else { 0x80 };
        let mut data = Vec::with_capacity(k * n);
        if transposed {
            for p in 0..k {
                data.extend((0..n).map(|j| (bytes[j * k + p] ^ flip) as i8));
            }
        } else {
            data.extend(bytes[..k * n].iter().map(|&byte| (byte ^ flip) as i8));
        }
        let mut column_sums = vec![0i32; n];
        for row in data.chunks_exact(n.max(1)) {
            column_sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i32::from(value));
        }
        PackedBytes { k, n, data, column_sums, shift: if signed { 0 } else { 128 } }
    }

    pub fn columns(&self) -> usize {
        self.n
    }

    pub fn rows(&self) -> usize {
        self.k
    }
}

/// A left-hand matrix of `m × k` bytes, row-major.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    pub data: &'a [u8],
    pub signed: bool,
    pub m: usize,
}

/// `c = (a - a_zero) · (b - b_zero)` for matrix `batch` of the batch, `c` row-major `m × n`.
pub fn multiply(
    cpu: &Cpu<'_>,
    a: Bytes<'_>,
    a_zero: &ZeroPoints,
    b: &PackedBytes,
    b_zero: &ZeroPoints,
    batch: (usize, usize),
    c: &mut [i32],
) -> Result<()> {
    let (k, n) = (b.k, b.n);
    let a_zero = a_zero.of(batch.0, a.m)?;
    let b_zero = b_zero.of(batch.1, n)?;
    let (flip, a_shift) = if a.signed { (0x80, 128) } else { (0, 0) };
    let plain_columns = b_zero.iter().all(|&zero| zero == b.shift);
    for_rows(cpu.parallel, &mut c[..a.m * n], n, n * k, &|i, row| {
        row.fill(0);
        let mut a_sum = 0i32;
        for (p, &byte) in a.data[i * k..][..k].iter().enumerate() {
            let x = i32::from(byte ^ flip);
            a_sum += x;
            if x != 0 {
                row.iter_mut().zip(&b.data[p * n..]).for_each(|(c, &y)| *c = c.wrapping_add(x * i32::from(y)));
            }
        }
        let zero = a_zero[if a_zero.len() == 1 { 0 } else { i }] + a_shift;
        if zero != 0 {
            row.iter_mut().zip(&b.column_sums).for_each(|(c, &sum)| *c = c.wrapping_sub(zero.wrapping_mul(sum)));
        }
        if !plain_columns {
            let excess = a_sum.wrapping_sub(zero.wrapping_mul(k as i32));
            for (j, c) in row.iter_mut().enumerate() {
                let zero = b_zero[if b_zero.len() == 1 { 0 } else { j }] - b.shift;
                *c = c.wrapping_sub(zero.wrapping_mul(excess));
            }
        }
    });
    Ok(())
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
