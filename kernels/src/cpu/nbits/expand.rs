//! Many rows: panels of weights are decoded into f32 once, then multiplied like any packed operand.

use super::Product;
use super::direct::{code_table, field, zero_vector};
use super::pack::{PackedBlocks, field_depth};
use crate::cpu::buffer::with_scratch;
use crate::cpu::gemm::{Block, Epilogue, pack_rows, tile_shape};
use crate::cpu::matrix::{Matrix, RowSplit};
use crate::cpu::simd::{Kernel, Simd};
use crate::parallel::{SharedMut, for_each_range};

/// Depth that is decoded at a time, at most: a panel of it stays in the second cache level.
const DEPTH: usize = 512;
/// Panels decoded together.
const PANELS: usize = 4;
/// Multiply-adds of a task, at least.
const TASK_WORK: usize = 1024 * 1024;

pub(super) fn run(product: &Product<'_>, epilogue: &Epilogue<'_>) {
    let (weights, m, k) = (product.weights, product.m, product.weights.k);
    let (mr, _) = tile_shape(product.ctx.features);
    let split = RowSplit::new(m, mr);
    let matrix = Matrix::row_major(product.a, m, k);
    with_scratch::<f32, _>(m * k, |packed| {
        let out = SharedMut::new(packed);
        for_each_range(
            product.ctx.parallel,
            split.panels(),
            (32 * 1024 / (mr * k).max(1)).max(1),
            1,
            &|range| {
                for p in range {
                    // SAFETY: panels are disjoint.
                    let dst = unsafe { out.slice(split.start(p) * k..split.start(p + 1) * k) };
                    pack_rows(&matrix, split.start(p) * k, split.height(p), k, dst);
                }
            },
        );
        let packed = &*packed;
        for_each_range(product.ctx.parallel, weights.panels(), product.grain(TASK_WORK), PANELS, &|range| {
            for first in range.clone().step_by(PANELS) {
                columns(product, epilogue, split, packed, first..range.end.min(first + PANELS));
            }
        });
    });
}

/// All rows times a few panels.
fn columns(
    product: &Product<'_>,
    epilogue: &Epilogue<'_>,
    split: RowSplit,
    packed: &[f32],
    panels: std::ops::Range<usize>,
) {
    let weights = product.weights;
    let (k, nr) = (weights.k, weights.nr);
    // Whole blocks per step.
    let step = (DEPTH / weights.block).max(1) * weights.block;
    let depth_blocks = k.div_ceil(step).max(1);
    let columns = panels.start * nr..weights.n.min(panels.end * nr);
    with_scratch::<f32, _>(step * nr * panels.len(), |values| {
        for index in 0..depth_blocks {
            let k0 = index * step;
            let kc = step.min(k - k0);
            let blocks = k0 / weights.block..(k0 + kc).div_ceil(weights.block);
            for (panel, dst) in panels.clone().zip(values.chunks_exact_mut(step * nr)) {
                product.ctx.features.dispatch(Decode { weights, panel, blocks: blocks.clone(), dst });
            }
            product.ctx.features.dispatch(Block {
                features: product.ctx.features,
                split,
                panels: 0..split.panels(),
                a: packed.as_ptr(),
                a_depth: k,
                a_first: k0,
                kc,
                b: values.as_ptr(),
                b_step: nr,
                b_panel_step: step * nr,
                columns: columns.clone(),
                c: product.c.pointer(),
                ldc: weights.n,
                partial: product.c.pointer(),
                partial_ld: weights.n,
                first: index == 0,
                last: index + 1 == depth_blocks,
                epilogue: *epilogue,
            });
        }
    });
}

/// Decodes blocks of a panel into `[depth][nr]`.
struct Decode<'a> {
    weights: &'a PackedBlocks,
    panel: usize,
    blocks: std::ops::Range<usize>,
    dst: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.weights.bits {
            4 => decode::<S, 4>(s, self),
            2 => decode::<S, 2>(s, self),
            _ => decode::<S, 8>(s, self),
        }
    }
}

#[inline(always)]
fn decode<S: Simd, const BITS: u32>(s: S, work: Decode<'_>) {
    let Decode { weights, panel, blocks, dst } = work;
    let panel = weights.panel(panel);
    let (nr, words) = (weights.nr, weights.block_words());
    let fields = 32 / BITS as usize;
    let table = code_table::<S, BITS>(s);
    assert!(dst.len() >= blocks.len() * weights.block * nr);
    for (index, block) in blocks.enumerate() {
        for v in (0..nr).step_by(S::LANES) {
            let at = block * nr + v;
            // SAFETY: scales hold `nr` values per block.
            let scale = unsafe { s.load(panel.scales[at..at + S::LANES].as_ptr()) };
            let zero = zero_vector(s, panel.zeros, at);
            for w in 0..words {
                let line = &panel.words[(block * words + w) * nr + v..][..S::LANES];
                // SAFETY: the line holds a vector; the target has `block` rows per block.
                unsafe {
                    let word = s.load_i32(line.as_ptr());
                    for f in 0..fields {
                        let value = s.mul(s.sub(field::<S, BITS>(s, word, f, table), zero), scale);
                        let depth = index * weights.block + w * fields + field_depth(BITS, f);
                        s.store(dst.as_mut_ptr().add(depth * nr + v), value);
                    }
                }
            }
        }
    }
}
