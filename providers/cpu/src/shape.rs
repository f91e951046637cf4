//! Shape arithmetic that kernels of every family share: broadcasting, axes, strides.

use crate::error::{OpError, Result};
use crate::tensor::Dims;

/// The shape two shapes broadcast to (numpy's rule, ONNX "multidirectional broadcasting").
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Dims> {
    let rank = a.len().max(b.len());
    let mut dims = Dims::with_capacity(rank);
    for i in 0..rank {
        let x = (i + a.len()).checked_sub(rank).map_or(1, |i| a[i]);
        let y = (i + b.len()).checked_sub(rank).map_or(1, |i| b[i]);
        dims.push(match (x, y) {
            (1, n) | (n, 1) => n,
            (x, y) if x == y => x,
            _ => {
                return Err(OpError::invalid(format!(
                    "shapes {a:?} and {b:?} do not broadcast: {x} against {y}"
                )));
            }
        });
    }
    Ok(dims)
}

/// A possibly negative axis as an index into `rank` dimensions.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let adjusted = if axis < 0 { axis + rank as i64 } else { axis };
    if (0..rank as i64).contains(&adjusted) {
        return Ok(adjusted as usize);
    }
    Err(OpError::invalid(format!("axis {axis} is outside the {rank} dimensions of the tensor")))
}

/// Several axes, each normalised; duplicates are an error.
pub fn axes(values: &[i64], rank: usize) -> Result<Dims> {
    let mut axes = Dims::new();
    for &value in values {
        let index = axis(value, rank)?;
        if axes.contains(&index) {
            return Err(OpError::invalid(format!("axis {value} appears twice in {values:?}")));
        }
        axes.push(index);
    }
    Ok(axes)
}

/// Row-major strides in elements.
pub fn strides(dims: &[usize]) -> Dims {
    let mut strides: Dims = dims.into();
    let mut step = 1;
    for (stride, &dim) in strides.iter_mut().zip(dims).rev() {
        *stride = step;
        step *= dim;
    }
    strides
}

/// Strides with which a tensor of shape `dims` is read as if it had the (broadcast) shape `to`: 0 along repeated axes.
pub fn broadcast_strides(dims: &[usize], to: &[usize]) -> Dims {
    let own = strides(dims);
    let lead = to.len() - dims.len();
    (0..to.len()).map(|i| if i < lead || dims[i - lead] == 1 { 0 } else { own[i - lead] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]).unwrap().as_slice(), [2, 4, 3]);
        assert_eq!(broadcast(&[], &[0]).unwrap().as_slice(), [0]);
        assert_eq!(broadcast(&[1, 0], &[3, 1]).unwrap().as_slice(), [3, 0]);
        assert!(broadcast(&[2], &[3]).is_err());
    }

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!(axis(-1, 3).unwrap(), 2);
        assert!(axis(3, 3).is_err());
        assert!(axes(&[0, -3], 3).is_err());
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]).as_slice(), [0, 1, 0]);
    }
}
