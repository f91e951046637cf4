//! Max, average and Lp pooling over any number of spatial dimensions.

use super::buffer::with_scratch;
use super::features::Context;
use super::float::MAX_LANES;
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
        (0..self.rank()).map(|d| self.padded_taps_along(d, index[d])).product()
    }

    /// Taps along dimension `d` inside the padded input for output index `o`.
    fn padded_taps_along(&self, d: usize, o: usize) -> usize {
        let start = o * self.strides[d];
        let padded = self.input[d] + self.pads_begin[d] + self.pads_end[d];
        padded.saturating_sub(start).div_ceil(self.dilations[d]).min(self.kernel[d])
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
    let flat = match kind {
        Pool::Max => Plane2d::of(window, None),
        Pool::Average { count_include_pad } => Plane2d::of(window, Some(count_include_pad)),
        Pool::Lp { .. } => None,
    };
    for_each_range(ctx.parallel, planes, (GRAIN / (out_len * taps).max(1)).max(1), 1, &|range| {
        let line_len = flat.as_ref().map_or(0, |flat| flat.line_len);
        with_scratch::<f32, _>(2 * line_len, |scratch| {
            let (line, slid) = scratch.split_at_mut(line_len);
            line.fill(if kind == Pool::Max { f32::NEG_INFINITY } else { 0.0 });
            for plane in range {
                let x = &x[plane * in_len..(plane + 1) * in_len];
                // SAFETY: planes are disjoint.
                let y = unsafe { out.slice(plane * out_len..(plane + 1) * out_len) };
                match &flat {
                    Some(flat) if kind == Pool::Max => {
                        ctx.features.dispatch(PlaneKernel::<true> { flat, line, slid, x, y });
                    }
                    Some(flat) => ctx.features.dispatch(PlaneKernel::<false> { flat, line, slid, x, y }),
                    None => pool_plane(kind, window, x, y),
                }
            }
        });
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

/// One dimension of a plane.
struct Side {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
    /// What averages divide by, for each output.
    counts: Vec<f32>,
}

impl Side {
    /// Dimension `d` of the window; `padded` says whether averages count the padding.
    fn of(window: &Window, d: usize, padded: Option<bool>) -> Self {
        let count = |o: usize| {
            let (first, end, _) = window.taps(d, o);
            if padded == Some(true) { window.padded_taps_along(d, o) } else { end - first }
        };
        let counts = padded.map_or(Vec::new(), |_| (0..window.output[d]).map(|o| count(o) as f32).collect());
        Self {
            input: window.input[d],
            output: window.output[d],
            kernel: window.kernel[d],
            stride: window.strides[d],
            dilation: window.dilations[d],
            pad: window.pads_begin[d],
            counts,
        }
    }

    fn single(padded: Option<bool>) -> Self {
        let counts = padded.map_or(Vec::new(), |_| vec![1.0]);
        Self { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, pad: 0, counts }
    }
}

/// Elements of the longest line that is held with its padding.
const LONGEST_LINE: usize = 1 << 22;

/// A window of at most two dimensions, seen as two-dimensional.
struct Plane2d {
    rows: Side,
    columns: Side,
    /// Elements of a row with its padding and what whole vectors read beyond.
    line_len: usize,
}

impl Plane2d {
    /// `padded` is given for averages: whether they count the padding.
    fn of(window: &Window, padded: Option<bool>) -> Option<Self> {
        let (rows, columns) = match window.rank() {
            1 => (Side::single(padded), Side::of(window, 0, padded)),
            2 => (Side::of(window, 0, padded), Side::of(window, 1, padded)),
            _ => return None,
        };
        let reach = (columns.kernel - 1) * columns.dilation;
        let outputs = columns.output.next_multiple_of(MAX_LANES);
        let line_len = (outputs * columns.stride + reach + 2 * MAX_LANES).max(columns.pad + columns.input);
        (line_len <= LONGEST_LINE).then_some(Self { rows, columns, line_len })
    }
}

/// Pools a plane: the maximum, or the average where not `MAX`.
struct PlaneKernel<'a, const MAX: bool> {
    flat: &'a Plane2d,
    /// Holds what changes no result wherever the input does not lie.
    line: &'a mut [f32],
    slid: &'a mut [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<const MAX: bool> Kernel for PlaneKernel<'_, MAX> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { flat, line, slid, x, y } = self;
        let (rows, columns) = (&flat.rows, &flat.columns);
        assert!(x.len() == rows.input * columns.input && y.len() == rows.output * columns.output);
        assert!(line.len() == flat.line_len && slid.len() == flat.line_len);
        if y.is_empty() {
            return;
        }
        // Rows are first combined down the window, then along it.
        for (oy, out) in y.chunks_exact_mut(columns.output).enumerate() {
            let inner = &mut line[columns.pad..columns.pad + columns.input];
            let mut fresh = true;
            for tap in 0..rows.kernel {
                let row = (oy * rows.stride + tap * rows.dilation).wrapping_sub(rows.pad);
                if row < rows.input {
                    let x = &x[row * columns.input..(row + 1) * columns.input];
                    if fresh {
                        inner.copy_from_slice(x)
                    } else {
                        combine_row::<S, MAX>(s, x, inner)
                    }
                    fresh = false;
                }
            }
            if fresh {
                inner.fill(if MAX { f32::NEG_INFINITY } else { 0.0 });
            }
            // SAFETY: the line is long enough for all windows of whole vectors of outputs.
            unsafe {
                match columns.stride {
                    1 => slide::<S, MAX, 1>(s, columns, line.as_ptr(), out),
                    2 => slide::<S, MAX, 2>(s, columns, line.as_ptr(), out),
                    stride => {
                        let all = (columns.output - 1) * stride + 1;
                        slide::<S, MAX, 1>(s, columns, line.as_ptr(), &mut slid[..all]);
                        out.iter_mut().zip(slid.iter().step_by(stride)).for_each(|(out, &v)| *out = v);
                    }
                }
            }
            if !MAX {
                let count = rows.counts[oy];
                out.iter_mut().zip(&columns.counts).for_each(|(out, n)| *out /= (n * count).max(1.0));
            }
        }
    }
}

/// Combines the windows along a line, one every `STRIDE` elements.
///
/// # Safety
/// The line must hold the windows of `out.len()` outputs rounded up to whole vectors.
#[inline(always)]
unsafe fn slide<S: Simd, const MAX: bool, const STRIDE: usize>(
    s: S,
    columns: &Side,
    line: *const f32,
    out: &mut [f32],
) {
    let mut i = 0;
    while i < out.len() {
        // SAFETY: the caller's contract; a whole vector is stored only where it fits.
        unsafe {
            let start = line.add(i * STRIDE);
            let load = |p: *const f32| if STRIDE == 1 { s.load(p) } else { s.load_even(p) };
            let mut v = load(start);
            for tap in 1..columns.kernel {
                v = combine::<S, MAX>(s, load(start.add(tap * columns.dilation)), v);
            }
            if i + S::LANES <= out.len() {
                s.store(out.as_mut_ptr().add(i), v);
            } else {
                let mut lanes = [0.0; MAX_LANES];
                s.store(lanes.as_mut_ptr(), v);
                let rest = out.len() - i;
                out[i..].copy_from_slice(&lanes[..rest]);
            }
        }
        i += S::LANES;
    }
}

/// `v` taken into the sum or the maximum, where NaN wins.
#[inline(always)]
fn combine<S: Simd, const MAX: bool>(s: S, v: S::F, sum: S::F) -> S::F {
    if MAX { max_nan(s, v, sum) } else { s.add(sum, v) }
}

#[inline(always)]
fn combine_row<S: Simd, const MAX: bool>(s: S, x: &[f32], line: &mut [f32]) {
    let whole = line.len().min(x.len()) / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: both rows hold a vector from `i` on.
        unsafe {
            let p = line.as_mut_ptr().add(i);
            s.store(p, combine::<S, MAX>(s, s.load(x.as_ptr().add(i)), s.load(p)));
        }
    }
    for (sum, &v) in line[whole..].iter_mut().zip(&x[whole..]) {
        if !MAX {
            *sum += v;
        } else if v > *sum || v.is_nan() {
            *sum = if sum.is_nan() { *sum } else { v };
        }
    }
}
