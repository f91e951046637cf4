//! Packs image patches straight into the panels of the right operand: the matrix of patches is never built.
//!
//! Row k of the operand is an (input channel, tap) pair, column p an output position. A panel of `nr` positions is
//! cut into segments that stay on one innermost row of the output, where neighbours read neighbours.

use crate::cpu::pool::Window;
use crate::cpu::simd::{Kernel, Simd};

/// A run of output positions on one innermost row.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// First column in the panel.
    column: usize,
    len: usize,
    /// Input position of the first column at tap 0 along the innermost dimension; negative in the padding.
    start: isize,
}

/// Where a tap of the outer dimensions lies outside the input.
const OUTSIDE: usize = usize::MAX;

/// Packs rows `depth` of the columns `columns` of one group of one image.
pub(super) struct PackPatches<'a> {
    pub(super) window: &'a Window,
    /// The group's input channels of the image.
    pub(super) image: &'a [f32],
    pub(super) depth: std::ops::Range<usize>,
    pub(super) columns: std::ops::Range<usize>,
    pub(super) nr: usize,
    /// `[panels][depth][nr]`.
    pub(super) dst: &'a mut [f32],
}

impl Kernel for PackPatches<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { window, image, depth, columns, nr, dst } = self;
        let mut layout = Layout::new(window);
        let panel_len = depth.len() * nr;
        for (panel, dst) in dst.chunks_exact_mut(panel_len).enumerate() {
            let first = columns.start + panel * nr;
            let width = nr.min(columns.end - first);
            layout.place(window, first, width);
            pack_panel(s, window, &layout, image, depth.clone(), nr, width, dst);
        }
    }
}

/// The segments of a panel, and for each the input offset of its row under every tap of the outer dimensions.
struct Layout {
    outer_taps: usize,
    segments: Vec<Segment>,
    /// `[segment][outer tap]`: offset of the innermost row in a plane, or `OUTSIDE`.
    rows: Vec<usize>,
}

impl Layout {
    fn new(window: &Window) -> Self {
        let outer = window.rank() - 1;
        let outer_taps = window.kernel[..outer].iter().product();
        Self { outer_taps, segments: Vec::new(), rows: Vec::new() }
    }

    fn place(&mut self, window: &Window, first: usize, width: usize) {
        let last = window.rank() - 1;
        let inner = window.output[last];
        self.segments.clear();
        self.rows.clear();
        let mut column = 0;
        while column < width {
            let (row, x) = ((first + column) / inner, (first + column) % inner);
            let len = (inner - x).min(width - column);
            let start = (x * window.strides[last]) as isize - window.pads_begin[last] as isize;
            self.segments.push(Segment { column, len, start });
            for tap in 0..self.outer_taps {
                self.rows.push(outer_row(window, row, tap));
            }
            column += len;
        }
    }
}

/// Offset of the innermost input row read by output row `row` under outer tap `tap`.
fn outer_row(window: &Window, mut row: usize, mut tap: usize) -> usize {
    let last = window.rank() - 1;
    let mut offset = 0;
    let mut stride = window.input[last];
    for d in (0..last).rev() {
        let (o, t) = (row % window.output[d], tap % window.kernel[d]);
        let at = (o * window.strides[d] + t * window.dilations[d]) as isize - window.pads_begin[d] as isize;
        if at < 0 || at >= window.input[d] as isize {
            return OUTSIDE;
        }
        offset += at as usize * stride;
        stride *= window.input[d];
        row /= window.output[d];
        tap /= window.kernel[d];
    }
    offset
}

#[inline(always)]
fn pack_panel<S: Simd>(
    s: S,
    window: &Window,
    layout: &Layout,
    image: &[f32],
    depth: std::ops::Range<usize>,
    nr: usize,
    width: usize,
    dst: &mut [f32],
) {
    let last = window.rank() - 1;
    let (inner_taps, stride, dilation) = (window.kernel[last], window.strides[last], window.dilations[last]);
    let input_width = window.input[last];
    let plane: usize = window.input.iter().product();
    let taps = layout.outer_taps * inner_taps;
    let (mut channel, mut tap) = (depth.start / taps, depth.start % taps);
    for dst in dst.chunks_exact_mut(nr) {
        let (outer, inner) = (tap / inner_taps, tap % inner_taps);
        for (index, segment) in layout.segments.iter().enumerate() {
            let row = layout.rows[index * layout.outer_taps + outer];
            let dst = &mut dst[segment.column..segment.column + segment.len];
            if row == OUTSIDE {
                dst.fill(0.0);
                continue;
            }
            let base = channel * plane + row;
            let start = segment.start + (inner * dilation) as isize;
            copy_run(s, image, base, input_width, start, stride, dst);
        }
        dst[width..].fill(0.0);
        tap += 1;
        if tap == taps {
            (channel, tap) = (channel + 1, 0);
        }
    }
}

/// `dst[i] = row[start + i * stride]`, zero outside the row, with the row at `image[base..base + width]`.
#[inline(always)]
fn copy_run<S: Simd>(s: S, image: &[f32], base: usize, width: usize, start: isize, stride: usize, dst: &mut [f32]) {
    let len = dst.len();
    // Positions inside the row: first..end.
    let first = if start >= 0 { 0 } else { ((-start) as usize).div_ceil(stride).min(len) };
    let end = if start >= width as isize { 0 } else { ((width as isize - start) as usize).div_ceil(stride).min(len) };
    if first >= end {
        return dst.fill(0.0);
    }
    if first > 0 {
        dst[..first].fill(0.0);
    }
    if end < len {
        dst[end..].fill(0.0);
    }
    let from = base + (start + (first * stride) as isize) as usize;
    let count = end - first;
    let dst = &mut dst[first..end];
    if stride == 1 {
        let src = &image[from..from + count];
        if count == 2 * S::LANES {
            // SAFETY: both hold two vectors.
            unsafe {
                s.store(dst.as_mut_ptr(), s.load(src.as_ptr()));
                s.store(dst.as_mut_ptr().add(S::LANES), s.load(src.as_ptr().add(S::LANES)));
            }
            return;
        }
        let mut i = 0;
        while i < count {
            let n = S::LANES.min(count - i);
            // SAFETY: both hold `count` elements.
            unsafe { s.store_partial(dst.as_mut_ptr().add(i), n, s.load_partial(src.as_ptr().add(i), n)) };
            i += S::LANES;
        }
        return;
    }
    let mut i = 0;
    if stride == 2 {
        while i + S::LANES <= count && from + 2 * (i + S::LANES) <= image.len() {
            // SAFETY: the source holds 2 * LANES elements by the condition, the destination LANES.
            unsafe { s.store(dst.as_mut_ptr().add(i), s.load_even(image.as_ptr().add(from + 2 * i))) };
            i += S::LANES;
        }
    }
    while i < count {
        dst[i] = image[from + i * stride];
        i += 1;
    }
}
