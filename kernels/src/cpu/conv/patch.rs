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
}

/// What one tap reads for a segment: the positions inside the input, which may be none.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    /// Offset in a plane of the first position inside.
    from: usize,
    /// Columns of the segment before it.
    first: usize,
    /// Positions inside.
    count: usize,
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

/// The segments of a panel and what every tap reads for them.
struct Layout {
    taps: usize,
    segments: Vec<Segment>,
    /// `[segment][tap]`.
    reads: Vec<Read>,
}

impl Layout {
    fn new(window: &Window) -> Self {
        Self { taps: window.kernel.iter().product(), segments: Vec::new(), reads: Vec::new() }
    }

    fn place(&mut self, window: &Window, first: usize, width: usize) {
        let last = window.rank() - 1;
        let (inner, inner_taps) = (window.output[last], window.kernel[last]);
        self.segments.clear();
        self.reads.clear();
        let mut column = 0;
        while column < width {
            let (row, x) = ((first + column) / inner, (first + column) % inner);
            let len = (inner - x).min(width - column);
            self.segments.push(Segment { column, len });
            for outer in 0..self.taps / inner_taps {
                let offset = outer_row(window, row, outer);
                for tap in 0..inner_taps {
                    self.reads.push(read(window, offset, x, tap, len));
                }
            }
            column += len;
        }
    }
}

/// What tap `tap` of the innermost dimension reads for `len` outputs from column `x` on.
fn read(window: &Window, row: usize, x: usize, tap: usize, len: usize) -> Read {
    let last = window.rank() - 1;
    let stride = window.strides[last];
    let start = (x * stride + tap * window.dilations[last]) as isize - window.pads_begin[last] as isize;
    let room = window.input[last] as isize - start;
    let first = if start >= 0 { 0 } else { start.unsigned_abs().div_ceil(stride).min(len) };
    let end = if room <= 0 { 0 } else { room.unsigned_abs().div_ceil(stride).min(len) };
    if row == OUTSIDE || first >= end {
        return Read::default();
    }
    Read { from: row + (start + (first * stride) as isize) as usize, first, count: end - first }
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
    let stride = window.strides[window.rank() - 1];
    let plane: usize = window.input.iter().product();
    let taps = layout.taps;
    let (mut base, mut tap) = (depth.start / taps * plane, depth.start % taps);
    for dst in dst.chunks_exact_mut(nr) {
        for (segment, reads) in layout.segments.iter().zip(layout.reads.chunks_exact(taps)) {
            let part = &mut dst[segment.column..segment.column + segment.len];
            let Read { from, first, count } = reads[tap];
            if count == part.len() {
                copy_run(s, image, base + from, stride, part);
                continue;
            }
            part.fill(0.0);
            copy_run(s, image, base + from, stride, &mut part[first..first + count]);
        }
        if width < nr {
            dst[width..].fill(0.0);
        }
        tap += 1;
        if tap == taps {
            (base, tap) = (base + plane, 0);
        }
    }
}

/// `dst[i] = image[from + i * stride]`.
#[inline(always)]
pub(super) fn copy_run<S: Simd>(s: S, image: &[f32], from: usize, stride: usize, dst: &mut [f32]) {
    let count = dst.len();
    if count == 0 {
        return;
    }
    let mut i = 0;
    if stride == 1 {
        let (src, dst) = (image[from..from + count].as_ptr(), dst.as_mut_ptr());
        // SAFETY: both hold `count` elements.
        unsafe {
            while i + S::LANES <= count {
                s.store(dst.add(i), s.load(src.add(i)));
                i += S::LANES;
            }
            // Masked stores cost far more than a vector that overlaps the one before.
            if i < count && count >= S::LANES {
                let last = count - S::LANES;
                s.store(dst.add(last), s.load(src.add(last)));
            } else if i < count {
                std::ptr::copy_nonoverlapping(src, dst, count);
            }
        }
        return;
    }
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
