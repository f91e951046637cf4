//! Normalisations: of rows (layer, RMS, with the residual in front), of groups of channels, of batches.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::rows::{self, RowNorm, RowNormOperands};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::map::{Expr, Leaf, Map, MapInput, class_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        domain: "",
        op_types: &["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"],
        lower: rows_of,
    },
    Family { domain: "com.microsoft", op_types: &["SimplifiedLayerNormalization"], lower: rows_of },
    Family {
        domain: "com.microsoft",
        op_types: &["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"],
        lower: skip,
    },
    Family { domain: "", op_types: &["InstanceNormalization", "GroupNormalization"], lower: channels },
    Family { domain: "", op_types: &["BatchNormalization"], lower: batch },
];

/// Normalises everything from an axis on. Positions are those of the node's inputs and outputs.
struct Rows {
    axis: usize,
    is_centred: bool,
    epsilon: f32,
    skip: Option<usize>,
    bias: Option<usize>,
    gamma: Option<usize>,
    beta: Option<usize>,
    mean: Option<usize>,
    deviation: Option<usize>,
    sum: Option<usize>,
}

impl Operator for Rows {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let columns: usize = dims[self.axis..].iter().product();
        let rows: usize = dims[..self.axis].iter().product();
        for (position, count) in
            [(self.skip, rows * columns), (self.bias, columns), (self.gamma, columns), (self.beta, columns)]
        {
            if let Some(position) = position
                && cx.dims(position)?.iter().product::<usize>() != count
            {
                let found = cx.dims(position)?;
                return Err(Error::unsupported(format!("input {position} of shape {found:?} is broadcast")));
            }
        }
        let given = |position: Option<usize>| position.and_then(|position| cx.optional(position));
        let (skip, bias, gamma, beta) =
            (given(self.skip), given(self.bias), given(self.gamma), given(self.beta));
        let mut statistics: Vec<usize> = dims.clone();
        statistics[self.axis..].fill(1);
        let output = cx.output(0, scalar, &dims)?;
        let mut extra = |position: Option<usize>, scalar: Scalar, dims: &[usize]| {
            let position = position.filter(|&position| cx.has_output(position));
            position.map(|position| cx.output(position, scalar, dims)).transpose()
        };
        let sum = extra(self.sum, scalar, &dims)?;
        let mean = extra(self.mean, Scalar::F32, &statistics)?;
        let deviation = extra(self.deviation, Scalar::F32, &statistics)?;
        let problem = RowNorm {
            scalar,
            rows,
            columns,
            is_centred: self.is_centred,
            epsilon: self.epsilon,
            period: 1,
            group: 0,
            span: 1,
            has: RowNormOperands {
                sum: sum.is_some(),
                mean: mean.is_some(),
                deviation: deviation.is_some(),
                skip: skip.is_some(),
                bias: bias.is_some(),
                gamma: gamma.is_some(),
                beta: beta.is_some(),
            },
        };
        let operands = [Some(output), sum, mean, deviation, Some(input), skip, bias, gamma, beta];
        cx.run(rows::norm(&problem), &operands)
    }
}

/// Declines inputs whose type is not that of input 0.
fn same_type(l: &Lowering<'_>, positions: &[usize]) -> std::result::Result<Scalar, Decline> {
    let scalar = l.float(0)?;
    for &position in positions.iter().filter(|&&position| l.has_input(position)) {
        if l.scalar(position)? != scalar {
            return Err(Decline(format!("input {position} is of another type than input 0")));
        }
    }
    Ok(scalar)
}

fn rows_of(l: &Lowering<'_>) -> Lowered {
    let scalar = same_type(l, &[1, 2])?;
    let is_centred = l.node.op_type() == "LayerNormalization";
    let statistics = l.has_output(1) || l.has_output(2);
    if statistics && (scalar == Scalar::F64 || l.node.int_or("stash_type", 1)? != 1) {
        return Err(Decline::new("statistics that are not f32 have no GPU kernel"));
    }
    let rank = l.rank(0)?;
    let axis = axis_of(l.node.int_or("axis", -1)?, rank)?;
    if rank == 0 {
        return Err(Decline::new("a tensor without dimensions"));
    }
    Ok(Box::new(Rows {
        axis,
        is_centred,
        epsilon: l.node.float_or("epsilon", 1e-5)?,
        skip: None,
        bias: None,
        gamma: Some(1),
        beta: (is_centred && l.has_input(2)).then_some(2),
        mean: is_centred.then_some(1),
        deviation: Some(if is_centred { 2 } else { 1 }),
        sum: None,
    }))
}

fn skip(l: &Lowering<'_>) -> Lowered {
    let scalar = same_type(l, &[1, 2, 3, 4])?;
    let is_centred = l.node.op_type() == "SkipLayerNormalization";
    if scalar == Scalar::F64 && (l.has_output(1) || l.has_output(2)) {
        return Err(Decline::new("statistics that are not f32 have no GPU kernel"));
    }
    let axis = l.rank(0)?.checked_sub(1).ok_or_else(|| Decline::new("a tensor without dimensions"))?;
    let bias = if is_centred { 4 } else { 3 };
    Ok(Box::new(Rows {
        axis,
        is_centred,
        epsilon: l.node.float_or("epsilon", if is_centred { 1e-12 } else { 1e-5 })?,
        skip: Some(1),
        bias: l.has_input(bias).then_some(bias),
        gamma: Some(2),
        beta: (is_centred && l.has_input(3)).then_some(3),
        mean: Some(1),
        deviation: Some(2),
        sum: Some(3),
    }))
}

/// Normalises channels, or groups of them, over space. `None`: each channel for itself.
struct Channels {
    groups: Option<usize>,
    epsilon: f32,
}

impl Operator for Channels {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let (batch, channels) = (dims[0], dims[1]);
        let spatial: usize = dims[2..].iter().product();
        let groups = self.groups.unwrap_or(channels);
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::invalid(format!("{channels} channels do not divide into {groups} groups")));
        }
        let group = channels / groups;
        let problem = RowNorm {
            scalar,
            rows: batch * groups,
            columns: group * spatial,
            is_centred: true,
            epsilon: self.epsilon,
            period: groups,
            group,
            span: spatial.max(1),
            has: RowNormOperands { gamma: true, beta: true, ..RowNormOperands::default() },
        };
        let output = cx.output(0, scalar, &dims)?;
        let (gamma, beta) = (Some(cx.input(1)?), Some(cx.input(2)?));
        let operands = [Some(output), None, None, None, Some(input), None, None, gamma, beta];
        cx.run(rows::norm(&problem), &operands)
    }
}

fn channels(l: &Lowering<'_>) -> Lowered {
    same_type(l, &[1, 2])?;
    if l.rank(0)? < 2 {
        return Err(Decline::new("fewer than two dimensions"));
    }
    let epsilon = l.node.float_or("epsilon", 1e-5)?;
    if l.node.op_type() == "InstanceNormalization" {
        return Ok(Box::new(Channels { groups: None, epsilon }));
    }
    if l.node.version() < 21 {
        return Err(Decline::new("scales for each group have no GPU kernel"));
    }
    let groups = usize::try_from(l.node.int_or("num_groups", 0)?).map_err(|_| Decline::new("num_groups"))?;
    Ok(Box::new(Channels { groups: Some(groups), epsilon }))
}

/// Inference: (x - mean) / sqrt(variance + epsilon) * scale + bias, each for a channel.
struct Batch {
    epsilon: f32,
}

impl Operator for Batch {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (scalar, dims) = (cx.scalar(0)?, cx.dims(0)?);
        let output = cx.output(0, scalar, &dims)?;
        let mut inputs = Vec::new();
        for index in 0..5 {
            let value = cx.input(index)?;
            let strides = match index {
                0 => tenon_kernels::gpu::layout::contiguous(&dims),
                _ => (0..dims.len()).map(|axis| i64::from(axis == 1)).collect(),
            };
            inputs.push(MapInput { value, scalar: cx.builder.scalar(value), strides, offset: 0 });
        }
        let operand = Leaf::Operand;
        let exprs = vec![
            Expr::binary(MapOp::Add, operand(4), Leaf::Number(f64::from(self.epsilon))),
            Expr::unary(MapOp::Sqrt, Leaf::Node(0)),
            Expr::binary(MapOp::Divide, operand(1), Leaf::Node(1)),
            Expr::binary(MapOp::Subtract, operand(0), operand(3)),
            Expr::binary(MapOp::Multiply, Leaf::Node(3), Leaf::Node(2)),
            Expr::binary(MapOp::Add, Leaf::Node(4), operand(2)),
        ];
        cx.map(Map { class: class_of(scalar), output, scalar, dims, inputs, exprs });
        Ok(())
    }
}

fn batch(l: &Lowering<'_>) -> Lowered {
    l.float(0)?;
    if l.node.int_or("training_mode", 0)? != 0 || (1..5).any(|index| l.has_output(index)) {
        return Err(Decline::new("batch normalisation that trains has no GPU kernel"));
    }
    if l.rank(0)? < 2 {
        return Err(Decline::new("fewer than two dimensions"));
    }
    Ok(Box::new(Batch { epsilon: l.node.float_or("epsilon", 1e-5)? }))
}
