//! Operators that read images at places which tensors name: RoiAlign, MaxRoiPool, DeformConv, AffineGrid, and MaxUnpool,
//! which writes there.

use tenon_kernels::gpu::layout;
use tenon_kernels::gpu::product::{self, Activation, Conv};
use tenon_kernels::gpu::region::{self, Deform, Pooling, Regions};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::scatter::Scatter;
use tenon_plugin_api::{Error, Result};

use super::conv::{Padding, Window};
use super::{Family, conv_matrix};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator, refused};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["RoiAlign"], lower: roi_align },
    Family { domain: "", op_types: &["MaxRoiPool"], lower: max_roi_pool },
    Family { domain: "", op_types: &["MaxUnpool"], lower: max_unpool },
    Family { domain: "", op_types: &["DeformConv"], lower: deform_conv },
    Family { domain: "", op_types: &["AffineGrid"], lower: affine_grid },
];

/// A positive attribute, or an input's number.
fn size_of(name: &str, value: i64, least: i64) -> std::result::Result<usize, Decline> {
    let size = usize::try_from(value).ok().filter(|_| value >= least && value < 1 << 24);
    size.ok_or_else(|| Decline(format!("{name} is {value}, expected at least {least}")))
}

struct Pooled {
    bins: [usize; 2],
    scale: f32,
    pooling: Pooling,
}

impl Operator for Pooled {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, rois, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let wrong = || Error::invalid(format!("regions of shape {rois:?} of images of shape {x:?}"));
        let &[images, channels, height, width] = x.as_slice() else { return Err(wrong()) };
        let is_align = self.pooling != Pooling::Max;
        let &[count, corners] = rois.as_slice() else { return Err(wrong()) };
        if corners != if is_align { 4 } else { 5 } || (is_align && cx.dims(2)? != [count]) {
            return Err(wrong());
        }
        let problem = Regions {
            scalar,
            count,
            images: [images, channels, height, width],
            bins: self.bins,
            scale: self.scale,
            pooling: self.pooling,
        };
        let output = cx.output(0, scalar, &[count, channels, self.bins[0], self.bins[1]])?;
        let operands = [Some(output), Some(cx.input(0)?), Some(cx.input(1)?), cx.optional(2)];
        cx.run(problem.plan(), &operands)
    }
}

/// Declines unless input `index` has the type of input 0.
fn same_type(l: &Lowering<'_>, index: usize) -> std::result::Result<(), Decline> {
    if l.has_input(index) && l.scalar(index)? != l.scalar(0)? {
        return Err(Decline(format!("input {index} of another type than the images has no GPU kernel")));
    }
    Ok(())
}

fn roi_align(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    same_type(l, 1)?;
    if l.scalar(2)? != Scalar::I64 {
        return Err(Decline::new("numbers of images of a type other than int64"));
    }
    let is_max = match l.node.text_or("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(Decline(format!("pooling of mode '{other}' has no GPU kernel"))),
    };
    let default = if l.node.version() < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match l.node.text_or("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(Decline(format!("coordinates '{other}' have no GPU kernel"))),
    };
    let samples = size_of("sampling_ratio", l.node.int_or("sampling_ratio", 0)?, 0)? as u32;
    let bins = |name| size_of(name, l.node.int_or(name, 1)?, 1);
    Ok(Box::new(Pooled {
        bins: [bins("output_height")?, bins("output_width")?],
        scale: l.node.float_or("spatial_scale", 1.0)?,
        pooling: Pooling::Align { samples, is_max, half_pixel },
    }))
}

fn max_roi_pool(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    same_type(l, 1)?;
    match *l.node.ints("pooled_shape")?.unwrap_or(&[]) {
        [rows, columns] => Ok(Box::new(Pooled {
            bins: [size_of("pooled_shape", rows, 1)?, size_of("pooled_shape", columns, 1)?],
            scale: l.node.float_or("spatial_scale", 1.0)?,
            pooling: Pooling::Max,
        })),
        _ => Err(Decline::new("attribute 'pooled_shape' is not two sizes")),
    }
}

/// What MaxPool made smaller, with zeros around what it kept.
struct Unpool {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    pads: Vec<i64>,
}

impl Operator for Unpool {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, places, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let rank = self.kernel.len();
        if x.len() != rank + 2 || places != x {
            return Err(Error::invalid(format!("places of shape {places:?} of values of shape {x:?}")));
        }
        let mut shape = x[..2].to_vec();
        for (axis, &size) in x[2..].iter().enumerate() {
            let padded = (size as i64 - 1) * self.strides[axis] + self.kernel[axis];
            let size = padded - self.pads[axis] - self.pads[rank + axis];
            let size = usize::try_from(size).map_err(|_| Error::invalid("the padding is too large"))?;
            shape.push(size);
        }
        let (values, total): (usize, usize) = (x.iter().product(), shape.iter().product());
        let output = cx.output(0, scalar, &shape)?;
        cx.run(layout::fill(scalar.bytes(), total, 0), &[Some(output)])?;
        let scatter = Scatter::slices(&[total], values, 1).map_err(refused)?;
        let marks = cx.scratch(Scalar::U32, &[scatter.marks()])?;
        cx.run(layout::fill(4, scatter.marks(), 0), &[Some(marks)])?;
        let operands = [output, marks, cx.input(1)?, cx.input(0)?].map(Some);
        cx.run(Ok(scatter.write(scalar.bytes())), &operands)
    }
}

fn max_unpool(l: &Lowering<'_>) -> Lowered {
    let scalar = l.scalar(0)?;
    if scalar.is_packed() || l.scalar(1)? != Scalar::I64 {
        return Err(Decline(format!("elements of type {}", scalar.suffix())));
    }
    if l.has_input(2) {
        return Err(Decline::new("a result of another shape than what was pooled has no GPU kernel"));
    }
    let kernel = l.node.ints("kernel_shape")?.unwrap_or(&[]).to_vec();
    let rank = kernel.len();
    let list = |name: &str, len: usize, default: i64| {
        let values = l.node.ints(name)?.map_or_else(|| vec![default; len], <[i64]>::to_vec);
        let fits = values.len() == len && values.iter().all(|value| (0..1 << 24).contains(value));
        fits.then_some(values).ok_or_else(|| Decline(format!("attribute '{name}' is not {len} sizes")))
    };
    let (strides, pads) = (list("strides", rank, 1)?, list("pads", 2 * rank, 0)?);
    Ok(Box::new(Unpool { kernel: list("kernel_shape", rank, 1)?, strides, pads }))
}

/// A convolution whose windows' elements are moved by offsets: a product with columns that are gathered first.
struct Deformed {
    window: Window,
    groups: usize,
    offset_groups: usize,
}

impl Operator for Deformed {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, w, offsets, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.dims(2)?, cx.scalar(0)?);
        let wrong =
            || Error::invalid(format!("images {x:?}, filter {w:?} and offsets {offsets:?} do not fit"));
        let (&[images, channels, height, width], &[filters, per_group, rows, columns]) =
            (x.as_slice(), w.as_slice())
        else {
            return Err(wrong());
        };
        let (top, _, out_rows) = self.window.place(0, height, rows, false)?;
        let (left, _, out_columns) = self.window.place(1, width, columns, false)?;
        let (output, taps) = ([out_rows, out_columns], rows * columns);
        let fields = self.offset_groups * taps;
        let fits = channels == per_group * self.groups
            && filters.is_multiple_of(self.groups)
            && offsets == [images, 2 * fields, out_rows, out_columns];
        let mask = cx.optional(4);
        let mask_fits =
            mask.is_none_or(|mask| cx.builder.dims(mask) == [images, fields, out_rows, out_columns]);
        let bias = cx.optional(3);
        if !fits || !mask_fits || bias.is_some_and(|bias| cx.builder.dims(bias) != [filters]) {
            return Err(wrong());
        }
        let deform = Deform {
            scalar,
            images: [images, channels, height, width],
            kernel: [rows, columns],
            strides: [self.window.strides[0], self.window.strides[1]],
            dilations: [self.window.dilations[0], self.window.dilations[1]],
            pads: [top, left],
            output,
            offset_groups: self.offset_groups,
            has_mask: mask.is_some(),
        };
        let y = cx.output(0, scalar, &[images, filters, out_rows, out_columns])?;
        let gathered = cx.scratch(scalar, &[images, channels * taps, 1, out_rows * out_columns])?;
        cx.run(deform.plan(), &[Some(gathered), Some(cx.input(0)?), Some(cx.input(2)?), mask, None])?;
        let problem = Conv {
            scalar,
            batch: images,
            groups: self.groups,
            in_channels: per_group * taps,
            out_channels: filters / self.groups,
            input: [1, 1, out_rows * out_columns],
            output: [1, 1, out_rows * out_columns],
            kernel: [1; 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads: [0; 3],
            has_bias: bias.is_some(),
            has_residual: false,
            activation: Activation::None,
            is_transposed: false,
        };
        let filter = cx.input(1)?;
        if conv_matrix::expand(cx, &problem, [y, gathered, filter], [bias, None], None)? {
            return Ok(());
        }
        let plan = product::conv(&problem, cx.chip().compute_units);
        cx.run(plan, &[Some(y), Some(gathered), Some(filter), bias, None])
    }
}

fn deform_conv(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    (1..5).try_for_each(|index| same_type(l, index))?;
    if l.rank(0)? != 4 {
        return Err(Decline::new("images of two dimensions are expected"));
    }
    let window = Window::read(l, 2)?;
    match &window.padding {
        Padding::Explicit(pads) if pads.iter().all(|pad| (0..1 << 24).contains(pad)) => {}
        other => return Err(Decline(format!("padding {other:?} has no GPU kernel"))),
    }
    let count = |name| size_of(name, l.node.int_or(name, 1)?, 1);
    Ok(Box::new(Deformed { window, groups: count("group")?, offset_groups: count("offset_group")? }))
}

struct Affine {
    /// `None`: as the graph declares the result.
    spatial: Option<Vec<usize>>,
    rank: usize,
    aligns_corners: bool,
}

impl Operator for Affine {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (theta, scalar) = (cx.dims(0)?, cx.scalar(0)?);
        let rank = self.rank;
        let declared = || -> Option<Vec<usize>> {
            let dims: Option<Vec<usize>> = cx.declared_output(0)?.into_iter().collect();
            dims.and_then(|dims| dims.get(1..=rank).map(<[usize]>::to_vec))
        };
        let spatial = self.spatial.clone().or_else(declared);
        let spatial = spatial.ok_or_else(|| Error::unsupported("the shape is not known before the run"))?;
        let &[grids, rows, columns] = theta.as_slice() else {
            return Err(Error::invalid(format!("matrices of shape {theta:?}")));
        };
        if rows != rank || columns != rank + 1 {
            return Err(Error::invalid(format!("matrices of shape {theta:?} for {rank} dimensions")));
        }
        let shape: Vec<usize> = [grids].into_iter().chain(spatial.iter().copied()).chain([rank]).collect();
        let output = cx.output(0, scalar, &shape)?;
        let plan = region::affine_grid(scalar, grids, &spatial, self.aligns_corners);
        cx.run(plan, &[Some(output), Some(cx.input(0)?)])
    }
}

fn affine_grid(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    let aligns_corners = l.node.int_or("align_corners", 0)? != 0;
    if let Ok(size) = l.ints(1) {
        let sizes: Option<Vec<usize>> = size.iter().map(|&size| usize::try_from(size).ok()).collect();
        let spatial = sizes.filter(|sizes| (3..=5).contains(&sizes.len())).map(|sizes| sizes[2..].to_vec());
        let spatial = spatial.ok_or_else(|| Decline(format!("a size of {size:?} has no grid")))?;
        return Ok(Box::new(Affine { rank: spatial.len(), spatial: Some(spatial), aligns_corners }));
    }
    let dims = l.node.output(0).and_then(|output| output.dims());
    match dims {
        Some(dims) if (3..=5).contains(&dims.len()) && dims.iter().all(|&dim| dim >= 0) => {
            // The numbers are those that the graph declares already.
            l.leave_on_host(1);
            Ok(Box::new(Affine { rank: dims.len() - 2, spatial: None, aligns_corners }))
        }
        _ => Err(Decline::new("the size is computed during the run")),
    }
}
