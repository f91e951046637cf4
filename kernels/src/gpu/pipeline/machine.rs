//! A chip with the constants of its family's `pipeline.toml`.

use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch};
use crate::gpu::chip::Chip;
use crate::table::{self, Row, Value};

/// Constants of a family. Rates are of one compute unit, a cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Operations on 16-bit operands; narrower ones run faster in proportion, down to `narrowest_bits`.
    pub matrix_flops_per_cycle: f64,
    /// Operands as narrow as this still gain.
    pub narrowest_bits: f64,
    pub shared_read_bytes_per_cycle: f64,
    pub shared_write_bytes_per_cycle: f64,
    pub load_bytes_per_cycle: f64,
    /// Lanes of plain and of exponential instructions.
    pub vector_lanes: f64,
    pub exponential_lanes: f64,
    /// Cache that all dies share; 0 where the die's own cache is the last.
    pub shared_cache_bytes: f64,
    /// From that cache to all dies together.
    pub fabric_bytes_per_second: f64,
    /// From the start of a load to its arrival under load: from a cache, and from device memory.
    pub cache_latency_seconds: f64,
    pub latency_seconds: f64,

    /// Exponents of the smooth maximum over an iteration's resources.
    pub overlap: f64,
    pub attention_overlap: f64,
    /// Vector operations for each score of attention beside its exponential.
    pub score_ops: f64,
    /// Of a barrier that nothing hides.
    pub sync_cycles: f64,
    /// Shares of the data sheet's memory rate that streams, and the ends of all tiles together, reach.
    pub memory_share: f64,
    pub store_share: f64,
    /// Of a tile, beside its stores.
    pub tile_seconds: f64,
    /// Until device memory delivers at its full rate, and until it has drained.
    pub ramp_seconds: f64,
    pub launch_seconds: f64,
    /// Of a kernel that all units work on: their first loads and last stores meet. Kernels of fewer workgroups take a share.
    pub crowd_seconds: f64,
    /// Of the sum of a split, for each [`SPLIT_ELEMENTS`] elements of a tile.
    pub split_seconds: f64,
    /// With which the clock falls as activity grows where power is the limit: a third where the voltage follows the clock
    /// (power grows with the clock and the square of the voltage), one where the voltage is at its floor.
    pub power_exponent: f64,
    /// Names of the constants that were fitted to measured kernels.
    pub fitted: Vec<String>,
    /// Mean relative error on measured kernels, each estimated with constants fitted to the others.
    pub error: f64,
}

/// The clock that a chip keeps up when every matrix unit multiplies in every cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Clock {
    pub chip: String,
    pub sustained_hz: f64,
    pub evidence: String,
}

/// Elements of a tile that the sum of a split is timed for.
pub(super) const SPLIT_ELEMENTS: f64 = 8192.0;

/// No tile and no kernel starts and ends in less: a few hundred nanoseconds pass until the first load arrives.
const LEAST_SECONDS: f64 = 0.3e-6;

/// A chip that kernels are estimated for.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub arch: &'static str,
    pub chip: Chip,
    pub model: Model,
    pub sustained_hz: f64,
}

impl Machine {
    /// The chip called `name`, of whichever family has it.
    pub fn find(name: &str) -> Result<Self> {
        let mut known = Vec::new();
        for arch in arch::all() {
            for chip in arch.chips()? {
                if chip.name == name {
                    return Self::of(arch, chip);
                }
                known.push(chip.name);
            }
        }
        Err(KernelError::parameter(format!("there is no chip '{name}': one of {}", known.join(", "))))
    }

    /// A chip of a family.
    pub fn of(arch: &Arch, chip: Chip) -> Result<Self> {
        let text = arch.table("pipeline.toml");
        let text = text
            .ok_or_else(|| KernelError::table(format!("kernels/arch/{} has no pipeline.toml", arch.name)))?;
        let rows = table::parse(text)?;
        let model = rows.iter().find(|row| row.name == "model");
        let model = model.ok_or_else(|| KernelError::table("pipeline.toml has no [[model]]"))?;
        let clocks = rows.iter().filter(|row| row.name == "clock").map(clock).collect::<Result<Vec<_>>>()?;
        // A chip without evidence of its own is taken to slow down as the family's first.
        let own = clocks.iter().find(|clock| clock.chip == chip.name).or(clocks.first());
        let sustained_hz = own.map_or(chip.clock_hz, |clock| clock.sustained_hz.min(chip.clock_hz));
        Ok(Self { arch: arch.name, chip, model: read(model)?, sustained_hz })
    }

    /// A fitted constant by name.
    pub fn constant(&mut self, name: &str) -> Result<&mut f64> {
        let model = &mut self.model;
        Ok(match name {
            "sustained" => &mut self.sustained_hz,
            "overlap" => &mut model.overlap,
            "attention_overlap" => &mut model.attention_overlap,
            "score_ops" => &mut model.score_ops,
            "sync_cycles" => &mut model.sync_cycles,
            "memory_share" => &mut model.memory_share,
            "store_share" => &mut model.store_share,
            "tile_us" => &mut model.tile_seconds,
            "ramp_us" => &mut model.ramp_seconds,
            "launch_us" => &mut model.launch_seconds,
            "crowd_us" => &mut model.crowd_seconds,
            "split_us" => &mut model.split_seconds,
            "power_exponent" => &mut model.power_exponent,
            "load_bytes_per_cycle" => &mut model.load_bytes_per_cycle,
            other => return Err(KernelError::table(format!("pipeline.toml: '{other}' cannot be fitted"))),
        })
    }
}

impl Model {
    /// Matrix operations of a compute unit in a cycle.
    pub fn matrix_rate(&self, element_bits: u32) -> f64 {
        self.matrix_flops_per_cycle * 16.0 / f64::from(element_bits).max(self.narrowest_bits)
    }

    /// Keeps constants where they mean something: a score takes a multiply-add and a maximum at least.
    pub(super) fn limit(&mut self) {
        self.memory_share = self.memory_share.min(0.95);
        self.store_share = self.store_share.min(1.0);
        self.score_ops = self.score_ops.max(2.0);
        self.tile_seconds = self.tile_seconds.max(LEAST_SECONDS);
        self.launch_seconds = self.launch_seconds.max(LEAST_SECONDS);
        self.overlap = self.overlap.clamp(1.0, 64.0);
        self.attention_overlap = self.attention_overlap.clamp(1.0, 64.0);
        self.power_exponent = self.power_exponent.clamp(1.0 / 3.0, 1.0);
    }
}

fn clock(row: &Row) -> Result<Clock> {
    Ok(Clock {
        chip: row.text("chip")?.to_owned(),
        sustained_hz: number(row, "sustained_mhz")? * 1e6,
        evidence: row.text("evidence")?.to_owned(),
    })
}

fn read(row: &Row) -> Result<Model> {
    let microseconds = |key: &str| Ok(number(row, key)? * 1e-6);
    Ok(Model {
        matrix_flops_per_cycle: number(row, "matrix_flops_per_cycle")?,
        narrowest_bits: number(row, "narrowest_bits")?,
        shared_read_bytes_per_cycle: number(row, "shared_read_bytes_per_cycle")?,
        shared_write_bytes_per_cycle: number(row, "shared_write_bytes_per_cycle")?,
        load_bytes_per_cycle: number(row, "load_bytes_per_cycle")?,
        vector_lanes: number(row, "vector_lanes")?,
        exponential_lanes: number(row, "exponential_lanes")?,
        shared_cache_bytes: number(row, "shared_cache_bytes")?,
        fabric_bytes_per_second: number(row, "fabric_gb_per_second")? * 1e9,
        cache_latency_seconds: number(row, "cache_latency_ns")? * 1e-9,
        latency_seconds: number(row, "latency_ns")? * 1e-9,
        overlap: number(row, "overlap")?,
        attention_overlap: number(row, "attention_overlap")?,
        score_ops: number(row, "score_ops")?,
        sync_cycles: number(row, "sync_cycles")?,
        memory_share: number(row, "memory_share")?,
        store_share: number(row, "store_share")?,
        tile_seconds: microseconds("tile_us")?,
        ramp_seconds: microseconds("ramp_us")?,
        launch_seconds: microseconds("launch_us")?,
        crowd_seconds: row.get("crowd_us").map_or(Ok(0.0), |_| microseconds("crowd_us"))?,
        split_seconds: microseconds("split_us")?,
        power_exponent: number(row, "power_exponent")?,
        fitted: row.text("fitted")?.split_whitespace().map(str::to_owned).collect(),
        error: number(row, "error")?,
    })
}

/// A number of a row.
pub(super) fn number(row: &Row, key: &str) -> Result<f64> {
    match row.get(key) {
        Some(Value::Number(v)) => Ok(*v),
        Some(Value::Integer(v)) => Ok(*v as f64),
        found => {
            Err(KernelError::table(format!("row [[{}]]: {key} must be a number, found {found:?}", row.name)))
        }
    }
}
