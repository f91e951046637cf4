//! What a run does for one set of input shapes: work in order, the values it touches, and where each of them lives.

use std::collections::HashMap;
use std::sync::Arc;

use tenon_kernels::estimate::Cost;
use tenon_kernels::gpu::matmul;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::{Arg, Chip, Plan, TensorMap, arch};
use tenon_plugin_api::{Error, Result};

use crate::driver::{Function, LaunchConfig};
use crate::kernels::Kernels;
use crate::map::Map;
use crate::symbol;
use crate::{fusion, gate};

/// A value of the graph, or scratch memory of a node.
pub(crate) type ValueId = usize;

/// Where a value's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// Not known yet: scratch memory, once something writes it.
    Arena,
    Input(u32),
    Output(u32),
    /// A constant at a device address.
    Constant(u64),
    /// Part of another value.
    Alias(ValueId, u64),
    /// A constant that is on the host only.
    Absent,
}

/// A value while a schedule is built.
pub(crate) struct State {
    pub scalar: Scalar,
    pub dims: Vec<usize>,
    pub home: Home,
    /// Set once the shape is known.
    pub is_defined: bool,
}

/// What is known of a value beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    /// `None` for types that no kernel reads.
    pub scalar: Option<Scalar>,
    pub dims: Option<Vec<DeclaredDim>>,
    pub home: Home,
}

impl Declared {
    /// The dimensions where the graph declares a number for each.
    pub fn known_dims(&self) -> Option<Vec<usize>> {
        let known = |dim: &DeclaredDim| match dim {
            DeclaredDim::Known(size) => Some(*size),
            _ => None,
        };
        self.dims.as_ref()?.iter().map(known).collect()
    }
}

/// A dimension as the graph declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeclaredDim {
    Known(usize),
    Symbol(Arc<str>),
    Unknown,
}

/// Something to do, for the node with the number `node`.
pub(crate) struct Work {
    /// Numbers of the nodes it is done for.
    pub nodes: Vec<u32>,
    pub task: Task,
}

pub(crate) enum Task {
    /// Launches over numbered operands.
    Plan {
        plan: Plan,
        operands: Vec<Option<ValueId>>,
        /// What the plan computes, where it is a product on matrix units: operands 0 the result, 1 A, 2 B.
        product: Option<Box<matmul::Problem>>,
    },
    Map(Map),
    Copy {
        to: ValueId,
        from: ValueId,
        offset_bytes: u64,
    },
}

impl Work {
    /// The values that it reads and writes.
    pub fn touched(&self) -> Vec<ValueId> {
        match &self.task {
            Task::Plan { operands, .. } => operands.iter().flatten().copied().collect(),
            Task::Map(map) => map.inputs.iter().map(|input| input.value).chain([map.output]).collect(),
            Task::Copy { to, from, .. } => vec![*to, *from],
        }
    }
}

/// What work is planned for.
#[derive(Clone, Copy)]
pub(crate) struct Target<'b> {
    /// The kernels' folder.
    pub arch: &'b str,
    pub chip: &'b Chip,
    /// The kernel that products are to use; `None`: the one that the family's table gives.
    pub matmul: Option<&'b str>,
    /// Products of f32 may be computed in tf32.
    pub allows_tf32: bool,
    /// Whether the build holds a kernel.
    pub has: &'b dyn Fn(&str) -> bool,
}

/// Collects the work of a graph's nodes.
pub(crate) struct Builder<'b> {
    pub target: Target<'b>,
    pub states: Vec<State>,
    pub works: Vec<Work>,
    declared: &'b [Declared],
    symbols: HashMap<Arc<str>, usize>,
}

impl<'b> Builder<'b> {
    /// A builder over values as declared; inputs are defined next.
    pub fn new(target: Target<'b>, declared: &'b [Declared]) -> Builder<'b> {
        let state = |value: &Declared| State {
            scalar: value.scalar.unwrap_or(Scalar::U8),
            dims: Vec::new(),
            home: value.home,
            is_defined: false,
        };
        Builder {
            target,
            states: declared.iter().map(state).collect(),
            works: Vec::new(),
            declared,
            symbols: HashMap::new(),
        }
    }

    pub fn dims(&self, value: ValueId) -> &[usize] {
        &self.states[value].dims
    }

    pub fn scalar(&self, value: ValueId) -> Scalar {
        self.states[value].scalar
    }

    pub fn byte_len(&self, value: ValueId) -> usize {
        let state = &self.states[value];
        state.scalar.byte_len(state.dims.iter().product()).expect("`define` refuses larger tensors")
    }

    /// Sets a value's type and shape, and learns the sizes of its symbols.
    pub fn define(&mut self, value: ValueId, scalar: Scalar, dims: &[usize]) -> Result<()> {
        let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
        let bytes = count.and_then(|count| scalar.byte_len(count));
        if bytes.is_none_or(|bytes| bytes > 1 << 40) {
            return Err(Error::invalid(format!("a tensor of {dims:?} elements is too large")));
        }
        let state = &mut self.states[value];
        (state.scalar, state.dims, state.is_defined) = (scalar, dims.to_vec(), true);
        let Some(declared) = self.declared.get(value).and_then(|value| value.dims.as_ref()) else {
            return Ok(());
        };
        for (declared, &dim) in declared.iter().zip(dims) {
            if let DeclaredDim::Symbol(symbol) = declared {
                self.symbols.entry(symbol.clone()).or_insert(dim);
            }
        }
        Ok(())
    }

    /// The declared dimensions of a value, symbols replaced by what earlier values taught.
    pub fn declared(&self, value: ValueId) -> Option<Vec<Option<usize>>> {
        let dims = self.declared.get(value)?.dims.as_ref()?;
        let known = |dim: &DeclaredDim| match dim {
            DeclaredDim::Known(size) => Some(*size),
            DeclaredDim::Symbol(symbol) => symbol::evaluate(symbol, &|name| self.symbols.get(name).copied()),
            DeclaredDim::Unknown => None,
        };
        Some(dims.iter().map(known).collect())
    }

    pub fn scratch(&mut self, scalar: Scalar, dims: &[usize]) -> Result<ValueId> {
        self.states.push(State { scalar, dims: dims.to_vec(), home: Home::Arena, is_defined: true });
        Ok(self.states.len() - 1)
    }

    pub fn run(&mut self, node: u32, plan: Plan, operands: &[Option<ValueId>]) {
        if plan.launches.is_empty() {
            return;
        }
        let task = Task::Plan { plan, operands: operands.to_vec(), product: None };
        self.works.push(Work { nodes: vec![node], task });
    }

    /// Says that the work added last is this product, so that it can be joined with another one.
    pub fn describe(&mut self, problem: matmul::Problem) {
        if let Some(Work { task: Task::Plan { product, .. }, .. }) = self.works.last_mut() {
            *product = Some(Box::new(problem));
        }
    }

    pub fn map(&mut self, node: u32, map: Map) {
        if map.dims.iter().product::<usize>() > 0 {
            self.works.push(Work { nodes: vec![node], task: Task::Map(map) });
        }
    }

    /// Makes `to`, which has the type and shape of `from`, the same bytes: nothing to do where a run comes with one
    /// address for both.
    pub fn copy(&mut self, node: u32, to: ValueId, from: ValueId) {
        self.works.push(Work { nodes: vec![node], task: Task::Copy { to, from, offset_bytes: 0 } });
    }

    /// True when an element-wise program computes `value`.
    pub fn is_mapped(&self, value: ValueId) -> bool {
        let is_source = |work: &Work| matches!(&work.task, Task::Map(map) if map.output == value);
        self.works.iter().rev().any(is_source)
    }

    /// True when no kernel of this schedule writes `value`: a constant, or an input. Kernels may read it before those in
    /// front of them have ended, as the first launch of a schedule waits for everything queued before.
    pub fn is_constant(&self, value: ValueId) -> bool {
        matches!(self.states[self.root(value).0].home, Home::Constant(_) | Home::Input(_))
    }

    /// The value whose memory `value` is a part of, and the distance from its start.
    pub fn root(&self, value: ValueId) -> (ValueId, u64) {
        let (mut value, mut offset) = (value, 0);
        while let Home::Alias(of, more) = self.states[value].home {
            (value, offset) = (of, offset + more);
        }
        (value, offset)
    }

    /// Makes `output` the bytes of `value` from `offset_bytes` on: without a copy where nothing forbids it.
    pub fn view(&mut self, node: u32, output: ValueId, value: ValueId, offset_bytes: u64) -> Result<()> {
        let (root, offset) = self.root(value);
        let offset = offset + offset_bytes;
        // Kernels rely on 16-byte alignment of every operand.
        if self.states[output].home == Home::Arena && offset.is_multiple_of(16) {
            self.states[output].home = Home::Alias(root, offset);
            return Ok(());
        }
        // The memory that the host gives for an output can be where the source is computed in the first place.
        let is_whole = offset == 0 && self.byte_len(root) == self.byte_len(output);
        if matches!(self.states[output].home, Home::Output(_))
            && self.states[root].home == Home::Arena
            && is_whole
        {
            self.states[root].home = Home::Alias(output, 0);
            return Ok(());
        }
        self.works.push(Work {
            nodes: vec![node],
            task: Task::Copy { to: output, from: root, offset_bytes: offset },
        });
        Ok(())
    }

    /// The schedule: work fused, memory laid out, kernels found.
    pub fn finish(mut self, outputs: &[ValueId], kernels: &Kernels) -> Result<Schedule> {
        fusion::run(&mut self, outputs);
        gate::run(&mut self, outputs);
        Layout::new(self, kernels)?.finish(outputs)
    }
}

/// An address that is known once a run's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Input(u32, u64),
    Output(u32, u64),
    Arena(u64),
    Absolute(u64),
    /// Memory that is zero before and after every launch.
    Zeroed(u64),
}

/// An 8-byte address in the parameters of a launch, or a tensor map to be encoded there.
pub(crate) enum Patch {
    Address { at: usize, location: Location },
    TensorMap { at: usize, map: TensorMap, location: Location },
}

/// A launch whose addresses are filled in before it is queued.
pub(crate) struct ReadyLaunch {
    pub function: Function,
    pub config: LaunchConfig,
    pub bytes: Vec<u8>,
    pub places: Vec<(u32, u32)>,
    pub patches: Vec<Patch>,
    pub symbol: String,
    pub cost: Cost,
    pub nodes: Vec<u32>,
}

/// A step of a run.
pub(crate) enum Step {
    Launch(ReadyLaunch),
    Copy { to: Location, from: Location, bytes: usize, nodes: Vec<u32> },
}

/// The work of a run for one set of input shapes.
pub(crate) struct Schedule {
    pub steps: Vec<Step>,
    /// Type and dimensions of each output.
    pub outputs: Vec<(Scalar, Vec<i64>, usize)>,
    pub arena_bytes: usize,
    /// Bytes that must be zero before the first launch, and are after the last.
    pub zeroed_bytes: usize,
}

/// The time in which a value's memory is needed, as positions in the work.
struct Life {
    value: ValueId,
    first: usize,
    last: usize,
    bytes: usize,
}

/// Places values in the arena and binds work to kernels.
struct Layout<'b, 'k> {
    builder: Builder<'b>,
    kernels: &'k Kernels,
    offsets: HashMap<ValueId, u64>,
    /// Where the workspace of each work begins.
    workspaces: Vec<u64>,
    arena_bytes: usize,
    zeroed_bytes: usize,
    /// The family's kernels wait for those ahead of them.
    overlaps_launches: bool,
}

impl<'b, 'k> Layout<'b, 'k> {
    fn new(builder: Builder<'b>, kernels: &'k Kernels) -> Result<Layout<'b, 'k>> {
        let mut layout = Layout {
            offsets: HashMap::new(),
            overlaps_launches: arch::find(builder.target.arch).is_ok_and(|arch| arch.overlaps_launches),
            workspaces: vec![0; builder.works.len()],
            builder,
            kernels,
            arena_bytes: 0,
            zeroed_bytes: 0,
        };
        layout.place();
        Ok(layout)
    }

    fn place(&mut self) {
        let mut lives: Vec<Life> = Vec::new();
        let mut known: HashMap<ValueId, usize> = HashMap::new();
        for (position, work) in self.builder.works.iter().enumerate() {
            for value in work.touched() {
                let (root, _) = self.builder.root(value);
                if self.builder.states[root].home != Home::Arena {
                    continue;
                }
                let bytes = self.builder.byte_len(root);
                let index = *known.entry(root).or_insert_with(|| {
                    lives.push(Life { value: root, first: position, last: position, bytes });
                    lives.len() - 1
                });
                lives[index].last = position;
            }
            if let Task::Plan { plan, .. } = &work.task
                && plan.workspace_bytes > 0
            {
                let value = self.builder.states.len() + position;
                lives.push(Life {
                    value,
                    first: position,
                    last: position,
                    bytes: plan.workspace_bytes as usize,
                });
            }
        }
        self.pack(lives);
    }

    /// Gives each life the lowest offset that overlaps nothing alive at the same time, large ones first.
    fn pack(&mut self, mut lives: Vec<Life>) {
        lives.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.first));
        let mut placed: Vec<(usize, usize, usize, usize)> = Vec::new();
        for life in lives {
            let mut busy: Vec<(usize, usize)> = placed
                .iter()
                .filter(|&&(first, last, ..)| first <= life.last && life.first <= last)
                .map(|&(_, _, from, to)| (from, to))
                .collect();
            busy.sort_unstable();
            let mut offset = 0;
            for (from, to) in busy {
                if offset + life.bytes <= from {
                    break;
                }
                offset = offset.max(to.next_multiple_of(256));
            }
            placed.push((life.first, life.last, offset, offset + life.bytes));
            self.arena_bytes = self.arena_bytes.max((offset + life.bytes).next_multiple_of(256));
            match life.value.checked_sub(self.builder.states.len()) {
                Some(position) => self.workspaces[position] = offset as u64,
                None => {
                    self.offsets.insert(life.value, offset as u64);
                }
            }
        }
    }

    fn location(&self, value: ValueId, more: u64) -> Result<Location> {
        let (root, offset) = self.builder.root(value);
        let offset = offset + more;
        Ok(match self.builder.states[root].home {
            Home::Input(index) => Location::Input(index, offset),
            Home::Output(index) => Location::Output(index, offset),
            Home::Constant(address) => Location::Absolute(address + offset),
            Home::Arena => Location::Arena(self.offsets.get(&root).copied().unwrap_or(0) + offset),
            Home::Alias(..) | Home::Absent => {
                return Err(Error::internal("a value that a kernel reads is not on the device"));
            }
        })
    }

    /// The family's own kernel for a cast, else the interpreter.
    fn map_plan(&self, map: &Map) -> Result<Plan> {
        use tenon_kernels::gpu::{cast, elementwise};
        if let Some((from, to, total)) = map.cast() {
            let own = cast::plan_for(self.builder.target.arch, from, to, total);
            if let Some(plan) = own.map_err(crate::operator::refused)? {
                return Ok(plan);
            }
        }
        let program = map.program().ok_or_else(|| Error::internal("a map grew too large"))?;
        elementwise::plan(&program).map_err(crate::operator::refused)
    }

    fn finish(mut self, outputs: &[ValueId]) -> Result<Schedule> {
        let mut steps = Vec::new();
        let works = std::mem::take(&mut self.builder.works);
        for (position, work) in works.into_iter().enumerate() {
            match work.task {
                Task::Plan { plan, operands, .. } => {
                    self.launches(position, plan, &operands, work.nodes, &mut steps)?;
                }
                Task::Map(map) => {
                    let plan = self.map_plan(&map)?;
                    let operands: Vec<Option<ValueId>> = std::iter::once(map.output)
                        .chain(map.inputs.iter().map(|i| i.value))
                        .map(Some)
                        .collect();
                    self.launches(position, plan, &operands, work.nodes, &mut steps)?;
                }
                Task::Copy { to, from, offset_bytes } => steps.push(Step::Copy {
                    to: self.location(to, 0)?,
                    from: self.location(from, offset_bytes)?,
                    bytes: self.builder.byte_len(to),
                    nodes: work.nodes,
                }),
            }
        }
        let shape = |&value: &ValueId| {
            let state = &self.builder.states[value];
            if !state.is_defined {
                return Err(Error::internal("an output was never computed"));
            }
            let dims = state.dims.iter().map(|&dim| dim as i64).collect();
            Ok((state.scalar, dims, self.builder.byte_len(value)))
        };
        let outputs = outputs.iter().map(shape).collect::<Result<_>>()?;
        // What was queued before this run may still be writing the inputs.
        let first = steps.iter_mut().find_map(|step| match step {
            Step::Launch(launch) => Some(launch),
            Step::Copy { .. } => None,
        });
        if let Some(launch) = first {
            launch.config.is_dependent = false;
        }
        let (arena_bytes, zeroed_bytes) = (self.arena_bytes, self.zeroed_bytes);
        Ok(Schedule { steps, outputs, arena_bytes, zeroed_bytes })
    }

    fn launches(
        &mut self,
        position: usize,
        plan: Plan,
        operands: &[Option<ValueId>],
        nodes: Vec<u32>,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let workspace = self.workspaces[position];
        // Launches leave these bytes zero, and those of one queue come one after the other: all share one piece.
        self.zeroed_bytes = self.zeroed_bytes.max(plan.zeroed_bytes as usize);
        for launch in plan.launches {
            let mut ready = ReadyLaunch {
                function: self.kernels.function(&launch.symbol, launch.shared_bytes)?,
                config: LaunchConfig {
                    grid: launch.grid,
                    block: launch.block,
                    cluster: launch.cluster,
                    shared_bytes: launch.shared_bytes,
                    is_dependent: launch.is_dependent_launch && self.overlaps_launches,
                },
                bytes: Vec::new(),
                places: Vec::new(),
                patches: Vec::new(),
                symbol: launch.symbol,
                cost: launch.cost,
                nodes: nodes.clone(),
            };
            for arg in launch.args {
                self.argument(&mut ready, arg, operands, (workspace, plan.zeroed_bytes))?;
            }
            steps.push(Step::Launch(ready));
        }
        Ok(())
    }

    fn argument(
        &self,
        launch: &mut ReadyLaunch,
        arg: Arg,
        operands: &[Option<ValueId>],
        (workspace, zeroed_bytes): (u64, u64),
    ) -> Result<()> {
        let mut put = |bytes: &[u8], align: usize| {
            let at = launch.bytes.len().next_multiple_of(align);
            launch.bytes.resize(at, 0);
            launch.bytes.extend_from_slice(bytes);
            launch.places.push((at as u32, bytes.len() as u32));
            at
        };
        let operand = |index: usize, offset| match operands.get(index).copied().flatten() {
            Some(value) => self.location(value, offset).map(Some),
            None => Ok(None),
        };
        match arg {
            Arg::Pointer { operand: index, offset_bytes } => {
                let at = put(&[0; 8], 8);
                if let Some(location) = operand(index, offset_bytes)? {
                    launch.patches.push(Patch::Address { at, location });
                }
            }
            Arg::Workspace { offset_bytes } => {
                let at = put(&[0; 8], 8);
                let location = match offset_bytes < zeroed_bytes {
                    true => Location::Zeroed(offset_bytes),
                    false => Location::Arena(workspace + offset_bytes),
                };
                launch.patches.push(Patch::Address { at, location });
            }
            Arg::TensorMap(map) => {
                let at = put(&[0; 128], 64);
                let location = operand(map.operand, map.offset_bytes)?
                    .ok_or_else(|| Error::internal("a tensor map of an absent operand"))?;
                launch.patches.push(Patch::TensorMap { at, map, location });
            }
            Arg::U32(value) => drop(put(&value.to_le_bytes(), 4)),
            Arg::I32(value) => drop(put(&value.to_le_bytes(), 4)),
            Arg::I64(value) => drop(put(&value.to_le_bytes(), 8)),
            Arg::F32(value) => drop(put(&value.to_le_bytes(), 4)),
            Arg::Bytes { bytes, align } => drop(put(&bytes, align)),
        }
        Ok(())
    }
}
