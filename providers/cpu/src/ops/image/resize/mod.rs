//! Resize and Upsample in every opset version.

mod coordinate;
mod nearest;
mod separable;

use smallvec::SmallVec;

use self::coordinate::{AxisPlan, Transform};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::number;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Upsample", 1, 6, upsample_1),
    Operator::onnx("Upsample", 7, 8, upsample_7),
    Operator::onnx("Upsample", 9, NEWEST, resize_10),
    Operator::onnx("Resize", 10, 10, resize_10),
    Operator::onnx("Resize", 11, NEWEST, resize_11),
];

/// Floats an axis.
type Floats = SmallVec<[f32; 6]>;

/// How positions between pixels are filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Interpolation {
    Nearest(Rounding),
    Linear,
    /// Keys' cubic convolution with this coefficient.
    Cubic(f32),
}

/// Which neighbour "nearest" takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
    /// Before opset 11: down when enlarging, up when shrinking.
    BySize,
}

/// What to do with an aspect ratio that the wanted sizes would change.
#[derive(Clone, Copy, PartialEq)]
enum AspectRatio {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Where the scales come from.
enum Scales {
    Fixed(Floats),
    /// Input 1, as before opset 11.
    Input1,
    /// Input 2, or sizes in input 3.
    Input2,
}

struct Resize {
    interpolation: Interpolation,
    transform: Transform,
    scales: Scales,
    axes: Option<SmallVec<[i64; 6]>>,
    aspect_ratio: AspectRatio,
    antialias: bool,
    exclude_outside: bool,
    extrapolation_value: f32,
}

fn upsample_1(node: &Node) -> Result<Box<dyn Kernel>> {
    let scale = |name: &str| {
        node.optional_float(name)?.ok_or_else(|| OpError::invalid(format!("attribute '{name}' is missing")))
    };
    legacy(node, Scales::Fixed([1.0, 1.0, scale("height_scale")?, scale("width_scale")?].as_slice().into()))
}

fn upsample_7(node: &Node) -> Result<Box<dyn Kernel>> {
    let scales = node.floats("scales")?.ok_or_else(|| OpError::invalid("attribute 'scales' is missing"))?;
    legacy(node, Scales::Fixed(scales.into()))
}

fn resize_10(node: &Node) -> Result<Box<dyn Kernel>> {
    legacy(node, Scales::Input1)
}

/// Upsample, and Resize before it had a coordinate transformation.
fn legacy(node: &Node, scales: Scales) -> Result<Box<dyn Kernel>> {
    let interpolation = match node.string("mode", "nearest")? {
        "nearest" => Interpolation::Nearest(Rounding::BySize),
        "linear" | "bilinear" => Interpolation::Linear,
        other => {
            return Err(OpError::invalid(format!("attribute 'mode' must be nearest or linear, got {other}")));
        }
    };
    Ok(Box::new(Resize {
        interpolation,
        transform: Transform::Asymmetric,
        scales,
        axes: None,
        aspect_ratio: AspectRatio::Stretch,
        antialias: false,
        exclude_outside: false,
        extrapolation_value: 0.0,
    }))
}

fn resize_11(node: &Node) -> Result<Box<dyn Kernel>> {
    let unknown = |name: &str, value: &str| {
        OpError::invalid(format!("attribute '{name}' of Resize is unknown: {value}"))
    };
    let rounding = match node.string("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" => Rounding::RoundPreferFloor,
        "round_prefer_ceil" => Rounding::RoundPreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(unknown("nearest_mode", other)),
    };
    let interpolation = match node.string("mode", "nearest")? {
        "nearest" => Interpolation::Nearest(rounding),
        "linear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic(node.float("cubic_coeff_a", -0.75)?),
        other => return Err(unknown("mode", other)),
    };
    let aspect_ratio = match node.string("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => AspectRatio::Stretch,
        "not_larger" => AspectRatio::NotLarger,
        "not_smaller" => AspectRatio::NotSmaller,
        other => return Err(unknown("keep_aspect_ratio_policy", other)),
    };
    let transform = node.string("coordinate_transformation_mode", "half_pixel")?;
    Ok(Box::new(Resize {
        interpolation,
        transform: Transform::parse(transform)
            .ok_or_else(|| unknown("coordinate_transformation_mode", transform))?,
        scales: Scales::Input2,
        axes: node.ints("axes")?.map(SmallVec::from_slice),
        aspect_ratio,
        antialias: node.int("antialias", 0)? != 0,
        exclude_outside: node.int("exclude_outside", 0)? != 0,
        extrapolation_value: node.float("extrapolation_value", 0.0)?,
    }))
}

impl Kernel for Resize {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let (dtype, dims): (DType, Dims) = (input.dtype(), input.dims().into());
        let plans = self.plan(cx, &dims)?;
        let result: Dims = plans.iter().map(|plan| plan.output).collect();
        if plans.iter().any(|plan| plan.output > 0 && plan.input == 0) {
            return Err(OpError::invalid(format!(
                "cannot resize an empty tensor of shape {dims:?} to {result:?}"
            )));
        }
        if plans.iter().all(AxisPlan::is_identity) {
            return cx.forward(0, 0, &dims);
        }
        if let Interpolation::Nearest(rounding) = self.interpolation {
            return nearest::run(cx, &plans, rounding, self.extrapolation_value);
        }
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 | DType::U8 | DType::I8 | DType::U16 | DType::I16 => {
                separable::run::<f32>(cx, self, &plans)
            }
            _ => separable::run::<f64>(cx, self, &plans),
        }
    }
}

impl Resize {
    /// How each axis of a tensor of shape `dims` is resampled.
    fn plan(&self, cx: &Context<'_>, dims: &[usize]) -> Result<SmallVec<[AxisPlan; 6]>> {
        let axes = match &self.axes {
            Some(axes) => shape::axes(axes, dims.len())?,
            None => (0..dims.len()).collect(),
        };
        let mut plans: SmallVec<[AxisPlan; 6]> =
            dims.iter().map(|&dim| AxisPlan::identity(dim, self.transform)).collect();
        if let Some(sizes) = self.sizes(cx)? {
            let sizes = of_axes(sizes, axes.len(), "sizes")?;
            self.plan_sizes(&mut plans, &axes, &sizes)?;
        } else {
            let scales = of_axes(self.scales(cx)?, axes.len(), "scales")?;
            for (&axis, &scale) in axes.iter().zip(&scales) {
                let output = (dims[axis] as f32 * scale).floor();
                if !(scale > 0.0 && output < u32::MAX as f32) {
                    return Err(OpError::invalid(format!(
                        "scales must be positive and not huge, got {scales:?}"
                    )));
                }
                (plans[axis].output, plans[axis].scale) = (output as usize, scale.into());
            }
        }
        if self.transform == Transform::CropAndResize {
            let roi = cx.optional(1).map(number::to_vec::<f64>).transpose()?.unwrap_or_default();
            if roi.len() != 2 * axes.len() {
                return Err(OpError::invalid(format!(
                    "expected a roi of {} numbers, got {}",
                    2 * axes.len(),
                    roi.len()
                )));
            }
            for (i, &axis) in axes.iter().enumerate() {
                plans[axis].region = (roi[i], roi[i + axes.len()]);
            }
        }
        Ok(plans)
    }

    fn plan_sizes(&self, plans: &mut [AxisPlan], axes: &[usize], sizes: &[i64]) -> Result<()> {
        let fits =
            sizes.iter().zip(axes).all(|(&size, &axis)| size >= 0 && (plans[axis].input > 0 || size == 0));
        if !fits {
            return Err(OpError::invalid(format!("cannot resize to {sizes:?}")));
        }
        let ratio = |i: usize, plans: &[AxisPlan]| sizes[i] as f64 / plans[axes[i]].input.max(1) as f64;
        let ratios = (0..axes.len()).map(|i| ratio(i, plans));
        let shared = match self.aspect_ratio {
            AspectRatio::Stretch => None,
            AspectRatio::NotLarger => ratios.reduce(f64::min),
            AspectRatio::NotSmaller => ratios.reduce(f64::max),
        };
        for (i, &axis) in axes.iter().enumerate() {
            let plan = &mut plans[axis];
            (plan.output, plan.scale) = match shared {
                Some(scale) => ((scale * plan.input as f64 + 0.5) as usize, scale),
                None => (sizes[i] as usize, sizes[i] as f64 / plan.input.max(1) as f64),
            };
        }
        Ok(())
    }

    fn sizes(&self, cx: &Context<'_>) -> Result<Option<SmallVec<[i64; 6]>>> {
        match (&self.scales, cx.optional(3)) {
            (Scales::Input2, Some(sizes)) if !sizes.is_empty() => {
                Ok(Some(sizes.to_i64s()?.as_slice().into()))
            }
            _ => Ok(None),
        }
    }

    fn scales(&self, cx: &Context<'_>) -> Result<Floats> {
        let input: Option<&Tensor> = match &self.scales {
            Scales::Fixed(scales) => return Ok(scales.clone()),
            Scales::Input1 => cx.optional(1),
            Scales::Input2 => cx.optional(2),
        };
        let input = input.ok_or_else(|| OpError::invalid("Resize has neither scales nor sizes"))?;
        Ok(input.as_slice::<f32>()?.into())
    }
}

fn of_axes<T, A: smallvec::Array<Item = T>>(
    values: SmallVec<A>,
    axes: usize,
    what: &str,
) -> Result<SmallVec<A>> {
    if values.len() == axes {
        return Ok(values);
    }
    Err(OpError::invalid(format!("expected {axes} {what}, got {}", values.len())))
}

#[cfg(test)]
mod tests;
