//! Indexing operators: those that pick elements by position, put them at positions, or find positions.

pub mod gather;
pub mod gather_quantized;
pub mod key;
pub mod ngram;
pub mod nms;
pub mod one_hot;
pub mod scatter;
pub mod select;
pub mod topk;
pub mod unique;

use smallvec::SmallVec;

use crate::error::{OpError, Result};
use crate::tensor::Tensor;

/// Absolute positions along an axis.
pub(super) type Positions = SmallVec<[usize; 16]>;

/// The indices of an int64 or int32 tensor as positions on an axis of `len`; negative ones count from the end.
pub(super) fn positions(indices: &Tensor, len: usize) -> Result<Positions> {
    indices.to_i64s()?.iter().map(|&index| position(index, len)).collect()
}

/// One index as a position on an axis of `len`.
pub(super) fn position(index: i64, len: usize) -> Result<usize> {
    let absolute = if index < 0 { index.wrapping_add(len as i64) } else { index };
    if (0..len as i64).contains(&absolute) {
        return Ok(absolute as usize);
    }
    Err(OpError::invalid(format!("index {index} is outside an axis of {len}")))
}
