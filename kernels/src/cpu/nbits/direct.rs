//! Few rows: codes become f32 in registers and are multiplied at once.
//!
//! Within a block the codes are multiplied as they are; its scale and zero point enter once at its end:
//! `acc += scale * (sum of a * code - zero * sum of a)`.

use super::Product;
use super::pack::{Panel, PanelZeros, field_depth};
use crate::cpu::buffer::with_scratch;
use crate::cpu::elementwise::Unary;
use crate::cpu::simd::{Kernel, Simd};
use crate::parallel::for_each_range;

/// Vectors of columns of a panel.
const VECTORS: usize = 2;
/// Multiply-adds of a task, at least.
const TASK_WORK: usize = 256 * 1024;

pub(super) fn run(product: &Product<'_>, bias: Option<&[f32]>, activation: Unary) {
    let (weights, m) = (product.weights, product.m);
    let padded = weights.blocks * weights.block;
    // Rows of A with zeros up to whole blocks, then the sum of every block.
    with_scratch::<f32, _>(m * (padded + weights.blocks), |scratch| {
        let (rows, sums) = scratch.split_at_mut(m * padded);
        for (i, row) in rows.chunks_exact_mut(padded.max(1)).enumerate() {
            row[..weights.k].copy_from_slice(&product.a[i * weights.k..(i + 1) * weights.k]);
            row[weights.k..].fill(0.0);
            for (sum, block) in sums[i * weights.blocks..].iter_mut().zip(row.chunks_exact(weights.block)) {
                *sum = block.iter().sum();
            }
        }
        let (rows, sums) = (&*rows, &*sums);
        for_each_range(product.ctx.parallel, weights.panels(), product.grain(TASK_WORK), 1, &|range| {
            for panel in range {
                let mut tile = [0.0f32; 4 * VECTORS * 16];
                let multiply = Multiply { product, panel: weights.panel(panel), rows, sums, tile: &mut tile };
                product.ctx.features.dispatch(multiply);
                let first = panel * weights.nr;
                let width = weights.nr.min(weights.n - first);
                for (row, sums) in tile.chunks_exact(weights.nr).enumerate().take(m) {
                    // SAFETY: panels are disjoint columns.
                    unsafe { product.store(row, first, &sums[..width], bias, activation) };
                }
            }
        });
    });
}

struct Multiply<'a, 'b> {
    product: &'a Product<'b>,
    panel: Panel<'a>,
    rows: &'a [f32],
    sums: &'a [f32],
    tile: &'a mut [f32],
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (self.product.weights.bits, self.product.m) {
            (4, 1) => multiply::<S, 4, 1, 4>(s, self),
            (4, 2) => multiply::<S, 4, 2, 2>(s, self),
            (4, 3) => multiply::<S, 4, 3, 2>(s, self),
            (4, _) => multiply::<S, 4, 4, 1>(s, self),
            (2, 1) => multiply::<S, 2, 1, 4>(s, self),
            (2, 2) => multiply::<S, 2, 2, 2>(s, self),
            (2, 3) => multiply::<S, 2, 3, 2>(s, self),
            (2, _) => multiply::<S, 2, 4, 1>(s, self),
            (_, 1) => multiply::<S, 8, 1, 4>(s, self),
            (_, 2) => multiply::<S, 8, 2, 2>(s, self),
            (_, 3) => multiply::<S, 8, 3, 2>(s, self),
            _ => multiply::<S, 8, 4, 1>(s, self),
        }
    }
}

/// The table that [`field`] looks codes up in.
#[inline(always)]
pub(super) fn code_table<S: Simd, const BITS: u32>(s: S) -> S::F {
    match BITS {
        4 => s.code_table::<15>(),
        2 => s.code_table::<3>(),
        _ => s.zero(),
    }
}

/// Field `index` of every word as f32.
#[inline(always)]
pub(super) fn field<S: Simd, const BITS: u32>(s: S, word: S::I, index: usize, table: S::F) -> S::F {
    let shifted = if index == 0 { word } else { s.shr_by(word, index as u32 * BITS) };
    match BITS {
        4 => s.decode::<15>(shifted, table),
        2 => s.decode::<3>(shifted, table),
        _ => s.to_f32(s.and_i(shifted, s.splat_i(255))),
    }
}

/// Zero points of one vector of a block.
#[inline(always)]
pub(super) fn zero_vector<S: Simd>(s: S, zeros: PanelZeros<'_>, at: usize) -> S::F {
    match zeros {
        PanelZeros::One(zero) => s.splat(zero),
        // SAFETY: a panel holds whole vectors.
        PanelZeros::Byte(zeros) => s.to_f32(unsafe { s.load_u8(zeros[at..at + S::LANES].as_ptr()) }),
        // SAFETY: as above.
        PanelZeros::Float(zeros) => unsafe { s.load(zeros[at..at + S::LANES].as_ptr()) },
    }
}

/// `R` rows times one panel; every sum is kept in `CHAINS` parts to hide the latency of the multiply-adds.
#[inline(always)]
fn multiply<S: Simd, const BITS: u32, const R: usize, const CHAINS: usize>(s: S, work: Multiply<'_, '_>) {
    let weights = work.product.weights;
    let (blocks, block, nr) = (weights.blocks, weights.block, weights.nr);
    let padded = blocks * block;
    let fields = 32 / BITS as usize;
    let words = weights.block_words();
    let table = code_table::<S, BITS>(s);
    assert!(work.panel.words.len() == blocks * words * nr && nr == VECTORS * S::LANES);
    assert!(work.rows.len() >= R * padded && work.sums.len() >= R * blocks);
    let mut acc = [[s.zero(); VECTORS]; R];
    let mut codes = work.panel.words.as_ptr();
    let mut a = work.rows.as_ptr();
    for index in 0..blocks {
        let mut part = [[[s.zero(); CHAINS]; VECTORS]; R];
        for _ in 0..words {
            // SAFETY: `words` lines of `nr` words and `block` values per row belong to the block.
            unsafe {
                let line = [s.load_i32(codes), s.load_i32(codes.add(S::LANES))];
                for f in 0..fields {
                    let depth = field_depth(BITS, f);
                    let values = line.map(|word| field::<S, BITS>(s, word, f, table));
                    for (r, sums) in part.iter_mut().enumerate() {
                        let value = s.splat(*a.add(r * padded + depth));
                        for (sum, code) in sums.iter_mut().zip(values) {
                            sum[f % CHAINS] = s.fma(value, code, sum[f % CHAINS]);
                        }
                    }
                }
                codes = codes.add(nr);
                a = a.add(fields);
            }
        }
        for v in 0..VECTORS {
            let at = index * nr + v * S::LANES;
            // SAFETY: scales hold `nr` values per block.
            let scale = unsafe { s.load(work.panel.scales[at..at + S::LANES].as_ptr()) };
            let zero = zero_vector(s, work.panel.zeros, at);
            for (r, acc) in acc.iter_mut().enumerate() {
                let sum = part[r][v].into_iter().skip(1).fold(part[r][v][0], |sum, part| s.add(sum, part));
                let centred = s.fnma(zero, s.splat(work.sums[r * blocks + index]), sum);
                acc[v] = s.fma(scale, centred, acc[v]);
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        for (v, &sum) in acc.iter().enumerate() {
            let at = r * nr + v * S::LANES;
            // SAFETY: the part holds a vector.
            unsafe { s.store(work.tile[at..at + S::LANES].as_mut_ptr(), sum) };
        }
    }
}
