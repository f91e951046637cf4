//! The tensors kernels read and write: element type, shape and contiguous row-major bytes.

use std::fmt;

use half::{bf16, f16};
use smallvec::SmallVec;
pub use tenon_plugin_api::DType;

use crate::buffer::Block;
use crate::error::{OpError, Result};

/// Sizes of a tensor's dimensions, outermost first.
pub type Dims = SmallVec<[usize; 6]>;

/// A boolean element: one byte, 0 is false and anything else is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bool(pub u8);

/// A pair of floats: real part, then imaginary part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Complex<T> {
    pub re: T,
    pub im: T,
}

/// A Rust type that can be an element of a tensor of at least 8 bits an element.
///
/// # Safety
/// Every bit pattern must be a valid value, and the size must be that of [`Element::DTYPE`].
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The element type this Rust type stands for.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {
        $(
            // SAFETY: plain old data of the size that the element type has.
            unsafe impl Element for $type {
                const DTYPE: DType = DType::$dtype;
            }
        )*
    };
}

elements! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => BF16,
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    Bool => Bool, Complex<f32> => Complex64, Complex<f64> => Complex128,
}

/// A contiguous row-major tensor in host memory. Types under 8 bits are packed low bits first; strings are one flat
/// buffer of `n + 1` `u64` offsets followed by UTF-8 bytes.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Dims,
    bytes: usize,
    data: Data,
}

#[derive(Clone)]
enum Data {
    /// A block of the run's pool.
    Pooled(Block),
    /// Memory somebody else keeps alive and unchanged while this tensor exists.
    Borrowed(*const u8),
    /// A caller's output buffer, written by one kernel and then only read.
    Output(*mut u8),
}

impl Tensor {
    /// A tensor in a block of the pool.
    pub(crate) fn pooled(dtype: DType, dims: Dims, bytes: usize, block: Block) -> Tensor {
        debug_assert!(block.capacity() >= bytes);
        Tensor { dtype, dims, bytes, data: Data::Pooled(block) }
    }

    /// A read-only view of memory that belongs to somebody else.
    ///
    /// # Safety
    /// `data` must point to `bytes` initialised bytes that stay valid and unchanged while this tensor or a clone of it
    /// exists, and must be aligned for the element type (up to 8 bytes).
    pub unsafe fn borrowed(dtype: DType, dims: Dims, data: *const u8, bytes: usize) -> Tensor {
        Tensor { dtype, dims, bytes, data: Data::Borrowed(data) }
    }

    /// A tensor in an output buffer that the caller of the run provided.
    ///
    /// # Safety
    /// `data` must point to `bytes` initialised bytes that nobody else reads or writes while this tensor exists.
    pub(crate) unsafe fn output(dtype: DType, dims: Dims, data: *mut u8, bytes: usize) -> Tensor {
        Tensor { dtype, dims, bytes, data: Data::Output(data) }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// The packed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: every constructor guarantees `bytes` initialised bytes at the pointer.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }

    /// The packed bytes, for writing. Panics unless this tensor may be written (see [`Tensor::is_writable`]).
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.is_writable(), "a kernel writes only tensors it allocated or took over");
        if self.bytes == 0 {
            return &mut [];
        }
        // SAFETY: pooled blocks are unique here and output buffers have a single writer.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast_mut(), self.bytes) }
    }

    /// The elements. Errors when the element type is not `T`'s.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check_dtype(T::DTYPE)?;
        if self.bytes == 0 {
            return Ok(&[]);
        }
        // SAFETY: the type matches, the memory is aligned and initialised, and any bit pattern is a valid element.
        Ok(unsafe { std::slice::from_raw_parts(self.as_ptr().cast::<T>(), self.bytes / size_of::<T>()) })
    }

    /// The elements, for writing. Errors when the element type is not `T`'s; panics like [`Tensor::as_bytes_mut`].
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_dtype(T::DTYPE)?;
        let bytes = self.as_bytes_mut();
        if bytes.is_empty() {
            return Ok(&mut []);
        }
        let (data, len) = (bytes.as_mut_ptr().cast::<T>(), bytes.len() / size_of::<T>());
        // SAFETY: as for `as_slice`, and the exclusive borrow is passed on.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
    }

    /// The single element of a tensor with one element. Errors on another type or count.
    pub fn to_scalar<T: Element>(&self) -> Result<T> {
        match self.as_slice::<T>()? {
            [value] => Ok(*value),
            other => Err(OpError::invalid(format!(
                "expected one element, got {} (shape {:?})",
                other.len(),
                self.dims()
            ))),
        }
    }

    /// The elements of an integer tensor (`int64` or `int32`) as `i64`: axes, shapes, indices.
    pub fn to_i64s(&self) -> Result<SmallVec<[i64; 8]>> {
        match self.dtype {
            DType::I64 => Ok(self.as_slice::<i64>()?.into()),
            DType::I32 => Ok(self.as_slice::<i32>()?.iter().map(|&v| i64::from(v)).collect()),
            other => Err(OpError::invalid(format!("expected an int64 or int32 tensor, got {other}"))),
        }
    }

    /// The same elements under another shape of the same element count.
    pub fn reshaped(mut self, dims: &[usize]) -> Result<Tensor> {
        if dims.iter().product::<usize>() != self.len() {
            return Err(OpError::invalid(format!(
                "cannot view shape {:?} as {dims:?}: element counts differ",
                self.dims()
            )));
        }
        self.dims = dims.into();
        Ok(self)
    }

    /// The same bits under another element type of the same width.
    pub fn retyped(mut self, dtype: DType) -> Result<Tensor> {
        if dtype.bits() != self.dtype.bits() || dtype.bits() == 0 {
            return Err(OpError::invalid(format!("cannot view {} as {dtype}: widths differ", self.dtype)));
        }
        self.dtype = dtype;
        Ok(self)
    }

    /// True when the bytes may be written: a pooled block with one holder, or an output buffer.
    pub fn is_writable(&self) -> bool {
        match &self.data {
            Data::Pooled(block) => block.is_unique(),
            Data::Borrowed(_) => false,
            Data::Output(_) => true,
        }
    }

    /// True when the memory is a pooled block that nobody else holds, so that a kernel may compute in place.
    pub(crate) fn is_reusable(&self) -> bool {
        matches!(&self.data, Data::Pooled(block) if block.is_unique())
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *const u8 {
        match &self.data {
            Data::Pooled(block) => block.as_ptr(),
            Data::Borrowed(data) => *data,
            Data::Output(data) => *data,
        }
    }

    fn check_dtype(&self, expected: DType) -> Result<()> {
        if self.dtype == expected {
            return Ok(());
        }
        Err(OpError::invalid(format!("expected a {expected} tensor, got {}", self.dtype)))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.dims())
    }
}

/// Bytes a tensor of `dtype` and `dims` takes. Errors when the product overflows or the size is not fixed (strings).
pub fn byte_len(dtype: DType, dims: &[usize]) -> Result<usize> {
    dims.iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .and_then(|n| dtype.byte_len(n))
        .filter(|&bytes| bytes <= isize::MAX as usize / 2)
        .ok_or_else(|| {
            OpError::invalid(format!("a {dtype} tensor of shape {dims:?} is too large to address"))
        })
}
