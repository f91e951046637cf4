//! Attention on CDNA: 32 or 16 query rows as columns of matrix products of a wave, keys and values through LDS.

mod count;
mod decode;
mod forward;
mod table;

pub use count::BlockCounts;
pub use decode::DecodeParams;
pub use forward::ForwardParams;
pub use table::{Instructions, Row, instructions, rows, units};

use super::plain::scales_number;
use super::{Code, Keys, Problem, cached_bytes, operand, optional, places};
use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Element, Plan};
use crate::gpu::unit::{Kernel, Planned, Text, Unit};

/// The launches of a checked problem with the parameters that the family's table gives it.
pub(super) fn plan(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    plan_with(arch, problem, &table::select(arch, problem)?, chip)
}

/// The launches with parameters of the caller's choice, for measuring them.
pub fn plan_with(arch: &str, problem: &Problem, row: &Row, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    check_cache(problem)?;
    if row.code() != problem.codes.map(|codes| codes.code) {
        return Err(KernelError::parameter(format!("{row:?} for a cache of {:?}", problem.codes)));
    }
    match row {
        Row::Forward(params) => forward::plan(arch, problem, params, chip),
        Row::Decode(params) => decode::plan(arch, problem, params, chip),
    }
}

/// Part of a symbol that names an element type.
fn element_name(element: Element) -> Result<&'static str> {
    match element {
        Element::BF16 => Ok("bf16"),
        Element::F16 => Ok("f16"),
        Element::F32 => Ok("f32"),
        other => Err(KernelError::parameter(format!("attention of {other:?}: bf16, f16 and f32 only"))),
    }
}

/// Part of a symbol: element type, codes and columns of a head.
fn kind_name(element: Element, code: Option<Code>, [head_qk, head_v]: [u32; 2]) -> Result<String> {
    let head = if head_qk == head_v { format!("d{head_qk}") } else { format!("d{head_qk}_dv{head_v}") };
    let codes = code.map_or(String::new(), |code| format!("_{}", code.name()));
    Ok(format!("{}{codes}_{head}", element_name(element)?))
}

/// What a kernel for a cache of codes cannot be, besides what holds for others.
fn check_codes(
    element: Element,
    code: Option<Code>,
    has_mask: bool,
    heads: [u32; 2],
) -> Option<&'static str> {
    match code {
        None => None,
        Some(Code::I4) => Some("codes must have 8 bits"),
        Some(_) if element == Element::F32 => Some("codes become elements of 16 bits"),
        Some(_) if has_mask => Some("masks in memory are for elements only"),
        Some(_) if heads.iter().any(|head| head % 64 != 0) => {
            Some("heads of codes must be multiples of 64 columns")
        }
        Some(_) => None,
    }
}

/// LDS of a tile of `rows` rows: panels of 128 bytes.
fn tile_bytes(columns: u32, rows: u32, element: Element) -> u32 {
    (columns * element.bytes() as u32).div_ceil(128) * 128 * rows
}

/// What the texts of both kernels are compiled with: sizes by their macros, and what one kernel takes of a compute unit.
struct Sizes<'a> {
    element: Element,
    code: Option<Code>,
    numbers: &'a [(&'static str, u32)],
    threads: u32,
    shared_bytes: u32,
    waves_per_simd: Option<u32>,
}

/// The unit of a kernel called `symbol`.
fn unit(symbol: String, texts: &[Text], sizes: &Sizes<'_>, has: &Instructions) -> Result<Unit> {
    let mut defines = vec![
        ("SYMBOL".to_owned(), symbol.clone()),
        ("ELEMENT".to_owned(), element_name(sizes.element)?.to_uppercase()),
        ("CODES".to_owned(), codes_number(sizes.code).to_string()),
    ];
    defines.extend(sizes.numbers.iter().map(|(name, number)| ((*name).to_owned(), number.to_string())));
    defines.push(("SHARED_BYTES".to_owned(), sizes.shared_bytes.to_string()));
    Ok(Unit {
        name: symbol.clone(),
        texts: texts.to_vec(),
        defines,
        kernels: vec![Kernel {
            symbol,
            threads: sizes.threads,
            shared_bytes: 0,
            required: has.required.clone(),
            forbidden: Vec::new(),
            planned: Planned {
                static_shared_bytes: Some(sizes.shared_bytes),
                waves_per_simd: sizes.waves_per_simd,
                loop_required: has.loop_required.clone(),
                ..Planned::default()
            },
        }],
    })
}

/// `CODES` of the device text.
fn codes_number(code: Option<Code>) -> u32 {
    match code {
        None => 0,
        Some(Code::E4M3) => 1,
        Some(Code::I8 | Code::I4) => 2,
    }
}

/// Bytes of a number in a cache.
fn stored_bytes(element: Element, code: Option<Code>) -> u32 {
    if code.is_some() { 1 } else { element.bytes() as u32 }
}

/// Refuses caches whose rows the device text's 32-bit offsets do not reach.
fn check_cache(problem: &Problem) -> Result<()> {
    // What lies behind a key's codes in their piece of 16 may be no number, which zeros of the queries do not hide.
    if problem.codes.is_some() && !problem.head_qk.is_multiple_of(16) {
        return Err(KernelError::shape(format!(
            "{} columns of keys in codes: must be a multiple of 16",
            problem.head_qk
        )));
    }
    for (what, strides) in [("k", problem.k), ("v", problem.v)] {
        if strides.row * cached_bytes(problem) >= 1 << 27 {
            return Err(KernelError::shape(format!(
                "{what} has {strides:?}: rows of less than 128 MiB only"
            )));
        }
    }
    if let Keys::Paged { page_rows, .. } = problem.keys
        && u64::from(problem.kv_len) * u64::from(page_rows) >= 1 << 38
    {
        return Err(KernelError::shape(format!(
            "{} keys in pages of {page_rows} rows: the product must be below 2^38",
            problem.kv_len
        )));
    }
    Ok(())
}

/// `CacheShape` of the device text.
fn cache_shape(problem: &Problem) -> Arg {
    let strides = [problem.k, problem.v].into_iter().flat_map(|s| [s.batch, s.row, s.head]);
    let mut bytes: Vec<u8> =
        strides.flat_map(|stride| (stride * cached_bytes(problem)).to_le_bytes()).collect();
    let (pages, magic) = match problem.keys {
        Keys::Contiguous => (0, 0),
        Keys::Paged { pages, page_rows, .. } => (pages, (1u32 << 31).div_ceil(page_rows / 16)),
    };
    bytes.extend([pages, magic].into_iter().flat_map(u32::to_le_bytes));
    Arg::Bytes { bytes, align: 8 }
}

/// What every kernel takes last: scales of keys and values, and how many there are.
fn scales(problem: &Problem) -> [Arg; 3] {
    let is_coded = problem.codes.is_some();
    [
        optional(operand::K_SCALES, is_coded),
        optional(operand::V_SCALES, is_coded),
        Arg::U32(problem.codes.map_or(0, |codes| scales_number(codes.scales))),
    ]
}

/// What every kernel takes after its two structures: q, k, v, out, lengths, q offsets, page table, sinks.
fn operands(problem: &Problem) -> [Arg; 8] {
    let [q, k, v, out] =
        [operand::Q, operand::K, operand::V, operand::OUT].map(|operand| optional(operand, true));
    let [lengths, q_offsets, page_table, sinks] = places(problem);
    [q, k, v, out, lengths, q_offsets, page_table, sinks]
}
