//! Matrix products on tensor cores: `D = act(alpha A B, scaled, + bias) + beta residual`, in batches.
//!
//! [`select`] picks parameters for a [`Problem`] from the family's `matmul.toml`, [`plan`] turns both into a launch. What
//! the copy engine cannot address (rows that are no multiple of 16 bytes apart) is refused with the reason; the caller
//! packs the operand or uses another kernel.

mod params;
mod plan;
mod problem;
mod select;

use std::sync::OnceLock;

use super::chip::Chip;
use super::launch::Plan;
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};

pub use params::Params;
pub use plan::plan;
pub use problem::{
    A, Activation, B, BIAS, Bias, D, Element, Epilogue, Kind, Layout, M_SCALE, Matrix, N_SCALE, Problem,
    RESIDUAL, Result as Output,
};
pub use select::{Candidate, Row, Table};

const TEXTS: [Text; 4] = [
    Text { path: "arch/sm90/primitives.cuh", text: include_str!("../../../arch/sm90/primitives.cuh") },
    Text { path: "arch/sm90/matmul_tile.cuh", text: include_str!("../../../arch/sm90/matmul_tile.cuh") },
    Text {
        path: "arch/sm90/matmul_epilogue.cuh",
        text: include_str!("../../../arch/sm90/matmul_epilogue.cuh"),
    },
    Text { path: "arch/sm90/matmul.cu", text: include_str!("../../../arch/sm90/matmul.cu") },
];

/// The table of a family.
pub fn table(arch: &str) -> Result<&'static Table> {
    static SM90: OnceLock<Table> = OnceLock::new();
    match arch {
        "sm90" => Ok(SM90.get_or_init(|| {
            Table::parse(include_str!("../../../arch/sm90/matmul.toml"))
                .expect("the embedded table is tested")
        })),
        _ => Err(KernelError::parameter(format!("arch '{arch}' has no matrix product of its own"))),
    }
}

/// Parameters for a problem: those of the first row that holds its shape, else the candidate with the least estimated time.
pub fn select(arch: &str, problem: &Problem, chip: &Chip) -> Result<Params> {
    problem.check()?;
    table(arch)?.select(problem, chip)
}

/// [`select`], then [`plan()`].
pub fn plan_for(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    plan(arch, problem, &select(arch, problem, chip)?, chip)
}

/// Every kernel that the table can choose.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let table = table(arch)?;
    let mut units = Vec::new();
    for candidate in &table.candidates {
        for kind in &candidate.kinds {
            units.push(candidate.params.unit(arch, *kind, &TEXTS));
        }
    }
    Ok(units)
}

#[cfg(test)]
mod tests;
