//! A compiled subgraph: kernels in topological order with the slots their values live in.

use smallvec::SmallVec;

use crate::error::{OpError, Result};
use crate::kernel::Kernel;
use crate::node::{Node, ValueInfo};
use crate::ops;

/// A subgraph as the compiler takes it.
pub struct Source {
    pub values: Vec<ValueInfo>,
    /// Each node with the values it reads and writes; in topological order.
    pub nodes: Vec<SourceNode>,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    /// Which values are constants; the contents of some are withheld from `values`.
    pub constants: Vec<bool>,
}

/// A node and the indices of its values.
pub struct SourceNode {
    pub node: Node,
    pub inputs: Vec<Option<usize>>,
    pub outputs: Vec<Option<usize>>,
}

/// Where an argument of a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    Absent,
    /// A value known before the first run: a constant of the graph or one computed from constants.
    Constant(u32),
    /// A value of this run; `last` when no later step and no output reads it.
    Slot {
        slot: u32,
        last: bool,
    },
}

/// Where the result of a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The slot, or `None` when nobody reads the value.
    pub slot: Option<u32>,
    /// The graph output whose memory the value is computed in.
    pub output: Option<u32>,
}

/// One kernel and its arguments.
pub(crate) struct Step {
    pub kernel: Box<dyn Kernel>,
    pub name: String,
    pub op_type: String,
    pub args: SmallVec<[Arg; 6]>,
    pub targets: SmallVec<[Target; 2]>,
    /// Bit `i` is set when output `i` is read by anybody.
    pub wanted: u64,
}

/// Where a graph output comes from when no step computes it in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputSource {
    /// A step writes it straight into the caller's memory.
    InPlace,
    /// A copy of this argument at the end of the run.
    Copy(Arg),
}

/// The steps of a subgraph, split into what runs once and what runs every time.
pub struct Program {
    /// Steps that depend on constants alone: run once, before the first run.
    pub(crate) prologue: Vec<Step>,
    pub(crate) steps: Vec<Step>,
    pub(crate) slots: usize,
    pub(crate) inputs: Vec<Option<u32>>,
    pub(crate) outputs: Vec<OutputSource>,
    /// The graph's constants, by the number that [`Arg::Constant`] uses: `Some` index of the source's value, or `None`
    /// for a value that the prologue computes.
    pub(crate) constants: Vec<Option<usize>>,
}

impl Program {
    /// Builds the kernels of `source`. Errors name the node.
    pub fn compile(source: &Source) -> Result<Program> {
        Compiler::new(source).compile()
    }

    /// The number of kernels, those that run once counted.
    pub fn step_count(&self) -> usize {
        self.prologue.len() + self.steps.len()
    }
}

/// What a value is at the point the compiler has reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Unset,
    Constant(u32),
    Slot(u32),
}

struct Compiler<'a> {
    source: &'a Source,
    places: Vec<Place>,
    /// Position of the last node that reads a value; `usize::MAX` when a graph output does.
    last_use: Vec<Option<usize>>,
    constants: Vec<Option<usize>>,
    free_slots: Vec<u32>,
    slots: u32,
}

impl<'a> Compiler<'a> {
    fn new(source: &'a Source) -> Compiler<'a> {
        let mut last_use = vec![None; source.values.len()];
        for (position, node) in source.nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|&value| last_use[value] = Some(position));
        }
        for &value in &source.outputs {
            last_use[value] = Some(usize::MAX);
        }
        Compiler {
            source,
            places: vec![Place::Unset; source.values.len()],
            last_use,
            constants: Vec::new(),
            free_slots: Vec::new(),
            slots: 0,
        }
    }

    fn compile(mut self) -> Result<Program> {
        for (index, is_constant) in self.source.constants.iter().enumerate() {
            if *is_constant {
                self.places[index] = Place::Constant(self.constants.len() as u32);
                self.constants.push(Some(index));
            }
        }
        let inputs = self.source.inputs.iter().map(|&value| self.place_input(value)).collect();
        let (mut prologue, mut steps) = (Vec::new(), Vec::new());
        for (position, node) in self.source.nodes.iter().enumerate() {
            let kernel = ops::build(&node.node).map_err(|error| in_node(&node.node, error))?;
            let runs_once =
                is_deterministic(&node.node) && node.inputs.iter().flatten().all(|&v| self.is_constant(v));
            let step = self.step(position, node, kernel, runs_once)?;
            if runs_once { prologue.push(step) } else { steps.push(step) }
        }
        let outputs = self.outputs(&mut steps)?;
        let slots = self.slots as usize;
        Ok(Program { prologue, steps, slots, inputs, outputs, constants: self.constants })
    }

    fn is_constant(&self, value: usize) -> bool {
        matches!(self.places[value], Place::Constant(_))
    }

    fn place_input(&mut self, value: usize) -> Option<u32> {
        if self.last_use[value].is_none() || self.is_constant(value) {
            return None;
        }
        if let Place::Slot(slot) = self.places[value] {
            return Some(slot);
        }
        let slot = self.take_slot();
        self.places[value] = Place::Slot(slot);
        Some(slot)
    }

    fn take_slot(&mut self) -> u32 {
        self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    fn step(
        &mut self,
        position: usize,
        node: &SourceNode,
        kernel: Box<dyn Kernel>,
        once: bool,
    ) -> Result<Step> {
        let mut args: SmallVec<[Arg; 6]> = SmallVec::with_capacity(node.inputs.len());
        for (index, input) in node.inputs.iter().enumerate() {
            let again = node.inputs[index + 1..].contains(input);
            args.push(match *input {
                None => Arg::Absent,
                Some(value) => {
                    self.argument(value, self.last_use[value] == Some(position) && !again, &node.node)?
                }
            });
        }
        for arg in &args {
            if let Arg::Slot { slot, last: true } = *arg {
                self.free_slots.push(slot);
            }
        }
        let (mut targets, mut wanted) = (SmallVec::new(), 0u64);
        for (index, output) in node.outputs.iter().enumerate() {
            let value = output.filter(|&value| self.last_use[value].is_some());
            if value.is_some() {
                if index >= 64 {
                    return Err(in_node(&node.node, OpError::unsupported("more than 64 outputs")));
                }
                wanted |= 1 << index;
            }
            let slot = value.map(|value| {
                let place = if once { self.take_constant() } else { Place::Slot(self.take_slot()) };
                self.places[value] = place;
                match place {
                    Place::Constant(number) | Place::Slot(number) => number,
                    Place::Unset => unreachable!("a place was just chosen"),
                }
            });
            targets.push(Target { slot, output: None });
        }
        Ok(Step {
            kernel,
            name: node.node.name.clone(),
            op_type: node.node.op_type.clone(),
            args,
            targets,
            wanted,
        })
    }

    fn take_constant(&mut self) -> Place {
        self.constants.push(None);
        Place::Constant(self.constants.len() as u32 - 1)
    }

    fn argument(&self, value: usize, last: bool, node: &Node) -> Result<Arg> {
        match self.places[value] {
            Place::Constant(number) => Ok(Arg::Constant(number)),
            Place::Slot(slot) => Ok(Arg::Slot { slot, last }),
            Place::Unset => {
                let name = &self.source.values[value].name;
                Err(in_node(node, OpError::invalid(format!("reads '{name}' before anything computes it"))))
            }
        }
    }

    /// Chooses, for each graph output, the step that may write it in the caller's memory.
    fn outputs(&self, steps: &mut [Step]) -> Result<Vec<OutputSource>> {
        let mut sources = Vec::with_capacity(self.source.outputs.len());
        for (number, &value) in self.source.outputs.iter().enumerate() {
            let arg = match self.places[value] {
                Place::Constant(constant) => Arg::Constant(constant),
                Place::Slot(slot) => Arg::Slot { slot, last: false },
                Place::Unset => {
                    let name = &self.source.values[value].name;
                    return Err(OpError::invalid(format!("nothing computes the output '{name}'")));
                }
            };
            let target = self.producer_target(value, steps).filter(|target| target.output.is_none());
            sources.push(match target {
                Some(target) => {
                    target.output = Some(number as u32);
                    OutputSource::InPlace
                }
                None => OutputSource::Copy(arg),
            });
        }
        Ok(sources)
    }

    /// The target that computes `value` in a step that runs every time.
    fn producer_target<'s>(&self, value: usize, steps: &'s mut [Step]) -> Option<&'s mut Target> {
        let Place::Slot(slot) = self.places[value] else { return None };
        if self.source.inputs.contains(&value) {
            return None;
        }
        // The slot of an output is never given to a later value, so the last writer of the slot is the producer.
        steps
            .iter_mut()
            .rev()
            .flat_map(|step| step.targets.iter_mut())
            .find(|target| target.slot == Some(slot))
    }
}

/// Adds the node to an error's message.
pub(crate) fn in_node(node: &Node, error: OpError) -> OpError {
    at_node(&node.name, &node.op_type, &error)
}

/// Adds a node's name and operator to an error's message.
pub(crate) fn at_node(name: &str, op_type: &str, error: &OpError) -> OpError {
    let message = if name.is_empty() {
        format!("{op_type}: {}", error.message())
    } else {
        format!("node '{name}' ({op_type}): {}", error.message())
    };
    match error.kind() {
        crate::error::OpErrorKind::Invalid => OpError::invalid(message),
        crate::error::OpErrorKind::Unsupported => OpError::unsupported(message),
    }
}

/// False for operators that give other results on each run from the same inputs.
fn is_deterministic(node: &Node) -> bool {
    const RANDOM: [&str; 6] = [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    ];
    !RANDOM.contains(&node.op_type.as_str())
}
