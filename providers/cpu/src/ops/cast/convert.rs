//! Conversion of tensors between all numeric element types. Types the processor computes with convert directly; small
//! floats go through f32 or f64 and packed integers through bytes, a chunk at a time, rounded once.

use half::{bf16, f16};
use tenon_kernels::cpu::cast::convert_float;
use tenon_kernels::cpu::{Context as Machine, Float};

use super::minifloat::{self, RoundMode};
use super::packed;
use crate::error::{OpError, Result};
use crate::ops::elementwise::row::split;
use crate::tensor::{DType, Tensor};

/// Elements converted at a time on the way through another type.
const CHUNK: usize = 256;

/// Elements below which a thread is not worth waking.
const GRAIN: usize = 32 * 1024;

/// How values that the target cannot hold are treated.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// 8-bit floats clamp to their largest value instead of becoming infinity or NaN.
    pub saturate: bool,
    pub round_mode: RoundMode,
}

impl Default for Options {
    fn default() -> Options {
        Options { saturate: true, round_mode: RoundMode::Up }
    }
}

/// Converts `len` elements.
///
/// # Safety
/// `from` must have `len` elements of the loop's source type and `to` room for `len` of its target type.
type Loop = unsafe fn(from: *const u8, to: *mut u8, len: usize);

/// A type the processor converts with one instruction or a short sequence.
trait Native: Copy {
    fn is_zero(self) -> bool;
}

/// `as`: integers wrap, floats round to nearest or truncate towards zero and saturate.
trait As<T> {
    fn cast(self) -> T;
}

macro_rules! natives {
    ($($t:ident)*) => {
        $(
            impl Native for $t {
                #[inline(always)]
                fn is_zero(self) -> bool {
                    self == 0 as $t
                }
            }
            natives!(@ $t, f32 f64 i8 i16 i32 i64 u8 u16 u32 u64);
        )*
    };
    (@ $from:ident, $($to:ident)*) => {
        $(
            impl As<$to> for $from {
                #[inline(always)]
                fn cast(self) -> $to {
                    self as $to
                }
            }
        )*
    };
}
natives! { f32 f64 i8 i16 i32 i64 u8 u16 u32 u64 }

/// # Safety
/// See [`Loop`].
unsafe fn native_loop<A: Native + As<B>, B: Copy>(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: promised by the caller.
    let (from, to) = unsafe {
        (
            std::slice::from_raw_parts(from.cast::<A>(), len),
            std::slice::from_raw_parts_mut(to.cast::<B>(), len),
        )
    };
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.cast();
    }
}

/// # Safety
/// See [`Loop`].
unsafe fn truth_loop<A: Native>(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: promised by the caller.
    let (from, to) = unsafe {
        (std::slice::from_raw_parts(from.cast::<A>(), len), std::slice::from_raw_parts_mut(to, len))
    };
    for (to, &from) in to.iter_mut().zip(from) {
        *to = u8::from(!from.is_zero());
    }
}

fn loop_from<A>(to: DType) -> Option<Loop>
where
    A: Native
        + As<f32>
        + As<f64>
        + As<i8>
        + As<i16>
        + As<i32>
        + As<i64>
        + As<u8>
        + As<u16>
        + As<u32>
        + As<u64>,
{
    Some(match to {
        DType::F32 => native_loop::<A, f32>,
        DType::F64 => native_loop::<A, f64>,
        DType::I8 => native_loop::<A, i8>,
        DType::I16 => native_loop::<A, i16>,
        DType::I32 => native_loop::<A, i32>,
        DType::I64 => native_loop::<A, i64>,
        DType::U8 => native_loop::<A, u8>,
        DType::U16 => native_loop::<A, u16>,
        DType::U32 => native_loop::<A, u32>,
        DType::U64 => native_loop::<A, u64>,
        DType::Bool => truth_loop::<A>,
        _ => return None,
    })
}

fn loop_between(from: DType, to: DType) -> Option<Loop> {
    match from {
        DType::F32 => loop_from::<f32>(to),
        DType::F64 => loop_from::<f64>(to),
        DType::I8 => loop_from::<i8>(to),
        DType::I16 => loop_from::<i16>(to),
        DType::I32 => loop_from::<i32>(to),
        DType::I64 => loop_from::<i64>(to),
        DType::U8 => loop_from::<u8>(to),
        DType::U16 => loop_from::<u16>(to),
        DType::U32 => loop_from::<u32>(to),
        DType::U64 => loop_from::<u64>(to),
        _ => None,
    }
}

/// The native type that holds every value of `dtype`.
fn carrier(dtype: DType) -> DType {
    match dtype {
        DType::Bool | DType::U4 | DType::U2 => DType::U8,
        DType::I4 | DType::I2 => DType::I8,
        other if is_small_float(other) => DType::F32,
        other => other,
    }
}

fn is_small_float(dtype: DType) -> bool {
    dtype == DType::F8E8M0 || minifloat::format(dtype).is_some()
}

/// The native type that elements pass through just before they become `to`, from the native type `from`: one that
/// holds every value of `from` that matters to the rounding.
fn last_stop(from: DType, to: DType) -> DType {
    match to {
        DType::Bool => DType::Bool,
        // Floats become packed integers like any other: truncated, then the high bits are lost.
        DType::I4 | DType::I2 | DType::U4 | DType::U2 if matches!(from, DType::F32 | DType::F64) => {
            DType::I32
        }
        to if is_small_float(to) => match from {
            DType::F32 | DType::I8 | DType::U8 | DType::I16 | DType::U16 => DType::F32,
            _ => DType::F64,
        },
        to => carrier(to),
    }
}

/// One conversion, its loops chosen.
pub struct Conversion {
    from: DType,
    to: DType,
    stops: [DType; 2],
    between: Loop,
    options: Options,
}

impl Conversion {
    /// The conversion of `from` to `to`. Errors for strings and complex numbers.
    pub fn new(from: DType, to: DType, options: Options) -> Result<Conversion> {
        let first = carrier(from);
        let last = last_stop(first, to);
        let between = loop_between(first, last).ok_or_else(|| {
            OpError::unsupported(format!("there is no numeric conversion from {from} to {to}"))
        })?;
        Ok(Conversion { from, to, stops: [first, last], between, options })
    }

    /// Converts every element. Both tensors have as many elements.
    pub fn run(&self, from: &Tensor, to: &mut Tensor, machine: Machine<'_>) -> Result<()> {
        if from.dtype() != self.from || to.dtype() != self.to || from.len() != to.len() {
            return Err(OpError::invalid(format!(
                "expected {} and {}, got {from:?} and {to:?}",
                self.from, self.to
            )));
        }
        let len = from.len();
        let target = Target(to.as_bytes_mut().as_mut_ptr());
        let source = from.as_bytes();
        let serial = Machine::serial(machine.features);
        split(machine.parallel, len, GRAIN, &|start, end| {
            let to_bits = self.to.bits();
            // SAFETY: ranges start at multiples of 64 elements, so at byte boundaries, and are disjoint; the tensor has
            // `len` elements.
            let part = unsafe {
                let bytes = (end - start) * to_bits;
                std::slice::from_raw_parts_mut(target.at(start * to_bits / 8), bytes.div_ceil(8))
            };
            self.run_range(serial, source, start, part, end - start);
        });
        Ok(())
    }

    /// Converts elements `start .. start + len` of `from` into the bytes `to`.
    fn run_range(&self, machine: Machine<'_>, from: &[u8], start: usize, to: &mut [u8], len: usize) {
        if len == 0 {
            return;
        }
        if let Some(direct) = self.direct(machine, from, start, to, len) {
            return direct;
        }
        let (mut first, mut last) = ([0f64; CHUNK], [0f64; CHUNK]);
        let mut at = 0;
        while at < len {
            let n = CHUNK.min(len - at);
            let bits = self.to.bits();
            let out = &mut to[at * bits / 8..((at + n) * bits).div_ceil(8)];
            let first = &mut bytes_of(&mut first)[..n * self.stops[0].bits() / 8];
            decode(machine, self.from, from, start + at, first, n);
            let last = &mut bytes_of(&mut last)[..n * self.stops[1].bits() / 8];
            // SAFETY: both buffers hold `n` elements of the loop's types and are aligned for any of them.
            unsafe { (self.between)(first.as_ptr(), last.as_mut_ptr(), n) };
            self.encode(last, out, n);
            at += n;
        }
    }

    /// The conversions that need no chunks.
    fn direct(
        &self,
        machine: Machine<'_>,
        from: &[u8],
        start: usize,
        to: &mut [u8],
        len: usize,
    ) -> Option<()> {
        let source = from.get(start * self.from.bits() / 8..)?;
        if self.stops == [self.from, self.to] {
            // SAFETY: the caller passes `len` elements on both sides; tensors are aligned for their type.
            unsafe { (self.between)(source.as_ptr(), to.as_mut_ptr(), len) };
            return Some(());
        }
        // SAFETY: as above.
        unsafe {
            match (self.from, self.to) {
                (DType::F16, DType::F32) => floats::<f16, f32>(machine, source, to, len),
                (DType::BF16, DType::F32) => floats::<bf16, f32>(machine, source, to, len),
                (DType::F32, DType::F16) => floats::<f32, f16>(machine, source, to, len),
                (DType::F32, DType::BF16) => floats::<f32, bf16>(machine, source, to, len),
                _ => return None,
            }
        }
        Some(())
    }

    /// Turns `n` elements of the last stop into the target type.
    fn encode(&self, from: &[u8], to: &mut [u8], n: usize) {
        if self.stops[1] == self.to {
            return to.copy_from_slice(from);
        }
        let mut codes = [0u8; CHUNK];
        let codes = &mut codes[..n];
        match self.to {
            DType::I4 | DType::I2 | DType::U4 | DType::U2 => {
                let step = self.stops[1].bits() / 8;
                let low = if cfg!(target_endian = "little") { 0 } else { step - 1 };
                codes.iter_mut().zip(from.chunks_exact(step)).for_each(|(code, bytes)| *code = bytes[low]);
            }
            DType::F8E8M0 => {
                let Options { saturate, round_mode } = self.options;
                each_value(self.stops[1], from, |i, value| {
                    codes[i] = minifloat::encode_e8m0(value, round_mode, saturate);
                });
            }
            _ => {
                let format =
                    minifloat::format(self.to).expect("every other last stop belongs to a small float");
                let saturate = self.options.saturate && self.to.bits() <= 8;
                if self.to.bits() == 16 {
                    each_value(self.stops[1], from, |i, value| {
                        to[i * 2..][..2].copy_from_slice(&(format.encode(value, false) as u16).to_ne_bytes());
                    });
                    return;
                }
                each_value(self.stops[1], from, |i, value| codes[i] = format.encode(value, saturate) as u8);
            }
        }
        if self.to.bits() == 8 { to.copy_from_slice(codes) } else { packed::pack(codes, self.to.bits(), to) }
    }
}

/// Turns elements `start .. start + n` of type `dtype` into its carrier type.
fn decode(machine: Machine<'_>, dtype: DType, from: &[u8], start: usize, to: &mut [u8], n: usize) {
    let bits = dtype.bits();
    if bits == 16 && is_small_float(dtype) {
        // SAFETY: the tensor has elements `start .. start + n` and is aligned; `to` is aligned and holds `n` f32.
        unsafe {
            match dtype {
                DType::F16 => floats::<f16, f32>(machine, &from[start * 2..], to, n),
                _ => floats::<bf16, f32>(machine, &from[start * 2..], to, n),
            }
        }
        return;
    }
    if carrier(dtype) == dtype {
        return to.copy_from_slice(&from[start * bits / 8..][..n * bits / 8]);
    }
    let mut codes = [0u8; CHUNK];
    let codes = &mut codes[..n];
    if bits == 8 {
        codes.copy_from_slice(&from[start..start + n])
    } else {
        packed::unpack(from, bits, start, codes)
    }
    if let Some(table) = minifloat::table(dtype) {
        for (to, &code) in to.chunks_exact_mut(4).zip(&*codes) {
            to.copy_from_slice(&table[usize::from(code)].to_ne_bytes());
        }
        return;
    }
    for (to, &code) in to.iter_mut().zip(&*codes) {
        *to = match dtype {
            DType::Bool => u8::from(code != 0),
            DType::I4 | DType::I2 => packed::sign_extend(code, bits) as u8,
            _ => code,
        };
    }
}

/// Calls `body` with every element of an f32 or f64 buffer.
fn each_value(dtype: DType, from: &[u8], mut body: impl FnMut(usize, f64)) {
    if dtype == DType::F32 {
        for (i, bytes) in from.chunks_exact(4).enumerate() {
            body(i, f64::from(f32::from_ne_bytes(bytes.try_into().expect("four bytes"))));
        }
    } else {
        for (i, bytes) in from.chunks_exact(8).enumerate() {
            body(i, f64::from_ne_bytes(bytes.try_into().expect("eight bytes")));
        }
    }
}

/// The output as tasks see it.
struct Target(*mut u8);

// SAFETY: tasks write disjoint parts.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// `offset` must be inside the tensor.
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        unsafe { self.0.add(offset) }
    }
}

fn bytes_of(buffer: &mut [f64; CHUNK]) -> &mut [u8] {
    // SAFETY: f64 has no padding and any bytes are a valid f64.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), CHUNK * 8) }
}

/// Converts `len` floats with the vector kernel.
///
/// # Safety
/// Both sides must hold `len` aligned values of their types.
unsafe fn floats<A: Float, B: Float>(machine: Machine<'_>, from: &[u8], to: &mut [u8], len: usize) {
    assert!(from.len() >= len * size_of::<A>() && to.len() >= len * size_of::<B>());
    // SAFETY: promised by the caller; the lengths are checked above.
    let (from, to) = unsafe {
        (
            std::slice::from_raw_parts(from.as_ptr().cast::<A>(), len),
            std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<B>(), len),
        )
    };
    convert_float(machine, from, to).expect("both sides have the same length");
}
