//! Operators on several residual streams (com.microsoft): HyperConnectionPreMix, HyperConnectionPostMix, EngramGate.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::real::{self, Output};
use crate::tensor::{DType, Dims, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "HyperConnectionPreMix", |node| {
        let scale = node.float("reduction_scale", 1.0)?;
        Ok(Box::new(PreMix { branches: branches(node)?, scale }))
    }),
    Operator::of("com.microsoft", "HyperConnectionPostMix", |node| {
        Ok(Box::new(PostMix { branches: branches(node)? }))
    }),
    Operator::of("com.microsoft", "EngramGate", |node| {
        real_below_double(node.input_dtype(0))?;
        Ok(Box::new(EngramGate { epsilon: node.float("epsilon", 1e-5)? }))
    }),
];

fn real_below_double(dtype: DType) -> Result<()> {
    match dtype {
        DType::F64 => Err(OpError::unsupported("there is no kernel for double")),
        other => real::check(other),
    }
}

/// The number of branches of flattened streams; `None` where an axis of the input tells.
fn branches(node: &Node) -> Result<Option<usize>> {
    real_below_double(node.input_dtype(0))?;
    let count = node.int("num_branches", 0)?;
    let count = usize::try_from(count)
        .map_err(|_| OpError::invalid(format!("num_branches must not be negative, got {count}")))?;
    Ok((count > 0).then_some(count))
}

/// Streams `[rows, branches, width]`, whatever the shape they came in.
struct Streams {
    rows: usize,
    branches: usize,
    width: usize,
    /// The axes before those of branches and width.
    lead: Dims,
}

impl Streams {
    fn of(dims: &[usize], branches: Option<usize>) -> Result<Streams> {
        let bad = || OpError::invalid(format!("streams of shape {dims:?} cannot be split into branches"));
        let (lead, branches, width) = match (branches, dims) {
            (Some(branches), [lead @ .., last]) if last % branches == 0 => (lead, branches, last / branches),
            (None, [lead @ .., branches, width]) => (lead, *branches, *width),
            _ => return Err(bad()),
        };
        Ok(Streams { rows: lead.iter().product(), branches, width, lead: lead.into() })
    }

    /// How many gates a branch has in `gates`: 1, or one for each feature.
    fn gates(&self, gates: &Tensor) -> Result<usize> {
        let branches = self.rows * self.branches;
        match gates.len() {
            len if len == branches => Ok(1),
            len if len == branches * self.width => Ok(self.width),
            _ => Err(OpError::invalid(format!(
                "gates of shape {:?} fit neither {} branches nor their {} features",
                gates.dims(),
                self.branches,
                self.width
            ))),
        }
    }
}

/// `scale * sum over branches of stream * gate`.
struct PreMix {
    branches: Option<usize>,
    scale: f32,
}

impl Kernel for PreMix {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let (x, gates) = (real::load_input::<f32>(cx, 0)?, real::load_input::<f32>(cx, 1)?);
        let streams = Streams::of(x.dims(), self.branches)?;
        let per_branch = streams.gates(&gates)?;
        let mut dims = streams.lead.clone();
        dims.push(streams.width);
        let mut out = Output::new::<f32>(cx, 0, dtype, &dims)?;
        let (x, gates) = (x.as_slice::<f32>()?, gates.as_slice::<f32>()?);
        let Streams { branches, width, .. } = streams;
        for (row, y) in out.slice::<f32>()?.chunks_exact_mut(width.max(1)).enumerate() {
            y.fill(0.0);
            for branch in row * branches..(row + 1) * branches {
                for (h, y) in y.iter_mut().enumerate() {
                    *y += x[branch * width + h] * gates[branch * per_branch + h % per_branch];
                }
            }
            y.iter_mut().for_each(|y| *y *= self.scale);
        }
        out.finish(cx)
    }
}

/// Mixes the streams (input 3, `[.., from, to]`; as they are without it) and adds the block's output (input 1) to each
/// through its gate (input 2).
struct PostMix {
    branches: Option<usize>,
}

impl Kernel for PostMix {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let load = |index| real::load_input::<f32>(cx, index);
        let (x, block, gates) = (load(0)?, load(1)?, load(2)?);
        let mix = real::load_optional::<f32>(cx, 3)?;
        let streams = Streams::of(x.dims(), self.branches)?;
        let per_branch = streams.gates(&gates)?;
        let Streams { rows, branches, width, .. } = streams;
        let mixes = mix.as_ref().map_or(rows * branches * branches, Tensor::len);
        if block.len() != rows * width || mixes != rows * branches * branches {
            return Err(OpError::invalid(format!(
                "{rows} rows of {branches} streams of width {width} do not fit a block output of shape {:?}{}",
                block.dims(),
                mix.map_or_else(String::new, |mix| format!(" and a mix of shape {:?}", mix.dims()))
            )));
        }
        let mut out = Output::new::<f32>(cx, 0, dtype, x.dims())?;
        let (x, block, gates) = (x.as_slice::<f32>()?, block.as_slice::<f32>()?, gates.as_slice::<f32>()?);
        let mix = mix.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
        for (index, y) in out.slice::<f32>()?.chunks_exact_mut(width.max(1)).enumerate() {
            let (row, to) = (index / branches, index % branches);
            let stream = |branch: usize| &x[(row * branches + branch) * width..][..width];
            match mix {
                None => y.copy_from_slice(stream(to)),
                Some(mix) => {
                    y.fill(0.0);
                    for from in 0..branches {
                        let weight = mix[(row * branches + from) * branches + to];
                        y.iter_mut().zip(stream(from)).for_each(|(y, x)| *y += weight * x);
                    }
                }
            }
            for (h, y) in y.iter_mut().enumerate() {
                *y += gates[index * per_branch + h % per_branch] * block[row * width + h];
            }
        }
        out.finish(cx)
    }
}

/// The gate of each stream is a function of the product of its normalised key and query; output 1 is the gated value,
/// normalised. Key and query `[batch, length, streams, width]`, value `[batch, length, width]`, scales `[streams, width]`.
struct EngramGate {
    epsilon: f32,
}

impl Kernel for EngramGate {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let load = |index| real::load_input::<f32>(cx, index);
        let (key, query, value, key_scale, query_scale) = (load(0)?, load(1)?, load(2)?, load(3)?, load(4)?);
        let &[batch, length, streams, width] = key.dims() else {
            return Err(OpError::invalid(format!("the key must have rank 4, got shape {:?}", key.dims())));
        };
        let scale = if cx.wants(1) { Some(load(5)?) } else { None };
        let scales = [Some(&key_scale), Some(&query_scale), scale.as_ref()];
        if query.dims() != key.dims()
            || value.dims() != [batch, length, width]
            || scales.into_iter().flatten().any(|scale| scale.dims() != [streams, width])
        {
            return Err(OpError::invalid(format!(
                "the key has shape {:?}, which query {:?}, value {:?} or scales do not fit",
                key.dims(),
                query.dims(),
                value.dims()
            )));
        }
        let mut gated = cx.scratch(DType::F32, key.dims())?;
        let (k, q, v) = (key.as_slice::<f32>()?, query.as_slice::<f32>()?, value.as_slice::<f32>()?);
        let (k_scale, q_scale) = (key_scale.as_slice::<f32>()?, query_scale.as_slice::<f32>()?);
        for (row, out) in gated.as_mut_slice::<f32>()?.chunks_exact_mut(width.max(1)).enumerate() {
            let (k, q) = (&k[row * width..][..width], &q[row * width..][..width]);
            let weights = row % streams * width;
            let norms = self.inverse_norm(k) * self.inverse_norm(q);
            let product = |h: usize| k[h] * k_scale[weights + h] * q[h] * q_scale[weights + h];
            let dot = (0..width).map(product).sum::<f32>() * norms / (width as f32).sqrt();
            let root = dot.abs().max(1e-6).sqrt();
            let signed = if dot > 0.0 {
                root
            } else if dot < 0.0 {
                -root
            } else {
                0.0
            };
            let gate = 1.0 / (1.0 + (-signed).exp());
            let v = &v[row / streams * width..][..width];
            out.iter_mut().zip(v).for_each(|(out, v)| *out = gate * v);
        }
        if let Some(scale) = scale {
            let scale = scale.as_slice::<f32>()?;
            let mut normed = Output::new::<f32>(cx, 1, dtype, key.dims())?;
            let rows = gated.as_slice::<f32>()?.chunks_exact(width.max(1));
            for (row, (x, y)) in rows.zip(normed.slice::<f32>()?.chunks_exact_mut(width.max(1))).enumerate() {
                let (norm, weights) = (self.inverse_norm(x), &scale[row % streams * width..][..width]);
                y.iter_mut().zip(x).zip(weights).for_each(|((y, x), weight)| *y = x * norm * weight);
            }
            normed.finish(cx)?;
        }
        let mut out = Output::new::<f32>(cx, 0, dtype, key.dims())?;
        out.slice::<f32>()?.copy_from_slice(gated.as_slice::<f32>()?);
        out.finish(cx)
    }
}

impl EngramGate {
    fn inverse_norm(&self, values: &[f32]) -> f32 {
        let squares: f32 = values.iter().map(|v| v * v).sum();
        1.0 / (squares / values.len() as f32 + self.epsilon).sqrt()
    }
}
