//! Optimiser steps of ai.onnx.preview.training: Adagrad, Adam and Momentum.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::cast::converted;
use crate::ops::real::{self, Real, with_real};
use crate::tensor::DType;

/// The numbers of a step, from the attributes.
#[derive(Clone, Copy, Default)]
struct Numbers {
    alpha: f64,
    beta: f64,
    epsilon: f64,
    decay: f64,
    /// Weight of the regularisation term in the gradient.
    norm: f64,
    /// Weight of the regularisation after the step.
    norm_after: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Adagrad,
    Adam,
    Momentum,
    Nesterov,
}

struct Step {
    rule: Rule,
    numbers: Numbers,
}

impl Step {
    /// State tensors beside the value and the gradient.
    fn states(&self) -> usize {
        if self.rule == Rule::Adam { 2 } else { 1 }
    }

    /// The new value and states of one element.
    fn apply(&self, rate: f64, count: f64, x: f64, gradient: f64, states: [f64; 2]) -> (f64, [f64; 2]) {
        let Numbers { alpha, beta, epsilon, decay, norm, norm_after } = self.numbers;
        let g = norm * x + gradient;
        match self.rule {
            Rule::Adagrad => {
                let squares = states[0] + g * g;
                (x - rate / (1.0 + count * decay) * g / (squares.sqrt() + epsilon), [squares, 0.0])
            }
            Rule::Adam => {
                let momentum = alpha * states[0] + (1.0 - alpha) * g;
                let squares = beta * states[1] + (1.0 - beta) * g * g;
                let corrected = if count > 0.0 {
                    rate * (1.0 - beta.powf(count)).sqrt() / (1.0 - alpha.powf(count))
                } else {
                    rate
                };
                let stepped = x - corrected * momentum / (squares.sqrt() + epsilon);
                ((1.0 - norm_after) * stepped, [momentum, squares])
            }
            Rule::Momentum | Rule::Nesterov => {
                let weight = if count > 0.0 { beta } else { 1.0 };
                let momentum = alpha * states[0] + weight * g;
                let direction = if self.rule == Rule::Momentum { momentum } else { g + alpha * momentum };
                (x - rate * direction, [momentum, 0.0])
            }
        }
    }

    fn step<T: Real>(
        &self,
        cx: &mut Context<'_>,
        rate: f64,
        count: f64,
        item: usize,
        items: usize,
    ) -> Result<()> {
        let states = self.states();
        let dtype = cx.input(2 + item)?.dtype();
        let input = |group: usize| real::load_input::<T>(cx, 2 + group * items + item);
        let (x, gradient, first) = (input(0)?, input(1)?, input(2)?);
        let second = if states == 2 { Some(input(3)?) } else { None };
        for tensor in [Some(&gradient), Some(&first), second.as_ref()].into_iter().flatten() {
            if tensor.dims() != x.dims() {
                return Err(OpError::invalid(format!(
                    "expected shape {:?}, got {:?}",
                    x.dims(),
                    tensor.dims()
                )));
            }
        }
        let output = |group: usize| real::Output::new::<T>(cx, group * items + item, dtype, x.dims());
        let (mut x_out, mut first_out) = (output(0)?, output(1)?);
        let mut second_out = if states == 2 { Some(output(2)?) } else { None };
        let (x_new, first_new) = (x_out.slice::<T>()?, first_out.slice::<T>()?);
        let second_new = second_out.as_mut().map(|out| out.slice::<T>()).transpose()?;
        let mut second_new = second_new;
        let (x, gradient, first) = (x.as_slice::<T>()?, gradient.as_slice::<T>()?, first.as_slice::<T>()?);
        let second = second.as_ref().map(|tensor| tensor.as_slice::<T>()).transpose()?;
        for i in 0..x.len() {
            let states = [first[i].to_f64(), second.map_or(0.0, |second| second[i].to_f64())];
            let (value, states) = self.apply(rate, count, x[i].to_f64(), gradient[i].to_f64(), states);
            x_new[i] = T::from_f64(value);
            first_new[i] = T::from_f64(states[0]);
            if let Some(second) = &mut second_new {
                second[i] = T::from_f64(states[1]);
            }
        }
        x_out.finish(cx)?;
        first_out.finish(cx)?;
        second_out.map_or(Ok(()), |out| out.finish(cx))
    }
}

impl Kernel for Step {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let scalar = |index: usize| converted(cx, cx.input(index)?, DType::F64)?.to_scalar::<f64>();
        let (rate, count) = (scalar(0)?, scalar(1)?);
        let groups = 2 + self.states();
        let tensors = cx.input_count().saturating_sub(2);
        if tensors == 0 || !tensors.is_multiple_of(groups) {
            return Err(OpError::invalid(format!("expected tensors in groups of {groups}, got {tensors}")));
        }
        let items = tensors / groups;
        for item in 0..items {
            with_real!(cx.input(2 + item)?.dtype(), T => self.step::<T>(cx, rate, count, item, items))?;
        }
        Ok(())
    }
}

fn build(node: &Node, rule: Rule) -> Result<Box<dyn Kernel>> {
    let number = |name: &str, default: f32| node.float(name, default).map(f64::from);
    let (epsilon, alpha, beta) = match rule {
        Rule::Adam => (1e-6, 0.9, 0.999),
        _ => (1e-6, 0.0, 0.0),
    };
    let numbers = Numbers {
        alpha: number("alpha", alpha)?,
        beta: number("beta", beta)?,
        epsilon: number("epsilon", epsilon)?,
        decay: number("decay_factor", 0.0)?,
        norm: number("norm_coefficient", 0.0)?,
        norm_after: number("norm_coefficient_post", 0.0)?,
    };
    Ok(Box::new(Step { rule, numbers }))
}

fn build_momentum(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.string("mode", "")? {
        "standard" => build(node, Rule::Momentum),
        "nesterov" => build(node, Rule::Nesterov),
        other => {
            Err(OpError::invalid(format!("attribute 'mode' must be standard or nesterov, got '{other}'")))
        }
    }
}

const DOMAIN: &str = "ai.onnx.preview.training";

pub const OPERATORS: &[Operator] = &[
    Operator::of(DOMAIN, "Adagrad", |node| build(node, Rule::Adagrad)),
    Operator::of(DOMAIN, "Adam", |node| build(node, Rule::Adam)),
    Operator::of(DOMAIN, "Momentum", build_momentum),
];
