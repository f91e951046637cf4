//! Caches of 8- and 4-bit codes: which attributes and types say so, and where their scales are.

use tenon_kernels::gpu::attention::{Code, Codes, Scales};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use crate::operator::{Decline, Expansion, Lowering};
use crate::schedule::ValueId;

/// What the caches of inputs `cache` and `cache + 1` hold, from the attributes `k_quant_type` and `v_quant_type` and the
/// number of bits; `None`: numbers of the element type. `has_values`: there is a cache of values of its own.
pub(super) fn codes_of(
    l: &Lowering<'_>,
    bits: i64,
    cache: usize,
    has_values: bool,
) -> std::result::Result<Option<Codes>, Decline> {
    let kind = |name: &str| -> std::result::Result<Option<Scales>, Decline> {
        match l.node.text_or(name, "NONE")? {
            "NONE" | "" => Ok(None),
            "PER_TENSOR" => Ok(Some(Scales::One)),
            "PER_CHANNEL" => Ok(Some(Scales::Channel)),
            other => Err(Decline(format!("{name} '{other}' is none of NONE, PER_TENSOR, PER_CHANNEL"))),
        }
    };
    let keys = kind("k_quant_type")?;
    if has_values && keys != kind("v_quant_type")? {
        return Err(Decline::new("caches of keys and values that are quantised differently"));
    }
    let Some(scales) = keys else {
        return match l.has_input(cache) && l.scalar(cache)? != l.scalar(0)? {
            true => Err(Decline::new("a cache of another type than the queries that is not quantised")),
            false => Ok(None),
        };
    };
    let stored = match l.has_input(cache) {
        true => l.scalar(cache)?,
        false => l.output_scalar(1)?,
    };
    if has_values && l.has_input(cache + 1) && l.scalar(cache + 1)? != stored {
        return Err(Decline::new("caches of keys and values of different types"));
    }
    let code = match (bits, stored) {
        (0 | 8, Scalar::I8) => Code::I8,
        (0 | 8, Scalar::F8E4M3FN) => Code::E4M3,
        (4, Scalar::U8) => Code::I4,
        (bits, stored) => {
            return Err(Decline(format!("a {bits}-bit cache of {} has no GPU kernel", stored.suffix())));
        }
    };
    Ok(Some(Codes { code, scales }))
}

/// The type of a cache's tensor.
pub(super) fn scalar_of(code: Code) -> Scalar {
    match code {
        Code::E4M3 => Scalar::F8E4M3FN,
        Code::I8 => Scalar::I8,
        Code::I4 => Scalar::U8,
    }
}

/// Elements of a row of `width` columns as the cache's tensor counts them.
pub(super) fn row_elements(codes: Option<Codes>, width: usize) -> usize {
    match codes {
        Some(Codes { code: Code::I4, .. }) => width.div_ceil(2),
        _ => width,
    }
}

/// The scales of keys and values, inputs `first` and `first + 1`; those of keys serve both where there is one cache.
pub(super) fn scales(
    cx: &Expansion<'_, '_>,
    codes: Option<Codes>,
    first: usize,
    [kv_heads, width]: [usize; 2],
) -> Result<Option<[ValueId; 2]>> {
    let Some(codes) = codes else { return Ok(None) };
    let expected = match codes.scales {
        Scales::One => 1,
        Scales::Head => kv_heads,
        Scales::Channel => kv_heads * width,
    };
    let keys = cx.input(first)?;
    let both = [keys, cx.optional(first + 1).unwrap_or(keys)];
    for scale in both {
        let dims = cx.builder.dims(scale);
        if dims.iter().product::<usize>() != expected || cx.builder.scalar(scale) != Scalar::F32 {
            return Err(Error::invalid(format!("scales of shape {dims:?}, expected {expected} of f32")));
        }
    }
    Ok(Some(both))
}
