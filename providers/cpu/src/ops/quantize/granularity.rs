//! Which scale and zero point belong to which elements: one for all, one an index of an axis, or one a block.

use crate::error::{OpError, Result};
use crate::shape;

/// Elements seen as `[outer, axis, inner]`, with a scale for each block of `block` indices of the middle and, when
/// blocked, each index of the others.
#[derive(Clone, Copy, Debug)]
pub struct Granularity {
    pub extents: [usize; 3],
    pub block: Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// One scale.
    Tensor,
    /// One scale for each index of the axis.
    Axis,
    /// Scales of the tensor's shape but for the axis, where each covers this many indices.
    Size(usize),
}

impl Granularity {
    /// How scales of shape `scale` cover a tensor of shape `dims`.
    pub fn of(dims: &[usize], scale: &[usize], axis: i64, block_size: i64) -> Result<Granularity> {
        let one: usize = scale.iter().product();
        if scale.len() <= 1 && one == 1 && block_size == 0 {
            return Ok(Granularity { extents: [1, 1, dims.iter().product()], block: Block::Tensor });
        }
        let axis = if dims.len() == 1 { 0 } else { shape::axis(axis, dims.len())? };
        let extents = [dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product()];
        if scale.len() == 1 && block_size == 0 {
            if scale[0] != dims[axis] {
                return Err(OpError::invalid(format!(
                    "expected {} scales for axis {axis}, got {}",
                    dims[axis], scale[0]
                )));
            }
            return Ok(Granularity { extents, block: Block::Axis });
        }
        let fits = scale.len() == dims.len() && (0..dims.len()).all(|i| i == axis || scale[i] == dims[i]);
        let size = match usize::try_from(block_size) {
            Ok(0) if fits && scale[axis] > 0 => dims[axis].div_ceil(scale[axis]),
            Ok(size) => size,
            Err(_) => 0,
        };
        if !fits || size == 0 || dims[axis].div_ceil(size) != scale[axis] {
            return Err(OpError::invalid(format!(
                "scales of shape {scale:?} do not cover a tensor of shape {dims:?} in blocks of {block_size} along axis {axis}"
            )));
        }
        Ok(Granularity { extents, block: Block::Size(size) })
    }

    /// Calls `body(elements, scale, step)` for runs: the first element uses scale index `scale`, each next one the index
    /// `step` further.
    pub fn for_each_run(&self, mut body: impl FnMut(std::ops::Range<usize>, usize, usize)) {
        let [outer, axis, inner] = self.extents;
        match self.block {
            Block::Tensor => body(0..inner, 0, 0),
            Block::Axis => {
                for run in 0..outer * axis {
                    body(run * inner..(run + 1) * inner, run % axis, 0);
                }
            }
            Block::Size(size) => {
                let blocks = axis.div_ceil(size);
                for run in 0..outer * axis {
                    let block = run / axis * blocks + run % axis / size;
                    body(run * inner..(run + 1) * inner, block * inner, 1);
                }
            }
        }
    }

    /// The extents in which the middle index is the scale's, when there are such.
    pub fn as_axis(&self) -> Option<[usize; 3]> {
        let [outer, axis, inner] = self.extents;
        match self.block {
            Block::Tensor | Block::Axis => Some(self.extents),
            Block::Size(size) if inner == 1 && axis % size == 0 => Some([1, outer * (axis / size), size]),
            Block::Size(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scales(granularity: Granularity) -> Vec<usize> {
        let mut seen = Vec::new();
        granularity.for_each_run(|run, scale, step| seen.extend((0..run.len()).map(|i| scale + i * step)));
        seen
    }

    #[test]
    fn every_element_gets_its_scale() {
        assert_eq!(scales(Granularity::of(&[2, 3], &[], 1, 0).unwrap()), [0; 6]);
        assert_eq!(scales(Granularity::of(&[2, 3], &[3], 1, 0).unwrap()), [0, 1, 2, 0, 1, 2]);
        assert_eq!(scales(Granularity::of(&[2, 3], &[2], -2, 0).unwrap()), [0, 0, 0, 1, 1, 1]);
        assert_eq!(scales(Granularity::of(&[2, 3], &[2, 2], 1, 2).unwrap()), [0, 0, 1, 2, 2, 3]);
        assert_eq!(scales(Granularity::of(&[3, 2], &[2, 2], 0, 2).unwrap()), [0, 1, 0, 1, 2, 3]);
        assert!(Granularity::of(&[2, 3], &[2], 1, 0).is_err());
        assert!(Granularity::of(&[2, 4], &[2, 3], 1, 2).is_err());
    }
}
