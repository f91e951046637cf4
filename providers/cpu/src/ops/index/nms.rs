//! NonMaxSuppression.

use super::key::keys;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Tensor};

pub const OPERATORS: &[Operator] = &[Operator::onnx("NonMaxSuppression", 10, NEWEST, non_max_suppression)];

struct NonMaxSuppression {
    center_point_box: bool,
}

fn non_max_suppression(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(NonMaxSuppression { center_point_box: node.int("center_point_box", 0)? != 0 }))
}

impl Kernel for NonMaxSuppression {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
        let (&[batches, count, 4], &[score_batches, classes, score_count]) = (boxes.dims(), scores.dims())
        else {
            return Err(mismatch(boxes, scores));
        };
        if score_batches != batches || score_count != count {
            return Err(mismatch(boxes, scores));
        }
        let limit = cx.optional(2).map_or(Ok(0), Tensor::to_scalar::<i64>)?.clamp(0, count as i64) as usize;
        let iou_threshold = cx.optional(3).map_or(Ok(0.0), Tensor::to_scalar::<f32>)?;
        if !(0.0..=1.0).contains(&iou_threshold) {
            return Err(OpError::invalid(format!("iou_threshold must lie in 0 ..= 1, got {iou_threshold}")));
        }
        let score_threshold = cx.optional(4).map(Tensor::to_scalar::<f32>).transpose()?;
        let corners: Vec<Corners> = boxes
            .as_slice::<f32>()?
            .as_chunks()
            .0
            .iter()
            .map(|b| Corners::of(b, self.center_point_box))
            .collect();
        let (values, keys) = (scores.as_slice::<f32>()?, keys(scores)?);
        let mut selected: Vec<[i64; 3]> = Vec::new();
        let mut order: Vec<usize> = Vec::new();
        for batch in 0..batches {
            let corners = &corners[batch * count..][..count];
            for class in 0..classes {
                let first = (batch * classes + class) * count;
                let is_candidate =
                    |&i: &usize| score_threshold.is_none_or(|threshold| values[first + i] > threshold);
                order.clear();
                order.extend((0..count).filter(is_candidate));
                order.sort_by_key(|&i| !keys[first + i]);
                let start = selected.len();
                for &i in &order {
                    if selected.len() - start == limit {
                        break;
                    }
                    let kept = &selected[start..];
                    if !kept.iter().any(|k| corners[k[2] as usize].overlaps(&corners[i], iou_threshold)) {
                        selected.push([batch as i64, class as i64, i as i64]);
                    }
                }
            }
        }
        let mut output = cx.output(0, DType::I64, &[selected.len(), 3])?;
        output.as_mut_slice::<i64>()?.copy_from_slice(selected.as_flattened());
        cx.set(0, output);
        Ok(())
    }
}

fn mismatch(boxes: &Tensor, scores: &Tensor) -> OpError {
    OpError::invalid(format!(
        "expected boxes of shape [batches, boxes, 4] and scores of shape [batches, classes, boxes], got {:?} and {:?}",
        boxes.dims(),
        scores.dims()
    ))
}

/// A box by its lowest and highest coordinates.
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
}

impl Corners {
    /// From two opposite corners, or from centre and size.
    fn of(&[a, b, c, d]: &[f32; 4], is_center: bool) -> Corners {
        if is_center {
            return Corners { low: [a - c / 2.0, b - d / 2.0], high: [a + c / 2.0, b + d / 2.0] };
        }
        Corners { low: [a.min(c), b.min(d)], high: [a.max(c), b.max(d)] }
    }

    fn area(&self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// True when the intersection over the union is above `threshold`.
    fn overlaps(&self, other: &Corners, threshold: f32) -> bool {
        let side = |i: usize| self.high[i].min(other.high[i]) - self.low[i].max(other.low[i]);
        let (height, width) = (side(0), side(1));
        if height <= 0.0 || width <= 0.0 {
            return false;
        }
        let intersection = height * width;
        let (area, other_area) = (self.area(), other.area());
        let union = area + other_area - intersection;
        area > 0.0 && other_area > 0.0 && union > 0.0 && intersection / union > threshold
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{node, run, tensor};

    #[test]
    fn flipped_corners_overlap_and_equal_scores_keep_the_first() {
        let boxes = tensor(&[1, 3, 4], &[0f32, 0., 1., 1., 1., 1., 0., 0., 5., 5., 6., 6.]);
        let scores = tensor(&[1, 1, 3], &[0.5f32, 0.5, 0.1]);
        let case = |limit: i64, threshold: f32| {
            let inputs = [
                Some(boxes.clone()),
                Some(scores.clone()),
                Some(tensor(&[1], &[limit])),
                Some(tensor(&[1], &[0.5f32])),
                Some(tensor(&[1], &[threshold])),
            ];
            let outputs = run(&node("", "NonMaxSuppression", 11, &[], 1), &inputs).unwrap();
            outputs[0].as_slice::<i64>().unwrap().to_vec()
        };
        assert_eq!(case(3, 0.0), [0, 0, 0, 0, 0, 2]);
        assert_eq!(case(3, 0.1), [0, 0, 0]);
        assert_eq!(case(0, 0.0), [0i64; 0]);
    }
}
