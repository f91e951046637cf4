//! Products on Hopper: one thread loads each operand by bulk copies, warpgroups multiply and write.

mod params;
mod plan;
mod select;

use crate::error::Result;
use crate::gpu::arch::{self, Tables};
use crate::gpu::chip::Chip;
use crate::gpu::unit::Unit;

use crate::gpu::launch::Plan;
use crate::gpu::matmul::{Convolution, Problem};

pub use params::Params;
pub use plan::{plan, plan_packed, plan_windows};
pub use select::{Row, Table};

/// The table of a family.
pub fn table(arch: &str) -> Result<&'static Table> {
    static TABLES: Tables<Table> = Tables::new();
    TABLES.get(arch, |arch| Table::parse(arch.operator("matmul")?.table))
}

/// Parameters for a problem: those of the first row that holds its shape, else the candidate with the least estimated time.
pub fn select(arch: &str, problem: &Problem, chip: &Chip) -> Result<Params> {
    problem.check()?;
    problem.check_copies()?;
    table(arch)?.select(problem, chip)
}

/// The launch of a convolution with the candidate of the least estimated time.
pub fn plan_convolution(arch: &str, convolution: &Convolution, chip: &Chip) -> Result<Plan> {
    convolution.check()?;
    let params = table(arch)?.fastest_windows(&convolution.product(), chip)?;
    plan_windows(arch, convolution, &params, chip)
}

/// Every kernel that the table can choose.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let operator = arch::find(arch)?.operator("matmul")?;
    let (texts, packed_texts) = (operator.texts("texts")?, operator.texts("packed_texts")?);
    let mut units = Vec::new();
    for candidate in &table(arch)?.candidates {
        for kind in &candidate.kinds {
            let texts = if candidate.params.weight_bits > 0 { &packed_texts } else { &texts };
            units.push(candidate.params.unit(arch, *kind, texts));
        }
    }
    Ok(units)
}

#[cfg(test)]
mod tests;
