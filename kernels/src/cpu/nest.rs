//! Loop nests over strided operands: unit dimensions dropped, compatible neighbours merged.

use std::ops::Range;

use crate::error::{KernelError, Result, checked_product};

/// A loop over `shape` for `N` operands with one element stride per dimension each.
#[derive(Clone, Debug)]
pub struct Nest<const N: usize> {
    /// Merged extents, outermost first; never empty.
    shape: Vec<usize>,
    /// Strides of each merged dimension.
    strides: Vec<[usize; N]>,
}

impl<const N: usize> Nest<N> {
    /// `operands` are (buffer length, strides). Refuses strides that would leave a buffer.
    pub fn new(shape: &[usize], operands: [(usize, &[usize]); N]) -> Result<Self> {
        let len = checked_product("shape", shape)?;
        for (index, (buffer_len, strides)) in operands.iter().enumerate() {
            check_operand(index, shape, strides, *buffer_len, len)?;
        }
        let mut nest =
            Nest { shape: Vec::with_capacity(shape.len()), strides: Vec::with_capacity(shape.len()) };
        for (dim, &extent) in shape.iter().enumerate() {
            if extent != 1 || len == 0 {
                nest.push(extent, operands.map(|(_, strides)| strides[dim]));
            }
        }
        if nest.shape.is_empty() {
            nest.shape.push(1);
            nest.strides.push([0; N]);
        }
        Ok(nest)
    }

    /// Appends an inner dimension, merging it with the last where all operands step through both evenly.
    fn push(&mut self, extent: usize, strides: [usize; N]) {
        if let (Some(last), Some(outer)) = (self.shape.last_mut(), self.strides.last_mut())
            && (0..N).all(|i| outer[i] == strides[i] * extent)
        {
            *last *= extent;
            *outer = strides;
            return;
        }
        self.shape.push(extent);
        self.strides.push(strides);
    }

    /// Elements visited.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether nothing is visited.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extent of the innermost merged dimension.
    pub fn inner_len(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Strides of the innermost merged dimension.
    pub fn inner_steps(&self) -> [usize; N] {
        self.strides[self.strides.len() - 1]
    }

    /// Number of innermost rows.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Merged extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Strides of the merged dimensions.
    pub fn strides(&self) -> &[[usize; N]] {
        &self.strides
    }

    /// Calls `body(row, operand offsets)` for a range of innermost rows. Does nothing where the rows are empty.
    pub fn for_rows(&self, rows: Range<usize>, mut body: impl FnMut(usize, [usize; N])) {
        if self.inner_len() == 0 || rows.is_empty() {
            return;
        }
        let outer = self.shape.len() - 1;
        let mut index = vec![0; outer];
        let mut offsets = [0; N];
        let mut rest = rows.start;
        for dim in (0..outer).rev() {
            index[dim] = rest % self.shape[dim];
            rest /= self.shape[dim];
            for (offset, stride) in offsets.iter_mut().zip(self.strides[dim]) {
                *offset += index[dim] * stride;
            }
        }
        for row in rows {
            body(row, offsets);
            for dim in (0..outer).rev() {
                index[dim] += 1;
                if index[dim] < self.shape[dim] {
                    for (offset, stride) in offsets.iter_mut().zip(self.strides[dim]) {
                        *offset += stride;
                    }
                    break;
                }
                index[dim] = 0;
                for (offset, stride) in offsets.iter_mut().zip(self.strides[dim]) {
                    *offset -= (self.shape[dim] - 1) * stride;
                }
            }
        }
    }
}

fn check_operand(index: usize, shape: &[usize], strides: &[usize], buffer: usize, len: usize) -> Result<()> {
    if strides.len() != shape.len() {
        return Err(KernelError::shape(format!(
            "operand {index} has {} strides for {} dimensions",
            strides.len(),
            shape.len()
        )));
    }
    if len == 0 {
        return Ok(());
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |acc, (&extent, &stride)| acc.checked_add((extent - 1).checked_mul(stride)?));
    match last {
        Some(last) if last < buffer => Ok(()),
        _ => Err(KernelError::shape(format!(
            "operand {index} has {buffer} elements, too few for shape {shape:?} with strides {strides:?}"
        ))),
    }
}

/// Row-major strides of `operand` broadcast to `shape` by the numpy rule (aligned right, extent 1 repeats).
pub fn broadcast_strides(operand: &[usize], shape: &[usize]) -> Result<Vec<usize>> {
    if operand.len() > shape.len() {
        return Err(KernelError::shape(format!("{operand:?} does not broadcast to {shape:?}")));
    }
    let lead = shape.len() - operand.len();
    let mut strides = vec![0; shape.len()];
    let mut step = 1usize;
    for dim in (0..operand.len()).rev() {
        let (from, to) = (operand[dim], shape[lead + dim]);
        if from != to && from != 1 {
            return Err(KernelError::shape(format!("{operand:?} does not broadcast to {shape:?}")));
        }
        if from == to {
            strides[lead + dim] = step;
        }
        if from == 1 {
            strides[lead + dim] = 0;
        }
        step = step.saturating_mul(from);
    }
    Ok(strides)
}
