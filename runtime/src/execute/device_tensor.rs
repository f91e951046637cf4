//! Tensors in the memory of a device.

use std::sync::Arc;

use tenon_plugin_api::{ffi, host};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plugin::provider_error;
use crate::tensor::{self, Dims, Tensor};

/// A tensor in the memory of a device. Clones share the memory.
#[derive(Clone, Debug)]
pub struct DeviceTensor {
    pub(super) dtype: DType,
    pub(super) dims: Dims,
    pub(super) bytes: usize,
    pub(super) memory: Arc<host::Memory>,
    pub(super) offset: usize,
}

impl DeviceTensor {
    /// Memory of `device` for a tensor; its content is whatever was there.
    pub(crate) fn allocate(device: &Arc<host::Device>, dtype: DType, dims: &[usize]) -> Result<DeviceTensor> {
        if dtype == DType::String {
            return Err(Error::invalid_input("strings cannot be in the memory of a device"));
        }
        let bytes = tensor::byte_len(dtype, dims)?;
        let memory = device.allocate(ffi::MEMORY_DEVICE, bytes.max(1));
        let memory = Arc::new(memory.map_err(|error| provider_error(&error))?);
        Ok(DeviceTensor { dtype, dims: dims.into(), bytes, memory, offset: 0 })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Size in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes
    }

    /// The device address of the first byte.
    pub fn address(&self) -> *mut u8 {
        self.memory.as_ptr().cast::<u8>().wrapping_add(self.offset)
    }

    /// The first elements of the same memory under another shape, which needs no more bytes.
    pub fn reshaped(&self, dims: &[usize]) -> Result<DeviceTensor> {
        let bytes = tensor::byte_len(self.dtype, dims)?;
        if bytes > self.bytes {
            return Err(Error::invalid_input(format!(
                "a device tensor of {:?} has no room for {dims:?}",
                &self.dims[..]
            )));
        }
        Ok(DeviceTensor { dims: dims.into(), bytes, ..self.clone() })
    }

    /// Copies a tensor of the same type and size here, and waits until that is done. No run may be using the memory.
    pub fn write(&self, tensor: &Tensor) -> Result<()> {
        if tensor.dtype() != self.dtype || tensor.byte_len() != self.bytes {
            return Err(Error::invalid_input(format!(
                "a device tensor of {} {:?} takes no {} {:?}",
                self.dtype,
                &self.dims[..],
                tensor.dtype(),
                tensor.dims()
            )));
        }
        self.copy(tensor.as_ptr().cast_mut(), true)
    }

    /// A copy on the host. Runs that write the memory have been synchronised.
    pub fn read(&self) -> Result<Tensor> {
        let mut tensor = Tensor::zeros(self.dtype, &self.dims)?;
        let data = tensor.as_mut_ptr().ok_or_else(|| Error::internal("a new tensor has one owner"))?;
        self.copy(data, false)?;
        Ok(tensor)
    }

    fn copy(&self, host: *mut u8, is_upload: bool) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let device = self.memory.device();
        let stream = device.stream().map_err(|error| provider_error(&error))?;
        let (own, other) = (self.address(), host);
        let (dst, src) = if is_upload { (own, other) } else { (other, own) };
        let (own, other) = (ffi::MEMORY_DEVICE, ffi::MEMORY_HOST);
        let (dst_memory, src_memory) = if is_upload { (own, other) } else { (other, own) };
        let here: Option<&host::Device> = Some(device);
        let copy = host::Copy {
            dst: dst.cast(),
            src: src.cast_const().cast(),
            bytes: self.bytes,
            dst_memory,
            src_memory,
            dst_device: here.filter(|_| is_upload),
            src_device: here.filter(|_| !is_upload),
        };
        // SAFETY: both sides hold the bytes, and the stream is synchronised before they go.
        unsafe { stream.copy(std::slice::from_ref(&copy)) }.map_err(|error| provider_error(&error))?;
        stream.synchronize().map_err(|error| provider_error(&error))
    }
}
