//! Pools of key-value pages: one block of device memory, and copies of whole pages inside it.

use std::ffi::c_void;
use std::sync::Arc;

use tenon_plugin_api::provider::{KvPool, Stream};
use tenon_plugin_api::{DType, Error, Result, ffi};

use crate::driver::Side;
use crate::opened::Opened;
use crate::stream::GpuStream;

/// Pages `[pages][layers][2][kv_heads][page_tokens][head_size]` in device memory.
pub(crate) struct PagePool {
    opened: Arc<Opened>,
    address: u64,
    page_bytes: usize,
    pages: u64,
}

impl PagePool {
    /// Allocates the pool that `args` describes. Its contents are not defined.
    pub fn new(opened: Arc<Opened>, args: &ffi::KvPoolArgs) -> Result<PagePool> {
        let page_bytes = page_bytes(args)?;
        let total = usize::try_from(args.pages).ok().and_then(|pages| pages.checked_mul(page_bytes));
        let total = total.ok_or_else(|| {
            Error::invalid(format!("a pool of {} pages of {page_bytes} bytes is too large", args.pages))
        })?;
        let address = opened.pool.allocate(total)?;
        Ok(PagePool { opened, address, page_bytes, pages: args.pages })
    }

    fn queue_copies(&self, stream: &GpuStream, pairs: &[[u64; 2]]) -> Result<()> {
        let context = self.opened.context;
        let side = |page: u64| Side::Device(context, self.address + page * self.page_bytes as u64);
        for &[from, to] in pairs.iter().filter(|[from, to]| from != to) {
            // SAFETY: both pages lie inside the pool, which outlives the work queued on it.
            unsafe {
                self.opened.driver.copy(context, stream.queue, side(to), side(from), self.page_bytes)?;
            }
        }
        Ok(())
    }
}

/// Bytes of one page.
fn page_bytes(args: &ffi::KvPoolArgs) -> Result<usize> {
    let ffi::KvPoolArgs { layers, kv_heads, head_size, page_tokens, pages, .. } = *args;
    let sizes = [layers, kv_heads, head_size, page_tokens];
    let shape = || format!("{pages} pages of {layers} layers, {kv_heads} heads, {page_tokens} x {head_size}");
    if sizes.contains(&0) || pages == 0 {
        return Err(Error::invalid(format!("a pool of {} is empty", shape())));
    }
    let dtype = i32::try_from(args.dtype).ok().and_then(DType::from_onnx);
    let dtype = dtype.filter(|&dtype| dtype.byte_len(1) == Some(dtype.bits() / 8) && dtype.bits() >= 8);
    let dtype = dtype.ok_or_else(|| {
        Error::unsupported(format!("pages of element type {}: a type of whole bytes is expected", args.dtype))
    })?;
    let elements = sizes.iter().try_fold(2usize, |product, &size| product.checked_mul(size as usize));
    elements
        .and_then(|elements| dtype.byte_len(elements))
        .ok_or_else(|| Error::invalid(format!("{} are too large", shape())))
}

impl KvPool<GpuStream> for PagePool {
    fn data(&self) -> (*mut c_void, usize) {
        let data = std::ptr::with_exposed_provenance_mut(self.address as usize);
        (data, self.page_bytes * self.pages as usize)
    }

    fn copy_pages(&self, stream: Option<&GpuStream>, pairs: &[[u64; 2]]) -> Result<()> {
        if let Some(page) = pairs.iter().flatten().find(|&&page| page >= self.pages) {
            return Err(Error::invalid(format!("page {page} of a pool of {}", self.pages)));
        }
        match stream {
            Some(stream) => self.queue_copies(stream, pairs),
            None => {
                let stream = GpuStream::new(self.opened.clone())?;
                self.queue_copies(&stream, pairs)?;
                stream.synchronize()
            }
        }
    }
}

impl Drop for PagePool {
    fn drop(&mut self) {
        // SAFETY: the pool gave it, and the caller's word is that no queued work uses it.
        unsafe { self.opened.pool.free(self.address) };
    }
}
