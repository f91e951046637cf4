//! Tensors as C sees them: borrowed inputs, outputs in the caller's memory or the library's.

use std::ffi::c_void;
use std::ptr::NonNull;

use smallvec::SmallVec;
use tenon_runtime::dtype::DType;
use tenon_runtime::error::{Error, Result};
use tenon_runtime::execute::Binding;
use tenon_runtime::tensor::{ALIGNMENT, Dims, Tensor, Value};

use crate::argument;
use crate::error::shielded;

/// `tenon_value_view`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct View {
    data: *mut c_void,
    bytes: usize,
    capacity: usize,
    dims: *mut i64,
    rank: u32,
    dim_capacity: u32,
    dtype: u32,
    reserved: u32,
    owner: *mut Owned,
}

const _: () = assert!(size_of::<View>() == 56);

/// An output in the library's memory.
pub struct Owned {
    tensor: Tensor,
    dims: SmallVec<[i64; 6]>,
}

impl View {
    pub const EMPTY: View = View {
        data: std::ptr::null_mut(),
        bytes: 0,
        capacity: 0,
        dims: std::ptr::null_mut(),
        rank: 0,
        dim_capacity: 0,
        dtype: 0,
        reserved: 0,
        owner: std::ptr::null_mut(),
    };

    /// The value of an input, over the caller's memory; `None` when it is left out.
    ///
    /// # Safety
    /// The memory is readable and unchanged until the last clone of the value is gone.
    #[inline]
    pub unsafe fn input(&self, index: usize) -> Result<Option<Value>> {
        if self.dtype == 0 && self.data.is_null() {
            return Ok(None);
        }
        let bad = |why: String| Error::invalid_input(format!("input {index}: {why}"));
        let dtype = i32::try_from(self.dtype).ok().and_then(DType::from_onnx);
        let dtype = dtype.ok_or_else(|| bad(format!("{} is no tenon_dtype", self.dtype)))?;
        // SAFETY: promised by the caller.
        let sizes = unsafe { argument::slice(self.dims.cast_const(), self.rank as usize, "dims") }?;
        let mut dims = Dims::new();
        for &size in sizes {
            dims.push(usize::try_from(size).map_err(|_| bad(format!("dimension {size} is negative")))?);
        }
        let data = match NonNull::new(self.data.cast::<u8>()) {
            Some(data) => data,
            None if self.bytes == 0 => NonNull::<u64>::dangling().cast(),
            None => return Err(bad(format!("data is NULL but bytes is {}", self.bytes))),
        };
        if isize::try_from(self.bytes).is_err() {
            return Err(bad(format!("{} bytes are more than memory can hold", self.bytes)));
        }
        // SAFETY: promised by the caller.
        let tensor = unsafe { Tensor::from_borrowed(dtype, &dims, data, self.bytes) };
        tensor.map(|tensor| Some(Value::Tensor(tensor))).map_err(|error| bad(error.message().to_string()))
    }

    /// The memory to write an output to while it is computed, when the caller gave some that can be.
    #[inline]
    pub fn binding(&self, index: usize) -> Result<Option<Binding>> {
        if !self.owner.is_null() {
            return Err(Error::invalid_input(format!(
                "output {index} still holds the tensor of an earlier run; call tenon_value_release first"
            )));
        }
        let data =
            NonNull::new(self.data.cast::<u8>()).filter(|data| data.addr().get().is_multiple_of(ALIGNMENT));
        Ok(data.map(|data| Binding { data, capacity: self.capacity }))
    }

    /// Checks that `tensor` fits what the caller gave for it.
    #[inline]
    pub fn check(&self, index: usize, tensor: &Tensor) -> Result<()> {
        if self.data.is_null() {
            return Ok(());
        }
        if tensor.byte_len() > self.capacity {
            return Err(Error::invalid_input(format!(
                "output {index} needs {} bytes, but the buffer given for it has {}; give a larger buffer",
                tensor.byte_len(),
                self.capacity
            )));
        }
        if !self.dims.is_null() && tensor.rank() > self.dim_capacity as usize {
            return Err(Error::invalid_input(format!(
                "output {index} has {} dimensions, but there is room for {} at dims; give more",
                tensor.rank(),
                self.dim_capacity
            )));
        }
        Ok(())
    }

    /// True when `tensor` reads memory that this view says is the caller's.
    #[inline]
    pub fn contains(&self, tensor: &Tensor) -> bool {
        let room = self.bytes.max(self.capacity);
        !self.data.is_null() && tensor.as_ptr().addr().wrapping_sub(self.data.addr()) < room
    }

    /// Fills in an output in the caller's memory.
    ///
    /// # Safety
    /// [`View::check`] passed, and data and dims have the room that they say.
    #[inline]
    pub unsafe fn fill(&mut self, tensor: &Tensor) {
        if !std::ptr::eq(tensor.as_ptr(), self.data.cast()) {
            // SAFETY: the caller checked the capacity; the header forbids overlap, and `copy` would stand it.
            unsafe { std::ptr::copy(tensor.as_ptr(), self.data.cast::<u8>(), tensor.byte_len()) };
        }
        if !self.dims.is_null() {
            for (axis, &size) in tensor.dims().iter().enumerate() {
                // SAFETY: the caller checked the room at dims.
                unsafe { self.dims.add(axis).write(size as i64) };
            }
        }
        self.bytes = tensor.byte_len();
        self.rank = tensor.rank() as u32;
        self.dtype = tensor.dtype() as u32;
    }

    /// Hands `tensor` over in the library's memory.
    pub fn own(&mut self, tensor: Tensor) {
        let dims = tensor.dims().iter().map(|&size| size as i64).collect();
        let owned = Box::new(Owned { tensor, dims });
        let (tensor, dims) = (&owned.tensor, &owned.dims);
        *self = View {
            data: tensor.as_ptr().cast_mut().cast(),
            bytes: tensor.byte_len(),
            dims: dims.as_ptr().cast_mut(),
            rank: tensor.rank() as u32,
            dtype: tensor.dtype() as u32,
            ..View::EMPTY
        };
        self.owner = Box::into_raw(owned);
    }

    /// True when the output goes into the library's memory.
    #[inline]
    pub fn is_owned(&self) -> bool {
        self.data.is_null()
    }

    /// Ends the library's memory.
    ///
    /// # Safety
    /// `owner` is NULL or came from [`View::own`] and was not released through a copy of this view.
    pub unsafe fn release(&mut self) {
        if !self.owner.is_null() {
            let owner = self.owner;
            *self = View::EMPTY;
            // SAFETY: promised by the caller.
            drop(unsafe { Box::from_raw(owner) });
        }
    }
}

/// See `tenon.h`.
///
/// # Safety
/// `value` is NULL or a view that was not released through a copy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_value_release(value: *mut View) {
    shielded((), || {
        // SAFETY: promised by the caller.
        if let Some(view) = unsafe { value.as_mut() } {
            // SAFETY: promised by the caller.
            unsafe { view.release() };
        }
    });
}
