//! LSTM and DynamicQuantizeLSTM.

use tenon_kernels::cpu::Context as Cpu;

use super::activation::{self, CellActivation};
use super::frame::{Cell, Kept, Layer, Packed, Run, State, Weights, pack_float};
use super::projection::{ByteProjection, Projection};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::epilogue::Activate;
use crate::ops::gemm::Dense;
use crate::ops::quantized::{is_signed, to_i32s};
use crate::ops::real;
use crate::tensor::{DType, Tensor};

/// One part of the recurrent weights covers all gates.
const GATES: [usize; 1] = [4];

struct Lstm {
    layer: Layer,
    activations: Vec<CellActivation>,
    /// The forget gate is one minus the input gate.
    coupled: bool,
    quantized: bool,
    kept: Kept,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Lstm::of(node, false)?))
}

pub fn build_quantized(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Lstm::of(node, true)?))
}

impl Lstm {
    fn of(node: &Node, quantized: bool) -> Result<Lstm> {
        real::check(node.input_dtype(0))?;
        let layer = Layer::of(node)?;
        let mut activations = activation::read(node, layer.directions(), &["Sigmoid", "Tanh", "Tanh"])?;
        if quantized {
            activations.iter_mut().for_each(|a| *a = activation::quantized(*a));
        }
        let coupled = node.flag("input_forget", false)?;
        Ok(Lstm { layer, activations, coupled, quantized, kept: Kept::default() })
    }
}

impl Kernel for Lstm {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let directions = self.layer.directions();
        if !self.quantized {
            return self.kept.pack(constants, directions, &GATES);
        }
        let (Some(w), Some(r)) = (constants.input(1), constants.input(2)) else { return Ok(Released::NONE) };
        let scales: Option<Vec<&Tensor>> = (8..12).map(|index| constants.input(index)).collect();
        let Some(scales) = scales else { return Ok(Released::NONE) };
        self.kept.single.keep(pack_bytes(&constants.cpu(), directions, [w, r], &scales)?);
        Ok(Released::NONE.with(1).with(2))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let directions = self.layer.directions();
        if cx.input(0)?.dtype() == DType::F64 {
            let pack = || pack_float(&cpu, cx.input(1)?, cx.input(2)?, directions, &GATES);
            let packed = self.kept.double.get_or_pack(pack)?;
            return self.run_typed(cx, &packed);
        }
        real::check(cx.input(0)?.dtype())?;
        let packed = self.kept.single.get_or_pack(|| {
            let (w, r) = (cx.input(1)?, cx.input(2)?);
            if !self.quantized {
                return pack_float(&cpu, w, r, directions, &GATES);
            }
            let scales = (8..12).map(|index| cx.input(index)).collect::<Result<Vec<_>>>()?;
            pack_bytes(&cpu, directions, [w, r], &scales)
        })?;
        self.run_typed(cx, &packed)
    }
}

/// Packs 8-bit weights `w [directions, input, 4 * hidden]` and `r [directions, hidden, 4 * hidden]` with the scale and
/// zero point of each.
fn pack_bytes(
    cpu: &Cpu<'_>,
    directions: usize,
    weights: [&Tensor; 2],
    scales: &[&Tensor],
) -> Result<Packed<f32>> {
    let mut sizes = [0; 2];
    let mut projections: [Vec<Box<dyn Projection<f32>>>; 2] = [Vec::new(), Vec::new()];
    for (index, tensor) in weights.into_iter().enumerate() {
        let &[count, depth, columns] = tensor.dims() else {
            return Err(OpError::invalid(format!("weights have three axes, got shape {:?}", tensor.dims())));
        };
        if count != directions || columns % 4 != 0 {
            return Err(OpError::invalid(format!(
                "weight shape {:?} does not fit {directions} directions",
                tensor.dims()
            )));
        }
        sizes[index] = depth;
        let scale = scales[2 * index].as_slice::<f32>()?;
        let zero = to_i32s(scales[2 * index + 1])?;
        let per_direction = |len: usize| {
            if len == directions || len == directions * columns {
                Ok(len / directions)
            } else {
                Err(OpError::invalid(format!(
                    "{len} scales or zero points for {directions} directions of {columns} columns"
                )))
            }
        };
        let (scale_len, zero_len) = (per_direction(scale.len())?, per_direction(zero.len())?);
        for direction in 0..directions {
            projections[index].push(Box::new(ByteProjection::new(
                cpu,
                &tensor.as_bytes()[direction * depth * columns..][..depth * columns],
                is_signed(tensor.dtype())?,
                [depth, columns],
                scale[direction * scale_len..][..scale_len].to_vec(),
                zero[direction * zero_len..][..zero_len].to_vec(),
            )?));
        }
    }
    let [input_size, hidden_size] = sizes;
    if weights.iter().any(|tensor| tensor.dims()[2] != 4 * hidden_size) {
        return Err(OpError::invalid(format!("weights are not four gates of {hidden_size} units")));
    }
    let [input, hidden] = projections;
    let directions =
        input.into_iter().zip(hidden).map(|(input, hidden)| Weights { input, hidden: vec![hidden] });
    Ok(Packed { directions: directions.collect(), input_size, hidden_size })
}

impl Lstm {
    fn run_typed<T: Dense + Activate>(&self, cx: &mut Context<'_>, packed: &Packed<T>) -> Result<()> {
        let hidden = packed.hidden_size;
        let directions = self.layer.directions();
        let mut bias: Option<Vec<T>> = None;
        if let Some(tensor) = cx.optional(3) {
            let values = real::to_vec::<T>(tensor)?;
            if values.len() != directions * 8 * hidden {
                return Err(OpError::invalid(format!("the bias has shape {:?}", tensor.dims())));
            }
            let sum =
                |part: &[T]| (0..4 * hidden).map(|i| part[i] + part[4 * hidden + i]).collect::<Vec<T>>();
            bias = Some(values.chunks_exact(8 * hidden).flat_map(sum).collect());
        }
        let mut peepholes = Vec::new();
        if let Some(tensor) = cx.optional(7) {
            peepholes = real::to_vec::<T>(tensor)?;
            if peepholes.len() != directions * 3 * hidden {
                return Err(OpError::invalid(format!("the peepholes have shape {:?}", tensor.dims())));
            }
        }
        let late_bias = if self.quantized { bias.take() } else { None };
        let cells: Vec<LstmCell<'_, T>> = (0..directions)
            .map(|direction| LstmCell {
                layer: &self.layer,
                activations: &self.activations[direction * 3..][..3],
                coupled: self.coupled,
                hidden: &*packed.directions[direction].hidden[0],
                late_bias: late_bias.as_ref().map(|b: &Vec<T>| &b[direction * 4 * hidden..][..4 * hidden]),
                peepholes: if peepholes.is_empty() {
                    None
                } else {
                    Some(&peepholes[direction * 3 * hidden..][..3 * hidden])
                },
                units: hidden,
            })
            .collect();
        Run { layer: &self.layer, packed, bias, sequence_lens: 4, initial: [Some(5), Some(6)] }
            .run(cx, &cells)
    }
}

struct LstmCell<'a, T> {
    layer: &'a Layer,
    /// Of the gates, the candidate and the output.
    activations: &'a [CellActivation],
    coupled: bool,
    hidden: &'a dyn Projection<T>,
    /// The bias where it is added after both products, in the order that quantised models were made with.
    late_bias: Option<&'a [T]>,
    /// Weights from the cell state to the input, output and forget gates.
    peepholes: Option<&'a [T]>,
    units: usize,
}

impl<T: Dense + Activate> Cell<T> for LstmCell<'_, T> {
    const GATES: usize = 4;

    fn scratch_len(&self, _batch: usize, hidden: usize) -> usize {
        hidden
    }

    fn step(
        &self,
        cpu: &Cpu<'_>,
        gates: &mut [T],
        state: &mut State<'_, T>,
        scratch: &mut [T],
        active: &[bool],
    ) -> Result<()> {
        let units = self.units;
        let [gate, candidate, output] = [self.activations[0], self.activations[1], self.activations[2]];
        self.hidden.run(cpu, state.hidden, active.len(), None, true, gates)?;
        for (entry, gates) in gates.chunks_exact_mut(4 * units).enumerate() {
            if !active[entry] {
                continue;
            }
            let hidden = &mut state.hidden[entry * units..][..units];
            let cell = &mut state.cell[entry * units..][..units];
            let squashed = &mut scratch[..units];
            if let Some(bias) = self.late_bias {
                gates.iter_mut().zip(bias).for_each(|(gate, &bias)| *gate += bias);
            }
            if let Some(peepholes) = self.peepholes {
                for unit in 0..units {
                    gates[unit] += peepholes[unit] * cell[unit];
                    gates[2 * units + unit] += peepholes[2 * units + unit] * cell[unit];
                }
            }
            self.layer.clip(gates);
            let (input, rest) = gates.split_at_mut(units);
            let (out, rest) = rest.split_at_mut(units);
            let (forget, new) = rest.split_at_mut(units);
            gate.apply(cpu.features, input);
            if self.coupled {
                forget.iter_mut().zip(&*input).for_each(|(forget, &input)| *forget = T::ONE - input);
            } else {
                gate.apply(cpu.features, forget);
            }
            candidate.apply(cpu.features, new);
            for unit in 0..units {
                cell[unit] = forget[unit] * cell[unit] + input[unit] * new[unit];
            }
            if let Some(peepholes) = self.peepholes {
                for unit in 0..units {
                    out[unit] += peepholes[units + unit] * cell[unit];
                }
                self.layer.clip(out);
            }
            gate.apply(cpu.features, out);
            squashed.copy_from_slice(cell);
            output.apply(cpu.features, squashed);
            for unit in 0..units {
                hidden[unit] = out[unit] * squashed[unit];
            }
        }
        Ok(())
    }
}
