//! Rotary position embeddings: ai.onnx and com.microsoft RotaryEmbedding, MRotaryEmbedding.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::for_rows;
use crate::tensor::Tensor;

/// Rotates the pairs of the first `2 * cos.len()` elements of a head: neighbours when `interleaved`, else halves.
pub fn rotate<T: Real>(head: &mut [T], cos: &[T], sin: &[T], interleaved: bool) {
    let half = cos.len();
    if interleaved {
        for (pair, (&cos, &sin)) in head[..2 * half].chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
        }
        return;
    }
    let (low, high) = head[..2 * half].split_at_mut(half);
    for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*low, *high) = (*low * cos - *high * sin, *low * sin + *high * cos);
    }
}

/// Which operator's inputs these are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `X, cos, sin, position_ids?`
    Onnx,
    /// `X, position_ids, cos, sin`
    Contrib,
    /// The same with three positions a token.
    Sectioned,
}

struct Rotary {
    form: Form,
    heads: usize,
    dim: usize,
    interleaved: bool,
    /// Pairs that take the temporal, height and width position, and whether these alternate.
    sections: [usize; 3],
    alternating: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    of(node, Form::Onnx)
}

pub fn build_contrib(node: &Node) -> Result<Box<dyn Kernel>> {
    of(node, Form::Contrib)
}

pub fn build_sectioned(node: &Node) -> Result<Box<dyn Kernel>> {
    of(node, Form::Sectioned)
}

fn of(node: &Node, form: Form) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let positive = |name: &str| -> Result<usize> {
        let value = node.int(name, 0)?;
        usize::try_from(value).map_err(|_| OpError::invalid(format!("attribute '{name}' is {value}")))
    };
    let mut sections = [0; 3];
    if form == Form::Sectioned {
        let values = node.ints("mrope_section")?.unwrap_or(&[]);
        if values.len() != 3 || values.iter().any(|&value| value < 0) {
            return Err(OpError::invalid(format!("mrope_section {values:?} is not three counts")));
        }
        sections.iter_mut().zip(values).for_each(|(section, &value)| *section = value as usize);
    }
    Ok(Box::new(Rotary {
        form,
        heads: positive("num_heads")?,
        dim: positive("rotary_embedding_dim")?,
        interleaved: node.flag("interleaved", false)?,
        sections,
        alternating: node.flag("mrope_layout", false)?,
    }))
}

impl Kernel for Rotary {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

/// Positions of `[streams, batch, rows]` tokens.
fn positions(tensor: &Tensor, streams: usize, batch: usize, rows: usize) -> Result<Vec<i64>> {
    let values = tensor.to_i64s()?;
    if values.len() == streams * batch * rows {
        return Ok(values.to_vec());
    }
    match (streams, &values[..]) {
        (1, &[first]) => Ok((0..batch * rows).map(|token| first + (token % rows) as i64).collect()),
        _ => Err(OpError::invalid(format!(
            "position_ids of shape {:?} for {batch} × {rows} tokens",
            tensor.dims()
        ))),
    }
}

impl Rotary {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let (cos_index, position_index) = if self.form == Form::Onnx { (1, 3) } else { (2, 1) };
        let x = real::load_input::<T>(cx, 0)?;
        let cos = real::load_input::<T>(cx, cos_index)?;
        let sin = real::load_input::<T>(cx, cos_index + 1)?;
        let half = cos.dims().last().copied().unwrap_or(0);
        if cos.dims() != sin.dims() || cos.rank() < 2 {
            return Err(OpError::invalid(format!(
                "cos {:?} and sin {:?} do not fit",
                cos.dims(),
                sin.dims()
            )));
        }
        // A token's heads lie beside each other in three axes, apart in four.
        let (batch, rows, heads, width, heads_first) = match *x.dims() {
            [batch, heads, rows, width] => (batch, rows, heads, width, true),
            [batch, rows, hidden] => {
                let heads = match self.heads {
                    0 if self.form == Form::Onnx => {
                        return Err(OpError::invalid("a three-dimensional input needs num_heads"));
                    }
                    // Without num_heads the cache tells the size of a head.
                    0 => hidden / (2 * half).max(1),
                    heads => heads,
                };
                if heads == 0 || hidden % heads != 0 {
                    return Err(OpError::invalid(format!(
                        "{hidden} elements do not divide into {heads} heads"
                    )));
                }
                (batch, rows, heads, hidden / heads, false)
            }
            _ => {
                return Err(OpError::invalid(format!(
                    "the input has shape {:?}, expected three or four axes",
                    x.dims()
                )));
            }
        };
        let dim = if self.dim == 0 { width } else { self.dim };
        if dim != 2 * half || dim > width {
            return Err(OpError::invalid(format!(
                "a cache of {half} angles does not rotate {dim} of {width} elements"
            )));
        }
        let streams = if self.form == Form::Sectioned { 3 } else { 1 };
        let ids = cx.optional(position_index).map(|ids| positions(ids, streams, batch, rows)).transpose()?;
        let tokens = batch * rows;
        let count = cos.len() / half.max(1);
        match &ids {
            Some(ids) => {
                if let Some(id) = ids.iter().find(|&&id| id < 0 || id as usize >= count) {
                    return Err(OpError::invalid(format!(
                        "position {id} is outside the cache of {count} positions"
                    )));
                }
            }
            None if count != tokens => {
                return Err(OpError::invalid(format!(
                    "cos of shape {:?} for {batch} × {rows} tokens",
                    cos.dims()
                )));
            }
            None => {}
        }
        let section_of = self.sections_of(half)?;
        let (cos, sin) = (cos.as_slice::<T>()?, sin.as_slice::<T>()?);
        let mut y = Output::new::<T>(cx, 0, dtype, x.dims())?;
        let x = x.as_slice::<T>()?;
        for_rows(cx.parallel(), y.slice::<T>()?, width, width * 4, &|index, head| {
            head.copy_from_slice(&x[index * width..][..width]);
            let token =
                if heads_first { index / (heads * rows) * rows + index % rows } else { index / heads };
            let at = |stream: usize| match &ids {
                Some(ids) => ids[stream * tokens + token] as usize * half,
                None => token * half,
            };
            if self.form == Form::Sectioned {
                let gather = |table: &[T]| -> Vec<T> {
                    section_of.iter().enumerate().map(|(pair, &stream)| table[at(stream) + pair]).collect()
                };
                rotate(head, &gather(cos), &gather(sin), self.interleaved);
            } else {
                rotate(head, &cos[at(0)..][..half], &sin[at(0)..][..half], self.interleaved);
            }
        });
        y.finish(cx)
    }

    /// The position stream that each pair takes.
    fn sections_of(&self, half: usize) -> Result<Vec<usize>> {
        if self.form != Form::Sectioned {
            return Ok(Vec::new());
        }
        if self.sections.iter().sum::<usize>() != half {
            return Err(OpError::invalid(format!(
                "mrope_section {:?} does not add up to {half}",
                self.sections
            )));
        }
        let [temporal, height, width] = self.sections;
        Ok((0..half)
            .map(|pair| {
                if self.alternating {
                    match pair % 3 {
                        1 if pair < 3 * height => 1,
                        2 if pair < 3 * width => 2,
                        _ => 0,
                    }
                } else if pair < temporal {
                    0
                } else {
                    1 + usize::from(pair >= temporal + height)
                }
            })
            .collect())
    }
}
