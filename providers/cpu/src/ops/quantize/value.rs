//! 8-bit tensors with one scale and zero point, as the QLinear operators of com.microsoft take them.

use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::ops::real::to_vec;
use crate::tensor::{DType, Tensor};

/// A scale and zero point: the value of code `q` is `(q - zero) * scale`.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    pub scale: f32,
    pub zero: i32,
}

impl Affine {
    /// Reads the scale from input `scale` and the zero point from input `zero`, 0 when absent.
    pub fn read(cx: &Context<'_>, scale: usize, zero: usize) -> Result<Affine> {
        let scales = to_vec::<f32>(cx.input(scale)?)?;
        let [scale] = scales[..] else {
            return Err(OpError::invalid(format!("expected one scale, got {}", scales.len())));
        };
        let zero = match cx.optional(zero) {
            None => 0,
            Some(tensor) => match tensor.dtype() {
                DType::U8 => i32::from(tensor.to_scalar::<u8>()?),
                DType::I8 => i32::from(tensor.to_scalar::<i8>()?),
                other => return Err(OpError::invalid(format!("expected an 8-bit zero point, got {other}"))),
            },
        };
        Ok(Affine { scale, zero })
    }

    /// The value of a code.
    pub fn value(self, code: i32) -> f32 {
        (code - self.zero) as f32 * self.scale
    }

    /// The code nearest to a value, ties to even, limited to the range of `codes`.
    pub fn code(self, value: f32, codes: Codes) -> i32 {
        let (low, high) = codes.range();
        let shifted = (value / self.scale).round_ties_even() + self.zero as f32;
        (shifted.max(low as f32).min(high as f32)) as i32
    }
}

/// Signedness of 8-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    Unsigned,
    Signed,
}

impl Codes {
    /// Errors unless `dtype` is an 8-bit integer.
    pub fn of(dtype: DType) -> Result<Codes> {
        match dtype {
            DType::U8 => Ok(Codes::Unsigned),
            DType::I8 => Ok(Codes::Signed),
            other => Err(OpError::unsupported(format!("expected uint8 or int8, got {other}"))),
        }
    }

    pub fn dtype(self) -> DType {
        match self {
            Codes::Unsigned => DType::U8,
            Codes::Signed => DType::I8,
        }
    }

    pub fn range(self) -> (i32, i32) {
        match self {
            Codes::Unsigned => (0, 255),
            Codes::Signed => (-128, 127),
        }
    }

    /// The code stored in a byte.
    pub fn load(self, byte: u8) -> i32 {
        match self {
            Codes::Unsigned => i32::from(byte),
            Codes::Signed => i32::from(byte as i8),
        }
    }

    /// A table of `function` over all bytes.
    pub fn table(self, function: impl Fn(i32) -> i32) -> [u8; 256] {
        std::array::from_fn(|byte| function(self.load(byte as u8)) as u8)
    }
}

/// The values of an 8-bit tensor.
pub fn dequantized(tensor: &Tensor, affine: Affine) -> Result<Vec<f32>> {
    let codes = Codes::of(tensor.dtype())?;
    Ok(tensor.as_bytes().iter().map(|&byte| affine.value(codes.load(byte))).collect())
}

/// Errors when a node's input is known not to be 8-bit.
pub fn check(dtype: DType) -> Result<()> {
    if dtype == DType::Undefined { Ok(()) } else { Codes::of(dtype).map(|_| ()) }
}
