//! Images, boxes and regions.

use super::Rule;
use super::elementwise::same;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Dim, Shape};
use crate::shape::contents::Element;
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("AffineGrid", 2, affine_grid),
    Rule::onnx("Col2Im", 3, col2im),
    Rule::onnx("GridSample", 2, grid_sample),
    Rule::onnx("ImageDecoder", 1, decode),
    Rule::onnx("MaxRoiPool", 2, max_roi_pool),
    Rule::onnx("NonMaxSuppression", 2, suppression),
    Rule::onnx("RoiAlign", 3, roi_align),
    Rule::of("com.microsoft", "CropAndResize", 4, crop_and_resize),
    Rule::of("com.microsoft", "GridSample", 2, grid_sample),
    Rule::of("com.microsoft", "ComplexMul", 2, same),
    Rule::of("com.microsoft", "ComplexMulConj", 2, same),
];

fn affine_grid(s: &mut Site<'_>) -> Result<()> {
    let sizes = s.contents_of(1);
    let shape: Option<Shape> = match sizes {
        Some(sizes) if sizes.elements.len() >= 3 => {
            let dims: Vec<Dim> = sizes.elements.iter().map(Element::to_dim).collect();
            let axes = Dim::Known(dims.len() - 2);
            Some([dims[0].clone()].into_iter().chain(dims[2..].iter().cloned()).chain([axes]).collect())
        }
        _ => match s.dim(0, 1) {
            Dim::Known(n) => {
                Some([s.dim(0, 0)].into_iter().chain(vec![Dim::Unknown; n]).chain([Dim::Known(n)]).collect())
            }
            _ => None,
        },
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn col2im(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let block = s.contents_of(2).map(|c| c.elements.iter().map(Element::to_dim).collect::<Vec<_>>());
    let channels = block.as_ref().map_or(Dim::Unknown, |b| dim::floor_div(&s.dim(0, 1), &dim::product(b)));
    let image: Option<Vec<Dim>> = match s.contents_of(1) {
        Some(c) => Some(c.elements.iter().map(Element::to_dim).collect()),
        None => block.map(|b| vec![Dim::Unknown; b.len()]),
    };
    let shape = image.map(|image| [s.dim(0, 0), channels].into_iter().chain(image).collect());
    s.set_tensor(0, dtype, shape);
    Ok(())
}

fn grid_sample(s: &mut Site<'_>) -> Result<()> {
    let shape = match (s.shape(0), s.shape(1)) {
        (Some(x), Some(grid)) if x.rank() >= 3 && grid.rank() == x.rank() => {
            Some(x[..2].iter().chain(&grid[1..grid.rank() - 1]).cloned().collect())
        }
        (Some(x), _) => Some(dim::unknown(x.rank())),
        _ => None,
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn decode(s: &mut Site<'_>) -> Result<()> {
    let channels = if s.string("pixel_format", "RGB")? == "Grayscale" { 1 } else { 3 };
    s.set_tensor(
        0,
        DType::U8,
        Some([Dim::Unknown, Dim::Unknown, Dim::Known(channels)].into_iter().collect()),
    );
    Ok(())
}

fn max_roi_pool(s: &mut Site<'_>) -> Result<()> {
    let pooled = s.ints("pooled_shape")?.ok_or_else(|| s.missing("pooled_shape"))?;
    let sizes = pooled.iter().map(|p| usize::try_from(*p).map_or(Dim::Unknown, Dim::Known));
    let shape = [s.dim(1, 0), s.dim(0, 1)].into_iter().chain(sizes).collect();
    s.set_tensor(0, s.dtype(0), Some(shape));
    Ok(())
}

fn suppression(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::I64, Some([Dim::Unknown, Dim::Known(3)].into_iter().collect()));
    Ok(())
}

fn roi_align(s: &mut Site<'_>) -> Result<()> {
    let (height, width) = (s.size_attribute("output_height", 1)?, s.size_attribute("output_width", 1)?);
    let rois = dim::tighter(&s.dim(1, 0), &s.dim(2, 0));
    let shape = [rois, s.dim(0, 1), Dim::Known(height), Dim::Known(width)];
    s.set_tensor(0, s.dtype(0), Some(shape.into_iter().collect()));
    Ok(())
}

fn crop_and_resize(s: &mut Site<'_>) -> Result<()> {
    let sizes = s.contents_of(3).map(|c| c.elements.iter().map(Element::to_dim).collect::<Vec<_>>());
    let sizes = sizes.filter(|v| v.len() == 2).unwrap_or_else(|| vec![Dim::Unknown; 2]);
    let shape = [s.dim(1, 0), s.dim(0, 1)].into_iter().chain(sizes).collect();
    s.set_tensor(0, s.dtype(0), Some(shape));
    Ok(())
}
