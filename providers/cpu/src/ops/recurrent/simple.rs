//! RNN: one activation of input and state.

use tenon_kernels::cpu::Context as Cpu;

use super::activation::{self, CellActivation};
use super::frame::{Cell, Kept, Layer, Packed, Run, State, pack_float};
use super::projection::Projection;
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::Activate;
use crate::ops::gemm::Dense;
use crate::ops::real;
use crate::prepacked::Prepacked;
use crate::tensor::DType;

struct Rnn {
    layer: Layer,
    activations: Vec<CellActivation>,
    kept: Kept,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let layer = Layer::of(node)?;
    let activations = activation::read(node, layer.directions(), &["Tanh"])?;
    Ok(Box::new(Rnn { layer, activations, kept: Kept::default() }))
}

impl Kernel for Rnn {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        self.kept.pack(constants, self.layer.directions(), &[1])
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

impl Rnn {
    fn run_typed<T: Dense + Activate>(
        &self,
        cx: &mut Context<'_>,
        kept: &Prepacked<Packed<T>>,
    ) -> Result<()> {
        let directions = self.layer.directions();
        let pack = || pack_float(&cx.cpu(), cx.input(1)?, cx.input(2)?, directions, &[1]);
        let packed = &*kept.get_or_pack(pack)?;
        let hidden = packed.hidden_size;
        let mut bias = None;
        if let Some(tensor) = cx.optional(3) {
            let values = real::to_vec::<T>(tensor)?;
            if values.len() != directions * 2 * hidden {
                return Err(OpError::invalid(format!("the bias has shape {:?}", tensor.dims())));
            }
            let sum = |part: &[T]| (0..hidden).map(|i| part[i] + part[hidden + i]).collect::<Vec<T>>();
            bias = Some(values.chunks_exact(2 * hidden).flat_map(sum).collect());
        }
        let cells: Vec<RnnCell<'_, T>> = (0..directions)
            .map(|direction| RnnCell {
                layer: &self.layer,
                activation: self.activations[direction],
                hidden: &*packed.directions[direction].hidden[0],
                units: hidden,
            })
            .collect();
        Run { layer: &self.layer, packed, bias, sequence_lens: 4, initial: [Some(5), None] }.run(cx, &cells)
    }
}

struct RnnCell<'a, T> {
    layer: &'a Layer,
    activation: CellActivation,
    hidden: &'a dyn Projection<T>,
    units: usize,
}

impl<T: Dense + Activate> Cell<T> for RnnCell<'_, T> {
    const GATES: usize = 1;

    fn scratch_len(&self, _batch: usize, _hidden: usize) -> usize {
        0
    }

    fn step(
        &self,
        cpu: &Cpu<'_>,
        gates: &mut [T],
        state: &mut State<'_, T>,
        _scratch: &mut [T],
        active: &[bool],
    ) -> Result<()> {
        self.hidden.run(cpu, state.hidden, active.len(), None, true, gates)?;
        for (entry, gates) in gates.chunks_exact_mut(self.units).enumerate() {
            if active[entry] {
                self.layer.clip(gates);
                self.activation.apply(cpu.features, gates);
                state.hidden[entry * self.units..][..self.units].copy_from_slice(gates);
            }
        }
        Ok(())
    }
}
