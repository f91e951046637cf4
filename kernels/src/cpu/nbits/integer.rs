//! Rows quantised to 8 bits by block and multiplied with the codes in integers.
//!
//! Per block: `acc += scale_w * (scale_a * (codes . a) - zero * scale_a * sum of a)`.

use std::ops::Range;

use super::Product;
use crate::cpu::buffer::with_scratch;
use crate::cpu::elementwise::Unary;
use crate::cpu::matrix::RowSplit;
use crate::cpu::simd::{Kernel, Simd};
use crate::parallel::{SharedMut, for_each_range};

/// Rows of the register tile.
const ROWS: usize = 6;
/// Multiply-adds of a task, at least.
const TASK_WORK: usize = 512 * 1024;

/// Rows quantised in panels of at most `ROWS`.
#[derive(Clone, Copy)]
struct Quantized<'a> {
    split: RowSplit,
    /// Panel p at `start(p) * depth_words`, as `[depth / 4][height]` words of four signed bytes.
    words: &'a [i32],
    /// Panel p at `start(p) * blocks`, as `[blocks][height]`.
    scales: &'a [f32],
    /// The sums of the quantised values times their scale, laid out as the scales.
    sums: &'a [f32],
}

pub(super) fn run(product: &Product<'_>, bias: Option<&[f32]>, activation: Unary) {
    let (weights, m) = (product.weights, product.m);
    let (blocks, block) = (weights.blocks, weights.block);
    let split = RowSplit::new(m, ROWS);
    let depth_words = blocks * block / 4;
    with_scratch::<f32, _>(m * (depth_words + 2 * blocks), |scratch| {
        let (words, records) = scratch.split_at_mut(m * depth_words);
        let (scales, sums) = records.split_at_mut(m * blocks);
        // SAFETY: i32 and f32 have the same size and alignment and take any bits.
        let words = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<i32>(), words.len()) };
        let parts = (SharedMut::new(words), SharedMut::new(scales), SharedMut::new(sums));
        for_each_range(
            product.ctx.parallel,
            split.panels(),
            (8 * 1024 / (depth_words * ROWS).max(1)).max(1),
            1,
            &|range| {
                for p in range {
                    let rows = split.start(p)..split.start(p + 1);
                    // SAFETY: panels are disjoint in all three.
                    let (words, scales, sums) = unsafe {
                        (
                            parts.0.slice(rows.start * depth_words..rows.end * depth_words),
                            parts.1.slice(rows.start * blocks..rows.end * blocks),
                            parts.2.slice(rows.start * blocks..rows.end * blocks),
                        )
                    };
                    quantize_rows(product, rows, words, scales, sums);
                }
            },
        );
        let rows = Quantized { split, words, scales, sums };
        for_each_range(product.ctx.parallel, weights.panels(), product.grain(TASK_WORK), 1, &|range| {
            for panel in range {
                multiply_panel(product, rows, panel, bias, activation);
            }
        });
    });
}

/// Quantises a panel of rows, block by block.
fn quantize_rows(
    product: &Product<'_>,
    rows: Range<usize>,
    words: &mut [i32],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    let (k, block, height) = (product.weights.k, product.weights.block, rows.len());
    let mut padded = [0.0f32; MAX_BLOCK];
    let mut bytes = [0u8; MAX_BLOCK];
    for (i, row) in rows.enumerate() {
        let row = &product.a[row * k..(row + 1) * k];
        for (b, values) in row.chunks(block).enumerate() {
            padded[..values.len()].copy_from_slice(values);
            padded[values.len()..block].fill(0.0);
            let quantize = QuantizeBlock { values: &padded[..block], bytes: &mut bytes[..block] };
            let (scale, sum) = product.ctx.features.dispatch(quantize);
            for (w, four) in bytes[..block].chunks_exact(4).enumerate() {
                words[(b * block / 4 + w) * height + i] =
                    i32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
            scales[b * height + i] = scale;
            sums[b * height + i] = sum;
        }
    }
}

/// Longest block that is quantised; longer ones take the f32 path.
pub(super) const MAX_BLOCK: usize = 512;

/// Quantises whole vectors to the range -127..=127; gives the scale and the sum of the quantised values times it.
struct QuantizeBlock<'a> {
    values: &'a [f32],
    bytes: &'a mut [u8],
}

impl Kernel for QuantizeBlock<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let len = self.values.len();
        assert!(self.bytes.len() == len && len.is_multiple_of(S::LANES));
        let (values, bytes) = (self.values.as_ptr(), self.bytes.as_mut_ptr());
        let mut top = s.zero();
        let mut sum = s.zero();
        // SAFETY: both hold `len` elements, a multiple of the lanes.
        unsafe {
            for at in (0..len).step_by(S::LANES) {
                top = s.max(s.abs(s.load(values.add(at))), top);
            }
            let top = s.reduce_max(top);
            let inverse = s.splat(if top > 0.0 { 127.0 / top } else { 0.0 });
            for at in (0..len).step_by(S::LANES) {
                let q = s.round(s.mul(s.load(values.add(at)), inverse));
                sum = s.add(sum, q);
                s.store_low_u8(bytes.add(at), s.to_i32(q));
            }
            let scale = top / 127.0;
            (scale, s.reduce_sum(sum) * scale)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_panel(_: &Product<'_>, _: Quantized<'_>, _: usize, _: Option<&[f32]>, _: Unary) {
    unreachable!("byte dot products are only reported on x86-64")
}

/// All rows times one panel.
#[cfg(target_arch = "x86_64")]
fn multiply_panel(
    product: &Product<'_>,
    rows: Quantized<'_>,
    panel: usize,
    bias: Option<&[f32]>,
    activation: Unary,
) {
    let weights = product.weights;
    let (blocks, nr) = (weights.blocks, weights.nr);
    let depth_words = blocks * weights.block / 4;
    let first = panel * nr;
    let width = nr.min(weights.n - first);
    let mut tile = [0.0f32; ROWS * 32];
    for p in 0..rows.split.panels() {
        let (start, height) = (rows.split.start(p), rows.split.height(p));
        let part = vnni::Rows {
            words: &rows.words[start * depth_words..(start + height) * depth_words],
            scales: &rows.scales[start * blocks..(start + height) * blocks],
            sums: &rows.sums[start * blocks..(start + height) * blocks],
        };
        // SAFETY: the caller checked that the features include VNNI.
        unsafe { vnni::multiply_rows(weights, weights.panel(panel), height, part, &mut tile) };
        for i in 0..height {
            // SAFETY: panels are disjoint columns.
            unsafe { product.store(start + i, first, &tile[i * nr..i * nr + width], bias, activation) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use super::super::pack::{PackedBlocks, Panel, PanelZeros};
    use super::ROWS;

    /// A panel of quantised rows.
    #[derive(Clone, Copy)]
    pub(super) struct Rows<'a> {
        pub(super) words: &'a [i32],
        pub(super) scales: &'a [f32],
        pub(super) sums: &'a [f32],
    }

    /// Chooses the code width and the number of rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn multiply_rows(
        weights: &PackedBlocks,
        panel: Panel<'_>,
        height: usize,
        rows: Rows<'_>,
        tile: &mut [f32; ROWS * 32],
    ) {
        macro_rules! heights {
            ($bits:literal: $($h:literal)*) => {
                match height {
                    $( $h => multiply::<$bits, $h>(weights, panel, rows, tile), )*
                    _ => unreachable!("row panels hold at most six rows"),
                }
            };
        }
        match weights.bits {
            4 => heights!(4: 1 2 3 4 5 6),
            2 => heights!(2: 1 2 3 4 5 6),
            _ => heights!(8: 1 2 3 4 5 6),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn multiply<const BITS: u32, const R: usize>(
        weights: &PackedBlocks,
        panel: Panel<'_>,
        rows: Rows<'_>,
        tile: &mut [f32; ROWS * 32],
    ) {
        const { assert!(R <= ROWS) };
        let (blocks, nr, words) = (weights.blocks, weights.nr, weights.block_words());
        let shifts = 8 / BITS;
        assert!(nr == 32 && panel.words.len() == blocks * words * nr && panel.scales.len() == blocks * nr);
        assert!(rows.words.len() == blocks * words * shifts as usize * R);
        assert!(rows.scales.len() == blocks * R && rows.sums.len() == blocks * R);
        let mask = _mm512_set1_epi8(((1u32 << BITS) - 1) as i8);
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        let (mut codes, mut a) = (panel.words.as_ptr(), rows.words.as_ptr());
        for block in 0..blocks {
            let mut sums = [[_mm512_setzero_si512(); 2]; R];
            for _ in 0..words {
                // SAFETY: the lengths were asserted above: `words` lines of codes and of rows per block.
                unsafe {
                    let line = [_mm512_loadu_si512(codes.cast()), _mm512_loadu_si512(codes.add(16).cast())];
                    for shift in 0..shifts {
                        let count = _mm_cvtsi32_si128((shift * BITS) as i32);
                        let four = [
                            _mm512_and_si512(_mm512_srl_epi32(line[0], count), mask),
                            _mm512_and_si512(_mm512_srl_epi32(line[1], count), mask),
                        ];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let value = _mm512_set1_epi32(*a.add(r));
                            sums[0] = _mm512_dpbusd_epi32(sums[0], four[0], value);
                            sums[1] = _mm512_dpbusd_epi32(sums[1], four[1], value);
                        }
                        a = a.add(R);
                    }
                    codes = codes.add(nr);
                }
            }
            for v in 0..2 {
                let at = block * nr + v * 16;
                // SAFETY: scales hold `nr` values per block.
                let scale = unsafe { _mm512_loadu_ps(panel.scales.as_ptr().add(at)) };
                let zero = match panel.zeros {
                    PanelZeros::One(zero) => _mm512_set1_ps(zero),
                    PanelZeros::Byte(zeros) => {
                        // SAFETY: the part holds sixteen bytes.
                        let bytes = unsafe { _mm_loadu_si128(zeros[at..at + 16].as_ptr().cast()) };
                        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
                    }
                    // SAFETY: the part holds sixteen values.
                    PanelZeros::Float(zeros) => unsafe { _mm512_loadu_ps(zeros[at..at + 16].as_ptr()) },
                };
                for r in 0..R {
                    let dot = _mm512_cvtepi32_ps(sums[r][v]);
                    let shift = _mm512_mul_ps(zero, _mm512_set1_ps(rows.sums[block * R + r]));
                    let value = _mm512_fmsub_ps(dot, _mm512_set1_ps(rows.scales[block * R + r]), shift);
                    acc[r][v] = _mm512_fmadd_ps(scale, value, acc[r][v]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            // SAFETY: the tile holds six rows of 32.
            unsafe {
                _mm512_storeu_ps(tile.as_mut_ptr().add(r * 32), acc[0]);
                _mm512_storeu_ps(tile.as_mut_ptr().add(r * 32 + 16), acc[1]);
            }
        }
    }
}
