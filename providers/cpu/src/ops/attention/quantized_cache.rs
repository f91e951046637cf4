//! The codes of an 8- or 4-bit key and value cache.

use tenon_kernels::cpu::minifloat::Float8;

use crate::error::{OpError, Result};
use crate::tensor::DType;

/// How a cache is stored.
#[derive(Clone, Copy, Debug)]
pub struct CacheKind {
    /// Bits of a code; 0 when the cache holds floats.
    pub bits: u32,
    per_channel: bool,
}

impl CacheKind {
    /// From the attributes `k_quant_type` (or `v_quant_type`) and `kv_cache_bit_width`.
    pub fn of(quant_type: &str, bits: i64) -> Result<CacheKind> {
        let per_channel = match quant_type {
            "NONE" | "" => return Ok(CacheKind { bits: 0, per_channel: false }),
            "PER_TENSOR" => false,
            "PER_CHANNEL" => true,
            other => {
                return Err(OpError::invalid(format!(
                    "quantisation '{other}' is none of NONE, PER_TENSOR, PER_CHANNEL"
                )));
            }
        };
        match bits {
            0 | 8 => Ok(CacheKind { bits: 8, per_channel }),
            4 => Ok(CacheKind { bits: 4, per_channel }),
            bits => Err(OpError::unsupported(format!("there is no kernel for a cache of {bits} bits"))),
        }
    }
}

/// Encodes and decodes rows of a cache.
pub struct QuantizedCache<'a> {
    kind: CacheKind,
    /// Codes are float8e4m3fn.
    float8: bool,
    scale: &'a [f32],
    width: usize,
}

impl<'a> QuantizedCache<'a> {
    /// `scale` has one value, or one a head and channel.
    pub fn new(
        kind: CacheKind,
        dtype: DType,
        scale: &'a [f32],
        heads: usize,
        width: usize,
    ) -> Result<QuantizedCache<'a>> {
        let expected = if kind.per_channel { heads * width } else { 1 };
        if scale.len() != expected {
            return Err(OpError::invalid(format!("a cache has {} scales, expected {expected}", scale.len())));
        }
        let float8 = dtype == DType::F8E4M3FN;
        match (kind.bits, dtype) {
            (8, DType::I8 | DType::F8E4M3FN) | (4, DType::U8) => {
                Ok(QuantizedCache { kind, float8, scale, width })
            }
            (bits, dtype) => {
                Err(OpError::unsupported(format!("there is no kernel for a {bits}-bit cache of {dtype}")))
            }
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        if self.kind.bits == 4 { self.width.div_ceil(2) } else { self.width }
    }

    fn scale(&self, head: usize, channel: usize) -> f32 {
        if self.kind.per_channel { self.scale[head * self.width + channel] } else { self.scale[0] }
    }

    /// Quantises a row of a head.
    pub fn encode(&self, head: usize, values: &[f32], out: &mut [u8]) {
        let code = |channel: usize, low: f32, high: f32| {
            let scale = self.scale(head, channel);
            let quotient = if scale == 0.0 { 0.0 } else { values[channel] / scale };
            quotient.round_ties_even().clamp(low, high) as i32
        };
        if self.float8 {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = Float8::E4M3Fn.encode(values[channel] / self.scale(head, channel), true);
            }
            return;
        }
        if self.kind.bits == 8 {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = code(channel, -128.0, 127.0) as i8 as u8;
            }
            return;
        }
        out.fill(0);
        for channel in 0..self.width {
            let nibble = (code(channel, -8.0, 7.0) + 8) as u8;
            out[channel / 2] |= nibble << (4 * (channel % 2));
        }
    }

    /// The values of a row of a head.
    pub fn decode(&self, head: usize, codes: &[u8], out: &mut [f32]) {
        for (channel, out) in out.iter_mut().enumerate() {
            if self.float8 {
                *out = Float8::E4M3Fn.decode(codes[channel]) * self.scale(head, channel);
                continue;
            }
            let code = match self.kind.bits {
                8 => i32::from(codes[channel] as i8),
                _ => i32::from(codes[channel / 2] >> (4 * (channel % 2)) & 0xF) - 8,
            };
            *out = code as f32 * self.scale(head, channel);
        }
    }
}
