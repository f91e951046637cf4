//! The kernels of `device/recurrent.cu`: LSTM, GRU and the plain cell, forwards and backwards.

use tenon_kernels::gpu::recurrent::{self, Cell, Function, Operands, Recurrent, operand};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

const STEPS: usize = 4;
const BATCH: usize = 5;
/// More than a wave of lanes.
const HIDDEN: usize = 67;
const DIRECTIONS: usize = 2;
const STATES: usize = DIRECTIONS * BATCH * HIDDEN;

/// What a layer reads, as numbers.
struct Inputs {
    gates_x: Vec<f64>,
    weights: Vec<f64>,
    bias: Vec<f64>,
    hidden: Vec<f64>,
    cell: Vec<f64>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Inputs {
    /// The product of gate `gate`'s recurrent weights for a unit with a state.
    fn recurrent(&self, gates: usize, [direction, gate, unit]: [usize; 3], state: &[f64]) -> f64 {
        let row = (direction * gates + gate) * HIDDEN + unit;
        state.iter().zip(&self.weights[row * HIDDEN..]).map(|(state, weight)| state * weight).sum()
    }

    /// What the input and the biases give a gate: of the input's side, of the state's side.
    fn fixed(&self, gates: usize, [direction, gate, unit]: [usize; 3], token: usize) -> [f64; 2] {
        let column = gate * HIDDEN + unit;
        let x = self.gates_x[token * DIRECTIONS * gates * HIDDEN + direction * gates * HIDDEN + column];
        let bias = &self.bias[direction * 2 * gates * HIDDEN..];
        [x + bias[column], bias[gates * HIDDEN + column]]
    }

    /// The states of one sequence after a step, from those before.
    fn step(
        &self,
        cell: Cell,
        direction: usize,
        token: usize,
        hidden: &[f64],
        memory: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let gates = cell.gates();
        let gate = |gate: usize, unit: usize, state: &[f64]| {
            let place = [direction, gate, unit];
            let [x, own] = self.fixed(gates, place, token);
            x + own + self.recurrent(gates, place, state)
        };
        let units = 0..HIDDEN;
        match cell {
            Cell::Rnn => (units.map(|unit| gate(0, unit, hidden).tanh()).collect(), memory.to_vec()),
            Cell::Lstm { .. } => {
                let memory: Vec<f64> = units
                    .clone()
                    .map(|unit| {
                        let [input, forget] = [0, 2].map(|number| sigmoid(gate(number, unit, hidden)));
                        forget * memory[unit] + input * gate(3, unit, hidden).tanh()
                    })
                    .collect();
                let out = |unit: usize| sigmoid(gate(1, unit, hidden)) * memory[unit].tanh();
                (units.map(out).collect(), memory)
            }
            Cell::Gru { resets_late } => {
                let resets: Vec<f64> = units.clone().map(|unit| sigmoid(gate(1, unit, hidden))).collect();
                let scaled: Vec<f64> =
                    hidden.iter().zip(&resets).map(|(state, reset)| state * reset).collect();
                let new = |unit: usize| {
                    let place = [direction, 2, unit];
                    let [x, own] = self.fixed(gates, place, token);
                    let inner = match resets_late {
                        true => x + resets[unit] * (own + self.recurrent(gates, place, hidden)),
                        false => x + own + self.recurrent(gates, place, &scaled),
                    };
                    let update = sigmoid(gate(0, unit, hidden));
                    (1.0 - update) * inner.tanh() + update * hidden[unit]
                };
                (units.map(new).collect(), memory.to_vec())
            }
        }
    }

    /// Y `[steps, directions, batch, hidden]`, the last hidden states and memories `[directions, batch, hidden]`.
    fn layer(&self, cell: Cell) -> [Vec<f64>; 3] {
        let (mut y, mut hidden) = (vec![0.0; STEPS * STATES], self.hidden.clone());
        let mut memory = self.cell.clone();
        for sequence in 0..DIRECTIONS * BATCH {
            let (direction, own) = (sequence / BATCH, sequence * HIDDEN..(sequence + 1) * HIDDEN);
            for turn in 0..STEPS {
                // The second direction runs backwards.
                let step = if direction == 0 { turn } else { STEPS - 1 - turn };
                let token = step * BATCH + sequence % BATCH;
                let states = (&hidden[own.clone()], &memory[own.clone()]);
                let (new, memories) = self.step(cell, direction, token, states.0, states.1);
                y[step * STATES + sequence * HIDDEN..][..HIDDEN].copy_from_slice(&new);
                hidden[own.clone()].copy_from_slice(&new);
                memory[own.clone()].copy_from_slice(&memories);
            }
        }
        [y, hidden, memory]
    }
}

fn check_layer(machine: &Machine, scalar: Scalar, cell: Cell) {
    let (gates, is_lstm) = (cell.gates(), matches!(cell, Cell::Lstm { .. }));
    let functions = match cell {
        Cell::Lstm { .. } => vec![Function::Sigmoid, Function::Tanh, Function::Tanh],
        Cell::Gru { .. } => vec![Function::Sigmoid, Function::Tanh],
        Cell::Rnn => vec![Function::Tanh],
    };
    let problem = Recurrent {
        scalar,
        cell,
        steps: STEPS,
        batch: BATCH,
        hidden: HIDDEN,
        reverse: vec![false, true],
        is_batch_major: false,
        functions: functions.repeat(DIRECTIONS),
        clip: None,
        has: Operands {
            y: true,
            y_hidden: true,
            y_cell: is_lstm,
            bias: true,
            hidden: true,
            cell: is_lstm,
            ..Operands::default()
        },
    };
    let columns = DIRECTIONS * gates * HIDDEN;
    let given = |seed, count, reach: f64| upload(machine, scalar, &random(seed, count, -reach, reach));
    let (x, gates_x) = given(101, STEPS * BATCH * columns, 2.0);
    let (w, weights) = given(102, columns * HIDDEN, 0.2);
    let (b, bias) = given(103, 2 * columns, 0.5);
    let (h, hidden) = given(104, STATES, 1.0);
    let (c, memory) = given(105, STATES, 1.0);
    let outputs = [STEPS * STATES, STATES, STATES].map(|count| machine.poisoned(count * scalar.bytes()));
    let mut operands = [0u64; 10];
    operands[..3].copy_from_slice(&outputs);
    (operands[operand::GATES_X], operands[operand::WEIGHTS], operands[operand::BIAS]) = (x, w, b);
    (operands[operand::HIDDEN], operands[operand::CELL]) = (h, c);
    let what = format!("{cell:?} of {scalar:?} on {}", machine.family.name);
    let plan = recurrent::plan(&problem).expect("a layer");
    machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{what}: {error}"));
    let wanted = Inputs { gates_x, weights, bias, hidden, cell: memory }.layer(cell);
    let tolerance = 2e-5 + 2.0 * rounding(scalar);
    for (number, (address, wanted)) in outputs.into_iter().zip(&wanted).enumerate() {
        if number < operand::Y_CELL || is_lstm {
            let found = download(machine, scalar, address, wanted.len());
            assert_close(&format!("result {number} of {what}"), &found, wanted, tolerance, tolerance);
        }
    }
}

#[test]
fn layers_agree_with_their_recurrence() {
    let cells = [
        Cell::Lstm { is_coupled: false },
        Cell::Gru { resets_late: true },
        Cell::Gru { resets_late: false },
        Cell::Rnn,
    ];
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            cells.into_iter().for_each(|cell| check_layer(&machine, scalar, cell));
        }
    }
}
