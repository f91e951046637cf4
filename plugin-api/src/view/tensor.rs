//! A borrowed view of a tensor whose bytes belong to somebody else.

use super::slice_at;
use crate::{DType, MemoryKind, ffi};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::marker::PhantomData;

/// A contiguous row-major tensor that belongs to somebody else for `'a`.
///
/// Making one is unsafe; reading one is not. The layout is that of [`ffi::Tensor`], so that a slice of tensors is viewed
/// without a copy.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct TensorView<'a> {
    raw: ffi::Tensor,
    _owner: PhantomData<&'a [u8]>,
}

// SAFETY: the bytes are unchanged for 'a and a view only reads them.
unsafe impl Send for TensorView<'_> {}
// SAFETY: as for Send.
unsafe impl Sync for TensorView<'_> {}

impl<'a> TensorView<'a> {
    /// Views `raw`.
    ///
    /// # Safety
    /// For `'a`, `dims` holds `rank` entries, and host memory at `data` holds `bytes` readable, unchanged bytes.
    #[inline]
    pub const unsafe fn new(raw: ffi::Tensor) -> TensorView<'a> {
        TensorView { raw, _owner: PhantomData }
    }

    /// Views `count` tensors at `tensors`.
    ///
    /// # Safety
    /// `tensors` points at `count` readable tensors (or `count` is 0), each as [`TensorView::new`] asks.
    #[inline]
    pub unsafe fn slice(tensors: *const ffi::Tensor, count: usize) -> &'a [TensorView<'a>] {
        // SAFETY: a view has the layout of the tensor; the caller vouches for the rest.
        unsafe { slice_at(tensors.cast::<TensorView<'a>>(), count) }
    }

    /// The element type; [`DType::Undefined`] for a number this version does not know.
    #[inline]
    pub const fn dtype(&self) -> DType {
        match DType::from_onnx(self.raw.dtype as i32) {
            Some(dtype) => dtype,
            None => DType::Undefined,
        }
    }

    /// Sizes of the dimensions, outermost first.
    #[inline]
    pub fn dims(&self) -> &'a [i64] {
        // SAFETY: the maker vouched for dims and rank.
        unsafe { slice_at(self.raw.dims, self.raw.rank as usize) }
    }

    /// Product of the dimensions, or `None` when one is negative or the product overflows.
    pub fn element_count(&self) -> Option<usize> {
        self.dims().iter().try_fold(1usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?))
    }

    /// Size of the buffer in bytes.
    #[inline]
    pub const fn byte_len(&self) -> usize {
        self.raw.bytes
    }

    /// Address of the buffer: a host or a device address, as [`TensorView::memory`] says. Perhaps NULL when it is empty.
    #[inline]
    pub const fn data(&self) -> *mut c_void {
        self.raw.data
    }

    /// What kind of memory [`TensorView::data`] names; an unknown number is read as device memory.
    #[inline]
    pub const fn memory(&self) -> MemoryKind {
        match self.raw.memory {
            ffi::MEMORY_HOST => MemoryKind::Host,
            ffi::MEMORY_PINNED => MemoryKind::Pinned,
            _ => MemoryKind::Device,
        }
    }

    /// The bytes, or `None` when they are in device memory. Perhaps not aligned to the element size.
    #[inline]
    pub fn host_bytes(&self) -> Option<&'a [u8]> {
        if self.raw.memory != ffi::MEMORY_HOST && self.raw.memory != ffi::MEMORY_PINNED {
            return None;
        }
        // SAFETY: host memory, and the maker vouched for data and bytes.
        Some(unsafe { slice_at(self.raw.data.cast_const().cast(), self.raw.bytes) })
    }

    /// The elements of a small integer tensor in host memory (axes, shapes, sizes): `int64`, `int32` or `uint8`.
    /// `None` for another type, for device memory, and when the buffer is shorter than the dimensions say.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        let dtype = self.dtype();
        let len = dtype.byte_len(self.element_count()?)?;
        let bytes = self.host_bytes()?.get(..len)?;
        match dtype {
            DType::I64 => Some(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            DType::I32 => Some(bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()),
            DType::U8 => Some(bytes.iter().map(|&b| b.into()).collect()),
            _ => None,
        }
    }

    /// The struct viewed.
    #[inline]
    pub const fn raw(&self) -> &ffi::Tensor {
        &self.raw
    }
}

impl core::fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}{:?} in {:?} memory", self.dtype(), self.dims(), self.memory())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(bytes: &[u8], dims: &[i64], dtype: DType, memory: u32) -> ffi::Tensor {
        ffi::Tensor {
            data: bytes.as_ptr().cast_mut().cast(),
            bytes: bytes.len(),
            dims: dims.as_ptr(),
            rank: dims.len() as u32,
            dtype: dtype as u32,
            memory,
            reserved: 0,
        }
    }

    #[test]
    fn a_view_reads_what_it_points_at() {
        let bytes: Vec<u8> = [3i64, -1].iter().flat_map(|v| v.to_le_bytes()).collect();
        let raw = tensor(&bytes, &[2], DType::I64, ffi::MEMORY_HOST);
        // SAFETY: bytes and dims outlive the view.
        let view = unsafe { TensorView::new(raw) };
        assert_eq!(view.dtype(), DType::I64);
        assert_eq!(view.dims(), [2]);
        assert_eq!(view.to_i64s(), Some([3, -1].to_vec()));
    }

    #[test]
    fn device_memory_is_never_followed() {
        let raw = tensor(&[1, 2], &[2], DType::U8, ffi::MEMORY_DEVICE);
        // SAFETY: dims outlives the view; a device address is not followed.
        let view = unsafe { TensorView::new(raw) };
        assert!(view.host_bytes().is_none());
        assert!(view.to_i64s().is_none());
    }

    #[test]
    fn wrong_dimensions_are_noticed() {
        for dims in [&[-1i64][..], &[i64::MAX, 3], &[9]] {
            // SAFETY: dims and bytes outlive the view.
            let view = unsafe { TensorView::new(tensor(&[1], dims, DType::U8, ffi::MEMORY_HOST)) };
            assert!(view.to_i64s().is_none(), "{dims:?}");
        }
    }
}
