//! Multiplying rows with the packed weights of a recurrent layer: in floats, or in integers after quantising the rows.

use std::cell::RefCell;

use tenon_kernels::cpu::igemm::{ByteMatrix, PackedBytes, ZeroPoints, gemm_bytes};
use tenon_kernels::cpu::quantize::{Scales, dynamic_parameters, quantize};
use tenon_kernels::cpu::{Context as Cpu, Matrix as View};

use crate::error::Result;
use crate::ops::gemm::{Addend, After, Dense, Matrix};

/// Packed weights that rows are multiplied with.
pub trait Projection<T>: Send + Sync {
    /// `out (+)= rows · weights + bias`; `bias` has one value a column and is given only without `accumulate`.
    fn run(
        &self,
        cpu: &Cpu<'_>,
        rows: &[T],
        count: usize,
        bias: Option<&[T]>,
        accumulate: bool,
        out: &mut [T],
    ) -> Result<()>;
}

/// Float weights.
pub struct FloatProjection<T: Dense> {
    packed: T::Packed,
    depth: usize,
    columns: usize,
}

impl<T: Dense> FloatProjection<T> {
    /// Packs `columns × depth` weights, one row an output.
    pub fn new(cpu: &Cpu<'_>, weights: &[T], columns: usize, depth: usize) -> Result<FloatProjection<T>> {
        let packed = T::pack(cpu, Matrix::new(weights, columns, depth).transposed())?;
        Ok(FloatProjection { packed, depth, columns })
    }
}

impl<T: Dense> Projection<T> for FloatProjection<T> {
    fn run(
        &self,
        cpu: &Cpu<'_>,
        rows: &[T],
        count: usize,
        bias: Option<&[T]>,
        accumulate: bool,
        out: &mut [T],
    ) -> Result<()> {
        let bias = bias.map(|data| Addend { data, row_stride: 0, column_stride: 1, scale: T::ONE });
        let after = After { accumulate, addends: [bias, None], ..After::default() };
        T::multiply_packed(cpu, Matrix::new(rows, count, self.depth), &self.packed, out, self.columns, &after)
    }
}

/// 8-bit weights; the rows of each call are quantised to uint8 together.
pub struct ByteProjection {
    packed: PackedBytes,
    depth: usize,
    columns: usize,
    /// One or one a column.
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

impl ByteProjection {
    /// Packs `depth × columns` weights.
    pub fn new(
        cpu: &Cpu<'_>,
        weights: &[u8],
        signed: bool,
        [depth, columns]: [usize; 2],
        scales: Vec<f32>,
        zeros: Vec<i32>,
    ) -> Result<ByteProjection> {
        let matrix = if signed {
            let weights: Vec<i8> = weights.iter().map(|&w| w as i8).collect();
            PackedBytes::pack(*cpu, ByteMatrix::Signed(View::row_major(&weights, depth, columns)))?
        } else {
            PackedBytes::pack(*cpu, ByteMatrix::Unsigned(View::row_major(weights, depth, columns)))?
        };
        Ok(ByteProjection { packed: matrix, depth, columns, scales, zeros })
    }
}

thread_local! {
    /// Quantised rows and integer sums of the calls on this thread.
    static BUFFERS: RefCell<(Vec<u8>, Vec<i32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Projection<f32> for ByteProjection {
    fn run(
        &self,
        cpu: &Cpu<'_>,
        rows: &[f32],
        count: usize,
        bias: Option<&[f32]>,
        accumulate: bool,
        out: &mut [f32],
    ) -> Result<()> {
        let rows = &rows[..count * self.depth];
        let (scale, zero) = dynamic_parameters(*cpu, rows);
        BUFFERS.with_borrow_mut(|(bytes, sums)| {
            bytes.resize(rows.len(), 0);
            sums.resize(count * self.columns, 0);
            quantize(*cpu, rows, Scales::tensor(rows.len(), &[scale], Some(&[zero])), bytes)?;
            let matrix = ByteMatrix::Unsigned(View::row_major(bytes, count, self.depth));
            let zeros = ZeroPoints { a: &[i32::from(zero)], b: &self.zeros };
            gemm_bytes(*cpu, matrix, &self.packed, zeros, sums, self.columns)?;
            let columns = self.columns.max(1);
            for (out, sums) in out.chunks_exact_mut(columns).zip(sums.chunks_exact(columns)) {
                self.scale(scale, sums, accumulate, bias, out);
            }
            Ok(())
        })
    }
}

impl ByteProjection {
    /// `out (+)= sums · scale · weight scale + bias` for one row.
    fn scale(&self, scale: f32, sums: &[i32], accumulate: bool, bias: Option<&[f32]>, out: &mut [f32]) {
        match (&self.scales[..], accumulate) {
            (&[weight], true) => add(out, sums, std::iter::repeat(scale * weight)),
            (weights, true) => add(out, sums, weights.iter().map(|weight| scale * weight)),
            (&[weight], false) => set(out, sums, std::iter::repeat(scale * weight)),
            (weights, false) => set(out, sums, weights.iter().map(|weight| scale * weight)),
        }
        if let Some(bias) = bias.filter(|_| !accumulate) {
            out.iter_mut().zip(bias).for_each(|(out, &bias)| *out += bias);
        }
    }
}

fn add(out: &mut [f32], sums: &[i32], scales: impl Iterator<Item = f32>) {
    out.iter_mut().zip(sums).zip(scales).for_each(|((out, &sum), scale)| *out += sum as f32 * scale);
}

fn set(out: &mut [f32], sums: &[i32], scales: impl Iterator<Item = f32>) {
    out.iter_mut().zip(sums).zip(scales).for_each(|((out, &sum), scale)| *out = sum as f32 * scale);
}
