//! DeformConv: a 2-D convolution that samples its input at learned offsets.

use tenon_kernels::cpu::Matrix;
use tenon_kernels::cpu::gemm::gemm_number;
use tenon_kernels::parallel::{SharedMut, for_each_range};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[Operator::onnx("DeformConv", 19, NEWEST, deform_conv)];

struct DeformConv {
    strides: [usize; 2],
    dilations: [usize; 2],
    /// Rows before, columns before, rows after, columns after.
    pads: [i64; 4],
    groups: usize,
    offset_groups: usize,
}

fn deform_conv(node: &Node) -> Result<Box<dyn Kernel>> {
    let pair = |name: &str| -> Result<[usize; 2]> {
        match node.ints(name)? {
            None => Ok([1, 1]),
            Some(&[a, b]) if a > 0 && b > 0 => Ok([a as usize, b as usize]),
            Some(other) => Err(OpError::invalid(format!(
                "attribute '{name}' must be two positive numbers, got {other:?}"
            ))),
        }
    };
    let count = |name: &str| match node.int(name, 1)? {
        value if value > 0 => Ok(value as usize),
        value => Err(OpError::invalid(format!("attribute '{name}' must be positive, got {value}"))),
    };
    let pads = node.ints("pads")?.unwrap_or(&[0; 4]);
    Ok(Box::new(DeformConv {
        strides: pair("strides")?,
        dilations: pair("dilations")?,
        pads: pads
            .try_into()
            .map_err(|_| OpError::invalid(format!("attribute 'pads' must be four numbers, got {pads:?}")))?,
        groups: count("group")?,
        offset_groups: count("offset_group")?,
    }))
}

/// The extents of one call.
struct Extents {
    batches: usize,
    channels: usize,
    image: [usize; 2],
    filters: usize,
    kernel: [usize; 2],
    output: [usize; 2],
}

impl Kernel for DeformConv {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => self.compute::<T>(cx))
    }
}

impl DeformConv {
    fn extents(&self, cx: &Context<'_>) -> Result<Extents> {
        let (x, w, offset) = (cx.input(0)?.dims(), cx.input(1)?.dims(), cx.input(2)?.dims());
        let mismatch =
            || OpError::invalid(format!("X {x:?}, W {w:?} and offset {offset:?} do not fit each other"));
        let (&[batches, channels, h, width], &[filters, per_group, kh, kw]) = (x, w) else {
            return Err(OpError::unsupported(format!(
                "DeformConv of {} spatial dimensions",
                x.len().saturating_sub(2)
            )));
        };
        let output = |i: usize, len: usize, kernel: usize| -> Result<usize> {
            let span = (kernel.max(1) - 1) * self.dilations[i] + 1;
            let padded = len as i64 + self.pads[i] + self.pads[i + 2] - span as i64;
            if padded < 0 || kernel == 0 {
                Err(mismatch())
            } else {
                Ok(padded as usize / self.strides[i] + 1)
            }
        };
        let output = [output(0, h, kh)?, output(1, width, kw)?];
        let taps = kh * kw * self.offset_groups;
        let mask_fits =
            cx.optional(4).is_none_or(|mask| mask.dims() == [batches, taps, output[0], output[1]]);
        let bias_fits = cx.optional(3).is_none_or(|bias| bias.dims() == [filters]);
        let fits = channels == per_group * self.groups
            && filters % self.groups == 0
            && channels % self.offset_groups == 0
            && offset == [batches, 2 * taps, output[0], output[1]];
        if !(fits && mask_fits && bias_fits) {
            return Err(mismatch());
        }
        Ok(Extents { batches, channels, image: [h, width], filters, kernel: [kh, kw], output })
    }

    fn compute<T: Real + tenon_kernels::cpu::gemm::Number>(&self, cx: &mut Context<'_>) -> Result<()> {
        let extents = self.extents(cx)?;
        let Extents { batches, channels, filters, kernel, output: [oh, ow], .. } = extents;
        let load = |index: usize| real::load_input::<T>(cx, index);
        let (x, w, offset) = (load(0)?, load(1)?, load(2)?);
        let (bias, mask) = (real::load_optional::<T>(cx, 3)?, real::load_optional::<T>(cx, 4)?);
        let bias = bias.as_ref().map(|bias| bias.as_slice::<T>()).transpose()?;
        let mask = mask.as_ref().map(|mask| mask.as_slice::<T>()).transpose()?;
        let (taps, points) = (kernel[0] * kernel[1], oh * ow);
        let depth = channels / self.groups * taps;
        let mut columns_memory = cx.scratch(T::DTYPE, &[channels * taps, points])?;
        let columns = columns_memory.as_mut_slice::<T>()?;
        let mut output = Output::new::<T>(cx, 0, cx.input(0)?.dtype(), &[batches, filters, oh, ow])?;
        let (values, cpu) = (output.slice::<T>()?, cx.cpu());
        let (w, per_group) = (w.as_slice::<T>()?, filters / self.groups);
        for batch in 0..batches {
            let image = &x.as_slice::<T>()?[batch * channels * extents.image[0] * extents.image[1]..];
            let fields = self.offset_groups * taps * points;
            let offset = &offset.as_slice::<T>()?[batch * 2 * fields..][..2 * fields];
            let mask = mask.map(|mask| &mask[batch * fields..][..fields]);
            self.gather(cx, &extents, image, offset, mask, columns);
            for group in 0..self.groups {
                let w =
                    Matrix::row_major(&w[group * per_group * depth..][..per_group * depth], per_group, depth);
                let columns =
                    Matrix::row_major(&columns[group * depth * points..][..depth * points], depth, points);
                let at = (batch * filters + group * per_group) * points;
                gemm_number(cpu, w, columns, &mut values[at..][..per_group * points], points)?;
            }
        }
        if let Some(bias) = bias
            && points > 0
        {
            for (row, values) in values.chunks_exact_mut(points).enumerate() {
                values.iter_mut().for_each(|value| *value += bias[row % filters]);
            }
        }
        output.finish(cx)
    }

    /// Fills `columns`, `[channels * taps, points]`, with the samples under the kernel at every output position.
    fn gather<T: Real>(
        &self,
        cx: &Context<'_>,
        extents: &Extents,
        image: &[T],
        offset: &[T],
        mask: Option<&[T]>,
        columns: &mut [T],
    ) {
        let (taps, ow) = (extents.kernel[0] * extents.kernel[1], extents.output[1]);
        let (points, plane) = (extents.output[0] * ow, extents.image[0] * extents.image[1]);
        let per_offset_group = extents.channels / self.offset_groups;
        let shared = SharedMut::new(columns);
        let grain = 4096usize.div_ceil(points.max(1));
        for_each_range(cx.parallel(), extents.channels * taps, grain, 1, &|range| {
            for row in range {
                let (channel, tap) = (row / taps, row % taps);
                let field = channel / per_offset_group * taps + tap;
                let (tap_y, tap_x) = (tap / extents.kernel[1], tap % extents.kernel[1]);
                let image = &image[channel * plane..][..plane];
                // SAFETY: rows are disjoint.
                let to = unsafe { shared.slice(row * points..(row + 1) * points) };
                for (point, to) in to.iter_mut().enumerate() {
                    let base = |i: usize, at: usize, tap: usize| {
                        (at * self.strides[i] + tap * self.dilations[i]) as f64 - self.pads[i] as f64
                    };
                    let y = T::from_f64(base(0, point / ow, tap_y)) + offset[2 * field * points + point];
                    let x =
                        T::from_f64(base(1, point % ow, tap_x)) + offset[(2 * field + 1) * points + point];
                    *to = sample(image, extents.image, y, x);
                    if let Some(mask) = mask {
                        *to *= mask[field * points + point];
                    }
                }
            }
        });
    }
}

/// The bilinear value at a point of an image that zeros surround.
fn sample<T: Real>(image: &[T], [height, width]: [usize; 2], y: T, x: T) -> T {
    let (low_y, low_x) = (y.to_f64().floor(), x.to_f64().floor());
    if !(low_y >= -1.0 && low_y < height as f64 && low_x >= -1.0 && low_x < width as f64) {
        return T::ZERO;
    }
    let (fy, fx) = (y - T::from_f64(low_y), x - T::from_f64(low_x));
    let (low_y, low_x) = (low_y as isize, low_x as isize);
    let pixel = |y: isize, x: isize| {
        let inside = y >= 0 && x >= 0 && (y as usize) < height && (x as usize) < width;
        if inside { image[y as usize * width + x as usize] } else { T::ZERO }
    };
    let (gy, gx) = (T::ONE - fy, T::ONE - fx);
    pixel(low_y, low_x) * (gy * gx)
        + pixel(low_y, low_x + 1) * (gy * fx)
        + pixel(low_y + 1, low_x) * (fy * gx)
        + pixel(low_y + 1, low_x + 1) * (fy * fx)
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, random, run, tensor};

    #[test]
    fn without_offsets_it_is_a_grouped_convolution() {
        let (x, w) = (random(&[2, 4, 5, 6]), random(&[6, 2, 3, 2]));
        let attributes = [
            ("group", Attribute::Int(2)),
            ("strides", Attribute::Ints(vec![2, 1])),
            ("pads", Attribute::Ints(vec![1, 0, 1, 1])),
        ];
        let offset = tensor(&[2, 12, 3, 6], &[0f32; 2 * 12 * 18]);
        let inputs = [Some(x.clone()), Some(w.clone()), Some(offset)];
        let output = run(&node("", "DeformConv", 19, &attributes, 1), &inputs).unwrap();
        let (x, w, y) = (
            x.as_slice::<f32>().unwrap(),
            w.as_slice::<f32>().unwrap(),
            output[0].as_slice::<f32>().unwrap(),
        );
        for (flat, &got) in y.iter().enumerate() {
            let (n, m, i, j) = (flat / 108, flat / 18 % 6, flat / 6 % 3, flat % 6);
            let mut expected = 0f64;
            for (c, ky, kx) in (0..2).flat_map(|c| (0..3).flat_map(move |y| (0..2).map(move |x| (c, y, x)))) {
                let (row, column) = ((2 * i + ky) as isize - 1, j + kx);
                if (0..5).contains(&row) && column < 6 {
                    let pixel = x[((n * 4 + m / 3 * 2 + c) * 5 + row as usize) * 6 + column];
                    expected += f64::from(pixel) * f64::from(w[((m * 2 + c) * 3 + ky) * 2 + kx]);
                }
            }
            assert!((f64::from(got) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn offsets_move_the_samples_and_the_mask_scales_them() {
        let inputs = [
            Some(tensor(&[1, 1, 1, 2], &[2f32, 4.0])),
            Some(tensor(&[1, 1, 1, 1], &[1f32])),
            Some(tensor(&[1, 2, 1, 2], &[0f32, 0.0, 0.5, 0.5])),
            Some(tensor(&[1], &[10f32])),
            Some(tensor(&[1, 1, 1, 2], &[1f32, 0.5])),
        ];
        let output = run(&node("", "DeformConv", 19, &[], 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [13.0, 11.0]);
    }
}
