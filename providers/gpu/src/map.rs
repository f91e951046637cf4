//! Element-wise expressions: built by operators, merged by fusion, turned into programs of the interpreter.

use tenon_kernels::gpu::elementwise::{self, Class, Instruction, MapOp, MapOperand, Program, Source};
use tenon_kernels::gpu::scalar::Scalar;

use crate::schedule::ValueId;

/// An argument of an expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaf {
    None,
    Operand(usize),
    /// A number, converted to the class.
    Number(f64),
    /// The result of an earlier expression.
    Node(usize),
}

/// One operator of an expression; `c` is the third argument of a selection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expr {
    pub op: MapOp,
    pub a: Leaf,
    pub b: Leaf,
    pub c: Leaf,
}

impl Expr {
    pub fn unary(op: MapOp, a: Leaf) -> Expr {
        Expr { op, a, b: Leaf::None, c: Leaf::None }
    }

    pub fn binary(op: MapOp, a: Leaf, b: Leaf) -> Expr {
        Expr { op, a, b, c: Leaf::None }
    }

    pub fn select(condition: Leaf, yes: Leaf, no: Leaf) -> Expr {
        Expr { op: MapOp::Select, a: condition, b: yes, c: no }
    }
}

/// A value that a map reads, with a stride for each dimension of the output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MapInput {
    pub value: ValueId,
    pub scalar: Scalar,
    pub strides: Vec<i64>,
    pub offset: i64,
}

/// An element-wise computation of one contiguous output. The last expression is the result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Map {
    pub class: Class,
    pub output: ValueId,
    pub scalar: Scalar,
    pub dims: Vec<usize>,
    pub inputs: Vec<MapInput>,
    pub exprs: Vec<Expr>,
}

/// The class that elements of `scalar` are computed in.
pub(crate) fn class_of(scalar: Scalar) -> Class {
    match scalar {
        Scalar::F32 | Scalar::F16 | Scalar::BF16 => Class::F32,
        Scalar::F64 => Class::F64,
        _ => Class::I64,
    }
}

/// Strides with which a contiguous tensor of `dims` is read at the positions of a broadcast to `out`.
pub(crate) fn broadcast_strides(dims: &[usize], out: &[usize]) -> Vec<i64> {
    let own = tenon_kernels::gpu::layout::contiguous(dims);
    let lead = out.len() - dims.len();
    (0..out.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(axis) if dims[axis] != 1 => own[axis],
            _ => 0,
        })
        .collect()
}

impl Map {
    /// The types and the number of elements, where the map is nothing but a cast between floats of contiguous tensors.
    pub fn cast(&self) -> Option<(Scalar, Scalar, usize)> {
        let rounding = match self.scalar {
            Scalar::F16 => MapOp::ToF16,
            Scalar::BF16 => MapOp::ToBf16,
            _ => MapOp::Move,
        };
        let ([input], [expr]) = (self.inputs.as_slice(), self.exprs.as_slice()) else { return None };
        let is_whole = input.offset == 0 && input.strides == broadcast_strides(&self.dims, &self.dims);
        let is_cast = self.class == Class::F32 && *expr == Expr::unary(rounding, Leaf::Operand(0));
        (is_whole && is_cast).then(|| (input.scalar, self.scalar, self.dims.iter().product()))
    }

    /// The program of the interpreter, or `None` when it does not fit its registers or limits.
    pub fn program(&self) -> Option<Program> {
        let code = Coder::new(self).finish()?;
        let operand = |input: &MapInput| MapOperand {
            scalar: input.scalar,
            strides: input.strides.clone(),
            offset: input.offset,
        };
        Some(Program {
            class: self.class,
            dims: self.dims.clone(),
            output: self.scalar,
            operands: self.inputs.iter().map(operand).collect(),
            constants: code.constants,
            code: code.code,
        })
    }

    /// This map with `producer` computed in place of the value it reads from it; `None` when that does not fit.
    /// The producer has the same dimensions and class.
    pub fn absorb(&self, producer: &Map) -> Option<Map> {
        let mut merged =
            Map { inputs: producer.inputs.clone(), exprs: producer.exprs.clone(), ..self.clone() };
        let result = Leaf::Node(producer.exprs.len() - 1);
        let place: Vec<Leaf> = self
            .inputs
            .iter()
            .map(|input| {
                if input.value == producer.output {
                    return result;
                }
                let known = merged.inputs.iter().position(|other| other == input);
                Leaf::Operand(known.unwrap_or_else(|| {
                    merged.inputs.push(input.clone());
                    merged.inputs.len() - 1
                }))
            })
            .collect();
        let base = producer.exprs.len();
        let renamed = |leaf: Leaf| match leaf {
            Leaf::Operand(index) => place[index],
            Leaf::Node(index) => Leaf::Node(base + index),
            other => other,
        };
        merged.exprs.extend(self.exprs.iter().map(|expr| Expr {
            op: expr.op,
            a: renamed(expr.a),
            b: renamed(expr.b),
            c: renamed(expr.c),
        }));
        let fits = merged.inputs.len() <= elementwise::OPERANDS && merged.program().is_some();
        fits.then_some(merged)
    }
}

/// The operator with its arguments exchanged.
fn reversed(op: MapOp) -> Option<MapOp> {
    Some(match op {
        MapOp::Subtract => MapOp::ReverseSubtract,
        MapOp::Divide => MapOp::ReverseDivide,
        MapOp::Power => MapOp::ReversePower,
        MapOp::Fmod => MapOp::ReverseFmod,
        MapOp::Mod => MapOp::ReverseMod,
        MapOp::Less => MapOp::Greater,
        MapOp::Greater => MapOp::Less,
        MapOp::LessOrEqual => MapOp::GreaterOrEqual,
        MapOp::GreaterOrEqual => MapOp::LessOrEqual,
        MapOp::Add
        | MapOp::Multiply
        | MapOp::Max
        | MapOp::Min
        | MapOp::Equal
        | MapOp::And
        | MapOp::Or
        | MapOp::Xor
        | MapOp::BitAnd
        | MapOp::BitOr
        | MapOp::BitXor => op,
        _ => return None,
    })
}

/// Turns expressions into instructions for one accumulator and few temporaries.
struct Coder<'a> {
    map: &'a Map,
    /// Uses of each expression that are still to come.
    uses: Vec<usize>,
    /// The temporary that holds an expression used more than once.
    kept: Vec<Option<u8>>,
    free: Vec<u8>,
    constants: Vec<u64>,
    code: Vec<Instruction>,
}

impl<'a> Coder<'a> {
    fn new(map: &'a Map) -> Coder<'a> {
        let mut uses = vec![0; map.exprs.len()];
        for expr in &map.exprs {
            for leaf in [expr.a, expr.b, expr.c] {
                if let Leaf::Node(index) = leaf {
                    uses[index] += 1;
                }
            }
        }
        Coder {
            map,
            kept: vec![None; uses.len()],
            uses,
            free: (0..elementwise::TEMPS as u8).rev().collect(),
            constants: Vec::new(),
            code: Vec::new(),
        }
    }

    fn finish(mut self) -> Option<Coder<'a>> {
        self.node(self.map.exprs.len().checked_sub(1)?)?;
        let fits = self.code.len() <= elementwise::LENGTH
            && self.constants.len() <= elementwise::CONSTANTS
            && self.map.inputs.len() <= elementwise::OPERANDS;
        fits.then_some(self)
    }

    fn emit(&mut self, op: MapOp, source: Source, temp: u8) {
        self.code.push(Instruction { op, source, temp });
    }

    /// The source for a leaf that needs no computation.
    fn source(&mut self, leaf: Leaf) -> Option<Source> {
        match leaf {
            Leaf::None => Some(Source::None),
            Leaf::Operand(index) => Some(Source::Operand(index as u8)),
            Leaf::Number(value) => {
                let bits = self.map.class.bits(value);
                let known = self.constants.iter().position(|&other| other == bits);
                let index = known.unwrap_or_else(|| {
                    self.constants.push(bits);
                    self.constants.len() - 1
                });
                Some(Source::Constant(index as u8))
            }
            Leaf::Node(index) => self.kept[index].map(Source::Temp),
        }
    }

    fn is_ready(&self, leaf: Leaf) -> bool {
        !matches!(leaf, Leaf::Node(index) if self.kept[index].is_none())
    }

    /// A use of `leaf` has been coded: its temporary is free after the last one.
    fn used(&mut self, leaf: Leaf) {
        if let Leaf::Node(index) = leaf {
            self.uses[index] -= 1;
            if self.uses[index] == 0
                && let Some(temp) = self.kept[index].take()
            {
                self.free.push(temp);
            }
        }
    }

    /// Brings a leaf into the accumulator.
    fn load(&mut self, leaf: Leaf) -> Option<()> {
        match leaf {
            Leaf::Node(index) if self.kept[index].is_none() => self.node(index)?,
            leaf => {
                let source = self.source(leaf)?;
                self.emit(MapOp::Move, source, 0);
            }
        }
        Some(())
    }

    /// Computes a leaf into a temporary of its own and gives that as a source.
    fn stash(&mut self, leaf: Leaf) -> Option<(Source, Option<u8>)> {
        if self.is_ready(leaf) {
            return Some((self.source(leaf)?, None));
        }
        self.load(leaf)?;
        if let Some(source) = self.is_ready(leaf).then(|| self.source(leaf)).flatten() {
            // It is used again and was kept by its own code.
            return Some((source, None));
        }
        let temp = self.free.pop()?;
        self.emit(MapOp::Store, Source::None, temp);
        Some((Source::Temp(temp), Some(temp)))
    }

    /// Computes expression `index` into the accumulator, and keeps it when it is used again.
    fn node(&mut self, index: usize) -> Option<()> {
        let expr = self.map.exprs[index];
        match (expr.b, expr.c) {
            (Leaf::None, _) => {
                self.load(expr.a)?;
                if expr.op != MapOp::Move {
                    self.emit(expr.op, Source::None, 0);
                }
            }
            (_, Leaf::None) => self.binary(expr)?,
            _ => self.select(expr)?,
        }
        for leaf in [expr.a, expr.b, expr.c] {
            self.used(leaf);
        }
        if self.uses[index] > 1 {
            let temp = self.free.pop()?;
            self.emit(MapOp::Store, Source::None, temp);
            self.kept[index] = Some(temp);
        }
        Some(())
    }

    fn binary(&mut self, expr: Expr) -> Option<()> {
        let reverse = reversed(expr.op);
        if !self.is_ready(expr.b)
            && self.is_ready(expr.a)
            && let Some(op) = reverse
        {
            self.load(expr.b)?;
            let source = self.source(expr.a)?;
            self.emit(op, source, 0);
            return Some(());
        }
        let (source, temp) = self.stash(expr.b)?;
        self.load(expr.a)?;
        self.emit(expr.op, source, 0);
        self.free.extend(temp);
        Some(())
    }

    fn select(&mut self, expr: Expr) -> Option<()> {
        // What is taken where the condition is 0 must be in a temporary.
        self.load(expr.c)?;
        let no = self.free.pop()?;
        self.emit(MapOp::Store, Source::None, no);
        let (yes, temp) = self.stash(expr.b)?;
        self.load(expr.a)?;
        self.emit(MapOp::Select, yes, no);
        self.free.extend(temp);
        self.free.push(no);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(inputs: usize, exprs: Vec<Expr>) -> Map {
        let input = |value| MapInput { value, scalar: Scalar::F32, strides: vec![1], offset: 0 };
        Map {
            class: Class::F32,
            output: 99,
            scalar: Scalar::F32,
            dims: vec![8],
            inputs: (0..inputs).map(input).collect(),
            exprs,
        }
    }

    /// Runs a program for one element, each operand being a number.
    fn evaluate(program: &Program, operands: &[f32]) -> f32 {
        let (mut a, mut temps) = (0f32, [0f32; elementwise::TEMPS]);
        for code in &program.code {
            let b = match code.source {
                Source::None => 0.0,
                Source::Operand(index) => operands[index as usize],
                Source::Temp(index) => temps[index as usize],
                Source::Constant(index) => f32::from_bits(program.constants[index as usize] as u32),
            };
            a = match code.op {
                MapOp::Move => b,
                MapOp::Add => a + b,
                MapOp::Subtract => a - b,
                MapOp::ReverseSubtract => b - a,
                MapOp::Multiply => a * b,
                MapOp::Divide => a / b,
                MapOp::ReverseDivide => b / a,
                MapOp::Greater => f32::from(u8::from(a > b)),
                MapOp::Negate => -a,
                MapOp::Store => {
                    temps[code.temp as usize] = a;
                    a
                }
                MapOp::Select if a != 0.0 => b,
                MapOp::Select => temps[code.temp as usize],
                other => panic!("{other:?}"),
            };
        }
        a
    }

    #[test]
    fn expressions_with_shared_parts_are_computed_right() {
        use Leaf::{Node, Number, Operand};
        // s = x + y; d = x - y; (s * d) / (s - 2 * d) where s > d, else -(d / s)
        let exprs = vec![
            Expr::binary(MapOp::Add, Operand(0), Operand(1)),
            Expr::binary(MapOp::Subtract, Operand(0), Operand(1)),
            Expr::binary(MapOp::Multiply, Node(0), Node(1)),
            Expr::binary(MapOp::Multiply, Number(2.0), Node(1)),
            Expr::binary(MapOp::Subtract, Node(0), Node(3)),
            Expr::binary(MapOp::Divide, Node(2), Node(4)),
            Expr::binary(MapOp::Greater, Node(0), Node(1)),
            Expr::binary(MapOp::Divide, Node(1), Node(0)),
            Expr::unary(MapOp::Negate, Node(7)),
            Expr::select(Node(6), Node(5), Node(8)),
        ];
        let program = map(2, exprs).program().expect("it fits the temporaries");
        for (x, y) in [(3.0f32, 5.0f32), (2.0, -1.5), (-4.0, 0.25)] {
            let (s, d) = (x + y, x - y);
            let expected = if s > d { (s * d) / (s - 2.0 * d) } else { -(d / s) };
            assert_eq!(evaluate(&program, &[x, y]), expected, "{x} {y}");
        }
    }

    #[test]
    fn a_producer_is_absorbed_with_its_operands() {
        use Leaf::Operand;
        let mut producer = map(2, vec![Expr::binary(MapOp::Subtract, Operand(0), Operand(1))]);
        producer.output = 7;
        let mut consumer = map(2, vec![Expr::binary(MapOp::Divide, Operand(1), Operand(0))]);
        consumer.inputs[0].value = 7;
        let merged = consumer.absorb(&producer).expect("it fits");
        let values: Vec<usize> = merged.inputs.iter().map(|input| input.value).collect();
        assert_eq!(values, [0, 1]);
        // x1 / (x0 - x1)
        assert_eq!(evaluate(&merged.program().unwrap(), &[5.0, 2.0]), 2.0 / 3.0);
    }
}
