//! The operators with nested graphs: If, Loop, Scan and SequenceMap.

use smallvec::SmallVec;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::execute::frame::{Frame, Held, Runner};
use crate::execute::slices;
use crate::graph::host_op::HostOp;
use crate::plan::{BodyPlan, HostStep};
use crate::tensor::{Tensor, Value};

type Values = SmallVec<[Value; 2]>;
type Inputs = SmallVec<[Option<Value>; 4]>;

/// Runs one operator with its nested graphs.
pub(super) fn run(step: &HostStep, bodies: &[Runner], frame: &mut Frame) -> Result<()> {
    let inputs: Inputs = step
        .inputs
        .iter()
        .map(|source| source.as_ref().map(|source| frame.value(source)).transpose())
        .collect::<Result<_>>()?;
    let control = Control { step, bodies };
    let outputs = match step.op {
        HostOp::If => branch(control, &inputs, frame)?,
        HostOp::Loop => repeat(control, inputs, frame)?,
        HostOp::Scan if step.version < 9 => scan_batched(control, inputs, frame)?,
        HostOp::Scan => scan(control, inputs, frame)?,
        HostOp::SequenceMap => map(control, &inputs, frame)?,
        other => return Err(Error::internal(format!("{other:?} has no nested graph"))),
    };
    for (slot, value) in step.outputs.iter().zip(outputs) {
        if let Some(slot) = slot {
            frame.slots[*slot as usize] = Held::Host(value);
        }
    }
    Ok(())
}

/// An operator with runners of its nested graphs.
#[derive(Clone, Copy)]
struct Control<'a> {
    step: &'a HostStep,
    bodies: &'a [Runner],
}

/// A nested graph with the values it captures, ready to run.
struct Body<'a> {
    plan: &'a BodyPlan,
    runner: &'a Runner,
    captures: SmallVec<[Value; 4]>,
}

impl<'a> Body<'a> {
    fn new(control: Control<'a>, attribute: &str, frame: &Frame) -> Result<Body<'a>> {
        let mut bodies = control.step.bodies.iter().zip(control.bodies);
        let (plan, runner) = bodies
            .find(|(body, _)| body.attribute == attribute)
            .ok_or_else(|| Error::invalid_model(format!("the nested graph '{attribute}' is missing")))?;
        let captures = plan.captures.iter().map(|source| frame.value(source)).collect::<Result<_>>()?;
        Ok(Body { plan, runner, captures })
    }

    fn run(&self, formal: impl IntoIterator<Item = Value>) -> Result<Values> {
        let mut run = self.runner.start();
        for (index, value) in formal.into_iter().chain(self.captures.iter().cloned()).enumerate() {
            run.input(index, value);
        }
        run.finish(&[])
    }

    /// Errors unless the graph takes `inputs` values and gives at least `outputs`.
    fn check(&self, inputs: usize, outputs: usize) -> Result<()> {
        let given = self.plan.plan.outputs.len();
        if self.plan.formal_inputs == inputs && given >= outputs {
            return Ok(());
        }
        Err(Error::invalid_model(format!(
            "the nested graph takes {} inputs and gives {given} outputs, expected {inputs} and at least {outputs}",
            self.plan.formal_inputs
        )))
    }
}

fn branch(control: Control<'_>, inputs: &Inputs, frame: &Frame) -> Result<Values> {
    let taken = match inputs.first() {
        Some(Some(condition)) => truth(condition)?,
        _ => return Err(Error::invalid_input("the condition is missing")),
    };
    let body = Body::new(control, if taken { "then_branch" } else { "else_branch" }, frame)?;
    body.run([])
}

/// The condition of If and Loop: a bool tensor with one element.
fn truth(value: &Value) -> Result<bool> {
    match value {
        Value::Tensor(tensor) if tensor.dtype() == DType::Bool && tensor.len() == 1 => {
            Ok(tensor.as_bytes()[0] != 0)
        }
        other => {
            Err(Error::invalid_input(format!("a condition must be one bool, got {}", other.description())))
        }
    }
}

fn repeat(control: Control<'_>, mut inputs: Inputs, frame: &Frame) -> Result<Values> {
    let body = Body::new(control, "body", frame)?;
    let limit = match inputs.first() {
        Some(Some(Value::Tensor(count))) => count
            .to_i64_vec()?
            .first()
            .copied()
            .ok_or_else(|| Error::invalid_input("the trip count is empty"))?,
        _ => i64::MAX,
    };
    let mut going = match inputs.get(1) {
        Some(Some(condition)) => truth(condition)?,
        _ => true,
    };
    let carried_count = inputs.len().saturating_sub(2);
    body.check(carried_count + 2, carried_count + 1)?;
    let scan_count = body.plan.plan.outputs.len() - 1 - carried_count;
    let mut carried: Values = inputs.drain(2..).map(|value| value.unwrap_or(Value::Optional(None))).collect();
    let mut scanned: Vec<Vec<Tensor>> = vec![Vec::new(); scan_count];
    let mut trip = 0;
    while going && trip < limit {
        let head = [Tensor::scalar(trip).into(), Tensor::from_bools(&[], &[true])?.into()];
        let mut outputs = body.run(head.into_iter().chain(std::mem::take(&mut carried)))?.into_iter();
        going = outputs.next().map_or(Ok(false), |condition| truth(&condition))?;
        carried = outputs.by_ref().take(carried_count).collect();
        for (list, value) in scanned.iter_mut().zip(outputs) {
            list.push(into_tensor(value)?);
        }
        trip += 1;
    }
    for (number, list) in scanned.iter().enumerate() {
        carried.push(stacked(&body, list, 1 + carried_count + number, 0)?.into());
    }
    Ok(carried)
}

fn into_tensor(value: Value) -> Result<Tensor> {
    match value {
        Value::Tensor(tensor) => Ok(tensor),
        other => {
            Err(Error::invalid_input(format!("a scan output must be a tensor, got {}", other.description())))
        }
    }
}

/// The entries of a scan output as one tensor; without entries an empty tensor of the declared element type.
fn stacked(body: &Body<'_>, list: &[Tensor], output: usize, axis: usize) -> Result<Tensor> {
    if !list.is_empty() {
        return slices::stack(list, axis);
    }
    let declared = body.plan.output_types.get(output).cloned().flatten();
    let Some(ty) = declared else { return Tensor::zeros(DType::F32, &[0]) };
    let mut dims: SmallVec<[usize; 6]> =
        ty.shape.iter().flat_map(|shape| shape.iter()).map(|dim| dim.known().unwrap_or(0)).collect();
    dims.insert(axis.min(dims.len()), 0);
    match ty.dtype {
        DType::String => Tensor::from_strings::<&str>(&dims, &[]),
        dtype => Tensor::zeros(dtype, &dims),
    }
}

/// What the attributes of Scan say, one entry for each scan input or output.
struct ScanShape {
    input_axes: Vec<i64>,
    input_reversed: Vec<bool>,
    output_axes: Vec<i64>,
    output_reversed: Vec<bool>,
}

impl ScanShape {
    fn new(step: &HostStep, scanned_inputs: usize, scanned_outputs: usize) -> Result<ScanShape> {
        let list = |name: &str, len: usize| -> Result<Vec<i64>> {
            let values = step.attributes.ints(name)?.map_or_else(|| vec![0; len], <[i64]>::to_vec);
            match values.len() == len {
                true => Ok(values),
                false => Err(Error::invalid_model(format!("attribute '{name}' must have {len} entries"))),
            }
        };
        let flags = |name: &str, len: usize| -> Result<Vec<bool>> {
            Ok(list(name, len)?.into_iter().map(|value| value != 0).collect())
        };
        Ok(ScanShape {
            input_axes: list("scan_input_axes", scanned_inputs)?,
            input_reversed: flags("scan_input_directions", scanned_inputs)?,
            output_axes: list("scan_output_axes", scanned_outputs)?,
            output_reversed: flags("scan_output_directions", scanned_outputs)?,
        })
    }
}

fn scan(control: Control<'_>, inputs: Inputs, frame: &Frame) -> Result<Values> {
    let body = Body::new(control, "body", frame)?;
    let values = inputs
        .into_iter()
        .map(|value| value.ok_or_else(|| Error::invalid_input("an input of Scan is missing")))
        .collect::<Result<Vec<Value>>>()?;
    let count = scanned_inputs(control.step, values.len())?;
    body.check(values.len(), values.len() - count)?;
    let outputs = body.plan.plan.outputs.len() + count - values.len();
    scan_over(&body, values, count, &ScanShape::new(control.step, count, outputs)?)
}

fn scanned_inputs(step: &HostStep, inputs: usize) -> Result<usize> {
    let count = step.attributes.int("num_scan_inputs")?;
    count
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| (1..=inputs).contains(&count))
        .ok_or_else(|| {
            Error::invalid_model(format!(
                "attribute 'num_scan_inputs' must be between 1 and the {inputs} inputs"
            ))
        })
}

/// Runs the body over the entries of the last `count` values; the values before them are the state.
fn scan_over(body: &Body<'_>, mut values: Vec<Value>, count: usize, shape: &ScanShape) -> Result<Values> {
    let state_count = values.len() - count;
    let sources: Vec<Tensor> = values.drain(state_count..).map(into_tensor).collect::<Result<_>>()?;
    let mut state: Values = values.into();
    let axes: Vec<usize> = sources
        .iter()
        .zip(&shape.input_axes)
        .map(|(source, &axis)| slices::axis(axis, source.rank()))
        .collect::<Result<_>>()?;
    let length = sources[0].dims()[axes[0]];
    for (source, &axis) in sources.iter().zip(&axes) {
        if source.dims()[axis] != length {
            return Err(Error::invalid_input(format!(
                "scan inputs must have one length, got {length} and {} (shape {:?})",
                source.dims()[axis],
                source.dims()
            )));
        }
    }
    let mut lists: Vec<Vec<Tensor>> = vec![Vec::new(); shape.output_axes.len()];
    for turn in 0..length {
        let entries = sources
            .iter()
            .zip(&axes)
            .zip(&shape.input_reversed)
            .map(|((source, &axis), &reversed)| {
                slices::select(source, axis, if reversed { length - 1 - turn } else { turn }).map(Value::from)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut outputs = body.run(std::mem::take(&mut state).into_iter().chain(entries))?.into_iter();
        state = outputs.by_ref().take(state_count).collect();
        for (list, value) in lists.iter_mut().zip(outputs) {
            list.push(into_tensor(value)?);
        }
    }
    for (number, mut list) in lists.into_iter().enumerate() {
        if shape.output_reversed[number] {
            list.reverse();
        }
        let rank = list.first().map_or(0, Tensor::rank) + 1;
        let axis = if list.is_empty() { 0 } else { slices::axis(shape.output_axes[number], rank)? };
        state.push(stacked(body, &list, state_count + number, axis)?.into());
    }
    Ok(state)
}

/// Scan before version 9: every value has a batch dimension in front, and input 0 holds the sequence lengths.
fn scan_batched(control: Control<'_>, mut inputs: Inputs, frame: &Frame) -> Result<Values> {
    let body = Body::new(control, "body", frame)?;
    let lengths = match inputs.first_mut().and_then(Option::take) {
        Some(Value::Tensor(lengths)) => Some(lengths.to_i64_vec()?),
        _ => None,
    };
    let values = inputs
        .into_iter()
        .skip(1)
        .map(|value| into_tensor(value.ok_or_else(|| Error::invalid_input("an input of Scan is missing"))?))
        .collect::<Result<Vec<Tensor>>>()?;
    let count = scanned_inputs(control.step, values.len())?;
    body.check(values.len(), values.len() - count)?;
    let state_count = values.len() - count;
    let output_count = body.plan.plan.outputs.len() - state_count;
    let reversed =
        control.step.attributes.ints("directions")?.map_or_else(|| vec![0; count], <[i64]>::to_vec);
    let shape = ScanShape {
        input_axes: vec![0; count],
        input_reversed: reversed.iter().map(|&direction| direction != 0).collect(),
        output_axes: vec![0; output_count],
        output_reversed: vec![false; output_count],
    };
    if shape.input_reversed.len() != count || values.iter().any(|value| value.rank() == 0) {
        return Err(Error::invalid_input(
            "every input of Scan-8 has a batch dimension, and one direction a scan input",
        ));
    }
    let batch = values[0].dims()[0];
    let mut rows: Vec<Vec<Tensor>> = vec![Vec::new(); state_count + output_count];
    for entry in 0..batch {
        let mut row =
            values.iter().map(|value| slices::select(value, 0, entry)).collect::<Result<Vec<_>>>()?;
        let full = row[state_count].dims().first().copied().unwrap_or(0);
        let length =
            lengths.as_ref().and_then(|all| all.get(entry)).map_or(full, |&length| length.max(0) as usize);
        for source in &mut row[state_count..] {
            *source = slices::slice(source, 0, 0, length.min(full))?;
        }
        let row = row.into_iter().map(Value::from).collect();
        for (number, value) in scan_over(&body, row, count, &shape)?.into_iter().enumerate() {
            let mut tensor = into_tensor(value)?;
            if number >= state_count && length < full {
                tensor = padded(tensor, full)?;
            }
            rows[number].push(tensor);
        }
    }
    rows.iter().map(|row| slices::stack(row, 0).map(Value::from)).collect()
}

/// `tensor` with zero entries appended along axis 0 up to `length`.
fn padded(tensor: Tensor, length: usize) -> Result<Tensor> {
    let mut dims: SmallVec<[usize; 6]> = tensor.dims().into();
    dims[0] = length - dims[0].min(length);
    let tail = Tensor::zeros(tensor.dtype(), &dims)?;
    slices::concat(&[tensor, tail], 0)
}

fn map(control: Control<'_>, inputs: &Inputs, frame: &Frame) -> Result<Values> {
    let body = Body::new(control, "body", frame)?;
    let length = match inputs.first() {
        Some(Some(Value::Sequence(items))) => items.len(),
        _ => return Err(Error::invalid_input("the first input of SequenceMap must be a sequence")),
    };
    let mut lists: Vec<Vec<Value>> = vec![Vec::new(); body.plan.plan.outputs.len()];
    for index in 0..length {
        let entry = |value: &Option<Value>| match value {
            Some(Value::Sequence(items)) => items.get(index).cloned().ok_or_else(|| {
                Error::invalid_input(format!(
                    "the sequences differ in length: one has no item {index} of {length}"
                ))
            }),
            Some(other) => Ok(other.clone()),
            None => Err(Error::invalid_input("an input of SequenceMap is missing")),
        };
        let row = inputs.iter().map(entry).collect::<Result<Vec<_>>>()?;
        for (list, value) in lists.iter_mut().zip(body.run(row)?) {
            list.push(value);
        }
    }
    Ok(lists.into_iter().map(Value::Sequence).collect())
}
