//! TfIdfVectorizer: counts of n-grams of a pool, with skips, optionally weighted.

use std::collections::HashMap;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::text::Strings;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Counts.
    Tf,
    /// Weight of each n-gram that occurs.
    Idf,
    /// Counts times weights.
    TfIdf,
}

/// A set of n-grams as a tree of tokens.
#[derive(Default)]
struct Gram {
    /// The output column of the n-gram that ends here.
    column: Option<usize>,
    next: HashMap<Vec<u8>, Gram>,
}

struct Vectorizer {
    mode: Mode,
    grams: Gram,
    /// One an output column; empty means ones.
    weights: Vec<f32>,
    columns: usize,
    shortest: usize,
    longest: usize,
    max_skip: usize,
}

impl Vectorizer {
    fn count(&self, tokens: &[Vec<u8>], counts: &mut [f32]) {
        let mut shortest = self.shortest;
        for distance in 1..=self.max_skip + 1 {
            for start in 0..tokens.len() {
                if start + distance * (shortest - 1) >= tokens.len() {
                    break;
                }
                let mut gram = &self.grams;
                for (n, token) in tokens[start..].iter().step_by(distance).take(self.longest).enumerate() {
                    let Some(next) = gram.next.get(token) else { break };
                    gram = next;
                    if let Some(column) = gram.column.filter(|_| n + 1 >= shortest) {
                        counts[column] += 1.0;
                    }
                }
            }
            // Skips do not change single tokens: they are counted once.
            if shortest == 1 {
                shortest = 2;
                if shortest > self.longest {
                    break;
                }
            }
        }
    }

    fn weigh(&self, counts: &mut [f32]) {
        for (column, count) in counts.iter_mut().enumerate() {
            let weight = self.weights.get(column).copied().unwrap_or(1.0);
            *count = match self.mode {
                Mode::Tf => *count,
                Mode::Idf if *count > 0.0 => weight,
                Mode::Idf => 0.0,
                Mode::TfIdf => *count * weight,
            };
        }
    }
}

impl Kernel for Vectorizer {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let tokens: Vec<Vec<u8>> = match input.dtype() {
            DType::String => {
                let strings = Strings::new(input)?;
                (0..strings.len()).map(|i| strings.get(i).to_vec()).collect()
            }
            _ => input.to_i64s()?.iter().map(|token| token.to_le_bytes().to_vec()).collect(),
        };
        let (rows, dims): (usize, Dims) = match *input.dims() {
            [] | [_] => (1, Dims::from_slice(&[self.columns])),
            [rows, _] => (rows, Dims::from_slice(&[rows, self.columns])),
            _ => {
                return Err(OpError::invalid(format!(
                    "expected shape [C] or [N, C], got {:?}",
                    input.dims()
                )));
            }
        };
        let mut out = cx.zeroed_output(0, DType::F32, &dims)?;
        let width = tokens.len() / rows.max(1);
        for (row, counts) in out.as_mut_slice::<f32>()?.chunks_exact_mut(self.columns).enumerate() {
            self.count(&tokens[row * width..(row + 1) * width], counts);
            self.weigh(counts);
        }
        cx.set(0, out);
        Ok(())
    }
}

fn positive(node: &Node, name: &str, least: usize) -> Result<usize> {
    let value = node.required_int(name)?;
    usize::try_from(value)
        .ok()
        .filter(|&value| value >= least && value < 1 << 20)
        .ok_or_else(|| OpError::invalid(format!("attribute '{name}' must be at least {least}, got {value}")))
}

fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    let mode = match node.string("mode", "")? {
        "TF" => Mode::Tf,
        "IDF" => Mode::Idf,
        "TFIDF" => Mode::TfIdf,
        other => {
            return Err(OpError::invalid(format!(
                "attribute 'mode' must be TF, IDF or TFIDF, got '{other}'"
            )));
        }
    };
    let pool: Vec<Vec<u8>> = match (node.strings("pool_strings")?, node.ints("pool_int64s")?) {
        (Some(strings), None) => strings.iter().map(|token| token.as_bytes().to_vec()).collect(),
        (None, Some(ints)) => ints.iter().map(|token| token.to_le_bytes().to_vec()).collect(),
        _ => return Err(OpError::invalid("exactly one of pool_strings and pool_int64s must be given")),
    };
    let starts = node.ints("ngram_counts")?.unwrap_or(&[]);
    let indexes = node.ints("ngram_indexes")?.unwrap_or(&[]);
    let column = |i: usize| indexes.get(i).and_then(|&column| usize::try_from(column).ok());
    let (shortest, longest) = (positive(node, "min_gram_length", 1)?, positive(node, "max_gram_length", 1)?);
    let mut grams = Gram::default();
    let mut id = 0;
    for (i, &start) in starts.iter().enumerate() {
        let n = i + 1;
        let end = starts.get(n).copied().unwrap_or(pool.len() as i64);
        let part = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let tokens = part.and_then(|(start, end)| pool.get(start..end)).ok_or_else(|| {
            OpError::invalid(format!("ngram_counts {starts:?} leaves the pool of {} tokens", pool.len()))
        })?;
        for gram in tokens.chunks_exact(n) {
            let column = column(id)
                .ok_or_else(|| OpError::invalid("ngram_indexes needs one index of 0 or more an n-gram"))?;
            id += 1;
            if (shortest..=longest).contains(&n) {
                let end = gram.iter().fold(&mut grams, |at, token| at.next.entry(token.clone()).or_default());
                end.column = Some(column);
            }
        }
    }
    let columns = indexes.iter().copied().max().map_or(0, |last| last.max(-1) + 1) as usize;
    if columns == 0 || columns > 1 << 28 {
        return Err(OpError::invalid("ngram_indexes does not name output columns"));
    }
    let weights = node.floats("weights")?.unwrap_or(&[]).to_vec();
    let max_skip = positive(node, "max_skip_count", 0)?;
    Ok(Box::new(Vectorizer { mode, grams, weights, columns, shortest, longest, max_skip }))
}

pub const OPERATORS: &[Operator] = &[Operator::onnx("TfIdfVectorizer", 9, NEWEST, build)];
