//! Max, average and Lp pooling over any number of spatial dimensions.

use super::features::Context;
use super::simd::{Kernel, Simd, max_nan};
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

const GRAIN: usize = 16 * 1024;

/// Largest extent, stride, dilation or pad of a window.
const LARGEST: usize = 1 << 40;

/// A sliding window over `input` extents; all vectors have one entry per spatial dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub input: Vec<usize>,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub pads_begin: Vec<usize>,
    pub pads_end: Vec<usize>,
    pub output: Vec<usize>,
}

impl Window {
    /// A window whose output extents are `floor((input + pads - extent) / stride) + 1`, or rounded up where
    /// `ceil_mode`; a last window that would start in the end padding is dropped.
    pub fn new(
        input: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        pads_begin: &[usize],
        pads_end: &[usize],
        ceil_mode: bool,
    ) -> Result<Self> {
        let rank = input.len();
        if [kernel, strides, dilations, pads_begin, pads_end].iter().any(|part| part.len() != rank) {
            return Err(KernelError::shape(format!("window attributes must have {rank} entries each")));
        }
        if kernel.iter().chain(strides).chain(dilations).any(|&v| v == 0) {
            return Err(KernelError::parameter("kernel, strides and dilations must be positive"));
        }
        let mut output = Vec::with_capacity(rank);
        for d in 0..rank {
            // Indices are computed in signed arithmetic: extents beyond its half would overflow.
            let sizes = [input[d], kernel[d], strides[d], dilations[d], pads_begin[d], pads_end[d]];
            let reach = kernel[d].checked_mul(dilations[d]).filter(|&reach| reach <= LARGEST);
            if sizes.iter().any(|&size| size > LARGEST) || reach.is_none() {
                return Err(KernelError::parameter(format!("a window of {sizes:?} is too large")));
            }
            let extent = (kernel[d] - 1) * dilations[d] + 1;
            let padded = input[d] + pads_begin[d] + pads_end[d];
            if padded < extent {
                output.push(0);
                continue;
            }
            let room = padded - extent;
            let mut out = if ceil_mode { room.div_ceil(strides[d]) } else { room / strides[d] } + 1;
            if ceil_mode && (out - 1) * strides[d] >= input[d] + pads_begin[d] {
                out -= 1;
            }
            output.push(out);
        }
        let [input, kernel, strides] = [input, kernel, strides].map(<[usize]>::to_vec);
        let [dilations, pads_begin, pads_end] = [dilations, pads_begin, pads_end].map(<[usize]>::to_vec);
        Ok(Self { input, kernel, strides, dilations, pads_begin, pads_end, output })
    }

    /// Spatial dimensions.
    pub fn rank(&self) -> usize {
        self.input.len()
    }

    fn check(&self, planes: usize, x: usize, y: usize) -> Result<()> {
        let rank = self.rank();
        let parts =
            [&self.kernel, &self.strides, &self.dilations, &self.pads_begin, &self.pads_end, &self.output];
        if parts.iter().any(|part| part.len() != rank) {
            return Err(KernelError::shape(format!("window attributes must have {rank} entries each")));
        }
        let plane = checked_product("pooling input", &self.input)?;
        let out = checked_product("pooling output", &self.output)?;
        expect_len("input of the pooling", x, checked_product("pooling input", &[planes, plane])?)?;
        expect_len("output of the pooling", y, checked_product("pooling output", &[planes, out])?)
    }

    /// Taps `first..end` of dimension `d` that lie inside the input for output index `o`, and the input index of tap 0.
    #[inline]
    pub(crate) fn taps(&self, d: usize, o: usize) -> (usize, usize, isize) {
        let start = (o * self.strides[d]) as isize - self.pads_begin[d] as isize;
        let step = self.dilations[d] as isize;
        let first = if start < 0 { (-start + step - 1) / step } else { 0 };
        let room = self.input[d] as isize - start;
        let end = if room <= 0 { 0 } else { ((room + step - 1) / step).min(self.kernel[d] as isize) };
        (first.min(end) as usize, end as usize, start)
    }

    /// Calls `body(flat input index, flat tap)` for every tap inside the input of output position `index`.
    pub(crate) fn for_taps(&self, index: &[usize], body: &mut dyn FnMut(usize, usize)) {
        self.walk(0, index, 0, 0, body);
    }

    fn walk(
        &self,
        d: usize,
        index: &[usize],
        offset: usize,
        flat: usize,
        body: &mut dyn FnMut(usize, usize),
    ) {
        if d == self.rank() {
            return body(offset, flat);
        }
        let (first, end, start) = self.taps(d, index[d]);
        for tap in first..end {
            let at = (start + (tap * self.dilations[d]) as isize) as usize;
            self.walk(d + 1, index, offset * self.input[d] + at, flat * self.kernel[d] + tap, body);
        }
    }

    /// Taps inside the padded input of an output position, for averages that count the padding.
    fn padded_taps(&self, index: &[usize]) -> usize {
        let inside = |d: usize| {
            let start = index[d] * self.strides[d];
            let padded = self.input[d] + self.pads_begin[d] + self.pads_end[d];
            (0..self.kernel[d]).filter(|tap| start + tap * self.dilations[d] < padded).count()
        };
        (0..self.rank()).map(inside).product()
    }

    /// Coordinates of a flat output index.
    pub(crate) fn unflatten(&self, mut flat: usize, index: &mut [usize]) {
        for d in (0..self.rank()).rev() {
            index[d] = flat % self.output[d];
            flat /= self.output[d];
        }
    }
}

/// What a pooling window computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pool {
    Max,
    Average {
        count_include_pad: bool,
    },
    /// p-th root of the sum of p-th powers of magnitudes.
    Lp {
        p: i32,
    },
}

/// Pools each of `planes` (batch times channels) contiguous planes. An empty maximum is -inf, an empty average 0.
pub fn pool(
    ctx: Context<'_>,
    kind: Pool,
    window: &Window,
    planes: usize,
    x: &[f32],
    y: &mut [f32],
) -> Result<()> {
    window.check(planes, x.len(), y.len())?;
    let (in_len, out_len) = (window.input.iter().product::<usize>(), window.output.iter().product::<usize>());
    let taps: usize = window.kernel.iter().product();
    let out = SharedMut::new(y);
    let flat = Plane2d::of(window);
    for_each_range(ctx.parallel, planes, (GRAIN / (out_len * taps).max(1)).max(1), 1, &|range| {
        for plane in range {
            let x = &x[plane * in_len..(plane + 1) * in_len];
            // SAFETY: planes are disjoint.
            let y = unsafe { out.slice(plane * out_len..(plane + 1) * out_len) };
            match (&flat, kind) {
                (Some(flat), Pool::Max | Pool::Average { .. }) => {
                    ctx.features.dispatch(PlaneKernel { flat, window, kind, x, y });
                }
                _ => pool_plane(kind, window, x, y),
            }
        }
    });
    Ok(())
}

fn pool_plane(kind: Pool, window: &Window, x: &[f32], y: &mut [f32]) {
    let mut index = vec![0; window.rank()];
    for (flat, y) in y.iter_mut().enumerate() {
        window.unflatten(flat, &mut index);
        *y = pool_one(kind, window, &index, x);
    }
}

fn pool_one(kind: Pool, window: &Window, index: &[usize], x: &[f32]) -> f32 {
    match kind {
        Pool::Max => {
            let mut best = f32::NEG_INFINITY;
            window.for_taps(index, &mut |at, _| {
                if x[at] > best || x[at].is_nan() {
                    best = if best.is_nan() { best } else { x[at] };
                }
            });
            best
        }
        Pool::Average { count_include_pad } => {
            let (mut sum, mut count) = (0.0f32, 0usize);
            window.for_taps(index, &mut |at, _| {
                sum += x[at];
                count += 1;
            });
            let count = if count_include_pad { window.padded_taps(index) } else { count };
            if count == 0 { 0.0 } else { sum / count as f32 }
        }
        Pool::Lp { p } => {
            let mut sum = 0.0f32;
            window.for_taps(index, &mut |at, _| sum += x[at].abs().powi(p));
            sum.powf(1.0 / p as f32)
        }
    }
}

/// Max pooling that also gives the flat input index of each maximum, counted over all planes; where `column_major`,
/// the index within a plane is counted with the last dimension slowest. The first maximum in row-major order wins.
pub fn max_pool_indices<T: PartialOrd + Copy + Send + Sync>(
    ctx: Context<'_>,
    window: &Window,
    planes: usize,
    x: &[T],
    lowest: T,
    column_major: bool,
    y: &mut [T],
    indices: &mut [i64],
) -> Result<()> {
    window.check(planes, x.len(), y.len())?;
    expect_len("indices of the pooling", indices.len(), y.len())?;
    let (in_len, out_len) = (window.input.iter().product::<usize>(), window.output.iter().product::<usize>());
    let (values, places) = (SharedMut::new(y), SharedMut::new(indices));
    for_each_range(ctx.parallel, planes, (GRAIN / out_len.max(1)).max(1), 1, &|range| {
        let mut index = vec![0; window.rank()];
        for plane in range {
            let x = &x[plane * in_len..(plane + 1) * in_len];
            let span = plane * out_len..(plane + 1) * out_len;
            // SAFETY: planes are disjoint.
            let (y, places) = unsafe { (values.slice(span.clone()), places.slice(span)) };
            for (flat, (y, place)) in y.iter_mut().zip(places).enumerate() {
                window.unflatten(flat, &mut index);
                let (mut best, mut best_at) = (lowest, None);
                window.for_taps(&index, &mut |at, _| {
                    if best_at.is_none() || x[at] > best {
                        (best, best_at) = (x[at], Some(at));
                    }
                });
                let at = best_at.unwrap_or(0);
                let at = if column_major { to_column_major(at, &window.input) } else { at };
                (*y, *place) = (best, (plane * in_len + at) as i64);
            }
        }
    });
    Ok(())
}

fn to_column_major(mut flat: usize, extents: &[usize]) -> usize {
    let mut stride: usize = extents.iter().product();
    let mut result = 0;
    for &extent in extents.iter().rev() {
        stride /= extent;
        result += flat % extent * stride;
        flat /= extent;
    }
    // `stride` ran from the last dimension down, so the first dimension has stride one.
    result
}

/// A window of at most two dimensions without dilation along columns, seen as two-dimensional.
struct Plane2d {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Plane2d {
    fn of(window: &Window) -> Option<Self> {
        let out_width = *window.output.last()?;
        let width = *window.input.last()?;
        match window.rank() {
            1 => Some(Self { height: 1, width, out_height: 1, out_width }),
            2 => Some(Self { height: window.input[0], width, out_height: window.output[0], out_width }),
            _ => None,
        }
    }
}

struct PlaneKernel<'a> {
    flat: &'a Plane2d,
    window: &'a Window,
    kind: Pool,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for PlaneKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { flat, window, kind, x, y } = self;
        let last = window.rank() - 1;
        let max = kind == Pool::Max;
        let start = if max { f32::NEG_INFINITY } else { 0.0 };
        debug_assert_eq!(flat.height * flat.width, x.len());
        // Rows are first combined down the window, then along it.
        let mut line = vec![start; flat.width];
        let mut index = vec![0; window.rank()];
        for oy in 0..flat.out_height {
            let (first, end, origin) = if last == 0 { (0, 1, 0) } else { window.taps(0, oy) };
            line.fill(start);
            for tap in first..end {
                let dilation = if last == 0 { 1 } else { window.dilations[0] };
                let row = (origin + (tap * dilation) as isize) as usize;
                combine_row(s, max, &x[row * flat.width..(row + 1) * flat.width], &mut line);
            }
            index[0] = oy;
            let out = &mut y[oy * flat.out_width..(oy + 1) * flat.out_width];
            for (ox, out) in out.iter_mut().enumerate() {
                let (left, right, origin) = window.taps(last, ox);
                let mut acc = start;
                for tap in left..right {
                    let v = line[(origin + (tap * window.dilations[last]) as isize) as usize];
                    acc = if !max {
                        acc + v
                    } else if v > acc || v.is_nan() {
                        if acc.is_nan() { acc } else { v }
                    } else {
                        acc
                    };
                }
                if let Pool::Average { count_include_pad } = kind {
                    index[last] = ox;
                    let inside = (end - first) * (right - left);
                    let count = if count_include_pad { window.padded_taps(&index) } else { inside };
                    acc = if count == 0 { 0.0 } else { acc / count as f32 };
                }
                *out = acc;
            }
        }
    }
}

#[inline(always)]
fn combine_row<S: Simd>(s: S, max: bool, x: &[f32], line: &mut [f32]) {
    let len = line.len();
    let mut i = 0;
    while i < len {
        let n = S::LANES.min(len - i);
        // SAFETY: both rows hold `len` elements.
        unsafe {
            let (a, p) = (s.load_partial(x.as_ptr().add(i), n), line.as_mut_ptr().add(i));
            let b = s.load_partial(p, n);
            s.store_partial(p, n, if max { max_nan(s, a, b) } else { s.add(b, a) });
        }
        i += S::LANES;
    }
}
