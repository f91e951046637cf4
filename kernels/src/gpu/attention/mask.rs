//! Masks in memory, and which keys a compiled kernel for many query rows can hide.

use super::{Problem, Strides, operand, optional};
use crate::error::{KernelError, Result};
use crate::gpu::launch::{Arg, Element};

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

/// A mask over `[batch, heads, rows, keys]`; strides in elements, 0 where all share one; keys are neighbours, and those
/// past `columns` are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskOperand {
    pub kind: MaskKind,
    pub strides: Strides,
    pub columns: u32,
}

impl MaskOperand {
    /// Every eighth key of a row lies at a multiple of as many bytes as eight keys have.
    fn is_aligned(&self, problem: &Problem) -> bool {
        let Strides { batch, row, head } = self.strides;
        let counted = [(batch, problem.batch), (row, problem.q_len), (head, problem.heads)];
        counted.iter().all(|(stride, extent)| *extent == 1 || stride % 8 == 0)
    }
}

/// Refuses masks whose rows the 32-bit places of the kernels for a few query rows do not reach.
pub(super) fn check_places(problem: &Problem) -> Result<()> {
    let Some(mask) = problem.mask else { return Ok(()) };
    let Strides { batch, row, head } = mask.strides;
    let last = |extent: u32, stride: u64| u64::from(extent.saturating_sub(1)).saturating_mul(stride);
    let place = last(problem.batch, batch)
        .saturating_add(last(problem.heads, head))
        .saturating_add(last(problem.q_len, row));
    match place < 1 << 32 {
        true => Ok(()),
        false => Err(KernelError::shape(format!(
            "a mask whose last row begins at element {place}: at most 2^32 - 1"
        ))),
    }
}

/// The two arguments that a mask is: `MaskShape` of the device text, and the memory or NULL.
pub(super) fn arguments(problem: &Problem) -> [Arg; 2] {
    let strides = problem.mask.map_or(Strides::default(), |mask| mask.strides);
    let kind: u32 = problem.mask.map_or(0, |mask| match mask.kind {
        MaskKind::F32 => 3,
        MaskKind::Element if problem.element == Element::F32 => 3,
        MaskKind::Element => 1,
        MaskKind::Bool => 2,
    });
    let is_aligned = problem.mask.is_some_and(|mask| mask.is_aligned(problem));
    let mut bytes: Vec<u8> =
        [strides.batch, strides.head, strides.row].iter().flat_map(|stride| stride.to_le_bytes()).collect();
    bytes.extend([kind, is_aligned.into()].iter().flat_map(|value| value.to_le_bytes()));
    [Arg::Bytes { bytes, align: 8 }, optional(operand::MASK, problem.mask.is_some())]
}

/// Which scores a compiled kernel can hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// Past the last key only.
    None,
    Causal,
    /// Every mask that a rule gives, and soft caps.
    General,
    /// The same, and a mask in memory.
    Memory,
}

impl Mask {
    /// The cheapest one that serves a problem.
    pub fn of(problem: &Problem) -> Self {
        if problem.mask.is_some() {
            return Mask::Memory;
        }
        if problem.window_left.is_some() || problem.soft_cap.is_some() {
            return Mask::General;
        }
        if problem.causal.is_some() { Mask::Causal } else { Mask::None }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Mask::None => "full",
            Mask::Causal => "causal",
            Mask::General => "general",
            Mask::Memory => "memory",
        }
    }

    /// As the families' tables spell it.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let known = [Mask::None, Mask::Causal, Mask::General, Mask::Memory];
        known
            .into_iter()
            .find(|mask| mask.name() == name)
            .ok_or_else(|| KernelError::table(format!("mask '{name}': full, causal, general or memory")))
    }

    /// `MASK` of the device text.
    pub(super) fn number(self) -> u32 {
        match self {
            Mask::None => 0,
            Mask::Causal => 1,
            Mask::General => 2,
            Mask::Memory => 3,
        }
    }
}
