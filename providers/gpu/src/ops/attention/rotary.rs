//! RotaryEmbedding of ai.onnx and com.microsoft.

use tenon_kernels::gpu::attention::Strides;
use tenon_kernels::gpu::rotary::{self, Part, Positions, Rotary};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::Family;
use super::extent;
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(in crate::ops) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["RotaryEmbedding"], lower: onnx },
    Family { domain: "com.microsoft", op_types: &["RotaryEmbedding"], lower: contrib },
];

struct Embedding {
    heads: usize,
    /// Turned columns; 0: all.
    turned: usize,
    is_interleaved: bool,
    /// Positions of the inputs.
    cosines: usize,
    positions: usize,
    /// A three-dimensional input must say how many heads it has.
    needs_heads: bool,
}

impl Operator for Embedding {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (scalar, dims) = (cx.scalar(0)?, cx.dims(0)?);
        let (cosines, sines) = (cx.dims(self.cosines)?, cx.dims(self.cosines + 1)?);
        let half = cosines.last().copied().unwrap_or(0);
        if cosines != sines || cosines.len() < 2 || half == 0 {
            return Err(Error::invalid(format!("cos {cosines:?} and sin {sines:?} do not fit")));
        }
        let (batch, rows, heads, columns) = match dims[..] {
            [batch, heads, rows, columns] => (batch, rows, heads, columns),
            [batch, rows, hidden] => {
                let heads = match self.heads {
                    0 if self.needs_heads => {
                        return Err(Error::invalid("a three-dimensional input needs num_heads"));
                    }
                    0 => hidden / (2 * half),
                    heads => heads,
                };
                if heads == 0 || !hidden.is_multiple_of(heads) {
                    return Err(Error::invalid(format!("{dims:?} does not divide into {heads} heads")));
                }
                (batch, rows, heads, hidden / heads)
            }
            _ => return Err(Error::invalid(format!("an input of shape {dims:?}: three or four axes"))),
        };
        let turned = if self.turned == 0 { columns } else { self.turned };
        if turned != 2 * half || turned > columns {
            return Err(Error::invalid(format!("{half} angles do not turn {turned} of {columns} columns")));
        }
        let angles = cosines.iter().product::<usize>() / half;
        let ids = cx.optional(self.positions);
        let positions = match ids.map(|ids| cx.builder.dims(ids).iter().product::<usize>()) {
            None if angles == batch * rows => Positions::Token,
            None => return Err(Error::invalid(format!("cos {cosines:?} for {batch} x {rows} tokens"))),
            Some(count) if count == batch * rows => Positions::Each,
            Some(1) => Positions::First,
            Some(count) => {
                return Err(Error::invalid(format!("{count} positions for {batch} x {rows} tokens")));
            }
        };
        let (rows, heads, columns) = (extent(rows)?, extent(heads)?, extent(columns)?);
        let strides = match dims.len() {
            4 => Strides::heads_first(rows, heads, columns),
            _ => Strides::rows_first(rows, heads, columns),
        };
        let part = Part { heads, from: strides, to: strides, is_turned: true, ..Part::default() };
        let problem = Rotary {
            scalar,
            batch: extent(batch)?,
            rows,
            columns,
            turned: extent(turned)?,
            is_interleaved: self.is_interleaved,
            angles: extent(angles)?,
            angle_scalar: cx.scalar(self.cosines)?,
            positions,
            length_bias: None,
            parts: [part, Part::default(), Part::default()],
        };
        let output = cx.output(0, scalar, &dims)?;
        let (cosines, sines) = (Some(cx.input(self.cosines)?), Some(cx.input(self.cosines + 1)?));
        let operands = [Some(output), None, None, Some(cx.input(0)?), None, None, cosines, sines, ids, None];
        cx.run(rotary::plan(&problem), &operands)
    }
}

fn onnx(l: &Lowering<'_>) -> Lowered {
    lower(l, 1, 3, true)
}

fn contrib(l: &Lowering<'_>) -> Lowered {
    lower(l, 2, 1, false)
}

fn lower(l: &Lowering<'_>, cosines: usize, positions: usize, needs_heads: bool) -> Lowered {
    l.half_or_single(0)?;
    l.half_or_single(cosines)?;
    if l.scalar(cosines + 1)? != l.scalar(cosines)? {
        return Err(Decline::new("cosines and sines of different types have no GPU kernel"));
    }
    if l.has_input(positions) && l.scalar(positions)? != Scalar::I64 {
        return Err(Decline::new("positions that are not i64 have no GPU kernel"));
    }
    let count = |name: &str| -> std::result::Result<usize, Decline> {
        let count = l.node.int_or(name, 0)?;
        usize::try_from(count).map_err(|_| Decline(format!("attribute '{name}' is {count}")))
    };
    Ok(Box::new(Embedding {
        heads: count("num_heads")?,
        turned: count("rotary_embedding_dim")?,
        is_interleaved: l.node.int_or("interleaved", 0)? != 0,
        cosines,
        positions,
        needs_heads,
    }))
}
