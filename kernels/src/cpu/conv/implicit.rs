//! Convolution as a product of packed filters and patches that are packed block by block.

use super::patch::PackPatches;
use super::shape::{ConvEpilogue, ConvShape};
use crate::cpu::buffer::with_scratch;
use crate::cpu::features::Context;
use crate::cpu::gemm::{Addend, Block, Epilogue, PackedA, tile_shape};
use crate::cpu::matrix::RowSplit;
use crate::cpu::pool::Window;
use crate::parallel::SharedMut;
use crate::select;

/// A window that reads every input position once is a product with the image itself: one long row.
fn flatten(window: &Window) -> Option<Window> {
    let ones = |part: &[usize]| part.iter().all(|&v| v == 1);
    let pointwise = ones(&window.kernel) && ones(&window.strides) && window.input == window.output;
    pointwise.then(|| {
        let len = window.input.iter().product();
        let one = || vec![1];
        Window {
            input: vec![len],
            kernel: one(),
            strides: one(),
            dilations: one(),
            pads_begin: vec![0],
            pads_end: vec![0],
            output: vec![len],
        }
    })
}

/// Convolves with one packed `[group_out, group_in * taps]` filter matrix per group.
pub(super) fn convolve(
    ctx: Context<'_>,
    shape: &ConvShape,
    x: &[f32],
    filters: &[PackedA],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) {
    let (group_out, out_plane) = (shape.group_out(), shape.out_plane());
    let depth = shape.group_in() * shape.taps();
    if y.is_empty() {
        return;
    }
    let flat = flatten(&shape.window);
    let (mr, nr) = tile_shape(ctx.features);
    let params = select::conv(ctx.features.isa());
    let depth_blocks = depth.div_ceil(params.depth + params.depth / 2).max(1);
    let kc = depth.div_ceil(depth_blocks);
    let split = RowSplit::new(group_out, mr);
    let images = shape.batch * shape.groups;
    let panels = out_plane.div_ceil(nr);
    let grid = Grid::new(
        ctx.parallel.threads(),
        images,
        panels,
        split.panels(),
        (params.patch_elems / (kc.max(1) * nr)).max(1),
    );
    let job = Job {
        ctx,
        shape,
        window: flat.as_ref().unwrap_or(&shape.window),
        x,
        filters,
        epilogue,
        split,
        nr,
        depth,
        kc,
        depth_blocks,
        y: SharedMut::new(y),
    };
    ctx.parallel.for_each(images * grid.column_blocks * grid.row_blocks, &|task| {
        let (image, rest) =
            (task / (grid.column_blocks * grid.row_blocks), task % (grid.column_blocks * grid.row_blocks));
        let (column_block, row_block) = (rest / grid.row_blocks, rest % grid.row_blocks);
        let first = column_block * grid.column_panels * nr;
        let columns = first..out_plane.min(first + grid.column_panels * nr);
        let first = row_block * grid.row_panels;
        job.task(image, first..split.panels().min(first + grid.row_panels), columns);
    });
}

/// How the panels of one image and group are cut into tasks.
pub(super) struct Grid {
    pub(super) column_panels: usize,
    pub(super) column_blocks: usize,
    pub(super) row_panels: usize,
    pub(super) row_blocks: usize,
}

impl Grid {
    /// Columns are cut first; rows only where columns are too few for the threads, since each row block packs again.
    pub(super) fn new(threads: usize, images: usize, columns: usize, rows: usize, most: usize) -> Self {
        let mut column_panels = most.min(columns).max(1);
        let wanted = if threads == 1 { 1 } else { (threads * 3).div_ceil(images) };
        while columns.div_ceil(column_panels) < wanted && column_panels > 2 {
            column_panels = column_panels.div_ceil(2);
        }
        let mut row_panels = rows.max(1);
        while columns.div_ceil(column_panels) * rows.div_ceil(row_panels) < wanted && row_panels > 2 {
            row_panels = row_panels.div_ceil(2);
        }
        let even = |count: usize, size: usize| count.div_ceil(count.div_ceil(size).max(1)).max(1);
        let (column_panels, row_panels) = (even(columns, column_panels), even(rows, row_panels));
        Self {
            column_panels,
            column_blocks: columns.div_ceil(column_panels),
            row_panels,
            row_blocks: rows.div_ceil(row_panels),
        }
    }
}

struct Job<'a> {
    ctx: Context<'a>,
    shape: &'a ConvShape,
    window: &'a Window,
    x: &'a [f32],
    filters: &'a [PackedA],
    epilogue: &'a ConvEpilogue<'a>,
    split: RowSplit,
    nr: usize,
    depth: usize,
    kc: usize,
    depth_blocks: usize,
    y: SharedMut<'a, f32>,
}

impl Job<'_> {
    /// A block of output channels and positions of one (image, group) pair.
    fn task(&self, image: usize, panels: std::ops::Range<usize>, columns: std::ops::Range<usize>) {
        let shape = self.shape;
        let (n, group) = (image / shape.groups, image % shape.groups);
        let (in_plane, out_plane) = (shape.in_plane(), shape.out_plane());
        let group_in = shape.group_in();
        let start = (n * shape.in_channels + group * group_in) * in_plane;
        let channels = &self.x[start..start + group_in * in_plane];
        let row0 = group * shape.group_out();
        let y_start = (n * shape.out_channels + row0) * out_plane;
        let epilogue = Epilogue {
            bias: self.epilogue.bias.map(|bias| Addend::per_row(&bias[row0..])),
            residual: self.epilogue.residual.map(|residual| Addend::full(&residual[y_start..], out_plane)),
            activation: self.epilogue.activation,
            ..Epilogue::default()
        };
        let c = self.y.pointer().wrapping_add(y_start);
        let width = columns.len().next_multiple_of(self.nr);
        with_scratch::<f32, _>(width * self.kc, |patches| {
            for block in 0..self.depth_blocks {
                let k0 = block * self.kc;
                let kc = self.kc.min(self.depth - k0);
                let patches = &mut patches[..width * kc];
                self.ctx.features.dispatch(PackPatches {
                    window: self.window,
                    image: channels,
                    depth: k0..k0 + kc,
                    columns: columns.clone(),
                    nr: self.nr,
                    dst: patches,
                });
                self.ctx.features.dispatch(Block {
                    features: self.ctx.features,
                    split: self.split,
                    panels: panels.clone(),
                    a: self.filters[group].data()[self.split.start(panels.start) * self.depth..].as_ptr(),
                    a_depth: self.depth,
                    a_first: k0,
                    kc,
                    b: patches.as_ptr(),
                    b_step: self.nr,
                    b_panel_step: self.nr * kc,
                    columns: columns.clone(),
                    c,
                    ldc: out_plane,
                    partial: c,
                    partial_ld: out_plane,
                    first: block == 0,
                    last: block + 1 == self.depth_blocks,
                    epilogue,
                });
            }
        });
    }
}
