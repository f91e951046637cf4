//! Convolution in one or two dimensions as a product whose right operand is read where the input lies.
//!
//! Output positions are counted on rows of `pitch` columns, so that every (channel, tap) pair reads one contiguous run
//! for any number of neighbouring positions: what it adds to the address is all that differs between the pairs. Padding
//! and strides are met by a copy of the input rows of a block, with a border of zeros and with columns and rows of equal
//! residue modulo the stride brought together; where there is neither, nothing is copied.

use std::ops::Range;

use super::implicit::Grid;
use super::patch::copy_run;
use super::shape::{ConvEpilogue, ConvShape};
use crate::cpu::buffer::with_scratch;
use crate::cpu::elementwise::{Unary, unary_raw};
use crate::cpu::features::{Context, Features};
use crate::cpu::float::MAX_LANES;
use crate::cpu::gemm::micro::{MAX_TILE, TILE_VECTORS, tile_rows};
use crate::cpu::gemm::{PackedA, tile_shape};
use crate::cpu::matrix::RowSplit;
use crate::cpu::pool::Window;
use crate::cpu::simd::{Kernel, Simd};
use crate::parallel::SharedMut;
use crate::select;

/// Positions counted for each one that is stored, at most.
const LARGEST_WASTE: f64 = 1.3;
/// Elements that one channel takes in a copy of the shortest block, at most.
const LARGEST_CHANNEL: usize = 1 << 20;

/// One dimension of the window.
#[derive(Clone, Debug)]
struct Axis {
    input: usize,
    output: usize,
    stride: usize,
    pad: usize,
    /// Residues modulo the stride that taps read.
    residues: Vec<usize>,
    /// For each tap: the place of its residue in `residues` and the whole strides it lies ahead.
    taps: Vec<(usize, usize)>,
}

impl Axis {
    fn new(window: &Window, d: usize) -> Self {
        let (stride, dilation) = (window.strides[d], window.dilations[d]);
        let mut residues: Vec<usize> = Vec::new();
        let mut taps = Vec::with_capacity(window.kernel[d]);
        for tap in 0..window.kernel[d] {
            let (ahead, residue) = (tap * dilation / stride, tap * dilation % stride);
            let place = residues.iter().position(|&r| r == residue).unwrap_or(residues.len());
            if place == residues.len() {
                residues.push(residue);
            }
            taps.push((place, ahead));
        }
        let (input, output, pad) = (window.input[d], window.output[d], window.pads_begin[d]);
        Self { input, output, stride, pad, residues, taps }
    }

    fn single() -> Self {
        Self { input: 1, output: 1, stride: 1, pad: 0, residues: vec![0], taps: vec![(0, 0)] }
    }

    /// Whole strides between the first and the last tap.
    fn reach(&self) -> usize {
        self.taps.last().map_or(0, |tap| tap.1)
    }

    /// Positions whose tap of residue `residue` lies inside the input.
    fn inside(&self, residue: usize) -> Range<usize> {
        let first = self.pad.saturating_sub(residue).div_ceil(self.stride);
        let end = (self.input + self.pad).saturating_sub(residue).div_ceil(self.stride);
        first..end.max(first)
    }
}

/// How positions are counted and what every tap adds to them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    rows: Axis,
    columns: Axis,
    /// Positions from one output row to the next.
    pitch: usize,
    /// The farthest that a tap reads ahead of its position.
    reach: usize,
}

impl Layout {
    /// The layout of a convolution in one or two dimensions, or `None` where it would count too many positions in vain.
    pub(super) fn new(shape: &ConvShape) -> Option<Self> {
        let window = &shape.window;
        let (rows, columns, last) = match window.rank() {
            1 => (Axis::single(), Axis::new(window, 0), 0),
            2 => (Axis::new(window, 0), Axis::new(window, 1), 1),
            _ => return None,
        };
        let pitch = if columns.stride == 1 {
            // What lies right of a row is the left border of the next.
            (columns.input + window.pads_begin[last].max(window.pads_end[last])).max(columns.output)
        } else {
            columns.output + columns.reach()
        };
        let reach = rows.reach() * pitch + columns.reach();
        let layout = Self { rows, columns, pitch, reach };
        let stored = layout.rows.output * layout.columns.output;
        let empty = stored == 0 || shape.group_in() == 0 || layout.rows.input * layout.columns.input == 0;
        let fits = layout.phases().saturating_mul(reach) <= LARGEST_CHANNEL;
        (!empty && fits && layout.positions() as f64 <= LARGEST_WASTE * stored as f64).then_some(layout)
    }

    /// Positions counted.
    fn positions(&self) -> usize {
        (self.rows.output - 1) * self.pitch + self.columns.output
    }

    fn phases(&self) -> usize {
        self.rows.residues.len() * self.columns.residues.len()
    }

    /// Whether the planes of the input have the layout as they are.
    fn in_place(&self) -> bool {
        self.pitch == self.columns.input
            && self.rows.stride == 1
            && self.columns.stride == 1
            && self.rows.pad == 0
            && self.columns.pad == 0
            && self.rows.output + self.rows.reach() <= self.rows.input
    }

    /// What each (channel, tap) pair adds to a position.
    fn offsets(&self, channels: usize, channel_step: usize, phase_step: usize) -> Vec<u32> {
        let mut offsets = Vec::with_capacity(channels * self.rows.taps.len() * self.columns.taps.len());
        for channel in 0..channels {
            for &(row_place, down) in &self.rows.taps {
                for &(place, ahead) in &self.columns.taps {
                    let phase = row_place * self.columns.residues.len() + place;
                    let offset = channel * channel_step + phase * phase_step + down * self.pitch + ahead;
                    offsets.push(offset as u32);
                }
            }
        }
        offsets
    }
}

/// Convolves with one packed `[group_out, group_in * taps]` filter matrix per group.
pub(super) fn convolve(
    ctx: Context<'_>,
    shape: &ConvShape,
    layout: &Layout,
    x: &[f32],
    filters: &[PackedA],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    let (mr, nr) = tile_shape(ctx.features);
    let blocks = Blocks::new(layout, shape.group_in(), nr, select::conv(ctx.features.isa()).patch_elems);
    let split = RowSplit::new(shape.group_out(), mr);
    let images = shape.batch * shape.groups;
    let panels = layout.positions().div_ceil(nr);
    let grid = Grid::new(ctx.parallel.threads(), images, panels, split.panels(), blocks.panels);
    let phase_step = grid.column_panels * nr + layout.reach;
    // An odd number of cache lines between channels spreads them over the sets of the cache.
    let channel_step = (layout.phases() * phase_step).div_ceil(MAX_LANES) / 2 * 2 * MAX_LANES + MAX_LANES;
    let in_plane = shape.in_plane();
    let in_place = layout.in_place() && shape.group_in() * in_plane <= u32::MAX as usize;
    let job = Job {
        features: ctx.features,
        shape,
        layout,
        x,
        filters,
        epilogue,
        split,
        nr,
        channels: blocks.channels,
        phase_step,
        channel_step,
        offsets: layout.offsets(blocks.channels, channel_step, phase_step),
        offsets_in_place: if in_place { layout.offsets(blocks.channels, in_plane, 0) } else { Vec::new() },
        y: SharedMut::new(y),
    };
    let per_image = grid.column_blocks * grid.row_blocks;
    ctx.parallel.for_each(images * per_image, &|task| {
        let (image, rest) = (task / per_image, task % per_image);
        let (column_block, row_block) = (rest / grid.row_blocks, rest % grid.row_blocks);
        let first = column_block * grid.column_panels * nr;
        let positions = first..layout.positions().min(first + grid.column_panels * nr);
        let first = row_block * grid.row_panels;
        job.task(image, first..split.panels().min(first + grid.row_panels), positions);
    });
}

/// How much of the input is held at a time.
struct Blocks {
    /// Input channels.
    channels: usize,
    /// Panels of positions, at most.
    panels: usize,
}

impl Blocks {
    fn new(layout: &Layout, channels: usize, nr: usize, budget: usize) -> Self {
        let phases = layout.phases();
        // Rows that two blocks share are copied twice: a block should be longer than they are.
        let least = layout.reach + (2 * layout.reach).max(4 * nr);
        let most_channels = (budget / (phases * least)).clamp(1, channels.max(1));
        let channels = channels.div_ceil(channels.div_ceil(most_channels).max(1)).max(1);
        let len = (budget / (phases * channels)).saturating_sub(layout.reach);
        Self { channels, panels: (len / nr).max(1) }
    }
}

struct Job<'a> {
    features: Features,
    shape: &'a ConvShape,
    layout: &'a Layout,
    x: &'a [f32],
    filters: &'a [PackedA],
    epilogue: &'a ConvEpilogue<'a>,
    split: RowSplit,
    nr: usize,
    /// Input channels of a depth block.
    channels: usize,
    /// Elements between phases and between channels of the copy.
    phase_step: usize,
    channel_step: usize,
    offsets: Vec<u32>,
    /// The same into the input itself; empty where it has to be copied.
    offsets_in_place: Vec<u32>,
    y: SharedMut<'a, f32>,
}

impl Job<'_> {
    /// A block of output channels and positions of one (image, group) pair.
    fn task(&self, image: usize, panels: Range<usize>, positions: Range<usize>) {
        let (shape, layout) = (self.shape, self.layout);
        let (n, group) = (image / shape.groups, image % shape.groups);
        let (in_plane, group_in, taps) = (shape.in_plane(), shape.group_in(), shape.taps());
        let start = (n * shape.in_channels + group * group_in) * in_plane;
        let width = positions.len().next_multiple_of(self.nr);
        // The last panel may read past the last row.
        let end = start + group_in * in_plane - in_plane + positions.start + width + layout.reach;
        let in_place = !self.offsets_in_place.is_empty() && end <= self.x.len();
        let scratch_len = if in_place { 0 } else { self.channels * self.channel_step };
        with_scratch::<f32, _>(scratch_len, |strip| {
            let mut channel = 0;
            while channel < group_in {
                let channels = self.channels.min(group_in - channel);
                let from = start + channel * in_plane;
                let (base, offsets) = if in_place {
                    (self.x[from + positions.start..].as_ptr(), &self.offsets_in_place)
                } else {
                    self.features.dispatch(FillStrip {
                        layout,
                        planes: &self.x[from..from + channels * in_plane],
                        first: positions.start,
                        phase_step: self.phase_step,
                        channel_step: self.channel_step,
                        strip: &mut *strip,
                    });
                    (strip.as_ptr(), &self.offsets)
                };
                self.features.dispatch(Tiles {
                    job: self,
                    image: n,
                    group,
                    panels: panels.clone(),
                    positions: positions.clone(),
                    base,
                    offsets: &offsets[..channels * taps],
                    depth: channel * taps,
                    last: channel + channels == group_in,
                });
                channel += channels;
            }
        });
    }
}

/// Copies the input around a block of positions of some channels into the layout.
struct FillStrip<'a> {
    layout: &'a Layout,
    /// Whole planes, one a channel.
    planes: &'a [f32],
    /// First position.
    first: usize,
    phase_step: usize,
    channel_step: usize,
    strip: &'a mut [f32],
}

impl Kernel for FillStrip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { layout, planes, first, phase_step, channel_step, strip } = self;
        let (rows, columns) = (&layout.rows, &layout.columns);
        let in_plane = rows.input * columns.input;
        for (plane, strip) in planes.chunks_exact(in_plane).zip(strip.chunks_exact_mut(channel_step)) {
            let mut phases = strip.chunks_exact_mut(phase_step);
            for &row_residue in &rows.residues {
                let row_range = rows.inside(row_residue);
                for &residue in &columns.residues {
                    let range = columns.inside(residue);
                    let Some(phase) = phases.next() else { return };
                    let (mut row, mut column) = (first / layout.pitch, first % layout.pitch);
                    let mut rest = phase;
                    while !rest.is_empty() {
                        let len = (layout.pitch - column).min(rest.len());
                        let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
                        if row_range.contains(&row) {
                            let y = row * rows.stride + row_residue - rows.pad;
                            let from = range.start.clamp(column, column + len);
                            let end = range.end.clamp(from, column + len);
                            part[..from - column].fill(0.0);
                            part[end - column..].fill(0.0);
                            if from < end {
                                let x = from * columns.stride + residue - columns.pad;
                                let inner = &mut part[from - column..end - column];
                                copy_run(s, plane, y * columns.input + x, columns.stride, inner);
                            }
                        } else {
                            part.fill(0.0);
                        }
                        rest = tail;
                        (row, column) = (row + 1, 0);
                    }
                }
            }
        }
    }
}

/// A run of stored positions inside a panel.
#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    /// First column of the tile.
    column: usize,
    len: usize,
    /// Offset in the output plane.
    at: usize,
}

/// Multiplies panels of filters with a block of positions.
struct Tiles<'a, 'b> {
    job: &'a Job<'b>,
    image: usize,
    group: usize,
    panels: Range<usize>,
    positions: Range<usize>,
    /// The first position of the first channel.
    base: *const f32,
    offsets: &'a [u32],
    /// First column of the filter matrix.
    depth: usize,
    last: bool,
}

impl Kernel for Tiles<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (job, nr) = (self.job, TILE_VECTORS * S::LANES);
        let depth = job.shape.group_in() * job.shape.taps();
        let filter = job.filters[self.group].data();
        // Segments may start anywhere, so that the last vector of the last row reads past the tile.
        let mut tile = Tile([0.0; MAX_TILE + 2 * MAX_LANES]);
        let mut segments = Vec::with_capacity(nr);
        for panel in self.panels.clone() {
            let (row, height) = (job.split.start(panel), job.split.height(panel));
            let a = &filter[row * depth + self.depth * height..][..self.offsets.len() * height];
            let mut first = self.positions.start;
            while first < self.positions.end {
                let width = nr.min(self.positions.end - first);
                place(job.layout, first, width, &mut segments);
                // SAFETY: the strip, or the input where it is used in place, holds what every offset adds to every
                // position of the block; the filter holds `offsets.len()` columns of `height`.
                unsafe {
                    let b = self.base.add(first - self.positions.start);
                    let out = tile.0.as_mut_ptr();
                    if width > S::LANES {
                        accumulate_tile::<S, TILE_VECTORS>(s, height, self.offsets, a.as_ptr(), b, out);
                    } else {
                        accumulate_tile::<S, 1>(s, height, self.offsets, a.as_ptr(), b, out);
                    }
                    self.finish(s, &mut tile, row, height, &segments);
                }
                first += nr;
            }
        }
    }
}

/// The stored positions among `width` from `first` on.
fn place(layout: &Layout, first: usize, width: usize, segments: &mut Vec<Segment>) {
    segments.clear();
    let (mut row, mut x) = (first / layout.pitch, first % layout.pitch);
    let mut column = 0;
    while column < width {
        let inner = layout.columns.output;
        if x < inner {
            let len = (inner - x).min(width - column);
            segments.push(Segment { column, len, at: row * inner + x });
        }
        column += layout.pitch - x;
        (row, x) = (row + 1, 0);
    }
}

impl Tiles<'_, '_> {
    /// Stores a tile of sums, applying the epilogue when they are complete.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, tile: &mut Tile, row: usize, height: usize, segments: &[Segment]) {
        let (job, nr) = (self.job, TILE_VECTORS * S::LANES);
        let out_plane = job.shape.out_plane();
        let (first, last) = (self.depth == 0, self.last);
        let activation = job.epilogue.activation;
        let clamps = activation.bounds();
        let separate = last && clamps.is_none();
        let bounds = clamps.filter(|_| last && activation != Unary::Identity);
        let channel = self.group * job.shape.group_out() + row;
        let plane = self.image * job.shape.out_channels + channel;
        let residual = job.epilogue.residual.filter(|_| last).map(<[f32]>::as_ptr);
        let tile = tile.0.as_mut_ptr();
        for i in 0..height {
            let bias = job.epilogue.bias.filter(|_| last).map_or(0.0, |bias| bias[channel + i]);
            for segment in segments {
                let at = (plane + i) * out_plane + segment.at;
                let mut j = 0;
                while j < segment.len {
                    let n = S::LANES.min(segment.len - j);
                    // SAFETY: segments lie in the tile and in the output plane, which no other task writes; the
                    // residual has the extents of the output.
                    unsafe {
                        let sums = tile.add(i * nr + segment.column + j);
                        let c = job.y.pointer().add(at + j);
                        let mut v = s.add(s.load(sums), s.splat(bias));
                        if !first {
                            v = s.add(v, s.load_partial(c, n));
                        }
                        if let Some(residual) = residual {
                            v = s.add(v, s.load_partial(residual.add(at + j), n));
                        }
                        if let Some((min, max)) = bounds {
                            v = s.min(s.splat(max), s.max(s.splat(min), v));
                        }
                        let target = if separate { sums } else { c };
                        if n == S::LANES { s.store(target, v) } else { s.store_partial(target, n, v) }
                    }
                    j += S::LANES;
                }
            }
        }
        if !separate {
            return;
        }
        // SAFETY: the whole tile is initialised and segments are as above.
        unsafe {
            unary_raw(job.features, activation, tile, tile, height * nr);
            for i in 0..height {
                for segment in segments {
                    let at = (plane + i) * out_plane + segment.at;
                    let sums = tile.add(i * nr + segment.column);
                    std::ptr::copy_nonoverlapping(sums, job.y.pointer().add(at), segment.len);
                }
            }
        }
    }
}

/// A tile of sums, row-major with `TILE_VECTORS * LANES` columns, and room behind it.
#[repr(align(64))]
struct Tile([f32; MAX_TILE + 2 * MAX_LANES]);

/// `out[i][j] = sum over k of a[k * rows + i] * b[offsets[k] + j]` for `NV` vectors of columns.
///
/// # Safety
/// `a` holds `offsets.len()` groups of `rows` values, `b` the vectors at every offset, `out` a whole tile.
#[inline(always)]
unsafe fn accumulate_tile<S: Simd, const NV: usize>(
    s: S,
    rows: usize,
    offsets: &[u32],
    a: *const f32,
    b: *const f32,
    out: *mut f32,
) {
    let limit = tile_rows::<S>();
    macro_rules! heights {
        ($($h:literal)*) => {
            match rows {
                // SAFETY: the caller's contract.
                1 => unsafe { accumulate_few::<S, 1, NV, 4>(s, offsets, a, b, out) },
                // SAFETY: the caller's contract.
                2 => unsafe { accumulate_few::<S, 2, NV, 2>(s, offsets, a, b, out) },
                // SAFETY: the caller's contract.
                3 => unsafe { accumulate_few::<S, 3, NV, 2>(s, offsets, a, b, out) },
                // SAFETY: the caller's contract.
                $( $h if $h <= limit => unsafe { accumulate::<S, $h, NV>(s, offsets, a, b, out) }, )*
                _ => {}
            }
        };
    }
    heights!(4 5 6 7 8 9 10 11 12 13 14);
}

/// The sums of `MR` rows.
#[inline(always)]
unsafe fn accumulate<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    offsets: &[u32],
    mut a: *const f32,
    b: *const f32,
    out: *mut f32,
) {
    let mut acc = [[s.zero(); NV]; MR];
    // SAFETY: the contract of `accumulate_tile`.
    unsafe {
        for &offset in offsets {
            let b = b.add(offset as usize);
            let mut columns = [s.zero(); NV];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load(b.add(j * S::LANES));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let value = s.splat(*a.add(i));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = s.fma(value, column, *sum);
                }
            }
            a = a.add(MR);
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                s.store(out.add((i * TILE_VECTORS + j) * S::LANES), *sum);
            }
        }
    }
}

/// The sums of very few rows: `U` independent sums of each hide the latency of the multiply-adds.
#[inline(always)]
unsafe fn accumulate_few<S: Simd, const MR: usize, const NV: usize, const U: usize>(
    s: S,
    offsets: &[u32],
    a: *const f32,
    b: *const f32,
    out: *mut f32,
) {
    let mut acc = [[[s.zero(); NV]; MR]; U];
    let count = offsets.len();
    let mut k = 0;
    // SAFETY: the contract of `accumulate_tile`.
    unsafe {
        while k + U <= count {
            for (u, rows) in acc.iter_mut().enumerate() {
                let b = b.add(*offsets.get_unchecked(k + u) as usize);
                for (i, row) in rows.iter_mut().enumerate() {
                    let value = s.splat(*a.add((k + u) * MR + i));
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = s.fma(value, s.load(b.add(j * S::LANES)), *sum);
                    }
                }
            }
            k += U;
        }
        while k < count {
            let b = b.add(*offsets.get_unchecked(k) as usize);
            for (i, row) in acc[0].iter_mut().enumerate() {
                let value = s.splat(*a.add(k * MR + i));
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = s.fma(value, s.load(b.add(j * S::LANES)), *sum);
                }
            }
            k += 1;
        }
        for i in 0..MR {
            for j in 0..NV {
                let mut sum = acc[0][i][j];
                for part in &acc[1..] {
                    sum = s.add(sum, part[i][j]);
                }
                s.store(out.add((i * TILE_VECTORS + j) * S::LANES), sum);
            }
        }
    }
}
