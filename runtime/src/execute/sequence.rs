//! The operators on sequences, optionals and maps.

use smallvec::SmallVec;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::execute::frame::{Frame, Held};
use crate::execute::slices;
use crate::graph::host_op::HostOp;
use crate::graph::{Attribute, Attributes};
use crate::plan::HostStep;
use crate::tensor::{Map, Tensor, Value};

/// Runs one operator without nested graphs.
pub(super) fn run(step: &HostStep, frame: &mut Frame) -> Result<()> {
    let inputs: Inputs = step
        .inputs
        .iter()
        .map(|source| source.as_ref().map(|source| frame.value(source)).transpose())
        .collect::<Result<_>>()?;
    let output = evaluate(step, &inputs)?;
    if let Some(Some(slot)) = step.outputs.first() {
        frame.slots[*slot as usize] = Held::Host(output);
    }
    Ok(())
}

type Inputs = SmallVec<[Option<Value>; 4]>;

fn evaluate(step: &HostStep, inputs: &Inputs) -> Result<Value> {
    let attributes = &step.attributes;
    match step.op {
        HostOp::SequenceConstruct => Ok(Value::Sequence(inputs.iter().flatten().cloned().collect())),
        HostOp::SequenceEmpty => Ok(Value::Sequence(Vec::new())),
        HostOp::SequenceAt => {
            let items = sequence(inputs, 0)?;
            let index = position(scalar(inputs, 1)?, items.len(), false)?;
            Ok(items[index].clone())
        }
        HostOp::SequenceInsert => {
            let mut items = sequence(inputs, 0)?.to_vec();
            let index = match inputs.get(2) {
                Some(Some(_)) => position(scalar(inputs, 2)?, items.len(), true)?,
                _ => items.len(),
            };
            items.insert(index, required(inputs, 1)?.clone());
            Ok(Value::Sequence(items))
        }
        HostOp::SequenceErase => {
            let mut items = sequence(inputs, 0)?.to_vec();
            let index = match inputs.get(1) {
                Some(Some(_)) => position(scalar(inputs, 1)?, items.len(), false)?,
                _ => position(-1, items.len(), false)?,
            };
            items.remove(index);
            Ok(Value::Sequence(items))
        }
        HostOp::SequenceLength => Ok(Tensor::scalar(sequence(inputs, 0)?.len() as i64).into()),
        HostOp::SplitToSequence => split(inputs, attributes),
        HostOp::ConcatFromSequence => join(inputs, attributes),
        HostOp::Optional => Ok(Value::Optional(inputs.first().cloned().flatten().map(Box::new))),
        HostOp::OptionalHasElement => {
            let present = match inputs.first() {
                Some(Some(Value::Optional(inner))) => inner.is_some(),
                Some(Some(_)) => true,
                _ => false,
            };
            Ok(Tensor::from_bools(&[], &[present])?.into())
        }
        HostOp::OptionalGetElement => match required(inputs, 0)? {
            Value::Optional(Some(inner)) => Ok((**inner).clone()),
            Value::Optional(None) => {
                Err(Error::invalid_input("the optional is empty and has no element to get"))
            }
            other => Ok(other.clone()),
        },
        HostOp::Identity => Ok(required(inputs, 0)?.clone()),
        HostOp::ZipMap => zip_map(inputs, attributes),
        HostOp::CastMap => cast_map(inputs, attributes),
        HostOp::DictVectorizer => vectorize(inputs, attributes),
        HostOp::If | HostOp::Loop | HostOp::Scan | HostOp::SequenceMap => {
            Err(Error::invalid_model("a control-flow operator without its nested graph"))
        }
    }
}

fn required(inputs: &Inputs, index: usize) -> Result<&Value> {
    inputs
        .get(index)
        .and_then(Option::as_ref)
        .ok_or_else(|| Error::invalid_input(format!("input {index} is missing")))
}

fn tensor(inputs: &Inputs, index: usize) -> Result<&Tensor> {
    match required(inputs, index)? {
        Value::Tensor(tensor) => Ok(tensor),
        other => {
            Err(Error::invalid_input(format!("input {index} must be a tensor, got {}", other.description())))
        }
    }
}

fn sequence(inputs: &Inputs, index: usize) -> Result<&[Value]> {
    match required(inputs, index)? {
        Value::Sequence(items) => Ok(items),
        Value::Optional(Some(inner)) => match &**inner {
            Value::Sequence(items) => Ok(items),
            other => Err(Error::invalid_input(format!(
                "input {index} must be a sequence, got {}",
                other.description()
            ))),
        },
        other => Err(Error::invalid_input(format!(
            "input {index} must be a sequence, got {}",
            other.description()
        ))),
    }
}

fn scalar(inputs: &Inputs, index: usize) -> Result<i64> {
    let values = tensor(inputs, index)?.to_i64_vec()?;
    values
        .first()
        .copied()
        .ok_or_else(|| Error::invalid_input(format!("input {index} must hold one integer")))
}

/// A possibly negative position in a sequence of `len` items; `len` itself is allowed when inserting.
fn position(index: i64, len: usize, inserting: bool) -> Result<usize> {
    let adjusted = if index < 0 { index + len as i64 } else { index };
    let end = if inserting { len + 1 } else { len };
    usize::try_from(adjusted).ok().filter(|&index| index < end).ok_or_else(|| {
        Error::invalid_input(format!("position {index} is outside the sequence of {len} items"))
    })
}

fn split(inputs: &Inputs, attributes: &Attributes) -> Result<Value> {
    let input = tensor(inputs, 0)?;
    let axis = slices::axis(attributes.int("axis")?.unwrap_or(0), input.rank())?;
    let size = input.dims()[axis];
    let keep = attributes.flag("keepdims", true)?;
    let (sizes, keep) = match inputs.get(1) {
        Some(Some(_)) => (split_sizes(tensor(inputs, 1)?, size)?, true),
        _ => (vec![1; size], keep),
    };
    let mut items = Vec::with_capacity(sizes.len());
    let mut start = 0;
    for len in sizes {
        let part =
            if keep { slices::slice(input, axis, start, len)? } else { slices::select(input, axis, start)? };
        items.push(part.into());
        start += len;
    }
    Ok(Value::Sequence(items))
}

/// The sizes of the parts: a scalar is the size of all but the last, a vector lists them.
fn split_sizes(split: &Tensor, size: usize) -> Result<Vec<usize>> {
    let wanted: Vec<usize> = split
        .to_i64_vec()?
        .into_iter()
        .map(|n| usize::try_from(n).map_err(|_| Error::invalid_input(format!("a part of {n} entries"))))
        .collect::<Result<_>>()?;
    if split.rank() > 0 {
        return match wanted.iter().sum::<usize>() == size {
            true => Ok(wanted),
            false => {
                Err(Error::invalid_input(format!("parts {wanted:?} do not add up to the dimension {size}")))
            }
        };
    }
    match wanted.first() {
        Some(&step) if step > 0 => Ok((0..size).step_by(step).map(|start| step.min(size - start)).collect()),
        _ => Err(Error::invalid_input("the size of the parts must be positive")),
    }
}

fn join(inputs: &Inputs, attributes: &Attributes) -> Result<Value> {
    let items: Vec<Tensor> = sequence(inputs, 0)?
        .iter()
        .map(|item| match item {
            Value::Tensor(tensor) => Ok(tensor.clone()),
            other => Err(Error::invalid_input(format!("cannot join {}", other.description()))),
        })
        .collect::<Result<_>>()?;
    let rank = items.first().map_or(0, Tensor::rank);
    let axis = attributes.int("axis")?.ok_or_else(|| Error::invalid_model("attribute 'axis' is missing"))?;
    let joined = if attributes.flag("new_axis", false)? {
        slices::stack(&items, slices::axis(axis, rank + 1)?)?
    } else {
        slices::concat(&items, slices::axis(axis, rank)?)?
    };
    Ok(joined.into())
}

/// The keys of a classifier: strings or integers.
enum Labels<'a> {
    Strings(&'a [String]),
    Integers(&'a [i64]),
}

impl<'a> Labels<'a> {
    fn of(attributes: &'a Attributes, strings: &str, integers: &str) -> Result<Labels<'a>> {
        match (attributes.get(strings), attributes.get(integers)) {
            (Some(Attribute::Strings(labels)), _) if !labels.is_empty() => Ok(Labels::Strings(labels)),
            (_, Some(Attribute::Ints(labels))) => Ok(Labels::Integers(labels)),
            _ => Err(Error::invalid_model(format!(
                "one of the attributes '{strings}' and '{integers}' is needed"
            ))),
        }
    }

    fn len(&self) -> usize {
        match self {
            Labels::Strings(labels) => labels.len(),
            Labels::Integers(labels) => labels.len(),
        }
    }

    fn to_tensor(&self) -> Result<Tensor> {
        match self {
            Labels::Strings(labels) => Tensor::from_strings(&[labels.len()], labels),
            Labels::Integers(labels) => Tensor::from_slice(&[labels.len()], labels),
        }
    }
}

fn zip_map(inputs: &Inputs, attributes: &Attributes) -> Result<Value> {
    let labels = Labels::of(attributes, "classlabels_strings", "classlabels_int64s")?;
    let scores = tensor(inputs, 0)?;
    let columns = scores.dims().last().copied().unwrap_or(1);
    if columns != labels.len() || scores.rank() > 2 {
        return Err(Error::invalid_input(format!(
            "expected scores of shape [N, {}], one column for each label, got {:?}",
            labels.len(),
            scores.dims()
        )));
    }
    let keys = labels.to_tensor()?;
    let rows = scores.reshaped(&[scores.len() / columns.max(1), columns])?;
    let maps = (0..rows.dims()[0])
        .map(|row| {
            let values = slices::select(&rows, 0, row)?;
            Ok(Value::Map(Box::new(Map { keys: keys.clone(), values })))
        })
        .collect::<Result<_>>()?;
    Ok(Value::Sequence(maps))
}

fn map(inputs: &Inputs) -> Result<(&Tensor, &Tensor)> {
    match required(inputs, 0)? {
        Value::Map(map) => Ok((&map.keys, &map.values)),
        other => Err(Error::invalid_input(format!("input 0 must be a map, got {}", other.description()))),
    }
}

fn cast_map(inputs: &Inputs, attributes: &Attributes) -> Result<Value> {
    let (keys, values) = map(inputs)?;
    let keys = keys.to_i64_vec()?;
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|&i| keys[i]);
    let sparse = attributes.string("map_form")?.unwrap_or("DENSE") == "SPARSE";
    let width = match sparse {
        false => keys.len(),
        true => usize::try_from(attributes.int("max_map")?.unwrap_or(1))
            .map_err(|_| Error::invalid_model("attribute 'max_map' must not be negative"))?,
    };
    let at = |column: usize| match sparse {
        false => order.get(column).copied(),
        true => order.iter().copied().find(|&i| keys[i] == column as i64),
    };
    let texts: Option<Vec<&str>> =
        if values.dtype() == DType::String { Some(values.strings()?.collect()) } else { None };
    let numbers = if texts.is_none() { values.to_f64_vec()? } else { Vec::new() };
    let parse = |text: &str| {
        text.trim().parse::<f32>().map_err(|_| Error::invalid_input(format!("'{text}' is not a number")))
    };
    let result = match attributes.string("cast_to")?.unwrap_or("TO_FLOAT") {
        "TO_STRING" => {
            let cell = |i: usize| {
                texts.as_ref().map_or_else(|| numbers[i].to_string(), |texts| texts[i].to_string())
            };
            let cells: Vec<String> =
                (0..width).map(|column| at(column).map(cell).unwrap_or_default()).collect();
            Tensor::from_strings(&[1, width], &cells)?
        }
        target => {
            let cell =
                |i: usize| texts.as_ref().map_or_else(|| Ok(numbers[i] as f32), |texts| parse(texts[i]));
            let cells: Vec<f32> =
                (0..width).map(|column| at(column).map_or(Ok(0.0), cell)).collect::<Result<_>>()?;
            match target {
                "TO_INT64" => {
                    Tensor::from_slice(&[1, width], &cells.iter().map(|&v| v as i64).collect::<Vec<_>>())?
                }
                _ => Tensor::from_slice(&[1, width], &cells)?,
            }
        }
    };
    Ok(result.into())
}

fn vectorize(inputs: &Inputs, attributes: &Attributes) -> Result<Value> {
    let (keys, values) = map(inputs)?;
    let columns: Vec<Option<usize>> = match Labels::of(attributes, "string_vocabulary", "int64_vocabulary")? {
        Labels::Strings(words) => {
            let keys: Vec<&str> = keys.strings()?.collect();
            words.iter().map(|word| keys.iter().position(|key| key == word)).collect()
        }
        Labels::Integers(words) => {
            let keys = keys.to_i64_vec()?;
            words.iter().map(|word| keys.iter().position(|key| key == word)).collect()
        }
    };
    if values.dtype() == DType::String {
        let texts: Vec<&str> = values.strings()?.collect();
        let cells: Vec<&str> = columns.iter().map(|column| column.map_or("", |i| texts[i])).collect();
        return Ok(Tensor::from_strings(&[1, cells.len()], &cells)?.into());
    }
    let missing = Tensor::zeros(values.dtype(), &[1])?;
    let cells: Vec<Tensor> = columns
        .iter()
        .map(|column| column.map_or_else(|| Ok(missing.clone()), |i| slices::slice(values, 0, i, 1)))
        .collect::<Result<_>>()?;
    let joined =
        if cells.is_empty() { Tensor::zeros(values.dtype(), &[0])? } else { slices::concat(&cells, 0)? };
    let width = joined.len();
    Ok(joined.reshaped(&[1, width])?.into())
}
