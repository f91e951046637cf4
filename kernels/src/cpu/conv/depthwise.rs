//! Depthwise convolution in two dimensions: every plane has its own filter, applied to whole rows of lanes.

use super::shape::{ConvEpilogue, ConvShape};
use crate::cpu::buffer::with_scratch;
use crate::cpu::elementwise::unary_raw;
use crate::cpu::features::Context;
use crate::cpu::float::MAX_LANES;
use crate::cpu::pool::Window;
use crate::cpu::simd::{Kernel, Simd};
use crate::parallel::{SharedMut, for_each_range};

/// Multiply-adds a task should at least have.
const GRAIN: usize = 64 * 1024;

/// Whether the direct kernel covers the shape: one input channel per group and one or two spatial dimensions.
pub(super) fn covers(groups: usize, in_channels: usize, window: &Window) -> bool {
    groups == in_channels && groups > 1 && matches!(window.rank(), 1 | 2)
}

/// A window of one or two dimensions seen as two-dimensional, with its input surrounded by zeros.
#[derive(Clone, Copy)]
struct Geometry {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 2],
    /// Rows of the padded plane.
    rows: usize,
    /// Elements between rows of the padded plane.
    pitch: usize,
}

impl Geometry {
    fn new(window: &Window) -> Self {
        let two = |part: &[usize], fill: usize| match part {
            [x] => [fill, *x],
            [y, x] => [*y, *x],
            _ => [fill, fill],
        };
        let [height, width] = two(&window.input, 1);
        let [out_height, out_width] = two(&window.output, 1);
        let (kernel, strides) = (two(&window.kernel, 1), two(&window.strides, 1));
        let (dilations, pads) = (two(&window.dilations, 1), two(&window.pads_begin, 0));
        let rows = ((out_height - 1) * strides[0] + (kernel[0] - 1) * dilations[0] + 1).max(height + pads[0]);
        // Whole vectors of outputs are computed, so the last may read past the window of the last output.
        let columns =
            (out_width.next_multiple_of(MAX_LANES) - 1) * strides[1] + (kernel[1] - 1) * dilations[1] + 2;
        let pitch = columns.max(width + pads[1]);
        Self { height, width, out_height, out_width, kernel, strides, dilations, pads, rows, pitch }
    }
}

/// Convolves every plane with its own filter `[out_channels, 1, kernel...]`; the output may have several planes per
/// input plane.
pub(super) fn convolve(
    ctx: Context<'_>,
    shape: &ConvShape,
    x: &[f32],
    filter: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    let geometry = Geometry::new(&shape.window);
    let (in_plane, out_plane, taps) = (shape.in_plane(), shape.out_plane(), shape.taps());
    let multiplier = shape.group_out();
    let bounds = epilogue.activation.bounds().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let out = SharedMut::new(y);
    let grain = (GRAIN / (multiplier * out_plane * taps).max(1)).max(1);
    for_each_range(ctx.parallel, shape.batch * shape.in_channels, grain, 1, &|range| {
        let len = geometry.rows * geometry.pitch + MAX_LANES;
        with_scratch::<f32, _>(len, |padded| {
            padded.fill(0.0);
            for plane in range {
                let x = &x[plane * in_plane..(plane + 1) * in_plane];
                ctx.features.dispatch(Pad { geometry, x, padded });
                for local in 0..multiplier {
                    let channel = plane % shape.in_channels * multiplier + local;
                    let at = (plane * multiplier + local) * out_plane;
                    // SAFETY: planes are disjoint.
                    let y = unsafe { out.slice(at..at + out_plane) };
                    ctx.features.dispatch(PlaneKernel {
                        geometry,
                        padded,
                        filter: &filter[channel * taps..(channel + 1) * taps],
                        bias: epilogue.bias.map_or(0.0, |bias| bias[channel]),
                        residual: epilogue.residual.map(|residual| &residual[at..at + out_plane]),
                        bounds,
                        y,
                    });
                    if epilogue.activation.bounds().is_none() {
                        // SAFETY: one slice, read and written in place.
                        unsafe {
                            unary_raw(
                                ctx.features,
                                epilogue.activation,
                                y.as_ptr(),
                                y.as_mut_ptr(),
                                out_plane,
                            );
                        }
                    }
                }
            }
        });
    });
}

/// Copies a plane inside its border of zeros.
struct Pad<'a> {
    geometry: Geometry,
    x: &'a [f32],
    padded: &'a mut [f32],
}

impl Kernel for Pad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { geometry: g, x, padded } = self;
        assert!(x.len() == g.height * g.width && padded.len() >= g.rows * g.pitch);
        for row in 0..g.height {
            let mut i = 0;
            while i < g.width {
                let n = S::LANES.min(g.width - i);
                // SAFETY: the border leaves room for the whole plane, which holds `height` rows of `width`.
                unsafe {
                    let v = s.load_partial(x.as_ptr().add(row * g.width + i), n);
                    let at = (row + g.pads[0]) * g.pitch + g.pads[1] + i;
                    s.store_partial(padded.as_mut_ptr().add(at), n, v);
                }
                i += S::LANES;
            }
        }
    }
}

struct PlaneKernel<'a> {
    geometry: Geometry,
    padded: &'a [f32],
    filter: &'a [f32],
    bias: f32,
    residual: Option<&'a [f32]>,
    /// What outputs are clamped to.
    bounds: (f32, f32),
    y: &'a mut [f32],
}

impl Kernel for PlaneKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (self.geometry.kernel, self.geometry.strides[1]) {
            ([3, 3], 1) => fixed::<S, 3, 3, 1>(s, self),
            ([3, 3], 2) => fixed::<S, 3, 3, 2>(s, self),
            ([5, 5], 1) => fixed::<S, 5, 5, 1>(s, self),
            ([5, 5], 2) => fixed::<S, 5, 5, 2>(s, self),
            _ => any(s, self),
        }
    }
}

/// Inputs of `LANES` neighbouring outputs.
#[inline(always)]
unsafe fn load_strided<S: Simd>(s: S, p: *const f32, stride: usize) -> S::F {
    // SAFETY: the padded plane extends over whole vectors of outputs.
    unsafe {
        match stride {
            1 => s.load(p),
            2 => s.load_even(p),
            _ => {
                let mut lanes = [0.0; MAX_LANES];
                for (i, lane) in lanes.iter_mut().enumerate().take(S::LANES) {
                    *lane = *p.add(i * stride);
                }
                s.load(lanes.as_ptr())
            }
        }
    }
}

/// Stores a vector of outputs at column `x` of row `y`.
#[inline(always)]
unsafe fn store_outputs<S: Simd>(s: S, kernel: &mut PlaneKernel<'_>, y: usize, x: usize, mut v: S::F) {
    let width = kernel.geometry.out_width;
    let (at, n) = (y * width + x, S::LANES.min(width - x));
    // SAFETY: n outputs remain on the row; the residual has the output's length.
    unsafe {
        if let Some(residual) = kernel.residual {
            v = s.add(v, s.load_partial(residual.as_ptr().add(at), n));
        }
        v = s.min(s.splat(kernel.bounds.1), s.max(s.splat(kernel.bounds.0), v));
        let p = kernel.y.as_mut_ptr().add(at);
        if n == S::LANES { s.store(p, v) } else { s.store_partial(p, n, v) }
    }
}

/// Kernel extents known to the compiler: taps are unrolled and the filter stays in registers.
#[inline(always)]
fn fixed<S: Simd, const H: usize, const W: usize, const STRIDE: usize>(s: S, mut kernel: PlaneKernel<'_>) {
    let g = kernel.geometry;
    let mut weights = [[s.zero(); W]; H];
    for (r, row) in weights.iter_mut().enumerate() {
        for (c, w) in row.iter_mut().enumerate() {
            *w = s.splat(kernel.filter[r * W + c]);
        }
    }
    let bias = s.splat(kernel.bias);
    assert!(kernel.padded.len() >= g.rows * g.pitch + MAX_LANES);
    for y in 0..g.out_height {
        let mut x = 0;
        while x < g.out_width {
            // SAFETY: rows and columns of the window lie in the padded plane.
            unsafe {
                let mut acc = [bias, s.zero()];
                for (r, row) in weights.iter().enumerate() {
                    let line = kernel
                        .padded
                        .as_ptr()
                        .add((y * g.strides[0] + r * g.dilations[0]) * g.pitch + x * STRIDE);
                    for (c, &w) in row.iter().enumerate() {
                        let v = load_strided(s, line.add(c * g.dilations[1]), STRIDE);
                        acc[r % 2] = s.fma(w, v, acc[r % 2]);
                    }
                }
                store_outputs(s, &mut kernel, y, x, s.add(acc[0], acc[1]));
            }
            x += S::LANES;
        }
    }
}

/// Any kernel extents and stride.
#[inline(always)]
fn any<S: Simd>(s: S, mut kernel: PlaneKernel<'_>) {
    let g = kernel.geometry;
    assert!(kernel.padded.len() >= g.rows * g.pitch + MAX_LANES);
    for y in 0..g.out_height {
        let mut x = 0;
        while x < g.out_width {
            // SAFETY: rows and columns of the window lie in the padded plane.
            unsafe {
                let mut acc = s.splat(kernel.bias);
                for r in 0..g.kernel[0] {
                    let row = (y * g.strides[0] + r * g.dilations[0]) * g.pitch;
                    let line = kernel.padded.as_ptr().add(row + x * g.strides[1]);
                    for c in 0..g.kernel[1] {
                        let v = load_strided(s, line.add(c * g.dilations[1]), g.strides[1]);
                        acc = s.fma(s.splat(kernel.filter[r * g.kernel[1] + c]), v, acc);
                    }
                }
                store_outputs(s, &mut kernel, y, x, acc);
            }
            x += S::LANES;
        }
    }
}
