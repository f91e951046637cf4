//! Products on CDNA: matrix instructions of a wave, operands through LDS, and weights straight from memory for few rows.
//!
//! Memory of operands must be readable to the next multiple of 4 bytes: rows of K that end inside a word are read to its end.

pub mod blocks;
mod packed;
mod params;
mod plan;
mod select;
pub mod swizzle;

use crate::error::Result;
use crate::gpu::arch::{self, Tables};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::Problem;
use crate::gpu::unit::Unit;

pub(super) use packed::{output_of, pack_codes};
pub use packed::{packed, packed_units};
pub use params::{Params, Schedule, Step};
pub use plan::plan;
pub use select::{Row, Table};

/// The table of a family.
pub fn table(arch: &str) -> Result<&'static Table> {
    static TABLES: Tables<Table> = Tables::new();
    TABLES.get(arch, |arch| Table::parse(arch.operator("matmul")?.table))
}

/// Parameters for a problem: those of the first row that holds its shape, else the candidate with the least estimated time.
pub fn select(arch: &str, problem: &Problem, chip: &Chip) -> Result<Params> {
    problem.check()?;
    plan::check_addresses(problem)?;
    table(arch)?.select(problem, chip)
}

/// Every kernel that the table can choose.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    let family = arch::find(arch)?;
    let operator = family.operator("matmul")?;
    // What a kernel is compiled for is the same for all chips of a family.
    let chip = family.chip_of("")?;
    let mut units = Vec::new();
    for candidate in &table(arch)?.candidates {
        let texts = operator.texts(candidate.params.schedule.name())?;
        for kind in &candidate.kinds {
            units.push(candidate.params.unit(arch, *kind, &texts, &chip));
        }
    }
    units.extend(blocks::units(family)?);
    Ok(units)
}

#[cfg(test)]
mod tests;
