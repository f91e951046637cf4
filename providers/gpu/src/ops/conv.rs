//! Convolutions, with bias, residual and activation, and transposed ones.

use tenon_kernels::gpu::product::{self, Activation, Conv};
use tenon_plugin_api::{Error, NodeView, Result};

use super::Family;
use super::activation::fused;
use super::conv_matrix::{self, Filter};
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Conv"], lower: conv },
    Family { domain: "tenon", op_types: &["FusedConv"], lower: conv },
    Family { domain: "", op_types: &["ConvTranspose"], lower: transposed },
];

/// How padding is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    /// In front of each spatial dimension, then behind each.
    Explicit(Vec<i64>),
    SameUpper,
    SameLower,
    Valid,
}

/// The attributes that windows over space have in common.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub kernel: Option<Vec<usize>>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
}

impl Window {
    /// Reads the attributes of a node over `spatial` dimensions.
    pub fn read(l: &Lowering<'_>, spatial: usize) -> std::result::Result<Window, Decline> {
        if !(1..=3).contains(&spatial) {
            return Err(Decline(format!("{spatial} spatial dimensions have no GPU kernel")));
        }
        let sizes = |name: &str| -> std::result::Result<Option<Vec<usize>>, Decline> {
            let Some(values) = l.node.ints(name)? else { return Ok(None) };
            let sizes: Option<Vec<usize>> =
                values.iter().map(|&value| usize::try_from(value).ok().filter(|&value| value > 0)).collect();
            match sizes {
                Some(sizes) if sizes.len() == spatial => Ok(Some(sizes)),
                _ => Err(Decline(format!("attribute '{name}' must be {spatial} positive numbers"))),
            }
        };
        let ones = || vec![1; spatial];
        let padding = match l.node.text_or("auto_pad", "NOTSET")? {
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            "VALID" => Padding::Valid,
            _ => {
                let pads = l.node.ints("pads")?.map_or_else(|| vec![0; 2 * spatial], <[i64]>::to_vec);
                if pads.len() != 2 * spatial {
                    return Err(Decline(format!("attribute 'pads' must be {} numbers", 2 * spatial)));
                }
                Padding::Explicit(pads)
            }
        };
        Ok(Window {
            kernel: sizes("kernel_shape")?,
            strides: sizes("strides")?.unwrap_or_else(ones),
            dilations: sizes("dilations")?.unwrap_or_else(ones),
            padding,
        })
    }

    /// Padding in front and behind, and the number of windows, along dimension `axis` of `input` elements.
    pub fn place(
        &self,
        axis: usize,
        input: usize,
        kernel: usize,
        rounds_up: bool,
    ) -> Result<(i64, i64, usize)> {
        let (stride, reach) =
            (self.strides[axis] as i64, self.dilations[axis] as i64 * (kernel as i64 - 1) + 1);
        let input = input as i64;
        let spatial = self.strides.len();
        let (begin, end) = match &self.padding {
            Padding::Explicit(pads) => (pads[axis], pads[spatial + axis]),
            Padding::Valid => (0, 0),
            same => {
                let count = (input + stride - 1) / stride;
                let total = ((count - 1) * stride + reach - input).max(0);
                let small = total / 2;
                if *same == Padding::SameUpper { (small, total - small) } else { (total - small, small) }
            }
        };
        let room = input + begin + end - reach;
        if room < 0 {
            return Err(Error::invalid(format!("a window of {reach} does not fit {input} padded elements")));
        }
        let mut count = room / stride + 1;
        if rounds_up && room % stride != 0 && count * stride < input + begin {
            count += 1;
        }
        Ok((begin, end, count as usize))
    }
}

/// Spatial extents as three, missing ones being `fill` in front.
pub(super) fn three<T: Copy>(values: &[T], fill: T) -> [T; 3] {
    let mut all = [fill; 3];
    all[3 - values.len()..].copy_from_slice(values);
    all
}

struct Convolution {
    window: Window,
    groups: usize,
    bias: bool,
    residual: bool,
    activation: Activation,
    filter: Option<Filter>,
}

impl Operator for Convolution {
    fn derived<'a>(&self, node: NodeView<'a>, arch: &'a str) -> Vec<Derived<'a>> {
        self.filter.and_then(|filter| filter.derived(node, arch)).into_iter().collect()
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, w, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let kernel = &w[2..];
        if w[1] * self.groups != x[1] || !w[0].is_multiple_of(self.groups) || x.len() != w.len() {
            return Err(Error::invalid(format!("a filter {w:?} in {} groups over {x:?}", self.groups)));
        }
        let (mut pads, mut output) = (Vec::new(), Vec::new());
        for (axis, (&input, &kernel)) in x[2..].iter().zip(kernel).enumerate() {
            let (begin, _, count) = self.window.place(axis, input, kernel, false)?;
            pads.push(begin);
            output.push(count);
        }
        let shape: Vec<usize> = [x[0], w[0]].into_iter().chain(output.iter().copied()).collect();
        let problem = Conv {
            scalar,
            batch: x[0],
            groups: self.groups,
            in_channels: w[1],
            out_channels: w[0] / self.groups,
            input: three(&x[2..], 1),
            output: three(&output, 1),
            kernel: three(kernel, 1),
            strides: three(&self.window.strides, 1),
            dilations: three(&self.window.dilations, 1),
            pads: three(&pads, 0),
            has_bias: self.bias,
            has_residual: self.residual,
            activation: self.activation,
            is_transposed: false,
        };
        if self.residual && cx.dims(3)? != shape {
            return Err(Error::unsupported("a residual that is broadcast"));
        }
        let y = cx.output(0, scalar, &shape)?;
        let given = |index: usize, given: bool| if given { cx.optional(index) } else { None };
        let (bias, residual) = (given(2, self.bias), given(3, self.residual));
        if conv_matrix::expand(cx, &problem, [y, cx.input(0)?, cx.input(1)?], [bias, residual], self.filter)?
        {
            return Ok(());
        }
        let operands = [Some(y), Some(cx.input(0)?), Some(cx.input(1)?), bias, residual];
        let plan = product::conv(&problem, cx.chip().compute_units);
        cx.run(plan, &operands)
    }
}

fn groups_of(l: &Lowering<'_>) -> std::result::Result<usize, Decline> {
    usize::try_from(l.node.int_or("group", 1)?)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or_else(|| Decline::new("group must be positive"))
}

fn same_type(l: &Lowering<'_>) -> std::result::Result<(), Decline> {
    let scalar = l.half_or_single(0)?;
    for index in 1..4 {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    Ok(())
}

fn conv(l: &Lowering<'_>) -> Lowered {
    same_type(l)?;
    let window = Window::read(l, l.rank(0)?.saturating_sub(2))?;
    let activation = if l.node.domain().is_empty() { Activation::None } else { fused(l)? };
    let (bias, residual, groups) = (l.has_input(2), l.has_input(3), groups_of(l)?);
    let filter = if groups == 1 { Filter::of(l)? } else { None };
    Ok(Box::new(Convolution { window, groups, bias, residual, activation, filter }))
}

struct Transposed {
    window: Window,
    groups: usize,
    bias: bool,
    output_padding: Vec<i64>,
    output_shape: Option<Vec<i64>>,
}

impl Operator for Transposed {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, w, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let kernel = &w[2..];
        if w[0] != x[1] || x.len() != w.len() || !x[1].is_multiple_of(self.groups) {
            return Err(Error::invalid(format!("a filter {w:?} in {} groups over {x:?}", self.groups)));
        }
        let (mut pads, mut output) = (Vec::new(), Vec::new());
        for axis in 0..kernel.len() {
            let (begin, size) = self.place(axis, x[2 + axis], kernel[axis]);
            pads.push(begin);
            output.push(usize::try_from(size).map_err(|_| Error::invalid("the padding is too large"))?);
        }
        let channels = w[1] * self.groups;
        let shape: Vec<usize> = [x[0], channels].into_iter().chain(output.iter().copied()).collect();
        let problem = Conv {
            scalar,
            batch: x[0],
            groups: self.groups,
            in_channels: x[1] / self.groups,
            out_channels: w[1],
            input: three(&x[2..], 1),
            output: three(&output, 1),
            kernel: three(kernel, 1),
            strides: three(&self.window.strides, 1),
            dilations: three(&self.window.dilations, 1),
            pads: three(&pads, 0),
            has_bias: self.bias,
            has_residual: false,
            activation: Activation::None,
            is_transposed: true,
        };
        let y = cx.output(0, scalar, &shape)?;
        let bias = if self.bias { cx.optional(2) } else { None };
        let operands = [Some(y), Some(cx.input(0)?), Some(cx.input(1)?), bias, None];
        let plan = product::conv(&problem, cx.chip().compute_units);
        cx.run(plan, &operands)
    }
}

impl Transposed {
    /// What is cut in front along `axis`, and the size of the result.
    fn place(&self, axis: usize, input: usize, kernel: usize) -> (i64, i64) {
        let spatial = self.window.strides.len();
        let stride = self.window.strides[axis] as i64;
        let reach = self.window.dilations[axis] as i64 * (kernel as i64 - 1) + 1;
        let full = stride * (input as i64 - 1) + self.output_padding[axis] + reach;
        let wanted = match (&self.output_shape, &self.window.padding) {
            (Some(shape), _) => Some(shape[axis]),
            (None, Padding::SameUpper | Padding::SameLower) => Some(input as i64 * stride),
            _ => None,
        };
        match (wanted, &self.window.padding) {
            (Some(size), padding) => {
                let total = (full - size).max(0);
                let small = total / 2;
                let begin = if *padding == Padding::SameUpper { small } else { total - small };
                (begin, size)
            }
            (None, Padding::Explicit(pads)) => (pads[axis], full - pads[axis] - pads[spatial + axis]),
            (None, _) => (0, full),
        }
    }
}

fn transposed(l: &Lowering<'_>) -> Lowered {
    same_type(l)?;
    let spatial = l.rank(0)?.saturating_sub(2);
    let window = Window::read(l, spatial)?;
    let output_shape = l.node.ints("output_shape")?.map(<[i64]>::to_vec);
    let output_padding = l.node.ints("output_padding")?.map_or_else(|| vec![0; spatial], <[i64]>::to_vec);
    let is_known =
        output_padding.len() == spatial && output_shape.as_ref().is_none_or(|shape| shape.len() == spatial);
    if !is_known {
        return Err(Decline::new("output_shape or output_padding is not one number for each dimension"));
    }
    let (groups, bias) = (groups_of(l)?, l.has_input(2));
    Ok(Box::new(Transposed { window, groups, bias, output_padding, output_shape }))
}
