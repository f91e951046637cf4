//! Attention of com.microsoft (BERT, GPT-2): a projection to queries, keys and values, attention, and a cache that joins
//! keys and values.

use tenon_kernels::gpu::attention::Strides;
use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::product::{self, Activation, Product};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use super::super::{Family, tensor};
use super::multi_head::{Heads, Place, Rows, Surroundings, refuse_masks};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in crate::ops) const FAMILIES: &[Family] =
    &[Family { domain: "com.microsoft", op_types: &["Attention"], lower }];

/// Positions of inputs.
const MASK: usize = 3;
const PAST: usize = 4;
const ATTENTION_BIAS: usize = 5;

struct Attention {
    heads: Heads,
    /// Hidden sizes of queries, keys and values; `None`: a third of the weights each.
    sizes: Option<[usize; 3]>,
}

impl Operator for Attention {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let scalar = cx.scalar(0)?;
        let (dims, weights) = (cx.dims(0)?, cx.dims(1)?);
        let ([batch, rows, hidden], [depth, columns]) = (&dims[..], &weights[..]) else {
            return Err(Error::invalid(format!("an input of shape {dims:?} and weights of {weights:?}")));
        };
        let (batch, rows, columns) = (*batch, *rows, *columns);
        let heads = self.heads.heads;
        let sizes = self.sizes.unwrap_or([columns / 3; 3]);
        let [q_size, k_size, v_size] = sizes;
        let fits = sizes.iter().sum::<usize>() == columns && sizes.iter().all(|size| size % heads == 0);
        if depth != hidden || !fits || q_size != k_size {
            return Err(Error::invalid(format!(
                "weights of shape {weights:?} do not project {hidden} elements to {heads} heads"
            )));
        }
        let projected = project(cx, scalar, [batch * rows, *hidden, columns])?;
        let strides = |width: usize| Strides {
            batch: (rows * columns) as u64,
            row: columns as u64,
            head: width as u64,
        };
        let starts = [0, q_size, q_size + k_size];
        let sides = [0, 1, 2].map(|part| {
            let width = sizes[part] / heads;
            Rows { value: projected, offset: starts[part], strides: strides(width), rows, width, bias: None }
        });
        let widths = [k_size / heads, v_size / heads];
        let (places, past) = self.present(cx, scalar, [batch, rows], widths)?;
        let around = Surroundings {
            places,
            past,
            padding: cx.optional(MASK),
            attention_bias: cx.optional(ATTENTION_BIAS),
            ..Surroundings::default()
        };
        self.heads.run(cx, scalar, batch, sides, &around)
    }
}

impl Attention {
    /// Output 1 with the past in front, where there is one or somebody asks for it; the number of past rows.
    fn present(
        &self,
        cx: &mut Expansion<'_, '_>,
        scalar: Scalar,
        [batch, rows]: [usize; 2],
        [width, v_width]: [usize; 2],
    ) -> Result<(Option<[Place; 2]>, usize)> {
        let heads = self.heads.heads;
        let past = cx.optional(PAST);
        let past_dims = past.map(|past| cx.builder.dims(past).to_vec());
        let past_len = past_dims.as_ref().map_or(0, |dims| dims.get(3).copied().unwrap_or(0));
        if let Some(dims) = &past_dims
            && (dims[..] != [2, batch, heads, past_len, width] || v_width != width)
        {
            return Err(Error::invalid(format!("past has shape {dims:?}")));
        }
        if past.is_none() && !cx.has_output(1) {
            return Ok((None, 0));
        }
        let total = past_len + rows;
        let lengths = [width, v_width].map(|width| batch * heads * total * width);
        let shape = match width == v_width {
            true => vec![2, batch, heads, total, width],
            false => vec![lengths.iter().sum()],
        };
        let present = cx.output(1, scalar, &shape)?;
        if let Some(past) = past.filter(|_| past_len > 0) {
            let shape = [2 * batch * heads, past_len * width];
            let copy = StridedCopy {
                element_bytes: scalar.bytes(),
                dims: shape.to_vec(),
                from_strides: contiguous(&shape),
                from_offset: 0,
                to_strides: vec![(total * width) as i64, 1],
                to_offset: 0,
            };
            cx.run(layout::strided_copy(&copy), &[Some(present), Some(past)])?;
        }
        let place = |offset| Place { value: present, offset };
        Ok((Some([place(0), place(lengths[0])]), past_len))
    }
}

/// Input 0 times the weights, plus the bias: `[tokens, columns]`.
fn project(
    cx: &mut Expansion<'_, '_>,
    scalar: Scalar,
    [tokens, hidden, columns]: [usize; 3],
) -> Result<ValueId> {
    let bias = cx.optional(2);
    if let Some(found) = bias.map(|bias| cx.builder.dims(bias).to_vec())
        && found != [columns]
    {
        return Err(Error::invalid(format!("a bias of shape {found:?} for {columns} columns")));
    }
    let product = Product {
        scalar,
        m: tokens,
        n: columns,
        k: hidden,
        a_strides: (hidden as i64, 1),
        b_strides: (columns as i64, 1),
        bias_strides: bias.map(|_| (0, 1)),
        batch: Vec::new(),
        alpha: 1.0,
        beta: 1.0,
        activation: Activation::None,
    };
    let output = cx.scratch(scalar, &[tokens, columns])?;
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let plan = match tensor::plan(cx, &product, b, false) {
        Some(plan) => Ok(plan),
        None => product::matmul(&product, cx.chip().compute_units),
    };
    cx.run(plan, &[Some(output), Some(a), Some(b), bias, None])?;
    Ok(output)
}

fn lower(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(0)?;
    for name in ["do_rotary", "past_present_share_buffer"] {
        if l.node.int_or(name, 0)? != 0 {
            return Err(Decline(format!("Attention with {name} has no GPU kernel")));
        }
    }
    for index in [1, 2, PAST] {
        if l.has_input(index) && l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    refuse_masks(l, scalar, MASK, ATTENTION_BIAS)?;
    let sizes = match l.node.ints("qkv_hidden_sizes")?.unwrap_or(&[]) {
        [] => None,
        &[q, k, v] if q > 0 && k > 0 && v > 0 => Some([q, k, v].map(|size| size as usize)),
        other => return Err(Decline(format!("attribute 'qkv_hidden_sizes' is {other:?}"))),
    };
    Ok(Box::new(Attention { heads: Heads::of(l)?, sizes }))
}
