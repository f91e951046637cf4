//! Matrix products on tensor cores: `D = act(alpha A B, scaled, + bias) + beta residual`, in batches.
//!
//! [`plan_for`] picks parameters for a [`Problem`] from the family's `matmul.toml` and turns both into launches. There is
//! one planner for each kind of main loop; `arch.toml` says which serves a family. What a main loop cannot address is
//! refused with the reason; the caller packs the operand or uses another kernel.

mod choice;
pub mod convolution;
pub mod mfma;
pub mod mma_sync;
pub mod nbits;
mod problem;
pub mod wgmma;

use super::arch::{self, Mainloop};
use super::chip::Chip;
use super::launch::Plan;
use super::unit::Unit;
use crate::error::{KernelError, Result};

pub use choice::{Candidate, Shapes};
pub use convolution::Convolution;
pub use problem::{
    A, A_BLOCKS, Activation, B, B_BLOCKS, BIAS, BLOCK, Bias, D, Element, Epilogue, Kind, Layout, M_SCALE,
    Matrix, N_SCALE, Problem, RESIDUAL, Result as Output, UP,
};

/// The launches of a problem with the parameters that the family's table gives it.
pub fn plan_for(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    let mainloop = mainloop(arch)?;
    if mainloop != Mainloop::Wgmma {
        problem.check_plain_epilogue()?;
    }
    match mainloop {
        Mainloop::Wgmma => wgmma::plan(arch, problem, &wgmma::select(arch, problem, chip)?, chip),
        Mainloop::MmaSync => mma_sync::plan_for(arch, problem, chip),
        Mainloop::Mfma => mfma::plan(arch, problem, &mfma::select(arch, problem, chip)?, chip),
    }
}

/// The launches of a convolution, for families whose copies gather windows.
pub fn plan_convolution(arch: &str, convolution: &Convolution, chip: &Chip) -> Result<Plan> {
    match mainloop(arch)? {
        Mainloop::Wgmma => wgmma::plan_convolution(arch, convolution, chip),
        _ => Err(KernelError::parameter(format!("arch '{arch}' gathers no windows"))),
    }
}

/// Whether products of the family gather windows.
pub fn has_convolutions(arch: &str) -> bool {
    matches!(mainloop(arch), Ok(Mainloop::Wgmma))
}

/// The launches of a problem with the kernel called `symbol`, which the family's table holds for its kind.
pub fn plan_symbol(arch: &str, problem: &Problem, symbol: &str, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    let unnamed = || {
        KernelError::parameter(format!("arch '{arch}' has no kernel '{symbol}' for {}", problem.kind.name()))
    };
    match mainloop(arch)? {
        Mainloop::Wgmma => {
            let table = wgmma::table(arch)?;
            let mut usable =
                table.candidates.iter().filter(|candidate| candidate.kinds.contains(&problem.kind));
            let found = usable.find(|candidate| candidate.params.symbol(arch, problem.kind) == symbol);
            wgmma::plan(arch, problem, &found.ok_or_else(unnamed)?.params, chip)
        }
        Mainloop::Mfma => {
            problem.check_plain_epilogue()?;
            let choices = mfma::table(arch)?.choices(problem, chip);
            let found = choices.iter().find(|(params, _)| params.symbol(arch, problem.kind) == symbol);
            mfma::plan(arch, problem, &found.ok_or_else(unnamed)?.0, chip)
        }
        other => unknown(arch, other),
    }
}

/// Every kernel that the family's table can choose.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    match mainloop(arch)? {
        Mainloop::Wgmma => wgmma::units(arch),
        Mainloop::MmaSync => mma_sync::units(arch),
        Mainloop::Mfma => mfma::units(arch),
    }
}

fn mainloop(arch: &str) -> Result<Mainloop> {
    Ok(arch::find(arch)?.operator("matmul")?.mainloop)
}

fn unknown<T>(arch: &str, mainloop: Mainloop) -> Result<T> {
    Err(KernelError::table(format!("arch '{arch}': products have no main loop {mainloop:?}")))
}
