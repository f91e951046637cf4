//! Work of attention: many query rows over blocks of keys, or a few over a cache.

use super::machine::Machine;
use super::work::{Iteration, Schedule, Work};
use super::{Estimate, estimate};
use crate::gpu::attention::{Causal, Problem, mfma, wgmma};

/// Sizes of a kernel for many query rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// Query rows of a workgroup, and keys of a block.
    pub bm: u32,
    pub bn: u32,
    /// Parts of the workgroup that each read all keys and values from shared memory.
    pub readers: u32,
    /// Blocks of keys and values whose loads are under way while one is used.
    pub ahead: u32,
    pub resident: u32,
    /// Barriers of an iteration.
    pub barriers: f64,
}

impl Tile {
    /// Hopper's kernel: a consumer warpgroup for 64 rows.
    pub fn wgmma(params: &wgmma::ForwardParams) -> Self {
        Self {
            bm: params.bm,
            bn: params.bn,
            readers: params.bm / 64,
            ahead: params.stages,
            resident: 1,
            barriers: 1.0,
        }
    }

    /// CDNA's kernel: every wave of 32 rows reads the block that all of them loaded.
    pub fn mfma(params: &mfma::ForwardParams, counts: &mfma::BlockCounts) -> Self {
        Self {
            bm: params.bm(),
            bn: params.bn,
            readers: params.waves,
            ahead: 1,
            resident: 1,
            barriers: f64::from(counts.barriers),
        }
    }
}

/// A cache of codes that a kernel turns into elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coded {
    pub bits: u32,
    /// Vector operations for each code.
    pub ops: f64,
}

/// Extents of a problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub batch: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub q_len: u32,
    pub kv_len: u32,
    pub head_qk: u32,
    pub head_v: u32,
    pub is_causal: bool,
    pub bits: u32,
    /// What keys and values are in memory where not elements of as many bits.
    pub coded: Option<Coded>,
}

impl Shape {
    /// Self-attention with heads of one width and 16-bit elements.
    pub fn own(batch: u32, heads: u32, kv_heads: u32, len: u32, head: u32, is_causal: bool) -> Self {
        Self {
            batch,
            heads,
            kv_heads,
            q_len: len,
            kv_len: len,
            head_qk: head,
            head_v: head,
            is_causal,
            bits: 16,
            coded: None,
        }
    }

    /// The extents of a problem; masks besides the causal one, and what conversions of codes take, are left out.
    pub fn of(problem: &Problem) -> Self {
        Self {
            batch: problem.batch,
            heads: problem.heads,
            kv_heads: problem.kv_heads,
            q_len: problem.q_len,
            kv_len: problem.kv_len,
            head_qk: problem.head_qk,
            head_v: problem.head_v,
            is_causal: matches!(problem.causal, Some(Causal::BottomRight | Causal::Past(0))),
            bits: 8 * problem.element.bytes() as u32,
            coded: problem.codes.map(|codes| Coded { bits: codes.code.bits() as u32, ops: 0.0 }),
        }
    }

    /// Bytes of a number in the cache.
    fn cached_bytes(&self) -> f64 {
        f64::from(self.coded.map_or(self.bits, |coded| coded.bits)) / 8.0
    }

    /// Vector operations that make elements of so many numbers of the cache.
    fn conversions(&self, numbers: f64) -> f64 {
        self.coded.map_or(0.0, |coded| coded.ops * numbers)
    }

    /// Keys that a row sees on average.
    fn seen(&self) -> f64 {
        let [q, kv] = [self.q_len, self.kv_len].map(f64::from);
        if self.is_causal { (kv - q + (q + 1.0) / 2.0).clamp(1.0, kv.max(1.0)) } else { kv }
    }

    fn flops(&self) -> f64 {
        let rows = f64::from(self.batch) * f64::from(self.heads) * f64::from(self.q_len);
        2.0 * rows * self.seen() * f64::from(self.head_qk + self.head_v)
    }

    fn bytes(&self) -> f64 {
        let queries = f64::from(self.q_len) * f64::from(self.heads);
        let keys = f64::from(self.kv_len) * f64::from(self.kv_heads);
        let columns = f64::from(self.batch) * f64::from(self.head_qk + self.head_v);
        columns * (queries * f64::from(self.bits) / 8.0 + keys * self.cached_bytes())
    }
}

/// Expected time of a kernel for many query rows.
pub fn forward(shape: &Shape, tile: &Tile, machine: &Machine) -> Estimate {
    let [bm, bn] = [tile.bm, tile.bn].map(f64::from);
    let [q, kv] = [shape.q_len, shape.kv_len].map(f64::from);
    let heads = f64::from(shape.batch) * f64::from(shape.heads);
    let row_tiles = (q / bm).ceil();
    let columns = f64::from(shape.head_qk + shape.head_v);
    let bytes = f64::from(shape.bits) / 8.0;
    // Blocks up to the one that holds the tile's last visible key.
    let blocks = |row_tile: f64| {
        let last = if shape.is_causal { (kv - q + ((row_tile + 1.0) * bm).min(q)).min(kv) } else { kv };
        (last / bn).ceil().max(1.0)
    };
    let counts: Vec<f64> = (0..row_tiles as u32).map(|tile| blocks(f64::from(tile))).collect();
    let iterations = counts.iter().sum::<f64>() / row_tiles.max(1.0);
    let longest = counts.iter().copied().fold(1.0, f64::max);
    let block_bytes = bn * columns * bytes;
    let load_bytes = bn * columns * shape.cached_bytes();
    let scores = bm * bn;
    let work = Work {
        schedule: Schedule::Attention,
        element_bits: shape.bits,
        groups: heads * row_tiles,
        resident: tile.resident,
        iterations,
        iteration: Iteration {
            matrix_flops: 2.0 * scores * columns,
            vector_ops: scores * machine.model.score_ops + shape.conversions(bn * columns),
            exponentials: scores,
            shared_read_bytes: f64::from(tile.readers) * block_bytes,
            shared_write_bytes: block_bytes,
            load_bytes,
            fabric_bytes_per_die: 0.0,
            barriers: tile.barriers,
        },
        unevenness: shape.is_causal.then_some(longest / iterations),
        bytes_in_flight: f64::from(tile.ahead) * load_bytes,
        store_bytes: bm.min(q) * f64::from(shape.head_v) * bytes,
        end_seconds: 0.0,
        memory_bytes: shape.bytes(),
        extra_seconds: 0.0,
        useful_flops: shape.flops(),
        useful_bytes: shape.bytes(),
    };
    estimate(&work, machine)
}

/// Expected time of a kernel for a few query rows, whose workgroups read a cache once at the memory's rate.
/// `bytes_in_flight`: of one compute unit.
pub fn decode(shape: &Shape, bytes_in_flight: f64, machine: &Machine) -> Estimate {
    let units = f64::from(machine.chip.compute_units);
    let keys = f64::from(shape.batch) * f64::from(shape.kv_len) * f64::from(shape.kv_heads);
    let numbers = keys * f64::from(shape.head_qk + shape.head_v);
    let cache_bytes = numbers * shape.cached_bytes();
    let work = Work {
        schedule: Schedule::Attention,
        element_bits: shape.bits,
        groups: units,
        resident: 1,
        iterations: 1.0,
        iteration: Iteration {
            // The matrix units take 16 rows where there are fewer.
            matrix_flops: shape.flops() / units,
            vector_ops: shape.conversions(numbers) / units,
            exponentials: keys * f64::from(shape.heads / shape.kv_heads.max(1)) / units,
            load_bytes: cache_bytes / units,
            ..Iteration::default()
        },
        unevenness: None,
        // The latency of one load is in the ramp; the loop never waits for a whole cache.
        bytes_in_flight: bytes_in_flight.min(cache_bytes / units).max(1.0),
        store_bytes: 0.0,
        end_seconds: 0.0,
        memory_bytes: shape.bytes(),
        extra_seconds: machine.model.split_seconds,
        useful_flops: shape.flops(),
        useful_bytes: shape.bytes(),
    };
    estimate(&work, machine)
}
