//! Convolutions of integers of 8 bits: as products of the filter and patches of the images, or one output a thread where
//! channels are in groups.

use tenon_kernels::gpu::integer::Window as Bytes;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, NodeView, Result};

use super::super::Family;
use super::super::conv::{Window, three};
use super::{Behind, Ending, Factor, Rows, Weight, multiply};
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in super::super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["ConvInteger"], lower: integer },
    Family { domain: "", op_types: &["QLinearConv"], lower: qlinear },
    Family { domain: "com.microsoft", op_types: &["QLinearConv"], lower: qlinear },
];

/// Scales and addends of a convolution that is quantised again, by input.
struct Quantised {
    x_scale: usize,
    w_scale: usize,
    y_scale: usize,
    y_zero: usize,
    bias: Option<usize>,
    output: Scalar,
}

struct Convolution {
    window: Window,
    groups: usize,
    x: Factor,
    w: Factor,
    w_input: usize,
    has_weight: bool,
    quantised: Option<Quantised>,
}

impl Convolution {
    fn read(
        l: &Lowering<'_>,
        (w, x_zero, w_zero): (usize, usize, usize),
        quantised: Option<Quantised>,
    ) -> Lowered {
        if l.node.int_or("channels_last", 0)? != 0 {
            return Err(Decline::new("channels in the last dimension have no GPU kernel"));
        }
        let window = Window::read(l, l.rank(0)?.saturating_sub(2))?;
        let groups = usize::try_from(l.node.int_or("group", 1)?).ok().filter(|&groups| groups > 0);
        let groups = groups.ok_or_else(|| Decline::new("attribute 'group' must be positive"))?;
        // Rows of the filter are read by products alone.
        let has_weight = groups == 1 && Weight::read(l.node, w, false).is_some();
        if has_weight {
            l.leave_on_host(w);
        }
        let (x, factor) = (Factor::read(l, 0, x_zero)?, Factor::read(l, w, w_zero)?);
        Ok(Box::new(Convolution { window, groups, x, w: factor, w_input: w, has_weight, quantised }))
    }

    /// The geometry, and the shape of the result.
    fn geometry(&self, cx: &Expansion<'_, '_>) -> Result<(Bytes, Vec<usize>)> {
        let (x, w) = (cx.dims(0)?, cx.dims(self.w_input)?);
        if x.len() != w.len() || w[1] * self.groups != x[1] || !w[0].is_multiple_of(self.groups) {
            return Err(Error::invalid(format!("a filter {w:?} in {} groups over {x:?}", self.groups)));
        }
        let (mut pads, mut output) = (Vec::new(), Vec::new());
        for (axis, (&input, &kernel)) in x[2..].iter().zip(&w[2..]).enumerate() {
            let (begin, _, count) = self.window.place(axis, input, kernel, false)?;
            pads.push(begin);
            output.push(count);
        }
        let shape = [x[0], w[0]].into_iter().chain(output.iter().copied()).collect();
        let count = |factor: &Factor| -> Result<usize> {
            factor.zero.map_or(Ok(0), |index| Ok(cx.dims(index)?.iter().product()))
        };
        let window = Bytes {
            batch: x[0],
            groups: self.groups,
            in_channels: w[1],
            out_channels: w[0] / self.groups,
            input: three(&x[2..], 1),
            output: three(&output, 1),
            kernel: three(&w[2..], 1),
            strides: three(&self.window.strides, 1),
            dilations: three(&self.window.dilations, 1),
            pads: three(&pads, 0),
            x_is_unsigned: self.x.is_unsigned,
            w_is_unsigned: self.w.is_unsigned,
            has_x_zero: self.x.zero.is_some(),
            w_zeros: count(&self.w)?,
        };
        if window.w_zeros > 1 && window.w_zeros != w[0] || count(&self.x)? > 1 {
            return Err(Error::invalid("zero points that are neither one nor one for each channel"));
        }
        Ok((window, shape))
    }

    /// The exact sums without zero points, `[image][channel][position]`, and what is to be taken from them.
    fn sums(&self, cx: &mut Expansion<'_, '_>, window: &Bytes, product: ValueId) -> Result<(Behind, Behind)> {
        let zero =
            |cx: &Expansion<'_, '_>, factor: &Factor| factor.zero.map(|index| cx.input(index)).transpose();
        let (x_zero, w_zero) = (zero(cx, &self.x)?, zero(cx, &self.w)?);
        if self.groups > 1 {
            let operands = [Some(product), Some(cx.input(0)?), Some(cx.input(self.w_input)?), x_zero, w_zero];
            cx.run(window.conv(), &operands)?;
            return Ok((Behind::nothing(), Behind::nothing()));
        }
        let (channels, positions, depth) = (window.out_channels, window.positions(), window.depth());
        let filter = if self.has_weight {
            Rows::derived(cx, channels, depth, true)?
        } else {
            let w = cx.input(self.w_input)?;
            Rows::new(cx, w, [1, channels, depth], false, self.w.is_unsigned, !self.x.is_centred)?
        };
        let row = tenon_kernels::gpu::integer::pitch(depth);
        let count = window.batch * positions;
        let patches = cx.scratch(Scalar::I8, &[count, row])?;
        cx.run(window.patches(), &[Some(patches), Some(cx.input(0)?), x_zero])?;
        let images =
            Rows { bytes: patches, sums: None, count, is_shared: window.batch == 1, is_constant: false };
        multiply(cx, product, &filter, &images, [channels, positions, depth], window.batch)?;
        let column_sums = if self.w.is_centred {
            None
        } else {
            // The rows are whole already: their sums are all that is missing.
            let sums = Rows::new(cx, patches, [1, count, row], false, false, true)?.sums;
            sums.map(|sums| (sums, count))
        };
        let row_sums = filter.sums.filter(|_| !self.x.is_centred).map(|sums| (sums, channels));
        Ok((
            Behind { zeros: self.w.zeros(cx, None)?, sums: row_sums, scale: None },
            Behind { zeros: self.x.zeros(cx, None)?, sums: column_sums, scale: None },
        ))
    }
}

impl Operator for Convolution {
    fn derived<'a>(&self, node: NodeView<'a>, _arch: &'a str) -> Vec<Derived<'a>> {
        if self.has_weight { Weight::derived(node, self.w_input, false, true) } else { Vec::new() }
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (window, shape) = self.geometry(cx)?;
        let scalar = self.quantised.as_ref().map_or(Scalar::I32, |quantised| quantised.output);
        let output = cx.output(0, scalar, &shape)?;
        if shape.contains(&0) {
            return Ok(());
        }
        if window.depth() == 0 {
            return Err(Error::unsupported("sums of nothing have no GPU kernel"));
        }
        let needs_nothing = self.groups > 1 || self.x.is_centred && self.w.is_centred;
        let is_exact = self.quantised.is_none() && needs_nothing;
        let product = if is_exact { output } else { cx.scratch(Scalar::I32, &shape)? };
        let (mut rows, mut columns) = self.sums(cx, &window, product)?;
        if is_exact {
            return Ok(());
        }
        let (mut result, mut bias) = (None, None);
        if let Some(quantised) = &self.quantised {
            rows.scale = Some(cx.input(quantised.w_scale)?);
            columns.scale = Some(cx.input(quantised.x_scale)?);
            result = Some((cx.input(quantised.y_scale)?, Some(cx.input(quantised.y_zero)?)));
            bias = quantised.bias.map(|index| Ok::<_, Error>((cx.input(index)?, [1, 0]))).transpose()?;
        }
        let channels = shape[1];
        if bias.is_some_and(|(value, _)| cx.builder.dims(value) != [channels]) {
            return Err(Error::invalid(format!("a bias for {channels} channels")));
        }
        let ending = Ending {
            product,
            extents: [channels, window.positions(), window.batch],
            depth: window.depth(),
            rows,
            columns,
            alpha: 1.0,
            result,
            bias,
        };
        ending.run(cx, output)
    }
}

fn integer(l: &Lowering<'_>) -> Lowered {
    Convolution::read(l, (1, 2, 3), None)
}

fn qlinear(l: &Lowering<'_>) -> Lowered {
    for index in [1, 4, 6] {
        if l.scalar(index)? != Scalar::F32 {
            return Err(Decline::new("scales that are not float32 have no GPU kernel"));
        }
    }
    let output = match l.scalar(7)? {
        scalar @ (Scalar::U8 | Scalar::I8) => scalar,
        other => return Err(Decline(format!("a result of type {} is no byte", other.suffix()))),
    };
    if l.has_input(8) && l.scalar(8)? != Scalar::I32 {
        return Err(Decline::new("a bias that is not int32 has no GPU kernel"));
    }
    let bias = l.has_input(8).then_some(8);
    let quantised = Quantised { x_scale: 1, w_scale: 4, y_scale: 6, y_zero: 7, bias, output };
    Convolution::read(l, (3, 2, 5), Some(quantised))
}
