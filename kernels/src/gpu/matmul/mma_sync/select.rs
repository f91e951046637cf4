//! Which parameters serve a problem: the candidate of its kind with the least estimated time, and into how many parts its
//! depth is split.

use super::params::Params;
use crate::error::Result;
use crate::gpu::chip::Chip;
use crate::gpu::matmul::choice::{self, Candidate, bytes, count, least, none_for, tile_count};
use crate::gpu::matmul::problem::Problem;
use crate::table;

/// Stages of depth that a part of a split has at least.
const PART_BLOCKS: usize = 4;
/// Parts of a split at most.
const PARTS: usize = 16;

/// Constants of the time estimate.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// Multiplications a cycle of a compute unit, of 16-bit operands.
    products_per_cycle: f64,
    /// Cycles of a stage, and of a tile, beyond its products.
    stage_cycles: f64,
    tile_cycles: f64,
    /// The second launch of a split.
    split_seconds: f64,
}

/// A family's `matmul.toml`.
#[derive(Clone, Debug)]
pub struct Table {
    pub candidates: Vec<Candidate<Params>>,
    model: Model,
}

impl Table {
    /// Reads `[[model]]` and `[[candidate]]` blocks.
    pub fn parse(text: &str) -> Result<Self> {
        let blocks = table::parse(text)?;
        let named = |name: &'static str| blocks.iter().filter(move |block| block.name == name);
        let model = choice::model(&blocks)?;
        Ok(Self {
            candidates: named("candidate").map(candidate).collect::<Result<_>>()?,
            model: Model {
                products_per_cycle: model.number("products_per_cycle")?,
                stage_cycles: model.number("stage_cycles")?,
                tile_cycles: model.number("tile_cycles")?,
                split_seconds: model.number("split_us")? * 1e-6,
            },
        })
    }

    /// The parameters for a problem, and the parts of its depth.
    pub fn select(&self, problem: &Problem, chip: &Chip) -> Result<(Params, usize)> {
        let usable = self.candidates.iter().filter(|candidate| {
            candidate.kinds.contains(&problem.kind) && candidate.params.check(problem.kind, chip).is_ok()
        });
        let timed = usable.flat_map(|candidate| {
            let params = candidate.params;
            let blocks = problem.k.div_ceil(Params::bk(problem.kind) as usize);
            let most = if Params::splits(problem.kind) { (blocks / PART_BLOCKS).clamp(1, PARTS) } else { 1 };
            (1..=most).map(move |parts| (self.seconds(problem, &params, parts, chip), (params, parts)))
        });
        least(timed).ok_or_else(|| none_for(problem))
    }

    /// Estimated time of a problem: rounds of tiles, or the memory's rate.
    fn seconds(&self, problem: &Problem, params: &Params, parts: usize, chip: &Chip) -> f64 {
        let model = &self.model;
        let of_matrix = tile_count(problem.m, params.bm) * tile_count(problem.n, params.bn);
        let tiles = of_matrix * (problem.batches * parts) as f64;
        let resident = f64::from(params.resident(chip));
        let slots = f64::from(chip.compute_units) * resident;
        let stages = (problem.k as f64 / f64::from(Params::bk(problem.kind)) / parts as f64).ceil();
        // A stage has the same bytes, and as many 32-byte steps of matrix instructions, for every type.
        let products = f64::from(params.bm * params.bn) * 64.0 / model.products_per_cycle;
        // A tile that shares a unit has half of it.
        let shared = if tiles <= f64::from(chip.compute_units) { 1.0 } else { resident };
        let tile_cycles = stages * (products * shared + model.stage_cycles) + model.tile_cycles;
        let compute_seconds = (tiles / slots).ceil() * tile_cycles / chip.clock_hz;
        let partial_bytes =
            if parts > 1 { (problem.m * problem.n * problem.batches * parts * 8) as f64 } else { 0.0 };
        let memory_seconds = (bytes(problem) + partial_bytes) / (0.85 * chip.bytes_per_second);
        let split_seconds = if parts > 1 { model.split_seconds } else { 0.0 };
        compute_seconds.max(memory_seconds) + 0.2 * compute_seconds.min(memory_seconds) + split_seconds
    }
}

fn candidate(block: &table::Row) -> Result<Candidate<Params>> {
    let params = Params {
        bm: count(block, "bm", None)?,
        bn: count(block, "bn", None)?,
        stages: count(block, "stages", None)?,
        warps_m: count(block, "warps_m", None)?,
        warps_n: count(block, "warps_n", None)?,
        group: count(block, "group", Some(8))?,
    };
    Candidate::read(block, params)
}
