//! Matrix products on tensor cores: `D = act(alpha A B, scaled, + bias) + beta residual`, in batches.
//!
//! [`plan_for`] picks parameters for a [`Problem`] from the family's `matmul.toml` and turns both into launches. There is
//! one planner for each kind of main loop; `arch.toml` says which serves a family. What a main loop cannot address is
//! refused with the reason; the caller packs the operand or uses another kernel.

mod problem;
pub mod wgmma;

use super::arch::{self, Mainloop};
use super::chip::Chip;
use super::launch::Plan;
use super::unit::Unit;
use crate::error::{KernelError, Result};

pub use problem::{
    A, Activation, B, BIAS, Bias, D, Element, Epilogue, Kind, Layout, M_SCALE, Matrix, N_SCALE, Problem,
    RESIDUAL, Result as Output,
};

/// The launches of a problem with the parameters that the family's table gives it.
pub fn plan_for(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    match mainloop(arch)? {
        Mainloop::Wgmma => wgmma::plan(arch, problem, &wgmma::select(arch, problem, chip)?, chip),
        other => unknown(arch, other),
    }
}

/// Every kernel that the family's table can choose.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    match mainloop(arch)? {
        Mainloop::Wgmma => wgmma::units(arch),
        other => unknown(arch, other),
    }
}

fn mainloop(arch: &str) -> Result<Mainloop> {
    Ok(arch::find(arch)?.operator("matmul")?.mainloop)
}

fn unknown<T>(arch: &str, mainloop: Mainloop) -> Result<T> {
    Err(KernelError::table(format!("arch '{arch}': products have no main loop {mainloop:?}")))
}
