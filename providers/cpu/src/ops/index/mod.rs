//! Indexing operators: those that pick elements by position, put them at positions, or find positions.

pub mod alignment;
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
    let indices = indices.to_i64s()?;
    check_range(&indices, len)?;
    Ok(indices.iter().map(|&index| wrap(index, len)).collect())
}

/// One index as a position on an axis of `len`.
pub(super) fn position(index: i64, len: usize) -> Result<usize> {
    check_range(&[index], len)?;
    Ok(wrap(index, len))
}

/// Errors unless every index names a position on an axis of `len`, from its start or its end.
pub(super) fn check_range(indices: &[i64], len: usize) -> Result<()> {
    let range = -(len as i64)..len as i64;
    match indices.iter().all(|index| range.contains(index)) {
        true => Ok(()),
        false => {
            let bad = indices.iter().find(|index| !range.contains(index)).copied().unwrap_or_default();
            Err(OpError::invalid(format!("index {bad} is outside an axis of {len}")))
        }
    }
}

/// The position of an index that [`check_range`] accepted.
pub(super) fn wrap(index: i64, len: usize) -> usize {
    (if index < 0 { index + len as i64 } else { index }) as usize
}
