//! What all recurrent layers share: shapes, directions, sequence lengths, the loop over time.

use std::sync::Mutex;

use tenon_kernels::cpu::Context as Cpu;

use super::projection::{FloatProjection, Projection};
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Released};
use crate::node::Node;
use crate::ops::gemm::Dense;
use crate::ops::real::{self, Output};
use crate::ops::rows::Rows;
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Tensor};

/// The attributes that do not depend on the cell.
pub struct Layer {
    /// For each direction: does it run backwards?
    pub reverse: Vec<bool>,
    pub clip: Option<f32>,
    /// `layout` 1: the batch is the first axis.
    batch_major: bool,
}

impl Layer {
    pub fn of(node: &Node) -> Result<Layer> {
        let reverse = match node.string("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => {
                return Err(OpError::invalid(format!(
                    "direction '{other}' is none of forward, reverse, bidirectional"
                )));
            }
        };
        Ok(Layer {
            reverse,
            clip: node.optional_float("clip")?.filter(|&clip| clip > 0.0),
            batch_major: node.flag("layout", false)?,
        })
    }

    pub fn directions(&self) -> usize {
        self.reverse.len()
    }

    /// Clamps the arguments of the activations.
    pub fn clip<T: real::Real>(&self, values: &mut [T]) {
        if let Some(clip) = self.clip {
            let clip = T::from_f32(clip);
            values.iter_mut().for_each(|value| *value = value.minimum(clip).maximum(-clip));
        }
    }
}

/// The packed weights of one direction.
pub struct Weights<T> {
    /// From the input to all gates.
    pub input: Box<dyn Projection<T>>,
    /// From the hidden state to the gates, in as many parts as the cell wants.
    pub hidden: Vec<Box<dyn Projection<T>>>,
}

/// The packed weights of all directions.
pub struct Packed<T> {
    pub directions: Vec<Weights<T>>,
    pub input_size: usize,
    pub hidden_size: usize,
}

/// What a layer packed of constant weights, by the type that it computes in.
#[derive(Default)]
pub struct Kept {
    pub single: Prepacked<Packed<f32>>,
    pub double: Prepacked<Packed<f64>>,
}

impl Kept {
    /// Packs inputs 1 and 2 with [`pack_float`], where they are constants.
    pub fn pack(&self, constants: &Constants<'_>, directions: usize, parts: &[usize]) -> Result<Released> {
        let (Some(w), Some(r)) = (constants.input(1), constants.input(2)) else { return Ok(Released::NONE) };
        if w.dtype() == DType::F64 {
            self.double.keep(pack_float(&constants.cpu(), w, r, directions, parts)?);
        } else {
            self.single.keep(pack_float(&constants.cpu(), w, r, directions, parts)?);
        }
        Ok(Released::NONE.with(1).with(2))
    }
}

/// Packs float weights `w [directions, gates * hidden, input]` and `r [directions, gates * hidden, hidden]`; `parts`
/// says how many gates each part of `r` covers.
pub fn pack_float<T: Dense>(
    cpu: &Cpu<'_>,
    w: &Tensor,
    r: &Tensor,
    directions: usize,
    parts: &[usize],
) -> Result<Packed<T>> {
    let gates: usize = parts.iter().sum();
    let (&[w_directions, w_rows, input_size], &[r_directions, r_rows, hidden_size]) = (w.dims(), r.dims())
    else {
        return Err(OpError::invalid(format!(
            "weights have three axes, got shapes {:?} and {:?}",
            w.dims(),
            r.dims()
        )));
    };
    if hidden_size == 0
        || [w_directions, r_directions] != [directions; 2]
        || w_rows != gates * hidden_size
        || r_rows != w_rows
    {
        return Err(OpError::invalid(format!(
            "weight shapes {:?} and {:?} do not fit {directions} directions of {gates} gates",
            w.dims(),
            r.dims()
        )));
    }
    let (w, r) = (real::to_vec::<T>(w)?, real::to_vec::<T>(r)?);
    let mut packed = Vec::with_capacity(directions);
    for direction in 0..directions {
        let w = &w[direction * w_rows * input_size..][..w_rows * input_size];
        let mut r = &r[direction * r_rows * hidden_size..][..r_rows * hidden_size];
        let input: Box<dyn Projection<T>> = Box::new(FloatProjection::new(cpu, w, w_rows, input_size)?);
        let mut hidden: Vec<Box<dyn Projection<T>>> = Vec::with_capacity(parts.len());
        for &part in parts {
            let (head, rest) = r.split_at(part * hidden_size * hidden_size);
            hidden.push(Box::new(FloatProjection::new(cpu, head, part * hidden_size, hidden_size)?));
            r = rest;
        }
        packed.push(Weights { input, hidden });
    }
    Ok(Packed { directions: packed, input_size, hidden_size })
}

/// The state of one direction: `[batch, hidden]` each.
pub struct State<'a, T> {
    pub hidden: &'a mut [T],
    /// The cell state of an LSTM; empty for others.
    pub cell: &'a mut [T],
}

/// One direction of a layer at one step.
pub trait Cell<T>: Sync {
    /// Gates a unit has.
    const GATES: usize;

    /// Elements of working memory that [`Cell::step`] wants.
    fn scratch_len(&self, batch: usize, hidden: usize) -> usize;

    /// Moves the state on. `gates` (`[batch, GATES * hidden]`) holds the input's part with its bias. Entries of the
    /// batch that are not `active` keep their state.
    fn step(
        &self,
        cpu: &Cpu<'_>,
        gates: &mut [T],
        state: &mut State<'_, T>,
        scratch: &mut [T],
        active: &[bool],
    ) -> Result<()>;
}

/// Everything a layer computes beside its cells.
pub struct Run<'a, T> {
    pub layer: &'a Layer,
    pub packed: &'a Packed<T>,
    /// Bias of the input's part for each direction: `[directions, gates * hidden]`.
    pub bias: Option<Vec<T>>,
    /// Inputs of the sequence lengths, the initial hidden and the initial cell state.
    pub sequence_lens: usize,
    pub initial: [Option<usize>; 2],
}

/// Reads input `index` as a state `[directions, batch, hidden]`, zeros when it is absent.
fn initial_state<T: Dense>(
    cx: &Context<'_>,
    index: Option<usize>,
    [directions, batch, hidden]: [usize; 3],
    batch_major: bool,
) -> Result<Vec<T>> {
    let Some(tensor) = index.and_then(|index| cx.optional(index)) else {
        return Ok(vec![T::ZERO; directions * batch * hidden]);
    };
    let expected = if batch_major { [batch, directions, hidden] } else { [directions, batch, hidden] };
    if tensor.dims() != expected {
        return Err(OpError::invalid(format!(
            "an initial state has shape {:?}, expected {expected:?}",
            tensor.dims()
        )));
    }
    let values = real::to_vec::<T>(tensor)?;
    if !batch_major {
        return Ok(values);
    }
    let row = |index: usize| &values[(index % batch * directions + index / batch) * hidden..][..hidden];
    Ok((0..directions * batch).flat_map(|index| row(index).iter().copied()).collect())
}

/// The lengths of the sequences of a batch.
fn lengths(cx: &Context<'_>, index: usize, steps: usize, batch: usize) -> Result<Vec<usize>> {
    let Some(tensor) = cx.optional(index) else { return Ok(vec![steps; batch]) };
    let values = tensor.to_i64s()?;
    if values.len() != batch {
        return Err(OpError::invalid(format!("{} sequence lengths for a batch of {batch}", values.len())));
    }
    let checked = |&length: &i64| match usize::try_from(length) {
        Ok(length) if length <= steps => Ok(length),
        _ => Err(OpError::invalid(format!("sequence length {length} is outside 0..={steps}"))),
    };
    values.iter().map(checked).collect()
}

impl<T: Dense> Run<'_, T> {
    /// Runs all directions, one cell each, and hands out `Y`, `Y_h` and, for cells that have one, `Y_c`.
    pub fn run<C: Cell<T>>(&self, cx: &mut Context<'_>, cells: &[C]) -> Result<()> {
        let dtype: DType = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let batch_major = self.layer.batch_major;
        let (steps, batch) = match *x.dims() {
            [batch, steps, size] if batch_major && size == self.packed.input_size => (steps, batch),
            [steps, batch, size] if !batch_major && size == self.packed.input_size => (steps, batch),
            _ => {
                return Err(OpError::invalid(format!(
                    "input shape {:?} does not fit weights for {} features",
                    x.dims(),
                    self.packed.input_size
                )));
            }
        };
        let (directions, hidden) = (self.layer.directions(), self.packed.hidden_size);
        let lengths = lengths(cx, self.sequence_lens, steps, batch)?;
        let mut states: [Vec<T>; 2] = [Vec::new(), Vec::new()];
        let extents = [directions, batch, hidden];
        states[0] = initial_state::<T>(cx, self.initial[0], extents, batch_major)?;
        let has_cell = self.initial[1].is_some();
        if has_cell {
            states[1] = initial_state::<T>(cx, self.initial[1], extents, batch_major)?;
        }
        let y_dims =
            if batch_major { [batch, steps, directions, hidden] } else { [steps, directions, batch, hidden] };
        let mut y = if cx.wants(0) { Some(Output::new::<T>(cx, 0, dtype, &y_dims)?) } else { None };
        if let Some(y) = &mut y
            && lengths.iter().any(|&length| length < steps)
        {
            y.slice::<T>()?.fill(T::ZERO);
        }
        let width = C::GATES * hidden;
        let scratch_len = cells.iter().map(|cell| cell.scratch_len(batch, hidden)).max().unwrap_or(0);
        let mut scratch = cx.scratch(T::DTYPE, &[directions, (steps + 1) * batch * width + scratch_len])?;
        {
            let rows = match &mut y {
                Some(y) => Rows::new(y.slice::<T>()?, hidden),
                None => Rows::new(&mut [], 0),
            };
            let (hidden_states, cell_states) = states.split_at_mut(1);
            let hidden_rows = Rows::new(&mut hidden_states[0], batch * hidden);
            let cell_rows = Rows::new(&mut cell_states[0], if has_cell { batch * hidden } else { 0 });
            let scratch_row = (steps + 1) * batch * width + scratch_len;
            let scratch = Rows::new(scratch.as_mut_slice::<T>()?, scratch_row);
            let x = x.as_slice::<T>()?;
            let one = |cpu: &Cpu<'_>, direction: usize| {
                let locate = |step: usize, entry: usize| {
                    if batch_major { entry * steps + step } else { step * batch + entry }
                };
                // SAFETY: each direction is run once and has rows of its own.
                let (state, memory) = unsafe {
                    let state = State { hidden: hidden_rows.row(direction), cell: cell_rows.row(direction) };
                    (state, scratch.row(direction))
                };
                let store = |step: usize, entry: usize, values: &[T]| {
                    if rows.count() == usize::MAX {
                        return;
                    }
                    let row = if batch_major {
                        (entry * steps + step) * directions + direction
                    } else {
                        (step * directions + direction) * batch + entry
                    };
                    // SAFETY: the row belongs to this direction.
                    unsafe { rows.row(row) }.copy_from_slice(values);
                };
                self.run_direction(
                    cpu,
                    direction,
                    &cells[direction],
                    (x, steps),
                    &lengths,
                    state,
                    memory,
                    &locate,
                    &store,
                )
            };
            run_directions(cx, directions, steps * batch * width * (self.packed.input_size + hidden), &one)?;
        }
        if let Some(y) = y {
            y.finish(cx)?;
        }
        for (index, values) in states.iter().enumerate().take(if has_cell { 2 } else { 1 }) {
            if cx.wants(index + 1) {
                self.hand_out(cx, index + 1, dtype, values, extents)?;
            }
        }
        Ok(())
    }

    /// Hands out a last state.
    fn hand_out(
        &self,
        cx: &mut Context<'_>,
        index: usize,
        dtype: DType,
        values: &[T],
        [directions, batch, hidden]: [usize; 3],
    ) -> Result<()> {
        let batch_major = self.layer.batch_major;
        let dims = if batch_major { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let mut output = Output::new::<T>(cx, index, dtype, &dims)?;
        let out = output.slice::<T>()?;
        for (row, values) in values.chunks_exact(hidden.max(1)).enumerate() {
            let row = if batch_major { row % batch * directions + row / batch } else { row };
            out[row * hidden..][..hidden].copy_from_slice(values);
        }
        output.finish(cx)
    }

    fn run_direction<C: Cell<T>>(
        &self,
        cpu: &Cpu<'_>,
        direction: usize,
        cell: &C,
        (x, steps): (&[T], usize),
        lengths: &[usize],
        mut state: State<'_, T>,
        memory: &mut [T],
        locate: &dyn Fn(usize, usize) -> usize,
        store: &dyn Fn(usize, usize, &[T]),
    ) -> Result<()> {
        let (batch, hidden) = (lengths.len(), self.packed.hidden_size);
        let width = C::GATES * hidden;
        let (inputs, rest) = memory.split_at_mut(steps * batch * width);
        let (gates, scratch) = rest.split_at_mut(batch * width);
        let bias = self.bias.as_ref().map(|bias| &bias[direction * width..][..width]);
        self.packed.directions[direction].input.run(cpu, x, steps * batch, bias, false, inputs)?;
        let mut active = vec![true; batch];
        for step in 0..lengths.iter().copied().max().unwrap_or(0) {
            let at = |entry: usize| {
                if self.layer.reverse[direction] { lengths[entry] - 1 - step } else { step }
            };
            for (entry, gates) in gates.chunks_exact_mut(width).enumerate() {
                active[entry] = step < lengths[entry];
                if active[entry] {
                    gates.copy_from_slice(&inputs[locate(at(entry), entry) * width..][..width]);
                } else {
                    gates.fill(T::ZERO);
                }
            }
            cell.step(cpu, gates, &mut state, scratch, &active)?;
            for (entry, hidden) in state.hidden.chunks_exact(hidden).enumerate() {
                if active[entry] {
                    store(at(entry), entry, hidden);
                }
            }
        }
        Ok(())
    }
}

/// Runs the directions beside each other where the work is worth it.
fn run_directions(
    cx: &Context<'_>,
    directions: usize,
    work: usize,
    one: &(dyn Fn(&Cpu<'_>, usize) -> Result<()> + Sync),
) -> Result<()> {
    if directions == 1 || cx.parallel().threads() == 1 || work < 1 << 16 {
        let cpu = cx.cpu();
        return (0..directions).try_for_each(|direction| one(&cpu, direction));
    }
    let (failure, features) = (Mutex::new(None), cx.features());
    cx.parallel().for_each(directions, &|direction| {
        if let Err(error) = one(&Cpu::serial(features), direction)
            && let Ok(mut failure) = failure.lock()
        {
            *failure = Some(error);
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(OpError::invalid("a thread of the layer stopped")),
    }
}
