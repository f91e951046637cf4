//! Constants of a compiled subgraph: bytes of the model, or results computed once, aligned and safe to share.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::buffer::ALIGN;
use crate::tensor::{DType, Dims, Tensor};

/// A tensor that does not change between runs.
pub struct Constant {
    dtype: DType,
    dims: Dims,
    bytes: usize,
    data: Data,
}

enum Data {
    /// Bytes that belong to the model and outlive the executable.
    Borrowed(*const u8),
    Owned(Aligned),
}

// SAFETY: the bytes are never written after construction, by anybody.
unsafe impl Send for Constant {}
// SAFETY: as for Send.
unsafe impl Sync for Constant {}

impl Constant {
    /// Refers to `bytes` bytes at `data`.
    ///
    /// # Safety
    /// The bytes must stay valid and unchanged while this constant exists.
    pub unsafe fn borrowed(dtype: DType, dims: Dims, data: *const u8, bytes: usize) -> Constant {
        Constant { dtype, dims, bytes, data: Data::Borrowed(data) }
    }

    /// A copy of a tensor.
    pub fn copied(tensor: &Tensor) -> Constant {
        let bytes = tensor.as_bytes();
        Constant {
            dtype: tensor.dtype(),
            dims: tensor.dims().into(),
            bytes: bytes.len(),
            data: Data::Owned(Aligned::copy(bytes)),
        }
    }

    /// The same constant with bytes of its own.
    pub fn into_owned(self) -> Constant {
        match self.data {
            Data::Owned(_) => self,
            Data::Borrowed(data) => {
                Constant { data: Data::Owned(Aligned::copy(self.borrowed_bytes(data))), ..self }
            }
        }
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes
    }

    /// True when the bytes are aligned for the element type.
    pub fn is_aligned(&self) -> bool {
        match self.data {
            Data::Owned(_) => true,
            Data::Borrowed(data) => data.addr().is_multiple_of(self.alignment()),
        }
    }

    /// True when the bytes are the model's own.
    pub fn is_borrowed(&self) -> bool {
        matches!(self.data, Data::Borrowed(_))
    }

    /// Moves the bytes to aligned memory unless they are aligned for the element type already.
    pub fn align(&mut self) {
        if let Data::Borrowed(data) = self.data
            && !self.is_aligned()
        {
            self.data = Data::Owned(Aligned::copy(self.borrowed_bytes(data)));
        }
    }

    fn alignment(&self) -> usize {
        match self.dtype {
            DType::String => 8,
            dtype => (dtype.bits() / 8).clamp(1, 8),
        }
    }

    fn borrowed_bytes(&self, data: *const u8) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: `borrowed` was promised that many valid bytes for as long as this constant lives.
        unsafe { std::slice::from_raw_parts(data, self.bytes) }
    }

    /// A view; the constant must be aligned and must outlive it.
    pub(crate) fn view(&self) -> Tensor {
        let data = match &self.data {
            Data::Borrowed(data) => *data,
            Data::Owned(memory) => memory.data.as_ptr(),
        };
        // SAFETY: views are made for one run or one packing, during which the executable keeps its constants.
        unsafe { Tensor::borrowed(self.dtype, self.dims.clone(), data, self.bytes) }
    }
}

/// A block aligned to [`ALIGN`].
struct Aligned {
    data: NonNull<u8>,
    layout: Layout,
}

impl Aligned {
    fn copy(bytes: &[u8]) -> Aligned {
        let layout =
            Layout::from_size_align(bytes.len().max(1), ALIGN).expect("a slice's length is a valid size");
        // SAFETY: the size is at least 1.
        let data = unsafe { alloc(layout) };
        let Some(data) = NonNull::new(data) else { handle_alloc_error(layout) };
        // SAFETY: the new block holds `bytes.len()` bytes and overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.as_ptr(), bytes.len()) };
        Aligned { data, layout }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `copy` with this layout.
        unsafe { dealloc(self.data.as_ptr(), self.layout) };
    }
}
