//! PNG and JPEG images as inputs: resized to the model's height and width, scaled, normalised and laid out.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Dim, TypeInfo};
use tenon_runtime::tensor::Tensor;

use super::element::{self, Number};

/// How image inputs are prepared.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Image inputs")]
pub struct ImageOptions {
    /// Order of the axes; found from the input's shape when not given
    #[arg(long = "image-layout", alias = "layout", value_name = "LAYOUT")]
    pub layout: Option<Layout>,
    /// How the image becomes as large as the input
    #[arg(long = "image-fit", value_name = "FIT", default_value = "stretch")]
    pub fit: Fit,
    /// Order of the colour channels
    #[arg(long = "image-order", value_name = "ORDER", default_value = "rgb")]
    pub order: ChannelOrder,
    /// Factor on pixel values 0..255 before the mean is subtracted [default: 1/255; 1 for integer inputs]
    #[arg(long = "image-scale", value_name = "FACTOR")]
    pub scale: Option<f64>,
    /// Subtracted after scaling: one value, or one for each channel
    #[arg(long = "image-mean", value_name = "M,..", value_delimiter = ',', allow_negative_numbers = true)]
    pub mean: Vec<f64>,
    /// Divisor after the mean is subtracted: one value, or one for each channel
    #[arg(long = "image-std", value_name = "S,..", value_delimiter = ',')]
    pub std: Vec<f64>,
}

/// Order of an image tensor's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    Nchw,
    Nhwc,
    Chw,
    Hwc,
}

/// How an image of another size becomes as large as the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fit {
    /// Both sides are scaled on their own
    Stretch,
    /// The centre is cut out after scaling the shorter side
    Crop,
    /// Black bars are added after scaling the longer side
    Pad,
}

/// Order of the colour channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChannelOrder {
    Rgb,
    Bgr,
}

/// Sizes of an image tensor; what is not known before the image is seen is `None`.
#[derive(Debug, PartialEq)]
struct Geometry {
    layout: Layout,
    channels: usize,
    height: Option<usize>,
    width: Option<usize>,
}

/// The tensor that the image at `path` becomes for an input of type `ty`; batched layouts get a batch of one.
pub fn read(path: &Path, ty: &TypeInfo, options: &ImageOptions) -> Result<Tensor> {
    let picture = image::open(path).with_context(|| format!("cannot read the image {}", path.display()))?;
    prepare(&picture, ty, options).with_context(|| format!("cannot use the image {}", path.display()))
}

fn prepare(picture: &DynamicImage, ty: &TypeInfo, options: &ImageOptions) -> Result<Tensor> {
    let tensor = ty.as_tensor().with_context(|| format!("the input is {ty}, not a tensor"))?;
    let shape = tensor.shape.as_ref().map(|s| s.to_vec());
    let geometry = geometry(shape.as_deref(), options.layout)?;
    let height = geometry.height.unwrap_or(picture.height() as usize);
    let width = geometry.width.unwrap_or(picture.width() as usize);
    let picture = resize(picture, u32::try_from(width)?, u32::try_from(height)?, options.fit);
    let pixels = channel_planes(&picture, geometry.channels, options.order);
    let planes = normalise(pixels, tensor.dtype, options)?;
    let (dims, planar) = match geometry.layout {
        Layout::Nchw => (vec![1, geometry.channels, height, width], true),
        Layout::Chw => (vec![geometry.channels, height, width], true),
        Layout::Nhwc => (vec![1, height, width, geometry.channels], false),
        Layout::Hwc => (vec![height, width, geometry.channels], false),
    };
    let numbers: Vec<Number> = if planar {
        planes.into_iter().flatten().map(Number::Real).collect()
    } else {
        (0..height * width).flat_map(|p| planes.iter().map(move |plane| Number::Real(plane[p]))).collect()
    };
    element::tensor(tensor.dtype, &dims, &numbers)
}

/// Finds the axes: channels are the axis of size 1, 3 or 4 next to the batch or at the end.
fn geometry(shape: Option<&[Dim]>, wanted: Option<Layout>) -> Result<Geometry> {
    let Some(shape) = shape else {
        let layout = wanted.unwrap_or(Layout::Nchw);
        return Ok(Geometry { layout, channels: 3, height: None, width: None });
    };
    let is_channels = |i: usize| shape.get(i).and_then(Dim::known).is_some_and(|n| matches!(n, 1 | 3 | 4));
    let layout = match (wanted, shape.len()) {
        (Some(layout), _) => layout,
        (None, 4) if is_channels(1) || !is_channels(3) => Layout::Nchw,
        (None, 4) => Layout::Nhwc,
        (None, 3) if is_channels(0) || !is_channels(2) => Layout::Chw,
        (None, 3) => Layout::Hwc,
        (None, rank) => bail!("an image needs an input of 3 or 4 dimensions, this one has {rank}"),
    };
    let (c, h, w) = match layout {
        Layout::Nchw => (1, 2, 3),
        Layout::Nhwc => (3, 1, 2),
        Layout::Chw => (0, 1, 2),
        Layout::Hwc => (2, 0, 1),
    };
    let rank = if matches!(layout, Layout::Nchw | Layout::Nhwc) { 4 } else { 3 };
    ensure!(shape.len() == rank, "layout {layout:?} has {rank} dimensions, the input has {}", shape.len());
    let channels = shape[c].known().unwrap_or(3);
    ensure!(matches!(channels, 1 | 3 | 4), "an image has 1, 3 or 4 channels, the input has {channels}");
    Ok(Geometry { layout, channels, height: shape[h].known(), width: shape[w].known() })
}

fn resize(picture: &DynamicImage, width: u32, height: u32, fit: Fit) -> DynamicImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    const FILTER: FilterType = FilterType::Triangle;
    match fit {
        Fit::Stretch => picture.resize_exact(width, height, FILTER),
        Fit::Crop => picture.resize_to_fill(width, height, FILTER),
        Fit::Pad => {
            let small = picture.resize(width, height, FILTER);
            let mut canvas = DynamicImage::new(width, height, small.color());
            let left = i64::from((width - small.width()) / 2);
            let top = i64::from((height - small.height()) / 2);
            image::imageops::overlay(&mut canvas, &small, left, top);
            canvas
        }
    }
}

/// One plane of pixel values 0..255 for each channel.
fn channel_planes(picture: &DynamicImage, channels: usize, order: ChannelOrder) -> Vec<Vec<f64>> {
    let bytes = match channels {
        1 => picture.to_luma8().into_raw(),
        3 => picture.to_rgb8().into_raw(),
        _ => picture.to_rgba8().into_raw(),
    };
    let mut planes: Vec<Vec<f64>> = (0..channels)
        .map(|c| bytes.iter().skip(c).step_by(channels).map(|b| f64::from(*b)).collect())
        .collect();
    if order == ChannelOrder::Bgr && channels >= 3 {
        planes.swap(0, 2);
    }
    planes
}

fn normalise(mut planes: Vec<Vec<f64>>, dtype: DType, options: &ImageOptions) -> Result<Vec<Vec<f64>>> {
    let integer = dtype.is_integer();
    let scale = options.scale.unwrap_or(if integer { 1.0 } else { 1.0 / 255.0 });
    let channels = planes.len();
    let each = |values: &[f64], name: &str, default: f64| -> Result<Vec<f64>> {
        match values.len() {
            0 => Ok(vec![default; channels]),
            1 => Ok(vec![values[0]; channels]),
            n if n == channels => Ok(values.to_vec()),
            n => bail!("--image-{name} has {n} values, the input has {channels} channels"),
        }
    };
    let mean = each(&options.mean, "mean", 0.0)?;
    let std = each(&options.std, "std", 1.0)?;
    ensure!(!std.contains(&0.0), "--image-std must not be 0");
    for (c, plane) in planes.iter_mut().enumerate() {
        for v in plane {
            *v = (*v * scale - mean[c]) / std[c];
            if integer {
                *v = v.round();
            }
        }
    }
    Ok(planes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Rgb, RgbImage};
    use tenon_runtime::graph::Shape;

    fn options() -> ImageOptions {
        ImageOptions {
            layout: None,
            fit: Fit::Stretch,
            order: ChannelOrder::Rgb,
            scale: None,
            mean: vec![],
            std: vec![],
        }
    }

    fn colours() -> DynamicImage {
        let pixels = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 102, 153]];
        DynamicImage::ImageRgb8(RgbImage::from_fn(2, 2, |x, y| Rgb(pixels[(y * 2 + x) as usize])))
    }

    #[test]
    fn planar_and_interleaved_layouts_hold_the_same_pixels() {
        let planar = TypeInfo::tensor(DType::F32, Shape::known(&[1, 3, 2, 2]));
        let t = prepare(&colours(), &planar, &options()).unwrap();
        assert_eq!(t.dims(), [1, 3, 2, 2]);
        let red = t.to_vec::<f32>().unwrap()[..4].to_vec();
        assert_eq!(red, [1.0, 0.0, 0.0, 0.2]);
        let interleaved = TypeInfo::tensor(DType::U8, Shape::known(&[1, 2, 2, 3]));
        let t = prepare(&colours(), &interleaved, &options()).unwrap();
        assert_eq!(t.dims(), [1, 2, 2, 3]);
        assert_eq!(t.to_vec::<u8>().unwrap()[9..], [51, 102, 153]);
    }

    #[test]
    fn mean_std_and_channel_order_apply_to_their_channels() {
        let ty = TypeInfo::tensor(DType::F32, Shape::known(&[3, 2, 2]));
        let options = ImageOptions {
            order: ChannelOrder::Bgr,
            mean: vec![0.5, 0.0, 0.0],
            std: vec![0.5, 1.0, 2.0],
            ..options()
        };
        let values = prepare(&colours(), &ty, &options).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(values[..4], [-1.0, -1.0, 1.0, 0.2]);
        assert_eq!(values[8..], [0.5, 0.0, 0.0, 0.1]);
    }

    #[test]
    fn images_are_resized_to_known_sizes_and_keep_their_own_otherwise() {
        let grey = DynamicImage::ImageLuma8(GrayImage::from_pixel(10, 6, image::Luma([200])));
        let shape = |dims: Vec<Dim>| TypeInfo::tensor(DType::F32, dims.into_iter().collect());
        let fixed = shape(vec![Dim::Known(1), Dim::Known(1), Dim::Known(8), Dim::Known(8)]);
        let t = prepare(&grey, &fixed, &options()).unwrap();
        assert_eq!(t.dims(), [1, 1, 8, 8]);
        assert!(t.to_vec::<f32>().unwrap().iter().all(|v| (*v - 200.0 / 255.0).abs() < 1e-6));
        let free = shape(vec!["n".into(), Dim::Known(3), "h".into(), "w".into()]);
        assert_eq!(prepare(&grey, &free, &options()).unwrap().dims(), [1, 3, 6, 10]);
        let padded = prepare(&grey, &fixed, &ImageOptions { fit: Fit::Pad, ..options() }).unwrap();
        assert_eq!(padded.to_vec::<f32>().unwrap()[..8], [0.0; 8]);
    }

    #[test]
    fn inputs_that_are_no_images_are_named() {
        let ty = TypeInfo::tensor(DType::F32, Shape::known(&[1, 10]));
        assert!(prepare(&colours(), &ty, &options()).unwrap_err().to_string().contains("3 or 4 dimensions"));
        let ty = TypeInfo::tensor(DType::F32, Shape::known(&[1, 7, 8, 9]));
        assert!(prepare(&colours(), &ty, &options()).unwrap_err().to_string().contains("7"));
        let ty = TypeInfo::tensor(DType::F32, Shape::known(&[1, 3, 2, 2]));
        let wrong = ImageOptions { mean: vec![1.0, 2.0], ..options() };
        assert!(prepare(&colours(), &ty, &wrong).unwrap_err().to_string().contains("--image-mean has 2"));
    }
}
