//! Einsum of one or two tensors: transposes around a sum or a product of matrices.

use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::product::{self, Product};
use tenon_kernels::gpu::reduce::{self, Reduction};
use tenon_plugin_api::{Error, Result};

use super::{Family, tensor};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(super) const FAMILIES: &[Family] = &[Family { domain: "", op_types: &["Einsum"], lower: einsum }];

/// Labels of the inputs' dimensions and of the result's. Dimensions under an ellipsis have the labels from
/// [`ELLIPSIS`] on, the last one first.
struct Einsum {
    inputs: Vec<Vec<u32>>,
    output: Vec<u32>,
}

const ELLIPSIS: u32 = 0x11_0000;

impl Operator for Einsum {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        for (index, labels) in self.inputs.iter().enumerate() {
            if cx.dims(index)?.len() != labels.len() {
                let found = cx.dims(index)?;
                return Err(Error::invalid(format!("input {index} of shape {found:?} has another rank")));
            }
        }
        match self.inputs.len() {
            1 => self.sum(cx),
            _ => self.product(cx),
        }
    }
}

/// A value whose dimensions have labels.
struct Labelled {
    value: ValueId,
    labels: Vec<u32>,
}

impl Einsum {
    /// The extent of a label; both inputs must agree on it.
    fn extent(&self, cx: &Expansion<'_, '_>, label: u32) -> Result<usize> {
        let mut extent = None;
        for (index, labels) in self.inputs.iter().enumerate() {
            if let Some(axis) = labels.iter().position(|&known| known == label) {
                let found = cx.dims(index)?[axis];
                if *extent.get_or_insert(found) != found {
                    return Err(Error::invalid("a label stands for different extents"));
                }
            }
        }
        extent.ok_or_else(|| Error::internal("a label of no input"))
    }

    fn extents(&self, cx: &Expansion<'_, '_>, labels: &[u32]) -> Result<Vec<usize>> {
        labels.iter().map(|&label| self.extent(cx, label)).collect()
    }

    fn sum(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let labels = &self.inputs[0];
        let kept: Vec<u32> = labels.iter().copied().filter(|label| self.output.contains(label)).collect();
        let axes: Vec<usize> =
            (0..labels.len()).filter(|&axis| !self.output.contains(&labels[axis])).collect();
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        if axes.is_empty() {
            return self.arrange(cx, Labelled { value: input, labels: kept });
        }
        let shape = self.extents(cx, &kept)?;
        let is_arranged = kept == self.output;
        let value = if is_arranged { cx.output(0, scalar, &shape)? } else { cx.scratch(scalar, &shape)? };
        cx.run(reduce::plan(Reduction::Sum, scalar, &dims, &axes), &[Some(value), Some(input)])?;
        if is_arranged { Ok(()) } else { self.arrange(cx, Labelled { value, labels: kept }) }
    }

    fn product(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let [a, b] = [&self.inputs[0], &self.inputs[1]];
        let pick = |from: &[u32], other: bool, out: bool| -> Vec<u32> {
            let other_labels = if std::ptr::eq(from, a.as_slice()) { b } else { a };
            let fits =
                |label: &&u32| other_labels.contains(label) == other && self.output.contains(label) == out;
            from.iter().filter(fits).copied().collect()
        };
        let (batch, rows, depth) = (pick(a, true, true), pick(a, false, true), pick(a, true, false));
        let columns = pick(b, false, true);
        let size = |labels: &[u32]| -> Result<usize> { Ok(self.extents(cx, labels)?.iter().product()) };
        let [batches, m, k, n] = [size(&batch)?, size(&rows)?, size(&depth)?, size(&columns)?];
        let scalar = cx.scalar(0)?;
        let (left, is_left_turned) = self.matrices(cx, 0, &batch, &rows, &depth)?;
        let (right, is_right_turned) = self.matrices(cx, 1, &batch, &depth, &columns)?;
        let labels = [batch, rows, columns].concat();
        let shape = self.extents(cx, &labels)?;
        let is_arranged = labels == self.output;
        let value = if is_arranged { cx.output(0, scalar, &shape)? } else { cx.scratch(scalar, &shape)? };
        let strides = |is_turned: bool, rows: usize, columns: usize| match is_turned {
            false => (columns as i64, 1),
            true => (1, rows as i64),
        };
        let problem = Product {
            scalar,
            m,
            n,
            k,
            a_strides: strides(is_left_turned, m, k),
            b_strides: strides(is_right_turned, k, n),
            bias_strides: None,
            batch: if batches == 1 { vec![] } else { vec![(batches, [(m * k) as i64, (k * n) as i64, 0])] },
            alpha: 1.0,
            beta: 1.0,
            activation: product::Activation::None,
        };
        let plan = match tensor::plan(cx, &problem, right, false) {
            Some(plan) => Ok(plan),
            None => product::matmul(&problem, cx.chip().compute_units),
        };
        cx.run(plan, &[Some(value), Some(left), Some(right), None])?;
        if is_arranged { Ok(()) } else { self.arrange(cx, Labelled { value, labels }) }
    }

    /// Input `index` as `[batch, rows, columns]`, or, where that needs no copy, as `[batch, columns, rows]` (true).
    fn matrices(
        &self,
        cx: &mut Expansion<'_, '_>,
        index: usize,
        batch: &[u32],
        rows: &[u32],
        columns: &[u32],
    ) -> Result<(ValueId, bool)> {
        let (value, labels) = (cx.input(index)?, &self.inputs[index]);
        if *labels == [batch, columns, rows].concat() {
            return Ok((value, !rows.is_empty() && !columns.is_empty()));
        }
        let order = [batch, rows, columns].concat();
        if *labels == order {
            return Ok((value, false));
        }
        let to = cx.scratch(cx.scalar(index)?, &self.extents(cx, &order)?)?;
        transpose(cx, to, &Labelled { value, labels: labels.clone() }, &order)?;
        Ok((to, false))
    }

    /// Brings a value into the order of the result.
    fn arrange(&self, cx: &mut Expansion<'_, '_>, from: Labelled) -> Result<()> {
        let shape = self.extents(cx, &self.output)?;
        if from.labels == self.output {
            return cx.view(0, from.value, 0, &shape);
        }
        let output = cx.output(0, cx.builder.scalar(from.value), &shape)?;
        transpose(cx, output, &from, &self.output)
    }
}

/// Copies `from` into `to`, whose dimensions have the labels `order`.
fn transpose(cx: &mut Expansion<'_, '_>, to: ValueId, from: &Labelled, order: &[u32]) -> Result<()> {
    let own = contiguous(cx.builder.dims(from.value));
    let stride =
        |label: &u32| from.labels.iter().position(|known| known == label).map_or(0, |axis| own[axis]);
    let dims = cx.builder.dims(to).to_vec();
    let copy = StridedCopy {
        element_bytes: cx.builder.scalar(from.value).bytes(),
        from_strides: order.iter().map(stride).collect(),
        from_offset: 0,
        to_strides: contiguous(&dims),
        to_offset: 0,
        dims,
    };
    cx.run(layout::strided_copy(&copy), &[Some(to), Some(from.value)])
}

fn einsum(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(0)?;
    let equation: String = l.node.text_or("equation", "")?.split_whitespace().collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() > 2 {
        return Err(Decline(format!("a sum over {} tensors has no GPU kernel", terms.len())));
    }
    if l.has_input(1) && l.scalar(1)? != scalar {
        return Err(Decline::new("the inputs differ in type"));
    }
    let mut hidden = 0;
    let mut inputs = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let rank = l.rank(index)?;
        let written = term.replace("...", "").chars().count();
        let covered = rank.checked_sub(written).ok_or_else(|| Decline::new("more labels than dimensions"))?;
        let labels = labels_of(term, covered);
        if labels.len() != rank {
            return Err(Decline::new("labels and dimensions differ in number"));
        }
        hidden = hidden.max(covered);
        inputs.push(labels);
    }
    let output = match right {
        Some(right) => labels_of(right, hidden),
        None => implied(&inputs, hidden),
    };
    check(&inputs, &output)?;
    Ok(Box::new(Einsum { inputs, output }))
}

/// The labels of a term whose ellipsis covers `covered` dimensions.
fn labels_of(term: &str, covered: usize) -> Vec<u32> {
    let mut labels = Vec::new();
    let (front, back) = term.split_once("...").unwrap_or((term, ""));
    labels.extend(front.chars().map(u32::from));
    if term.contains("...") {
        labels.extend((0..covered as u32).rev().map(|number| ELLIPSIS + number));
    }
    labels.extend(back.chars().map(u32::from));
    labels
}

/// Without an arrow: the ellipsis, then the labels that occur once, in alphabetical order.
fn implied(inputs: &[Vec<u32>], hidden: usize) -> Vec<u32> {
    let all: Vec<u32> = inputs.concat();
    let occurs_once = |label: &u32| all.iter().filter(|known| *known == label).count() == 1;
    let mut named: Vec<u32> =
        all.iter().copied().filter(|label| *label < ELLIPSIS && occurs_once(label)).collect();
    named.sort_unstable();
    (0..hidden as u32).rev().map(|number| ELLIPSIS + number).chain(named).collect()
}

/// Declines diagonals, broadcast ellipses, labels that only the result has, and sums over one of two tensors.
fn check(inputs: &[Vec<u32>], output: &[u32]) -> std::result::Result<(), Decline> {
    let repeats = |labels: &[u32]| (1..labels.len()).any(|at| labels[..at].contains(&labels[at]));
    if inputs.iter().any(|labels| repeats(labels)) || repeats(output) {
        return Err(Decline::new("a diagonal has no GPU kernel"));
    }
    if output.iter().any(|label| inputs.iter().all(|labels| !labels.contains(label))) {
        return Err(Decline::new("the result has a label that no input has"));
    }
    if let [a, b] = inputs {
        let alone = |labels: &[u32], other: &[u32]| {
            labels.iter().any(|label| !other.contains(label) && !output.contains(label))
        };
        if alone(a, b) || alone(b, a) {
            return Err(Decline::new("a sum over a dimension of one of two tensors has no GPU kernel"));
        }
    }
    Ok(())
}
