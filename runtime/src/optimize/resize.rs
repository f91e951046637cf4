//! Resize to sizes that the graph computes from shapes: an axis that keeps its size needs none, and those of the other
//! axes become constants.

use super::pattern::{copy_of, replace, shape_of};
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, NodeId, Shape};
use crate::tensor::Tensor;

/// A Resize whose sizes are computed gets constant scales, or constant sizes of fewer axes.
pub const STATIC: Rewrite = Rewrite { name: "static Resize", operators: &["Resize"], apply };

/// The version that can resize some axes alone.
const AXES_SINCE: i64 = 18;

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    let node = graph.node(id);
    let (Some(source), Some(given), Some(output)) = (node.input(0), node.input(3), node.output(0)) else {
        return Ok(Outcome::NoMatch);
    };
    if !node.is_onnx("Resize") || node.version < 11 || graph.constant(given).is_some() {
        return Ok(Outcome::NoMatch);
    }
    let crops = node.string_or("coordinate_transformation_mode", "half_pixel")? == "tf_crop_and_resize";
    let stretches = node.string_or("keep_aspect_ratio_policy", "stretch")? == "stretch";
    if crops || !stretches || node.attributes.contains("axes") {
        return Outcome::check_failed("a region, an aspect ratio or axes are given");
    }
    let (Some(from), Some(to)) = (shape_of(graph, source), shape_of(graph, output)) else {
        return Outcome::check_failed("a rank is not known");
    };
    if from.rank() != to.rank() {
        return Outcome::check_failed(format!("{from} cannot become {to}"));
    }
    let changed: Vec<usize> = (0..to.rank()).filter(|&axis| !keeps(from, to, axis)).collect();
    let sizes: Option<Vec<usize>> = changed.iter().map(|&axis| to[axis].known()).collect();
    let Some(sizes) = sizes else {
        return Outcome::check_failed(format!("a size of {to} is not known before the run"));
    };
    let (mut resized, region) = (copy_of(node), node.input(1));
    if let Some(scales) = scales(from, to) {
        let scales = graph.add_constant("scales", Tensor::from_slice(&[scales.len()], &scales)?);
        replace(graph, id, resized, &[Some(source), region, Some(scales)])?;
        return Ok(Outcome::Fired);
    }
    if resized.version < AXES_SINCE {
        return Outcome::check_failed(format!("before version {AXES_SINCE} it resizes every axis"));
    }
    let axes: Vec<i64> = changed.iter().map(|&axis| axis as i64).collect();
    resized.attributes.set("axes", axes);
    let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
    let sizes = graph.add_constant("sizes", Tensor::from_slice(&[sizes.len()], &sizes)?);
    replace(graph, id, resized, &[Some(source), region, None, Some(sizes)])?;
    Ok(Outcome::Fired)
}

fn keeps(from: &Shape, to: &Shape, axis: usize) -> bool {
    from.get(axis) == to.get(axis) && to[axis] != Dim::Unknown
}

/// A scale for each axis, where each is a float32 exactly: then it is the quotient that sizes would give.
fn scales(from: &Shape, to: &Shape) -> Option<Vec<f32>> {
    let scale = |axis: usize| {
        if keeps(from, to, axis) {
            return Some(1.0);
        }
        let (input, output) = (from[axis].known()? as f64, to[axis].known()? as f64);
        let scale = (output / input) as f32;
        (input > 0.0 && output < f64::from(1 << 24) && f64::from(scale) * input == output).then_some(scale)
    };
    (0..to.rank()).map(scale).collect()
}
