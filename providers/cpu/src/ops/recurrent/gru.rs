//! GRU.

use tenon_kernels::cpu::Context as Cpu;

use super::activation::{self, CellActivation};
use super::frame::{Cell, Kept, Layer, Packed, Run, State, Weights, pack_float};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::Activate;
use crate::ops::gemm::Dense;
use crate::ops::real;
use crate::prepacked::Prepacked;
use crate::tensor::DType;

/// Gates that the parts of the recurrent weights cover: update and reset, then the candidate.
const PARTS: [usize; 2] = [2, 1];

struct Gru {
    layer: Layer,
    activations: Vec<CellActivation>,
    /// The reset gate acts after the recurrent product instead of before it.
    reset_after: bool,
    kept: Kept,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let layer = Layer::of(node)?;
    let activations = activation::read(node, layer.directions(), &["Sigmoid", "Tanh"])?;
    let reset_after = node.flag("linear_before_reset", false)?;
    Ok(Box::new(Gru { layer, activations, reset_after, kept: Kept::default() }))
}

impl Kernel for Gru {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        self.kept.pack(constants, self.layer.directions(), &PARTS)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F64 => self.run_typed(cx, &self.kept.double),
            dtype => {
                real::check(dtype)?;
                self.run_typed(cx, &self.kept.single)
            }
        }
    }
}

impl Gru {
    fn run_typed<T: Dense + Activate>(
        &self,
        cx: &mut Context<'_>,
        kept: &Prepacked<Packed<T>>,
    ) -> Result<()> {
        let directions = self.layer.directions();
        let pack = || pack_float(&cx.cpu(), cx.input(1)?, cx.input(2)?, directions, &PARTS);
        let packed = &*kept.get_or_pack(pack)?;
        let hidden = packed.hidden_size;
        let mut bias = None;
        let mut late_bias = Vec::new();
        if let Some(tensor) = cx.optional(3) {
            let values = real::to_vec::<T>(tensor)?;
            if values.len() != directions * 6 * hidden {
                return Err(OpError::invalid(format!("the bias has shape {:?}", tensor.dims())));
            }
            let early = if self.reset_after { 2 * hidden } else { 3 * hidden };
            let sum = |part: &[T]| {
                let both = |i: usize| if i < early { part[i] + part[3 * hidden + i] } else { part[i] };
                (0..3 * hidden).map(both).collect::<Vec<T>>()
            };
            bias = Some(values.chunks_exact(6 * hidden).flat_map(sum).collect());
            if self.reset_after {
                late_bias =
                    values.chunks_exact(6 * hidden).flat_map(|part| part[5 * hidden..].to_vec()).collect();
            }
        }
        let cells: Vec<GruCell<'_, T>> = (0..directions)
            .map(|direction| GruCell {
                layer: &self.layer,
                activations: &self.activations[direction * 2..][..2],
                reset_after: self.reset_after,
                weights: &packed.directions[direction],
                late_bias: if late_bias.is_empty() {
                    None
                } else {
                    Some(&late_bias[direction * hidden..][..hidden])
                },
                units: hidden,
            })
            .collect();
        Run { layer: &self.layer, packed, bias, sequence_lens: 4, initial: [Some(5), None] }.run(cx, &cells)
    }
}

struct GruCell<'a, T> {
    layer: &'a Layer,
    /// Of the gates and of the candidate.
    activations: &'a [CellActivation],
    reset_after: bool,
    weights: &'a Weights<T>,
    /// The candidate's recurrent bias where the reset gate acts on it too.
    late_bias: Option<&'a [T]>,
    units: usize,
}

impl<T: Dense + Activate> Cell<T> for GruCell<'_, T> {
    const GATES: usize = 3;

    fn scratch_len(&self, batch: usize, hidden: usize) -> usize {
        4 * batch * hidden
    }

    fn step(
        &self,
        cpu: &Cpu<'_>,
        gates: &mut [T],
        state: &mut State<'_, T>,
        scratch: &mut [T],
        active: &[bool],
    ) -> Result<()> {
        let (units, batch) = (self.units, active.len());
        let (both, rest) = scratch.split_at_mut(2 * batch * units);
        let (reset, rest) = rest.split_at_mut(batch * units);
        let candidate = &mut rest[..batch * units];
        self.weights.hidden[0].run(cpu, state.hidden, batch, None, false, both)?;
        for (entry, gates) in gates.chunks_exact_mut(3 * units).enumerate() {
            let early = &mut gates[..2 * units];
            early.iter_mut().zip(&both[entry * 2 * units..]).for_each(|(gate, &part)| *gate += part);
            self.layer.clip(early);
            self.activations[0].apply(cpu.features, early);
            if !self.reset_after {
                let hidden = &state.hidden[entry * units..][..units];
                for (unit, reset) in reset[entry * units..][..units].iter_mut().enumerate() {
                    *reset = early[units + unit] * hidden[unit];
                }
            }
        }
        let source = if self.reset_after { &*state.hidden } else { &*reset };
        self.weights.hidden[1].run(cpu, source, batch, self.late_bias, false, candidate)?;
        for (entry, gates) in gates.chunks_exact_mut(3 * units).enumerate() {
            if !active[entry] {
                continue;
            }
            let (early, new) = gates.split_at_mut(2 * units);
            let candidate = &candidate[entry * units..][..units];
            for unit in 0..units {
                new[unit] +=
                    if self.reset_after { early[units + unit] * candidate[unit] } else { candidate[unit] };
            }
            self.layer.clip(new);
            self.activations[1].apply(cpu.features, new);
            let hidden = &mut state.hidden[entry * units..][..units];
            for unit in 0..units {
                hidden[unit] = (T::ONE - early[unit]) * new[unit] + early[unit] * hidden[unit];
            }
        }
        Ok(())
    }
}
