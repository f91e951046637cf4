//! LSTM, GRU and RNN: one product of all inputs with their weights, then a launch or two a step.

use tenon_kernels::gpu::product::{self, Product};
use tenon_kernels::gpu::recurrent::{self, Cell, Function, Operands, Recurrent, operand};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{AttributeView, Error, Result};

use super::{Family, tensor};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(super) const FAMILIES: &[Family] =
    &[Family { domain: "", op_types: &["LSTM", "GRU", "RNN"], lower: recurrent }];

/// A layer with its attributes resolved.
struct Layer {
    cell: Cell,
    reverse: Vec<bool>,
    functions: Vec<Function>,
    clip: Option<f32>,
    is_batch_major: bool,
}

/// Inputs by their place in the node.
const X: usize = 0;
const W: usize = 1;
const R: usize = 2;
const BIAS: usize = 3;
const LENGTHS: usize = 4;
const HIDDEN: usize = 5;
const CELL: usize = 6;
const PEEPHOLES: usize = 7;

impl Operator for Layer {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, w, r) = (cx.dims(X)?, cx.dims(W)?, cx.dims(R)?);
        let (directions, gates) = (self.reverse.len(), self.cell.gates());
        let wrong = || Error::invalid(format!("input {x:?} with weights {w:?} and {r:?}"));
        let ([first, second, size], [_, _, hidden]) = (x.as_slice(), r.as_slice()) else {
            return Err(wrong());
        };
        let (&size, &hidden) = (size, hidden);
        let rows = gates * hidden;
        if w != [directions, rows, size] || r != [directions, rows, hidden] {
            return Err(wrong());
        }
        let (steps, batch) = if self.is_batch_major { (*second, *first) } else { (*first, *second) };
        self.check_states(cx, directions, batch, hidden)?;
        let scalar = cx.scalar(X)?;
        let products = self.inputs(cx, scalar, steps * batch, directions * rows, size)?;
        let y = match self.is_batch_major {
            false => [steps, directions, batch, hidden],
            true => [batch, steps, directions, hidden],
        };
        let state = self.state_dims(directions, batch, hidden);
        let mut operands = vec![None; 10];
        for (index, dims) in [(operand::Y, &y[..]), (operand::Y_HIDDEN, &state), (operand::Y_CELL, &state)] {
            if cx.has_output(index) {
                operands[index] = Some(cx.output(index, scalar, dims)?);
            }
        }
        operands[operand::GATES_X] = Some(products);
        operands[operand::WEIGHTS] = Some(cx.input(R)?);
        let given = [
            (operand::BIAS, BIAS),
            (operand::LENGTHS, LENGTHS),
            (operand::HIDDEN, HIDDEN),
            (operand::CELL, CELL),
            (operand::PEEPHOLES, PEEPHOLES),
        ];
        let is_lstm = matches!(self.cell, Cell::Lstm { .. });
        for (number, index) in given.into_iter().take(if is_lstm { 5 } else { 3 }) {
            operands[number] = cx.optional(index);
        }
        let has = |number: usize| operands[number].is_some();
        let problem = Recurrent {
            scalar,
            cell: self.cell,
            steps,
            batch,
            hidden,
            reverse: self.reverse.clone(),
            is_batch_major: self.is_batch_major,
            functions: self.functions.clone(),
            clip: self.clip,
            has: Operands {
                y: has(operand::Y),
                y_hidden: has(operand::Y_HIDDEN),
                y_cell: has(operand::Y_CELL),
                bias: has(operand::BIAS),
                lengths: has(operand::LENGTHS),
                hidden: has(operand::HIDDEN),
                cell: has(operand::CELL),
                peepholes: has(operand::PEEPHOLES),
            },
        };
        cx.run(recurrent::plan(&problem), &operands)
    }
}

impl Layer {
    fn state_dims(&self, directions: usize, batch: usize, hidden: usize) -> [usize; 3] {
        if self.is_batch_major { [batch, directions, hidden] } else { [directions, batch, hidden] }
    }

    /// Refuses operands whose shapes the kernels would read past.
    fn check_states(
        &self,
        cx: &Expansion<'_, '_>,
        directions: usize,
        batch: usize,
        hidden: usize,
    ) -> Result<()> {
        let state = self.state_dims(directions, batch, hidden);
        let expected = [
            (BIAS, "bias", vec![directions, 2 * self.cell.gates() * hidden]),
            (LENGTHS, "sequence_lens", vec![batch]),
            (HIDDEN, "initial_h", state.to_vec()),
            (CELL, "initial_c", state.to_vec()),
            (PEEPHOLES, "P", vec![directions, 3 * hidden]),
        ];
        for (index, name, dims) in expected {
            if cx.optional(index).is_some() && cx.dims(index)? != dims {
                let found = cx.dims(index)?;
                return Err(Error::invalid(format!("{name} has shape {found:?}, expected {dims:?}")));
            }
        }
        Ok(())
    }

    /// The products `[rows, columns]` of all inputs with the weights of all directions.
    fn inputs(
        &self,
        cx: &mut Expansion<'_, '_>,
        scalar: Scalar,
        rows: usize,
        columns: usize,
        size: usize,
    ) -> Result<ValueId> {
        let products = cx.scratch(scalar, &[rows, columns])?;
        let problem = Product {
            scalar,
            m: rows,
            n: columns,
            k: size,
            a_strides: (size as i64, 1),
            b_strides: (1, size as i64),
            bias_strides: None,
            batch: Vec::new(),
            alpha: 1.0,
            beta: 1.0,
            activation: product::Activation::None,
        };
        let (x, w) = (cx.input(X)?, cx.input(W)?);
        let plan = match tensor::plan(cx, &problem, w, false) {
            Some(plan) => Ok(plan),
            None => product::matmul(&problem, cx.chip().compute_units),
        };
        cx.run(plan, &[Some(products), Some(x), Some(w), None])?;
        Ok(products)
    }
}

fn recurrent(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(X)?;
    let others = [W, R, BIAS, HIDDEN, CELL, PEEPHOLES];
    for index in others.into_iter().filter(|&index| l.has_input(index)) {
        if l.scalar(index)? != scalar {
            return Err(Decline(format!("input {index} is of another type than input 0")));
        }
    }
    if l.has_input(LENGTHS) && l.scalar(LENGTHS)? != Scalar::I32 {
        return Err(Decline::new("sequence lengths of a type other than int32"));
    }
    let cell = match l.node.op_type() {
        "LSTM" => Cell::Lstm { is_coupled: l.node.int_or("input_forget", 0)? != 0 },
        "GRU" => Cell::Gru { resets_late: l.node.int_or("linear_before_reset", 0)? != 0 },
        _ => Cell::Rnn,
    };
    let reverse = match l.node.text_or("direction", "forward")? {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => return Err(Decline(format!("direction '{other}'"))),
    };
    let clip = l.node.float_or("clip", 0.0)?;
    Ok(Box::new(Layer {
        cell,
        functions: functions(l, cell, reverse.len())?,
        reverse,
        clip: (clip > 0.0).then_some(clip),
        is_batch_major: l.node.int_or("layout", 0)? != 0,
    }))
}

/// The activations of all directions; those that take no constants leave the lists of constants alone.
fn functions(l: &Lowering<'_>, cell: Cell, directions: usize) -> std::result::Result<Vec<Function>, Decline> {
    let defaults: &[&str] = match cell {
        Cell::Lstm { .. } => &["sigmoid", "tanh", "tanh"],
        Cell::Gru { .. } => &["sigmoid", "tanh"],
        Cell::Rnn => &["tanh"],
    };
    let count = directions * defaults.len();
    let given: Vec<String> = match l.node.attribute("activations") {
        Some(AttributeView::Strings(names)) => names
            .iter()
            .map(|name| std::str::from_utf8(name).map(str::to_ascii_lowercase))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Decline::new("an activation's name is no text"))?,
        _ => Vec::new(),
    };
    if !given.is_empty() && given.len() != count {
        return Err(Decline(format!("{} activations, expected {count}", given.len())));
    }
    let floats = |name: &str| match l.node.attribute(name) {
        Some(AttributeView::Floats(values)) => values.to_vec(),
        _ => Vec::new(),
    };
    let mut alphas = floats("activation_alpha").into_iter();
    let mut betas = floats("activation_beta").into_iter();
    let mut alpha = |default: f32| alphas.next().unwrap_or(default);
    let mut beta = |default: f32| betas.next().unwrap_or(default);
    (0..count)
        .map(|index| {
            let name = given.get(index).map_or(defaults[index % defaults.len()], String::as_str);
            Ok(match name {
                "sigmoid" => Function::Sigmoid,
                "tanh" => Function::Tanh,
                "relu" => Function::Relu,
                "softsign" => Function::Softsign,
                "softplus" => Function::Softplus,
                "affine" => Function::Affine(alpha(1.0), beta(0.0)),
                "leakyrelu" => Function::LeakyRelu(alpha(0.01)),
                "thresholdedrelu" => Function::ThresholdedRelu(alpha(1.0)),
                "elu" => Function::Elu(alpha(1.0)),
                "hardsigmoid" => Function::HardSigmoid(alpha(0.2), beta(0.5)),
                "scaledtanh" => Function::ScaledTanh(alpha(1.0), beta(1.0)),
                other => return Err(Decline(format!("activation '{other}' has no GPU kernel"))),
            })
        })
        .collect()
}
