//! Which keys a compiled kernel for many query rows can hide.

use super::Problem;
use crate::error::{KernelError, Result};

/// Which scores a compiled kernel can hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// Past the last key only.
    None,
    Causal,
    /// Every mask, and soft caps.
    General,
}

impl Mask {
    /// The cheapest one that serves a problem.
    pub fn of(problem: &Problem) -> Self {
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
        }
    }

    /// As the families' tables spell it.
    pub(super) fn parse(name: &str) -> Result<Self> {
        match name {
            "full" => Ok(Mask::None),
            "causal" => Ok(Mask::Causal),
            "general" => Ok(Mask::General),
            other => Err(KernelError::table(format!("mask '{other}': full, causal or general"))),
        }
    }

    /// `MASK` of the device text.
    pub(super) fn number(self) -> u32 {
        match self {
            Mask::None => 0,
            Mask::Causal => 1,
            Mask::General => 2,
        }
    }
}
