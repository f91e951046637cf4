//! MoEGroupRouter: experts chosen by the sigmoid of their logits, within the best groups of experts.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::tensor::{DType, Tensor};

/// The score of an expert is `sigmoid(logit)`; its bias counts for the choice only.
struct GroupRouter {
    groups: usize,
    chosen_groups: usize,
    /// Experts of a group that its rank is the sum of.
    group_experts: usize,
    experts: usize,
    /// What the output holds for experts that are not chosen.
    sentinel: f32,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("MoEGroupRouter has no kernel for double")),
        other => real::check(other)?,
    }
    if node.has_input(2) {
        return Err(OpError::unsupported("MoEGroupRouter has no kernel for projection_weight"));
    }
    let positive = |name: &str, default: i64| {
        let value = node.int(name, default)?;
        let value = usize::try_from(value).ok().filter(|&value| value > 0);
        value.ok_or_else(|| OpError::invalid(format!("attribute '{name}' must be positive")))
    };
    node.required_int("top_k")?;
    Ok(Box::new(GroupRouter {
        groups: positive("n_group", 1)?,
        chosen_groups: positive("topk_group", 1)?,
        group_experts: positive("group_topk", 2)?,
        experts: positive("top_k", 0)?,
        sentinel: node.float("router_sentinel", -10000.0)?,
    }))
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The positions of the `count` largest values, the first of equals first.
fn largest(values: impl Iterator<Item = (usize, f32)>, count: usize) -> Vec<usize> {
    let mut order: Vec<(usize, f32)> = values.collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.into_iter().take(count).map(|(index, _)| index).collect()
}

impl Kernel for GroupRouter {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let (logits, bias) = (real::load_input::<f32>(cx, 0)?, real::load_input::<f32>(cx, 1)?);
        let experts = logits.dims().last().copied().unwrap_or(0);
        if experts == 0 || bias.dims() != [experts] || experts % self.groups != 0 {
            return Err(OpError::invalid(format!(
                "logits of shape {:?} do not fit a bias of shape {:?} and {} groups",
                logits.dims(),
                bias.dims(),
                self.groups
            )));
        }
        if self.chosen_groups > self.groups || self.experts > experts / self.groups * self.chosen_groups {
            return Err(OpError::invalid(format!(
                "{} experts of {} groups cannot be chosen from {experts} experts in {} groups",
                self.experts, self.chosen_groups, self.groups
            )));
        }
        let dims = [logits.len() / experts, experts];
        if cx.wants(1) || cx.wants(2) {
            return self.scores(cx, &logits, &bias, &dims);
        }
        let mut out = Output::new::<f32>(cx, 0, dtype, &dims)?;
        let (logits, bias) = (logits.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        for (logits, out) in logits.chunks_exact(experts).zip(out.slice::<f32>()?.chunks_exact_mut(experts)) {
            self.route(logits, bias, out);
        }
        out.finish(cx)
    }
}

impl GroupRouter {
    /// Writes the logarithms of the chosen experts' scores.
    fn route(&self, logits: &[f32], bias: &[f32], out: &mut [f32]) {
        let size = logits.len() / self.groups;
        let biased: Vec<f32> = logits.iter().zip(bias).map(|(logit, bias)| sigmoid(*logit) + bias).collect();
        let rank = |group: usize| -> f32 {
            let members = biased[group * size..(group + 1) * size].iter().copied().enumerate();
            let best = largest(members, self.group_experts.min(size));
            best.into_iter().map(|at| biased[group * size + at]).sum()
        };
        let groups = largest((0..self.groups).map(|group| (group, rank(group))), self.chosen_groups);
        let candidates = groups.into_iter().flat_map(|group| group * size..(group + 1) * size);
        let chosen = largest(candidates.map(|expert| (expert, biased[expert])), self.experts);
        out.fill(self.sentinel);
        for expert in chosen {
            out[expert] = sigmoid(logits[expert]).max(1e-20).ln();
        }
    }

    /// Outputs 1 and 2: the scores with and without the bias.
    fn scores(&self, cx: &mut Context<'_>, logits: &Tensor, bias: &Tensor, dims: &[usize; 2]) -> Result<()> {
        if cx.wants(0) || self.groups != 1 || self.chosen_groups != 1 {
            return Err(OpError::invalid("full scores need one group and no router_probs"));
        }
        let (mut selection, mut weights) = (cx.output(1, DType::F32, dims)?, cx.output(2, DType::F32, dims)?);
        let (logits, bias) = (logits.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        let outputs = selection.as_mut_slice::<f32>()?.iter_mut().zip(weights.as_mut_slice::<f32>()?);
        for (i, (selection, weight)) in outputs.enumerate() {
            *weight = sigmoid(logits[i]);
            *selection = *weight + bias[i % dims[1]];
        }
        cx.set(1, selection);
        cx.set(2, weights);
        Ok(())
    }
}
