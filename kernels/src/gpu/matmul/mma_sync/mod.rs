//! Products by single warps (`mma.sync`), with asynchronous copies: every NVIDIA GPU since Ampere.

mod params;
mod plan;
mod select;
mod stream;

use crate::error::Result;
use crate::gpu::arch::{self, Tables};
use crate::gpu::chip::Chip;
use crate::gpu::launch::Plan;
use crate::gpu::matmul::problem::Problem;
use crate::gpu::unit::Unit;

pub use params::Params;
pub use plan::plan;
pub use select::Table;
pub use stream::{stream, stream_units};

/// The table of a family whose products have this main loop.
pub fn table(arch: &str) -> Result<&'static Table> {
    static TABLES: Tables<Table> = Tables::new();
    TABLES.get(arch, |arch| Table::parse(arch.operator("matmul")?.table))
}

/// The launches of a problem with the parameters that the family's table gives it.
pub fn plan_for(arch: &str, problem: &Problem, chip: &Chip) -> Result<Plan> {
    let (params, parts) = table(arch)?.select(problem, chip)?;
    plan(arch, problem, &params, parts, chip)
}

/// Every kernel that the table can choose.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let texts = arch::find(arch)?.operator("matmul")?.texts("texts")?;
    let mut units = Vec::new();
    for candidate in &table(arch)?.candidates {
        for kind in &candidate.kinds {
            units.push(candidate.params.unit(arch, *kind, &texts));
        }
    }
    Ok(units)
}

#[cfg(test)]
mod tests;
