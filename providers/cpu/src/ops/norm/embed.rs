//! EmbedLayerNormalization: word, position and segment embeddings summed and layer-normalised.

use super::row::{Norm, Normalize};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::ops::rows::for_rows;
use crate::tensor::{DType, Tensor};

struct EmbedNorm {
    epsilon: f32,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(2))?;
    Ok(Box::new(EmbedNorm { epsilon: node.float("epsilon", 1e-12)? }))
}

/// An embedding table and which row each token takes.
struct Lookup<'a> {
    table: &'a [f32],
    rows: Vec<usize>,
}

impl<'a> Lookup<'a> {
    fn new(table: &'a Tensor, width: usize, rows: impl Iterator<Item = i64>) -> Result<Lookup<'a>> {
        let &[count, columns] = table.dims() else {
            return Err(OpError::invalid(format!(
                "an embedding table has two axes, got shape {:?}",
                table.dims()
            )));
        };
        if columns != width {
            return Err(OpError::invalid(format!("embeddings of {columns} and {width} elements do not add")));
        }
        let checked = |row: i64| match usize::try_from(row) {
            Ok(row) if row < count => Ok(row),
            _ => Err(OpError::invalid(format!(
                "index {row} is outside the {count} rows of an embedding table"
            ))),
        };
        Ok(Lookup { table: table.as_slice::<f32>()?, rows: rows.map(checked).collect::<Result<_>>()? })
    }
}

impl Kernel for EmbedNorm {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let ids = cx.input(0)?;
        let &[batch, length] = ids.dims() else {
            return Err(OpError::invalid(format!("input_ids have two axes, got shape {:?}", ids.dims())));
        };
        let ids = ids.to_i64s()?;
        let dtype = cx.input(2)?.dtype();
        let word = real::load_input::<f32>(cx, 2)?;
        let position = real::load_input::<f32>(cx, 3)?;
        let segment = real::load_optional::<f32>(cx, 4)?;
        let (gamma, beta) = (real::load_input::<f32>(cx, 5)?, real::load_input::<f32>(cx, 6)?);
        let width = word.dims().last().copied().unwrap_or(0);
        let positions = match cx.optional(8) {
            Some(positions) if positions.len() == batch * length => positions.to_i64s()?.to_vec(),
            Some(positions) if positions.len() == length => positions.to_i64s()?.repeat(batch),
            Some(positions) => {
                return Err(OpError::invalid(format!("position_ids have shape {:?}", positions.dims())));
            }
            None => (0..batch * length).map(|token| (token % length) as i64).collect(),
        };
        let mut lookups = vec![
            Lookup::new(&word, width, ids.iter().copied())?,
            Lookup::new(&position, width, positions.into_iter())?,
        ];
        if let (Some(table), Some(segments)) = (&segment, cx.optional(1)) {
            let segments = segments.to_i64s()?;
            if segments.len() != batch * length {
                return Err(OpError::invalid("segment_ids have another shape than input_ids"));
            }
            lookups.push(Lookup::new(table, width, segments.iter().copied())?);
        }
        let mut sum = Output::new::<f32>(cx, 2, dtype, &[batch, length, width])?;
        for_rows(cx.parallel(), sum.slice::<f32>()?, width, width * 3, &|token, row| {
            row.fill(0.0);
            for lookup in &lookups {
                let vector = &lookup.table[lookup.rows[token] * width..];
                row.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
            }
        });
        let mut y = Output::new::<f32>(cx, 0, dtype, &[batch, length, width])?;
        let cpu = cx.cpu();
        let affine = [Some(gamma.as_slice::<f32>()?), Some(beta.as_slice::<f32>()?)];
        let norm = Norm { epsilon: self.epsilon, centred: true };
        f32::normalize(
            &cpu,
            norm,
            sum.slice::<f32>()?,
            [batch * length, width],
            affine,
            y.slice::<f32>()?,
            [None, None],
        )?;
        y.finish(cx)?;
        if cx.wants(1) {
            let mut index = cx.zeroed_output(1, DType::I32, &[batch])?;
            if let Some(mask) = cx.optional(7) {
                let mask = mask.to_i64s()?;
                for (count, row) in
                    index.as_mut_slice::<i32>()?.iter_mut().zip(mask.chunks_exact(length.max(1)))
                {
                    *count = row.iter().filter(|&&value| value == 1).count() as i32;
                }
            }
            cx.set(1, index);
        }
        if cx.wants(2) { sum.finish(cx) } else { Ok(()) }
    }
}
