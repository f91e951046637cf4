//! com.microsoft CropAndResize: crops of images at normalised boxes, resized corner to corner to one size.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::rows::for_rows;
use crate::tensor::DType;

pub const OPERATORS: &[Operator] = &[Operator::of("com.microsoft", "CropAndResize", crop_and_resize)];

struct CropAndResize {
    nearest: bool,
    extrapolation_value: f32,
}

fn crop_and_resize(node: &Node) -> Result<Box<dyn Kernel>> {
    let nearest = match node.string("mode", "bilinear")? {
        "bilinear" => false,
        "nearest" => true,
        other => {
            return Err(OpError::invalid(format!(
                "attribute 'mode' must be bilinear or nearest, got {other}"
            )));
        }
    };
    Ok(Box::new(CropAndResize { nearest, extrapolation_value: node.float("extrapolation_value", 0.0)? }))
}

impl Kernel for CropAndResize {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, rois) = (cx.input(0)?, cx.input(1)?);
        let (&[batches, channels, height, width], &[count, 4]) = (x.dims(), rois.dims()) else {
            return Err(OpError::invalid(format!(
                "expected X of shape [N, C, H, W] and rois of shape [R, 4], got {:?} and {:?}",
                x.dims(),
                rois.dims()
            )));
        };
        let indices = cx.input(2)?.to_i64s()?;
        let &[crop_h, crop_w] = cx.input(3)?.to_i64s()?.as_slice() else {
            return Err(OpError::invalid("crop_size must be two sizes"));
        };
        let in_range = indices.iter().all(|&index| index >= 0 && index < batches as i64);
        if indices.len() != count || !in_range || crop_h <= 0 || crop_w <= 0 || height * width == 0 {
            return Err(OpError::invalid("the batch indices or the crop size do not fit the images"));
        }
        let (crop_h, crop_w) = (crop_h as usize, crop_w as usize);
        let (image, boxes) = (x.as_slice::<f32>()?, rois.as_slice::<f32>()?);
        let mut output = cx.output(0, DType::F32, &[count, channels, crop_h, crop_w])?;
        let row = channels * crop_h * crop_w;
        for_rows(cx.parallel(), output.as_mut_slice::<f32>()?, row, row * 8, &|roi, to| {
            let [y1, x1, y2, x2] = [0, 1, 2, 3].map(|i| boxes[roi * 4 + i]);
            let images = &image[indices[roi] as usize * channels * height * width..];
            for i in 0..crop_h {
                let y = coordinate(y1, y2, i, crop_h, height);
                for j in 0..crop_w {
                    let x = coordinate(x1, x2, j, crop_w, width);
                    for channel in 0..channels {
                        let plane = &images[channel * height * width..][..height * width];
                        to[(channel * crop_h + i) * crop_w + j] = self.sample(plane, [height, width], y, x);
                    }
                }
            }
        });
        cx.set(0, output);
        Ok(())
    }
}

/// The input coordinate of crop position `i` of `crop` between two normalised corners.
fn coordinate(start: f32, end: f32, i: usize, crop: usize, len: usize) -> f32 {
    let last = (len - 1) as f32;
    if crop > 1 {
        start * last + i as f32 * ((end - start) * last / (crop - 1) as f32)
    } else {
        0.5 * (start + end) * last
    }
}

impl CropAndResize {
    fn sample(&self, plane: &[f32], [height, width]: [usize; 2], y: f32, x: f32) -> f32 {
        let inside = |v: f32, len: usize| v >= 0.0 && v <= (len - 1) as f32;
        if !inside(y, height) || !inside(x, width) {
            return self.extrapolation_value;
        }
        let pixel = |y: f32, x: f32| plane[y as usize * width + x as usize];
        if self.nearest {
            return pixel(y.round(), x.round());
        }
        let (fy, fx) = (y - y.floor(), x - x.floor());
        let top =
            pixel(y.floor(), x.floor()) + (pixel(y.floor(), x.ceil()) - pixel(y.floor(), x.floor())) * fx;
        let bottom =
            pixel(y.ceil(), x.floor()) + (pixel(y.ceil(), x.ceil()) - pixel(y.ceil(), x.floor())) * fx;
        top + (bottom - top) * fy
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{node, run, tensor};

    #[test]
    fn the_whole_image_crops_to_itself_and_the_outside_is_extrapolated() {
        let inputs = [
            Some(tensor(&[1, 1, 2, 2], &[1f32, 2.0, 3.0, 4.0])),
            Some(tensor(&[2, 4], &[0f32, 0., 1., 1., 0., 0., 2., 2.])),
            Some(tensor(&[2], &[0i32, 0])),
            Some(tensor(&[2], &[2i32, 2])),
        ];
        let output = run(&node("com.microsoft", "CropAndResize", 1, &[], 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [1., 2., 3., 4., 1., 0., 0., 0.]);
    }
}
