//! Attention without matrix units: every head size, element type and mask. The kernel is `device/attention.cu`.

use super::super::launch::{Arg, Plan};
use super::super::scalar::{self, Scalar, Structure, kernel, launch, overlapping};
use super::super::unit::{Text, Unit};
use super::{Causal, Keys, Problem, Queries, Strides, operand, optional};
use crate::error::{KernelError, Result};

/// Columns of a head at most.
const COLUMNS: u32 = 1024;

/// What the elements of a mask are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    /// Numbers of the problem's element type, added to the scores.
    Element,
    /// Bytes: not zero where a row may look.
    Bool,
    /// f32 numbers, added to the scores.
    F32,
}

/// A mask over `[batch, heads, rows, keys]`; strides in elements, keys are neighbours, and those past `columns` are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskOperand {
    pub kind: MaskKind,
    pub strides: Strides,
    pub columns: u32,
}

/// The launch of a problem over elements of type `scalar`, whatever [`Problem::element`] says. Operands as
/// [`super::operand`] numbers them.
pub fn plan(problem: &Problem, scalar: Scalar, mask: Option<MaskOperand>) -> Result<Plan> {
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
    let args = vec![
        optional(operand::OUT, true),
        optional(operand::Q, true),
        optional(operand::K, true),
        optional(operand::V, true),
        optional(operand::LENGTHS, problem.lengths.is_some()),
        optional(operand::Q_OFFSETS, is_ragged),
        optional(operand::PAGE_TABLE, is_paged),
        optional(operand::SINKS, problem.has_sinks),
        optional(operand::MASK, mask.is_some()),
        parameters(problem, mask),
    ];
    let mut cost = problem.cost();
    cost.bytes *= scalar.bytes() as f64 / problem.element.bytes() as f64;
    let grid = [problem.q_len, problem.heads, problem.batch];
    Ok(overlapping(launch(format!("attention_plain_{}", scalar.suffix()), grid, args, cost)))
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
    problem.check_extents()
}

/// `AttentionParams` of the device text.
fn parameters(problem: &Problem, mask: Option<MaskOperand>) -> Arg {
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
    let mask_kind = mask.map_or(0, |mask| match mask.kind {
        MaskKind::Element => 1,
        MaskKind::Bool => 2,
        MaskKind::F32 => 3,
    });
    Structure::default()
        .i64s::<3>(strides(problem.q))
        .i64s::<3>(strides(problem.k))
        .i64s::<3>(strides(problem.v))
        .i64s::<3>(strides(problem.out))
        .i64s::<3>([of_mask.batch, of_mask.head, of_mask.row].map(|stride| stride as i64))
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
        .u32(table_columns)
        .u32(mask_kind)
        .u32(mask.map_or(0, |mask| mask.columns))
        .u32(problem.has_sinks.into())
        .f32(problem.scale)
        .f32(problem.soft_cap.unwrap_or(0.0))
        .finish()
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/attention.cu", text: include_str!("../../../device/attention.cu") };
    Unit {
        name: "plain_attention".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: ["f32", "f16", "bf16"].map(|suffix| kernel(format!("attention_plain_{suffix}"))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::launch::Element;
    use super::*;

    fn problem() -> Problem {
        let strides = Strides::heads_first(5, 2, 10);
        Problem {
            element: Element::BF16,
            batch: 3,
            heads: 4,
            kv_heads: 2,
            q_len: 5,
            kv_len: 7,
            head_qk: 10,
            head_v: 10,
            scale: 1.0,
            causal: Some(Causal::Appended),
            window_left: None,
            soft_cap: None,
            has_sinks: false,
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: None,
            q: strides,
            k: strides,
            v: strides,
            out: strides,
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
        assert_eq!((bytes.len(), *align), (200, 8));
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
