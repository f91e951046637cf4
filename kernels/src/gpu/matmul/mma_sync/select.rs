//! Which parameters serve a problem: the candidate of its kind with the least estimated time, and into how many parts its
//! depth is split.

use super::params::Params;
use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::problem::{Kind, Problem};
use crate::table::{self, Value};

/// Stages of depth that a part of a split has at least.
const PART_BLOCKS: usize = 4;
/// Parts of a split at most.
const PARTS: usize = 16;

/// A compiled set of parameters.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub name: String,
    pub params: Params,
    /// What it is compiled for.
    pub kinds: Vec<Kind>,
}

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
    pub candidates: Vec<Candidate>,
    model: Model,
}

impl Table {
    /// Reads `[[model]]` and `[[candidate]]` blocks.
    pub fn parse(text: &str) -> Result<Self> {
        let blocks = table::parse(text)?;
        let named = |name: &'static str| blocks.iter().filter(move |block| block.name == name);
        let model =
            named("model").next().ok_or_else(|| KernelError::table("matmul.toml has no [[model]]"))?;
        Ok(Self {
            candidates: named("candidate").map(candidate).collect::<Result<_>>()?,
            model: Model {
                products_per_cycle: number(model, "products_per_cycle")?,
                stage_cycles: number(model, "stage_cycles")?,
                tile_cycles: number(model, "tile_cycles")?,
                split_seconds: number(model, "split_us")? * 1e-6,
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
            (1..=most).map(move |parts| (self.seconds(problem, &params, parts, chip), params, parts))
        });
        let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, params, parts)| (params, parts)).ok_or_else(|| {
            KernelError::parameter(format!(
                "no kernel is compiled for products of kind {}",
                problem.kind.name()
            ))
        })
    }

    /// Estimated time of a problem: rounds of tiles, or the memory's rate.
    fn seconds(&self, problem: &Problem, params: &Params, parts: usize, chip: &Chip) -> f64 {
        let model = &self.model;
        let tiles = problem.m.div_ceil(params.bm as usize) * problem.n.div_ceil(params.bn as usize);
        let tiles = (tiles * problem.batches * parts) as f64;
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

/// Bytes that a problem moves at least once.
pub(super) fn bytes(problem: &Problem) -> f64 {
    let [m, n, k, batches] = [problem.m, problem.n, problem.k, problem.batches].map(|v| v as f64);
    let matrices = |matrix| batches / problem.share(matrix) as f64;
    let inputs = m * k * matrices(&problem.a) + k * n * matrices(&problem.b);
    inputs * problem.kind.input.bytes() as f64 + batches * m * n * problem.kind.output.bytes() as f64
}

fn candidate(block: &table::Row) -> Result<Candidate> {
    let count =
        |key: &str, default| block.size_or(key, default).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    Ok(Candidate {
        name: block.text("name")?.to_owned(),
        params: Params {
            bm: count("bm", None)?,
            bn: count("bn", None)?,
            stages: count("stages", None)?,
            warps_m: count("warps_m", None)?,
            warps_n: count("warps_n", None)?,
            group: count("group", Some(8))?,
        },
        kinds: block.text("kinds")?.split_whitespace().map(Kind::parse).collect::<Result<_>>()?,
    })
}

fn number(block: &table::Row, key: &str) -> Result<f64> {
    match block.get(key) {
        Some(Value::Number(v)) => Ok(*v),
        Some(Value::Integer(v)) => Ok(*v as f64),
        found => {
            Err(KernelError::table(format!("[[{}]]: {key} must be a number, found {found:?}", block.name)))
        }
    }
}
