//! Packing of 8-bit operands: A as unsigned and B as signed groups, with the sums that zero points need.

use super::dot;
use crate::cpu::buffer::AlignedBuffer;
use crate::cpu::features::{Context, Features};
use crate::cpu::matrix::Matrix;
use crate::error::{KernelError, Result};
use crate::parallel::{SharedMut, for_each_range};

/// An 8-bit matrix, signed or not.
#[derive(Clone, Copy, Debug)]
pub enum ByteMatrix<'a> {
    Unsigned(Matrix<'a, u8>),
    Signed(Matrix<'a, i8>),
}

impl<'a> ByteMatrix<'a> {
    /// (rows, columns).
    pub fn extents(&self) -> (usize, usize) {
        match self {
            ByteMatrix::Unsigned(m) => (m.rows, m.cols),
            ByteMatrix::Signed(m) => (m.rows, m.cols),
        }
    }

    pub(super) fn check(&self, name: &str) -> Result<()> {
        match self {
            ByteMatrix::Unsigned(m) => m.check_at(name, 0),
            ByteMatrix::Signed(m) => m.check_at(name, 0),
        }
    }

    pub(super) fn is_signed(&self) -> bool {
        matches!(self, ByteMatrix::Signed(_))
    }

    /// The bits of the matrix, whatever their sign.
    pub(super) fn bits(&self) -> Matrix<'a, u8> {
        match *self {
            ByteMatrix::Unsigned(m) => m,
            ByteMatrix::Signed(Matrix { data, rows, cols, row_stride, col_stride }) => {
                // SAFETY: i8 and u8 have the same layout and both take any bits.
                let data = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), data.len()) };
                Matrix { data, rows, cols, row_stride, col_stride }
            }
        }
    }
}

/// Joins a group of values into a word: four bytes, or two 16-bit values that keep their sign.
#[inline(always)]
fn word(values: [i32; 4], group: usize) -> i32 {
    if group == 4 {
        return i32::from_le_bytes(values.map(|v| v as u8));
    }
    (values[1] << 16) | (values[0] & 0xffff)
}

/// The right operand of an 8-bit product, packed once: panels of `nr` columns, each `[ceil(k / group)][nr]` words.
pub struct PackedBytes {
    words: AlignedBuffer<i32>,
    /// Sum of every column as packed.
    sums: Vec<i32>,
    /// What was subtracted from the values to make them signed.
    shift: i32,
    k: usize,
    n: usize,
    group: usize,
    nr: usize,
}

impl PackedBytes {
    /// Packs a `k x n` matrix for the tier of `ctx`.
    pub fn pack(ctx: Context<'_>, b: ByteMatrix<'_>) -> Result<Self> {
        b.check("B")?;
        let (k, n) = b.extents();
        let (group, nr, _) = dot::shape(ctx.features);
        let (steps, panels) = (k.div_ceil(group), n.div_ceil(nr));
        let len = panels
            .checked_mul(nr)
            .and_then(|columns| columns.checked_mul(steps))
            .ok_or_else(|| KernelError::shape(format!("B of {k} x {n} is too large to pack")))?;
        let mut words = AlignedBuffer::zeroed(len);
        let mut sums = vec![0; panels * nr];
        let (bits, signed) = (b.bits(), b.is_signed());
        let (word_parts, sum_parts) = (SharedMut::new(&mut words), SharedMut::new(&mut sums));
        for_each_range(ctx.parallel, panels, (16 * 1024 / (steps * nr).max(1)).max(1), 1, &|range| {
            for panel in range {
                // SAFETY: panels are disjoint, in the words and in the sums.
                let (words, sums) = unsafe {
                    let words = word_parts.slice(panel * steps * nr..(panel + 1) * steps * nr);
                    (words, sum_parts.slice(panel * nr..(panel + 1) * nr))
                };
                pack_columns(&bits, signed, panel * nr, nr.min(n - panel * nr), [group, nr], words, sums);
            }
        });
        Ok(Self { words, sums, shift: if signed { 0 } else { 128 }, k, n, group, nr })
    }

    /// Rows of the original matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the original matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.words.allocated_bytes() + size_of_val(&self.sums[..])
    }

    pub(super) fn words(&self) -> &[i32] {
        &self.words
    }

    pub(super) fn sums(&self) -> &[i32] {
        &self.sums
    }

    pub(super) fn shift(&self) -> i32 {
        self.shift
    }

    pub(super) fn nr(&self) -> usize {
        self.nr
    }

    pub(super) fn check(&self, features: Features) -> Result<()> {
        let (group, nr, _) = dot::shape(features);
        if (group, nr) == (self.group, self.nr) {
            return Ok(());
        }
        Err(KernelError::parameter("B was packed for other features: pack and multiply with the same ones"))
    }
}

/// One panel of columns: values made signed, grouped along k.
fn pack_columns(
    b: &Matrix<'_, u8>,
    signed: bool,
    first: usize,
    columns: usize,
    [group, nr]: [usize; 2],
    words: &mut [i32],
    sums: &mut [i32],
) {
    let flip = if signed { 0 } else { 0x80 };
    for (step, line) in words.chunks_exact_mut(nr).enumerate() {
        let count = group.min(b.rows - step * group);
        for (j, word_out) in line.iter_mut().enumerate().take(columns) {
            let at = step * group * b.row_stride + (first + j) * b.col_stride;
            let mut values = [0; 4];
            for (i, value) in values.iter_mut().enumerate().take(count) {
                *value = i32::from((b.data[at + i * b.row_stride] ^ flip) as i8);
            }
            sums[j] += values.iter().sum::<i32>();
            *word_out = word(values, group);
        }
    }
}

/// Packs `height` rows from `first` on into `[steps][height]` words, values made unsigned, and their sums.
pub(super) fn pack_rows(
    a: &Matrix<'_, u8>,
    signed: bool,
    first: usize,
    height: usize,
    group: usize,
    words: &mut [i32],
    sums: &mut [i32],
) {
    let flip = if signed { 0x80 } else { 0 };
    let steps = a.cols.div_ceil(group);
    if steps == 0 {
        return sums[..height].fill(0);
    }
    for (i, sum) in sums.iter_mut().enumerate().take(height) {
        let row = &a.data[(first + i) * a.row_stride..];
        let whole = if a.col_stride == 1 { a.cols / group } else { 0 };
        let mut total = 0i32;
        if group == 4 {
            for step in 0..whole {
                let bytes = [row[step * 4], row[step * 4 + 1], row[step * 4 + 2], row[step * 4 + 3]];
                let flipped = bytes.map(|v| v ^ flip);
                total += flipped.iter().map(|&v| i32::from(v)).sum::<i32>();
                words[step * height + i] = i32::from_le_bytes(flipped);
            }
        } else {
            for step in 0..whole {
                let values = [row[step * 2] ^ flip, row[step * 2 + 1] ^ flip].map(i32::from);
                total += values[0] + values[1];
                words[step * height + i] = values[1] << 16 | values[0];
            }
        }
        for step in whole..steps {
            let mut values = [0; 4];
            for (j, value) in values.iter_mut().enumerate().take(group.min(a.cols - step * group)) {
                *value = i32::from(row[(step * group + j) * a.col_stride] ^ flip);
            }
            total += values.iter().sum::<i32>();
            words[step * height + i] = word(values, group);
        }
        *sum = total;
    }
}
