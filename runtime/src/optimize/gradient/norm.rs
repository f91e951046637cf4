//! Derivatives of normalisations over the last axes.

use super::rules::{Parts, Rule, Site};
use crate::error::{Error, Result};
use crate::graph::ValueId;

pub const RULES: &[(&str, Rule)] =
    &[("LayerNormalization", |s| normalization(s, true)), ("RMSNormalization", |s| normalization(s, false))];

/// `y = x̂ * scale + bias`, where `x̂` is x, centred or not, divided by its root mean square.
fn normalization(s: &mut Site<'_, '_>, centred: bool) -> Result<Parts> {
    let (x, scale, g) = (s.input(0)?, s.input(1)?, s.by_output()?);
    let rank = s.emitter.rank(x)? as i64;
    let axis = s.node.int_or("axis", -1)?;
    let first = if axis < 0 { axis + rank } else { axis };
    if !(0..rank).contains(&first) {
        return Err(Error::invalid_model(format!("axis {axis} is outside a tensor of rank {rank}")));
    }
    let axes: Vec<i64> = (first..rank).collect();
    let epsilon = f64::from(s.node.float_or("epsilon", 1e-5)?);
    let centre = |s: &mut Site<'_, '_>, value: ValueId| -> Result<ValueId> {
        let mean = mean(s, value, &axes)?;
        s.emitter.op("Sub", 14, &[value, mean])
    };
    let difference = if centred { centre(s, x)? } else { x };
    let square = s.emitter.mul(difference, difference)?;
    let (variance, epsilon) = (mean(s, square, &axes)?, s.emitter.scalar(x, epsilon)?);
    let raised = s.emitter.op("Add", 14, &[variance, epsilon])?;
    let root = s.emitter.op("Sqrt", 13, &[raised])?;
    let normal = s.emitter.op("Div", 14, &[difference, root])?;
    let mut parts = vec![None; s.node.inputs().len()];
    if s.wants(0) {
        let scaled = s.emitter.mul(g, scale)?;
        let along = s.emitter.mul(scaled, normal)?;
        let along = mean(s, along, &axes)?;
        let along = s.emitter.mul(normal, along)?;
        let across = if centred { centre(s, scaled)? } else { scaled };
        let rest = s.emitter.op("Sub", 14, &[across, along])?;
        parts[0] = Some(s.emitter.op("Div", 14, &[rest, root])?);
    }
    if s.wants(1) {
        let part = s.emitter.mul(g, normal)?;
        parts[1] = Some(s.emitter.sum_to(part, scale)?);
    }
    if s.wants(2) {
        let bias = s.input(2)?;
        parts[2] = Some(s.emitter.sum_to(g, bias)?);
    }
    Ok(parts)
}

fn mean(s: &mut Site<'_, '_>, value: ValueId, axes: &[i64]) -> Result<ValueId> {
    let axes = s.emitter.ints(axes)?;
    s.emitter.op("ReduceMean", 18, &[value, axes])
}
