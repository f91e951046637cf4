//! Normalisation: layer, RMS, batch, instance, group and Lp, with statistics in wide accumulators.

use super::features::Context;
use super::simd::{Kernel, Simd};
use crate::error::{KernelError, Result, checked_product, expect_len};
use crate::parallel::{SharedMut, for_each_range};

const GRAIN: usize = 8 * 1024;

/// How a row is centred and scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// Added to the variance or mean square.
    pub epsilon: f32,
    /// Whether the mean is subtracted (layer norm) or not (RMS norm).
    pub centred: bool,
}

/// Mean and inverse deviation of a row, or 0 and the inverse root mean square.
struct RowStatistics<'a> {
    x: &'a [f32],
    norm: RowNorm,
}

impl Kernel for RowStatistics<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let Self { x, norm } = self;
        let count = x.len() as f64;
        let mean = if norm.centred { (sum(s, x, 0.0, false) / count) as f32 } else { 0.0 };
        let square = sum(s, x, mean, true) / count;
        (mean, (1.0 / (square + f64::from(norm.epsilon)).sqrt()) as f32)
    }
}

/// Sum of `x - shift` or of its square. Runs are summed in f32 lanes and joined in f64.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], shift: f32, squared: bool) -> f64 {
    let shift_v = s.splat(shift);
    let one = |v: f32| if squared { (v - shift) * (v - shift) } else { v - shift };
    let mut total = 0.0f64;
    for run in x.chunks(1024) {
        let mut acc = [s.zero(); 4];
        let mut blocks = run.chunks_exact(4 * S::LANES);
        for block in &mut blocks {
            for (u, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the block holds four vectors.
                let v = s.sub(unsafe { s.load(block.as_ptr().add(u * S::LANES)) }, shift_v);
                *acc = if squared { s.fma(v, v, *acc) } else { s.add(*acc, v) };
            }
        }
        total += f64::from(s.reduce_sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]))));
        let mut rest = 0.0f32;
        for &v in blocks.remainder() {
            rest += one(v);
        }
        total += f64::from(rest);
    }
    total
}

/// `y = (x - mean) * inverse * gamma + beta` over one row.
struct Apply<'a> {
    x: &'a [f32],
    mean: f32,
    inverse: f32,
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, mean, inverse, gamma, beta, y } = self;
        let (mean, inverse) = (s.splat(mean), s.splat(inverse));
        let len = x.len();
        let mut i = 0;
        while i < len {
            let n = S::LANES.min(len - i);
            // SAFETY: all rows hold `len` elements.
            unsafe {
                let load = |row: &[f32]| {
                    let p = row.as_ptr().add(i);
                    if n == S::LANES { s.load(p) } else { s.load_partial(p, n) }
                };
                let mut v = s.mul(s.sub(load(x), mean), inverse);
                if let Some(gamma) = gamma {
                    v = s.mul(v, load(gamma));
                }
                if let Some(beta) = beta {
                    v = s.add(v, load(beta));
                }
                let p = y.as_mut_ptr().add(i);
                if n == S::LANES { s.store(p, v) } else { s.store_partial(p, n, v) }
            }
            i += S::LANES;
        }
    }
}

/// Where the statistics of each row go, when wanted.
#[derive(Default)]
pub struct Statistics<'a> {
    /// Mean of each row.
    pub mean: Option<&'a mut [f32]>,
    /// 1 / sqrt(variance + epsilon) of each row.
    pub inverse_deviation: Option<&'a mut [f32]>,
}

/// Normalises each of `rows` contiguous rows of `cols` elements; `gamma` and `beta` have `cols` elements.
pub fn normalize_rows(
    ctx: Context<'_>,
    norm: RowNorm,
    x: &[f32],
    [rows, cols]: [usize; 2],
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    y: &mut [f32],
    statistics: Statistics<'_>,
) -> Result<()> {
    let len = checked_product("normalised operand", &[rows, cols])?;
    expect_len("input of the normalisation", x.len(), len)?;
    expect_len("output of the normalisation", y.len(), len)?;
    for (name, part) in [("scale", gamma), ("bias", beta)] {
        if let Some(part) = part {
            expect_len(name, part.len(), cols)?;
        }
    }
    let Statistics { mean, inverse_deviation } = statistics;
    for part in [&mean, &inverse_deviation].into_iter().flatten() {
        expect_len("statistics output", part.len(), rows)?;
    }
    let means = mean.map(SharedMut::new);
    let inverses = inverse_deviation.map(SharedMut::new);
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, rows, (GRAIN / cols.max(1)).max(1), 1, &|range| {
        for row in range {
            let span = row * cols..(row + 1) * cols;
            let x = &x[span.clone()];
            let (mean, inverse) = ctx.features.dispatch(RowStatistics { x, norm });
            // SAFETY: rows are disjoint, in `y` and in the statistics.
            let y = unsafe { out.slice(span) };
            ctx.features.dispatch(Apply { x, mean, inverse, gamma, beta, y });
            for (target, value) in [(&means, mean), (&inverses, inverse)] {
                if let Some(target) = target {
                    // SAFETY: as above.
                    let part = unsafe { target.slice(row..row + 1) };
                    part[0] = value;
                }
            }
        }
    });
    Ok(())
}

/// Layer normalisation of each row.
pub fn layer_norm(
    ctx: Context<'_>,
    x: &[f32],
    extents: [usize; 2],
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
) -> Result<()> {
    normalize_rows(ctx, RowNorm { epsilon, centred: true }, x, extents, gamma, beta, y, Statistics::default())
}

/// Root-mean-square normalisation of each row.
pub fn rms_norm(
    ctx: Context<'_>,
    x: &[f32],
    extents: [usize; 2],
    gamma: Option<&[f32]>,
    epsilon: f32,
    y: &mut [f32],
) -> Result<()> {
    normalize_rows(
        ctx,
        RowNorm { epsilon, centred: false },
        x,
        extents,
        gamma,
        None,
        y,
        Statistics::default(),
    )
}

/// `sum = x + skip + bias`, then a row norm of `sum` into `y`. `sum` may be asked for as an output.
pub fn skip_norm(
    ctx: Context<'_>,
    norm: RowNorm,
    x: &[f32],
    skip: &[f32],
    bias: Option<&[f32]>,
    [rows, cols]: [usize; 2],
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    y: &mut [f32],
    sum: &mut [f32],
) -> Result<()> {
    use super::elementwise::{Binary, binary, binary_in_place};
    let len = checked_product("normalised operand", &[rows, cols])?;
    expect_len("input of the normalisation", x.len(), len)?;
    expect_len("sum of the normalisation", sum.len(), len)?;
    if skip.len() == len {
        binary(ctx, Binary::Add, x, skip, sum)?;
    } else if !skip.is_empty() && len % skip.len() == 0 && skip.len().is_multiple_of(cols.max(1)) {
        for (part, x) in sum.chunks_mut(skip.len()).zip(x.chunks(skip.len())) {
            binary(ctx, Binary::Add, x, skip, part)?;
        }
    } else {
        return Err(KernelError::shape(format!(
            "skip has {} elements, expected {len} or a divisor",
            skip.len()
        )));
    }
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), cols)?;
        for row in sum.chunks_mut(cols.max(1)) {
            binary_in_place(ctx, Binary::Add, row, bias)?;
        }
    }
    normalize_rows(ctx, norm, sum, [rows, cols], gamma, beta, y, Statistics::default())
}

/// `y = x * scale[c] + shift[c]` over `[batch, channels, spatial]`: batch normalisation with folded statistics.
pub fn scale_channels(
    ctx: Context<'_>,
    x: &[f32],
    [batch, channels, spatial]: [usize; 3],
    scale: &[f32],
    shift: &[f32],
    y: &mut [f32],
) -> Result<()> {
    let len = checked_product("normalised operand", &[batch, channels, spatial])?;
    expect_len("input", x.len(), len)?;
    expect_len("output", y.len(), len)?;
    expect_len("scale", scale.len(), channels)?;
    expect_len("shift", shift.len(), channels)?;
    use super::elementwise::{Unary, unary_raw};
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, batch * channels, (GRAIN / spatial.max(1)).max(1), 1, &|range| {
        for plane in range {
            let span = plane * spatial..(plane + 1) * spatial;
            let op = Unary::Affine { scale: scale[plane % channels], shift: shift[plane % channels] };
            // SAFETY: planes are disjoint and of equal length.
            unsafe {
                let y = out.slice(span.clone());
                unary_raw(ctx.features, op, x[span].as_ptr(), y.as_mut_ptr(), spatial);
            }
        }
    });
    Ok(())
}

/// Folds batch-normalisation statistics into (scale, shift) for [`scale_channels`].
pub fn fold_batch_norm(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f32,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let channels = gamma.len();
    for (name, part) in [("bias", beta), ("mean", mean), ("variance", variance)] {
        expect_len(name, part.len(), channels)?;
    }
    let scale: Vec<f32> = gamma
        .iter()
        .zip(variance)
        .map(|(&g, &v)| (f64::from(g) / (f64::from(v) + f64::from(epsilon)).sqrt()) as f32)
        .collect();
    let shift = (0..channels)
        .map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * f64::from(scale[c])) as f32)
        .collect();
    Ok((scale, shift))
}

/// Group normalisation over `[batch, channels, spatial]`; `gamma` and `beta` have one element per channel.
/// With `groups == channels` it is instance normalisation.
pub fn group_norm(
    ctx: Context<'_>,
    x: &[f32],
    [batch, channels, spatial]: [usize; 3],
    groups: usize,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    y: &mut [f32],
) -> Result<()> {
    let len = checked_product("normalised operand", &[batch, channels, spatial])?;
    expect_len("input of the normalisation", x.len(), len)?;
    expect_len("output of the normalisation", y.len(), len)?;
    expect_len("scale", gamma.len(), channels)?;
    expect_len("bias", beta.len(), channels)?;
    if groups == 0 || channels % groups != 0 {
        return Err(KernelError::parameter(format!(
            "{channels} channels do not divide into {groups} groups"
        )));
    }
    use super::elementwise::{Unary, unary_raw};
    let (per_group, norm) = (channels / groups, RowNorm { epsilon, centred: true });
    let group_len = per_group * spatial;
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, batch * groups, (GRAIN / group_len.max(1)).max(1), 1, &|range| {
        for group in range {
            let span = group * group_len..(group + 1) * group_len;
            let x = &x[span.clone()];
            // SAFETY: groups are disjoint.
            let y = unsafe { out.slice(span) };
            let (mean, inverse) = ctx.features.dispatch(RowStatistics { x, norm });
            for local in 0..per_group {
                let channel = group % groups * per_group + local;
                let scale = inverse * gamma[channel];
                let op = Unary::Affine { scale, shift: beta[channel] - mean * scale };
                let plane = local * spatial..(local + 1) * spatial;
                // SAFETY: planes of equal length.
                unsafe {
                    unary_raw(ctx.features, op, x[plane.clone()].as_ptr(), y[plane].as_mut_ptr(), spatial)
                };
            }
        }
    });
    Ok(())
}
