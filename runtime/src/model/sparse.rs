//! Sparse tensor messages, made dense.

use super::Limits;
use super::proto::SparseTensorProto;
use super::tensor::{dims_from_proto, tensor_from_proto};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, byte_len};

/// The dense tensor of a sparse one, zero where it has no element. The dense size is limited.
///
/// Indices are `[n]` linear positions or `[n, rank]` coordinates, in ascending order, without repetition.
pub(crate) fn densify(proto: &SparseTensorProto, limits: &Limits) -> Result<Tensor> {
    let name = proto.values.as_ref().map_or("", |v| &v.name);
    let fault = |message: String| Error::invalid_model(format!("sparse tensor '{name}': {message}"));
    let values = proto.values.as_ref().ok_or_else(|| fault("it has no values".into()))?;
    let values = tensor_from_proto(values)?;
    let dims = dims_from_proto(&proto.dims, name)?;
    let dtype = values.dtype();
    if dtype.bits() < 8 {
        return Err(Error::unsupported(format!("sparse tensor '{name}': {dtype} elements cannot be sparse")));
    }
    let bytes = byte_len(dtype, &dims)?;
    if bytes > limits.max_dense_bytes {
        return Err(Error::limit(format!(
            "sparse tensor '{name}' of shape {dims:?} takes {bytes} bytes when dense, the limit is {}",
            limits.max_dense_bytes
        )));
    }
    let mut dense = Tensor::zeros(dtype, &dims)?;
    let n = values.len();
    let indices = match &proto.indices {
        Some(indices) => tensor_from_proto(indices)?,
        None if n == 0 => return Ok(dense),
        None => return Err(fault(format!("it has {n} values but no indices"))),
    };
    let rank = dims.len();
    let coordinates = match indices.dims() {
        [count] if *count == n => 1,
        [count, r] if *count == n && *r == rank => rank,
        found => {
            return Err(fault(format!(
                "indices must have shape [{n}] or [{n}, {rank}], they have {found:?}"
            )));
        }
    };
    let positions = indices.to_vec::<i64>().map_err(|_| fault("indices must be int64".into()))?;
    let width = dtype.bits() / 8;
    let elements = dense.len();
    let contents = dense.as_bytes_mut().expect("a new tensor of a fixed size owns its memory");
    for (i, position) in positions.chunks_exact(coordinates.max(1)).take(n).enumerate() {
        let linear = if coordinates == 1 && rank != 1 {
            linear_position(position, &[elements])
        } else {
            linear_position(position, &dims)
        };
        let at =
            linear.ok_or_else(|| fault(format!("index {position:?} lies outside shape {dims:?}")))? * width;
        contents[at..at + width].copy_from_slice(&values.as_bytes()[i * width..(i + 1) * width]);
    }
    Ok(dense)
}

fn linear_position(coordinates: &[i64], dims: &[usize]) -> Option<usize> {
    coordinates.iter().zip(dims).try_fold(0usize, |at, (c, d)| {
        let c = usize::try_from(*c).ok().filter(|c| c < d)?;
        at.checked_mul(*d)?.checked_add(c)
    })
}
