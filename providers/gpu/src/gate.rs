//! Joins the two products of a gated layer: `activation(A gate) * (A up)`, as in SwiGLU and GEGLU, becomes one product
//! that reads A once and writes the result alone.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::matmul::{self, Activation, Epilogue, Problem};

use crate::fusion::{is_dense, readers};
use crate::map::{Expr, Leaf, Map};
use crate::schedule::{Builder, Home, Task, ValueId, Work};

/// Joins gated products of `builder` in place, where the family has kernels for them.
pub(crate) fn run(builder: &mut Builder<'_>, outputs: &[ValueId]) {
    let readers = readers(builder, outputs);
    for position in 0..builder.works.len() {
        let Some(joined) = join(builder, position, |value| readers.get(&value).copied().unwrap_or(0)) else {
            continue;
        };
        let mut nodes = Vec::new();
        for part in joined.parts {
            nodes.append(&mut builder.works[part].nodes);
            builder.works[part].task = empty();
        }
        nodes.append(&mut builder.works[position].nodes);
        nodes.dedup();
        builder.works[position] = Work { nodes, task: joined.task };
    }
    builder.works.retain(|work| !matches!(&work.task, Task::Plan { plan, .. } if plan.launches.is_empty()));
}

/// Work that does nothing.
fn empty() -> Task {
    Task::Plan { plan: tenon_kernels::gpu::Plan::default(), operands: Vec::new(), product: None }
}

/// One product in place of three works.
struct Joined {
    /// Where the two products stand.
    parts: [usize; 2],
    task: Task,
}

fn join(builder: &Builder<'_>, position: usize, uses: impl Fn(ValueId) -> usize) -> Option<Joined> {
    let Task::Map(map) = &builder.works[position].task else { return None };
    let (activation, [gate, up]) = gated(map)?;
    // A value that its product writes and this map reads, and nothing else.
    let is_private = |value: ValueId| builder.states[value].home == Home::Arena && uses(value) == 2;
    if !is_private(gate) || !is_private(up) {
        return None;
    }
    let (mut gate, mut up) = (Side::find(builder, position, gate)?, Side::find(builder, position, up)?);
    if activation.is_none() && gate.problem.epilogue.activation == Activation::None {
        // The other one has it.
        (gate, up) = (up, gate);
    }
    let activation = match (activation, gate.problem.epilogue.activation) {
        (Some(activation), Activation::None) => activation,
        (None, activation) if activation != Activation::None => activation,
        _ => return None,
    };
    let plain = Problem { epilogue: Epilogue::default(), ..*gate.problem };
    let own =
        Problem { epilogue: Epilogue { activation: Activation::None, ..gate.problem.epilogue }, ..plain };
    let same_weights = up.problem.b == gate.problem.b;
    if own != plain || *up.problem != plain || !same_weights || gate.a != up.a {
        return None;
    }
    if map.scalar != builder.scalar(gate.output)
        || builder.byte_len(map.output) != builder.byte_len(gate.output)
    {
        return None;
    }
    let target = builder.target;
    let problem =
        Problem { epilogue: Epilogue { is_gated: true, activation, ..Epilogue::default() }, ..plain };
    let plan = matmul::plan_for(target.arch, &problem, target.chip).ok()?;
    if !plan.launches.iter().all(|launch| (target.has)(&launch.symbol)) {
        return None;
    }
    let mut operands = vec![None; matmul::UP + 1];
    operands[matmul::A] = Some(gate.a);
    operands[matmul::B] = Some(gate.b);
    operands[matmul::UP] = Some(up.b);
    operands[matmul::D] = Some(map.output);
    Some(Joined {
        parts: [gate.position, up.position],
        task: Task::Plan { plan, operands, product: Some(Box::new(problem)) },
    })
}

/// One of the products.
struct Side<'b> {
    position: usize,
    problem: &'b Problem,
    output: ValueId,
    a: ValueId,
    b: ValueId,
}

impl<'b> Side<'b> {
    /// The product that writes `value` before `position`.
    fn find(builder: &'b Builder<'_>, position: usize, value: ValueId) -> Option<Side<'b>> {
        builder.works[..position].iter().enumerate().rev().find_map(|(position, work)| {
            let Task::Plan { operands, product: Some(problem), .. } = &work.task else { return None };
            let [Some(output), Some(a), Some(b)] = operands[..] else {
                let [Some(output), Some(a), Some(b), None, None] = operands[..] else { return None };
                return (output == value).then_some(Side { position, problem, output, a, b });
            };
            (output == value).then_some(Side { position, problem, output, a, b })
        })
    }
}

/// The activation (unless the product has it already), the gate and what it lets through, when `map` is their product.
fn gated(map: &Map) -> Option<(Option<Activation>, [ValueId; 2])> {
    let [first, second] = &map.inputs[..] else { return None };
    if !is_dense(first, &map.dims) || !is_dense(second, &map.dims) {
        return None;
    }
    let (last, before) = map.exprs.split_last()?;
    if last.op != MapOp::Multiply {
        return None;
    }
    let operands = [first.value, second.value];
    let pair = |gate: usize| [operands[gate], operands[1 - gate]];
    if before.is_empty() {
        return match (last.a, last.b) {
            // Which of them has an activation is for the products to say.
            (Leaf::Operand(0), Leaf::Operand(1)) | (Leaf::Operand(1), Leaf::Operand(0)) => {
                Some((None, operands))
            }
            _ => None,
        };
    }
    let result = Leaf::Node(before.len() - 1);
    let other = match (last.a, last.b) {
        (a, Leaf::Operand(up)) if a == result => up,
        (Leaf::Operand(up), b) if b == result => up,
        _ => return None,
    };
    let activation = activation_of(before, Leaf::Operand(1 - other))?;
    Some((Some(activation), pair(1 - other)))
}

/// The activation that `exprs` are of `x`.
fn activation_of(exprs: &[Expr], x: Leaf) -> Option<Activation> {
    match exprs {
        [Expr { op: MapOp::Silu, a, b, .. }] if *a == x && *b == Leaf::Number(1.0) => Some(Activation::Silu),
        [Expr { op: MapOp::Gelu, a, .. }] if *a == x => Some(Activation::Gelu),
        [Expr { op: MapOp::GeluTanh, a, .. }] if *a == x => Some(Activation::GeluTanh),
        [Expr { op: MapOp::Sigmoid, a, .. }, Expr { op: MapOp::Multiply, a: left, b: right, .. }]
            if *a == x && [(x, Leaf::Node(0)), (Leaf::Node(0), x)].contains(&(*left, *right)) =>
        {
            Some(Activation::Silu)
        }
        _ => None,
    }
}
