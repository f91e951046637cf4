//! Pooling over windows, and resizing.

use tenon_kernels::gpu::pool::{self, Nearest, Pool, Pooling, ResizeDim};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::window::{self, Filter};
use tenon_plugin_api::{Error, Result};

use super::conv::{Window, three};
use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["MaxPool", "AveragePool", "LpPool"], lower: windows },
    Family { domain: "", op_types: &["Resize", "Upsample"], lower: resize },
];

struct Windows {
    window: Window,
    kernel: Vec<usize>,
    op: Pooling,
    rounds_up: bool,
    is_column_major: bool,
}

impl Operator for Windows {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, scalar) = (cx.dims(0)?, cx.scalar(0)?);
        let (mut begins, mut ends, mut output) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, &input) in x[2..].iter().enumerate() {
            let (begin, end, count) = self.window.place(axis, input, self.kernel[axis], self.rounds_up)?;
            begins.push(begin);
            ends.push(end);
            output.push(count);
        }
        let shape: Vec<usize> = [x[0], x[1]].into_iter().chain(output.iter().copied()).collect();
        let has_positions = cx.has_output(1);
        let problem = Pool {
            scalar,
            op: self.op,
            planes: x[0] * x[1],
            input: three(&x[2..], 1),
            output: three(&output, 1),
            kernel: three(&self.kernel, 1),
            strides: three(&self.window.strides, 1),
            dilations: three(&self.window.dilations, 1),
            pads: three(&begins, 0),
            pads_end: three(&ends, 0),
            has_positions,
            is_column_major: self.is_column_major,
        };
        let y = cx.output(0, scalar, &shape)?;
        let positions = if has_positions { Some(cx.output(1, Scalar::I64, &shape)?) } else { None };
        let operands = [Some(y), positions, Some(cx.input(0)?)];
        cx.run(pool::pool(&problem), &operands)
    }
}

fn windows(l: &Lowering<'_>) -> Lowered {
    let is_byte = matches!(l.scalar(0)?, Scalar::U8 | Scalar::I8);
    if !is_byte || l.node.op_type() != "MaxPool" {
        l.half_or_single(0)?;
    }
    let window = Window::read(l, l.rank(0)?.saturating_sub(2))?;
    let kernel = window.kernel.clone().ok_or_else(|| Decline::new("attribute 'kernel_shape' is missing"))?;
    let op = match l.node.op_type() {
        "MaxPool" => Pooling::Max,
        "AveragePool" => Pooling::Average { counts_padding: l.node.int_or("count_include_pad", 0)? != 0 },
        _ => Pooling::Lp { p: l.node.int_or("p", 2)? as f32 },
    };
    Ok(Box::new(Windows {
        window,
        kernel,
        op,
        rounds_up: l.node.int_or("ceil_mode", 0)? != 0,
        is_column_major: l.node.int_or("storage_order", 0)? != 0,
    }))
}

/// How positions of the output map to the input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    HalfPixelSymmetric,
}

/// What a resize is to reach, for each of its axes.
enum Goal {
    Scales(Vec<f32>),
    Sizes(Vec<usize>),
    /// The sizes that the graph declares for the result.
    Declared,
}

struct Resize {
    goal: Goal,
    axes: Vec<usize>,
    coordinates: Coordinates,
    nearest: Option<Nearest>,
    /// One axis after the other with this kernel.
    filter: Option<Filter>,
}

impl Operator for Resize {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, scalar) = (cx.dims(0)?, cx.scalar(0)?);
        let mut dims: Vec<ResizeDim> = x.iter().map(|&size| unchanged(size)).collect();
        let mut factors = vec![1.0; x.len()];
        let declared: Option<Vec<usize>> =
            cx.declared_output(0).and_then(|declared| declared.into_iter().collect());
        for (index, &axis) in self.axes.iter().enumerate() {
            let input = x[axis];
            let to_size = |size: usize| (size, size as f32 / input as f32);
            let (output, factor) = match (&self.goal, &declared) {
                (Goal::Scales(scales), _) => ((input as f32 * scales[index]).floor() as usize, scales[index]),
                (Goal::Sizes(sizes), _) => to_size(sizes[index]),
                (Goal::Declared, Some(declared)) if declared.len() == x.len() => to_size(declared[axis]),
                (Goal::Declared, _) => {
                    return Err(Error::unsupported("the sizes are not known before the run"));
                }
            };
            dims[axis] = self.mapping(input, output, factor);
            factors[axis] = factor;
        }
        let shape: Vec<usize> = dims.iter().map(|dim| dim.output).collect();
        let input = cx.input(0)?;
        if shape == x && factors.iter().all(|&factor| factor == 1.0) {
            return cx.view(0, input, 0, &shape);
        }
        if let Some(filter) = self.filter {
            return resample(cx, &dims, &factors, filter);
        }
        let y = cx.output(0, scalar, &shape)?;
        cx.run(pool::resize(scalar, &dims, self.nearest), &[Some(y), Some(input)])
    }
}

/// Resamples one axis after the other, the innermost first; what lies between is f32.
fn resample(cx: &mut Expansion<'_, '_>, dims: &[ResizeDim], factors: &[f32], filter: Filter) -> Result<()> {
    let (mut value, mut from) = (cx.input(0)?, cx.scalar(0)?);
    let (scalar, mut shape) = (from, cx.dims(0)?);
    let changed: Vec<usize> =
        (0..dims.len()).rev().filter(|&axis| dims[axis] != unchanged(shape[axis])).collect();
    for (step, &axis) in changed.iter().enumerate() {
        shape[axis] = dims[axis].output;
        let is_last = step + 1 == changed.len();
        let to = if is_last { scalar } else { Scalar::F32 };
        let next = if is_last { cx.output(0, to, &shape)? } else { cx.scratch(to, &shape)? };
        let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        let plan = window::resample((from, to), outer, dims[axis], inner, factors[axis], filter);
        cx.run(plan, &[Some(next), Some(value)])?;
        (value, from) = (next, to);
    }
    Ok(())
}

fn unchanged(size: usize) -> ResizeDim {
    ResizeDim { input: size, output: size, times: 1.0, over: 1.0, shift: 0.0, offset: 0.0 }
}

impl Resize {
    fn mapping(&self, input: usize, output: usize, factor: f32) -> ResizeDim {
        if input == output && factor == 1.0 {
            return unchanged(input);
        }
        let (shift, times, over, offset) = match self.coordinates {
            Coordinates::Asymmetric => (0.0, 1.0, factor, 0.0),
            Coordinates::AlignCorners if output > 1 => (0.0, input as f32 - 1.0, output as f32 - 1.0, 0.0),
            Coordinates::AlignCorners => (0.0, 0.0, 1.0, 0.0),
            Coordinates::PytorchHalfPixel if output == 1 => (0.0, 0.0, 1.0, 0.0),
            Coordinates::HalfPixelSymmetric => {
                let adjustment = output as f32 / (factor * input as f32);
                let centre = input as f32 / 2.0;
                (0.5, 1.0, factor, centre * (1.0 - adjustment) - 0.5)
            }
            _ => (0.5, 1.0, factor, -0.5),
        };
        ResizeDim { input, output, times, over, shift, offset }
    }
}

fn resize(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    let rank = l.rank(0)?;
    if rank == 0 || rank > pool::RESIZE_RANK {
        return Err(Decline(format!("resizing {rank} dimensions has no GPU kernel")));
    }
    let is_upsample = l.node.op_type() == "Upsample";
    let old = is_upsample || l.node.version() < 11;
    let nearest = match l.node.text_or("mode", "nearest")? {
        "nearest" => Some(match l.node.text_or("nearest_mode", "round_prefer_floor")? {
            _ if old => Nearest::Floor,
            "round_prefer_ceil" => Nearest::PreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            _ => Nearest::PreferFloor,
        }),
        "linear" | "cubic" => None,
        other => return Err(Decline(format!("resizing of mode '{other}' has no GPU kernel"))),
    };
    let coordinates = match l.node.text_or("coordinate_transformation_mode", "half_pixel")? {
        _ if old => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        other => return Err(Decline(format!("coordinates '{other}' have no GPU kernel"))),
    };
    if l.node.text_or("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        return Err(Decline::new("aspect ratios that are kept have no GPU kernel"));
    }
    let is_cubic = l.node.text_or("mode", "nearest")? == "cubic";
    let filter = Filter {
        cubic: if is_cubic { Some(l.node.float_or("cubic_coeff_a", -0.75)?) } else { None },
        excludes_outside: l.node.int_or("exclude_outside", 0)? != 0,
        is_antialiased: l.node.int_or("antialias", 0)? != 0,
    };
    let is_filtered = is_cubic || filter.excludes_outside || filter.is_antialiased;
    let filter = (nearest.is_none() && is_filtered).then_some(filter);
    let axes: Vec<usize> = match l.node.ints("axes")? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<std::result::Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let at = if old { 1 } else { 2 };
    if !old && l.has_input(1) && l.numbers(1, 16).is_none() {
        return Err(Decline::new("the region of interest is not a constant"));
    }
    let attribute = match l.node.attribute("scales") {
        Some(tenon_plugin_api::AttributeView::Floats(scales)) => Some(scales.to_vec()),
        _ => None,
    };
    let scales = attribute.or_else(|| Some(l.numbers(at, 8)?.iter().map(|&scale| scale as f32).collect()));
    let scales = scales.filter(|scales| !scales.is_empty());
    let given = if old { None } else { l.node.input(3) };
    let sizes = match given.filter(|sizes| sizes.constant().is_some()) {
        Some(_) => Some(l.ints(3)?).filter(|sizes| !sizes.is_empty()),
        None => None,
    };
    let goal = match (sizes, scales) {
        (Some(sizes), _) => {
            Goal::Sizes(sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect())
        }
        (None, Some(scales)) if given.is_none_or(|sizes| sizes.constant().is_some()) => Goal::Scales(scales),
        (None, None) if given.is_some() && l.unknown_dims(0)? == 0 => {
            // The numbers are those that the graph declares already.
            l.leave_on_host(3);
            Goal::Declared
        }
        _ => return Err(Decline::new("scales or sizes are not known before the run")),
    };
    let count = match &goal {
        Goal::Scales(scales) => scales.len(),
        Goal::Sizes(sizes) => sizes.len(),
        Goal::Declared => axes.len(),
    };
    if count != axes.len() {
        return Err(Decline::new("there is not one scale or size for each axis"));
    }
    Ok(Box::new(Resize { goal, axes, coordinates, nearest, filter }))
}
