//! RoiAlign and MaxRoiPool: pooling over regions of interest.

use smallvec::SmallVec;
use tenon_kernels::parallel::{SharedMut, for_each_range};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::tensor::Tensor;

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("RoiAlign", 10, NEWEST, roi_align),
    Operator::onnx("MaxRoiPool", 1, NEWEST, max_roi_pool),
];

struct RoiAlign {
    max: bool,
    half_pixel: bool,
    output: [usize; 2],
    /// Samples a bin along each side; 0 adapts to the size of the region.
    sampling_ratio: usize,
    spatial_scale: f32,
}

fn roi_align(node: &Node) -> Result<Box<dyn Kernel>> {
    let positive = |name: &str, default: i64, least: i64| -> Result<usize> {
        let value = node.int(name, default)?;
        let valid = usize::try_from(value).ok().filter(|_| value >= least && value < 1 << 24);
        valid.ok_or_else(|| {
            OpError::invalid(format!("attribute '{name}' must be at least {least}, got {value}"))
        })
    };
    let max = match node.string("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(OpError::invalid(format!("attribute 'mode' must be avg or max, got {other}"))),
    };
    let default = if node.version < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match node.string("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(OpError::invalid(format!("coordinate_transformation_mode is unknown: {other}"))),
    };
    Ok(Box::new(RoiAlign {
        max,
        half_pixel,
        output: [positive("output_height", 1, 1)?, positive("output_width", 1, 1)?],
        sampling_ratio: positive("sampling_ratio", 0, 0)?,
        spatial_scale: node.float("spatial_scale", 1.0)?,
    }))
}

/// The shape of an image tensor.
fn image_dims(x: &Tensor) -> Result<[usize; 4]> {
    let dims = x.dims();
    dims.try_into().map_err(|_| OpError::invalid(format!("expected X of shape [N, C, H, W], got {dims:?}")))
}

impl Kernel for RoiAlign {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.compute::<T>(cx))
    }
}

/// A sample along one axis: the pixels before and after it and their weights.
struct Point<T> {
    pixels: [usize; 2],
    weights: [T; 2],
}

impl RoiAlign {
    fn compute<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let [batches, channels, height, width] = image_dims(cx.input(0)?)?;
        let rois = cx.input(1)?.dims();
        let indices = cx.input(2)?.to_i64s()?;
        if rois != [indices.len(), 4] {
            return Err(OpError::invalid(format!(
                "expected rois of shape [{}, 4], got {rois:?}",
                indices.len()
            )));
        }
        if let Some(bad) = indices.iter().find(|&&index| index < 0 || index >= batches as i64) {
            return Err(OpError::invalid(format!("batch index {bad} is outside the {batches} images")));
        }
        let (x, rois) = (real::load_input::<T>(cx, 0)?, real::load_input::<T>(cx, 1)?);
        let (image, rois) = (x.as_slice::<T>()?, rois.as_slice::<T>()?);
        let [bins_h, bins_w] = self.output;
        let dims = [indices.len(), channels, bins_h, bins_w];
        let mut output = Output::new::<T>(cx, 0, cx.input(0)?.dtype(), &dims)?;
        let (plane, bins) = (height * width, bins_h * bins_w);
        if plane == 0 && !indices.is_empty() {
            return Err(OpError::invalid("cannot pool over an empty image"));
        }
        let shared = SharedMut::new(output.slice::<T>()?);
        for_each_range(cx.parallel(), indices.len(), 1, 1, &|range| {
            for roi in range {
                let corners = &rois[roi * 4..][..4];
                let rows = self.points(corners[1], corners[3], bins_h, height);
                let columns = self.points(corners[0], corners[2], bins_w, width);
                let batch = indices[roi] as usize;
                for channel in 0..channels {
                    let image = &image[(batch * channels + channel) * plane..][..plane];
                    let at = (roi * channels + channel) * bins;
                    // SAFETY: every channel of every region has its own bins.
                    let to = unsafe { shared.slice(at..at + bins) };
                    let (per_row, per_column) = (rows.len() / bins_h, columns.len() / bins_w);
                    for (bin, to) in to.iter_mut().enumerate() {
                        let rows = &rows[bin / bins_w * per_row..][..per_row];
                        let columns = &columns[bin % bins_w * per_column..][..per_column];
                        *to = self.pool(rows, columns, image, width);
                    }
                }
            }
        });
        output.finish(cx)
    }

    /// One bin of one channel: the mean of its samples, or their largest weighted pixel.
    fn pool<T: Real>(&self, rows: &[Point<T>], columns: &[Point<T>], image: &[T], width: usize) -> T {
        let (mut sum, mut peak) = (T::ZERO, None);
        for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let pixel = image[row.pixels[i] * width + column.pixels[j]];
                let value = pixel * (row.weights[i] * column.weights[j]);
                sum += value;
                peak = Some(peak.map_or(value, |peak: T| peak.maximum(value)));
            }
        }
        if self.max {
            peak.unwrap_or(T::ZERO)
        } else {
            sum / T::from_f64((rows.len() * columns.len()).max(1) as f64)
        }
    }

    /// The samples along one axis of a region, bin by bin.
    fn points<T: Real>(&self, start: T, end: T, bins: usize, len: usize) -> Vec<Point<T>> {
        let offset = T::from_f64(if self.half_pixel { 0.5 } else { 0.0 });
        let scale = T::from_f32(self.spatial_scale);
        let (start, end) = (start * scale - offset, end * scale - offset);
        // Without the half pixel a malformed region counts as one pixel.
        let size = if self.half_pixel { end - start } else { (end - start).maximum(T::ONE) };
        let bin = size / T::from_f64(bins as f64);
        let samples = match self.sampling_ratio {
            // The bound keeps a region of absurd size from taking forever.
            0 => bin.to_f64().ceil().clamp(0.0, MAX_SAMPLES) as usize,
            ratio => ratio,
        };
        let position = |i: usize| {
            let step = T::from_f64((i % samples) as f64 + 0.5) * bin / T::from_f64(samples as f64);
            start + T::from_f64((i / samples) as f64) * bin + step
        };
        (0..bins * samples).map(|i| point(position(i), len)).collect()
    }
}

/// Most samples of a bin along one axis when the region's size decides.
const MAX_SAMPLES: f64 = 4096.0;

/// The pixels around a coordinate; they count nothing where it lies more than a pixel outside.
fn point<T: Real>(at: T, len: usize) -> Point<T> {
    if !(at >= -T::ONE && at <= T::from_f64(len as f64)) {
        return Point { pixels: [0; 2], weights: [T::ZERO; 2] };
    }
    let at = at.maximum(T::ZERO);
    let low = at.to_f64() as usize;
    if low + 1 >= len {
        return Point { pixels: [len - 1; 2], weights: [T::ONE, T::ZERO] };
    }
    let after = at - T::from_f64(low as f64);
    Point { pixels: [low, low + 1], weights: [T::ONE - after, after] }
}

struct MaxRoiPool {
    output: [usize; 2],
    spatial_scale: f32,
}

fn max_roi_pool(node: &Node) -> Result<Box<dyn Kernel>> {
    let shape = node.ints("pooled_shape")?.unwrap_or(&[]);
    let sizes: SmallVec<[usize; 2]> =
        shape.iter().filter_map(|&s| usize::try_from(s).ok().filter(|&s| s > 0)).collect();
    match (sizes.as_slice(), shape.len()) {
        (&[height, width], 2) => Ok(Box::new(MaxRoiPool {
            output: [height, width],
            spatial_scale: node.float("spatial_scale", 1.0)?,
        })),
        _ => Err(OpError::invalid(format!(
            "attribute 'pooled_shape' must be two positive sizes, got {shape:?}"
        ))),
    }
}

impl Kernel for MaxRoiPool {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.compute::<T>(cx))
    }
}

impl MaxRoiPool {
    fn compute<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let [batches, channels, height, width] = image_dims(cx.input(0)?)?;
        let &[count, 5] = cx.input(1)?.dims() else {
            return Err(OpError::invalid(format!(
                "expected rois of shape [R, 5], got {:?}",
                cx.input(1)?.dims()
            )));
        };
        let (x, rois) = (real::load_input::<T>(cx, 0)?, real::load_input::<T>(cx, 1)?);
        let (image, rois) = (x.as_slice::<T>()?, rois.as_slice::<T>()?);
        let [bins_h, bins_w] = self.output;
        let mut output = Output::new::<T>(cx, 0, cx.input(0)?.dtype(), &[count, channels, bins_h, bins_w])?;
        let values = output.slice::<T>()?;
        let scale = f64::from(self.spatial_scale);
        for (roi, to) in
            rois.chunks_exact(5).zip(values.chunks_exact_mut((channels * bins_h * bins_w).max(1)))
        {
            let batch = roi[0].to_f64();
            if !(batch >= 0.0 && batch < batches as f64) {
                return Err(OpError::invalid(format!(
                    "region of image {batch}, but there are {batches} images"
                )));
            }
            let corner = |i: usize| (roi[i].to_f64() * scale).round();
            let rows = bins(corner(2), corner(4), bins_h, height);
            let columns = bins(corner(1), corner(3), bins_w, width);
            for (channel, to) in to.chunks_exact_mut(bins_h * bins_w).enumerate() {
                let plane =
                    &image[(batch as usize * channels + channel) * height * width..][..height * width];
                for (bin, to) in to.iter_mut().enumerate() {
                    let (rows, columns) = (&rows[bin / bins_w], &columns[bin % bins_w]);
                    let pixels =
                        rows.clone().flat_map(|y| columns.clone().map(move |x| plane[y * width + x]));
                    *to = pixels.reduce(T::maximum).unwrap_or(T::ZERO);
                }
            }
        }
        output.finish(cx)
    }
}

/// The pixels of each of `count` bins between two corners of an axis of `len`.
fn bins(start: f64, end: f64, count: usize, len: usize) -> Vec<std::ops::Range<usize>> {
    let bin = (end - start + 1.0).max(1.0) / count as f64;
    let clamp = |v: f64| (v + start).clamp(0.0, len as f64) as usize;
    (0..count).map(|i| clamp((i as f64 * bin).floor())..clamp(((i + 1) as f64 * bin).ceil())).collect()
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn a_region_is_averaged_over_its_samples() {
        let attributes = [("sampling_ratio", Attribute::Int(2)), ("output_width", Attribute::Int(2))];
        let inputs = [
            Some(tensor(&[1, 1, 2, 4], &[0f32, 1., 2., 3., 0., 1., 2., 3.])),
            Some(tensor(&[2, 4], &[0f32, 0., 4., 2., 50., 50., 60., 60.])),
            Some(tensor(&[2], &[0i64, 0])),
        ];
        let output = run(&node("", "RoiAlign", 16, &attributes, 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [0.5, 2.5, 0., 0.]);
        let bad = [inputs[0].clone(), inputs[1].clone(), Some(tensor(&[2], &[0i64, 1]))];
        assert!(run(&node("", "RoiAlign", 16, &attributes, 1), &bad).is_err());
    }

    #[test]
    fn bins_of_a_pooled_region_cover_it() {
        let attributes = [("pooled_shape", Attribute::Ints(vec![1, 2]))];
        let inputs = [
            Some(tensor(&[1, 1, 2, 3], &[1f64, 2., 3., 6., 5., 4.])),
            Some(tensor(&[1, 5], &[0f64, 0., 0., 2., 1.])),
        ];
        let output = run(&node("", "MaxRoiPool", 1, &attributes, 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f64>().unwrap(), [6., 5.]);
    }
}
