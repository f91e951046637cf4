//! Which parameters serve a problem: the first row of the family's table that holds its shape, else the candidate whose
//! estimated time is least. No row of CDNA was measured by this project, and none says it was.

use super::params::{self, Params, Schedule};
use super::swizzle::ROW_BYTES;
use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::choice::{self, Candidate, Shapes, bytes, count, least, none_for, tile_count};
use crate::gpu::matmul::{Output, Problem};
use crate::table;

/// A choice for a range of shapes.
#[derive(Clone, Debug)]
pub struct Row {
    pub shapes: Shapes,
    /// Index among the table's candidates.
    pub candidate: usize,
    pub splits: u32,
    /// The chip, and where the choice comes from: `estimate`, `published` or `measured`.
    pub chip: String,
    pub evidence: String,
}

/// Constants of the time estimate.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// Share of the peak clock that matrix work runs at.
    clock_share: f64,
    /// Share of the data sheet's memory rate that a stream reaches.
    memory_share: f64,
    /// Cycles of a step beyond its matrix instructions, by schedule; those of a ping-pong in four phases.
    pingpong_cycles: f64,
    ring_cycles: f64,
    staged_cycles: f64,
    stream_cycles: f64,
    /// Bytes a cycle into one compute unit.
    load_bytes_per_cycle: f64,
    /// Cycles of a tile's start and end.
    tile_cycles: f64,
    /// Seconds that the meeting of a tile's parts takes.
    split_seconds: f64,
}

/// A family's `matmul.toml`.
#[derive(Clone, Debug)]
pub struct Table {
    pub candidates: Vec<Candidate<Params>>,
    pub rows: Vec<Row>,
    model: Model,
}

impl Table {
    /// Reads a table.
    pub fn parse(text: &str) -> Result<Self> {
        let blocks = table::parse(text)?;
        let named = |name: &'static str| blocks.iter().filter(move |block| block.name == name);
        let model = choice::model(&blocks)?;
        let candidates: Vec<Candidate<Params>> = named("candidate").map(candidate).collect::<Result<_>>()?;
        let rows = named("row").map(|block| row(block, &candidates)).collect::<Result<_>>()?;
        Ok(Self { rows, model: read_model(model)?, candidates })
    }

    /// The parameters for a problem.
    pub(super) fn select(&self, problem: &Problem, chip: &Chip) -> Result<Params> {
        let holds =
            |row: &&Row| row.chip == chip.name && !problem.epilogue.is_gated && row.shapes.hold(problem);
        if let Some(row) = self.rows.iter().find(holds) {
            let params = self.candidates[row.candidate].params;
            let splits = row.splits.min(most_splits(problem, &params));
            return Ok(with_chunk(Params { splits, ..params }, problem, chip));
        }
        let timed = self.choices(problem, chip).into_iter().map(|(params, seconds)| (seconds, params));
        least(timed).map(|params| with_chunk(params, problem, chip)).ok_or_else(|| none_for(problem))
    }

    /// Every candidate for the problem, with the splits that serve it best and its estimated time in seconds.
    pub fn choices(&self, problem: &Problem, chip: &Chip) -> Vec<(Params, f64)> {
        let usable = self.candidates.iter().filter(|candidate| {
            candidate.kinds.contains(&problem.kind)
                && candidate.params.is_gated == problem.epilogue.is_gated
                && candidate.params.check(problem.kind, chip).is_ok()
                // Weights streamed past few rows are read once for all of them.
                && (candidate.params.schedule != Schedule::Stream
                    || problem.m <= candidate.params.bm as usize)
        });
        usable
            .map(|candidate| {
                let most = most_splits(problem, &candidate.params);
                let splits = [1, 2, 3, 4, 6, 8, 12, 16].into_iter().filter(|splits| *splits <= most);
                let timed = splits.map(|splits| {
                    let params = Params { splits, ..candidate.params };
                    (params, self.seconds(problem, &params, chip))
                });
                timed.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((candidate.params, f64::INFINITY))
            })
            .collect()
    }

    /// Estimated time of a problem: products, loads and memory overlap, the slowest dominates.
    pub fn seconds(&self, problem: &Problem, params: &Params, chip: &Chip) -> f64 {
        let model = &self.model;
        let kind = problem.kind;
        let groups = tile_count(problem.m, params.bm)
            * tile_count(problem.n, params.columns())
            * problem.batches as f64
            * f64::from(params.splits);
        let resident = f64::from(params.resident(kind, chip));
        let units = f64::from(chip.compute_units);
        // Workgroups of the busiest unit; those that share it take turns with its matrix cores.
        let rounds = (groups / units).ceil();
        let together = resident.min(rounds);

        let steps = (problem.k as f64 / f64::from(params.bk(kind))).ceil() / f64::from(params.splits);
        let multiply = f64::from(2 * params.bm * params.bn * params.bk(kind))
            / params::flops_per_cycle(kind.input, chip);
        let overhead = match params.schedule {
            Schedule::PingPong => model.pingpong_cycles * f64::from(params.phases) / 4.0,
            Schedule::Ring => model.ring_cycles,
            Schedule::Staged => model.staged_cycles,
            Schedule::Stream => model.stream_cycles,
        };
        let load = f64::from((params.bm + params.bn) * ROW_BYTES) / model.load_bytes_per_cycle;
        let step = multiply.max(load) + overhead / together;
        let cycles = rounds * (steps * step + model.tile_cycles / together);
        let unit_seconds = cycles / (chip.clock_hz * model.clock_share);

        let workspace =
            if params.splits > 1 { 2.0 * groups * f64::from(params.bm * params.bn) * 4.0 } else { 0.0 };
        let busy = (groups / units).min(1.0);
        let memory_rate = chip.bytes_per_second * model.memory_share * busy;
        let memory_seconds = bytes(problem) / memory_rate;
        let slowest = unit_seconds.max(memory_seconds);
        let other = unit_seconds.min(memory_seconds);
        // A smooth maximum: equal limits hinder each other a little.
        let joint = slowest * (1.0 + (other / slowest).powi(6)).powf(1.0 / 6.0);
        // Parts are written behind a tile's products and read by one workgroup of it.
        if params.splits > 1 { joint + workspace / memory_rate + model.split_seconds } else { joint }
    }
}

impl Table {
    /// Parts into which K is split where `groups` workgroups stream `bytes` of weights, `most` at most: too few of them do
    /// not reach the memory's rate, and the parts of a tile have to meet.
    pub(super) fn stream_splits(&self, groups: u32, bytes: f64, most: u32, chip: &Chip) -> u32 {
        let seconds = |splits: u32| {
            let busy = (f64::from(groups * splits) / f64::from(chip.compute_units)).min(1.0);
            let streamed = bytes / (chip.bytes_per_second * self.model.memory_share * busy);
            streamed + if splits > 1 { self.model.split_seconds } else { 0.0 }
        };
        let splits = [1, 2, 3, 4, 6, 8, 12, 16].into_iter().filter(|splits| *splits <= most);
        splits.min_by(|a, b| seconds(*a).total_cmp(&seconds(*b))).unwrap_or(1)
    }
}

/// Parts into which K can be split: at least four steps each.
fn most_splits(problem: &Problem, params: &Params) -> u32 {
    if problem.kind.output == Output::I32 {
        return 1;
    }
    let steps = problem.k.div_ceil(params.bk(problem.kind) as usize);
    // The sums of 64 parts fill a workgroup's registers anyway.
    (steps / 4).clamp(1, 64) as u32
}

/// Dies take runs of tiles where there are several rounds of them: fewer would leave some dies idle.
fn with_chunk(params: Params, problem: &Problem, chip: &Chip) -> Params {
    let groups = tile_count(problem.m, params.bm)
        * tile_count(problem.n, params.columns())
        * problem.batches as f64
        * f64::from(params.splits);
    let is_worth_it = groups >= 4.0 * f64::from(chip.compute_units);
    Params { chunk: if is_worth_it { params.chunk } else { 0 }, ..params }
}

fn candidate(block: &table::Row) -> Result<Candidate<Params>> {
    let schedule = block.text("schedule")?;
    let schedule = Schedule::ALL.into_iter().find(|known| known.name() == schedule).ok_or_else(|| {
        KernelError::table(format!("schedule '{schedule}': pingpong, ring, staged or stream"))
    })?;
    let params = Params {
        schedule,
        bm: count(block, "bm", None)?,
        bn: count(block, "bn", None)?,
        waves_m: count(block, "waves_m", None)?,
        waves_n: count(block, "waves_n", None)?,
        mma: count(block, "mma", Some(16))?,
        stages: count(block, "stages", None)?,
        phases: count(block, "phases", Some(4))?,
        group: count(block, "group", Some(8))?,
        chunk: count(block, "chunk", Some(64))?,
        splits: 1,
        is_gated: count(block, "gated", Some(0))? != 0,
    };
    Candidate::read(block, params)
}

fn row(block: &table::Row, candidates: &[Candidate<Params>]) -> Result<Row> {
    let shapes = Shapes::read(block)?;
    let evidence = block.text("evidence")?;
    if !["estimate", "published", "measured"].contains(&evidence) {
        return Err(KernelError::table(format!("evidence '{evidence}': estimate, published or measured")));
    }
    Ok(Row {
        candidate: Candidate::named(candidates, block, shapes.kind)?,
        shapes,
        splits: u32::try_from(block.size_or("splits", Some(1))?).unwrap_or(u32::MAX),
        chip: block.text("chip")?.to_owned(),
        evidence: evidence.to_owned(),
    })
}

fn read_model(block: &table::Row) -> Result<Model> {
    Ok(Model {
        clock_share: block.number("clock_share")?,
        memory_share: block.number("memory_share")?,
        pingpong_cycles: block.number("pingpong_cycles")?,
        ring_cycles: block.number("ring_cycles")?,
        staged_cycles: block.number("staged_cycles")?,
        stream_cycles: block.number("stream_cycles")?,
        load_bytes_per_cycle: block.number("load_bytes_per_cycle")?,
        tile_cycles: block.number("tile_cycles")?,
        split_seconds: block.number("split_us")? * 1e-6,
    })
}
