//! Recurrent layers: LSTM, GRU and the plain cell, a launch (or two) a step after one product over all steps.

use super::launch::{Arg, Launch, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Operand numbers of a plan. Layouts are ONNX's; `GATES_X` is the product of the inputs with their weights, rows as the
/// input's `[steps, batch]` (or `[batch, steps]`), columns `[directions, gates, hidden]`.
pub mod operand {
    pub const Y: usize = 0;
    pub const Y_HIDDEN: usize = 1;
    pub const Y_CELL: usize = 2;
    pub const GATES_X: usize = 3;
    pub const WEIGHTS: usize = 4;
    pub const BIAS: usize = 5;
    /// i32 `[batch]`.
    pub const LENGTHS: usize = 6;
    pub const HIDDEN: usize = 7;
    pub const CELL: usize = 8;
    pub const PEEPHOLES: usize = 9;
}

/// Sequences that a wave computes together, as in the device text.
const BATCH_TILE: usize = 4;

/// What a unit does with its gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `is_coupled`: the forget gate is one minus the input gate.
    Lstm {
        is_coupled: bool,
    },
    /// `resets_late`: the reset gate scales the hidden state's product instead of the state.
    Gru {
        resets_late: bool,
    },
    Rnn,
}

impl Cell {
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
            Cell::Rnn => 1,
        }
    }

    /// Activations of a direction.
    pub fn functions(self) -> usize {
        match self {
            Cell::Lstm { .. } => 3,
            Cell::Gru { .. } => 2,
            Cell::Rnn => 1,
        }
    }
}

/// Activation functions with the constants that some of them take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Sigmoid,
    Tanh,
    Relu,
    Affine(f32, f32),
    LeakyRelu(f32),
    ThresholdedRelu(f32),
    ScaledTanh(f32, f32),
    HardSigmoid(f32, f32),
    Elu(f32),
    Softsign,
    Softplus,
}

/// Names in the device text, at the numbers that [`Function::parts`] gives.
const FUNCTIONS: [&str; 11] = [
    "SIGMOID",
    "TANH",
    "RELU",
    "AFFINE",
    "LEAKY_RELU",
    "THRESHOLDED_RELU",
    "SCALED_TANH",
    "HARD_SIGMOID",
    "ELU",
    "SOFTSIGN",
    "SOFTPLUS",
];

impl Function {
    fn parts(self) -> (u32, f32, f32) {
        match self {
            Function::Sigmoid => (0, 0.0, 0.0),
            Function::Tanh => (1, 0.0, 0.0),
            Function::Relu => (2, 0.0, 0.0),
            Function::Affine(alpha, beta) => (3, alpha, beta),
            Function::LeakyRelu(alpha) => (4, alpha, 0.0),
            Function::ThresholdedRelu(alpha) => (5, alpha, 0.0),
            Function::ScaledTanh(alpha, beta) => (6, alpha, beta),
            Function::HardSigmoid(alpha, beta) => (7, alpha, beta),
            Function::Elu(alpha) => (8, alpha, 0.0),
            Function::Softsign => (9, 0.0, 0.0),
            Function::Softplus => (10, 0.0, 0.0),
        }
    }
}

/// A layer over sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    pub scalar: Scalar,
    pub cell: Cell,
    pub steps: usize,
    pub batch: usize,
    pub hidden: usize,
    /// For each direction: does it run backwards?
    pub reverse: Vec<bool>,
    /// The batch is the first axis of inputs, results and states.
    pub is_batch_major: bool,
    /// [`Cell::functions`] of every direction.
    pub functions: Vec<Function>,
    /// Bounds the arguments of the gates' functions.
    pub clip: Option<f32>,
    pub has: Operands,
}

/// Which operands are given or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operands {
    pub y: bool,
    pub y_hidden: bool,
    pub y_cell: bool,
    pub bias: bool,
    pub lengths: bool,
    pub hidden: bool,
    pub cell: bool,
    pub peepholes: bool,
}

/// The launches of a layer. Hidden and cell states are kept in f32 between steps.
///
/// # Errors
/// Types other than f32, f16 and bf16, and extents beyond 32-bit indices.
pub fn plan(problem: &Recurrent) -> Result<Plan> {
    let Recurrent { steps, batch, hidden, .. } = *problem;
    let directions = problem.reverse.len();
    if !problem.scalar.is_float() {
        return Err(KernelError::parameter(format!("a recurrent layer of {}", problem.scalar.suffix())));
    }
    if directions == 0 || directions > 2 || problem.functions.len() != directions * problem.cell.functions() {
        return Err(KernelError::parameter(format!(
            "{directions} directions with {} functions",
            problem.functions.len()
        )));
    }
    let states = directions * batch * hidden;
    let columns = directions * problem.cell.gates() * hidden;
    if [states, columns, steps].iter().any(|&size| size >= 1 << 31) || batch.div_ceil(BATCH_TILE) > 65_535 {
        return Err(KernelError::shape(format!("{steps} steps of {batch} sequences of {hidden} units")));
    }
    if states == 0 {
        return Ok(Plan::default());
    }
    let mut plan = Plan { workspace_bytes: 4 * space(states) as u64, ..Plan::default() };
    plan.launches.push(problem.edge("begin", states, [operand::HIDDEN, operand::CELL], 0));
    for step in 0..steps {
        problem.step(step, states, &mut plan.launches);
    }
    if problem.has.y_hidden || problem.has.y_cell {
        plan.launches.push(problem.edge("end", states, [operand::Y_HIDDEN, operand::Y_CELL], steps));
    }
    Ok(overlapping(plan))
}

/// Bytes of one state in the workspace: hidden, hidden, then the cell or the update gate, then the scaled state.
fn space(states: usize) -> usize {
    (states * 4).next_multiple_of(256)
}

impl Recurrent {
    fn is_lstm(&self) -> bool {
        matches!(self.cell, Cell::Lstm { .. })
    }

    fn given(&self, number: usize) -> Arg {
        let has = self.has;
        let is_given = match number {
            operand::Y => has.y,
            operand::Y_HIDDEN => has.y_hidden,
            operand::Y_CELL => has.y_cell,
            operand::BIAS => has.bias,
            operand::LENGTHS => has.lengths,
            operand::HIDDEN => has.hidden,
            operand::CELL => has.cell,
            operand::PEEPHOLES => has.peepholes,
            _ => true,
        };
        if is_given { pointer(number) } else { Arg::I64(0) }
    }

    fn symbol(&self, part: &str) -> String {
        format!("recurrent_{part}_{}", self.scalar.suffix())
    }

    /// The copy of states in or out; the current hidden state is that of `step`.
    fn edge(&self, part: &str, states: usize, operands: [usize; 2], step: usize) -> Launch {
        let slot = |index: usize| Arg::Workspace { offset_bytes: (index * space(states)) as u64 };
        let own = [slot(step % 2), if self.is_lstm() { slot(2) } else { Arg::I64(0) }];
        let other = operands.map(|number| self.given(number));
        let pairs = if part == "begin" { [own, other] } else { [other, own] };
        let mut args: Vec<Arg> = pairs.into_iter().flatten().collect();
        args.push(self.parameters());
        let cost = Cost { flops: 0.0, bytes: (states * (4 + self.scalar.bytes())) as f64 };
        single(launch(self.symbol(part), [blocks(states), 1, 1], args, cost))
    }

    fn step(&self, step: usize, states: usize, launches: &mut Vec<Launch>) {
        let slot = |index: usize| Arg::Workspace { offset_bytes: (index * space(states)) as u64 };
        let (from, to) = (slot(step % 2), slot((step + 1) % 2));
        let inputs = [operand::GATES_X, operand::WEIGHTS, operand::BIAS].map(|number| self.given(number));
        let head = match self.cell {
            Cell::Lstm { .. } => vec![self.given(operand::Y), to, slot(2), from],
            Cell::Gru { .. } => vec![self.given(operand::Y), to, slot(2), slot(3), from],
            Cell::Rnn => vec![self.given(operand::Y), to, from],
        };
        let mut args: Vec<Arg> = head.into_iter().chain(inputs).collect();
        if self.is_lstm() {
            args.push(self.given(operand::PEEPHOLES));
        }
        args.extend([self.given(operand::LENGTHS), self.parameters(), Arg::U32(step as u32)]);
        let parts: &[&str] = match self.cell {
            Cell::Lstm { .. } => &["lstm"],
            Cell::Gru { resets_late: true } => &["gru"],
            Cell::Gru { resets_late: false } => &["gru_gates", "gru_state"],
            Cell::Rnn => &["rnn"],
        };
        let directions = self.reverse.len();
        let weights = directions * self.cell.gates() * self.hidden * self.hidden;
        let cost = Cost {
            flops: (2 * weights * self.batch / parts.len()) as f64,
            bytes: (weights * self.scalar.bytes() / parts.len()) as f64,
        };
        // As many waves of a block as the narrowest arch has in it: 256 threads of 64.
        let grid =
            [self.hidden.div_ceil(4) as u32, self.batch.div_ceil(BATCH_TILE) as u32, directions as u32];
        for part in parts {
            launches.push(single(launch(self.symbol(part), grid, args.clone(), cost)));
        }
    }

    fn parameters(&self) -> Arg {
        let (steps, batch, hidden) = (self.steps, self.batch, self.hidden);
        let directions = self.reverse.len();
        let columns = directions * self.cell.gates() * hidden;
        // Distances: (step, sequence) of the products, (step, direction, sequence) of Y, (direction, sequence) of states.
        let (gates, y, state) = match self.is_batch_major {
            false => (
                (batch * columns, columns),
                (directions * batch * hidden, batch * hidden, hidden),
                (batch * hidden, hidden),
            ),
            true => (
                (columns, steps * columns),
                (directions * hidden, hidden, steps * directions * hidden),
                (hidden, directions * hidden),
            ),
        };
        let reverse = self.reverse.iter().enumerate().map(|(d, &reverse)| u32::from(reverse) << d).sum();
        let mut functions = [Function::Sigmoid.parts(); 6];
        for (at, function) in self.functions.iter().enumerate() {
            let (direction, index) = (at / self.cell.functions(), at % self.cell.functions());
            functions[direction * 3 + index] = function.parts();
        }
        Structure::default()
            .u32s::<4>([batch, hidden, directions, steps].map(|size| size as u32), 0)
            .u32s::<7>([gates.0, gates.1, y.0, y.1, y.2, state.0, state.1].map(|size| size as u32), 0)
            .u32(reverse)
            .u32(u32::from(self.cell == Cell::Lstm { is_coupled: true }))
            .f32(self.clip.unwrap_or(0.0))
            .u32s::<6>(functions.map(|(number, ..)| number), 0)
            .f32s::<6>(functions.map(|(_, alpha, _)| alpha))
            .f32s::<6>(functions.map(|(.., beta)| beta))
            .finish()
    }
}

/// The launch of a plan that has one.
fn single(mut plan: Plan) -> Launch {
    plan.launches.pop().expect("a plain plan has a launch")
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/recurrent.cu", text: include_str!("../../device/recurrent.cu") };
    let parts = ["begin", "end", "lstm", "rnn", "gru", "gru_gates", "gru_state"];
    let functions = FUNCTIONS.iter().enumerate();
    Unit {
        name: "recurrent".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: functions.map(|(number, name)| (format!("GATE_{name}"), number.to_string())).collect(),
        kernels: parts
            .iter()
            .flat_map(|part| {
                ["f32", "f16", "bf16"].map(|suffix| kernel(format!("recurrent_{part}_{suffix}")))
            })
            .collect(),
    }
}
