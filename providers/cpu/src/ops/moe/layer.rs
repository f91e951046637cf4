//! The layer itself: tokens gathered by expert, two products with an activation between them, scattered sums.

use tenon_kernels::cpu::Context as Cpu;

use super::route::route;
use super::weights::{Projection, pack_float, pack_quantized};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::{Activate, Activation};
use crate::ops::real::{self, Output, Real};
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Tensor};

/// What happens between the two products.
#[derive(Clone, Copy)]
enum Between {
    Plain(Activation),
    /// `min(g, limit) * sigmoid(alpha * g) * (clamp(l, limit) + beta)`; `g` and `l` alternate, follow each other, or come
    /// from two projections.
    Gated {
        layout: Layout,
        alpha: f32,
        beta: f32,
        limit: f32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Separate,
    Alternating,
    Halves,
}

/// Input positions of weights, scales, bias and zero points of a projection.
#[derive(Clone, Copy)]
struct Inputs {
    weights: usize,
    scales: usize,
    bias: usize,
    zeros: usize,
}

struct Quantization {
    bits: [usize; 3],
    block: Option<usize>,
}

struct Mixture {
    k: usize,
    normalize: bool,
    between: Between,
    quantization: Option<Quantization>,
    inputs: [Inputs; 3],
    packed: Prepacked<[Option<Projection>; 3]>,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    let inputs =
        |weights: usize| Inputs { weights, scales: usize::MAX, bias: weights + 1, zeros: usize::MAX };
    of(node, None, [inputs(2), inputs(4), inputs(6)])
}

pub fn build_quantized(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.string("quant_type", "int")? {
        "int" => {}
        other => return Err(OpError::unsupported(format!("QMoE has no kernel for quant_type '{other}'"))),
    }
    let default = node.int("expert_weight_bits", 4)?;
    let mut bits = [0; 3];
    for (bits, name) in
        bits.iter_mut().zip(["fc1_expert_weight_bits", "fc2_expert_weight_bits", "fc3_expert_weight_bits"])
    {
        *bits = match node.int(name, default)? {
            width @ (2 | 3 | 4 | 8) => width as usize,
            width => {
                return Err(OpError::unsupported(format!("QMoE has no kernel for weights of {width} bits")));
            }
        };
    }
    let block = node.int("block_size", 0)?;
    let quantization = Quantization { bits, block: usize::try_from(block).ok().filter(|&block| block > 0) };
    let inputs =
        |weights: usize, zeros: usize| Inputs { weights, scales: weights + 1, bias: weights + 2, zeros };
    of(node, Some(quantization), [inputs(2, 11), inputs(5, 12), inputs(8, 13)])
}

fn of(node: &Node, quantization: Option<Quantization>, inputs: [Inputs; 3]) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("there is no kernel for double")),
        other => real::check(other)?,
    }
    for name in ["use_sparse_mixer", "swiglu_limit_after_activation"] {
        if node.flag(name, false)? {
            return Err(OpError::unsupported(format!("there is no kernel for {name} = 1")));
        }
    }
    let layout = match node.int("swiglu_fusion", 0)? {
        0 => Layout::Separate,
        1 => Layout::Alternating,
        2 => Layout::Halves,
        other => return Err(OpError::invalid(format!("swiglu_fusion {other} is none of 0, 1, 2"))),
    };
    let between = match node.string("activation_type", "relu")?.to_ascii_lowercase().as_str() {
        "relu" => Between::Plain(Activation::Relu),
        "gelu" => Between::Plain(Activation::GeluTanh),
        "silu" => Between::Plain(Activation::Silu),
        "identity" => Between::Plain(Activation::None),
        "swiglu" => Between::Gated {
            layout,
            alpha: node.float("activation_alpha", 1.0)?,
            beta: node.float("activation_beta", 0.0)?,
            limit: node.float("swiglu_limit", f32::INFINITY)?,
        },
        other => return Err(OpError::unsupported(format!("there is no kernel for activation '{other}'"))),
    };
    let k = node.int("k", 1)?;
    if k < 1 {
        return Err(OpError::invalid(format!("attribute 'k' is {k}, expected at least 1")));
    }
    Ok(Box::new(Mixture {
        k: k as usize,
        normalize: node.flag("normalize_routing_weights", false)?,
        between,
        quantization,
        inputs,
        packed: Prepacked::default(),
    }))
}

impl Mixture {
    /// Packs all projections that are given; `get` finds an input.
    fn pack_all<'a>(
        &self,
        cpu: &Cpu<'_>,
        get: &dyn Fn(usize) -> Option<&'a Tensor>,
    ) -> Result<[Option<Projection>; 3]> {
        let mut packed = [None, None, None];
        for (index, (slot, inputs)) in packed.iter_mut().zip(&self.inputs).enumerate() {
            let Some(weights) = get(inputs.weights) else { continue };
            *slot = Some(match &self.quantization {
                None => pack_float(cpu, weights)?,
                Some(quantization) => {
                    let scales =
                        get(inputs.scales).ok_or_else(|| OpError::invalid("the scales are missing"))?;
                    pack_quantized(
                        cpu,
                        weights,
                        scales,
                        get(inputs.zeros),
                        quantization.bits[index],
                        quantization.block,
                    )?
                }
            });
        }
        Ok(packed)
    }

    /// Applies the activation to the results of the first (and third) projection of `rows` tokens.
    fn activate(
        &self,
        cpu: &Cpu<'_>,
        first: &mut [f32],
        second: Option<&[f32]>,
        width: usize,
        out: &mut [f32],
    ) {
        match self.between {
            Between::Plain(activation) => {
                f32::activate(cpu.features, activation, first);
                match second {
                    Some(second) => {
                        for ((out, &a), &b) in out.iter_mut().zip(&*first).zip(second) {
                            *out = a * b;
                        }
                    }
                    None => out.copy_from_slice(first),
                }
            }
            Between::Gated { layout, alpha, beta, limit } => {
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    for (unit, out) in out.iter_mut().enumerate() {
                        let (gate, linear) = match (layout, second) {
                            (Layout::Separate, Some(second)) => {
                                (first[row * width + unit], second[row * width + unit])
                            }
                            (Layout::Alternating, _) => {
                                (first[(row * width + unit) * 2], first[(row * width + unit) * 2 + 1])
                            }
                            _ => (first[row * 2 * width + unit], first[row * 2 * width + width + unit]),
                        };
                        let (gate, linear) = (gate.min(limit), linear.clamp(-limit, limit));
                        *out = gate * (alpha * gate).sigmoid() * (linear + beta);
                    }
                }
            }
        }
    }
}

impl Kernel for Mixture {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let needed = self.inputs.iter().take(2).all(|inputs| constants.input(inputs.weights).is_some());
        let scaled = self.quantization.is_none() || constants.input(self.inputs[0].scales).is_some();
        if !needed || !scaled {
            return Ok(Released::NONE);
        }
        let cpu = constants.cpu();
        self.packed.keep(self.pack_all(&cpu, &|index| constants.input(index))?);
        let parts = self.inputs.iter().flat_map(|inputs| [inputs.weights, inputs.scales, inputs.zeros]);
        Ok(parts.filter(|&index| constants.input(index).is_some()).fold(Released::NONE, Released::with))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<f32>(cx, 0)?;
        let logits = real::load_input::<f32>(cx, 1)?;
        let hidden = x.dims().last().copied().unwrap_or(0);
        let tokens = x.len().checked_div(hidden).unwrap_or(0);
        let packed = self.packed.get_or_pack(|| self.pack_all(&cpu, &|index| cx.optional(index)))?;
        let [Some(first), Some(second), third] = &*packed else {
            return Err(OpError::invalid("the weights of the experts are missing"));
        };
        let experts = first.experts.len();
        let (width, separate) = (second.inputs, third.as_ref());
        let doubled =
            matches!(self.between, Between::Gated { layout: Layout::Alternating | Layout::Halves, .. });
        if matches!(self.between, Between::Gated { layout: Layout::Separate, .. }) && separate.is_none() {
            return Err(OpError::invalid("swiglu with swiglu_fusion = 0 needs the third projection"));
        }
        if first.inputs != hidden
            || first.outputs != if doubled { 2 * width } else { width }
            || second.outputs != hidden
            || second.experts.len() != experts
            || separate.is_some_and(|third| {
                third.inputs != hidden || third.outputs != width || third.experts.len() != experts
            })
            || logits.len() != tokens * experts
        {
            return Err(OpError::invalid(format!(
                "input {:?}, router {:?} and {experts} experts ({} × {}, {} × {}) do not fit each other",
                x.dims(),
                logits.dims(),
                first.outputs,
                first.inputs,
                second.outputs,
                second.inputs
            )));
        }
        let mixing = if self.quantization.is_some() { real::load_optional::<f32>(cx, 14)? } else { None };
        let mixing = mixing.as_ref().map(|mixing| mixing.as_slice::<f32>()).transpose()?;
        if mixing.is_some_and(|mixing| mixing.len() != logits.len()) {
            return Err(OpError::invalid("router_weights have another shape than router_probs"));
        }
        let mut biases = Vec::with_capacity(3);
        for (inputs, outputs) in self.inputs.iter().zip([first.outputs, second.outputs, width]) {
            let bias = cx.optional(inputs.bias).map(real::to_vec::<f32>).transpose()?;
            if bias.as_ref().is_some_and(|bias| bias.len() != experts * outputs) {
                return Err(OpError::invalid(format!("a bias does not have {experts} × {outputs} values")));
            }
            biases.push(bias);
        }
        let bias = |part: usize, expert: usize, outputs: usize| {
            biases[part].as_ref().map(|bias| &bias[expert * outputs..][..outputs])
        };
        // Without mixing weights of their own, quantised experts share a softmax over the picked ones.
        let normalize = self.normalize || self.quantization.is_some() && mixing.is_none();
        let assigned = route(logits.as_slice()?, mixing, experts, self.k.min(experts), normalize);
        let x_data = x.as_slice::<f32>()?;
        let mut y = Output::new::<f32>(cx, 0, dtype, x.dims())?;
        let out = y.slice::<f32>()?;
        out.fill(0.0);
        let largest = assigned.iter().map(|assigned| assigned.tokens.len()).max().unwrap_or(0);
        let third_width = if separate.is_some() { width } else { 0 };
        let mut memory =
            cx.scratch(DType::F32, &[largest * (2 * hidden + first.outputs + third_width + width)])?;
        let memory = memory.as_mut_slice::<f32>()?;
        for (expert, assigned) in assigned.iter().enumerate() {
            let rows = assigned.tokens.len();
            if rows == 0 {
                continue;
            }
            let (input, rest) = memory.split_at_mut(rows * hidden);
            let (inner, rest) = rest.split_at_mut(rows * first.outputs);
            let (linear, rest) = rest.split_at_mut(rows * third_width);
            let (active, rest) = rest.split_at_mut(rows * width);
            let result = &mut rest[..rows * hidden];
            for (row, &token) in input.chunks_exact_mut(hidden.max(1)).zip(&assigned.tokens) {
                row.copy_from_slice(&x_data[token * hidden..][..hidden]);
            }
            let extents = [rows, first.outputs, hidden];
            first.experts[expert].run(&cpu, input, extents, bias(0, expert, first.outputs), inner)?;
            if let Some(third) = separate {
                third.experts[expert].run(
                    &cpu,
                    input,
                    [rows, width, hidden],
                    bias(2, expert, width),
                    linear,
                )?;
            }
            self.activate(&cpu, inner, separate.map(|_| &*linear), width, active);
            second.experts[expert].run(
                &cpu,
                active,
                [rows, hidden, width],
                bias(1, expert, hidden),
                result,
            )?;
            for ((row, &token), &weight) in
                result.chunks_exact(hidden.max(1)).zip(&assigned.tokens).zip(&assigned.weights)
            {
                out[token * hidden..][..hidden]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(out, &value)| *out += weight * value);
            }
        }
        y.finish(cx)
    }
}
