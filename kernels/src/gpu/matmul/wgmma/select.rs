//! Which parameters serve a problem: the first row of the family's table that holds its shape, else the candidate whose
//! estimated time is least.

use super::params::{Params, STAGE_ROW_BYTES};
use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::choice::{self, Candidate, Shapes, bytes, count, least, none_for, tile_count};
use crate::gpu::matmul::problem::Problem;
use crate::table;

/// A measured choice: a range of shapes and the candidate that serves it best.
#[derive(Clone, Debug)]
pub struct Row {
    pub shapes: Shapes,
    /// Index among the table's candidates.
    pub candidate: usize,
    /// Evidence: the chip, and microseconds of this choice and of the vendor's library on it.
    pub chip: String,
    pub microseconds: f64,
    pub peer_microseconds: f64,
}

/// A measured choice for packed weights.
#[derive(Clone, Debug)]
struct PackedRow {
    most_rows: usize,
    least_columns: usize,
    candidate: String,
}

/// Constants of the time estimate.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// Clock under load in Hz.
    clock_hz: f64,
    /// Share of the data sheet's memory rate that a stream reaches.
    memory_share: f64,
    /// Cycles of a stage beyond its matrix instructions.
    stage_cycles: f64,
    /// Bytes a cycle into one compute unit.
    load_bytes_per_cycle: f64,
    /// Cycles of a tile's end for each 128 elements of it, and beyond.
    store_cycles: f64,
    tile_cycles: f64,
    /// Blocks that together reach the memory's rate.
    streaming_blocks: f64,
    /// Of a split's sum, and the factor by which splitting K slows the rest.
    split_seconds: f64,
    split_slowdown: f64,
}

/// A family's `matmul.toml`.
#[derive(Clone, Debug)]
pub struct Table {
    pub candidates: Vec<Candidate<Params>>,
    pub rows: Vec<Row>,
    packed_rows: Vec<PackedRow>,
    model: Model,
}

impl Table {
    /// Reads `[[model]]`, `[[candidate]]` and `[[row]]` blocks.
    pub fn parse(text: &str) -> Result<Self> {
        let blocks = table::parse(text)?;
        let named = |name: &'static str| blocks.iter().filter(move |block| block.name == name);
        let model = choice::model(&blocks)?;
        let candidates: Vec<Vec<Candidate<Params>>> =
            named("candidate").map(candidate).collect::<Result<_>>()?;
        let candidates = candidates.concat();
        let rows = named("row").map(|block| row(block, &candidates)).collect::<Result<_>>()?;
        let packed_rows = named("packed_row").map(packed_row).collect::<Result<Vec<_>>>()?;
        for row in &packed_rows {
            if !candidates.iter().any(|c| c.params.weight_bits > 0 && c.name == row.candidate) {
                return Err(KernelError::table(format!(
                    "no candidate '{}' for packed weights",
                    row.candidate
                )));
            }
        }
        Ok(Self { rows, packed_rows, model: read_model(model)?, candidates })
    }

    /// The parameters for a problem.
    pub fn select(&self, problem: &Problem, chip: &Chip) -> Result<Params> {
        if problem.epilogue.is_gated {
            return self.fastest(problem, chip, 0);
        }
        // A row measured on this chip goes before one of its sibling.
        let mut rows = self.rows.iter().filter(|row| row.shapes.hold(problem));
        if let Some(row) = rows.clone().find(|row| row.chip == chip.name).or_else(|| rows.next()) {
            return Ok(self.candidates[row.candidate].params);
        }
        self.fastest(problem, chip, 0)
    }

    /// The parameters for a problem with packed weights.
    pub fn select_packed(&self, problem: &Problem, chip: &Chip, weight_bits: u32) -> Result<Params> {
        let holds = |row: &&PackedRow| problem.m <= row.most_rows && problem.n >= row.least_columns;
        let chosen = self.packed_rows.iter().filter(holds).find_map(|row| {
            self.candidates.iter().find(|candidate| {
                let Params { weight_bits: own, cluster_k, .. } = candidate.params;
                let blocks = problem.k.div_ceil(candidate.params.bk(problem.kind) as usize);
                candidate.name == row.candidate
                    && own == weight_bits
                    && candidate.kinds.contains(&problem.kind)
                    && blocks >= cluster_k as usize
            })
        });
        match chosen {
            Some(candidate) => Ok(candidate.params),
            None => self.fastest(problem, chip, weight_bits),
        }
    }

    /// The candidate with the least estimated time; `weight_bits`: B is packed, or 0.
    pub fn fastest(&self, problem: &Problem, chip: &Chip, weight_bits: u32) -> Result<Params> {
        self.least(problem, chip, |candidate| {
            let Params { is_gated, weight_bits: own_bits, .. } = candidate.params;
            // Swapped tiles hold all rows of A, else the weights are read more than once.
            !candidate.params.is_windows
                && is_gated == problem.epilogue.is_gated
                && own_bits == weight_bits
                && (!candidate.params.is_swapped
                    || weight_bits > 0
                    || problem.m <= candidate.params.bn as usize)
        })
    }

    /// The same among those that gather windows.
    pub fn fastest_windows(&self, problem: &Problem, chip: &Chip) -> Result<Params> {
        self.least(problem, chip, |candidate| candidate.params.is_windows)
    }

    fn least(
        &self,
        problem: &Problem,
        chip: &Chip,
        fits: impl Fn(&Candidate<Params>) -> bool,
    ) -> Result<Params> {
        let usable = self.candidates.iter().filter(|candidate| {
            let blocks = problem.k.div_ceil(candidate.params.bk(problem.kind) as usize);
            candidate.kinds.contains(&problem.kind)
                && blocks >= candidate.params.cluster_k as usize
                && fits(candidate)
        });
        let timed =
            usable.map(|candidate| (self.seconds(problem, &candidate.params, chip), candidate.params));
        least(timed).ok_or_else(|| none_for(problem))
    }

    /// Estimated time of a problem: compute, loads into the units and memory overlap, the slowest dominates.
    pub fn seconds(&self, problem: &Problem, params: &Params, chip: &Chip) -> f64 {
        let model = &self.model;
        let kind = problem.kind;
        let (rows, columns) = if params.is_swapped { (problem.n, problem.m) } else { (problem.m, problem.n) };
        let tiles = tile_count(rows, params.rows() * params.cluster_m)
            * tile_count(columns, params.columns() * params.cluster_n)
            * problem.batches as f64;
        let slots = f64::from(clusters(params.cluster(), chip));
        let blocks = tiles.min(slots) * f64::from(params.cluster());
        let waves = (tiles / slots).ceil();

        let stages = (problem.k as f64 / f64::from(params.bk(kind))).ceil() / f64::from(params.cluster_k);
        let elements = f64::from(params.bm * params.bn);
        let depth = f64::from(params.bk(kind) * kind.input.bytes() as u32 / STAGE_ROW_BYTES);
        let multiply_cycles = depth * elements / 32.0 + model.stage_cycles;
        let (p_bytes, q_bytes) = params.stage_bytes();
        let load_bytes = p_bytes / params.cluster_n + q_bytes / params.cluster_m;
        let load_cycles = f64::from(load_bytes) / model.load_bytes_per_cycle;
        let end_cycles = model.store_cycles * elements / 128.0 + model.tile_cycles;
        let unit_seconds = waves * (stages * multiply_cycles.max(load_cycles) + end_cycles) / model.clock_hz;

        let memory_rate =
            chip.bytes_per_second * model.memory_share * (blocks / model.streaming_blocks).min(1.0);
        let packed = match params.weight_bits {
            0 => 0.0,
            bits => (problem.n * problem.k) as f64 * (kind.input.bytes() as f64 - f64::from(bits) / 8.0),
        };
        let memory_seconds = (bytes(problem) - packed) / memory_rate;
        let slowest = unit_seconds.max(memory_seconds);
        let other = unit_seconds.min(memory_seconds);
        // A smooth maximum: equal limits hinder each other a little.
        let together = slowest * (1.0 + (other / slowest).powi(6)).powf(1.0 / 6.0);
        if params.cluster_k > 1 { together * model.split_slowdown + model.split_seconds } else { together }
    }
}

/// Clusters that run at a time, one block a unit. Units come in groups whose size larger clusters do not divide.
pub(super) fn clusters(blocks: u32, chip: &Chip) -> u32 {
    let usable = if blocks > 2 { chip.compute_units * 10 / 11 } else { chip.compute_units };
    (usable / blocks).max(1)
}

/// What a block describes: one candidate, or, of packed weights, one for each number of bits.
fn candidate(block: &table::Row) -> Result<Vec<Candidate<Params>>> {
    let params = Params {
        bm: count(block, "bm", None)?,
        bn: count(block, "bn", None)?,
        stages: count(block, "stages", None)?,
        cluster_m: count(block, "cluster_m", Some(1))?,
        cluster_n: count(block, "cluster_n", Some(1))?,
        cluster_k: count(block, "cluster_k", Some(1))?,
        warpgroups: count(block, "warpgroups", None)?,
        panels: count(block, "panels", Some(1))?,
        is_swapped: count(block, "swapped", Some(0))? != 0,
        group: count(block, "group", Some(8))?,
        is_early: count(block, "early", Some(0))? != 0,
        is_gated: count(block, "gated", Some(0))? != 0,
        weight_bits: 0,
        is_windows: count(block, "windows", Some(0))? != 0,
    };
    let bits: Vec<u32> = match block.get("packed_bits") {
        None => vec![0],
        Some(_) => {
            let numbers = block.text("packed_bits")?.split_whitespace().map(str::parse);
            numbers
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| KernelError::table("packed_bits must be numbers of bits, as in \"4 8\""))?
        }
    };
    bits.into_iter().map(|weight_bits| Candidate::read(block, Params { weight_bits, ..params })).collect()
}

fn packed_row(block: &table::Row) -> Result<PackedRow> {
    Ok(PackedRow {
        most_rows: block.size_or("m_max", Some(usize::MAX))?,
        least_columns: block.size_or("n_min", Some(0))?,
        candidate: block.text("candidate")?.to_owned(),
    })
}

fn row(block: &table::Row, candidates: &[Candidate<Params>]) -> Result<Row> {
    let shapes = Shapes::read(block)?;
    Ok(Row {
        candidate: Candidate::named(candidates, block, shapes.kind)?,
        shapes,
        chip: block.text("chip")?.to_owned(),
        microseconds: block.number("us")?,
        peer_microseconds: block.number("peer_us")?,
    })
}

fn read_model(block: &table::Row) -> Result<Model> {
    Ok(Model {
        clock_hz: block.number("clock_mhz")? * 1e6,
        memory_share: block.number("memory_share")?,
        stage_cycles: block.number("stage_cycles")?,
        load_bytes_per_cycle: block.number("load_bytes_per_cycle")?,
        store_cycles: block.number("store_cycles")?,
        tile_cycles: block.number("tile_cycles")?,
        streaming_blocks: block.number("streaming_blocks")?,
        split_seconds: block.number("split_us")? * 1e-6,
        split_slowdown: block.number("split_slowdown")?,
    })
}
