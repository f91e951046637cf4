//! Facts of the chips that a folder under `arch/` serves, read from its `chips.toml`.

use crate::error::Result;
use crate::estimate::Peak;
use crate::table::{self, Row};

/// A GPU model.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    /// Lower case, as users type it.
    pub name: String,
    /// Text that the driver's device name contains.
    pub device_name: String,
    /// Streaming multiprocessors or compute units.
    pub compute_units: u32,
    /// Dies with a cache of their own among which workgroups are dealt; 1 where there is one.
    pub dies: u32,
    /// Shared memory (LDS) that one block can have.
    pub shared_bytes: u32,
    /// 32-bit registers of a compute unit.
    pub registers: u32,
    /// Second-level cache of one die.
    pub l2_bytes: u64,
    /// Device memory.
    pub memory_bytes: u64,
    /// Data sheet, device memory.
    pub bytes_per_second: f64,
    /// Data sheet, dense matrix rates in operations per second.
    pub bf16_flops_per_second: f64,
    pub fp8_flops_per_second: f64,
    /// Highest clock in Hz.
    pub clock_hz: f64,
}

impl Chip {
    /// The roofline of bf16 and f16 matrix work.
    pub fn bf16_peak(&self) -> Peak {
        Peak { flops_per_second: self.bf16_flops_per_second, bytes_per_second: self.bytes_per_second }
    }

    /// The roofline of fp8 matrix work.
    pub fn fp8_peak(&self) -> Peak {
        Peak { flops_per_second: self.fp8_flops_per_second, bytes_per_second: self.bytes_per_second }
    }
}

/// Reads the `[[chip]]` rows of a `chips.toml`.
pub fn parse(text: &str) -> Result<Vec<Chip>> {
    table::parse(text)?.iter().map(chip).collect()
}

fn chip(row: &Row) -> Result<Chip> {
    let size = |key| Ok(u32::try_from(row.size(key)?).unwrap_or(u32::MAX));
    Ok(Chip {
        name: row.text("name")?.to_owned(),
        device_name: row.text("device_name")?.to_owned(),
        compute_units: size("compute_units")?,
        dies: size("dies")?,
        shared_bytes: size("shared_bytes")?,
        registers: size("registers")?,
        l2_bytes: row.size("l2_bytes")? as u64,
        memory_bytes: row.number("memory_gb")? as u64 * 1_000_000_000,
        bytes_per_second: row.number("memory_gb_per_second")? * 1e9,
        bf16_flops_per_second: row.number("bf16_tflops")? * 1e12,
        fp8_flops_per_second: row.number("fp8_tflops")? * 1e12,
        clock_hz: row.number("clock_mhz")? * 1e6,
    })
}
