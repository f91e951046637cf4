//! Alignments of sequences (com.microsoft): DynamicTimeWarping, BifurcationDetector.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::tensor::{DType, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "DynamicTimeWarping", |_| Ok(Box::new(TimeWarping))),
    Operator::of("com.microsoft", "BifurcationDetector", build_bifurcation),
];

/// The cheapest path from the first to the last cell of a cost matrix `[rows, columns]` or `[1, rows, columns]`, whose
/// steps go down, right or both. Output `[2, length]`: the rows and the columns of its cells.
struct TimeWarping;

/// The last step of the cheapest path to a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Both,
    Down,
    Right,
}

impl Kernel for TimeWarping {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cost = cx.input(0)?;
        let (rows, columns) = match cost.dims() {
            [rows, columns] | [1, rows, columns] if rows * columns > 0 => (*rows, *columns),
            dims => {
                return Err(OpError::invalid(format!("expected costs [rows, columns], got shape {dims:?}")));
            }
        };
        let path = cheapest_path(cost.as_slice::<f32>()?, rows, columns);
        let mut out = cx.output(0, DType::I32, &[2, path.len()])?;
        let (first, second) = out.as_mut_slice::<i32>()?.split_at_mut(path.len());
        for (i, (row, column)) in path.into_iter().rev().enumerate() {
            (first[i], second[i]) = (row as i32, column as i32);
        }
        cx.set(0, out);
        Ok(())
    }
}

/// The cells of the path from the last to the first.
fn cheapest_path(cost: &[f32], rows: usize, columns: usize) -> Vec<(usize, usize)> {
    let width = columns + 1;
    let mut total = vec![f32::INFINITY; (rows + 1) * width];
    let mut steps = vec![Step::Right; (rows + 1) * width];
    total[0] = 0.0;
    for row in 1..=rows {
        for column in 1..=columns {
            let at = row * width + column;
            let (both, down, right) = (total[at - width - 1], total[at - width], total[at - 1]);
            let (step, best) = if both < down && both < right {
                (Step::Both, both)
            } else if down < both && down < right {
                (Step::Down, down)
            } else {
                (Step::Right, right)
            };
            total[at] = best + cost[(row - 1) * columns + column - 1];
            steps[at] = step;
        }
    }
    let (mut row, mut column) = (rows, columns);
    let mut path = Vec::new();
    while row > 0 && column > 0 {
        path.push((row - 1, column - 1));
        let step = steps[row * width + column];
        row -= usize::from(step != Step::Right);
        column -= usize::from(step != Step::Down);
    }
    path
}

/// Joins predicted tokens to the current ones up to where they leave the source, and finds where the source continues
/// what the result ends with.
struct BifurcationDetector {
    shortest: usize,
    longest: usize,
}

fn build_bifurcation(node: &Node) -> Result<Box<dyn Kernel>> {
    let (shortest, longest) = (node.int("min_ngram_size", 1)?, node.int("max_ngram_size", 3)?);
    match (usize::try_from(shortest), usize::try_from(longest)) {
        (Ok(shortest), Ok(longest)) if 0 < shortest && shortest <= longest => {
            Ok(Box::new(BifurcationDetector { shortest, longest }))
        }
        _ => Err(OpError::invalid(format!(
            "n-grams of {shortest} to {longest} tokens: expected 0 < min_ngram_size <= max_ngram_size"
        ))),
    }
}

impl Kernel for BifurcationDetector {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (source, current) = (cx.input(0)?.as_slice::<i64>()?, cx.input(1)?.as_slice::<i64>()?);
        let start = cx.input(2)?.to_scalar::<i64>()?;
        let predicted = cx.optional(3).map(Tensor::as_slice::<i64>).transpose()?;
        let mut tokens = current.to_vec();
        if let Some(predicted) = predicted {
            let rest = usize::try_from(start).ok().and_then(|start| source.get(start..));
            let rest = rest.filter(|rest| predicted.len() == rest.len() + 1).ok_or_else(|| {
                OpError::invalid(format!(
                    "{} predicted tokens do not follow position {start} of {} source tokens",
                    predicted.len(),
                    source.len()
                ))
            })?;
            let agreeing = rest.iter().zip(predicted).take_while(|(source, token)| source == token).count();
            tokens.extend(&predicted[..=agreeing]);
        }
        let found = self.continuation(source, &tokens);
        let mut joined = cx.output(0, DType::I64, &[tokens.len()])?;
        joined.as_mut_slice::<i64>()?.copy_from_slice(&tokens);
        let mut position = cx.output(1, DType::I64, &[])?;
        position.as_mut_slice::<i64>()?[0] = found;
        cx.set(0, joined);
        cx.set(1, position);
        Ok(())
    }
}

impl BifurcationDetector {
    /// The position behind the only place of the source that has the last tokens, for the shortest number of tokens
    /// that have one place; -1 when they have none or several.
    fn continuation(&self, source: &[i64], tokens: &[i64]) -> i64 {
        for size in self.shortest..=self.longest.min(tokens.len()) {
            let last = &tokens[tokens.len() - size..];
            let mut places = source.windows(size).enumerate().filter(|(_, window)| *window == last);
            match (places.next(), places.next()) {
                (None, _) => return -1,
                (Some((at, _)), None) => return (at + size) as i64,
                _ => {}
            }
        }
        -1
    }
}
