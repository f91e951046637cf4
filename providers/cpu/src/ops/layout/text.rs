//! Reads and writes string tensors: one flat buffer of `n + 1` little-endian `u64` offsets, then the bytes.

use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::tensor::{DType, Tensor};

/// The elements of a string tensor.
#[derive(Clone, Copy)]
pub struct Strings<'a> {
    offsets: &'a [u8],
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Strings<'a> {
    /// Errors on another element type and on a buffer whose offsets do not fit its bytes.
    pub fn new(tensor: &'a Tensor) -> Result<Strings<'a>> {
        if tensor.dtype() != DType::String {
            return Err(OpError::invalid(format!("expected a string tensor, got {}", tensor.dtype())));
        }
        let (len, buffer) = (tensor.len(), tensor.as_bytes());
        let (offsets, bytes) = buffer
            .split_at_checked((len + 1) * 8)
            .ok_or_else(|| OpError::invalid("a string tensor lacks its offsets"))?;
        let strings = Strings { offsets, bytes, len };
        let ordered = (0..len).all(|i| strings.offset(i) <= strings.offset(i + 1));
        if !ordered || strings.offset(len) > bytes.len() {
            return Err(OpError::invalid("the offsets of a string tensor do not fit its bytes"));
        }
        Ok(strings)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The UTF-8 bytes of element `index`.
    pub fn get(&self, index: usize) -> &'a [u8] {
        &self.bytes[self.offset(index)..self.offset(index + 1)]
    }

    fn offset(&self, index: usize) -> usize {
        let bytes = self.offsets[index * 8..][..8].try_into().expect("eight bytes were sliced");
        u64::from_le_bytes(bytes) as usize
    }
}

/// A string tensor for output `index` whose element `i` is `item(i)`.
pub fn write<'s>(
    cx: &Context<'_>,
    index: usize,
    dims: &[usize],
    item: impl Fn(usize) -> &'s [u8],
) -> Result<Tensor> {
    let len: usize = dims.iter().product();
    let table = (len + 1) * 8;
    let total: usize = (0..len).map(|i| item(i).len()).sum();
    let mut output = cx.output_of_bytes(index, DType::String, dims, table + total)?;
    let (offsets, bytes) = output.as_bytes_mut().split_at_mut(table);
    let mut end = 0;
    offsets[..8].fill(0);
    for (i, offset) in offsets[8..].chunks_exact_mut(8).enumerate() {
        let string = item(i);
        bytes[end..end + string.len()].copy_from_slice(string);
        end += string.len();
        offset.copy_from_slice(&(end as u64).to_le_bytes());
    }
    Ok(output)
}
