//! What the matmul tables of all main loops share: compiled candidates, the shapes that a row is for, and the bytes that a
//! problem moves.

use super::problem::{Kind, Problem};
use crate::error::{KernelError, Result};
use crate::table;

/// A compiled set of parameters.
#[derive(Clone, Debug)]
pub struct Candidate<P> {
    pub name: String,
    pub params: P,
    /// What it is compiled for.
    pub kinds: Vec<Kind>,
}

impl<P> Candidate<P> {
    /// What a `[[candidate]]` block says beside its parameters.
    pub(super) fn read(block: &table::Row, params: P) -> Result<Self> {
        let kinds = block.text("kinds")?.split_whitespace().map(Kind::parse).collect::<Result<_>>()?;
        Ok(Self { name: block.text("name")?.to_owned(), params, kinds })
    }

    /// The index of the candidate that a block names, which must be compiled for `kind`.
    pub(super) fn named(candidates: &[Self], block: &table::Row, kind: Kind) -> Result<usize> {
        let name = block.text("candidate")?;
        let found = candidates.iter().position(|c| c.name == name && c.kinds.contains(&kind));
        found.ok_or_else(|| KernelError::table(format!("no candidate '{name}' of kind {}", kind.name())))
    }
}

/// The products of one matrix that a row of a table is for. Bounds are inclusive.
#[derive(Clone, Debug)]
pub struct Shapes {
    pub kind: Kind,
    pub m: (usize, usize),
    pub n: (usize, usize),
    pub k: (usize, usize),
}

impl Shapes {
    /// `m = 64` is one extent, `m_min` and `m_max` are a range; so for `n` and `k`.
    pub(super) fn read(block: &table::Row) -> Result<Self> {
        let bounds = |key: &str| -> Result<(usize, usize)> {
            if block.get(key).is_some() {
                return block.size(key).map(|v| (v, v));
            }
            let (low, high) = (format!("{key}_min"), format!("{key}_max"));
            Ok((block.size_or(&low, Some(0))?, block.size_or(&high, Some(usize::MAX))?))
        };
        let kind = Kind::parse(block.text("kind")?)?;
        Ok(Self { kind, m: bounds("m")?, n: bounds("n")?, k: bounds("k")? })
    }

    /// Whether `problem` is one of them.
    pub(super) fn hold(&self, problem: &Problem) -> bool {
        let inside = |bounds: (usize, usize), v: usize| bounds.0 <= v && v <= bounds.1;
        self.kind == problem.kind
            && problem.batches == 1
            && inside(self.m, problem.m)
            && inside(self.n, problem.n)
            && inside(self.k, problem.k)
    }
}

/// The table's one `[[model]]`.
pub(super) fn model(blocks: &[table::Row]) -> Result<&table::Row> {
    let found = blocks.iter().find(|block| block.name == "model");
    found.ok_or_else(|| KernelError::table("matmul.toml has no [[model]]"))
}

/// A small count of a block; what exceeds 32 bits becomes the greatest, which every check refuses.
pub(super) fn count(block: &table::Row, key: &str, default: Option<usize>) -> Result<u32> {
    block.size_or(key, default).map(|v| u32::try_from(v).unwrap_or(u32::MAX))
}

/// What has the least estimated time of pairs (seconds, choice).
pub(super) fn least<T>(timed: impl Iterator<Item = (f64, T)>) -> Option<T> {
    timed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, choice)| choice)
}

/// The error where no candidate is left.
pub(super) fn none_for(problem: &Problem) -> KernelError {
    let gated = if problem.epilogue.is_gated { "gated " } else { "" };
    KernelError::parameter(format!(
        "no kernel is compiled for {gated}products of kind {}",
        problem.kind.name()
    ))
}

/// Bytes that a problem moves at least once.
pub(super) fn bytes(problem: &Problem) -> f64 {
    let [m, n, k, batches] = [problem.m, problem.n, problem.k, problem.batches].map(|v| v as f64);
    let matrices = |matrix| batches / problem.share(matrix) as f64;
    let weights = if problem.epilogue.is_gated { 2.0 } else { 1.0 };
    let inputs = m * k * matrices(&problem.a) + weights * k * n * matrices(&problem.b);
    inputs * problem.kind.input.bits() as f64 / 8.0 + batches * m * n * problem.kind.output.bytes() as f64
}

/// Tiles along an extent.
pub(super) fn tile_count(extent: usize, tile: u32) -> f64 {
    extent.div_ceil(tile as usize) as f64
}
