//! Tensors in host memory and the values built from them: sequences, optionals and maps.

use std::any::Any;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::dtype::{DType, Element, decode_f64};
use crate::error::{Error, Result};
use crate::graph::{Shape, TypeInfo};

/// The sizes of a tensor, outermost first.
pub type Dims = SmallVec<[usize; 6]>;

/// The number of elements of `dims`; an error when it does not fit in memory's address range.
pub fn element_count(dims: &[usize]) -> Result<usize> {
    if dims.contains(&0) {
        return Ok(0);
    }
    dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| isize::try_from(*n).is_ok()).ok_or_else(
        || Error::limit(format!("a tensor of shape {dims:?} has more elements than memory can hold")),
    )
}

/// The packed byte length of a tensor; an error on overflow and for dtypes without a fixed size.
pub fn byte_len(dtype: DType, dims: &[usize]) -> Result<usize> {
    let elements = element_count(dims)?;
    if dtype.bits() == 0 {
        return Err(Error::internal(format!("dtype {dtype} has no fixed element size")));
    }
    dtype.byte_len(elements).filter(|n| isize::try_from(*n).is_ok()).ok_or_else(|| {
        Error::limit(format!("a {dtype} tensor of shape {dims:?} has more bytes than memory can hold"))
    })
}

/// An error when the allocator refuses `len` bytes, which would otherwise end the process. Small sizes are not tried.
#[inline]
fn check_available(len: usize) -> Result<()> {
    const TRIED_FROM: usize = 64 << 20;
    if len >= TRIED_FROM {
        let mut probe = Vec::<u8>::new();
        let outcome = probe.try_reserve_exact(len.saturating_add(ALIGNMENT));
        // Without this the compiler may remove the allocation and take its success for granted.
        std::hint::black_box(&probe);
        if outcome.is_err() {
            return Err(Error::limit(format!(
                "a tensor of {len} bytes does not fit in this machine's memory"
            )));
        }
    }
    Ok(())
}

/// The alignment of memory that tensors own, in bytes.
pub const ALIGNMENT: usize = 64;

/// What the allocator is asked for: alignment that it gives without a slower path.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Unit(#[expect(dead_code, reason = "only its bytes are used, through a pointer")] [u8; 16]);

/// A reference-counted allocation with room for its contents to start at a multiple of [`ALIGNMENT`].
type Units = Arc<[MaybeUninit<Unit>]>;

fn unit_count(len: usize) -> usize {
    (len + ALIGNMENT - size_of::<Unit>()).div_ceil(size_of::<Unit>())
}

/// Bytes between the start of an allocation and its contents.
#[inline]
fn padding(start: *const MaybeUninit<Unit>) -> usize {
    start.addr().wrapping_neg() % ALIGNMENT
}

fn contents_mut(units: &mut Units) -> Option<*mut u8> {
    let start = Arc::get_mut(units)?.as_mut_ptr();
    // SAFETY: `unit_count` adds what the padding can take at most.
    Some(unsafe { start.cast::<u8>().add(padding(start)) })
}

/// Memory of one tensor, aligned to [`ALIGNMENT`], shared by reference count.
#[derive(Clone)]
pub struct Buffer {
    units: Units,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Buffer { units: Arc::new_zeroed_slice(unit_count(len)), len }
    }

    /// A copy of `bytes`.
    pub fn copied(bytes: &[u8]) -> Self {
        // SAFETY: all `len` bytes are written on the next line, before the buffer is seen by anyone.
        let mut buffer = unsafe { Self::uninit(bytes.len()) };
        // SAFETY: source and destination are both `len` bytes long, and a fresh allocation cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.as_mut_ptr_unique(), bytes.len()) };
        buffer
    }

    /// `len` bytes whose contents are not set.
    ///
    /// # Safety
    /// Every byte is written before it is read, through [`Buffer::as_mut_ptr`] for instance.
    pub unsafe fn uninit(len: usize) -> Self {
        Buffer { units: Arc::new_uninit_slice(unit_count(len)), len }
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the allocation covers `len` bytes, and every constructor sets them or makes its caller promise to.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// The contents for writing, when no clone of this buffer exists.
    pub fn as_bytes_mut(&mut self) -> Option<&mut [u8]> {
        let len = self.len;
        let ptr = self.as_mut_ptr()?;
        // SAFETY: `as_mut_ptr` gave the only access to `len` set bytes.
        Some(unsafe { std::slice::from_raw_parts_mut(ptr, len) })
    }

    /// A pointer for writing `len` bytes, when no clone of this buffer exists.
    pub fn as_mut_ptr(&mut self) -> Option<*mut u8> {
        contents_mut(&mut self.units)
    }

    /// Where the contents start.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        let start = self.units.as_ptr();
        // SAFETY: `unit_count` adds what the padding can take at most.
        unsafe { start.cast::<u8>().add(padding(start)) }
    }

    fn as_mut_ptr_unique(&mut self) -> *mut u8 {
        self.as_mut_ptr().expect("a buffer that was just made has no clone")
    }
}

/// What keeps a tensor's memory alive.
#[derive(Clone)]
enum Owner {
    Buffer(Units),
    Guard(#[expect(dead_code, reason = "held for its drop")] Arc<dyn Any + Send + Sync>),
    Static,
}

/// A dense tensor in host memory. Cloning shares the memory.
///
/// Elements are row-major; types below one byte are packed least significant bits first, the last byte padded with
/// zeros. A string tensor is one buffer: `n + 1` little-endian `u64` offsets, then the UTF-8 bytes they point into.
pub struct Tensor {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
    dims: Dims,
    dtype: DType,
}

// SAFETY: the memory is only read through `&Tensor`, writing needs `&mut Tensor` and a unique owner, and owners are
// `Send + Sync`; foreign memory is promised to be so by the caller of `from_foreign`.
unsafe impl Send for Tensor {}
// SAFETY: as for `Send`.
unsafe impl Sync for Tensor {}

impl Clone for Tensor {
    #[inline]
    fn clone(&self) -> Self {
        Tensor {
            ptr: self.ptr,
            len: self.len,
            owner: self.owner.clone(),
            dims: SmallVec::from_slice(&self.dims),
            dtype: self.dtype,
        }
    }
}

impl Tensor {
    /// A tensor over `buffer`, whose length must be what `dtype` and `dims` need; string buffers are validated.
    pub fn from_buffer(dtype: DType, dims: &[usize], buffer: Buffer) -> Result<Self> {
        check_contents(dtype, dims, buffer.as_bytes())?;
        Ok(Self::over_buffer(dtype, dims, buffer))
    }

    fn over_buffer(dtype: DType, dims: &[usize], buffer: Buffer) -> Self {
        let ptr = NonNull::new(buffer.as_ptr().cast_mut()).expect("an Arc's data is never at null");
        Tensor {
            ptr,
            len: buffer.len,
            owner: Owner::Buffer(buffer.units),
            dims: SmallVec::from_slice(dims),
            dtype,
        }
    }

    /// A tensor over shared bytes such as a part of a memory-mapped file; they may be unaligned.
    pub fn from_bytes(dtype: DType, dims: &[usize], bytes: Bytes) -> Result<Self> {
        check_contents(dtype, dims, &bytes)?;
        let (len, ptr) = (bytes.len(), bytes.as_ptr().cast_mut());
        let Some(ptr) = NonNull::new(ptr).filter(|_| len > 0) else {
            return Ok(Self::over_buffer(dtype, dims, Buffer::zeroed(0)));
        };
        Ok(Tensor { ptr, len, owner: Owner::Guard(Arc::new(bytes)), dims: SmallVec::from_slice(dims), dtype })
    }

    /// A tensor over memory that someone else owns, alive until `owner` is dropped.
    ///
    /// # Safety
    /// `ptr` is valid for reading `len` bytes, which nobody writes while this tensor or a clone of it lives, from any
    /// thread.
    #[inline]
    pub unsafe fn from_foreign(
        dtype: DType,
        dims: &[usize],
        ptr: NonNull<u8>,
        len: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self> {
        // SAFETY: the caller promises `len` readable bytes.
        check_contents(dtype, dims, unsafe { std::slice::from_raw_parts(ptr.as_ptr(), len) })?;
        Ok(Tensor { ptr, len, owner: Owner::Guard(owner), dims: SmallVec::from_slice(dims), dtype })
    }

    /// As [`Tensor::from_foreign`] with memory that outlives every use of the tensor, so that nothing is counted.
    ///
    /// # Safety
    /// As for [`Tensor::from_foreign`]; and the memory is valid until the last clone of this tensor is gone.
    #[inline]
    pub unsafe fn from_borrowed(dtype: DType, dims: &[usize], ptr: NonNull<u8>, len: usize) -> Result<Self> {
        // SAFETY: the caller promises `len` readable bytes.
        check_contents(dtype, dims, unsafe { std::slice::from_raw_parts(ptr.as_ptr(), len) })?;
        Ok(Tensor { ptr, len, owner: Owner::Static, dims: SmallVec::from_slice(dims), dtype })
    }

    /// A tensor of zeros; a string tensor of empty strings.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Self> {
        let len = match dtype {
            DType::String => string_header_len(element_count(dims)?)?,
            _ => byte_len(dtype, dims)?,
        };
        check_available(len)?;
        Ok(Self::over_buffer(dtype, dims, Buffer::zeroed(len)))
    }

    /// A tensor whose elements are not set; `dtype` has a fixed size.
    ///
    /// # Safety
    /// Every byte is written, through [`Tensor::as_mut_ptr`], before it is read.
    pub unsafe fn uninit(dtype: DType, dims: &[usize]) -> Result<Self> {
        let len = byte_len(dtype, dims)?;
        check_available(len)?;
        // SAFETY: passed on to the caller.
        Ok(Self::over_buffer(dtype, dims, unsafe { Buffer::uninit(len) }))
    }

    /// A copy of `elements`, whose count must be the product of `dims`.
    pub fn from_slice<T: Element>(dims: &[usize], elements: &[T]) -> Result<Self> {
        // SAFETY: `Element` types have no padding, so all their bytes may be read.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) };
        check_contents(T::DTYPE, dims, bytes)?;
        Ok(Self::over_buffer(T::DTYPE, dims, Buffer::copied(bytes)))
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(element: T) -> Self {
        Self::from_slice(&[], &[element]).expect("one element is what rank 0 holds")
    }

    /// A copy of packed `bytes`.
    pub fn copy_from_bytes(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<Self> {
        check_contents(dtype, dims, bytes)?;
        Ok(Self::over_buffer(dtype, dims, Buffer::copied(bytes)))
    }

    /// A tensor of booleans.
    pub fn from_bools(dims: &[usize], elements: &[bool]) -> Result<Self> {
        let bytes: Vec<u8> = elements.iter().map(|b| u8::from(*b)).collect();
        Self::copy_from_bytes(DType::Bool, dims, &bytes)
    }

    /// A string tensor; the count of `elements` must be the product of `dims`.
    pub fn from_strings<S: AsRef<str>>(dims: &[usize], elements: &[S]) -> Result<Self> {
        let n = element_count(dims)?;
        if n != elements.len() {
            return Err(Error::invalid_input(format!(
                "shape {dims:?} needs {n} strings, {} were given",
                elements.len()
            )));
        }
        let header = string_header_len(n)?;
        let total = elements.iter().map(|s| s.as_ref().len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(header + total);
        let mut end = 0u64;
        bytes.extend_from_slice(&end.to_le_bytes());
        for s in elements {
            end += s.as_ref().len() as u64;
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        for s in elements {
            bytes.extend_from_slice(s.as_ref().as_bytes());
        }
        Ok(Self::over_buffer(DType::String, dims, Buffer::copied(&bytes)))
    }

    /// The element type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first; empty for a scalar.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// The memory in bytes.
    #[inline]
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// The packed bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: every constructor holds `ptr` valid for `len` bytes until `owner` is dropped.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// Where the memory starts.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// A pointer for writing `byte_len` bytes, when this tensor alone owns its memory; never for strings.
    pub fn as_mut_ptr(&mut self) -> Option<*mut u8> {
        match &mut self.owner {
            Owner::Buffer(units) if self.dtype != DType::String => contents_mut(units),
            _ => None,
        }
    }

    /// The bytes for writing, when this tensor alone owns its memory; never for strings.
    pub fn as_bytes_mut(&mut self) -> Option<&mut [u8]> {
        let len = self.len;
        let ptr = self.as_mut_ptr()?;
        // SAFETY: `as_mut_ptr` gave the only access to `len` bytes.
        Some(unsafe { std::slice::from_raw_parts_mut(ptr, len) })
    }

    /// True when no other tensor shares this memory and it may be written.
    pub fn is_unique(&self) -> bool {
        matches!(&self.owner, Owner::Buffer(units) if Arc::strong_count(units) == 1)
    }

    /// True when the memory starts at a multiple of `alignment` bytes.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.ptr.as_ptr().addr().is_multiple_of(alignment)
    }

    /// This tensor, or a copy of it where its memory is not aligned to [`ALIGNMENT`].
    pub fn to_aligned(&self) -> Tensor {
        if self.is_aligned(ALIGNMENT) {
            return self.clone();
        }
        Self::over_buffer(self.dtype, &self.dims, Buffer::copied(self.as_bytes()))
    }

    /// The elements; an error for another dtype or when the memory is not aligned for `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check_dtype::<T>()?;
        if !self.is_aligned(align_of::<T>()) {
            return Err(Error::internal(format!(
                "a {} tensor is not aligned to {} bytes; call to_aligned or to_vec",
                self.dtype,
                align_of::<T>()
            )));
        }
        // SAFETY: `T` is the dtype's storage type, any bits are valid for it, and the pointer is aligned.
        Ok(unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.len / size_of::<T>()) })
    }

    /// The elements for writing; an error for another dtype or when the memory is shared.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_dtype::<T>()?;
        let n = self.len / size_of::<T>();
        let ptr = self.as_mut_ptr().ok_or_else(|| Error::internal("the tensor's memory is shared"))?;
        // SAFETY: owned buffers are aligned beyond any `T`, and `as_mut_ptr` gave the only access.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr.cast(), n) })
    }

    /// A copy of the elements, aligned or not; an error for another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.check_dtype::<T>()?;
        let n = self.len / size_of::<T>();
        let mut elements = Vec::<T>::with_capacity(n);
        // SAFETY: `n * size_of::<T>()` bytes fit in both, and any bits are valid for `T`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.ptr.as_ptr(),
                elements.as_mut_ptr().cast(),
                n * size_of::<T>(),
            );
            elements.set_len(n);
        }
        Ok(elements)
    }

    fn check_dtype<T: Element>(&self) -> Result<()> {
        if T::reads(self.dtype) {
            return Ok(());
        }
        Err(Error::internal(format!("a {} tensor was read as {}", self.dtype, T::DTYPE)))
    }

    /// The elements of any numeric dtype as `f64`; booleans as 0 and 1, the real part of complex numbers.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        decode_f64(self.dtype, self.as_bytes(), self.len())
            .ok_or_else(|| Error::invalid_input(format!("a {} tensor has no numeric elements", self.dtype)))
    }

    /// The elements of an integer or boolean tensor as `i64`; `u64` values above `i64::MAX` are an error.
    pub fn to_i64_vec(&self) -> Result<Vec<i64>> {
        match self.dtype {
            DType::I64 => self.to_vec::<i64>(),
            DType::U64 => self
                .to_vec::<u64>()?
                .into_iter()
                .map(|v| {
                    i64::try_from(v)
                        .map_err(|_| Error::invalid_input(format!("{v} exceeds the range of int64")))
                })
                .collect(),
            d if d.is_integer() || d == DType::Bool => {
                Ok(self.to_f64_vec()?.into_iter().map(|v| v as i64).collect())
            }
            d => Err(Error::invalid_input(format!("a {d} tensor has no integer elements"))),
        }
    }

    /// The elements of a string tensor, in order; an error for another dtype.
    pub fn strings(&self) -> Result<Strings<'_>> {
        if self.dtype != DType::String {
            return Err(Error::internal(format!("a {} tensor was read as string", self.dtype)));
        }
        let n = self.len();
        let (offsets, text) = self.as_bytes().split_at((n + 1) * 8);
        Ok(Strings { offsets: offsets.as_chunks().0, text })
    }

    /// The same memory under other dims with as many elements.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Tensor> {
        let wanted = element_count(dims)?;
        if wanted != self.len() {
            return Err(Error::invalid_input(format!(
                "a tensor of shape {:?} has {} elements and cannot take shape {dims:?} of {wanted}",
                self.dims,
                self.len()
            )));
        }
        let mut tensor = self.clone();
        tensor.dims = SmallVec::from_slice(dims);
        Ok(tensor)
    }

    /// The static type of exactly this tensor.
    pub fn type_info(&self) -> TypeInfo {
        TypeInfo::tensor(self.dtype, Shape::known(&self.dims))
    }
}

/// The elements of a string tensor.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    offsets: &'a [[u8; 8]],
    text: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let [start, rest @ ..] = self.offsets else { return None };
        let end = rest.first()?;
        self.offsets = rest;
        let range = u64::from_le_bytes(*start) as usize..u64::from_le_bytes(*end) as usize;
        Some(std::str::from_utf8(&self.text[range]).expect("constructors check offsets and UTF-8"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.offsets.len().saturating_sub(1);
        (n, Some(n))
    }
}

impl ExactSizeIterator for Strings<'_> {}

fn string_header_len(elements: usize) -> Result<usize> {
    elements
        .checked_add(1)
        .and_then(|n| n.checked_mul(8))
        .ok_or_else(|| Error::limit(format!("{elements} strings are more than memory can hold")))
}

#[inline]
fn check_contents(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<()> {
    if dtype == DType::String {
        return check_strings(dims, bytes);
    }
    if dtype == DType::Undefined {
        return Err(Error::invalid_input("a tensor needs a dtype, this one's is undefined"));
    }
    let expected = byte_len(dtype, dims)?;
    if expected == bytes.len() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "a {dtype} tensor of shape {dims:?} needs {expected} bytes, {} were given",
        bytes.len()
    )))
}

fn check_strings(dims: &[usize], bytes: &[u8]) -> Result<()> {
    let n = element_count(dims)?;
    let header = string_header_len(n)?;
    let (Some(offsets), Some(text)) = (bytes.get(..header), bytes.get(header..)) else {
        return Err(Error::invalid_input(format!(
            "a string tensor of shape {dims:?} starts with {header} bytes of offsets, {} bytes were given",
            bytes.len()
        )));
    };
    let mut start = 0;
    for (i, end) in offsets.as_chunks().0.iter().map(|c| u64::from_le_bytes(*c)).enumerate() {
        let element =
            usize::try_from(end).ok().filter(|_| i > 0 || end == 0).and_then(|e| text.get(start..e));
        if element.is_none_or(|e| std::str::from_utf8(e).is_err()) {
            return Err(Error::invalid_input(format!(
                "string {} of a tensor of shape {dims:?} lies outside its buffer or is not UTF-8",
                i.saturating_sub(1)
            )));
        }
        start = end as usize;
    }
    if start != text.len() {
        return Err(Error::invalid_input(format!(
            "a string tensor of shape {dims:?} has {} bytes after its last string",
            text.len() - start
        )));
    }
    Ok(())
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{}{:?}", self.dtype, self.dims)?;
        if self.dtype == DType::String {
            let shown: Vec<&str> = self.strings().into_iter().flatten().take(SHOWN).collect();
            return write!(f, " {shown:?}");
        }
        let shown_bytes = self.dtype.byte_len(self.len().min(SHOWN)).unwrap_or(0);
        let shown = decode_f64(self.dtype, &self.as_bytes()[..shown_bytes], self.len().min(SHOWN));
        for (i, v) in shown.unwrap_or_default().into_iter().enumerate() {
            f.write_str(if i == 0 { " [" } else { ", " })?;
            match self.dtype {
                DType::F32 => write!(f, "{:?}", v as f32)?,
                d if d.is_integer() => write!(f, "{v}")?,
                DType::Bool => write!(f, "{}", v != 0.0)?,
                _ => write!(f, "{v:?}")?,
            }
        }
        match self.len() {
            0 => f.write_str(" []"),
            n if n > SHOWN => f.write_str(", ..]"),
            _ => f.write_str("]"),
        }
    }
}

/// Equal dtype, dims and bytes; NaNs with equal bits are equal.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.dims == other.dims && self.as_bytes() == other.as_bytes()
    }
}

/// A run-time value: what an input is fed with and an output returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Tensor(Tensor),
    Sequence(Vec<Value>),
    Optional(Option<Box<Value>>),
    Map(Box<Map>),
}

/// Element `i` of `keys` maps to element `i` of the first axis of `values`.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    pub keys: Tensor,
    pub values: Tensor,
}

impl Value {
    /// The tensor, if this is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// The tensor, or an error that says what the value is instead.
    pub fn into_tensor(self) -> Result<Tensor> {
        match self {
            Value::Tensor(t) => Ok(t),
            other => Err(Error::invalid_input(format!("expected a tensor, got {}", other.description()))),
        }
    }

    /// The static type of exactly this value; `None` for an empty sequence or optional, whose element type is unknown.
    pub fn type_info(&self) -> Option<TypeInfo> {
        Some(match self {
            Value::Tensor(t) => t.type_info(),
            Value::Sequence(items) => TypeInfo::Sequence(Box::new(items.first()?.type_info()?)),
            Value::Optional(item) => TypeInfo::Optional(Box::new(item.as_ref()?.type_info()?)),
            Value::Map(map) => {
                let Map { keys, values } = &**map;
                let value =
                    TypeInfo::tensor(values.dtype(), Shape::known(values.dims().get(1..).unwrap_or(&[])));
                TypeInfo::Map { key: keys.dtype(), value: Box::new(value) }
            }
        })
    }

    /// What this value is, for messages: `float[2,3]`, `a sequence of 3`, ...
    pub fn description(&self) -> String {
        match self {
            Value::Tensor(t) => t.type_info().to_string(),
            Value::Sequence(items) => format!("a sequence of {}", items.len()),
            Value::Optional(None) => "an empty optional".into(),
            Value::Optional(Some(item)) => format!("an optional holding {}", item.description()),
            Value::Map(map) => format!("a map of {} {} keys", map.keys.len(), map.keys.dtype()),
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Value::Tensor(tensor)
    }
}
