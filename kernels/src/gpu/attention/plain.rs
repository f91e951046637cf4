//! Attention without matrix units: every head size, element type and mask. The kernel is `device/attention.cu`.

use super::super::launch::{Arg, Plan};
use super::super::scalar::{self, Scalar, Structure, division, kernel, launch, overlapping};
use super::super::unit::{Text, Unit};
use super::{
    Causal, Code, Codes, Keys, MaskKind, MaskOperand, Problem, Queries, Scales, Strides, operand, optional,
};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Columns of a head at most.
const COLUMNS: u32 = 1024;

/// Which keys are padding: `filter` is added to their scores. The operand is of i32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaddingOperand {
    pub kind: PaddingKind,
    pub filter: f32,
}

/// What the numbers of a padding operand say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingKind {
    /// `[batch, rows or 1, keys - past]` by strides (`head` is unused) from element `offset` on: zero is a padding. Keys
    /// before `past` are none.
    Rows { strides: Strides, past: u32, offset: u64 },
    /// `[batch]`: one past the last key.
    Ends,
    /// `[2, batch]`: the ends, then the first keys.
    Ranges,
}

/// Which scores are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Scaled products of all keys.
    Raw,
    /// After the soft cap.
    Capped,
    /// Under the masks.
    Masked,
    /// After the softmax.
    Weights,
}

/// Scores `[batch, heads, rows, keys]`, dense, of the first `keys` keys, in the operand of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    pub stage: Stage,
    pub keys: u32,
    /// What stands under the masks for keys that a row does not see.
    pub hidden: f32,
}

/// The launch of a problem over elements of type `scalar`, whatever [`Problem::element`] says. Operands as
/// [`super::operand`] numbers them.
pub fn plan(problem: &Problem, scalar: Scalar, padding: Option<&PaddingOperand>) -> Result<Plan> {
    launches(problem, scalar, padding, None)
}

/// The launch that hands out scores of a problem whose queries are not ragged.
pub fn scores(
    problem: &Problem,
    scalar: Scalar,
    padding: Option<&PaddingOperand>,
    scores: &Scores,
) -> Result<Plan> {
    if problem.queries != Queries::Batched {
        return Err(KernelError::parameter("scores of ragged queries: batched only"));
    }
    launches(problem, scalar, padding, Some(scores))
}

fn launches(
    problem: &Problem,
    scalar: Scalar,
    padding: Option<&PaddingOperand>,
    scores: Option<&Scores>,
) -> Result<Plan> {
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!(
            "attention of {}: f32, f16 and bf16 only",
            scalar.suffix()
        )));
    }
    check(problem)?;
    if problem.batch == 0 || problem.q_rows() == 0 {
        return Ok(Plan::default());
    }
    let is_paged = problem.keys != Keys::Contiguous;
    let is_ragged = problem.queries != Queries::Batched;
    let is_coded = problem.codes.is_some();
    let args = vec![
        optional(operand::OUT, true),
        optional(operand::Q, true),
        optional(operand::K, true),
        optional(operand::V, true),
        optional(operand::LENGTHS, problem.lengths.is_some()),
        optional(operand::Q_OFFSETS, is_ragged),
        optional(operand::PAGE_TABLE, is_paged),
        optional(operand::SINKS, problem.has_sinks),
        optional(operand::MASK, problem.mask.is_some()),
        padding_pointer(padding),
        optional(operand::K_SCALES, is_coded),
        optional(operand::V_SCALES, is_coded),
        parameters(problem, padding, scores.map(|scores| dense_scores(problem, scores))),
    ];
    let mut cost = problem.cost();
    cost.bytes *= scalar.bytes() as f64 / problem.element.bytes() as f64;
    let grid = [problem.q_len, problem.heads, problem.batch];
    let symbol = symbol(scores.is_some(), is_coded, scalar.suffix());
    Ok(overlapping(launch(symbol, grid, args, cost)))
}

fn padding_pointer(padding: Option<&PaddingOperand>) -> Arg {
    match padding.map(|padding| padding.kind) {
        Some(PaddingKind::Rows { offset, .. }) => {
            Arg::Pointer { operand: operand::PADDING, offset_bytes: offset * 4 }
        }
        kind => optional(operand::PADDING, kind.is_some()),
    }
}

/// Mask and paddings of a problem as one mask, for kernels that take no paddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// Operands: [`operand::OUT`], what the mask is written to, [`operand::MASK`] and [`operand::PADDING`].
    pub plan: Plan,
    pub mask: MaskOperand,
    /// Type and shape of the memory.
    pub scalar: Scalar,
    pub dims: [u32; 4],
}

/// The launch that writes the one mask of a problem over elements of type `scalar`. Where there is no mask besides the
/// paddings it has the element type, which holds what is added to them; numbers of both are kept in f32.
pub fn joined(problem: &Problem, scalar: Scalar, padding: &PaddingOperand) -> Result<Joined> {
    /// The lowest number of f16.
    const LOWEST: f32 = -65504.0;
    check(problem)?;
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!("masks of {}: f32, f16 and bf16 only", scalar.suffix())));
    }
    let is_wide = scalar != Scalar::F32 && (problem.mask.is_some() || padding.filter < LOWEST);
    let own = problem.mask.map_or(Strides::default(), |mask| mask.strides);
    let row_step = match padding.kind {
        PaddingKind::Rows { strides, .. } => strides.row,
        PaddingKind::Ends | PaddingKind::Ranges => 0,
    };
    let rows = if own.row != 0 || row_step != 0 { problem.q_len } else { 1 };
    let heads = if own.head != 0 { problem.heads } else { 1 };
    let width = problem.kv_len.next_multiple_of(8);
    let [row, plane] = [u64::from(width), u64::from(width) * u64::from(rows)];
    let places = Strides { batch: plane * u64::from(heads), row, head: plane };
    let out = Places { strides: places, stage: 0, keys: problem.kv_len, hidden: 0.0 };
    let wide = if is_wide { "wide_" } else { "" };
    let scalar_out = if is_wide { Scalar::F32 } else { scalar };
    let args = vec![
        optional(operand::OUT, true),
        optional(operand::MASK, problem.mask.is_some()),
        padding_pointer(Some(padding)),
        parameters(&Problem { lengths: None, ..problem.clone() }, Some(padding), Some(out)),
    ];
    let elements = f64::from(problem.batch) * f64::from(heads) * f64::from(rows) * f64::from(width);
    let cost = Cost { flops: elements, bytes: elements * scalar_out.bytes() as f64 };
    let plan = launch(
        format!("attention_plain_masks_{wide}{}", scalar.suffix()),
        [rows, heads, problem.batch],
        args,
        cost,
    );
    let step = |extent: u32, stride: u64| if extent > 1 { stride } else { 0 };
    let strides = Strides {
        batch: step(problem.batch, places.batch),
        row: step(rows, places.row),
        head: step(heads, places.head),
    };
    Ok(Joined {
        plan: overlapping(plan),
        mask: MaskOperand {
            kind: if is_wide { MaskKind::F32 } else { MaskKind::Element },
            strides,
            columns: problem.kv_len,
        },
        scalar: scalar_out,
        dims: [problem.batch, heads, rows, width],
    })
}

/// Where scores are written, which ones, and what stands for those that a row does not see.
#[derive(Clone, Copy)]
struct Places {
    strides: Strides,
    stage: u32,
    keys: u32,
    hidden: f32,
}

fn dense_scores(problem: &Problem, scores: &Scores) -> Places {
    let head = u64::from(problem.q_len) * u64::from(scores.keys);
    let stage = match scores.stage {
        Stage::Raw => 0,
        Stage::Capped => 1,
        Stage::Masked => 2,
        Stage::Weights => 3,
    };
    let strides = Strides { batch: head * u64::from(problem.heads), row: scores.keys.into(), head };
    Places { strides, stage, keys: scores.keys, hidden: scores.hidden }
}

fn symbol(of_scores: bool, is_coded: bool, suffix: &str) -> String {
    let scores = if of_scores { "scores_" } else { "" };
    let coded = if is_coded { "coded_" } else { "" };
    format!("attention_plain_{scores}{coded}{suffix}")
}

fn check(problem: &Problem) -> Result<()> {
    if problem.kv_heads == 0 || problem.heads == 0 || !problem.heads.is_multiple_of(problem.kv_heads) {
        return Err(KernelError::shape(format!(
            "{} query heads over {} key/value heads: must be a multiple",
            problem.heads, problem.kv_heads
        )));
    }
    let columns = problem.head_qk.max(problem.head_v);
    if columns > COLUMNS {
        return Err(KernelError::shape(format!("heads of {columns} columns: at most {COLUMNS}")));
    }
    if problem.heads > 65_535 || problem.batch > 65_535 {
        return Err(KernelError::shape(format!(
            "{} heads of {} sequences: at most 65535 of either",
            problem.heads, problem.batch
        )));
    }
    if problem.codes.is_some_and(|codes| codes.code == Code::I4)
        && [problem.k, problem.v]
            .iter()
            .any(|s| [s.batch, s.row, s.head].iter().any(|stride| stride % 2 != 0))
    {
        return Err(KernelError::shape("codes of 4 bits need rows of whole bytes"));
    }
    if matches!(problem.keys, Keys::Paged { page_rows: 1, .. }) {
        return Err(KernelError::shape("pages of a row: two at least"));
    }
    problem.check_extents()
}

/// `AttentionParams` of the device text.
fn parameters(problem: &Problem, padding: Option<&PaddingOperand>, scores: Option<Places>) -> Arg {
    let mask = problem.mask;
    let strides = |s: Strides| [s.batch, s.row, s.head].map(|stride| stride as i64);
    let of_mask = mask.map_or(Strides::default(), |mask| mask.strides);
    let (causal, offset) = match problem.causal {
        None => (0, 0),
        Some(Causal::BottomRight) => (1, 0),
        Some(Causal::Appended) => (2, 0),
        Some(Causal::Past(past)) => (3, past),
    };
    let lengths = problem.lengths.unwrap_or_default();
    let length_kind = problem.lengths.map_or(0, |lengths| 1 + u32::from(lengths.is_i64));
    let (page_rows, table_columns) = match problem.keys {
        Keys::Contiguous => (0, 0),
        Keys::Paged { page_rows, columns, .. } => (page_rows, columns),
    };
    let (page_magic, page_shift) = division(page_rows);
    let mask_kind = mask.map_or(0, |mask| match mask.kind {
        MaskKind::Element => 1,
        MaskKind::Bool => 2,
        MaskKind::F32 => 3,
    });
    let (padding_kind, padding_strides, padding_past) = match padding.map(|padding| padding.kind) {
        None => (0, Strides::default(), 0),
        Some(PaddingKind::Rows { strides, past, .. }) => (1, strides, past),
        Some(PaddingKind::Ends) => (2, Strides::default(), 0),
        Some(PaddingKind::Ranges) => (3, Strides::default(), 0),
    };
    let (code, scale_kind) = match problem.codes {
        None => (0, 0),
        Some(Codes { code, scales }) => (code_number(code), scales_number(scales)),
    };
    let of_scores = scores.map_or(Strides::default(), |scores| scores.strides);
    Structure::default()
        .i64s::<3>(strides(problem.q))
        .i64s::<3>(strides(problem.k))
        .i64s::<3>(strides(problem.v))
        .i64s::<3>(strides(problem.out))
        .i64s::<3>([of_mask.batch, of_mask.head, of_mask.row].map(|stride| stride as i64))
        .i64s::<2>([padding_strides.batch, padding_strides.row].map(|stride| stride as i64))
        .i64s::<3>([of_scores.batch, of_scores.head, of_scores.row].map(|stride| stride as i64))
        .u32(problem.batch)
        .u32(problem.heads)
        .u32(problem.kv_heads)
        .u32(problem.q_len)
        .u32(problem.kv_len)
        .u32(problem.head_qk)
        .u32(problem.head_v)
        .u32(causal)
        .u32(offset as u32)
        .u32(problem.window_left.map_or(-1, |left| left.min(1 << 30) as i32) as u32)
        .u32(length_kind)
        .u32(lengths.bias as u32)
        .u32(lengths.adds_queries.into())
        .u32(page_rows)
        .u32(page_magic)
        .u32(page_shift)
        .u32(table_columns)
        .u32(mask_kind)
        .u32(mask.map_or(0, |mask| mask.columns))
        .u32(padding_kind)
        .u32(padding_past)
        .u32(problem.has_sinks.into())
        .u32(code)
        .u32(scale_kind)
        .u32(scores.map_or(0, |scores| scores.stage))
        .u32(scores.map_or(0, |scores| scores.keys))
        .f32(problem.scale)
        .f32(problem.soft_cap.unwrap_or(0.0))
        .f32(problem.soft_cap.map_or(0.0, |cap| 1.0 / cap))
        .f32(padding.map_or(0.0, |padding| padding.filter))
        .f32(scores.map_or(0.0, |scores| scores.hidden))
        .finish()
}

/// `CACHE_*` of the device text.
pub(super) fn code_number(code: Code) -> u32 {
    match code {
        Code::E4M3 => 1,
        Code::I8 => 2,
        Code::I4 => 3,
    }
}

/// `SCALE_*` of the device text.
pub(super) fn scales_number(scales: Scales) -> u32 {
    match scales {
        Scales::One => 0,
        Scales::Head => 1,
        Scales::Channel => 2,
    }
}

/// The texts that know the codes of caches, after the arch's own.
pub(super) fn code_texts(arch: Text) -> Vec<Text> {
    let floats = Text { path: "device/float8.cu", text: include_str!("../../../device/float8.cu") };
    let codes = Text { path: "device/cache_code.cuh", text: include_str!("../../../device/cache_code.cuh") };
    vec![arch, scalar::TEXT, floats, codes]
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/attention.cu", text: include_str!("../../../device/attention.cu") };
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let of_type =
        |suffix| kinds.map(|(scores, is_coded): (bool, bool)| kernel(symbol(scores, is_coded, suffix)));
    let masks = ["f32", "f16", "bf16", "wide_f16", "wide_bf16"];
    let masks = masks.map(|suffix| kernel(format!("attention_plain_masks_{suffix}")));
    Unit {
        name: "plain_attention".into(),
        texts: [code_texts(arch), vec![own]].concat(),
        defines: Vec::new(),
        kernels: ["f32", "f16", "bf16"].into_iter().flat_map(of_type).chain(masks).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::launch::Element;
    use super::*;

    fn problem() -> Problem {
        let strides = Strides::heads_first(5, 2, 10);
        Problem {
            causal: Some(Causal::Appended),
            q: strides,
            k: strides,
            v: strides,
            out: strides,
            ..Problem::dense(Element::BF16, [3, 4, 2], [5, 7], [10, 10])
        }
    }

    #[test]
    fn a_row_of_a_head_is_a_block() {
        let plan = plan(&problem(), Scalar::F32, None).unwrap();
        assert_eq!(
            (plan.launches[0].symbol.as_str(), plan.launches[0].grid),
            ("attention_plain_f32", [5, 4, 3])
        );
        let Some(Arg::Bytes { bytes, align }) = plan.launches[0].args.last() else {
            panic!("a structure is passed by value")
        };
        assert_eq!((bytes.len(), *align), (288, 8));
    }

    #[test]
    fn what_the_kernel_does_not_hold_is_refused() {
        assert!(plan(&problem(), Scalar::I32, None).is_err());
        let wide = Problem { head_v: 2048, ..problem() };
        assert!(plan(&wide, Scalar::F32, None).unwrap_err().to_string().contains("1024"));
        let uneven = Problem { kv_heads: 3, ..problem() };
        assert!(plan(&uneven, Scalar::F32, None).unwrap_err().to_string().contains("multiple"));
    }
}
