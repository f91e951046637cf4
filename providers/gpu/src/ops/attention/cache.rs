//! Key and value caches `[batch, heads, positions, columns]`: what was there before new rows come.

use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use crate::operator::Expansion;
use crate::schedule::ValueId;

/// Output `output`, or scratch memory, of `room` positions with the content of cache `past` in front. Nothing is moved
/// where the caller gives one memory for both.
pub(super) fn take_over(
    cx: &mut Expansion<'_, '_>,
    output: usize,
    past: Option<ValueId>,
    scalar: Scalar,
    [batch, heads, room, columns]: [usize; 4],
) -> Result<ValueId> {
    let Some(past) = past else {
        return cx.output(output, scalar, &[batch, heads, room, columns]);
    };
    let dims = cx.builder.dims(past).to_vec();
    let wanted = [batch, heads, dims[2], columns];
    if dims != wanted || dims[2] > room {
        return Err(Error::invalid(format!("a cache of shape {dims:?} where {wanted:?} is expected")));
    }
    let present = cx.output(output, scalar, &[batch, heads, room, columns])?;
    if dims[2] == room {
        cx.builder.copy(cx.node, present, past);
        return Ok(present);
    }
    let shape = [batch * heads, dims[2] * columns];
    let copy = StridedCopy {
        element_bytes: scalar.bytes(),
        dims: shape.to_vec(),
        from_strides: contiguous(&shape),
        from_offset: 0,
        to_strides: vec![(room * columns) as i64, 1],
        to_offset: 0,
    };
    cx.run(layout::strided_copy(&copy), &[Some(present), Some(past)])?;
    Ok(present)
}
